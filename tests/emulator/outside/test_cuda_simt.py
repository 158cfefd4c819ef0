"""CUDA programs without tensor cores (nvcc), on random ragged inputs, against NumPy."""

from __future__ import annotations

from collections import Counter
from math import erf

import numpy as np
import pytest

from tests.emulator.harness import same_bits
from tests.emulator.outside.support import program, run, within

SIMT = "cuda/simt"
ULP = 2.0**-23


@pytest.mark.parametrize("n", [1, 255, 1000])
def test_scan_of_blocks(n: int) -> None:
    x = np.random.default_rng(n).integers(-1000, 1000, n).astype(np.int32)
    y = np.zeros_like(x)
    run(program(SIMT), "warp_scan", (-(-n // 256),), (256,), [x, y, n])
    want = np.concatenate([np.cumsum(x[k : k + 256]) for k in range(0, n, 256)])
    same_bits(y, want.astype(np.int32))


def test_scan_chained_through_global_memory() -> None:
    n = 333
    x = np.random.default_rng(1).integers(-9, 9, n).astype(np.int32)
    y, sums, flags = np.zeros_like(x), np.zeros(11, np.int32), np.zeros(11, np.int32)
    run(program(SIMT), "chained_scan", (11,), (32,), [x, y, sums, flags, n])
    same_bits(y, np.cumsum(x).astype(np.int32))


@pytest.mark.parametrize(("rows", "cols"), [(5, 7), (9, 32), (6, 101)])
def test_softmax(rows: int, cols: int) -> None:
    x = (np.random.default_rng(rows).normal(size=(rows, cols)) * 5).astype(np.float32)
    y = np.zeros_like(x)
    run(program(SIMT), "softmax_rows", (-(-rows // 4),), (32, 4), [x, y, rows, cols])
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    want = e / e.sum(axis=1, keepdims=True)
    within(y, want, want * (cols // 32 + 12) * ULP)


def test_bitonic_sort() -> None:
    keys = np.random.default_rng(2).integers(0, 2**32, 1200, dtype=np.uint32)
    got = keys.copy()
    run(program(SIMT), "bitonic_sort", (3,), (256,), [got, len(keys)])
    same_bits(got, np.concatenate([np.sort(keys[k : k + 512]) for k in (0, 512, 1024)]))


def test_dot_products_of_bytes() -> None:
    rng = np.random.default_rng(3)
    rows, words = 6, 45
    a, b, c = (rng.integers(0, 256, (rows, 4 * words), dtype=np.uint8) for _ in range(3))
    out = np.zeros((rows, 2), np.int32)
    run(program(SIMT), "dot_dp4a", (rows,), (32,),
        [a.view(np.int32), b.view(np.int32), c.view(np.uint32), out, words])  # fmt: skip
    signed = (a.view(np.int8).astype(np.int64) * b.view(np.int8)).sum(axis=1)
    same_bits(out[:, 0].copy(), (signed + (c.astype(np.int64) ** 2).sum(axis=1)).astype(np.int32))
    a16 = a.view(np.int16).reshape(rows, words, 2).astype(np.int64)
    b8 = b.view(np.int8).reshape(rows, words, 4).astype(np.int64)
    differ = np.abs(c.astype(np.int16) - b).astype(np.uint8).view(np.uint32)
    for row in range(rows):
        lanes = []
        for lane in range(32):
            m = 0
            for k in range(lane, words, 32):
                m = (m + int((a16[row, k] * b8[row, k, :2]).sum())) & 0xFFFFFFFF
                m ^= int(differ[row, k])
                av, bv = a[row, 4 * k : 4 * k + 4], b[row, 4 * k : 4 * k + 4]
                permuted = int.from_bytes(bytes([av[0], bv[0], av[1], bv[1]]), "little")
                word = int(a.view(np.uint32)[row, k])
                funnel = ((m << 32 | word) << 5 >> 32) & 0xFFFFFFFF
                m = (m + permuted + funnel) & 0xFFFFFFFF
            lanes.append(m)
        assert int(out[row, 1]) & 0xFFFFFFFF == int(np.bitwise_xor.reduce(np.array(lanes, np.uint32)))


def test_calls_of_functions() -> None:
    n = 77
    rng = np.random.default_rng(4)
    x, table = rng.normal(size=n).astype(np.float32), rng.normal(size=8).astype(np.float32)
    y, means = np.zeros(n, np.float32), np.zeros(n)
    run(program(SIMT), "calls", (2,), (64,), [x, table, y, means, n])

    def leaf(v: np.float32, k: int) -> np.float32:
        return np.float32(v * table[k]) if k & 1 else np.float32(v + table[k])

    def branchy(v: np.float32, count: int) -> np.float32:
        for k in range(count):
            v = leaf(v, k & 7) if k % 3 else np.float32(leaf(v, 7 - (k & 7)) * np.float32(0.5))
        return v

    want = [branchy(v, i % 11) if i % 2 else leaf(branchy(v, i % 5), i & 7) for i, v in enumerate(x)]
    same_bits(y, np.array(want, np.float32))
    i, v = np.arange(n), x.astype(np.float64)
    count = i % 4 + 1
    inner = (2.0 * v * count + v) / (count + 1)
    mean = (v + inner * (count + 1)) / (count + 2)
    within(means, mean + (count + 2) * 1000.0 + (i & 1) + 10 * (2 | (i & 4)) + 100, 1e-12 * 7000)


def test_sort_in_local_memory() -> None:
    n = 70
    x = np.random.default_rng(5).integers(-(2**15), 2**15, (n, 16)).astype(np.int16)
    y = np.zeros_like(x)
    run(program(SIMT), "local_sort", (2,), (64,), [x, y, n])
    i, k = np.arange(n)[:, None], np.arange(16)[None]
    same_bits(y, np.sort(x, axis=1)[i, (k + i) % 16])


def test_stencil_on_a_grid_of_three_axes() -> None:
    nz, ny, nx = 7, 10, 19
    x = np.random.default_rng(6).normal(size=(nz, ny, nx)).astype(np.float32)
    y = np.zeros_like(x)
    run(program(SIMT), "stencil3d", (3, 3, 2), (8, 4, 4), [x, y, nx, ny, nz, np.float32(-6), np.float32(1.25)])
    p = np.pad(x.astype(np.float64), 1)
    near = p[1:-1, 1:-1, :-2] + p[1:-1, 1:-1, 2:] + p[1:-1, :-2, 1:-1] + p[1:-1, 2:, 1:-1] + p[:-2, 1:-1, 1:-1]
    near += p[2:, 1:-1, 1:-1]
    within(y, -6.0 * x + 1.25 * near, 8 * ULP * (6 * np.abs(x) + 1.25 * 6 * np.abs(x).max()))


def test_collatz() -> None:
    n = 150
    start = np.random.default_rng(7).integers(1, 10**6, n).astype(np.uint64)
    steps, top = np.zeros(n, np.uint32), np.zeros(n, np.uint64)
    run(program(SIMT), "collatz", (2,), (96,), [start, steps, top, n])
    for s, count, high in zip(start.tolist(), steps, top):
        v, c, h = s, 0, s
        while v != 1:
            v = 3 * v + 1 if v % 2 else v // 2
            c, h = c + 1, max(h, v)
        assert (c, h) == (count, high)


def test_wide_accesses() -> None:
    n = 45
    rng = np.random.default_rng(8)
    a = rng.normal(size=(n, 4)).astype(np.float32)
    b = rng.normal(size=(n, 2))
    c = rng.integers(-(2**63), 2**63 - 1, (n, 2), dtype=np.int64)
    c[:, 0] >>= rng.integers(0, 60, n)
    d = rng.integers(0, 256, (n, 4), dtype=np.uint8)
    oa, ob, oc, od = np.zeros_like(a), np.zeros_like(b), np.zeros_like(c), np.zeros((n, 4), np.uint16)
    counters = run(program(SIMT), "wide_copy", (1,), (64,), [a, b, c, d, oa, ob, oc, od, n]).counters
    same_bits(oa, np.ascontiguousarray(a[:, ::-1]))
    same_bits(ob, np.stack([b[:, 0] + b[:, 1], b[:, 0] - b[:, 1]], axis=1))
    quotient = [int(p / q) if abs(p) < 2**50 else abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1)
                for p, q in zip(c[:, 1].tolist(), (c[:, 0] | 1).tolist())]  # fmt: skip
    rest = [abs(p) % abs(q) * (1 if p >= 0 else -1) for p, q in zip(c[:, 0].tolist(), (c[:, 1] | 1).tolist())]
    same_bits(oc, np.array([quotient, rest], np.int64).T.copy())
    e = d.astype(np.uint16)
    same_bits(od, np.stack([e[:, 0] * e[:, 1], e[:, 2] << 3, e[:, 3], e[:, 0] ^ e[:, 3]], axis=1))
    # 16 bytes for each of 45 lanes are 512 + 208 bytes: 16 and 7 sectors; 4 bytes: 4 and 2; 8 bytes: 8 and 4.
    assert counters.global_sectors == 6 * (16 + 7) + (4 + 2) + (8 + 4)


def test_numerical_library() -> None:
    n = 96
    rng = np.random.default_rng(9)
    x = (rng.normal(size=n) * 3).astype(np.float32)
    x[:4] = [1e5, -3e7, 0.5, 2.0]
    x[4:8] = [88.0, -87.0, 1e-3, 105615.0]
    x[8:16] *= 1000
    f, d, q = np.zeros((n, 10), np.float32), np.zeros((n, 6)), np.zeros((n, 3), np.int32)
    run(program(SIMT), "library", (3,), (32,), [x, f, d, q, n, -7])
    v = x.astype(np.float64)
    million = (x * np.float32(1e6)).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        power, modulus = np.float64(np.float32(1.7)), np.float64(np.float32(0.7))
        columns = [np.sin(v), np.cos(million), np.exp(v), np.log(np.abs(v)), np.abs(v) ** power]
        columns += [np.vectorize(erf)(v), np.tanh(v), np.arctan2(v, 1.5), np.cbrt(v), np.fmod(v, modulus)]
        want = np.stack(columns, axis=1)
        # The CUDA manual's bounds: 2 ulp for most, 8 for powf, 3 for atan2f; fmodf is exact.
        as_f32 = want.astype(np.float32)
        for k, ulps in enumerate([2, 2, 2, 2, 8, 2, 2, 3, 2, 0]):
            spacing = np.spacing(np.abs(as_f32[:, k])).astype(np.float64)
            finite = np.isfinite(as_f32[:, k])
            same_bits(f[~finite, k].copy(), as_f32[~finite, k].copy())
            within(f[finite, k], want[finite, k], (ulps * spacing)[finite] + 2.0**-149)
        size = np.abs(v)
        exact = np.stack([np.sin(v), np.exp(v), np.log(size), 1 / np.sqrt(size), size**-0.3, v / (v * v + 1)], axis=1)
    for k in range(6):
        finite = np.isfinite(exact[:, k])
        same_bits(d[~finite, k].copy(), exact[~finite, k].copy())
        within(d[finite, k], exact[finite, k], 4 * np.spacing(np.abs(exact[finite, k])))
    k = np.clip(np.floor((x * np.float32(1000)).astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int64)
    same_bits(q[:, 0].copy(), np.trunc(k / -7.0).astype(np.int32))
    same_bits(q[:, 1].copy(), np.fmod(k, -7).astype(np.int32))
    for row, value in zip(q[:, 2], k.tolist()):
        u = value & 0xFFFFFFFF
        bits = f"{u:032b}"
        low = (u & -u).bit_length()
        total = u // (-7 & 0xFFFFFFFF) + int(bits[::-1], 2) + 32 - u.bit_length() + low
        assert int(row) & 0xFFFFFFFF == total & 0xFFFFFFFF


def test_atomics() -> None:
    n = 200
    x = np.random.default_rng(10).integers(-1000, 1000, n).astype(np.int32)
    i32 = np.zeros(12, np.int32)
    u32 = np.array([2**32 - 1] * 3 + [0] * 12, np.uint32)
    u64, f32, f64 = np.zeros(6, np.uint64), np.zeros(6, np.float32), np.zeros(3)
    run(program(SIMT), "atomics", (2,), (128,), [x, i32, u32, u64, f32, f64, n])
    u = x.view(np.uint32)
    for s in range(3):
        v, w = x[s::3], u[s::3]
        assert i32[s] == v.sum() and i32[3 + s] == min(v.min(), 0) and i32[6 + s] == max(v.max(), 0)
        assert i32[9 + s] == -v.sum()
        assert u32[s] == np.bitwise_and.reduce(w | 0xFF) and u32[3 + s] == np.bitwise_or.reduce(w & 0x0F0F0F)
        assert u32[6 + s] == np.bitwise_xor.reduce(w)
        assert u32[9 + s] == len(v) % 17 and u32[12 + s] == (-len(v)) % 13
        assert u64[s] == np.uint64(int(v.sum()) % 2**64) and u64[3 + s] == np.max(w.astype(np.uint64) << np.uint64(7))
        # x % 64 in C keeps the sign of x; sums of small integers are exact.
        assert f32[s] == np.fmod(v, 64).sum() and f64[s] == v.sum()
        assert f32[3 + s] == max(v.max() * 0.5, 0)


def test_compaction_and_matching_lanes() -> None:
    n = 300
    x = np.random.default_rng(11).integers(0, 1000, n).astype(np.int32)
    kept, count, buckets = np.zeros(n, np.int32), np.zeros(1, np.int32), np.zeros(9, np.int32)
    run(program(SIMT), "compact", (3,), (128,), [x, kept, count, buckets, n])
    wanted = x[x % 3 == 0]
    assert count[0] == len(wanted)
    assert Counter(kept[: count[0]].tolist()) == Counter(wanted.tolist())
    same_bits(buckets[:8].copy(), np.bincount(x & 7, minlength=8).astype(np.int32))
    assert buckets[8] == x[x % 2 == 1].sum()


def test_mandelbrot() -> None:
    width, height, scale = 45, 37, 0.07
    out = np.zeros((height, width), np.uint16)
    run(program(SIMT), "mandelbrot", (2, 5), (32, 8), [out, width, height, scale])
    # Fused multiplications move single steps at the rim: the escape counts may differ there, nowhere else.
    py, px = np.mgrid[:height, :width]
    c = (px - width * 0.7) * scale + 1j * ((py - height * 0.5) * scale)
    z, k = np.zeros_like(c), np.zeros(c.shape, np.int64)
    with np.errstate(all="ignore"):
        for _ in range(200):
            live = np.abs(z) ** 2 <= 4
            k += live
            z = np.where(live, z * z + c, z)
    assert (out != k).mean() < 0.02
