# ruff: noqa
# Tile kernels for the tests, by what they exercise.
import math

import tessera as ts

BLOCK = 16


def scaled(t, factor=2.0):
    return t * factor


def softmax_of(t):
    e = ts.tile.exp(t - ts.tile.row_max(t))
    return e / ts.tile.row_sum(e)


@ts.kernel
def elementwise(x: ts.Tensor["N", ts.f32], h: ts.Tensor["N", ts.bf16], y: ts.Tensor["N", ts.f32], a: ts.f32):
    t = x[i : i + 32]
    u = h[i : i + 32]
    v = ts.tile.where(t > 0.5, t * a + u, ts.tile.maximum(-t, 0.25))
    y[i : i + 32] = scaled(v) + abs(t) ** 2 - ts.tile.sqrt(ts.tile.minimum(t * t, 4.0)) + t // 0.75 + ts.sigmoid(u)


@ts.kernel
def integers(x: ts.Tensor["N", ts.i32], y: ts.Tensor["N", ts.i32]):
    t = x[i : i + 16]
    y[i : i + 16] = ((t & 7) << 2) - t // 3 + (t % 5) + ts.tile.cast((t > 2) & (t < 40), ts.i32)


@ts.kernel
def softmax(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", "N", ts.f32]):
    for r in ts.tile.range(0, M, BLOCK):
        y[r : r + BLOCK, :] = softmax_of(x[r : r + BLOCK, :])


@ts.kernel
def returned_softmax(x: ts.Tensor["M", "N", ts.bf16]) -> ts.Tensor["M", "N", ts.bf16]:
    for r in ts.tile.range(0, M, BLOCK):
        out = softmax_of(ts.tile.load(x[r : r + BLOCK]))
    return out


@ts.kernel
def layer_norm(x: ts.Tensor["M", "N", ts.f32], g: ts.Tensor["N", ts.f32], y: ts.Tensor["M", "N", ts.f32]):
    """Columns in blocks: two passes over a row, both with masks."""
    for r in ts.tile.range(0, M, 16):
        total = ts.tile.zeros((16,), ts.f32)
        for c in ts.tile.range(0, N, 32):
            total += ts.tile.row_sum(x[r : r + 16, c : c + 32])
        mean = total / N
        square = ts.tile.zeros((16,), ts.f32)
        for c in ts.tile.range(0, N, 32):
            d = x[r : r + 16, c : c + 32] - mean[:, None]
            square += ts.tile.row_sum(d * d)
        scale = ts.tile.rsqrt(square / N + 1e-5)
        for c in ts.tile.range(0, N, 32):
            y[r : r + 16, c : c + 32] = (x[r : r + 16, c : c + 32] - mean[:, None]) * scale[:, None] * g[c : c + 32]


@ts.kernel
def column_statistics(
    x: ts.Tensor["M", "N", ts.f32],
    total: ts.Tensor["N", ts.f32],
    grown: ts.Tensor["N", ts.f32],
    low: ts.Tensor["N", ts.f32],
):
    """Sums over blocks of rows, the last of which is ragged: what a tile does not cover keeps its value."""
    for c in ts.tile.range(0, N, 32):
        acc = ts.tile.zeros((16, 32), ts.f32)
        more = ts.tile.zeros((16, 32), ts.f32)
        least = ts.tile.full((16, 32), 9.0, ts.f32)
        for r in ts.tile.range(0, M, 16):
            t = x[r : r + 16, c : c + 32]
            acc += t
            more = more + ts.tile.exp(t)
            least = ts.tile.minimum(least, t + 3.0)
        total[c : c + 32] = ts.tile.col_sum(acc)
        grown[c : c + 32] = ts.tile.sum(more, axis=0)
        low[c : c + 32] = ts.tile.col_min(least)


@ts.kernel
def prefetched_max(x: ts.Tensor["N", ts.f32], y: ts.Tensor["K", ts.f32]):
    """The next tile is loaded before this one is used: its valid part is carried with it."""
    best = ts.tile.full((1,), -float("inf"), ts.f32)
    now = x[0:16]
    for i in ts.tile.range(16, N, 16):
        after = x[i : i + 16]
        best = ts.tile.maximum(best, ts.tile.max(now - 5.0))
        now = after
    best = ts.tile.maximum(best, ts.tile.max(now - 5.0))
    y[0:1] = best


@ts.kernel
def moving_start(x: ts.Tensor["N", ts.f32], y: ts.Tensor["K", ts.f32], begin: ts.i64):
    """A tile keeps its valid part when the variables change that placed it; loops reuse a name."""
    at = begin
    t = x[at : at + 16]
    at += 1000
    best = ts.tile.max(t - 5.0)
    k = 0
    while k < N:
        u = x[k : k + 16]
        k += 16
        best = max(best, ts.tile.max(u - 5.0))
    for k in ts.tile.range(0, N, 16):
        v = x[k : k + 16]
        for k in ts.tile.range(0, 32, 16):
            best = max(best, ts.tile.max(v - 5.0) + 0 * k)
    y[0:1] = ts.tile.full((1,), best)


@ts.kernel
def ring(
    K: ts.Tensor["S", 16, ts.f32], q: ts.Tensor["Q", 16, ts.f32], top: ts.Tensor["Q", ts.f32], sums: ts.Tensor["Q", ts.f32]
):
    """A pipeline of three stages whose tiles need masks: the number of rows in each stage is carried."""
    k = [ts.tile.alloc_shared((32, 16), ts.f32) for _ in range(3)]
    for r in ts.tile.range(0, Q, 16):
        t = q[r : r + 16, :]
        m = ts.tile.full((16,), -float("inf"), ts.f32)
        l = ts.tile.zeros((16,), ts.f32)
        ts.tile.cp_async(k[0], K[0:32])
        ts.tile.cp_commit_group()
        ts.tile.cp_async(k[1], K[32:64])
        ts.tile.cp_commit_group()
        stage = 0
        for s in ts.tile.range(0, S, 32):
            ts.tile.cp_async(k[(stage + 2) % 3], K[s + 64 : s + 96])
            ts.tile.cp_commit_group()
            ts.tile.cp_wait_group(2)
            scores = ts.tile.mma(t, k[stage].T) - 100.0
            new = ts.tile.maximum(m, ts.tile.row_max(scores))
            l = l * ts.tile.exp(m - new) + ts.tile.row_sum(ts.tile.exp(scores - new))
            m = new
            stage = (stage + 1) % 3
        ts.tile.barrier()
        top[r : r + 16] = m
        sums[r : r + 16] = l


@ts.kernel
def transposed(
    A: ts.Tensor["K", "M", ts.f16], B: ts.Tensor["N", "K", ts.f16], bias: ts.Tensor["N", ts.f32]
) -> ts.Tensor["M", "N", ts.f32]:
    acc = ts.tile.zeros((32, 48), ts.f32)
    acc = ts.tile.mma(A[k : k + 16, m : m + 32].T, B[n : n + 48, k : k + 16].T, accumulator=acc)
    return ts.tile.maximum(acc + bias[n : n + 48], 0.0)


@ts.kernel
def two_axes(A: ts.Tensor["N", "N", ts.f32], B: ts.Tensor["N", "N", ts.f32], C: ts.Tensor["N", "N", ts.f32]):
    for m in ts.tile.range(0, N, 16):
        for n in ts.tile.range(0, N, 32):
            acc = ts.tile.zeros((16, 32), ts.f32)
            for k in ts.tile.range(0, N, 16):
                acc += A[m : m + 16, k : k + 16] @ B[k : k + 16, n : n + 32]
            C[m : m + 16, n : n + 32] = acc


@ts.kernel
def mixed_axes(A: ts.Tensor["M", "K", ts.f32], B: ts.Tensor["K", "N", ts.f32], C: ts.Tensor["M", "N", ts.f32]):
    """A work loop, a parallel domain variable, and one that is summed over inside of the loop."""
    first = B[0:1, n : n + 16]
    acc = ts.tile.zeros((32, 16))
    for m in ts.tile.range(0, M, 32):
        acc = ts.tile.zeros((32, 16))
        acc += A[m : m + 32, k : k + 16] @ B[k : k + 16, n : n + 16]
        C[m : m + 32, n : n + 16] += acc * 2.0


@ts.kernel
def bytes_product(A: ts.Tensor["M", "K", ts.i8], B: ts.Tensor["K", "N", ts.i8], C: ts.Tensor["M", "N", ts.i32]):
    acc = ts.tile.zeros((16, 16), ts.i32)
    for k in ts.tile.range(0, K, 32):
        acc += ts.tile.dot(A[m : m + 16, k : k + 32], B[k : k + 32, n : n + 16])
    C[m : m + 16, n : n + 16] = acc


@ts.kernel
def narrow_product(
    A: ts.Tensor["M", "K", ts.bf16], B: ts.Tensor["K", "N", ts.fp8_e4m3], C: ts.Tensor["M", "N", ts.bf16]
):
    acc = ts.tile.zeros((16, 16))
    for k in ts.tile.range(0, K, 32):
        acc += ts.tile.matmul(A[m : m + 16, k : k + 32], B[k : k + 32, n : n + 16])
    C[m : m + 16, n : n + 16] = acc


@ts.kernel
def vectors(src: ts.Tensor["M", "N", ts.f32], dst: ts.Tensor["M", "N", ts.f32]):
    s = ts.tile.alloc_shared((4, 8), ts.f32)
    for r in ts.tile.range(0, 4):
        for c in ts.tile.range(0, 8, 4):
            ts.tile.store_vector(s[r, c], ts.tile.load_vector(src[i + r, j + c], width=4))
    ts.tile.store(dst[i : i + 4, j : j + 8], s[:, :] + 1.0)


@ts.kernel
def flow(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32], mode: ts.i32, steps: ts.i32, FLIP: bool = False):
    """Branches and loops with uniform conditions carry tiles."""
    for i in ts.tile.range(0, N, 16):
        t = x[i : i + 16]
        if mode > 0:
            t = t + 1.0
            extra = ts.tile.full((16,), 0.5)
        elif mode < 0:
            t, extra = -t, t * 2.0
        else:
            extra = t
        n = steps
        while n > 0:
            t = t * 1.5
            n -= 2
        if FLIP:
            t = -t
        y[i : i + 16] = t + extra


@ts.kernel
def grouped_heads(
    Q: ts.Tensor["B", "H", "S", 16, ts.bf16],
    K: ts.Tensor["B", "G", "S", 16, ts.bf16],
    V: ts.Tensor["B", "G", "S", 16, ts.bf16],
    O: ts.Tensor["B", "H", "S", 16, ts.f32],
    L: ts.Tensor["B", "H", "S", ts.f32],
):
    """Three axes by loops; keys up to the diagonal only; two outputs."""
    for b in ts.tile.range(B):
        for h in ts.tile.range(H):
            for q in ts.tile.range(0, S, 32):
                t = Q[b, h, q : q + 32, :]
                m = ts.tile.full((32,), -float("inf"))
                l = ts.tile.zeros((32,))
                acc = ts.tile.zeros((32, 16))
                for kv in ts.tile.range(0, min(S, q + 32), 16):
                    g = h // (H // G)
                    scores = ts.tile.causal_mask(ts.tile.mma(t, K[b, g, kv : kv + 16, :].T), q, kv)
                    m_new, l, p = ts.tile.online_softmax(scores, m, l)
                    ts.tile.update_accumulator(acc, ts.tile.mma(p, V[b, g, kv : kv + 16, :]), m, m_new)
                    m = m_new
                O[b, h, q : q + 32, :] = acc / l
                L[b, h, q : q + 32] = m + ts.tile.log(l)


def scaled_relu(t, bias):
    return ts.tile.maximum(t * 0.5 + bias, 0.0)


@ts.kernel
def with_epilogue(
    A: ts.Tensor["M", "K", ts.bf16],
    B: ts.Tensor["K", "N", ts.bf16],
    bias: ts.Tensor["N", ts.f32],
    C: ts.Tensor["M", "N", ts.f32],
    epilogue=None,
):
    acc = ts.tile.zeros((BM, BN))
    for k in ts.tile.range(0, K, BK):
        acc += A[m : m + BM, k : k + BK] @ B[k : k + BK, n : n + BN]
    if epilogue is not None:
        acc = epilogue(acc, bias[n : n + BN])
    C[m : m + BM, n : n + BN] = acc


@ts.kernel
def turned(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["N", "M", ts.f32]):
    y[n : n + 16, m : m + 32] = x[m : m + 32, n : n + 16].T


@ts.kernel
def cross_entropy(x: ts.Tensor["M", "N", ts.f32], label: ts.Tensor["M", ts.i32], loss: ts.Tensor["M", ts.f32]):
    for r in ts.tile.range(0, M, 8):
        want = label[r : r + 8]
        m = ts.tile.full((8,), -float("inf"))
        l = ts.tile.zeros((8,))
        hit = ts.tile.zeros((8,))
        for c in ts.tile.range(0, N, 16):
            t = x[r : r + 8, c : c + 16]
            m_new, l, _ = ts.tile.online_softmax(t, m, l)
            m = m_new
            here = ts.tile.arange(16)[None, :] + c == want[:, None]
            hit += ts.tile.row_sum(ts.tile.where(here, t, 0.0))
        loss[r : r + 8] = m + ts.tile.log(l) - hit


@ts.kernel
def spread_out(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", "N", ts.f32], z: ts.Tensor["N", ts.i32]):
    t = x[m : m + 16, n : n + 8]
    first = ts.tile.broadcast(ts.tile.row_max(t), (16, 8))
    second = ts.tile.broadcast(ts.tile.col_sum(t, keepdims=True), (16, 8))
    y[m : m + 16, n : n + 8] = ts.tile.scale(first, 2.0) + second * ts.tile.broadcast(0.5, (16, 8))
    z[n : n + 8] = ts.tile.group_tile_count()


@ts.kernel(grid=1)
def warps(x: ts.Tensor["N", ts.i64]):
    x[ts.tile.local_id()] = ts.tile.warp_id()


@ts.kernel
def distances(x: ts.Tensor["M", 8, ts.f32], y: ts.Tensor["N", 8, ts.f32], d: ts.Tensor["M", "N", ts.f32]):
    a, b = x[m : m + 16, :], y[n : n + 32, :]
    d[m : m + 16, n : n + 32] = (
        ts.tile.row_sum(a * a)[:, None] + ts.tile.row_sum(b * b, keepdims=True).T - 2.0 * ts.tile.mma(a, b.T)
    )


@ts.kernel
def lanes_and_tiles(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    """Lanes store elements of shared memory that the group then reads as a tile."""
    s = ts.tile.alloc_shared((128,), ts.f32)
    for i in ts.tile.range(0, N, 128):
        lane = ts.tile.local_id()
        if i + lane < N:
            s[127 - lane] = x[i + lane]
        else:
            s[127 - lane] = 0.0
        t = s * 2.0
        y[i : i + 128] = t


@ts.kernel
def by_group(x: ts.Tensor["B", "S", "H", ts.f32], y: ts.Tensor["B", "H", ts.f32]):
    """Dropped axes: one index each; the launch is explicit."""
    b = ts.tile.group_id(0)
    acc = ts.tile.full((16,), -float("inf"), ts.f32)
    for s in ts.tile.range(0, S):
        acc = ts.tile.maximum(acc, x[b, s, 0:16])
    y[b, 0:16] = acc


by_group = ts.kernel(by_group.python, grid="B")


@ts.kernel(grid=("B*H", "ceildiv(D, 4)"))
def explicit_product(x: ts.Tensor["B*H", "D", ts.f32], y: ts.Tensor["B*H", "D", ts.f32]):
    row, at = ts.tile.group_id(0), ts.tile.group_id(1) * 4
    whole = x[row, :]
    y[row, at : at + 4] = x[row, at : at + 4] - ts.tile.max(whole)


@ts.kernel
def cubes(x: ts.Tensor["B", "M", "N", ts.f32], y: ts.Tensor["B", "M", ts.f32]):
    for b in ts.tile.range(0, B, 2):
        t = x[b : b + 2, 0:8, 0:4]
        y[b : b + 2, 0:8] = ts.tile.max(t * 2.0, axis=2) - ts.tile.min(t, axis=-1)


@ts.kernel
def total_of(x: ts.Tensor["N", ts.f32]) -> ts.f32:
    acc = ts.tile.zeros((64,), ts.f32)
    for i in range(0, N, 64):
        acc += x[i : i + 64]
    return ts.tile.sum(acc)


@ts.kernel
def row_block(x: ts.Tensor["B*H", "S", ts.f32]) -> ts.Tensor["B*H", "S", ts.f32]:
    """Rule R4 with a leading product, and a returned vector (R9)."""
    return x[s : s + 32] * 3.0


@ts.kernel
def causal(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", "N", ts.f32], q: ts.i32, kv: ts.i32):
    t = ts.tile.causal_mask(x[m : m + 16, n : n + 32], q + m, kv + n)
    rows = ts.tile.arange(16)[:, None] + m
    columns = ts.tile.arange(32)[None, :] + n
    mine = ts.tile.where(kv + columns > q + rows, -float("inf"), x[m : m + 16, n : n + 32])
    y[m : m + 16, n : n + 32] = ts.tile.where(t == mine, t, 7.0)


@ts.kernel(grid=2)
def overlapping(x: ts.Tensor[40, ts.f32], y: ts.Tensor[40, ts.f32]):
    g = ts.tile.group_id() * 10
    y[g : g + 16] = x[g : g + 16] * 2.0


def product_of(a, b, c):
    """A product of two element types, and one with a computed left operand."""

    @ts.kernel
    def product(A: ts.Tensor["M", "K", a], B: ts.Tensor["K", "N", b], C: ts.Tensor["M", "N", c]):
        plain = ts.tile.mma(A[m : m + 16, 0:16], B[0:16, n : n + 16])
        C[m : m + 16, n : n + 16] = ts.tile.mma(A[m : m + 16, 0:16] * 2, B[0:16, n : n + 16]) - plain

    return product


@ts.kernel
def one_block_in_two_products(
    q: ts.Tensor["S", 32, ts.bf16], k: ts.Tensor["T", 32, ts.bf16], o: ts.Tensor["S", 32, ts.f32]
):
    """The block of k is a right operand as it is and transposed."""
    for i in ts.tile.range(0, S, 16):
        total = ts.tile.zeros((16, 32))
        for j in range(0, T, 16):
            block = k[j : j + 16, :]
            total += ts.tile.mma(ts.tile.cast(ts.tile.mma(q[i : i + 16, :], block.T), ts.bf16), block)
        o[i : i + 16, :] = total


@ts.kernel
def chosen_domain(x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", "N", ts.f32], wide: bool = False):
    """Domain variables in the branches of a compile-time condition (R2)."""
    if wide:
        y[m : m + 8, n : n + 64] = x[m : m + 8, n : n + 64] - 1.0
    else:
        y[m : m + 16, n : n + 32] = x[m : m + 16, n : n + 32] * 2.0


@ts.kernel
def returned_from_nested_loops(x: ts.Tensor["M", "N", ts.f32]) -> ts.Tensor["M", "N", ts.f32]:
    """Two axes of the launch that only the place of the result needs (R3, R9)."""
    for i in ts.tile.range(0, M, 16):
        bias = ts.tile.row_max(x[i : i + 16, 0:8])
        for j in ts.tile.range(0, N, 32):
            t = x[i : i + 16, j : j + 32] + bias[:, None]
    return t


@ts.kernel
def other_words(a: ts.Tensor["M", "K", ts.bf16], b: ts.Tensor["K", "N", ts.bf16], y: ts.Tensor["M", ts.f32]):
    """`dot`, `accum=`, `order=`."""
    total = ts.tile.zeros((16, 32))
    for k in range(0, K, 16):
        total += ts.tile.dot(a[m : m + 16, k : k + 16], b[k : k + 16, 0:32], accum=ts.f32)
    y[m : m + 16] = ts.tile.row_sum(total, order="tree")


@ts.kernel
def updated_blocks(x: ts.Tensor["M", "N", ts.f32], r: ts.Tensor["M", ts.f32], y: ts.Tensor["M", "N", ts.f32]):
    """Blocks that are read, changed by what is read elsewhere, and written back."""
    s = ts.tile.alloc_shared((8, 16), ts.f32)
    s[:, :] = 1.0
    s[:, :] += x[m : m + 8, n : n + 16]
    y[m : m + 8, n : n + 16] += s[:, :] * r[m : m + 8][:, None]
