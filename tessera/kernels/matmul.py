"""Products of matrices, in blocks (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008).

A group makes one BM x BN block of the result: it reads the blocks of K one behind the other and adds up their
products. The kernels say no more than that; stages in shared memory, copies and matrix instructions are the compiler's.
"""

import tessera as ts
from tessera.kernels.family import family

BLOCKS = {"BM": (64, 128), "BN": (64, 128, 256), "BK": (64, 32), "num_warps": (4, 8)}


def same(t):
    """The epilogue that changes nothing."""
    return t


@family
def matmul(T, trans_a=False, trans_b=False, batched=False, out=None):
    """`matmul(A, B, epilogue=same)`: C[M, N] = epilogue(A B), with A[M, K] and B[K, N] of element type T.

    With `trans_a` A is given as [K, M], with `trans_b` B as [N, K]; with `batched` all three have one more axis in
    front, of products that are made apart. Products are added in f32 (f64 for f64, i32 for integers of up to 16 bits)
    in the order of K, and rounded once, to `out`, which is T if it is not given. `epilogue` is a function of a block of
    the result before it is rounded, element by element, which is compiled into the kernel.
    """
    batch = ("B*H",) if batched else ()  # rule R4: a product in front is an axis of the launch
    C, ACC, OUT = ts.Tensor[(*batch, "M", "N", out or T)], T.accum, out or T

    def given(*dims):
        return ts.Tensor[(*batch, *dims, T)]

    @ts.kernel.autotune(space=BLOCKS)
    def matmul(A: given("M", "K"), B: given("K", "N"), epilogue=same) -> C:
        acc = ts.tile.zeros((BM, BN), ACC)
        acc += ts.tile.mma(A[m : m + BM, k : k + BK], B[k : k + BK, n : n + BN])
        return ts.tile.cast(epilogue(acc), OUT)

    @ts.kernel.autotune(space=BLOCKS)
    def matmul_tn(A: given("K", "M"), B: given("K", "N"), epilogue=same) -> C:
        acc = ts.tile.zeros((BM, BN), ACC)
        acc += ts.tile.mma(A[k : k + BK, m : m + BM].T, B[k : k + BK, n : n + BN])
        return ts.tile.cast(epilogue(acc), OUT)

    @ts.kernel.autotune(space=BLOCKS)
    def matmul_nt(A: given("M", "K"), B: given("N", "K"), epilogue=same) -> C:
        acc = ts.tile.zeros((BM, BN), ACC)
        acc += ts.tile.mma(A[m : m + BM, k : k + BK], B[n : n + BN, k : k + BK].T)
        return ts.tile.cast(epilogue(acc), OUT)

    @ts.kernel.autotune(space=BLOCKS)
    def matmul_tt(A: given("K", "M"), B: given("N", "K"), epilogue=same) -> C:
        acc = ts.tile.zeros((BM, BN), ACC)
        acc += ts.tile.mma(A[k : k + BK, m : m + BM].T, B[n : n + BN, k : k + BK].T)
        return ts.tile.cast(epilogue(acc), OUT)

    return (matmul_tt if trans_b else matmul_tn) if trans_a else matmul_nt if trans_b else matmul
