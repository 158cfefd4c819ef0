"""Elementary functions of f32 (see expand_math.py). Every function ends with the operation that computes its result."""

from __future__ import annotations

import math
from collections.abc import Callable

from tesseracc.ir.value import Value
from tesseracc.passes.target import math_f64
from tesseracc.passes.target import polynomials as P
from tesseracc.passes.target.math_ops import Ops

INF = math.inf
SIGN = 0x80000000


def _whole(m: Ops, n: Value) -> Value:
    """The i32 of an integral n below 2^22 in size: the low bits of n + 1.5 * 2^23. Two operations; a saturating cast
    takes eight where the machine's does not saturate. (Of NaN anything: what it scales is NaN.)"""
    return m.sub(m.bits(m.add(n, 12582912.0), "i32"), 0x4B400000)


def _power_of_two(m: Ops, n: Value) -> Value:
    """2^n for an i32 n in -126 .. 127."""
    return m.bits(m.two("shl", m.add(n, 127), 23), "f32")


def _scale(m: Ops, y: Value, n: Value) -> Value:
    """y 2^n with one rounding, for any n that keeps both halves in range: gradual underflow, overflow to infinity."""
    half = m.two("shr", n, 1)
    rest = m.sub(n, half)
    return m.mul(m.mul(y, _power_of_two(m, half)), _power_of_two(m, rest))


def _clamp(m: Ops, x: Value, low: float, high: float) -> Value:
    """x within bounds; NaN stays."""
    x = m.select(m.cmp("lt", x, low), low, x)
    return m.select(m.cmp("gt", x, high), high, x)


def _exp_parts(m: Ops, x: Value) -> tuple[Value, Value]:
    """n and e^r - 1 with x = n ln2 + r."""
    n = m.round(m.mul(x, P.LOG2E))
    r = m.fma(n, -P.LN2_SPLIT_F32[0], x)
    r = m.fma(n, -P.LN2_SPLIT_F32[1], r)
    tail = m.horner(r, P.EXP_F32)
    return _whole(m, n), m.fma(m.mul(r, r), tail, r)


def exp(m: Ops, x: Value) -> Value:
    n, e = _exp_parts(m, _clamp(m, x, -104.0, 89.0))
    return _scale(m, m.add(e, 1.0), n)


def exp2(m: Ops, x: Value) -> Value:
    x = _clamp(m, x, -151.0, 128.0)
    n = m.round(x)
    r = m.sub(x, n)
    y = m.fma(r, m.horner(r, P.EXP2_F32), 1.0)
    return _scale(m, y, _whole(m, n))


def expm1(m: Ops, x: Value) -> Value:
    n, e = _exp_parts(m, _clamp(m, x, -18.0, 89.0))
    # 2^n e + (2^n - 1), with half of 2^n so that n = 128 is in range
    t = _power_of_two(m, m.sub(n, 1))
    y = m.mul(m.fma(t, e, m.sub(t, 0.5)), 2.0)
    # the sum loses the sign of -0, and the tail of tiny arguments
    return m.select(m.cmp("lt", m.abs(x), 2.0**-25), x, y)


def _log_parts(m: Ops, x: Value) -> tuple[Value, Value]:
    """e and f with x = 2^e (1 + f), f in [-1/3, 1/3); x positive and finite."""
    small = m.cmp("lt", x, 2.0**-126)
    x = m.select(small, m.mul(x, 2.0**23), x)
    bits = m.bits(x, "i32")
    e = m.two("shr", m.sub(bits, 0x3F2AAAAB), 23)
    mantissa = m.bits(m.sub(bits, m.two("shl", e, 23)), "f32")
    e = m.sub(e, m.select(small, m.const(23, "i32"), m.const(0, "i32")))
    return m.cast(e, "f32"), m.sub(mantissa, 1.0)


def _log_specials(m: Ops, x: Value, y: Value) -> Value:
    """log of 0, of negatives, of infinity and NaN."""
    y = m.select(m.cmp("lt", x, INF), y, x)  # infinity and NaN give themselves
    y = m.select(m.cmp("lt", x, 0.0), math.nan, y)
    return m.select(m.cmp("eq", x, 0.0), -INF, y)


def _log1p_reduced(m: Ops, f: Value) -> tuple[Value, Value]:
    """log(1 + f) = f + tail, for f in [-1/3, 1/3]."""
    return f, m.mul(m.mul(f, f), m.horner(f, P.LOG_F32))


def log(m: Ops, x: Value) -> Value:
    e, f = _log_parts(m, x)
    head, tail = _log1p_reduced(m, f)
    y = m.add(head, m.fma(e, P.LN2_SPLIT_F32[1], tail))
    return _log_specials(m, x, m.fma(e, P.LN2_SPLIT_F32[0], y))


def log2(m: Ops, x: Value) -> Value:
    e, f = _log_parts(m, x)
    head, tail = _log1p_reduced(m, f)
    high, low = P.LOG2E_SPLIT_F32
    y = m.fma(tail, high, m.mul(head, low))
    # head * high = product + error, exactly
    product = m.mul(head, high)
    error = m.fma(head, high, m.neg(product))
    total = m.add(e, product)
    lost = m.sub(product, m.sub(total, e))
    return _log_specials(m, x, m.add(total, m.add(lost, m.add(error, y))))


def log1p(m: Ops, x: Value) -> Value:
    u = m.add(x, 1.0)
    # what the addition lost, relative to u: log(1 + x) = log(u) + lost / u
    lost = m.select(m.cmp("ge", x, 1.0), m.sub(1.0, m.sub(u, x)), m.sub(x, m.sub(u, 1.0)))
    e, f = _log_parts(m, u)
    head, tail = _log1p_reduced(m, f)
    tail = m.add(tail, m.div(lost, u))
    y = m.fma(e, P.LN2_SPLIT_F32[0], m.add(head, m.fma(e, P.LN2_SPLIT_F32[1], tail)))
    y = _log_specials(m, u, y)
    # tiny arguments are their own result (and keep the sign of -0); infinity loses to its own error term
    keep = m.either(m.cmp("lt", m.abs(x), 2.0**-25), m.cmp("eq", x, INF))
    return m.select(keep, x, y)


def tanh(m: Ops, x: Value) -> Value:
    a = m.abs(x)
    t = expm1(m, m.mul(_clamp(m, a, 0.0, 9.1), 2.0))
    y = m.div(t, m.add(t, 2.0))
    return m.copysign(y, x, "u32", SIGN)


def erf(m: Ops, x: Value) -> Value:
    a = m.abs(x)
    z = m.mul(a, a)
    near = m.fma(m.horner(z, P.ERF_F32), a, a)
    bounded = _clamp(m, a, 0.0, 4.0)
    far = m.sub(1.0, exp(m, m.mul(bounded, m.horner(bounded, P.ERFC_F32))))
    y = m.select(m.cmp("lt", a, 0.9), near, far)
    return m.copysign(y, x, "u32", SIGN)


def _circle(m: Ops, x: Value, quarter: int) -> Value:
    """sin(x + quarter pi/2). The reduction is done in f64, where three pieces of pi/2 leave no error for f32."""
    wide = m.cast(x, "f64")
    n = m.round(m.mul(wide, P.TWO_OVER_PI))
    r = m.fma(n, -P.PI_HALF_SPLIT[0], wide)
    r = m.cast(m.fma(n, -P.PI_HALF_SPLIT[1], r), "f32")
    q = m.add(m.cast(n, "i64"), quarter)
    z = m.mul(r, r)
    sine = m.fma(m.mul(z, r), m.horner(z, P.SIN_F32), r)
    cosine = m.fma(m.mul(z, z), m.horner(z, P.COS_F32), m.fma(z, -0.5, 1.0))
    odd = m.cmp("ne", m.two("and", q, 1), 0)
    y = m.select(odd, cosine, sine)
    y = m.select(m.cmp("ne", m.two("and", q, 2), 0), m.neg(y), y)
    # infinity has no sine
    return m.select(m.cmp("eq", m.abs(x), INF), math.nan, y)


def sin(m: Ops, x: Value) -> Value:
    return m.select(m.cmp("eq", x, 0.0), x, _circle(m, x, 0))


def cos(m: Ops, x: Value) -> Value:
    return _circle(m, x, 1)


def pow(m: Ops, x: Value, y: Value) -> Value:
    """Through f64: log2 and exp2 there have 29 bits to spare."""
    wide_x, wide_y = m.cast(x, "f64"), m.cast(y, "f64")
    magnitude = math_f64.exp2(m, m.mul(wide_y, math_f64.log2(m, m.abs(wide_x))))
    return m.cast(math_f64.pow_specials(m, wide_x, wide_y, magnitude), "f32")


def rsqrt(m: Ops, x: Value) -> Value:
    return m.div(1.0, m.one("sqrt", x))


FUNCTIONS: dict[str, Callable[..., Value]] = {
    f.__name__: f for f in (exp, exp2, expm1, log, log2, log1p, tanh, erf, sin, cos, pow, rsqrt)
}
