"""Attention without its matrix of weights, and its derivatives: memory linear in the length.

Backwards, the weights are made again from the scores and their log-sum-exp L, as P = exp(scores - L). With dO the
cotangent of O and delta the sum of dO O over each row,

    dV = P' dO,    dS = P (dO V' - delta),    dQ = scale dS K,    dK = scale dS' Q.

`flash_attention_grad_q` runs over the queries and adds up blocks of keys, `flash_attention_grad_kv` the other way
round: each sum belongs to one group and has one order, the same bits every time.
Source: Dao, "FlashAttention-2", 2023, algorithms 1 and 2.
"""

import tessera as ts
from tessera.kernels.family import family

BLOCKS = {"BM": (64, 128), "BN": (64, 32, 128), "num_warps": (4, 8)}
GRAD_BLOCKS = {"BM": (64, 32), "BN": (64, 32)}


@family
def flash_attention(E):
    """`flash_attention(Q, K, V, O, L, scale, causal=False)`: O = softmax(Q K' scale) V, and L, its log-sum-exp.

    Q and O are [B, H, S, D], K and V [B, G, T, D], of element type E; L is f32[B, H, S]. H is a multiple of G: head h
    uses keys and values of the head h // (H // G) (grouped queries). With `causal`, query i sees the keys up to
    i + T - S. D is known while compiling. A query that sees no key has O = NaN and L = -inf.

    Blocks of keys are taken one behind the other; what was added up is scaled when a larger score appears, and the
    weights are divided by their sum at the end. Scores and sums are f32; the weights are rounded to E for the product
    with V.
    """

    @ts.kernel.autotune(space=BLOCKS)
    def flash_attention(
        Q: ts.Tensor["B", "H", "S", "D", E],
        K: ts.Tensor["B", "G", "T", "D", E],
        V: ts.Tensor["B", "G", "T", "D", E],
        O: ts.Tensor["B", "H", "S", "D", E],
        L: ts.Tensor["B", "H", "S", ts.f32],
        scale: ts.f32,
        causal: bool = False,
    ) -> ts.Tensor["B", "H", "S", "D", E]:
        for b in ts.tile.range(B):
            for h in ts.tile.range(H):
                for i in ts.tile.range(0, S, BM):
                    g = h // (H // G)
                    q = Q[b, h, i : i + BM, :]
                    top = ts.tile.full((BM,), -float("inf"))
                    total = ts.tile.zeros((BM,))
                    acc = ts.tile.zeros((BM, ts.tile.context().D))
                    seen = min(T, i + BM + T - S) if causal else T
                    for j in ts.tile.range(0, seen, BN):
                        scores = ts.tile.mma(q, K[b, g, j : j + BN, :].T) * scale
                        if causal:
                            scores = ts.tile.causal_mask(scores, i + T - S, j)
                        top_new, total, p = ts.tile.online_softmax(scores, top, total)
                        ts.tile.update_accumulator(acc, ts.tile.mma(p, V[b, g, j : j + BN, :]), top, top_new)
                        top = top_new
                    O[b, h, i : i + BM, :] = acc / total[:, None]
                    L[b, h, i : i + BM] = top + ts.tile.log(total)
        return O

    return flash_attention


@family
def flash_attention_grad_q(E):
    """`flash_attention_grad_q(Q, K, V, O, L, dO, dQ, delta, scale, causal=False)`: the cotangent of Q, and delta.

    Q .. L are those of `flash_attention`; dO and dQ are [B, H, S, D] of type E. delta is f32[B, H, S], the sums of
    dO O over the rows, which `flash_attention_grad_kv` takes. Scores and sums are f32; dS is rounded to E for its
    product. A query that sees no key has the cotangent 0.
    """

    @ts.kernel.autotune(space=GRAD_BLOCKS)
    def flash_attention_grad_q(
        Q: ts.Tensor["B", "H", "S", "D", E],
        K: ts.Tensor["B", "G", "T", "D", E],
        V: ts.Tensor["B", "G", "T", "D", E],
        O: ts.Tensor["B", "H", "S", "D", E],
        L: ts.Tensor["B", "H", "S", ts.f32],
        dO: ts.Tensor["B", "H", "S", "D", E],
        dQ: ts.Tensor["B", "H", "S", "D", E],
        delta: ts.Tensor["B", "H", "S", ts.f32],
        scale: ts.f32,
        causal: bool = False,
    ) -> ts.Tensor["B", "H", "S", "D", E]:
        for b in ts.tile.range(B):
            for h in ts.tile.range(H):
                for i in ts.tile.range(0, S, BM):
                    g = h // (H // G)
                    q = Q[b, h, i : i + BM, :]
                    do = dO[b, h, i : i + BM, :]
                    logs = L[b, h, i : i + BM]
                    sees = logs > -float("inf")
                    logs = ts.tile.where(sees, logs, 0.0)
                    own = ts.tile.where(sees, ts.tile.row_sum(do * O[b, h, i : i + BM, :]), 0.0)
                    acc = ts.tile.zeros((BM, ts.tile.context().D))
                    seen = min(T, i + BM + T - S) if causal else T
                    for j in ts.tile.range(0, seen, BN):
                        k = K[b, g, j : j + BN, :]
                        scores = ts.tile.mma(q, k.T) * scale
                        if causal:
                            scores = ts.tile.causal_mask(scores, i + T - S, j)
                        p = ts.tile.exp(scores - logs[:, None])
                        ds = p * (ts.tile.mma(do, V[b, g, j : j + BN, :].T) - own[:, None])
                        acc += ts.tile.mma(ts.tile.cast(ds, E), k)
                    dQ[b, h, i : i + BM, :] = acc * scale
                    delta[b, h, i : i + BM] = own
        return dQ

    return flash_attention_grad_q


@family
def flash_attention_grad_kv(E):
    """`flash_attention_grad_kv(Q, K, V, L, delta, dO, dK, dV, scale, causal=False)`: the cotangents of K and V.

    dK and dV are [B, G, T, D] of type E, the sums over the heads that use them; delta comes from
    `flash_attention_grad_q`. Scores are made transposed, keys by queries, so that they multiply from the left as they
    come. P and dS are rounded to E for their products; sums are f32, over heads and then queries in order.
    """

    @ts.kernel.autotune(space=GRAD_BLOCKS)
    def flash_attention_grad_kv(
        Q: ts.Tensor["B", "H", "S", "D", E],
        K: ts.Tensor["B", "G", "T", "D", E],
        V: ts.Tensor["B", "G", "T", "D", E],
        L: ts.Tensor["B", "H", "S", ts.f32],
        delta: ts.Tensor["B", "H", "S", ts.f32],
        dO: ts.Tensor["B", "H", "S", "D", E],
        dK: ts.Tensor["B", "G", "T", "D", E],
        dV: ts.Tensor["B", "G", "T", "D", E],
        scale: ts.f32,
        causal: bool = False,
    ) -> ts.Tensor["B", "G", "T", "D", E]:
        for b in ts.tile.range(B):
            for g in ts.tile.range(G):
                for j in ts.tile.range(0, T, BN):
                    k = K[b, g, j : j + BN, :]
                    v = V[b, g, j : j + BN, :]
                    dk = ts.tile.zeros((BN, ts.tile.context().D))
                    dv = ts.tile.zeros((BN, ts.tile.context().D))
                    first = max(0, j + S - T) // BM * BM if causal else 0  # the block of the first query that sees j
                    for h in range(g * (H // G), (g + 1) * (H // G)):
                        for i in range(first, S, BM):
                            q = Q[b, h, i : i + BM, :]
                            do = dO[b, h, i : i + BM, :]
                            logs = L[b, h, i : i + BM]
                            scores = ts.tile.mma(k, q.T) * scale
                            if causal:
                                sees = ts.tile.arange(BN)[:, None] + j <= ts.tile.arange(BM)[None, :] + (i + T - S)
                                scores = ts.tile.where(sees, scores, -float("inf"))
                            logs = ts.tile.where(logs > -float("inf"), logs, 0.0)
                            p = ts.tile.exp(scores - logs[None, :])
                            dv += ts.tile.mma(ts.tile.cast(p, E), do)
                            ds = p * (ts.tile.mma(v, do.T) - delta[b, h, i : i + BM][None, :])
                            dk += ts.tile.mma(ts.tile.cast(ds, E), q)
                    dK[b, g, j : j + BN, :] = dk * scale
                    dV[b, g, j : j + BN, :] = dv
        return dK, dV

    return flash_attention_grad_kv
