# ruff: noqa
# Kernels with the words of lanes, of the grid and of the launch.
import tessera as ts


@ts.kernel(grid=(2, 3), group=32)
def strided(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", ts.f32], seen: ts.Tensor["M", ts.i32]):
    last = -1.0
    for m in ts.tile.grid_stride_range(0, M):
        y[m] = ts.tile.reduce_max(x[m, ts.tile.local_id()]) + last
        last = 1.0 * m
        seen[m] = ts.tile.group_linear_id()


@ts.kernel(grid=3, num_warps=4, num_stages=2)
def strided_products(a: ts.Tensor["M", 32, ts.bf16], b: ts.Tensor[32, 32, ts.bf16], c: ts.Tensor["M", 32, ts.f32]):
    for m in ts.tile.grid_stride_range(0, M, 16):
        c[m : m + 16, :] = a[m : m + 16, :] @ b[:, :]


@ts.kernel(grid="ceildiv(N, 64)", group=64)
def turned(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32], by: ts.i32):
    i = ts.tile.linear_id()
    v = 0.0
    if i < N:
        v = x[i]
    for k in ts.tile.range(3):
        v = ts.tile.shuffle(v, ts.tile.lane_id() * by + 1) + k
    if i < N:
        y[i] = v


@ts.kernel
def dropped(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", "N", ts.f32], z: ts.Tensor["M", "N", ts.f32],
            key: ts.u64):
    place = (m + ts.tile.arange(8))[:, None] * N + (n + ts.tile.arange(16))[None, :]
    t = ts.tile.dropout(x[m : m + 8, n : n + 16], 0.25, key, place)
    y[m : m + 8, n : n + 16] = t
    z[m : m + 8, n : n + 16] = ts.tile.dropout(t, 0.0, key, place)


@ts.kernel
def dropped_elements(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        y[i] = ts.tile.dropout(x[i], 0.5, 7, i)


@ts.kernel
def staged(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    s = tshared.alloc[ts.f32](64)
    t = ts.tile.alloc_shared[ts.f32]((64,))
    ts.tile.tma_load_async(s, x[n : n + 64], multicast=True)
    ts.tile.barrier()
    t[:] = s[:] * 2.0
    y[n : n + 64] = t[:] + 1.0


@ts.kernel(grid=("ceildiv(N, 64)", "M"), group=32)
def numbered(x: ts.Tensor["M", "N", ts.i32]):
    for j in ts.tile.grid_stride_range(M * N):
        x[j // N, j % N] = j


@ts.kernel
def strided_sum(x: ts.Tensor["N", ts.f32]) -> ts.f32:
    t = 0.0
    for j in ts.tile.grid_stride_range(2, N, step=3):
        t += x[j]
    return t


@ts.kernel
def precise(a: ts.Tensor["M", "K", ts.f32], b: ts.Tensor["K", "N", ts.f32], c: ts.Tensor["M", "N", ts.f32],
            d: ts.Tensor["M", "N", ts.f32], e: ts.Tensor["M", "N", ts.f32]):
    x, y = ts.tile.zeros((32, 32)), ts.tile.zeros((32, 32))
    z = ts.tile.zeros((32, 32))
    for k in ts.tile.range(0, K, 16):
        x = ts.tile.mma(a[m : m + 32, k : k + 16], b[k : k + 16, n : n + 32], x, precision=ts.tf32)
        y = ts.tile.mma(a[m : m + 32, k : k + 16], b[k : k + 16, n : n + 32], y, precision="bf16")
        z = ts.tile.mma(a[m : m + 32, k : k + 16], b[k : k + 16, n : n + 32], z, precision=ts.f32)
    c[m : m + 32, n : n + 32] = x
    d[m : m + 32, n : n + 32] = y
    ts.tile.store(e[m : m + 32, n : n + 32], value=z)


@ts.kernel
def ordered(x: ts.Tensor["M", 40, ts.f32], y: ts.Tensor["M", ts.f32], z: ts.Tensor["M", ts.f32]):
    t = ts.tile.load(x[m : m + 16, :], vector=4, prefetch=True)
    y[m : m + 16] = ts.tile.row_sum(t, order="tree")
    z[m : m + 16] = ts.tile.sum(t, axis=1, order="warp")


@ts.kernel
def chosen(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", "N", ts.f32], neg: bool = False, mode: str = "abs"):
    t = x[m : m + 8, n : n + 8]
    if neg:
        t = -t
    y[m : m + 8, n : n + 8] = ts.tile.abs(t) if mode == "abs" else t


@ts.kernel
def exchanged(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", "N", ts.f32]):
    a, b = x[m : m + 8, n : n + 8], y[m : m + 8, n : n + 8]
    x[m : m + 8, n : n + 8] = b
    y[m : m + 8, n : n + 8] = a


@ts.kernel
def passed_on(x: ts.Tensor[8, 64, ts.f32], y: ts.Tensor[64, 8, ts.f32]):
    for k in range(3):
        y[:, :] = x[:, :].T + k
        i = ts.tile.local_id()
        if i < 64:
            y[i, 0] = y[63 - i, 1]
        x[:, :] = y[:, :].T * 2.0


@ts.kernel
def flags(x: ts.Tensor["M", "N", ts.bool], y: ts.Tensor["M", "N", ts.bool], w: ts.Tensor["M", "N", ts.f32]):
    s = ts.tile.alloc_shared((16, 64), ts.bool)
    s[:, :] = x[m : m + 16, n : n + 64]
    t = s[:, :]
    y[m : m + 16, n : n + 64] = ~t
    w[m : m + 16, n : n + 64] = ts.where(t, 1.0, w[m : m + 16, n : n + 64])
