"""Products of long sums and few blocks: K is cut into parts that are made side by side, and joined in a fixed tree.

With L = ceil(K / (parts BK)) BK,

    W[p] = sum over p L <= k < min((p + 1) L, K) of A[:, k] B[k, :]        C = epilogue(W[0] + .. + W[parts - 1])

A W[p] is added in the order of k by one group, and the parts in a tree of halves. Both follow from sizes and block
sizes alone: how many groups run at once, and in which order, changes no bit.
"""

import tessera as ts
from tessera.kernels.family import family
from tessera.kernels.matmul import BLOCKS, same

JOINS = {"BM": (8, 16), "BN": (64, 128)}


def parts_for(m, n, k, units=132, depth=512):
    """In how many parts a product of [m, k] and [k, n] has work for a chip of `units` (132: an H100 or H200).

    The largest power of two, up to 32, with at most `units` blocks of 128 x 128 in all parts together, and at least
    `depth` of K in each; 1 where the result itself has blocks enough. What a part costs is that W is written and read.
    """
    blocks = max(-(-m // 128) * -(-n // 128), 1)
    parts = 1
    while parts < 32 and 2 * parts * blocks <= units and k >= 2 * parts * depth:
        parts *= 2
    return parts


@family
def matmul_parts(T, parts=8, trans_a=False, trans_b=False):
    """`matmul_parts(A, B, W)`: W[p] = the product over part p of K, for A[M, K] and B[K, N] of type T.

    W[parts, M, N] is of T's accumulator (f32 for narrow floats, i32 for narrow ints). With `trans_a` A is given as
    [K, M], with `trans_b` B as [N, K]. Parts past the end of K are 0. `parts_for` says how many parts are worth it.
    """
    ACC, a_dims, b_dims = T.accum, ("K", "M") if trans_a else ("M", "K"), ("N", "K") if trans_b else ("K", "N")

    @ts.kernel.autotune(space=BLOCKS)
    def matmul_parts(
        A: ts.Tensor[(*a_dims, T)], B: ts.Tensor[(*b_dims, T)], W: ts.Tensor[parts, "M", "N", ACC]
    ) -> ts.Tensor[parts, "M", "N", ACC]:
        length = (K + parts * BK - 1) // (parts * BK) * BK
        for p in ts.tile.range(0, parts):
            for m in ts.tile.range(0, M, BM):
                for n in ts.tile.range(0, N, BN):
                    acc = ts.tile.zeros((BM, BN), ACC)
                    for k in range(p * length, min(p * length + length, K), BK):
                        a = A[k : k + BK, m : m + BM].T if trans_a else A[m : m + BM, k : k + BK]
                        b = B[n : n + BN, k : k + BK].T if trans_b else B[k : k + BK, n : n + BN]
                        acc += ts.tile.mma(a, b)
                    W[p, m : m + BM, n : n + BN] = acc
        return W

    return matmul_parts


@family
def sum_parts(T, parts=8, out=None):
    """`sum_parts(W, epilogue=same)`: C[M, N] = epilogue(W[0] + .. + W[parts - 1]), with W[parts, M, N] of type T.

    Part p takes in part p + h, for h the halves of the power of two that holds all parts. `epilogue` is that of
    `matmul`; what it gives is rounded once, to `out`, which is T if it is not given.
    """
    OUT = out or T

    @ts.kernel.autotune(space=JOINS)
    def sum_parts(W: ts.Tensor[parts, "M", "N", T], epilogue=same) -> ts.Tensor["M", "N", OUT]:
        return ts.tile.cast(epilogue(ts.tile.sum(W[:, m : m + BM, n : n + BN], axis=0)), OUT)

    return sum_parts
