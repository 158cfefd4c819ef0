"""The emulated fused multiply-add gives the bits of exact rational arithmetic, and is used only where it is needed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.passes.target.straight import evaluate, expand


def exact(a: float, b: float, c: float, dtype: Any) -> Any:
    """a * b + c by fractions, rounded once."""
    value = Fraction(a) * Fraction(b) + Fraction(c)
    near = dtype(float(value))  # float() of a Fraction is correctly rounded
    if dtype is np.float64:
        return near
    # to f32 in one step: the nearest of the neighbours, ties to even
    candidates = [np.nextafter(near, dtype(-np.inf)), near, np.nextafter(near, dtype(np.inf))]
    return min(candidates, key=lambda x: (abs(Fraction(float(x)) - value), int(x.view(np.uint32)) & 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_are_those_of_one_rounding(dtype: Any) -> None:
    rng = np.random.default_rng(21)
    a, b = (rng.standard_normal(600).astype(dtype) for _ in range(2))
    # near-cancellation, halfway cases, and ordinary sums
    c = np.concatenate(
        [-(a[:200] * b[:200]), rng.standard_normal(200).astype(dtype), (rng.standard_normal(200) * 1e-9).astype(dtype)]
    )
    name = "f32" if dtype is np.float32 else "f64"
    found = evaluate("expand-fma", "arith.fma", [a, b, c], name, name, name, arch="x86-64-v2")
    expected = np.array([exact(float(x), float(y), float(z), dtype) for x, y, z in zip(a, b, c, strict=True)], dtype)
    np.testing.assert_array_equal(found, expected)


def test_specials_follow_ieee() -> None:
    inf, nan = np.inf, np.nan
    a, b, c = np.array(
        [[inf, 2.0, 1.0], [1e300, 1e300, 0.0], [nan, 1.0, 1.0], [inf, 1.0, -inf], [0.0, inf, 1.0]]
    ).T.copy()
    found = evaluate("expand-fma", "arith.fma", [a.copy(), b.copy(), c.copy()], "f64", "f64", "f64", arch="x86-64-v2")
    np.testing.assert_array_equal(found, [inf, inf, nan, nan, nan])


def test_only_where_the_target_lacks_it() -> None:
    kept = expand("expand-fma", "arith.fma", ["f32"] * 3, arch="x86-64-v3")
    assert [op.name for op in kept.body.ops] == ["arith.fma"]
    assert "arith.fma" not in {
        op.name for op in expand("expand-fma", "arith.fma", ["f32"] * 3, arch="x86-64-v2").body.ops
    }
