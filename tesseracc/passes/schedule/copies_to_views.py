"""`copies-to-views`: a group that only repeats a tensor's elements in their order is a view of it; views of
views are one.

    y[i, j] = x[i * B + j]  for all of y: [A, B], x: [A*B]   ->   y = view x

A view that nothing uses, or that changes nothing, disappears. What the function returns may be a view; the program then
copies where a result needs memory of its own.
"""

from __future__ import annotations

from dataclasses import replace

from tessera.shapes import equal_if_divisible, product
from tesseracc.analysis.indices import Indices, linear
from tesseracc.ir.builder import make
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, remove_dead, with_operands
from tesseracc.ir.types import TensorType
from tesseracc.ir.value import Func, Module, Op, Value
from tesseracc.passes.schedule.groups import writes_of
from tesseracc.passes.schedule.inline import pulled_value


def source_of(group: Op) -> Value | None:
    """The tensor whose elements the group repeats in order, or None."""
    value = pulled_value(group)
    reads = [op for op in group.regions[0].ops if op.results and op.result is value and op.name == "schedule.read"]
    if not reads or reads[0].optional("where") is not None:
        return None
    source, target = reads[0]["tensor"].type, group.result.type
    assert isinstance(source, TensorType) and isinstance(target, TensorType)
    if equal_if_divisible(product(source.dims), product(target.dims)) is None:
        return None
    indices = Indices(group)
    (write,) = writes_of(group)
    point = linear([indices.of(v) for v in write.group("indices")], target.dims)
    place = linear([indices.of(v) for v in reads[0].group("indices")], source.dims)
    return reads[0]["tensor"] if place == point else None


def _change(func: Func) -> Func:
    same: dict[Value, Value] = {}
    views: dict[Value, Value] = {}  # a view's result -> the tensor behind it
    ops: list[Op] = []
    for op in func.body.ops:
        op = with_operands(op, same)
        if op.name == "schedule.group":
            source = source_of(op)
            if source is not None:
                op = replace(make("schedule.view", source, types=[op.result.type], loc=op.loc), results=op.results)
        if op.name == "schedule.view":
            source = views.get(op["tensor"], op["tensor"])
            if source.type == op.result.type:
                same[op.result] = source
                continue
            views[op.result] = source
            op = replace(op, operands=(source,))
        ops.append(op)
    body = replace(func.body, ops=tuple(ops), yields=tuple(same.get(v, v) for v in func.body.yields))
    return func.with_(body=remove_dead(body))


@register("copies-to-views", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Turns groups that only repeat a tensor into views."""
    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", _change))
