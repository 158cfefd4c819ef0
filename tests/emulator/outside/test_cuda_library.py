"""CUDA programs (nvcc) that synchronise through the C++ library, and arithmetic on narrow floats, against NumPy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.emulator.harness import same_bits
from tests.emulator.outside.support import program, run, within

BF16: Any = ml_dtypes.bfloat16
E4M3: Any = ml_dtypes.float8_e4m3fn
E5M2: Any = ml_dtypes.float8_e5m2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pipeline_of_the_library(seed: int) -> None:
    rows, columns = 5, 72
    x = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    out = np.zeros(64, np.float32)
    run(program("cuda/library"), "pipeline_sum", (1,), (64,), [x, out, rows, columns],
        dynamic_shared=2 * columns * 4, seed=seed)  # fmt: skip
    want = np.zeros(64, np.float32)
    for row in x:
        for start in (0, 64):
            c = np.arange(start, min(start + 64, columns))
            want[c - start] += row[(c + 7) % columns]
    same_bits(out, want)


@pytest.mark.parametrize("seed", [0, 1])
def test_two_barriers_between_producers_and_consumers(seed: int) -> None:
    x = np.random.default_rng(1).integers(-1000, 1000, (7, 64)).astype(np.int32)
    y = np.zeros_like(x)
    run(program("cuda/library"), "produce_consume", (1,), (128,), [x, y, 7], seed=seed)
    same_bits(y, (x[:, ::-1] * 3 + np.arange(7)[:, None]).astype(np.int32))


def test_token_travels_through_all_blocks() -> None:
    turn, value = np.zeros(1, np.int32), np.ones(1, np.int32)
    run(program("cuda/library"), "token_ring", (9,), (32,), [turn, value, 9])
    want = 1
    for b in range(9):
        want = want * 3 + b
    assert (turn[0], value[0]) == (9, want)


def test_blocks_exchange_after_a_barrier_of_the_grid() -> None:
    x = np.random.default_rng(2).integers(-99, 99, (40, 32)).astype(np.int32)
    sums, out, arrived = np.zeros(40, np.int32), np.zeros(40, np.int32), np.zeros(1, np.uint32)
    run(program("cuda/library"), "grid_exchange", (40,), (32,), [x, sums, out, arrived])
    same_bits(out, (x.sum() - x.sum(axis=1)).astype(np.int32))


def test_named_barriers_with_numbers_in_registers() -> None:
    x = np.random.default_rng(3).integers(-99, 99, 256).astype(np.int32)
    x[150] = 120
    y = np.zeros_like(x)
    run(program("cuda/library"), "named_barriers", (1,), (256,), [x, y])
    t = np.arange(64)
    for pair, s in enumerate(x.reshape(4, 64)):
        for _ in range(pair + 1):
            s = s[(t + 33) % 64] + 1
        mirrored = s[63 - t]
        same_bits(y[64 * pair : 64 * pair + 64].copy(), (mirrored * 2 + (mirrored > 100).any()).astype(np.int32))


def exact(*terms: Any) -> list[Any]:
    return [t.astype(np.float64) for t in terms]


def halves(seed: int, dtype: Any) -> list[Any]:
    """Random pairs with zeros, infinities, NaN and denormals among them."""
    rng = np.random.default_rng(seed)
    out = [(rng.normal(size=(60, 2)) * s).astype(dtype) for s in (3, 1)]
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, 1e-7, -3e-8], dtype)
    out[0][:10, 0], out[1][:10, 1] = special, special
    out[0][10:20, 1], out[1][10:20, 0] = special, special[::-1]
    return out


def rounded(value: Any, dtype: Any) -> Any:
    """f64 to the narrow type: exact f64 inputs of one operation round once."""
    with np.errstate(all="ignore"):
        return value.astype(dtype)


def same_values(got: Any, want: Any) -> None:
    """Equal bits, but any NaN equals any other."""
    nan = np.isnan(want.astype(np.float64))
    assert np.array_equal(np.isnan(got.astype(np.float64)), nan)
    same_bits(
        np.where(nan, 0, got).astype(got.dtype).view(np.uint16),
        np.where(nan, 0, want).astype(got.dtype).view(np.uint16),
    )


def pick(a: Any, b: Any, largest: bool, keep_nan: bool) -> Any:
    """max or min, -0 below +0; NaN loses unless `keep_nan`."""
    x, y = exact(a, b)
    below = (x < y) | ((x == y) & np.signbit(x) & ~np.signbit(y))
    out = np.where(below == largest, y, x)
    nan = np.isnan(x) | np.isnan(y) if keep_nan else np.isnan(x) & np.isnan(y)
    out = np.where(np.isnan(x), y, np.where(np.isnan(y), x, out))
    return np.where(nan, np.nan, out)


def relu(v: Any) -> Any:
    return np.where(v > 0, v, np.where(np.isnan(v), np.nan, 0.0))


def test_half2() -> None:
    a, b = halves(4, np.float16)
    out = np.zeros((60, 12, 2), np.float16)
    run(program("cuda/narrow"), "half2_ops", (1,), (64,), [a, b, out, 60])
    with np.errstate(all="ignore"):
        x, y = exact(a, b)
        saturated = np.clip(np.nan_to_num(x - y, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
        want = [x + y, saturated, x * y, x * y + x, relu(x * y + y), pick(a, b, True, False), pick(a, b, False, True),
                np.abs(x), np.exp2(x), 1 / np.sqrt(np.abs(y)), x / y, (x < y) * 0.5]  # fmt: skip
    for k, w in enumerate(want):
        got, r = out[:, k], rounded(w, np.float16)
        if k in (8, 9, 10):  # approximate: within two units
            finite = np.isfinite(r) & np.isfinite(got)
            assert np.array_equal(np.isfinite(got), np.isfinite(r))
            within(got[finite], w[finite], 2 * np.spacing(np.abs(r[finite])).astype(np.float64))
        else:
            same_values(got, r)


def test_bfloat162() -> None:
    a, b = halves(5, BF16)
    out = np.zeros((60, 8, 2), BF16)
    run(
        program("cuda/narrow"),
        "bf162_ops",
        (1,),
        (64,),
        [a.view(np.uint16), b.view(np.uint16), out.view(np.uint16), 60],
    )
    with np.errstate(all="ignore"):
        x, y = exact(a, b)
        scaled = np.stack([np.float32(x[:, 0]) * np.float32(3), np.float32(y[:, 1]) / np.float32(3)], axis=1)
        want = [
            x + y,
            x - y,
            x * y,
            x * y + x,
            pick(a, b, True, True),
            pick(a, b, False, False),
            scaled,
            relu(x * y + y),
        ]
    for k, w in enumerate(want):
        same_values(out[:, k], rounded(w, BF16))


def toward_zero(v: Any, dtype: Any) -> Any:
    """The neighbour of `v` in the narrow type that is not further from zero."""
    near = rounded(v, dtype)
    bits = near.view(np.uint16)
    return np.where(np.abs(near.astype(np.float64)) > np.abs(v.astype(np.float64)), bits - 1, bits).view(dtype)


def test_conversions() -> None:
    rng = np.random.default_rng(6)
    x = (rng.normal(size=90) * 10.0 ** rng.integers(-6, 7, 90)).astype(np.float32)
    x[:6] = [0.0, -0.0, 0.5, 2.5, 448.0, -1e9]
    h, q = np.zeros((90, 6), np.uint16), np.zeros((90, 4), np.uint8)
    k, back = np.zeros((90, 3), np.int32), np.zeros((90, 2), np.float32)
    run(program("cuda/narrow"), "conversions", (3,), (32,), [x, h, q, k, back, 90])
    half, bf = rounded(x, np.float16), rounded(x, BF16)
    same_bits(h[:, 0].copy(), half.view(np.uint16))
    same_bits(h[:, 1].copy(), toward_zero(x, np.float16).view(np.uint16))
    same_bits(h[:, 2].copy(), half.view(np.uint16))
    same_bits(h[:, 3].copy(), bf.view(np.uint16))
    same_bits(h[:, 4].copy(), toward_zero(x, BF16).view(np.uint16))
    whole = np.clip(np.trunc(x.astype(np.float64)), -(2**31), 2**31 - 1)
    same_bits(h[:, 5].copy(), rounded(whole + 0.0, np.float16).view(np.uint16))
    for column, (v, dtype, top) in enumerate(
        [(x, E4M3, 448), (x, E5M2, 57344), (x, E4M3, 448), (x * np.float32(-0.5), E4M3, 448)]
    ):
        same_bits(q[:, column].copy(), np.clip(v, -top, top).astype(dtype).view(np.uint8))
    info = np.iinfo(np.int32)
    with np.errstate(invalid="ignore"):
        same_bits(k[:, 0].copy(), np.clip(np.rint(half.astype(np.float64)), info.min, info.max).astype(np.int32))
    same_bits(k[:, 1].copy(), whole.astype(np.int32))
    up = np.clip(np.ceil(x.astype(np.float64)), 0, 2**32 - 1).astype(np.uint32)
    same_bits(k[:, 2].copy(), up.view(np.int32))
    same_bits(back[:, 0].copy(), q[:, 0].copy().view(E4M3).astype(np.float32))
    same_bits(back[:, 1].copy(), bf.astype(np.float32))


def test_half_sums_and_packed_atomics() -> None:
    rng = np.random.default_rng(7)
    n = 150
    a, b = (rng.normal(size=(n, 2)).astype(np.float16) for _ in range(2))
    total, sums, wide = np.zeros(2, np.float16), np.zeros(1, np.float32), np.zeros(2, BF16)
    run(program("cuda/narrow"), "half_dot", (1,), (64,), [a, b, sums, total, wide.view(np.uint16), n])
    want = np.float64(0)
    for t in range(64):
        acc = np.zeros(2, np.float16)
        for i in range(t, n, 64):
            acc = (a[i].astype(np.float64) * b[i].astype(np.float64) + acc.astype(np.float64)).astype(np.float16)
            want += np.float64(acc[0]) - np.float64(acc[1])
    within(sums[0], want, 1e-3)
    same_bits(total, np.full(2, 8 * sum(range(8)), np.float16))
    same_bits(wide, np.full(2, 64, BF16))
