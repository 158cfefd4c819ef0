"""Kernels of test_pipeline_order: the program's own copies beside those of a ring; a ring that threads load from."""

import tessera as ts


@ts.kernel
def nearest(Q: ts.Tensor["S", 64, ts.bf16], K: ts.Tensor["T", 64, ts.bf16], C: ts.Tensor["S", 64, ts.f32], n: int):
    """The largest product of a row with each of 64 neighbours or 0, over the first n keys, plus the row."""
    q = ts.tile.alloc_shared((32, 64), ts.bf16)
    ts.tile.cp_async(q, Q[i : i + 32])
    best = ts.tile.zeros((32, 64), ts.f32)
    for j in ts.tile.range(0, n, 64):
        ts.tile.barrier()
        best = ts.tile.maximum(best, ts.tile.mma(q, K[j : j + 64].T))
    ts.tile.barrier()
    C[i : i + 32, 0:64] = best + ts.tile.cast(q, ts.f32)


@ts.kernel
def powers(
    Q: ts.Tensor["S", 64, ts.bf16],
    K: ts.Tensor["T", 64, ts.bf16],
    V: ts.Tensor["T", 64, ts.bf16],
    C: ts.Tensor["S", 64, ts.f32],
):
    """(Q K' + Q V') K: the sums change their layout by way of shared memory, between K's load and V's product."""
    q = Q[i : i + 64]
    acc = ts.tile.zeros((64, 64), ts.f32)
    for j in ts.tile.range(0, T, 64):
        k = K[j : j + 64]
        first = ts.tile.mma(q, k.T)
        acc += ts.tile.mma(ts.tile.cast(first + ts.tile.mma(q, V[j : j + 64].T), ts.bf16), k)
    C[i : i + 64, 0:64] = acc
