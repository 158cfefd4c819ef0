"""`fold-elements`: constants and identities of element arithmetic that hold bit for bit.

    x + 0 = x - 0 = x  (int; float: x - 0 and x + -0)     x * 1 = x / 1 = x // 1 = x       x * 0 = 0  (int)
    cast(x, T) = x  (x of type T)                         cast(cast(x, wider), T) = x  (x of type T, widening exact)
    select(true, a, b) = a     select(c, a, a) = a        c and true = c or false = c      not not c = c
    read(.., where true) = read(..)                       read(.., where false) = 0

Operations on constants are evaluated, except transcendental ones, whose last bit is the target's affair.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tesseracc.interpret import scalar
from tesseracc.ir.builder import make
from tesseracc.ir.dialects.arith import TRANSCENDENTAL
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import remove_dead
from tesseracc.ir.types import bits_of, element, kind_of
from tesseracc.ir.value import Module, Op, Region, Value
from tesseracc.passes.schedule.groups import map_groups

Array = np.ndarray[Any, Any]


def number_of(array: Array, dtype: str) -> int | float | bool:
    """The attribute that stands for a constant's value."""
    wide = scalar.widen(array, dtype)
    kind = kind_of(dtype)
    return float(wide) if kind == "f" else bool(wide) if kind == "b" else int(wide)


class _Folder:
    def __init__(self) -> None:
        self.made: dict[Value, Op] = {}
        self.same: dict[Value, Value] = {}

    def constant(self, value: Value) -> Any:
        op = self.made.get(value)
        return op.attrs["value"] if op is not None and op.name == "arith.constant" else None

    def region(self, region: Region) -> Region:
        ops: list[Op] = []
        for op in region.ops:
            operands = tuple(self.same.get(v, v) for v in op.operands)
            op = op.rebound(operands, tuple(map(self.region, op.regions)))
            found = self.fold(op)
            if isinstance(found, Value):
                self.same[op.result] = found
                continue
            self.made.update(dict.fromkeys(found.results, found))
            ops.append(found)
        return Region(region.args, tuple(ops), tuple(self.same.get(v, v) for v in region.yields))

    def fold(self, op: Op) -> Op | Value:
        """A value that the result equals, or an operation with the same result."""
        if op.name == "schedule.read":
            return self._read(op)
        if op.defn.dialect != "arith" or op.name == "arith.constant":
            return op
        known = [self.constant(v) for v in op.operands]
        if all(k is not None for k in known) and op.name.removeprefix("arith.") not in TRANSCENDENTAL:
            arrays = [scalar.constant(k, element(v.type)) for k, v in zip(known, op.operands, strict=True)]
            dtype = element(op.result.type)
            return self._constant(op, number_of(scalar.evaluate(op, arrays), dtype))
        found = self._identity(op, known)
        return op if found is None else found

    def _constant(self, op: Op, value: int | float | bool) -> Op:
        made = make("arith.constant", types=op.result.type, value=value, loc=op.loc)
        return replace(made, results=op.results)

    def _read(self, op: Op) -> Op:
        where = op.optional("where")
        known = self.constant(where) if where is not None else None
        if known is None:
            return op
        if not known:
            dtype = element(op.result.type)
            return self._constant(op, number_of(scalar.constant(0, dtype), dtype))
        return replace(op, operands=op.operands[:-1], segments=(*op.segments[:-1], 0))

    def _identity(self, op: Op, known: list[Any]) -> Value | Op | None:
        dtype = element(op.operands[-1].type)
        floating = kind_of(dtype) == "f"
        first, last = op.operands[0], op.operands[-1]
        a, b = (known[0], known[-1]) if known else (None, None)
        match op.name.removeprefix("arith."):
            case "add":
                if _is_zero(b, floating, negative=True):
                    return first
                return last if _is_zero(a, floating, negative=True) else None
            case "sub":
                return first if _is_zero(b, floating, negative=False) else None
            case "mul":
                if _is(b, 1):
                    return first
                if _is(a, 1):
                    return last
                return self._constant(op, 0) if not floating and dtype != "bool" and (_is(a, 0) or _is(b, 0)) else None
            case "div" | "floordiv":
                return first if _is(b, 1) else None
            case "select":
                if a is not None:
                    return op.operands[1] if a else op.operands[2]
                return op.operands[1] if op.operands[1] is op.operands[2] else None
            case "and" if dtype == "bool":
                if a is not None or b is not None:
                    other, value = (last, a) if a is not None else (first, b)
                    return other if value else self._constant(op, False)
                return first if first is last else None
            case "or" if dtype == "bool":
                if a is not None or b is not None:
                    other, value = (last, a) if a is not None else (first, b)
                    return self._constant(op, True) if value else other
                return first if first is last else None
            case "not":
                inner = self.made.get(first)
                return inner["a"] if inner is not None and inner.name == "arith.not" else None
            case "cast":
                return self._cast(op, first, dtype)
        return None

    def _cast(self, op: Op, first: Value, dtype: str) -> Value | None:
        if op.attrs["to"] == dtype:
            return first
        inner = self.made.get(first)
        if inner is None or inner.name != "arith.cast":
            return None
        source = inner["a"]
        small = element(source.type)
        exact = (
            kind_of(small) == kind_of(dtype)
            and kind_of(small) in "fiu"
            and bits_of(small) < bits_of(dtype)
            and dtype in ("f32", "f64", "i64", "u64", "i32", "u32", "i16", "u16")
        )
        return source if exact and op.attrs["to"] == small else None


def _is(value: Any, number: int) -> bool:
    return value is not None and not isinstance(value, bool) and value == number


def _is_zero(value: Any, floating: bool, *, negative: bool) -> bool:
    """The zero that may be dropped: for floats -0 behind + (x + 0 turns -0 into 0) and +0 behind -."""
    if not _is(value, 0):
        return False
    return not floating or (math.copysign(1.0, value) < 0) == negative


def fold_elements(group: Op) -> Op:
    """The group with constants evaluated and identities removed."""
    return replace(group, regions=(remove_dead(_Folder().region(group.regions[0])),))


@register("fold-elements", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Evaluates element operations on constants and drops identities."""
    return map_groups(module, fold_elements)
