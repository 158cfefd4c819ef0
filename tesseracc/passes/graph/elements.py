"""Records an operator's `element` rule as Schedule IR: the operations of a group's region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tessera.elements import Element, Elements, Index, Number, Read
from tessera.shapes import Dim
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import BOOL, I64, ScalarType, bits_of, element, kind_of
from tesseracc.ir.value import Attr, Value


class ScheduleElements(Elements):
    """Builds into `b`; inner loops build into a builder of their own while their body runs."""

    def __init__(self, b: Builder) -> None:
        self.b = b

    def _wrap(self, value: Value) -> Element:
        return Element(self, element(value.type), value)

    def _op(self, name: str, *operands: Element, **attrs: Attr) -> Element:
        return self._wrap(self.b.op(name, *(x.value for x in operands), **attrs))

    def const(self, value: Number, dtype: str) -> Element:
        kind = kind_of(dtype)
        number: Number = float(value) if kind == "f" else bool(value) if kind == "b" else int(value)
        return self._wrap(self.b.const(number, dtype))

    def index(self, dim: Dim) -> Index:
        return self.const(dim, "i64") if isinstance(dim, int) else self._op("schedule.dim", expr=dim)

    def unary(self, kind: str, x: Element) -> Element:
        return self._op(f"arith.{kind}", x)

    def binary(self, kind: str, a: Element, b: Element) -> Element:
        if kind in ("shl", "shr"):  # an operator takes the count modulo the width, the IR does not
            b = self._op("arith.and", b, self.const(bits_of(b.dtype) - 1, b.dtype))
        return self._op(f"arith.{kind}", a, b)

    def compare(self, predicate: str, a: Element, b: Element) -> Element:
        return self._op("arith.cmp", a, b, pred=predicate)

    def select(self, condition: Element, a: Element, b: Element) -> Element:
        return self._op("arith.select", condition, a, b)

    def fma(self, a: Element, b: Element, c: Element) -> Element:
        return self._op("arith.fma", a, b, c)

    def cast(self, x: Element, dtype: str) -> Element:
        return x if x.dtype == dtype else self._op("arith.cast", x, to=dtype)

    def bitcast(self, x: Element, dtype: str) -> Element:
        return x if x.dtype == dtype else self._op("arith.bitcast", x, to=dtype)

    def reduce(self, kind: str, sizes: Sequence[Dim], body: Callable[..., Element]) -> Element:
        return self._loop(kind, sizes, body, None)

    def argreduce(self, kind: str, size: Dim, body: Callable[[Index], Element]) -> Index:
        return self._loop(kind, (size,), body, "i64")

    def _loop(self, kind: str, sizes: Sequence[Dim], body: Callable[..., Element], dtype: str | None) -> Element:
        outer = self.b

        def fill(inner: Builder, args: list[Value]) -> list[Value]:
            self.b = inner
            try:
                return [body(*map(self._wrap, args)).value]
            finally:
                self.b = outer

        region = outer.nested([I64] * len(sizes), fill, ("k",) * len(sizes))
        type_ = ScalarType(dtype) if dtype else region.yields[0].type
        return self._wrap(outer.op("schedule.reduce", types=type_, regions=[region], kind=kind, sizes=tuple(sizes)))

    def reader(self, tensor: Value) -> Read:
        """The `Read` of one tensor."""

        def read(*indices: Index, where: Element | None = None) -> Element:
            condition: Any = None if where is None else where.value
            assert condition is None or condition.type == BOOL
            return self._wrap(self.b.op("schedule.read", tensor, [i.value for i in indices], condition))

        return read

    def indices(self, args: Sequence[Value]) -> tuple[Index, ...]:
        """Loop arguments as elements."""
        return tuple(map(self._wrap, args))
