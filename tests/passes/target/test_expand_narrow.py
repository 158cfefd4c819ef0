"""Casts of narrow floats: every pattern against ml_dtypes and NumPy, rounding against exact neighbours."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.types import ScalarType, element
from tesseracc.ir.value import Func, Module, Value
from tests.passes.target.straight import evaluate

REFERENCE: dict[str, Any] = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
}
LARGEST = {"fp8_e4m3": 448.0, "fp8_e5m2": 57344.0}


def cast(values: np.ndarray[Any, Any], source: str, target: str) -> np.ndarray[Any, Any]:
    return evaluate("expand-narrow", "arith.cast", values, source, to=target)


def patterns(name: str) -> np.ndarray[Any, Any]:
    dtype = np.dtype(REFERENCE[name])
    raw = np.uint8 if dtype.itemsize == 1 else np.uint16
    return np.arange(1 << (8 * dtype.itemsize), dtype=np.uint32).astype(raw)


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_every_pattern_widens_exactly(name: str) -> None:
    raw = patterns(name)
    with np.errstate(invalid="ignore"):
        expected = raw.view(REFERENCE[name]).astype(np.float32)
    found = cast(raw, name, "f32")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found)[~np.isnan(found)], np.signbit(expected)[~np.isnan(found)])


@pytest.mark.parametrize("name", sorted(REFERENCE))
@pytest.mark.parametrize("source", ["f32", "f64"])
def test_rounding_at_and_around_every_midpoint(name: str, source: str) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        values = patterns(name).view(REFERENCE[name]).astype(np.float64)
    finite = np.sort(np.unique(values[np.isfinite(values)]))
    middle = (finite[1:] + finite[:-1]) / 2
    np_source = np.float32 if source == "f32" else np.float64
    points = np.concatenate([finite, middle]).astype(np_source)
    rng = np.random.default_rng(7)
    spread = (rng.standard_normal(20000) * 10.0 ** rng.uniform(-9, 9, 20000)).astype(np_source)
    points = np.concatenate(
        [points, np.nextafter(points, np_source(np.inf)), np.nextafter(points, np_source(-np.inf)), spread]
    )
    if name in LARGEST:
        points = points[np.abs(points) <= LARGEST[name]]
    with np.errstate(over="ignore", under="ignore"):
        # ml_dtypes rounds f64 through f32; the exact answer is the nearer of the two neighbours
        expected = nearest(points.astype(np.float64), finite, name)
    found = cast(points, source, name).view(REFERENCE[name])
    np.testing.assert_array_equal(found.astype(np.float64), expected)


def nearest(points: np.ndarray[Any, Any], finite: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """The nearest finite value, ties to the even pattern; infinity past the last midpoint for f16 and bf16."""
    at = np.clip(np.searchsorted(finite, points), 1, len(finite) - 1)
    low, high = finite[at - 1], finite[at]
    raw = np.uint8 if np.dtype(REFERENCE[name]).itemsize == 1 else np.uint16
    even = (low.astype(REFERENCE[name]).view(raw) & 1) == 0
    down, up = points - low, high - points
    found = np.where((down < up) | ((down == up) & even), low, high)
    found = np.where(points <= finite[0], finite[0], found)
    if name not in LARGEST:
        gap = finite[-1] - finite[-2]
        found = np.where(np.abs(points) >= finite[-1] + gap / 2, np.copysign(np.inf, points), found)
    return found


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_specials(name: str) -> None:
    points = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e30, -1e30], np.float32)
    found = cast(points, "f32", name).view(REFERENCE[name]).astype(np.float32)
    big = LARGEST.get(name, np.inf)
    huge = big if name != "bf16" else np.float32(ml_dtypes.bfloat16(1e30))
    np.testing.assert_array_equal(found, np.array([big, -big, np.nan, 0.0, -0.0, huge, -huge], np.float32))
    assert np.signbit(found[4]) and not np.signbit(found[3])


def test_integers_and_bool_go_through_one_rounding() -> None:
    rng = np.random.default_rng(3)
    whole = rng.integers(-(2**31), 2**31, 5000, dtype=np.int64).astype(np.int32)
    with np.errstate(invalid="ignore"):
        finite = patterns("bf16").view(ml_dtypes.bfloat16).astype(np.float64)
    finite = np.unique(finite[np.isfinite(finite)])
    found = cast(whole, "i32", "bf16").view(ml_dtypes.bfloat16).astype(np.float64)
    np.testing.assert_array_equal(found, nearest(whole.astype(np.float64), finite, "bf16"))
    raw = patterns("fp8_e5m2")
    with np.errstate(invalid="ignore"):
        values = raw.view(ml_dtypes.float8_e5m2).astype(np.float64)
    expected = np.where(
        np.isnan(values), 0, np.clip(np.nan_to_num(values, posinf=2**31 - 1, neginf=-(2**31)), -(2**31), 2**31 - 1)
    )
    np.testing.assert_array_equal(cast(raw, "fp8_e5m2", "i32"), np.trunc(expected).astype(np.int32))
    np.testing.assert_array_equal(cast(raw, "fp8_e5m2", "bool"), values != 0)


def test_what_has_no_narrow_type_stays_the_same_operation() -> None:
    """It was checked and numbered before: only what changes is made again."""
    b = Builder()
    x = Value(ScalarType("f32"))
    twice = b.op("arith.add", x, x)
    rounded = b.op("arith.cast", b.op("arith.cast", twice, to="bf16"), to="f32")
    result = b.op("arith.mul", rounded, twice)
    attrs = {"group": 1, "scratch": 0, "shared": 0, "symbol": "f"}
    before = Func("target.func", "f", b.region([x], [result]), attrs)
    after = run_pipeline(parse_pipeline("expand-narrow"), Module((before,)), Context(load("x86-64-v4"))).funcs[0]
    assert after.body.ops[0] is before.body.ops[0] and after.params[0] is x
    assert after.body.ops[-1] is not before.body.ops[-1] and after.body.ops[-1].operands[1] is twice
    assert all(str(element(value.type)) != "bf16" for op in after.walk() for value in op.results)
