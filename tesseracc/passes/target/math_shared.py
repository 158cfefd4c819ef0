"""Elementary functions whose method is the same in f32 and f64; a `Precision` holds what differs.

Every function ends with the operation that computes its result (see expand_math.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tesseracc.ir.value import Value
from tesseracc.passes.target.math_ops import Ops

INF = math.inf
Tail = Callable[[Ops, Value], Value]


@dataclass(frozen=True)
class Precision:
    """A format and the constants of the methods for it.

    `exp_range` and `exp2_range` are arguments beyond which the result is 0 or infinity; `tiny` is a magnitude below
    which x + x^2 rounds to x; `log_split` is the bit pattern of 2/3, so that subtracting it gives the exponent of
    numbers in [2/3, 4/3); `log_tail` gives log(1 + f) - f for f in [-1/3, 1/3].
    """

    float_: str
    integer: str
    mantissa: int
    bias: int
    ln2: tuple[float, float]
    exp_tail: Sequence[float]
    exp2_tail: Sequence[float]
    exp_range: tuple[float, float]
    exp2_range: tuple[float, float]
    expm1_low: float
    tanh_limit: float
    log_split: int
    log_tail: Tail

    @property
    def tiny(self) -> float:
        return 2.0 ** -(self.mantissa + 2)

    @property
    def sign(self) -> int:
        return 1 << (self.mantissa + len(bin(self.bias)) - 1)

    @property
    def unsigned(self) -> str:
        return "u" + self.integer[1:]

    # -- exponentials --------------------------------------------------------------------------------------------

    def nearest(self, m: Ops, x: Value, factor: float, bias: int) -> tuple[Value, Value]:
        """n = x * factor rounded to an integer, as a float, and a bit pattern whose low bits are those of n + bias.

        Beside 1.5 * 2^mantissa there is no room for a fraction: the sum is rounded to an integer, which its low bits
        show. Shifted left by the mantissa's width they are an exponent; the bits above them fall out.
        """
        magic = 1.5 * 2.0**self.mantissa + bias
        shifted = m.add(x, magic) if factor == 1 else m.fma(x, factor, magic)
        return m.sub(shifted, magic), m.bits(shifted, self.unsigned)

    def scale(self, m: Ops, y: Value, pattern: Value) -> Value:
        """y 2^n with one rounding, for a pattern of n + 2 bias: gradual underflow, overflow to infinity.

        2^n is a product of two normal numbers, whose exponents are half of the pattern and the rest of it.
        """
        half = m.two("shl", m.two("shr", pattern, 1), self.mantissa)
        rest = m.sub(m.two("shl", pattern, self.mantissa), half)
        return m.mul(m.mul(y, m.bits(half, self.float_)), m.bits(rest, self.float_))

    def remainder(self, m: Ops, x: Value, n: Value) -> Value:
        """x - n ln2."""
        return m.fma(n, -self.ln2[1], m.fma(n, -self.ln2[0], x))

    def exp(self, m: Ops, x: Value) -> Value:
        x = clamp(m, x, *self.exp_range)
        n, pattern = self.nearest(m, x, 1 / math.log(2), 2 * self.bias)
        return self.scale(m, m.horner(self.remainder(m, x, n), (1.0, 1.0, *self.exp_tail)), pattern)

    def exp2_reduced(self, m: Ops, pattern: Value, r: Value) -> Value:
        """2^(n + r), for a pattern of n + 2 bias."""
        return self.scale(m, m.horner(r, (1.0, *self.exp2_tail)), pattern)

    def exp2(self, m: Ops, x: Value) -> Value:
        x = clamp(m, x, *self.exp2_range)
        n, pattern = self.nearest(m, x, 1.0, 2 * self.bias)
        return self.exp2_reduced(m, pattern, m.sub(x, n))

    def expm1(self, m: Ops, x: Value) -> Value:
        bounded = clamp(m, x, self.expm1_low, self.exp_range[1])
        n, pattern = self.nearest(m, bounded, 1 / math.log(2), self.bias - 1)
        r = self.remainder(m, bounded, n)
        e = m.fma(m.mul(r, r), m.horner(r, self.exp_tail), r)
        # 2^n e + (2^n - 1), with half of 2^n so that the largest n is in range
        t = m.bits(m.two("shl", pattern, self.mantissa), self.float_)
        y = m.mul(m.fma(t, e, m.sub(t, 0.5)), 2.0)
        # the sum loses the sign of -0, and the tail of tiny arguments
        return m.select(m.cmp("lt", m.abs(x), self.tiny), x, y)

    def tanh(self, m: Ops, x: Value) -> Value:
        """(e^2x - 1) / (e^2x + 1)"""
        t = self.expm1(m, m.mul(clamp(m, m.abs(x), 0.0, self.tanh_limit), 2.0))
        return m.copysign(m.div(t, m.add(t, 2.0)), x, self.unsigned, self.sign)

    # -- logarithms ----------------------------------------------------------------------------------------------

    def log_parts(self, m: Ops, x: Value) -> tuple[Value, Value]:
        """e and f with x = 2^e (1 + f), f in [-1/3, 1/3); x positive and finite."""
        lift = self.mantissa
        small = m.cmp("lt", x, 2.0 ** (1 - self.bias))
        bits = m.bits(m.select(small, m.mul(x, 2.0**lift), x), self.integer)
        e = m.two("shr", m.sub(bits, self.log_split), self.mantissa)
        fraction = m.bits(m.sub(bits, m.two("shl", e, self.mantissa)), self.float_)
        e = m.sub(e, m.select(small, m.const(lift, self.integer), m.const(0, self.integer)))
        return m.cast(e, self.float_), m.sub(fraction, 1.0)

    def log_sum(self, m: Ops, e: Value, f: Value, tail: Value) -> Value:
        """e ln2 + f + tail, small parts first."""
        return m.fma(e, self.ln2[0], m.add(f, m.fma(e, self.ln2[1], tail)))

    def log(self, m: Ops, x: Value) -> Value:
        e, f = self.log_parts(m, x)
        return log_specials(m, x, self.log_sum(m, e, f, self.log_tail(m, f)))

    def log1p(self, m: Ops, x: Value) -> Value:
        u = m.add(x, 1.0)
        # what the addition lost, relative to u: log(1 + x) = log(u) + lost / u
        lost = m.select(m.cmp("ge", x, 1.0), m.sub(1.0, m.sub(u, x)), m.sub(x, m.sub(u, 1.0)))
        e, f = self.log_parts(m, u)
        y = self.log_sum(m, e, f, m.add(self.log_tail(m, f), m.div(lost, u)))
        y = log_specials(m, u, y)
        # tiny arguments are their own result (and keep the sign of -0); infinity loses to its own error term
        keep = m.either(m.cmp("lt", m.abs(x), self.tiny), m.cmp("eq", x, INF))
        return m.select(keep, x, y)

    def rsqrt(self, m: Ops, x: Value) -> Value:
        return m.div(1.0, m.one("sqrt", x))


def clamp(m: Ops, x: Value, low: float, high: float) -> Value:
    """x within bounds; NaN stays."""
    x = m.select(m.cmp("lt", x, low), low, x)
    return m.select(m.cmp("gt", x, high), high, x)


def log_specials(m: Ops, x: Value, y: Value) -> Value:
    """The logarithm y of x, put right for 0, negatives, infinity and NaN."""
    y = m.select(m.cmp("lt", x, INF), y, x)  # infinity and NaN give themselves
    y = m.select(m.cmp("lt", x, 0.0), math.nan, y)
    return m.select(m.cmp("eq", x, 0.0), -INF, y)


def quadrant(m: Ops, q: Value, sine: Value, cosine: Value, x: Value) -> Value:
    """sin of x = r + q pi/2 from sin r and cos r; infinity has none."""
    y = m.select(m.cmp("ne", m.two("and", q, 1), 0), cosine, sine)
    y = m.select(m.cmp("ne", m.two("and", q, 2), 0), m.neg(y), y)
    return m.select(m.cmp("eq", m.abs(x), INF), math.nan, y)
