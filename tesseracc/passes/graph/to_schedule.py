"""`graph-to-schedule`: every operation becomes one group per result, whose region is the operator's `element` rule."""

from __future__ import annotations

from tesseracc.ir.builder import Builder
from tesseracc.ir.control import by_segment
from tesseracc.ir.dialects.graph import operator_of, to_lang
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.types import I64, TensorType
from tesseracc.ir.value import Func, Module, Op, Value
from tesseracc.passes.graph.elements import ScheduleElements

AXES = "ijlmnop"


def group_of(op: Op, out: int, inputs: list[Value]) -> Op:
    """The group that computes result `out`: for every point of its shape, the operator's element there."""
    result = op.results[out]
    assert isinstance(result.type, TensorType)
    b = Builder(op.loc)

    def fill(inner: Builder, args: list[Value]) -> list[Value]:
        e = ScheduleElements(inner)
        value = operator_of(op).element(
            e, tuple(to_lang(v.type) for v in op.operands), e.indices(args), *map(e.reader, inputs), out=out
        )
        e.b.emit("schedule.write", value.value, args, result=0)
        return []

    dims = result.type.dims
    region = b.nested([I64] * len(dims), fill, tuple(AXES[i % len(AXES)] for i in range(len(dims))))
    group = b.emit("schedule.group", types=[result.type], regions=[region], domain=dims)
    group.result.name = result.name
    return group


def lower(func: Func) -> Func:
    """One `graph.func` as a `schedule.func` of the same name, parameters and results."""
    b = Builder(func.loc)
    params = tuple(Value(p.type, p.name) for p in func.params)
    values: dict[Value, Value] = dict(zip(func.params, params, strict=True))
    for op in func.body.ops:
        b.loc = op.loc
        if op.name == "graph.constant":
            values[op.result] = b.op("schedule.constant", types=op.result.type, name=op.attrs["name"])
            continue
        if op.defn.closed:
            regions = [lower(Func(func.kind, func.name, region, loc=op.loc)).body for region in op.regions]
            name, types = op.name.replace("graph", "schedule"), [r.type for r in op.results]
            made = b.emit(name, *by_segment(op, values), types=types, regions=regions, **op.attrs)
            values.update(zip(op.results, made.results, strict=True))
            continue
        inputs = [values[v] for v in op.operands]
        for out, result in enumerate(op.results):
            values[result] = b.append(group_of(op, out, inputs))[0]
    region = b.region(params, [values[v] for v in func.body.yields])
    return Func("schedule.func", func.name, region, func.attrs, func.loc)


@register("graph-to-schedule", level="graph")
def run(module: Module, context: Context) -> Module:
    """Turns every operation into loop nests, one group per result."""
    return module.with_(funcs=tuple(lower(f) if f.kind == "graph.func" else f for f in module.funcs))
