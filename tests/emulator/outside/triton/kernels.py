"""Triton kernels written for the emulator's tests. Only `generate.py` imports them; tests read the committed PTX."""

import triton
import triton.language as tl


@triton.jit
def vector_add(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out + at, tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside), mask=inside)


@triton.jit
def softmax(x, out, columns, stride, BLOCK: tl.constexpr):
    """One row per program."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    v = tl.load(x + row * stride + at, mask=at < columns, other=float("-inf")).to(tl.float32)
    e = tl.exp(v - tl.max(v, axis=0))
    tl.store(out + row * stride + at, e / tl.sum(e, axis=0), mask=at < columns)


@triton.jit
def layer_norm(x, gain, bias, out, columns, eps, BLOCK: tl.constexpr):
    """One row per program, in blocks of columns; the mean first, then the variance around it."""
    row = tl.program_id(0)
    x += row * columns
    out += row * columns
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(x + at, mask=at < columns, other=0.0).to(tl.float32)
    mean = tl.sum(total) / columns
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        d = tl.where(at < columns, tl.load(x + at, mask=at < columns, other=0.0).to(tl.float32) - mean, 0.0)
        total += d * d
    scale = tl.rsqrt(tl.sum(total) / columns + eps)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = (tl.load(x + at, mask=at < columns).to(tl.float32) - mean) * scale
        v = v * tl.load(gain + at, mask=at < columns) + tl.load(bias + at, mask=at < columns)
        tl.store(out + at, v, mask=at < columns)


@triton.jit
def matmul(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """C[m, n] f32 = A[m, k] B[k, n], all row-major, ragged in every extent."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    pa = a + rows[:, None] * k + inner[None, :]
    pb = b + inner[:, None] * n + columns[None, :]
    acc = tl.zeros([BM, BN], tl.float32)
    for start in range(0, k, BK):
        fa = tl.load(pa, mask=(rows[:, None] < m) & (start + inner[None, :] < k), other=0.0)
        fb = tl.load(pb, mask=(start + inner[:, None] < k) & (columns[None, :] < n), other=0.0)
        acc = tl.dot(fa, fb, acc)
        pa += BK
        pb += BK * n
    pc = c + rows[:, None] * n + columns[None, :]
    tl.store(pc, acc, mask=(rows[:, None] < m) & (columns[None, :] < n))


@triton.jit
def matmul_transposed(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """C[m, n] f32 = A[m, k] B[n, k]^T: the layout that narrow types need on tensor cores."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    acc = tl.zeros([BM, BN], tl.float32)
    for start in range(0, k, BK):
        at = start + inner
        fa = tl.load(a + rows[:, None] * k + at[None, :], mask=(rows[:, None] < m) & (at[None, :] < k), other=0.0)
        fb = tl.load(b + columns[None, :] * k + at[:, None], mask=(columns[None, :] < n) & (at[:, None] < k), other=0.0)
        acc = tl.dot(fa, fb, acc)
    pc = c + rows[:, None] * n + columns[None, :]
    tl.store(pc, acc, mask=(rows[:, None] < m) & (columns[None, :] < n))


@triton.jit
def matmul_tma(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPECIALIZE: tl.constexpr):
    """The same with tensor descriptors: `a` boxes [BM, BK], `b` boxes [BK, BN], `c` boxes [BM, BN]."""
    row, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    acc = tl.zeros([BM, BN], tl.float32)
    for start in tl.range(0, k, BK, warp_specialize=SPECIALIZE):
        acc = tl.dot(a.load([row, start]), b.load([start, column]), acc)
    c.store([row, column], acc.to(c.dtype))


@triton.jit
def matmul_persistent(a, b, c, m, n, k, PROGRAMS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                      SPECIALIZE: tl.constexpr):  # fmt: skip
    """A fixed number of programs walks over the tiles of C; B is [n, k]."""
    across = tl.cdiv(n, BN)
    for tile in tl.range(tl.program_id(0), tl.cdiv(m, BM) * across, PROGRAMS, flatten=True,
                         warp_specialize=SPECIALIZE):  # fmt: skip
        row, column = tile // across * BM, tile % across * BN
        acc = tl.zeros([BM, BN], tl.float32)
        for start in range(0, k, BK):
            acc = tl.dot(a.load([row, start]), b.load([column, start]).T, acc)
        c.store([row, column], acc.to(c.dtype))


@triton.jit
def attention(q, k, v, out, queries, keys, scale, CAUSAL: tl.constexpr, D: tl.constexpr, BM: tl.constexpr,
              BN: tl.constexpr):  # fmt: skip
    """softmax(Q K^T * scale) V for one head per program_id(1); row-major [heads, length, D]; ragged lengths."""
    head = tl.program_id(1)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    depth = tl.arange(0, D)
    q += head * queries * D
    k += head * keys * D
    v += head * keys * D
    out += head * queries * D
    fq = tl.load(q + rows[:, None] * D + depth[None, :], mask=rows[:, None] < queries, other=0.0)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    end = keys
    if CAUSAL:
        end = min(keys, (tl.program_id(0) + 1) * BM)
    for start in range(0, end, BN):
        at = start + tl.arange(0, BN)
        fk = tl.load(k + at[None, :] * D + depth[:, None], mask=at[None, :] < keys, other=0.0)
        s = tl.dot(fq, fk) * (scale * 1.4426950408889634)
        seen = at[None, :] < keys
        if CAUSAL:
            seen = seen & (at[None, :] <= rows[:, None])
        s = tl.where(seen, s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, axis=1))
        p = tl.exp2(s - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(p, axis=1)
        fv = tl.load(v + at[:, None] * D + depth[None, :], mask=at[:, None] < keys, other=0.0)
        acc = tl.dot(p.to(fv.dtype), fv, acc * shrink[:, None])
        top = higher
    result = acc / total[:, None]
    tl.store(out + rows[:, None] * D + depth[None, :], result, mask=rows[:, None] < queries)


@triton.jit
def attention_tma(q, k, v, out, queries, keys, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                  SPECIALIZE: tl.constexpr):  # fmt: skip
    """One head; `keys` is a multiple of BN; descriptors for all four matrices."""
    row = tl.program_id(0) * BM
    fq = q.load([row, 0])
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    for start in tl.range(0, keys, BN, warp_specialize=SPECIALIZE):
        s = tl.dot(fq, k.load([start, 0]).T) * (scale * 1.4426950408889634)
        higher = tl.maximum(top, tl.max(s, axis=1))
        p = tl.exp2(s - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(p, axis=1)
        acc = tl.dot(p.to(v.dtype), v.load([start, 0]), acc * shrink[:, None])
        top = higher
    out.store([row, 0], (acc / total[:, None]).to(out.dtype))


@triton.jit
def scan_and_sort(x, sums, ordered, histogram, n, BLOCK: tl.constexpr):
    """Library routines that exchange data between threads: scans, sorting, histograms, reductions with an index."""
    at = tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=0)
    tl.store(sums + at, tl.cumsum(v, axis=0), mask=at < n)
    tl.store(ordered + at, tl.sort(v), mask=at < n)
    tl.atomic_add(histogram + tl.arange(0, 64), tl.histogram(v & 63, 64))
    tl.store(histogram + 64, tl.argmax(v, axis=0))
