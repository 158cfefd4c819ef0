"""Attention without its matrix of weights, memory linear in the length."""

import tessera as ts
from tessera.kernels.family import family

BLOCKS = {"BM": (64, 128), "BN": (64, 128)}


@family
def flash_attention(E):
    """`flash_attention(Q, K, V, O, L, scale, causal=False)`: O = softmax(Q K' scale) V, and L, its log-sum-exp.

    Q and O are [B, H, S, D], K and V [B, G, T, D], of element type E; L is f32[B, H, S]. H is a multiple of G: head h
    uses keys and values of the head h // (H // G) (grouped queries). With `causal`, query i sees the keys up to
    i + T - S. D is known while compiling. A query that sees no key has O = NaN and L = -inf.

    Blocks of keys are taken one behind the other; what was added up is scaled when a larger score appears, and the
    weights are divided by their sum at the end. Scores and sums are f32; the weights are rounded to E for the product
    with V. Source: Dao, "FlashAttention-2", 2023, algorithm 1.
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
