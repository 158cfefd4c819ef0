"""Elementary functions against mpmath-grade references: bounds in units in the last place, and special values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.passes.target.straight import evaluate

Array = np.ndarray[Any, Any]
LONG = np.longdouble
_erf = np.vectorize(math.erf, otypes=[np.float64])

#: function -> (reference in extended precision, f32 range, f64 range, bound f32, bound f64)
FUNCTIONS: dict[str, tuple[Any, tuple[float, float], tuple[float, float], float, float]] = {
    "exp": (np.exp, (-104, 88.7), (-745, 709.7), 1.0, 1.0),
    "exp2": (np.exp2, (-150, 127.9), (-1075, 1023.9), 1.0, 1.0),
    "expm1": (np.expm1, (-20, 88.7), (-45, 709.7), 2.0, 2.0),
    "log": (np.log, (1e-45, 3e38), (5e-324, 1e308), 1.0, 1.0),
    "log2": (np.log2, (1e-45, 3e38), (5e-324, 1e308), 1.5, 2.0),
    "log1p": (np.log1p, (-0.9999, 3e38), (-0.9999, 1e308), 1.5, 2.0),
    "tanh": (np.tanh, (-12, 12), (-25, 25), 2.5, 3.0),
    "sin": (np.sin, (-(2.0**20), 2.0**20), (-(2.0**20), 2.0**20), 1.5, 2.0),
    "cos": (np.cos, (-(2.0**20), 2.0**20), (-(2.0**20), 2.0**20), 1.5, 2.0),
    "rsqrt": (lambda x: 1 / np.sqrt(x), (1e-45, 3e38), (5e-324, 1e308), 1.5, 1.5),
}


def ulps(found: Array, exact: Array) -> Array:
    """Distance in units in the last place of the exact result."""
    dtype = found.dtype
    near = np.abs(exact).astype(dtype)
    near = np.minimum(near, np.finfo(dtype).max)
    unit = np.spacing(near).astype(LONG)
    return np.abs(found.astype(LONG) - exact) / unit


def points(low: float, high: float, dtype: Any, rng: np.random.Generator) -> Array:
    """Uniform, logarithmic around 0, and near 1."""
    uniform = rng.uniform(low, high, 8000) if high < 1e30 else rng.uniform(low, 1e6, 8000)
    tiny = np.finfo(dtype).smallest_subnormal
    exponents = rng.uniform(math.log2(float(tiny)), math.log2(min(high, 1e300)), 8000)
    spread = np.exp2(exponents)
    found = np.concatenate(
        [uniform, spread, -spread, 1 + rng.standard_normal(3000) * 1e-3, 1 + rng.standard_normal(2000) * 1e-7]
    )
    found = found[(found >= low) & (found <= high)]
    with np.errstate(over="ignore", under="ignore"):
        return np.unique(found.astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_within_bound(name: str, dtype: Any) -> None:
    reference, range32, range64, bound32, bound64 = FUNCTIONS[name]
    low, high = range32 if dtype == np.float32 else range64
    x = points(low, high, dtype, np.random.default_rng(11))
    with np.errstate(all="ignore"):
        exact = reference(x.astype(LONG))
        if name in ("sin", "cos"):
            assert np.abs(exact).max() <= 1
    found = evaluate("expand-math", f"arith.{name}", x, "f32" if dtype == np.float32 else "f64")
    error = ulps(found, exact)
    worst = int(np.argmax(error))
    bound = bound32 if dtype == np.float32 else bound64
    assert error[worst] <= bound, (
        f"{name}({x[worst]!r}) = {found[worst]!r}, exact {exact[worst]!r}: {float(error[worst]):.3f} ulp"
    )


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 2.0), (np.float64, 3.0)])
def test_erf(dtype: Any, bound: float) -> None:
    x = points(-6, 6, dtype, np.random.default_rng(5))
    found = evaluate("expand-math", "arith.erf", x, "f32" if dtype == np.float32 else "f64")
    # the reference is a double of its own, good to about one unit
    error = ulps(found, _erf(x.astype(np.float64)).astype(LONG))
    assert error.max() <= bound, (x[np.argmax(error)], float(error.max()))


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1.0), (np.float64, 4.0)])
def test_pow(dtype: Any, bound: float) -> None:
    rng = np.random.default_rng(9)
    x = np.exp(rng.uniform(-30, 30, 15000)).astype(dtype)
    limit = 80 if dtype == np.float32 else 600
    y = (rng.uniform(-1, 1, 15000) * limit / np.maximum(np.abs(np.log(x)), 0.1)).astype(dtype)
    near = (1 + rng.standard_normal(3000) * 1e-4).astype(dtype)
    x, y = np.concatenate([x, near]), np.concatenate([y, rng.uniform(-1e4, 1e4, 3000).astype(dtype)])
    name = "f32" if dtype == np.float32 else "f64"
    found = evaluate("expand-math", "arith.pow", [x, y], name, name)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(LONG), y.astype(LONG))
    usable = np.isfinite(exact.astype(dtype)) & (exact > np.finfo(dtype).tiny)
    error = ulps(found[usable], exact[usable])
    assert error.max() <= bound, float(error.max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pow_special_values(dtype: Any) -> None:
    special = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, np.inf, -np.inf, np.nan, 2.5, -2.5, 1e30, -1e30]
    x, y = (a.reshape(-1).astype(dtype) for a in np.meshgrid(special, special))
    name = "f32" if dtype == np.float32 else "f64"
    found = evaluate("expand-math", "arith.pow", [x, y], name, name)
    with np.errstate(all="ignore"):
        expected = np.power(x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(expected[numbers]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["exp", "exp2", "expm1", "log", "log2", "log1p", "tanh", "erf", "sin", "cos", "rsqrt"])
def test_special_values(name: str, dtype: Any) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, 1e30, -1e30, 5e-45, -5e-45, -1.5], dtype)
    found = evaluate("expand-math", f"arith.{name}", x, "f32" if dtype == np.float32 else "f64").copy()
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        reference = {"erf": _erf, "rsqrt": lambda v: 1 / np.sqrt(v)}.get(name) or getattr(np, name)
        expected = reference(wide).astype(dtype)
    if name in ("sin", "cos"):
        found[6:8], expected[6:8] = 0, 0  # far outside the stated range
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(expected[numbers]))
