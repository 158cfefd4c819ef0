"""A small notation for straight-line arithmetic on values of one form (scalar or vec)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from tesseracc.ir.builder import Builder
from tesseracc.ir.types import Type, element, with_element
from tesseracc.ir.value import Value

Number: TypeAlias = Value | float


class Ops:
    """Operations of the `arith` dialect; a Python number takes the element type of the other operand."""

    def __init__(self, b: Builder, form: Type) -> None:
        self.b = b
        self.form = form

    def const(self, value: float | bool, dtype: str) -> Value:
        return self.b.op("arith.constant", types=with_element(self.form, dtype), value=value)

    def _pair(self, a: Number, b: Number) -> tuple[Value, Value]:
        known = a if isinstance(a, Value) else b
        assert isinstance(known, Value)
        dtype = element(known.type)
        number = float if dtype[0] == "f" else int
        return (
            a if isinstance(a, Value) else self.const(number(a), dtype),
            b if isinstance(b, Value) else self.const(number(b), dtype),
        )

    def two(self, name: str, a: Number, b: Number) -> Value:
        return self.b.op(f"arith.{name}", *self._pair(a, b))

    def one(self, name: str, a: Value) -> Value:
        return self.b.op(f"arith.{name}", a)

    def add(self, a: Number, b: Number) -> Value:
        return self.two("add", a, b)

    def sub(self, a: Number, b: Number) -> Value:
        return self.two("sub", a, b)

    def mul(self, a: Number, b: Number) -> Value:
        return self.two("mul", a, b)

    def div(self, a: Number, b: Number) -> Value:
        return self.two("div", a, b)

    def fma(self, a: Number, b: Number, c: Number) -> Value:
        known = next(v for v in (a, b, c) if isinstance(v, Value))
        dtype = element(known.type)
        values = (v if isinstance(v, Value) else self.const(float(v), dtype) for v in (a, b, c))
        return self.b.op("arith.fma", *values)

    def neg(self, a: Value) -> Value:
        return self.one("neg", a)

    def abs(self, a: Value) -> Value:
        return self.one("abs", a)

    def round(self, a: Value) -> Value:
        return self.one("round", a)

    def cmp(self, pred: str, a: Number, b: Number) -> Value:
        return self.b.op("arith.cmp", *self._pair(a, b), pred=pred)

    def select(self, cond: Value, a: Number, b: Number) -> Value:
        return self.b.op("arith.select", cond, *self._pair(a, b))

    def both(self, a: Value, b: Value) -> Value:
        return self.b.op("arith.and", a, b)

    def either(self, a: Value, b: Value) -> Value:
        return self.b.op("arith.or", a, b)

    def cast(self, a: Value, to: str) -> Value:
        return self.b.op("arith.cast", a, to=to)

    def bits(self, a: Value, to: str) -> Value:
        return self.b.op("arith.bitcast", a, to=to)

    def isnan(self, a: Value) -> Value:
        return self.one("isnan", a)

    def horner(self, x: Value, coefficients: Sequence[float]) -> Value:
        """c0 + x (c1 + x (c2 + ..)) by fused steps."""
        total: Number = coefficients[-1]
        for c in reversed(coefficients[:-1]):
            total = self.fma(x, total, c)
        assert isinstance(total, Value)
        return total

    def copysign(self, magnitude: Value, sign: Value, integer: str, mask: int) -> Value:
        """The magnitude (>= 0) with the sign bit of another value."""
        top = self.two("and", self.bits(sign, integer), mask)
        return self.bits(self.either(self.bits(magnitude, integer), top), element(magnitude.type))
