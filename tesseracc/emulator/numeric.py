"""Correctly rounded arithmetic in every PTX float format, on NumPy arrays.

f32 and f64 round-to-nearest are NumPy's own. Everything else is computed exactly enough in f64 and rounded once:
sums and fused products carry their rounding error (Knuth's TwoSum, Dekker's TwoProduct), which is folded into the
last bit (*round to odd*); a round-to-odd f64 rounds to any format of at most 51 bits as the exact value would
(Boldo and Melquiond, 2008). Exceptional f64 cases go through exact rational arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tesseracc.emulator.types import Array

__all__ = [
    "FORMATS", "Format", "canonical", "decode", "directed", "encode", "exact_f64", "flush", "fma64", "fma_odd",
    "narrow",
    "quantise", "round_f32", "round_odd", "sum_odd", "two_product", "two_sum",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Format:
    """A binary float format: `digits` of precision (hidden bit included), `emin` of normals, largest finite value.

    `inf`: the format has infinities; `nan`: the bit pattern of its NaN, or None.
    """

    name: str
    bits: int
    digits: int
    emin: int
    largest: float
    inf: bool
    nan: int | None


FORMATS = {
    f.name: f
    for f in (
        Format("f64", 64, 53, -1022, float(np.finfo(np.float64).max), True, 0x7FFFFFFFFFFFFFFF),
        Format("f32", 32, 24, -126, float(np.finfo(np.float32).max), True, 0x7FFFFFFF),
        Format("tf32", 32, 11, -126, (2 - 2.0**-10) * 2.0**127, True, 0x7FFFFFFF),
        Format("f16", 16, 11, -14, 65504.0, True, 0x7FFF),
        Format("bf16", 16, 8, -126, (2 - 2.0**-7) * 2.0**127, True, 0x7FFF),
        Format("e5m2", 8, 3, -14, 57344.0, True, 0x7F),
        Format("e4m3", 8, 4, -6, 448.0, False, 0x7F),
        Format("e3m2", 6, 3, -2, 28.0, False, None),
        Format("e2m3", 6, 4, 0, 7.5, False, None),
        Format("e2m1", 4, 2, 0, 6.0, False, None),
    )
}

_F64 = np.float64
_TINY = np.float32(2.0**-126)


def decode(bits: Array, name: str) -> Array:
    """Bits of a format as f64 values."""
    if name in ("f32", "tf32"):
        return bits.view(np.float32).astype(_F64)
    if name == "f64":
        return bits.view(_F64)
    if name == "f16":
        return bits.astype(np.uint16).view(np.float16).astype(_F64)
    if name == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(_F64)
    return _TABLES[name][bits]


def _small_table(f: Format) -> Array:
    """All values of a format of at most 8 bits, by pattern."""
    fraction = f.digits - 1
    out = np.zeros(1 << 8)
    for pattern in range(1 << 8):
        body = pattern & ((1 << (f.bits - 1)) - 1)
        exponent, mantissa = body >> fraction, body & ((1 << fraction) - 1)
        top = (1 << (f.bits - 1 - fraction)) - 1
        value = (mantissa if exponent == 0 else mantissa + (1 << fraction)) * 2.0 ** (
            f.emin + max(exponent - 1, 0) - fraction
        )
        if f.inf and exponent == top:
            value = float("inf") if mantissa == 0 else float("nan")
        elif f.nan is not None and body == f.nan:
            value = float("nan")
        out[pattern] = -value if pattern >> (f.bits - 1) & 1 else value
    return out


_TABLES = {name: _small_table(FORMATS[name]) for name in ("e5m2", "e4m3", "e3m2", "e2m3", "e2m1")}
# Formats of scales: a power of two, biased by 127, or NaN; and e4m3 without its sign.
_TABLES["ue8m0"] = np.append(np.ldexp(1.0, np.arange(-127, 128)), np.nan)
_TABLES["ue4m3"] = np.tile(_TABLES["e4m3"][:128], 2)


def quantise(x: Array, f: Format, mode: str) -> Array:
    """f64 values rounded to the precision of `f` (not its range): modes rn rz rm rp rna."""
    x = np.asarray(x, _F64)
    _, exponent = np.frexp(x)
    ulp = np.maximum(exponent - 1, f.emin) - (f.digits - 1)
    scaled = np.ldexp(x, -ulp)
    if mode == "rn":
        scaled = np.rint(scaled)
    elif mode == "rz":
        scaled = np.trunc(scaled)
    elif mode == "rm":
        scaled = np.floor(scaled)
    elif mode == "rp":
        scaled = np.ceil(scaled)
    elif mode == "rna":
        scaled = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)
    else:
        raise ValueError(f"rounding .{mode}")
    return np.where(np.isfinite(x), np.copysign(np.ldexp(scaled, ulp), x), x)


def encode(x: Array, name: str, mode: str = "rn", satfinite: bool = False) -> Array:
    """f64 values to the bits of a format. Overflow goes to infinity, or to the largest value where the rounding mode,
    `satfinite`, or a format without infinities says so; NaN becomes the format's canonical NaN."""
    if name == "ue8m0":
        return _encode_power(np.asarray(x, _F64), mode, satfinite)
    f = FORMATS[name]
    x = np.asarray(x, _F64)
    y = quantise(x, f, mode)
    over = np.abs(y) > f.largest
    if over.any():
        limit = np.full(x.shape, np.inf if f.inf else np.nan)
        if satfinite or mode == "rz":
            limit = np.full(x.shape, f.largest)
        elif mode in ("rm", "rp"):
            limit = np.where((y > 0) == (mode == "rm"), f.largest, np.inf)
        infinite = np.isinf(x) & np.bool_(not satfinite) & np.bool_(f.inf)
        y = np.where(over, np.copysign(np.where(infinite, np.inf, limit), y), y)
    raw: Array
    if name in ("f32", "tf32"):
        raw = y.astype(np.float32).view(np.uint32)
    elif name == "f64":
        raw = y.view(np.uint64)
    elif name == "f16":
        raw = y.astype(np.float16).view(np.uint16)
    elif name == "bf16":
        raw = (y.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    else:
        raw = _encode_small(y, f)
    if f.nan is not None:
        raw = np.where(np.isnan(y), raw.dtype.type(f.nan), raw)
    return raw[()]


def _encode_small(y: Array, f: Format) -> Array:
    fraction = f.digits - 1
    magnitude = np.where(np.isfinite(y), np.abs(y), 0.0)
    _, exponent = np.frexp(magnitude)
    exponent = np.where(magnitude == 0, f.emin, np.maximum(exponent - 1, f.emin))
    units = np.ldexp(magnitude, fraction - exponent).astype(np.int64)  # with the hidden bit for normals
    body = ((exponent - f.emin) << fraction) + units
    if f.inf:
        body = np.where(np.isinf(y), ((1 << (f.bits - 1 - fraction)) - 1) << fraction, body)
    if f.nan is None:  # NaN has no pattern: the conversions give the largest value
        body = np.where(np.isnan(y), (1 << (f.bits - 1)) - 1, body)
    sign = np.where(np.isnan(y), 0, np.signbit(y).astype(np.int64)) << (f.bits - 1)
    return (body | sign).astype(np.uint8)


def _encode_power(x: Array, mode: str, satfinite: bool) -> Array:
    """ue8m0: the exponent of |x|, biased by 127, rounded down (rz) or up (rp); 255 is NaN, and overflow without
    `satfinite`."""
    m, exponent = np.frexp(np.abs(x))
    biased = exponent + 126 + ((m > 0.5) if mode == "rp" else 0)
    biased = np.where(x == 0, 0, np.where(np.isinf(x), 255, np.clip(biased, 0, 255)))
    raw = np.where(np.isnan(x), 255, np.minimum(biased, 254) if satfinite else biased)
    return raw.astype(np.uint8)[()]


# --- f32 -------------------------------------------------------------------------------------------------------------


def canonical(x: Array) -> Array:
    """f32 results: any NaN becomes 0x7fffffff, as single-precision instructions deliver it."""
    bad = np.isnan(x)
    if bad.any():
        return np.where(bad, np.uint32(0x7FFFFFFF).view(np.float32), x)[()]
    return x


def flush(x: Array) -> Array:
    """f32 subnormals become zeros of their sign (.ftz)."""
    small = (np.abs(x) < _TINY) & (x != 0)
    return np.where(small, np.copysign(np.float32(0), x), x)[()] if small.any() else x


def round_f32(x: Array, mode: str) -> Array:
    """f64 values (exact, or rounded to odd) to f32."""
    y = np.asarray(x, _F64).astype(np.float32)
    if mode == "rn":
        return y[()]
    back = y.astype(_F64)
    zero, up, down = np.float32(0), np.float32(np.inf), np.float32(-np.inf)
    finite = np.isfinite(x)
    if mode == "rz":
        y = np.where(finite & (np.abs(back) > np.abs(x)), np.nextafter(y, zero), y)
    elif mode == "rp":
        y = np.where(finite & (back < x), np.nextafter(y, up), y)
    elif mode == "rm":
        y = np.where(finite & (back > x), np.nextafter(y, down), y)
    else:
        raise ValueError(f"rounding .{mode}")
    return np.where(y == 0, np.copysign(y, x).astype(np.float32), y)[()]


# --- exact sums and products -----------------------------------------------------------------------------------------


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """s + e = a + b exactly, s rounded to nearest."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _split(a: Array) -> tuple[Array, Array]:
    c = a * 134217729.0
    high = c - (c - a)
    return high, a - high


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """p + e = a * b exactly, barring overflow and underflow."""
    p = a * b
    ah, al = _split(a)
    bh, bl = _split(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def round_odd(s: Array, e: Array) -> Array:
    """s + e (from TwoSum) rounded to odd."""
    s, e = np.asarray(s, _F64), np.asarray(e, _F64)
    bits = s.view(np.int64)
    inexact = (e != 0) & np.isfinite(e) & np.isfinite(s) & (bits & 1 == 0)
    if not inexact.any():
        return s
    step = np.where((e > 0) == (s > 0), 1, -1)
    return (bits + np.where(inexact, step, 0)).view(_F64)


def sum_odd(a: Array, b: Array) -> Array:
    """a + b of f64 values, rounded to odd."""
    return round_odd(*two_sum(a, b))


def fma_odd(a: Array, b: Array, c: Array) -> Array:
    """a * b + c rounded to odd, for factors of at most 26 bits each (their product is exact)."""
    return sum_odd(a * b, c)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """f32 fused multiply-add, rounded to nearest even.

    The f64 sum rounded to f32 is right unless it lies on the middle between two f32 values or below the normals
    (where 0 is exact).
    """
    p = a.astype(_F64) * b.astype(_F64)
    wide = c.astype(_F64)
    s = p + wide
    doubtful = (np.asarray(s).view(np.int64) & 0x1FFFFFFF) == 0x10000000
    doubtful |= (np.abs(s) < 2.0**-125) & (s != 0)
    if doubtful.any():
        s = round_odd(s, two_sum(p, wide)[1])
    return s.astype(np.float32)


def fma64(a: Array, b: Array, c: Array, mode: str = "rn") -> Array:
    """f64 fused multiply-add (Boldo and Melquiond's algorithm; exact rationals near the ends of the range)."""
    a, b, c = np.broadcast_arrays(np.asarray(a, _F64), np.asarray(b, _F64), np.asarray(c, _F64))
    ph, pl = two_product(a, b)
    uh, ul = two_sum(c, pl)
    th, tl = two_sum(ph, uh)
    v = sum_odd(tl, ul)
    z = th + v
    if mode != "rn":
        near = _fma_special(a, b, c)
        if mode == "rm":  # an exact zero of opposite terms is -0
            opposite = np.signbit(a) ^ np.signbit(b) ^ np.signbit(c)
            near = np.where((near == 0) & opposite, -0.0, near)
        return exact_f64(lambda p, q, r: p * q + r, mode, near, a, b, c)[()]
    low, high = 2.0**-450, 2.0**450
    safe = np.ones(np.shape(z), np.bool_)
    for x in (a, b):
        safe &= (np.abs(x) > low) & (np.abs(x) < high)
    safe &= ((np.abs(c) > 2.0**-900) | (c == 0)) & (np.abs(c) < 2.0**900) & (z != 0)
    special = ~np.isfinite(a) | ~np.isfinite(b) | ~np.isfinite(c)
    z = np.where(special, _fma_special(a, b, c), z)
    rest = ~safe & ~special
    if rest.any():
        z = np.array(z)
        for k in zip(*np.nonzero(np.atleast_1d(rest))):
            x, y, w = (float(np.atleast_1d(t)[k]) for t in (a, b, c))
            np.atleast_1d(z)[k] = _rational(Fraction(x) * Fraction(y) + Fraction(w), mode, x * y + w)
    return np.asarray(z)[()]


def _fma_special(a: Array, b: Array, c: Array) -> Array:
    """a * b + c where an operand is infinite or NaN: a product that overflows does not meet an infinite c."""
    return np.where(np.isinf(c) & np.isfinite(a) & np.isfinite(b), c, a * b + c)


def directed(z: Array, error: Array, mode: str) -> Array:
    """A nearest f64 with its error sign to another rounding mode. `error` must be exact; see `exact_f64`."""
    if mode == "rn":
        return z
    if mode == "rz":
        return np.where((error != 0) & ((error < 0) == (z > 0)), np.nextafter(z, 0.0), z)
    if mode == "rp":
        return np.where(error > 0, np.nextafter(z, np.inf), z)
    return np.where(error < 0, np.nextafter(z, -np.inf), z)


def _rational(exact: Fraction, mode: str, zero: float) -> float:
    """A rational rounded to f64; `zero` has the sign to use if the exact value is zero."""
    if exact == 0:
        return zero if zero == 0 else 0.0
    try:
        near = exact.numerator / exact.denominator
    except OverflowError:
        near = float("inf") if exact > 0 else float("-inf")
    if mode == "rn":
        return near
    above = near == float("inf") or (near != float("-inf") and Fraction(near) > exact)
    below = near == float("-inf") or (near != float("inf") and Fraction(near) < exact)
    if above and (mode == "rm" or (mode == "rz" and exact > 0)):
        return float(np.nextafter(near, -np.inf))
    if below and (mode == "rp" or (mode == "rz" and exact < 0)):
        return float(np.nextafter(near, np.inf))
    return near


def exact_f64(op: Callable[..., Fraction | None], mode: str, near: Array, *values: Array) -> Array:
    """Directed rounding of a rational function, value by value; where `op` gives None, `near` stands."""
    values = tuple(np.broadcast_arrays(*(np.asarray(v, _F64) for v in values)))
    out = np.array(np.broadcast_to(near, values[0].shape), _F64)
    for k in np.ndindex(out.shape):
        arguments = [float(v[k]) for v in values]
        if all(np.isfinite(arguments)):
            exact = op(*(Fraction(v) for v in arguments))
            if exact is not None:
                out[k] = _rational(exact, mode, float(out[k]))
    return out[()]


def narrow(x: Array, name: str, mode: str = "rn") -> Array:
    """Exact or round-to-odd f64 values to the bits of `name`."""
    if name == "f32":
        return canonical(round_f32(x, mode)).view(np.uint32)
    if mode == "rn" and name == "f16":
        y = np.asarray(x, _F64).astype(np.float16)
        return np.where(np.isnan(y), np.uint16(0x7FFF), y.view(np.uint16))[()]
    return encode(x, name, mode)
