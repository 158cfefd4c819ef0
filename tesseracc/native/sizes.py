"""Shape expressions as LLVM IR: 64-bit signed arithmetic as `tessera_runtime.core.shapeexpr` defines it.

Faults (overflow, division by zero, a negative extent) do not stop the evaluation; they set one flag, tested at its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tessera_runtime.core import shapeexpr
from tessera_runtime.core.manifest import Dim

__all__ = ["Body", "Number"]

Number = int | str  # a known value, or the name of an i64

_LIMIT = 1 << 47  # bytes of any one tensor, as the runtime has it
_CHECKED = {"add": "sadd", "sub": "ssub", "mul": "smul"}
_MIN = -(1 << 63)


class Body:
    """The body of one LLVM function, in order; `fault` names an i1 that tells whether a size went wrong so far."""

    def __init__(self, symbols: dict[str, Number]) -> None:
        self.lines: list[str] = []
        self.symbols = symbols
        self.fault = "false"
        self._count = 0
        self._known: dict[tuple[Number, ...], Number] = {}

    def line(self, text: str) -> None:
        """Add an instruction without result, or a label if it ends in a colon."""
        self.lines.append(text if text.endswith(":") else f"  {text}")

    def value(self, text: str) -> str:
        """Add an instruction; the name of its result."""
        self._count += 1
        self.lines.append(f"  %v{self._count} = {text}")
        return f"%v{self._count}"

    def label(self, stem: str) -> str:
        """A fresh label."""
        self._count += 1
        return f"{stem}{self._count}"

    def leave(self, condition: str, result: str) -> None:
        """Return `result`, a value with its type, if the i1 `condition` holds."""
        bad, good = self.label("bad"), self.label("good")
        self.line(f"br i1 {condition}, label %{bad}, label %{good}")
        self.line(f"{bad}:")
        self.line(f"ret {result}")
        self.line(f"{good}:")

    def wrong(self, condition: str) -> None:
        """Set the flag if the i1 `condition` holds."""
        self.fault = condition if self.fault == "false" else self.value(f"or i1 {self.fault}, {condition}")

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Compute what follows anew where it is needed again: its faults count for this part only."""
        known = dict(self._known)
        try:
            yield
        finally:
            self._known = known

    def operate(self, name: str, a: Number, b: Number) -> Number:
        """`a name b` for an operator of shape expressions."""
        if isinstance(a, int) and isinstance(b, int):
            return shapeexpr.evaluate((a, b, name), {})
        key = (name, a, b)
        if key not in self._known:
            self._known[key] = self._operate(name, a, b)
        return self._known[key]

    def _operate(self, name: str, a: Number, b: Number) -> Number:
        if name in ("min", "max"):
            return self.value(f"call i64 @llvm.s{name}.i64(i64 {a}, i64 {b})")
        if name in _CHECKED:
            both = self.value(f"call {{ i64, i1 }} @llvm.{_CHECKED[name]}.with.overflow.i64(i64 {a}, i64 {b})")
            self.wrong(self.value(f"extractvalue {{ i64, i1 }} {both}, 1"))
            return self.value(f"extractvalue {{ i64, i1 }} {both}, 0")
        # Quotients round to minus or plus infinity; sdiv rounds to zero, and must not see what it cannot divide.
        zero = self.value(f"icmp eq i64 {b}, 0")
        lowest = self.value(f"icmp eq i64 {a}, {_MIN}")
        minus = self.value(f"icmp eq i64 {b}, -1")
        bad = self.value(f"or i1 {zero}, {self.value(f'and i1 {lowest}, {minus}')}")
        self.wrong(zero if name == "mod" else bad)  # the least number modulo -1 is 0, its quotient too large
        safe = self.value(f"select i1 {bad}, i64 1, i64 {b}")
        quotient, rest = self.value(f"sdiv i64 {a}, {safe}"), self.value(f"srem i64 {a}, {safe}")
        inexact = self.value(f"icmp ne i64 {rest}, 0")
        unlike = self.value(f"icmp slt i64 {self.value(f'xor i64 {rest}, {safe}')}, 0")
        if name == "ceildiv":
            up = self.value(f"and i1 {inexact}, {self.value(f'xor i1 {unlike}, true')}")
            return self.value(f"add i64 {quotient}, {self.value(f'zext i1 {up} to i64')}")
        down = self.value(f"and i1 {inexact}, {unlike}")
        if name == "floordiv":
            return self.value(f"sub i64 {quotient}, {self.value(f'zext i1 {down} to i64')}")
        return self.value(f"select i1 {down}, i64 {self.value(f'add i64 {rest}, {safe}')}, i64 {rest}")

    def dim(self, dim: Dim) -> Number:
        """The value of a shape expression over the symbols."""
        if isinstance(dim, int):
            return dim
        stack: list[Number] = []
        for item in dim:
            if isinstance(item, int):
                stack.append(item)
            elif item in shapeexpr.OPERATORS:
                right = stack.pop()
                stack.append(self.operate(item, stack.pop(), right))
            else:
                stack.append(self.symbols[item])
        return stack[0]

    def extent(self, dim: Dim) -> Number:
        """The same, not negative."""
        value = self.dim(dim)
        if isinstance(value, str) and value not in self.symbols.values():
            self.wrong(self.value(f"icmp slt i64 {value}, 0"))
        return value

    def nbytes(self, shape: Sequence[Dim], itemsize: int) -> Number:
        """The bytes of a dense tensor, within the runtime's limit."""
        size: Number = itemsize
        for dim in shape:
            size = self.operate("mul", size, self.extent(dim))
        if isinstance(size, str):
            self.wrong(self.value(f"icmp sgt i64 {size}, {_LIMIT}"))
        return size
