# ruff: noqa
# Faults of tile kernels: shapes, slices, vectors, copies, launches.
import tessera as ts


@ts.kernel
def shapes(A: ts.Tensor["M", "K", ts.bf16], C: ts.Tensor["M", "N", ts.f32]):
    a = ts.tile.zeros((64, 32), ts.f32)
    b = ts.tile.zeros((64, 16), ts.f32)
    v = ts.tile.arange(64)
    c = a + b  #! E223 a + b
    d = ts.tile.mma(a, b)  #! E223 ts.tile.mma(a, b)
    e = a * A[0:64, 0:32]
    f = ts.tile.zeros((64, 64), ts.f32) + v  #! E223 ts.tile.zeros((64, 64), ts.f32) + v
    g = ts.tile.row_sum(a) + ts.tile.col_sum(ts.tile.mma(a, a.T))  #! E223 ts.tile.row_sum(a) + ts.tile.col_sum(ts.tile.mma(a, a.T))
    h = ts.tile.mma(v, a)  #! E223 ts.tile.mma(v, a)
    C[0:64, 0:32] = b  #! E223 C[0:64, 0:32] = b
    C[0:64, 0:16] = b
    t = v.T  #! E207 v.T
    u = a[0, :]  #! E207 a[0, :]
    w = ts.tile.row_max(v)  #! E223 ts.tile.row_max(v)
    x = ts.tile.sum(a, axis=2)  #! E218 ts.tile.sum(a, axis=2)


@ts.kernel
def slices(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32], n: ts.i32):
    s = ts.tile.alloc_shared((64,), ts.f32)
    a = x[0:n]  #! E224 0:n
    b = x[0:64:2]  #! E224 0:64:2
    c = x[4:4]  #! E224 4:4
    g = x[-4:]  #! E224 -4:
    d = x[ts.tile.local_id() : ts.tile.local_id() + 4]  #! E206 ts.tile.local_id() : ts.tile.local_id() + 4
    e = x[0:4, 0:4]  #! E207 x[0:4, 0:4]
    f = x[n : n + 64]
    s[0:128] = 0.0  #! E224 0:128
    y[0:64] = f + ts.tile.local_id()  #! E206 f + ts.tile.local_id()
    y[0:64] = f + n


@ts.kernel
def named_as_a_dim(x: ts.Tensor["n", ts.f32], y: ts.Tensor["n", ts.f32]):
    y[i : i + 64] = x[n : n + 64]  #! E224 n : n + 64


@ts.kernel
def allocations(x: ts.Tensor["N", ts.f32], k: ts.i32):
    a = ts.tile.zeros((k,), ts.f32)  #! E212 ts.tile.zeros((k,), ts.f32)
    b = ts.tile.zeros((2, 2, 2, 2), ts.f32)  #! E224 ts.tile.zeros((2, 2, 2, 2), ts.f32)
    r = ts.tile.alloc_register(64, dtype=ts.f32)
    x[0:64] = r  #! E210 r
    ts.tile.fill(r, 1.0)
    x[0:64] = r
    ts.tile.fill(x[0], 1.0)  #! E208 ts.tile.fill(x[0], 1.0)
    ctx = ts.tile.context()
    size = ctx.BLOCK_Q  #! E203 ctx.BLOCK_Q


@ts.kernel
def types(x: ts.Tensor["N", ts.f32], i: ts.Tensor["N", ts.i8], h: ts.Tensor["N", ts.bf16]):
    s = ts.tile.alloc_shared((64,), ts.f32)
    ts.tile.cp_async(s, h[0:64])  #! E206 ts.tile.cp_async(s, h[0:64])
    ts.tile.cp_async(x[0:64], s)  #! E208 ts.tile.cp_async(x[0:64], s)
    ts.tile.cp_async(s, x[0:32])  #! E223 ts.tile.cp_async(s, x[0:32])
    s[:] = x[0:64]
    i[0:64] = s  #! E206 i[0:64] = s
    h[0:64] = s
    ts.tile.cp_wait_group(-1)  #! E218 ts.tile.cp_wait_group(-1)


@ts.kernel
def divergent(x: ts.Tensor["N", ts.f32]):
    s = ts.tile.alloc_shared((64,), ts.f32)
    if ts.tile.local_id() < 3:
        s[:] = 1.0  #! E209 s[:] = 1.0
        t = x[0:64] + 1.0  #! E209 x[0:64] + 1.0
        ts.tile.cp_commit_group()  #! E209 ts.tile.cp_commit_group()
    x[0:64] = s


@ts.kernel
def early(A: ts.Tensor["N", ts.f32]):
    s = ts.tile.alloc_shared((64,), ts.f32)
    ts.tile.cp_async(s, A[0:64])
    A[0:64] = s * 2.0  #! E225 s * 2.0
    ts.tile.cp_async(s, A[64:128])  #! E225 ts.tile.cp_async(s, A[64:128])
    ts.tile.barrier()
    A[64:128] = s


@ts.kernel
def uncommitted(A: ts.Tensor["N", ts.f32]):
    s = ts.tile.alloc_shared((64,), ts.f32)
    ts.tile.cp_async(s, A[0:64])
    ts.tile.cp_wait_group(0)  #! W208 ts.tile.cp_wait_group(0)
    ts.tile.barrier()
    A[0:64] = s


@ts.kernel
def unread(A: ts.Tensor["N", ts.f32], B: ts.Tensor["N", ts.f32]):
    s = [ts.tile.alloc_shared((64,), ts.f32) for _ in range(2)]
    stage = 0
    ts.tile.cp_async(s[0], A[0:64])
    for i in ts.tile.range(64, N, 64):
        stage = 1 - stage
        ts.tile.cp_async(s[stage], A[i : i + 64])  #! W209 ts.tile.cp_async(s[stage], A[i : i + 64])
        ts.tile.barrier()
        B[0:64] += s[1 - stage]


@ts.kernel
def wrong_axis(x: ts.Tensor["N", 64, ts.f32], y: ts.Tensor["N", 64, ts.f32]):
    for r in ts.tile.range(0, N, 64):
        t = x[r : r + 64, :]
        m = ts.tile.row_max(t)
        y[r : r + 64, :] = t - m[None, :]  #! W205 t - m[None, :]


@ts.kernel
def twice(x: ts.Tensor["N", 64, ts.f32], y: ts.Tensor["N", ts.f32]):
    m = ts.tile.full((64,), 1.0, ts.f32)
    top = ts.tile.full((64,), 2.0, ts.f32)
    for r in ts.tile.range(0, N, 64):
        t = x[r : r + 64, :]
        p = ts.tile.exp(t - top[:, None])
        b = ts.tile.exp(m - top)
        y[r : r + 64] = b * ts.tile.row_sum(p)  #! W206 b * ts.tile.row_sum(p)


@ts.kernel
def forgotten(
    x: ts.Tensor["N", ts.f32],
    y: ts.Tensor["N", ts.f32],  #! W207 y: ts.Tensor["N", ts.f32]
):
    x[i : i + 64] = x[i : i + 64] * 2.0


@ts.kernel
def two_widths(A: ts.Tensor["M", "N", ts.f32], B: ts.Tensor["N", "M", ts.f32]):
    A[t : t + 64, u : u + 32] = 0.0
    B[t : t + 64, u : u + 32] = 0.0  #! E211 t : t + 64


@ts.kernel
def carried(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    total = ts.tile.zeros((64,), ts.f32)
    for i in ts.tile.range(0, N, 64):
        total = total + x[i : i + 64]  #! E214 total
        y[i : i + 64] = total


@ts.kernel
def carried_registers(x: ts.Tensor["N", 16, ts.f32], y: ts.Tensor["N", 16, ts.f32]):
    acc = ts.tile.zeros((16, 16))
    m = ts.tile.zeros((16,))
    kept = ts.tile.alloc_register(16, dtype=ts.f32)
    for i in ts.tile.range(0, N, 16):
        ts.tile.fill(kept, 1.0)
        ts.tile.update_accumulator(acc, x[i : i + 16, :], m, m)  #! E214 acc
        y[i : i + 16, :] = acc + kept[:, None]


@ts.kernel
def unplaced(x: ts.Tensor["N", "N", ts.f32]) -> ts.Tensor["N", "N", ts.f32]:
    return x[a : a + 64, 0:64] + x[0:64, b : b + 64] + x[c : c + 64, 0:64]  #! E211 a : a + 64


@ts.kernel
def undeclared(x: ts.Tensor["N", ts.f32]):
    return x[i : i + 64] * 2.0  #! E213 return x[i : i + 64] * 2.0
