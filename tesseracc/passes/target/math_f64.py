"""Elementary functions of f64 (see expand_math.py): what `math_shared` leaves to the format."""

from __future__ import annotations

import math
from collections.abc import Callable

from tesseracc.ir.value import Value
from tesseracc.passes.target import polynomials as P
from tesseracc.passes.target.math_ops import Ops
from tesseracc.passes.target.math_shared import INF, Precision, clamp, log_specials, quadrant

Pair = tuple[Value, Value]  # an unevaluated sum, the second far smaller than the first


def _log_tail(m: Ops, f: Value) -> Value:
    """log(1 + f) - f with s = f / (2 + f): -(f^2/2 - s (f^2/2 + 2 atanh(s)/s - 2))."""
    s = m.div(f, m.add(f, 2.0))
    z = m.mul(s, s)
    series = m.mul(z, m.horner(z, P.ATANH_F64))
    half = m.mul(m.mul(f, f), 0.5)
    return m.neg(m.sub(half, m.mul(s, m.add(half, series))))


F64 = Precision(
    "f64",
    "i64",
    mantissa=52,
    bias=1023,
    ln2=P.LN2_SPLIT_F64,
    exp_tail=P.EXP_F64,
    exp2_tail=P.EXP2_F64,
    exp_range=(-746.0, 710.0),
    exp2_range=(-1076.0, 1024.0),
    expm1_low=-40.0,
    tanh_limit=20.0,
    log_split=0x3FE5555555555555,
    log_tail=_log_tail,
)


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
    e, f = F64.log_parts(m, x)
    d = m.add(f, 2.0)
    d_low = m.sub(f, m.sub(d, 2.0))
    s = m.div(f, d)
    s_low = m.div(m.sub(m.fma(m.neg(s), d, f), m.mul(s, d_low)), d)
    # 2 atanh(s) = 2 s + s^3 (2/3 + z ..), the cube and its factor as pairs too
    z, z_low = _two_product(m, s, s)
    series = m.fma(z, m.horner(z, P.ATANH_F64[1:]), P.TWO_THIRDS[1])
    factor, factor_low = _two_sum(m, m.const(P.TWO_THIRDS[0], "f64"), series)
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
    return log_specials(m, x, m.add(high, low))


def erf(m: Ops, x: Value) -> Value:
    a = m.abs(x)
    near = m.fma(m.horner(m.mul(a, a), P.ERF_F64), a, a)
    bounded = clamp(m, a, 1.0, 6.0)
    t = m.div(m.sub(bounded, P.ERFC_SHIFT), m.add(bounded, P.ERFC_SHIFT))
    scaled = m.div(m.horner(t, P.ERFC_F64), m.add(bounded, P.ERFC_SHIFT))
    far = m.sub(1.0, m.mul(F64.exp(m, m.neg(m.mul(bounded, bounded))), scaled))
    y = m.select(m.cmp("lt", a, 1.0), near, far)
    return m.copysign(y, x, F64.unsigned, F64.sign)


def _circle(m: Ops, x: Value, quarter: int) -> Value:
    """sin(x + quarter pi/2); r = head + tail after the reduction."""
    n = m.round(m.mul(x, P.TWO_OVER_PI))
    r1 = m.fma(n, -P.PI_HALF_SPLIT[0], x)
    head = m.fma(n, -P.PI_HALF_SPLIT[1], r1)
    # what the second step lost, and the third piece of pi/2
    product, error = _two_product(m, n, P.PI_HALF_SPLIT[1])
    tail = m.sub(m.sub(m.sub(r1, head), product), m.fma(n, P.PI_HALF_SPLIT[2], error))
    z = m.mul(head, head)
    correction = m.fma(m.mul(z, tail), -0.5, tail)
    sine = m.add(head, m.fma(m.mul(z, head), m.horner(z, P.SIN_F64), correction))
    half = m.mul(z, 0.5)
    w = m.sub(1.0, half)
    lost = m.sub(m.sub(1.0, w), half)
    cosine = m.add(w, m.add(lost, m.fma(m.mul(z, z), m.horner(z, P.COS_F64), m.neg(m.mul(head, tail)))))
    return quadrant(m, m.add(m.cast(n, "i64"), quarter), sine, cosine, x)


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
    high = m.select(regular, high, log_specials(m, a, high))
    low = m.select(regular, low, 0.0)
    product = m.mul(y, high)
    bounded = clamp(m, product, -1100.0, 1100.0)
    error = m.fma(y, low, m.fma(y, high, m.neg(product)))
    # a product beyond the range, or infinite, has no error term
    error = m.select(m.cmp("lt", m.abs(product), 1100.0), error, 0.0)
    n, pattern = F64.nearest(m, bounded, 1.0, 2 * F64.bias)
    magnitude = F64.exp2_reduced(m, pattern, m.add(m.sub(bounded, n), error))
    return pow_specials(m, x, y, magnitude)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    f.__name__: f
    for f in (
        *(F64.exp, F64.exp2, F64.expm1, F64.log, F64.log1p, F64.tanh, F64.rsqrt),
        *(log2, erf, sin, cos, pow),
    )
}
