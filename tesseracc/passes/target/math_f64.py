"""Elementary functions of f64 (see expand_math.py). Every function ends with the operation that computes its result."""

from __future__ import annotations

import math
from collections.abc import Callable

from tesseracc.ir.value import Value
from tesseracc.passes.target import polynomials as P
from tesseracc.passes.target.math_ops import Ops

INF = math.inf
SIGN = 1 << 63
Pair = tuple[Value, Value]  # an unevaluated sum, the second far smaller than the first


def _whole(m: Ops, n: Value) -> Value:
    """The i64 of an integral n below 2^51 in size: the low bits of n + 1.5 * 2^52. (Of NaN anything.)"""
    return m.sub(m.bits(m.add(n, 6755399441055744.0), "i64"), 0x4338000000000000)


def _power_of_two(m: Ops, n: Value) -> Value:
    """2^n for an i64 n in -1022 .. 1023."""
    return m.bits(m.two("shl", m.add(n, 1023), 52), "f64")


def _scale(m: Ops, y: Value, n: Value) -> Value:
    """y 2^n with one rounding: gradual underflow, overflow to infinity."""
    half = m.two("shr", n, 1)
    rest = m.sub(n, half)
    return m.mul(m.mul(y, _power_of_two(m, half)), _power_of_two(m, rest))


def _clamp(m: Ops, x: Value, low: float, high: float) -> Value:
    x = m.select(m.cmp("lt", x, low), low, x)
    return m.select(m.cmp("gt", x, high), high, x)


def _exp_parts(m: Ops, x: Value) -> Pair:
    """n and e^r - 1 with x = n ln2 + r."""
    n = m.round(m.mul(x, P.LOG2E))
    r = m.fma(n, -P.LN2_SPLIT_F64[0], x)
    r = m.fma(n, -P.LN2_SPLIT_F64[1], r)
    tail = m.horner(r, P.EXP_F64)
    return _whole(m, n), m.fma(m.mul(r, r), tail, r)


def exp(m: Ops, x: Value) -> Value:
    n, e = _exp_parts(m, _clamp(m, x, -746.0, 710.0))
    return _scale(m, m.add(e, 1.0), n)


def exp2(m: Ops, x: Value) -> Value:
    x = _clamp(m, x, -1076.0, 1024.0)
    n = m.round(x)
    return _exp2_reduced(m, n, m.sub(x, n))


def _exp2_reduced(m: Ops, n: Value, r: Value) -> Value:
    y = m.fma(r, m.horner(r, P.EXP2_F64), 1.0)
    return _scale(m, y, _whole(m, n))


def expm1(m: Ops, x: Value) -> Value:
    n, e = _exp_parts(m, _clamp(m, x, -40.0, 710.0))
    t = _power_of_two(m, m.sub(n, 1))
    y = m.mul(m.fma(t, e, m.sub(t, 0.5)), 2.0)
    return m.select(m.cmp("lt", m.abs(x), 2.0**-54), x, y)


def _log_parts(m: Ops, x: Value) -> Pair:
    """e and f with x = 2^e (1 + f), f in [-1/3, 1/3); x positive and finite."""
    small = m.cmp("lt", x, 2.0**-1022)
    x = m.select(small, m.mul(x, 2.0**52), x)
    bits = m.bits(x, "i64")
    e = m.two("shr", m.sub(bits, 0x3FE5555555555555), 52)
    mantissa = m.bits(m.sub(bits, m.two("shl", e, 52)), "f64")
    e = m.sub(e, m.select(small, m.const(52, "i64"), m.const(0, "i64")))
    return m.cast(e, "f64"), m.sub(mantissa, 1.0)


def _log_specials(m: Ops, x: Value, y: Value) -> Value:
    y = m.select(m.cmp("lt", x, INF), y, x)
    y = m.select(m.cmp("lt", x, 0.0), math.nan, y)
    return m.select(m.cmp("eq", x, 0.0), -INF, y)


def _log1p_reduced(m: Ops, f: Value) -> Pair:
    """log(1 + f) = f + tail with s = f / (2 + f): f - (f^2/2 - s (f^2/2 + 2 atanh(s)/s - 2))."""
    s = m.div(f, m.add(f, 2.0))
    z = m.mul(s, s)
    series = m.mul(z, m.horner(z, P.ATANH_F64))
    half = m.mul(m.mul(f, f), 0.5)
    return f, m.neg(m.sub(half, m.mul(s, m.add(half, series))))


def log(m: Ops, x: Value) -> Value:
    e, f = _log_parts(m, x)
    head, tail = _log1p_reduced(m, f)
    y = m.add(head, m.fma(e, P.LN2_SPLIT_F64[1], tail))
    return _log_specials(m, x, m.fma(e, P.LN2_SPLIT_F64[0], y))


def log1p(m: Ops, x: Value) -> Value:
    u = m.add(x, 1.0)
    lost = m.select(m.cmp("ge", x, 1.0), m.sub(1.0, m.sub(u, x)), m.sub(x, m.sub(u, 1.0)))
    e, f = _log_parts(m, u)
    head, tail = _log1p_reduced(m, f)
    tail = m.add(tail, m.div(lost, u))
    y = m.fma(e, P.LN2_SPLIT_F64[0], m.add(head, m.fma(e, P.LN2_SPLIT_F64[1], tail)))
    y = _log_specials(m, u, y)
    keep = m.either(m.cmp("lt", m.abs(x), 2.0**-54), m.cmp("eq", x, INF))
    return m.select(keep, x, y)


def _two_sum(m: Ops, a: Value, b: Value) -> Pair:
    """a + b exactly, |a| >= |b| or a = 0."""
    s = m.add(a, b)
    return s, m.sub(b, m.sub(s, a))


def _two_product(m: Ops, a: Value, b: Value | float) -> Pair:
    p = m.mul(a, b)
    return p, m.fma(a, b, m.neg(p))


def _log2_pair(m: Ops, x: Value) -> Pair:
    """log2(x) as a sum of two, about 2^-62 relative; x positive and finite.

    log(1 + f) = 2 atanh(s), s = f / (2 + f) with the division's remainder kept; then times log2(e), plus e.
    """
    e, f = _log_parts(m, x)
    d = m.add(f, 2.0)
    d_low = m.sub(f, m.sub(d, 2.0))
    s = m.div(f, d)
    s_low = m.div(m.sub(m.fma(m.neg(s), d, f), m.mul(s, d_low)), d)
    # 2 atanh(s) = 2 s + s^3 (2/3 + z ..), the cube and its factor as pairs too
    z, z_low = _two_product(m, s, s)
    factor, factor_low = _two_sum(
        m, m.const(P.TWO_THIRDS[0], "f64"), m.fma(z, m.horner(z, P.ATANH_F64[1:]), P.TWO_THIRDS[1])
    )
    cube, cube_low = _two_product(m, s, z)
    cube_low = m.add(cube_low, m.fma(s, z_low, m.mul(m.mul(z, 3.0), s_low)))
    third, third_low = _two_product(m, cube, factor)
    third_low = m.add(third_low, m.fma(cube, factor_low, m.mul(cube_low, factor)))
    high, low = _two_sum(m, m.mul(s, 2.0), third)
    high, low = _two_sum(m, high, m.add(low, m.fma(s_low, 2.0, third_low)))
    product, error = _two_product(m, high, P.LOG2E)
    error = m.add(error, m.fma(low, P.LOG2E, m.mul(high, P.LOG2E_LOW)))
    total, lost = _two_sum(m, e, product)
    return _two_sum(m, total, m.add(lost, error))


def log2(m: Ops, x: Value) -> Value:
    high, low = _log2_pair(m, x)
    return _log_specials(m, x, m.add(high, low))


def tanh(m: Ops, x: Value) -> Value:
    t = expm1(m, m.mul(_clamp(m, m.abs(x), 0.0, 20.0), 2.0))
    y = m.div(t, m.add(t, 2.0))
    return m.copysign(y, x, "u64", SIGN)


def erf(m: Ops, x: Value) -> Value:
    a = m.abs(x)
    z = m.mul(a, a)
    near = m.fma(m.horner(z, P.ERF_F64), a, a)
    bounded = _clamp(m, a, 1.0, 6.0)
    t = m.div(m.sub(bounded, P.ERFC_SHIFT), m.add(bounded, P.ERFC_SHIFT))
    scaled = m.div(m.horner(t, P.ERFC_F64), m.add(bounded, P.ERFC_SHIFT))
    far = m.sub(1.0, m.mul(exp(m, m.neg(m.mul(bounded, bounded))), scaled))
    y = m.select(m.cmp("lt", a, 1.0), near, far)
    return m.copysign(y, x, "u64", SIGN)


def _circle(m: Ops, x: Value, quarter: int) -> Value:
    """sin(x + quarter pi/2); r = head + tail after the reduction."""
    n = m.round(m.mul(x, P.TWO_OVER_PI))
    r1 = m.fma(n, -P.PI_HALF_SPLIT[0], x)
    head = m.fma(n, -P.PI_HALF_SPLIT[1], r1)
    # what the second step lost, and the third piece of pi/2
    product, error = _two_product(m, n, P.PI_HALF_SPLIT[1])
    tail = m.sub(m.sub(m.sub(r1, head), product), m.fma(n, P.PI_HALF_SPLIT[2], error))
    q = m.add(m.cast(n, "i64"), quarter)
    z = m.mul(head, head)
    sine = m.add(head, m.fma(m.mul(z, head), m.horner(z, P.SIN_F64), m.fma(m.mul(z, tail), -0.5, tail)))
    half = m.mul(z, 0.5)
    w = m.sub(1.0, half)
    lost = m.sub(m.sub(1.0, w), half)
    cosine = m.add(w, m.add(lost, m.fma(m.mul(z, z), m.horner(z, P.COS_F64), m.neg(m.mul(head, tail)))))
    y = m.select(m.cmp("ne", m.two("and", q, 1), 0), cosine, sine)
    y = m.select(m.cmp("ne", m.two("and", q, 2), 0), m.neg(y), y)
    return m.select(m.cmp("eq", m.abs(x), INF), math.nan, y)


def sin(m: Ops, x: Value) -> Value:
    return m.select(m.cmp("eq", x, 0.0), x, _circle(m, x, 0))


def cos(m: Ops, x: Value) -> Value:
    return _circle(m, x, 1)


def pow_specials(m: Ops, x: Value, y: Value, magnitude: Value) -> Value:
    """The sign of x^y, and the cases that |x|^y by logarithms gets wrong (C99 annex F)."""
    whole = m.cmp("eq", m.one("trunc", y), y)
    half = m.mul(y, 0.5)
    odd = m.both(whole, m.cmp("ne", m.one("trunc", half), half))
    negative = m.cmp("lt", m.bits(x, "i64"), 0)
    found = m.select(m.both(negative, odd), m.neg(magnitude), magnitude)
    # a negative finite base to a fractional power is not a number; infinite exponents count as even
    below = m.both(m.cmp("lt", x, 0.0), m.cmp("gt", x, -INF))
    found = m.select(m.both(below, m.cmp("ne", m.one("trunc", y), y)), math.nan, found)
    found = m.select(m.either(m.isnan(x), m.isnan(y)), math.nan, found)
    # |x| = 1 with an infinite exponent gives 1
    unit = m.both(m.cmp("eq", m.abs(x), 1.0), m.cmp("eq", m.abs(y), INF))
    one = m.either(m.either(m.cmp("eq", x, 1.0), m.cmp("eq", y, 0.0)), unit)
    return m.select(one, 1.0, found)


def pow(m: Ops, x: Value, y: Value) -> Value:
    """|x|^y = 2^(y log2|x|) with the logarithm as a pair, so that the product keeps its low bits."""
    a = m.abs(x)
    high, low = _log2_pair(m, a)
    regular = m.both(m.cmp("gt", a, 0.0), m.cmp("lt", a, INF))
    high = m.select(regular, high, _log_specials(m, a, high))
    low = m.select(regular, low, 0.0)
    product = m.mul(y, high)
    bounded = _clamp(m, product, -1100.0, 1100.0)
    error = m.fma(y, high, m.neg(product))
    error = m.fma(y, low, error)
    # an infinite product has no error term
    error = m.select(m.cmp("lt", m.abs(product), 1100.0), error, 0.0)
    n = m.round(bounded)
    magnitude = _exp2_reduced(m, n, m.add(m.sub(bounded, n), error))
    return pow_specials(m, x, y, magnitude)


def rsqrt(m: Ops, x: Value) -> Value:
    return m.div(1.0, m.one("sqrt", x))


FUNCTIONS: dict[str, Callable[..., Value]] = {
    f.__name__: f for f in (exp, exp2, expm1, log, log2, log1p, tanh, erf, sin, cos, pow, rsqrt)
}
