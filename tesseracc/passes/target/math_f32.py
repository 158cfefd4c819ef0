"""Elementary functions of f32 (see expand_math.py): what `math_shared` leaves to the format."""

from __future__ import annotations

from collections.abc import Callable

from tesseracc.ir.value import Value
from tesseracc.passes.target import math_f64
from tesseracc.passes.target import polynomials as P
from tesseracc.passes.target.math_ops import Ops
from tesseracc.passes.target.math_shared import Precision, clamp, log_specials, quadrant


def _log_tail(m: Ops, f: Value) -> Value:
    return m.mul(m.mul(f, f), m.horner(f, P.LOG_F32))


F32 = Precision(
    "f32",
    "i32",
    mantissa=23,
    bias=127,
    ln2=P.LN2_SPLIT_F32,
    exp_tail=P.EXP_F32,
    exp2_tail=P.EXP2_F32,
    exp_range=(-104.0, 89.0),
    exp2_range=(-151.0, 128.0),
    expm1_low=-18.0,
    tanh_limit=9.1,
    log_split=0x3F2AAAAB,
    log_tail=_log_tail,
)


def log2(m: Ops, x: Value) -> Value:
    e, f = F32.log_parts(m, x)
    high, low = P.LOG2E_SPLIT_F32
    y = m.fma(_log_tail(m, f), high, m.mul(f, low))
    # f * high = product + error, exactly
    product = m.mul(f, high)
    error = m.fma(f, high, m.neg(product))
    total = m.add(e, product)
    lost = m.sub(product, m.sub(total, e))
    return log_specials(m, x, m.add(total, m.add(lost, m.add(error, y))))


def erf(m: Ops, x: Value) -> Value:
    a = m.abs(x)
    near = m.fma(m.horner(m.mul(a, a), P.ERF_F32), a, a)
    bounded = clamp(m, a, 0.0, 4.0)
    far = m.sub(1.0, F32.exp(m, m.mul(bounded, m.horner(bounded, P.ERFC_F32))))
    y = m.select(m.cmp("lt", a, 0.9), near, far)
    return m.copysign(y, x, F32.unsigned, F32.sign)


def _circle(m: Ops, x: Value, quarter: int) -> Value:
    """sin(x + quarter pi/2). The reduction is done in f64, where two pieces of pi/2 leave no error for f32."""
    wide = m.cast(x, "f64")
    n = m.round(m.mul(wide, P.TWO_OVER_PI))
    r = m.fma(n, -P.PI_HALF_SPLIT[0], wide)
    r = m.cast(m.fma(n, -P.PI_HALF_SPLIT[1], r), "f32")
    z = m.mul(r, r)
    sine = m.fma(m.mul(z, r), m.horner(z, P.SIN_F32), r)
    cosine = m.fma(m.mul(z, z), m.horner(z, P.COS_F32), m.fma(z, -0.5, 1.0))
    return quadrant(m, m.add(m.cast(n, "i64"), quarter), sine, cosine, x)


def sin(m: Ops, x: Value) -> Value:
    return m.select(m.cmp("eq", x, 0.0), x, _circle(m, x, 0))


def cos(m: Ops, x: Value) -> Value:
    return _circle(m, x, 1)


def pow(m: Ops, x: Value, y: Value) -> Value:
    """Through f64: log2 and exp2 there have 29 bits to spare."""
    wide_x, wide_y = m.cast(x, "f64"), m.cast(y, "f64")
    magnitude = math_f64.F64.exp2(m, m.mul(wide_y, math_f64.log2(m, m.abs(wide_x))))
    return m.cast(math_f64.pow_specials(m, wide_x, wide_y, magnitude), "f32")


FUNCTIONS: dict[str, Callable[..., Value]] = {
    f.__name__: f
    for f in (
        *(F32.exp, F32.exp2, F32.expm1, F32.log, F32.log1p, F32.tanh, F32.rsqrt),
        *(log2, erf, sin, cos, pow),
    )
}
