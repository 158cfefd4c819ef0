"""`graph-cse`: the same operator on the same operands is computed once (operators are pure)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs
from tesseracc.ir.value import Func, Module, Op, Region, Value


def _key(op: Op) -> Hashable:
    attrs = tuple((key, type(value).__name__, repr(value)) for key, value in op.attrs.items())
    return (op.name, attrs, op.operands, tuple(str(r.type) for r in op.results))


def cse(func: Func) -> Func:
    """The function with equal operations shared."""
    known: dict[Hashable, Op] = {}
    same: dict[Value, Value] = {}
    ops: list[Op] = []
    for op in func.body.ops:
        op = replace(op, operands=tuple(same.get(v, v) for v in op.operands))
        earlier = op if op.regions else known.setdefault(_key(op), op)
        if earlier is op:
            ops.append(op)
        else:
            same.update(zip(op.results, earlier.results, strict=True))
    return func.with_(body=Region(func.params, tuple(ops), tuple(same.get(v, v) for v in func.body.yields)))


@register("graph-cse", level="graph")
def run(module: Module, context: Context) -> Module:
    """Computes equal operations once."""
    return module.with_(funcs=map_funcs(module.funcs, "graph.func", cse))
