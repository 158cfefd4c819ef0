# ruff: noqa
# Pipelines as users write them: rings of stages, guarded and unguarded prefetches, copies in helpers.
import tessera as ts


@ts.kernel
def staged_gemm(
    A: ts.Tensor["M", "K", ts.bf16], B: ts.Tensor["K", "N", ts.bf16], C: ts.Tensor["M", "N", ts.f32], STAGES: int = 3
):
    a = [ts.tile.alloc_shared((BM, BK), ts.bf16) for _ in range(STAGES)]
    b = [ts.tile.alloc_shared((BK, BN), ts.bf16) for _ in range(STAGES)]
    for s in range(STAGES - 1):
        ts.tile.cp_async(a[s], A[tile_m : tile_m + BM, s * BK : (s + 1) * BK])
        ts.tile.cp_async(b[s], B[s * BK : (s + 1) * BK, tile_n : tile_n + BN])
        ts.tile.cp_commit_group()
    acc = ts.tile.zeros((BM, BN), ts.f32)
    for k in ts.tile.range(0, K, BK):
        stage = k // BK
        ahead = k + (STAGES - 1) * BK
        ts.tile.cp_async(a[(stage + STAGES - 1) % STAGES], A[tile_m : tile_m + BM, ahead : ahead + BK])
        ts.tile.cp_async(b[(stage + STAGES - 1) % STAGES], B[ahead : ahead + BK, tile_n : tile_n + BN])
        ts.tile.cp_commit_group()
        ts.tile.cp_wait_group(STAGES - 1)
        acc += ts.tile.mma(a[stage % STAGES], b[stage % STAGES])
    C[tile_m : tile_m + BM, tile_n : tile_n + BN] = acc


@ts.kernel
def guarded_gemm(A: ts.Tensor["M", "K", ts.bf16], B: ts.Tensor["K", "N", ts.bf16], C: ts.Tensor["M", "N", ts.f32]):
    """Two stages; the copy of the next block is made only if there is one; one loop over the rows, explicitly."""
    a = [ts.tile.alloc_shared((32, 16), ts.bf16), ts.tile.alloc_shared((32, 16), ts.bf16)]
    b = [ts.tile.alloc_shared((16, 48), ts.bf16), ts.tile.alloc_shared((16, 48), ts.bf16)]
    for m in ts.tile.range(0, M, 32):
        for n in ts.tile.range(0, N, 48):
            acc = ts.tile.zeros((32, 48), ts.f32)
            now, after = 0, 1
            fetch(a[now], b[now], A, B, m, n, 0)
            for k in ts.tile.range(0, K, 16):
                if k + 16 < K:
                    fetch(a[after], b[after], A, B, m, n, k + 16)
                    ts.tile.cp_wait_group(1)
                else:
                    ts.tile.cp_wait_group(0)
                acc = ts.tile.mma(a[now], b[now], accumulator=acc)
                now, after = after, now
            ts.tile.barrier()
            C[m : m + 32, n : n + 48] = acc


def fetch(a, b, A, B, m, n, k):
    ts.tile.cp_async(a, A[m : m + 32, k : k + 16])
    ts.tile.cp_async(b, B[k : k + 16, n : n + 48])
    ts.tile.cp_commit_group()


@ts.kernel
def staged_attention(
    Q: ts.Tensor["B*H", "S", "D", ts.bf16],
    K: ts.Tensor["B*H", "T", "D", ts.bf16],
    V: ts.Tensor["B*H", "T", "D", ts.bf16],
    O: ts.Tensor["B*H", "S", "D", ts.f32],
    scale: ts.f32,
    CAUSAL: bool = False,
):
    """Keys and values in rings of two stages; the number of valid keys goes with its stage."""
    q = ts.tile.alloc_shared((BM, ts.tile.context().D), ts.bf16)
    k = [ts.tile.alloc_shared((BN, ts.tile.context().D), ts.bf16) for _ in range(2)]
    v = [ts.tile.alloc_shared((BN, ts.tile.context().D), ts.bf16) for _ in range(2)]
    for i in ts.tile.range(0, S, BM):
        m = ts.tile.full((BM,), -float("inf"))
        l = ts.tile.zeros((BM,))
        acc = ts.tile.zeros((BM, ts.tile.context().D))
        ts.tile.cp_async(q, Q[i : i + BM])
        ts.tile.cp_async(k[0], K[0:BN])
        ts.tile.cp_async(v[0], V[0:BN])
        ts.tile.cp_commit_group()
        stage = 0
        for j in ts.tile.range(0, T, BN):
            ts.tile.cp_async(k[1 - stage], K[j + BN : j + BN + BN])
            ts.tile.cp_async(v[1 - stage], V[j + BN : j + BN + BN])
            ts.tile.cp_commit_group()
            ts.tile.cp_wait_group(1)
            scores = ts.tile.mma(q, k[stage].T) * scale
            if CAUSAL:
                scores = ts.tile.causal_mask(scores, i, j)
            m_new, l, p = ts.tile.online_softmax(scores, m, l)
            ts.tile.update_accumulator(acc, ts.tile.mma(p, v[stage]), m, m_new)
            m = m_new
            stage = 1 - stage
        ts.tile.barrier()
        O[i : i + BM, :] = acc / l
