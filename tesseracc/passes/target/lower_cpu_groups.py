"""The loop over the groups that a thread was given.

A group may take its neighbours' work with its own, as far as they are this thread's (`tile.group_span`). Then the loop
passes over those that are done; the number behind them stands in the thread's scratch memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tesseracc.ir.types import I64, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.lower_cpu_values import Affine, Int, Kernel, Rep, Span


def group_span(k: Kernel, op: Op) -> Rep:
    """As many groups as the limit and the thread's part of the launch allow."""
    if k.span is None:
        return Affine(1)
    number, end, behind = k.value(k.group_ids[0]), k.span.end, k.span.behind
    span = k.b.op("arith.min", k.scalar(k.env[op["limit"]]), k.b.op("arith.sub", end, number))
    k.b.emit("target.store", k.b.op("arith.add", number, span), behind, align=8)
    return Affine(span)


def group_loop(k: Kernel, grid: list[Int], begin: Value, end: Value, one_group: Callable[[list[Int]], None]) -> None:
    """Groups begin .. end; beyond one axis the coordinates are counted along, divided only once."""
    if len(grid) == 1:
        spans = any(op.name == "tile.group_span" for op in k.func.walk())
        k.span = span = Span(end, k.reserve(size_of("i64"))) if spans else None

        def run(g: Value) -> list[Value]:
            one_group([g])
            return []

        def single(g: Value, _: list[Value]) -> Sequence[Value]:
            if span is None:
                return run(g)
            behind = k.b.op("target.load", span.behind, types=I64, align=8)
            return k.when(k.b.op("arith.cmp", behind, g, pred="le"), lambda: run(g), list)

        if span is not None:
            k.b.emit("target.store", begin, span.behind, align=8)
        k.loop(begin, end, 1, (), single)
        return
    rest: Value = begin
    start: list[Value] = []
    for size in grid[:-1]:
        start.append(k.b.op("arith.mod", rest, k.value(size)))
        rest = k.b.op("arith.floordiv", rest, k.value(size))
    start.append(rest)

    def body(_: Value, ids: list[Value]) -> list[Value]:
        one_group(list(ids))
        following: list[Value] = []
        carry: Value | None = None  # whether this axis moves on
        for at, index in enumerate(ids):
            one = k.b.const(1)
            moved = k.b.op("arith.add", index, one if carry is None else k.b.op("arith.cast", carry, to="i64"))
            if at == len(ids) - 1:
                following.append(moved)
                break
            wraps = k.b.op("arith.cmp", moved, k.value(grid[at]), pred="ge")
            following.append(k.b.op("arith.select", wraps, k.b.const(0), moved))
            carry = wraps
        return following

    k.loop(begin, end, 1, start, body)
