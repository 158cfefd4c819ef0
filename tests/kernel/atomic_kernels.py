# ruff: noqa
# Kernels with atomic updates.
import tessera as ts


@ts.kernel
def counted(x: ts.Tensor["N", ts.i32], counts: ts.Tensor["B", ts.u32]):
    i = ts.tile.linear_id()
    if i < N:
        ts.tile.atomic_add(counts[x[i]], 1)


@ts.kernel(grid=3, group=64)
def bits(x: ts.Tensor["N", ts.u64], found: ts.Tensor[4, ts.u64], total: ts.Tensor[ts.i64]):
    own = ts.tile.alloc_shared((4,), ts.u64)
    own[:] = 0
    for first in ts.tile.grid_stride_range(0, N, 64):
        i = first + ts.tile.local_id()
        if i < N:
            ts.tile.atomic_or(own[x[i] % 4], x[i])
            ts.tile.atomic_sub(total[()], i)
    ts.tile.barrier()
    if ts.tile.local_id() < 4:
        ts.tile.atomic_xor(found[ts.tile.local_id()], own[ts.tile.local_id()])
    ts.tile.atomic_add(total[()], 1000)


@ts.kernel
def extremes(x: ts.Tensor["M", "N", ts.i64], low: ts.Tensor["N", ts.i64], high: ts.Tensor["N", ts.i64],
             all: ts.Tensor["N", ts.i64]):
    for m in ts.tile.range(0, M, 16):
        t = x[m : m + 16, n : n + 32]
        ts.tile.atomic_min(low[n : n + 32], ts.tile.col_min(t))
        ts.tile.atomic_max(high[n : n + 32], ts.tile.col_max(t))
        ts.tile.atomic_and(all[n : n + 32], ts.tile.col_max(t))


@ts.kernel
def histogram2d(x: ts.Tensor["M", "N", ts.i32], sums: ts.Tensor["N", ts.i32]):
    own = ts.tile.alloc_shared((32,), ts.i32)
    own[:] = 0
    for m in ts.tile.range(0, M, 8):
        ts.tile.atomic_add(own[:], ts.tile.cast(ts.tile.col_sum(x[m : m + 8, n : n + 32]), ts.i32))
        ts.tile.atomic_max(own[0:1], -5)
    sums[n : n + 32] = own[:]


@ts.kernel
def shared_by_lanes(x: ts.Tensor["M", "N", ts.i32], counts: ts.Tensor["B", ts.i32]):
    for m in ts.tile.range(M):
        for j in ts.tile.range(N):
            ts.tile.atomic_add(counts[x[m, j]], m)


@ts.kernel
def split_k(A: ts.Tensor["M", "K", ts.i8], B: ts.Tensor["K", "N", ts.i8], C: ts.Tensor["M", "N", ts.i32]):
    for s in ts.tile.range(0, K, 128):
        acc = ts.tile.zeros((64, 64), ts.i32)
        for k in ts.tile.range(s, s + 128, 64):
            acc += A[m : m + 64, k : k + 64] @ B[k : k + 64, n : n + 64]
        ts.tile.atomic_add(C[m : m + 64, n : n + 64], acc)


def every_kind(T):
    @ts.kernel(group=64)
    def kinds(x: ts.Tensor["N", T], add: ts.Tensor[5, T], low: ts.Tensor[5, T], high: ts.Tensor[5, T],
              both: ts.Tensor[5, T], some: ts.Tensor[5, T], odd: ts.Tensor[5, T]):
        i = ts.tile.linear_id()
        if i < N:
            ts.tile.atomic_add(add[i % 5], x[i])
            ts.tile.atomic_min(low[i % 5], x[i])
            ts.tile.atomic_max(high[i % 5], x[i])
            ts.tile.atomic_and(both[i % 5], x[i])
            ts.tile.atomic_or(some[i % 5], x[i])
            ts.tile.atomic_xor(odd[i % 5], x[i])

    return kinds
