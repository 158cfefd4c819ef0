"""Which t a row of streamed sums sees: x[i, t] = y[i, t] for t < limit[i], and -inf behind it, as causal masks have it.

Where the limit is a row's number, or its remainder, plus sizes, the most of all rows of a tile is known before it runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tesseracc.ir.builder import Builder
from tesseracc.ir.value import Op, Value
from tesseracc.passes.schedule.streams import Stream

__all__ = ["Seen", "finite_shift", "highest", "seen"]


@dataclass(frozen=True, slots=True)
class Seen:
    """x is `x` for t < `bound` + `more`, and -inf for other t."""

    x: Value
    bound: Value
    more: int


def seen(found: Stream) -> Seen | None:
    """What rows see, or None where x is not of this form."""
    body, made = found.maximum.regions[0], _makers(found)
    select = made.get(body.yields[0])
    if select is None or select.name != "arith.select" or not _is_lowest(select["b"], made):
        return None
    cond = made.get(select["cond"])
    if cond is None or cond.name != "arith.cmp" or cond.attrs["pred"] in ("eq", "ne"):
        return None
    pred = cond.attrs["pred"]
    index, bound = cond.operands if pred in ("lt", "le") else (cond["b"], cond["a"])
    inside = {result for op in body.ops for result in op.results}
    if index is not body.args[0] or bound in inside or bound is index:
        return None
    return Seen(select["a"], bound, int(pred in ("le", "ge")))


def _makers(found: Stream) -> dict[Value, Op]:
    """What makes the values of the group and of the maximum's terms."""
    ops = (*found.group.regions[0].ops, *found.maximum.regions[0].ops)
    return {result: op for op in ops for result in op.results}


def finite_shift(found: Stream) -> bool:
    """Whether c(M) is finite where M is -inf: exp(x - c(M)) is 0 then for x = -inf, without asking."""
    made = _makers(found)
    select = made.get(found.shift)
    if select is None or select.name != "arith.select" or select["a"] is not found.maximum.result:
        return False
    cond, other = made.get(select["cond"]), made.get(select["b"])
    if cond is None or cond.name != "arith.cmp" or cond.attrs["pred"] not in ("gt", "ne"):
        return False
    first, second = cond.operands
    finite = other is not None and other.name == "arith.constant" and math.isfinite(other.attrs["value"])
    return finite and first is found.maximum.result and _is_lowest(second, made)


def _is_lowest(value: Value, made: Mapping[Value, Op]) -> bool:
    op = made.get(value)
    return op is not None and op.name == "arith.constant" and op.attrs["value"] == -math.inf


def _is_size(op: Op | None) -> bool:
    return op is not None and op.name in ("arith.constant", "schedule.dim")


def highest(b: Builder, value: Value, row: Value, tile: tuple[Value, Value], found: Stream) -> Value | None:
    """The most that a sum of a row's number, also as a remainder, and of sizes is for rows of a tile, (first, last);
    None of another value."""
    made, last = _makers(found), tile[1]

    def most(value: Value) -> Value | None:
        op = made.get(value)
        if value is row:
            return last
        if op is None:
            return None
        if _is_size(op):
            return _size(b, op)
        if op.name == "arith.add":
            parts = [most(operand) for operand in op.operands]
            return None if None in parts else b.op("arith.add", *(part for part in parts if part is not None))
        size = made.get(op.operands[1]) if op.name == "arith.mod" and op.operands[0] is row else None
        if size is None or not _is_size(size):
            return None
        length = _size(b, size)
        turns = (b.op("arith.floordiv", place, length) for place in tile)
        ends = b.op("arith.mod", last, length), b.op("arith.sub", length, b.const(1))
        return b.op("arith.select", b.op("arith.cmp", *turns, pred="eq"), *ends)

    return most(value)


def _size(b: Builder, op: Op) -> Value:
    expr = op.attrs["value" if op.name == "arith.constant" else "expr"]
    return b.const(expr) if isinstance(expr, int) else b.op("tile.dim", expr=expr)
