"""Floating-point instructions against exact rational arithmetic, NumPy and ml_dtypes."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.emulator.harness import lanewise, same_bits

NARROW: dict[str, Any] = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}
RAW = {"f16": np.uint16, "bf16": np.uint16, "f32": np.uint32, "f64": np.uint64}
DIGITS = {"f16": (11, -14), "bf16": (8, -126), "f32": (24, -126), "f64": (53, -1022)}
LARGEST = {"f16": 65504.0, "bf16": float(ml_dtypes.finfo(ml_dtypes.bfloat16).max),
           "f32": float(np.finfo(np.float32).max), "f64": float(np.finfo(np.float64).max)}  # fmt: skip


def patterns(kind: str, seed: int, n: int = 400) -> Any:
    """Random patterns: all magnitudes, subnormals, infinities, NaN, and many values near 1 so that sums interact."""
    rng = np.random.default_rng(seed)
    bits = 8 * RAW[kind]().itemsize
    out = rng.integers(0, 1 << bits, n, dtype=np.uint64, endpoint=False) if bits < 64 else rng.integers(
        0, 2**64 - 1, n, dtype=np.uint64, endpoint=True)  # fmt: skip
    digits = DIGITS[kind][0]
    one = {"f16": 0x3C00, "bf16": 0x3F80, "f32": 0x3F800000, "f64": 0x3FF0000000000000}[kind]
    near = one + rng.integers(-(3 << (digits - 1)), 3 << (digits - 1), n // 2)
    out[: n // 2] = near.astype(np.uint64) | rng.integers(0, 2, n // 2).astype(np.uint64) << np.uint64(bits - 1)
    inf = {"f16": 0x7C00, "bf16": 0x7F80, "f32": 0x7F800000, "f64": 0x7FF0000000000000}[kind]
    special = [
        0,
        1 << (bits - 1),
        inf,
        inf | 1 << (bits - 1),
        1,
        inf - 1,
        one,
        1 << (digits - 1),
        (1 << (digits - 1)) - 1,
    ]
    places = rng.permutation(n)[: 5 * len(special)]
    out[places] = np.array(special * 5, np.uint64)
    return out.astype(RAW[kind])


def as_float(raw: Any, kind: str) -> list[float]:
    if kind == "bf16":
        with np.errstate(invalid="ignore"):
            return [float(v) for v in raw.view(ml_dtypes.bfloat16).astype(np.float64)]
    return [float(v) for v in raw.view({"f16": np.float16, "f32": np.float32, "f64": np.float64}[kind])]


def round_exact(x: Fraction, kind: str, mode: str) -> float:
    """The rational rounded to the format, by definition: scale to integers of one ulp, round those."""
    digits, emin = DIGITS[kind]
    if x == 0:
        return 0.0
    magnitude = abs(x)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    ulp = Fraction(2) ** (max(exponent, emin) - digits + 1)
    scaled = x / ulp
    floor = math.floor(scaled)
    rest = scaled - floor
    up = {"rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and floor % 2 == 1), "rm": False, "rp": rest > 0,
          "rz": x < 0 and rest > 0}[mode]  # fmt: skip
    result = (floor + up) * ulp
    if abs(result) > Fraction(LARGEST[kind]):
        finite = mode == "rz" or (mode == "rm" and x > 0) or (mode == "rp" and x < 0)
        limit = LARGEST[kind] if finite else math.inf
        return limit if x > 0 else -limit
    value = float(result)
    return math.copysign(value, -1.0) if x < 0 else value


def to_bits(x: float, kind: str) -> int:
    if math.isnan(x):
        return {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF, "f64": 0x7FF8000000000000}[kind]
    if kind == "bf16":
        return int(np.float32(x).view(np.uint32)) >> 16
    return int({"f16": np.float16, "f32": np.float32, "f64": np.float64}[kind](x).view(RAW[kind]))


def fused(a: float, b: float, c: float, kind: str, mode: str) -> float:
    """a * b + c as IEEE 754 defines it."""
    if not all(map(math.isfinite, (a, b, c))):
        with np.errstate(all="ignore"):
            p = math.nan if {abs(a), abs(b)} == {0.0, math.inf} or math.isnan(a) or math.isnan(b) else (
                math.copysign(math.inf if math.isinf(a) or math.isinf(b) else 1.0,
                              math.copysign(1, a) * math.copysign(1, b)))  # fmt: skip
            return float(np.float64(p) + np.float64(c))
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        sp = math.copysign(1.0, a) * math.copysign(1.0, b)
        if (a == 0 or b == 0) and c == 0 and sp == math.copysign(1.0, c):
            return math.copysign(0.0, c)
        if c == 0 and not (a == 0 or b == 0):
            raise AssertionError("a product of non-zero factors is not zero")
        return -0.0 if mode == "rm" else 0.0
    return round_exact(exact, kind, mode)


def check(got: Any, want: list[float], kind: str) -> None:
    expected = np.array([to_bits(x, kind) for x in want], RAW[kind])
    if kind == "f64":  # NaN payloads of f64 are not specified
        nan = np.isnan(got.view(np.float64)) & np.isnan(expected.view(np.float64))
        got = np.where(nan, expected, got)
    same_bits(got, expected)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_arithmetic_in_every_rounding_mode(kind: str, mode: str) -> None:
    a, b, c = patterns(kind, 1), patterns(kind, 2), patterns(kind, 3)
    x, y, z = as_float(a, kind), as_float(b, kind), as_float(c, kind)
    check(lanewise(f"add.{mode}.{kind} %d, %0, %1;", a, b, out=RAW[kind]),
          [fused(1.0, p, q, kind, mode) for p, q in zip(x, y)], kind)  # fmt: skip
    check(lanewise(f"sub.{mode}.{kind} %d, %0, %1;", a, b, out=RAW[kind]),
          [fused(1.0, p, -q, kind, mode) for p, q in zip(x, y)], kind)  # fmt: skip
    check(lanewise(f"fma.{mode}.{kind} %d, %0, %1, %2;", a, b, c, out=RAW[kind]),
          [fused(p, q, r, kind, mode) for p, q, r in zip(x, y, z)], kind)  # fmt: skip
    signed_zero = [math.copysign(0.0, math.copysign(1, p) * math.copysign(1, q)) for p, q in zip(x, y)]
    check(lanewise(f"mul.{mode}.{kind} %d, %0, %1;", a, b, out=RAW[kind]),
          [fused(p, q, s, kind, mode) for p, q, s in zip(x, y, signed_zero)], kind)  # fmt: skip


def quotient(p: float, q: float, kind: str, mode: str) -> float:
    if q == 0 or not (math.isfinite(p) and math.isfinite(q)):
        with np.errstate(all="ignore"):
            return float(np.float64(p) / np.float64(q))
    value = round_exact(Fraction(p) / Fraction(q), kind, mode)
    return math.copysign(value, math.copysign(1, p) * math.copysign(1, q)) if value == 0 else value


def root(p: float, kind: str, mode: str) -> float:
    if not p > 0 or math.isinf(p):
        return math.nan if p < 0 or math.isnan(p) else p
    f = Fraction(p)
    shift = 400 + 2 * 1100
    digits = math.isqrt(f.numerator * f.denominator << shift)  # sqrt(n/d) = sqrt(n*d)/d
    exact = digits * digits == f.numerator * f.denominator << shift
    approx = Fraction(digits * 2 + (0 if exact else 1), f.denominator << (shift // 2 + 1))
    return round_exact(approx, kind, mode)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_division_and_roots(kind: str, mode: str) -> None:
    a, b = patterns(kind, 4), patterns(kind, 5)
    x, y = as_float(a, kind), as_float(b, kind)
    check(lanewise(f"div.{mode}.{kind} %d, %0, %1;", a, b, out=RAW[kind]),
          [quotient(p, q, kind, mode) for p, q in zip(x, y)], kind)  # fmt: skip
    check(lanewise(f"rcp.{mode}.{kind} %d, %0;", a, out=RAW[kind]),
          [quotient(1.0, p, kind, mode) for p in x], kind)  # fmt: skip
    check(lanewise(f"sqrt.{mode}.{kind} %d, %0;", a, out=RAW[kind]), [root(p, kind, mode) for p in x], kind)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_narrow_arithmetic(kind: str) -> None:
    a, b, c = patterns(kind, 6), patterns(kind, 7), patterns(kind, 8)
    x, y, z = as_float(a, kind), as_float(b, kind), as_float(c, kind)
    out = np.uint16
    check(
        lanewise(f"add.{kind} %d, %0, %1;", a, b, out=out), [fused(1.0, p, q, kind, "rn") for p, q in zip(x, y)], kind
    )
    check(
        lanewise(f"sub.{kind} %d, %0, %1;", a, b, out=out), [fused(1.0, p, -q, kind, "rn") for p, q in zip(x, y)], kind
    )
    check(lanewise(f"fma.rn.{kind} %d, %0, %1, %2;", a, b, c, out=out),
          [fused(p, q, r, kind, "rn") for p, q, r in zip(x, y, z)], kind)  # fmt: skip
    relu = [fused(p, q, r, kind, "rn") for p, q, r in zip(x, y, z)]
    check(lanewise(f"fma.rn.relu.{kind} %d, %0, %1, %2;", a, b, c, out=out),
          [v if v > 0 or math.isnan(v) else 0.0 for v in relu], kind)  # fmt: skip


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_packed_pairs_are_two_scalars(kind: str) -> None:
    low, high = [patterns(kind, s) for s in (9, 10, 11)], [patterns(kind, s) for s in (12, 13, 14)]
    pairs = [lo.astype(np.uint32) | hi.astype(np.uint32) << 16 for lo, hi in zip(low, high)]
    got = lanewise(f"fma.rn.{kind}x2 %d, %0, %1, %2;", *pairs)
    for raw, part in ((low, got & 0xFFFF), (high, got >> 16)):
        x, y, z = (as_float(r, kind) for r in raw)
        check(part.astype(np.uint16), [fused(p, q, r, kind, "rn") for p, q, r in zip(x, y, z)], kind)


def test_f32x2() -> None:
    a, b = patterns("f32", 15), patterns("f32", 16)
    x, y = (v.astype(np.uint64) | v[::-1].astype(np.uint64) << np.uint64(32) for v in (a, b))
    got = lanewise("add.rn.f32x2 %d, %0, %1;", x, y, out=np.uint64)
    one = lanewise("add.rn.f32 %d, %0, %1;", a, b)
    same_bits(got, one.astype(np.uint64) | one[::-1].astype(np.uint64) << np.uint64(32))


def test_flush_and_saturate() -> None:
    a, b = patterns("f32", 17), patterns("f32", 18)
    x, y = (v.view(np.float32).copy() for v in (a, b))
    tiny = np.float32(2.0**-126)
    with np.errstate(all="ignore"):
        fx, fy = (np.where(np.abs(v) < tiny, np.copysign(np.float32(0), v), v) for v in (x, y))
        r = fx * fy
        r = np.where(np.abs(r) < tiny, np.copysign(np.float32(0), r), r)
        same_bits(lanewise("mul.ftz.f32 %d, %0, %1;", a, b), np.where(np.isnan(r), 0x7FFFFFFF, r.view(np.uint32)))
        s = x + y
        want = np.where(np.isnan(s) | (s <= 0), np.float32(0), np.minimum(s, np.float32(1)))
        same_bits(lanewise("add.sat.f32 %d, %0, %1;", a, b), want.view(np.uint32))


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("op", ["min", "max"])
@pytest.mark.parametrize("nan", ["", ".NaN"])
def test_min_max(kind: str, op: str, nan: str) -> None:
    if nan and kind == "f64":
        nan = ""  # .NaN does not exist for f64
    a, b = patterns(kind, 19), patterns(kind, 20)
    a[:9], b[:9] = b[40:49].copy(), a[40:49].copy()

    def pick(p: float, q: float) -> float:
        if math.isnan(p) or math.isnan(q):
            return math.nan if nan or (math.isnan(p) and math.isnan(q)) else q if math.isnan(p) else p
        key = lambda v: (v, math.copysign(1.0, v))  # noqa: E731
        return (min if op == "min" else max)(p, q, key=key)

    want = [pick(p, q) for p, q in zip(as_float(a, kind), as_float(b, kind))]
    got = lanewise(f"{op}{nan}.{kind} %d, %0, %1;", a, b, out=RAW[kind])
    check(got, want, kind)


def test_sign_operations_touch_only_the_sign() -> None:
    for kind in ("f32", "f64", "f16", "bf16"):
        a, b = patterns(kind, 21), patterns(kind, 22)
        top = RAW[kind](1 << (8 * RAW[kind]().itemsize - 1))
        same_bits(lanewise(f"neg.{kind} %d, %0;", a, out=RAW[kind]), a ^ top)
        same_bits(lanewise(f"abs.{kind} %d, %0;", a, out=RAW[kind]), a & ~top)
        if kind in ("f32", "f64"):
            same_bits(lanewise(f"copysign.{kind} %d, %0, %1;", a, b, out=RAW[kind]), (b & ~top) | (a & top))


@pytest.mark.parametrize(
    ("op", "fn"),
    [
        ("ex2.approx.ftz.f32", np.exp2), ("lg2.approx.f32", np.log2), ("sin.approx.f32", np.sin),
        ("cos.approx.f32", np.cos), ("tanh.approx.f32", np.tanh), ("rsqrt.approx.f32", lambda v: 1 / np.sqrt(v)),
        ("rcp.approx.f32", lambda v: 1 / v), ("sqrt.approx.f32", np.sqrt),
    ],
)  # fmt: skip
def test_approximations_are_the_rounded_function(op: str, fn: Any) -> None:
    x = np.random.default_rng(23).uniform(0.01, 20, 300).astype(np.float32)
    same_bits(lanewise(f"{op} %d, %0;", x, out=np.float32), fn(x.astype(np.float64)).astype(np.float32))


def test_approximations_at_the_corners() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, -1.0], np.float32)
    same_bits(lanewise("lg2.approx.f32 %d, %0;", x, out=np.float32).view(np.uint32)[[0, 1, 2]],
              np.array([-np.inf, -np.inf, np.inf], np.float32).view(np.uint32))  # fmt: skip
    same_bits(lanewise("ex2.approx.f32 %d, %0;", x, out=np.float32),
              np.array([1, 1, np.inf, 0, 0.5], np.float32))  # fmt: skip
    same_bits(lanewise("rsqrt.approx.f32 %d, %0;", x[:3], out=np.float32), np.array([np.inf, -np.inf, 0], np.float32))
    same_bits(
        lanewise("rcp.approx.f32 %d, %0;", x, out=np.float32), np.array([np.inf, -np.inf, 0, -0.0, -1], np.float32)
    )


def test_testp() -> None:
    a = patterns("f32", 24)
    x = a.view(np.float32)
    small = np.abs(x) < 2.0**-126
    for what, want in (
        ("finite", np.isfinite(x)), ("infinite", np.isinf(x)), ("number", ~np.isnan(x)), ("notanumber", np.isnan(x)),
        ("normal", np.isfinite(x) & ~small), ("subnormal", small & (x != 0)),
    ):  # fmt: skip
        same_bits(lanewise(f"testp.{what}.f32 %d, %0;", a, out=bool), want)


@pytest.mark.parametrize(("kind", "dtype"), [("f32", np.float32), ("f64", np.float64)])
def test_zeros_of_fma_toward_minus_infinity(kind: str, dtype: Any) -> None:
    """An exact zero of opposite terms is -0; a positive product too small for the type is +0."""
    tiny = np.finfo(dtype).tiny
    rows = [(-3, -0.0, -0.0, -0.0), (3, 0.0, -0.0, -0.0), (3, -0.0, -0.0, -0.0), (0.0, 0.0, 0.0, 0.0), (2, 3, -6, -0.0),
            (-2, 3, 6, -0.0), (tiny, tiny, 0.0, 0.0), (tiny, tiny, -0.0, 0.0), (2, 3, 0.0, 6)]  # fmt: skip
    a, b, c, want = (np.array(column, dtype) for column in zip(*rows))
    same_bits(lanewise(f"fma.rm.{kind} %d, %0, %1, %2;", a, b, c, out=dtype), want)
