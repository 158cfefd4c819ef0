"""`arith` semantics against Python's own integers, rationals and ml_dtypes."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from tesseracc.interpret import scalar

INTS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")


def _wrap(value: int, dtype: str) -> int:
    bits = int(dtype[1:])
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype[0] == "i" and value >> (bits - 1) else value


def _samples(dtype: str) -> np.ndarray:
    info = np.iinfo(np.dtype(dtype.replace("i", "int").replace("u", "u") if dtype[0] == "i" else "uint" + dtype[1:]))
    edge = [info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, 100]
    edge += [-1, -2, -7] if dtype[0] == "i" else []
    return np.array(edge, info.dtype)


@pytest.mark.parametrize("dtype", INTS)
def test_integers_wrap_floor_and_divide_by_zero(dtype: str) -> None:
    x = _samples(dtype)
    a, b = np.meshgrid(x, x)
    python = {
        "add": lambda p, q: p + q,
        "sub": lambda p, q: p - q,
        "mul": lambda p, q: p * q,
        "floordiv": lambda p, q: p // q if q else 0,
        "mod": lambda p, q: p % q if q else 0,
        "max": max,
        "min": min,
        "and": lambda p, q: p & q,
        "or": lambda p, q: p | q,
        "xor": lambda p, q: p ^ q,
    }
    for kind, function in python.items():
        expected = [_wrap(function(int(p), int(q)), dtype) for p, q in zip(a.ravel(), b.ravel(), strict=True)]
        got = scalar.binary(kind, a, b, dtype)
        assert got.dtype == x.dtype
        assert got.ravel().tolist() == expected, kind


@pytest.mark.parametrize("dtype", INTS)
def test_shifts_and_powers(dtype: str) -> None:
    x = _samples(dtype)
    bits = int(dtype[1:])
    for count in (0, 1, bits - 1, bits, bits + 3):
        n = np.full_like(x, count)
        assert scalar.binary("shl", x, n, dtype).tolist() == [_wrap(int(v) << count, dtype) for v in x]
        assert scalar.binary("shr", x, n, dtype).tolist() == [int(v) >> count for v in x]
    for exponent in (0, 1, 2, 5):
        got = scalar.binary("pow", x, np.full_like(x, exponent), dtype)
        assert got.tolist() == [_wrap(int(v) ** exponent, dtype) for v in x]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_float_max_min_compare_with_nan(dtype: str) -> None:
    kind = np.float32 if dtype == "f32" else np.float64
    a = np.array([np.nan, 1, np.nan, 2], kind)
    b = np.array([1, np.nan, np.nan, 3], kind)
    assert np.isnan(scalar.binary("max", a, b, dtype)).tolist() == [True, True, True, False]
    assert np.isnan(scalar.binary("min", a, b, dtype)).tolist() == [True, True, True, False]
    assert scalar.compare("lt", a, b).tolist() == [False, False, False, True]
    assert scalar.compare("ne", a, b).tolist() == [True, True, True, True]
    assert scalar.unary("isnan", a, dtype).tolist() == [True, False, True, False]


def test_float_to_int_truncates_saturates_and_takes_nan_to_zero() -> None:
    x = np.array([1.9, -1.9, 300.0, -300.0, np.nan, np.inf, -np.inf], np.float32)
    assert scalar.cast(x, "f32", "i8").tolist() == [1, -1, 127, -128, 0, 127, -128]
    assert scalar.cast(x, "f32", "u8").tolist() == [1, 0, 255, 0, 0, 255, 0]
    assert scalar.cast(x, "f32", "i64").tolist() == [1, -1, 300, -300, 0, 2**63 - 1, -(2**63)]
    assert scalar.cast(x, "f32", "u64").tolist() == [1, 0, 300, 0, 0, 2**64 - 1, 0]
    assert scalar.cast(x, "f32", "bool").tolist() == [True] * 7


@pytest.mark.parametrize(("dtype", "storage"), [("bf16", ml_dtypes.bfloat16), ("f16", np.float16)])
def test_casts_to_sixteen_bits_round_once(dtype: str, storage: type) -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [rng.standard_normal(5000) * 10.0 ** rng.integers(-30, 30, 5000), [np.inf, -np.inf, 0.0, -0.0]]
    ).astype(np.float32)
    with np.errstate(over="ignore"):
        expected = x.astype(storage)
    got = scalar.cast(x, "f32", dtype)
    assert got.dtype == np.dtype(storage)
    assert np.array_equal(got.view(np.uint16), expected.view(np.uint16))
    assert np.array_equal(scalar.cast(got, dtype, "f32"), expected.astype(np.float32))


def test_integers_reach_narrow_floats_through_f32() -> None:
    # just above the middle of two bf16 neighbours; f32 drops the last bit, and the tie goes to the even one
    value = 2**62 + 2**54 + 1
    assert scalar.cast(np.array([value, -value, 3]), "i64", "bf16").astype(np.float64).tolist() == [
        2.0**62,
        -(2.0**62),
        3.0,
    ]


@pytest.mark.parametrize(("dtype", "largest"), [("fp8_e4m3", 448.0), ("fp8_e5m2", 57344.0)])
def test_fp8_saturates_and_keeps_nan(dtype: str, largest: float) -> None:
    x = np.array([1e9, -1e9, np.inf, np.nan, 1.0, 0.3], np.float32)
    back = scalar.cast(scalar.cast(x, "f32", dtype), dtype, "f32")
    assert back[:3].tolist() == [largest, -largest, largest]
    assert np.isnan(back[3]) and back[4] == 1.0
    storage = ml_dtypes.float8_e4m3fn if dtype == "fp8_e4m3" else ml_dtypes.float8_e5m2
    assert back[5] == np.float32(np.float32(0.3).astype(storage))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_fma_rounds_once(dtype: str) -> None:
    rng = np.random.default_rng(2)
    kind = np.float32 if dtype == "f32" else np.float64
    a, b = (rng.standard_normal(2000).astype(kind) for _ in range(2))
    c = (-(a.astype(np.float64) * b) * (1 + rng.choice([0, 1e-8, 1e-16, 1.0], 2000))).astype(kind)
    extreme = np.array([1e30, 1e-30, 3.0, 0.0, -0.0, 1e-38], kind)
    a, b, c = np.append(a, extreme), np.append(b, extreme[::-1]), np.append(c, extreme)
    got = scalar.fma(a, b, c, dtype)
    for x, y, z, value in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        if exact == 0:
            assert value == 0
            continue
        near = [value, np.nextafter(value, kind(np.inf)), np.nextafter(value, kind(-np.inf))]
        gaps = [abs(Fraction(float(v)) - exact) for v in near]
        assert gaps[0] == min(gaps)


def test_fma_f64_far_from_one() -> None:
    got = scalar.fma(
        np.array([1e300, 1e-300, np.inf]), np.array([1e10, 1e-20, 2.0]), np.array([-1e308, 1e-320, 1.0]), "f64"
    )
    assert (
        got[0] == math.inf
        and got[1] == float(Fraction(1e-300) * Fraction(1e-20) + Fraction(1e-320))
        and got[2] == math.inf
    )


def test_transcendentals_are_within_half_an_ulp_of_f64() -> None:
    x = np.linspace(-4, 4, 1001, dtype=np.float32)
    for kind, function in {
        "exp": math.exp,
        "tanh": math.tanh,
        "erf": math.erf,
        "sin": math.sin,
        "cos": math.cos,
        "expm1": math.expm1,
    }.items():
        got = scalar.unary(kind, x, "f32")
        assert got.dtype == np.float32
        assert np.array_equal(got, np.array([np.float32(function(float(v))) for v in x])), kind


def test_constants_wrap_and_round() -> None:
    assert scalar.constant(300, "u8") == 44
    assert scalar.constant(-1, "u64") == 2**64 - 1
    assert scalar.constant(1.0 + 2**-9, "bf16").astype(np.float32) == 1.0
    assert np.isnan(scalar.constant(math.nan, "f32"))


def test_identities() -> None:
    for dtype in ("f32", "i32", "u8"):
        x = np.array([3, 7, 100], np.dtype({"f32": "float32", "i32": "int32", "u8": "uint8"}[dtype]))
        for kind in ("add", "mul", "max", "min"):
            assert np.array_equal(scalar.binary(kind, scalar.identity(kind, dtype), x, dtype), x)


def test_fma_f64_with_a_zero_factor() -> None:
    """Where a product has nothing to round, a * b + c is the fma, with the signs of zeros, infinities and NaN."""
    values = np.array([0.0, -0.0, 1.5, -1e300, 1e-310, np.inf, -np.inf, np.nan])
    a, b, c = (x.ravel() for x in np.meshgrid([0.0, -0.0], values, values))
    with np.errstate(all="ignore"):
        want = a * b + c
    for got in (scalar.fma(a, b, c, "f64"), scalar.fma(b, a, c, "f64")):
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(want[want == 0]))
