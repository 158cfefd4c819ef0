"""`hoist`: what does not change in an inner loop is computed before it.

Arithmetic may always move: it cannot fail. A read may move only if its indices are known to be in bounds, because the
loop around it may have no iterations; a reduction may move if all its reads may.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.analysis.indices import Indices
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import captured
from tesseracc.ir.types import TensorType
from tesseracc.ir.value import Module, Op, Region, Value
from tesseracc.passes.schedule.groups import map_groups


def in_bounds(read: Op, indices: Indices) -> bool:
    """Whether every index of a read is known to be inside the tensor."""
    type_ = read["tensor"].type
    assert isinstance(type_, TensorType)
    return all(indices.within(indices.of(v), size) for v, size in zip(read.group("indices"), type_.dims, strict=True))


def movable(op: Op, indices: Indices) -> bool:
    """Whether an operation may run although the loop around it might not."""
    if op.defn.dialect == "arith" or op.name == "schedule.dim":
        return True
    if op.name == "schedule.read":
        return in_bounds(op, indices)
    if op.name == "schedule.reduce":
        return all(movable(inner, indices) for inner in op.regions[0].ops)
    return False


def _hoist(region: Region, indices: Indices) -> Region:
    ops: list[Op] = []
    for op in region.ops:
        if not op.regions:
            ops.append(op)
            continue
        inner = _hoist(op.regions[0], indices)
        inside: set[Value] = set(inner.args)
        kept: list[Op] = []
        for nested in inner.ops:
            used = [*nested.operands, *(v for r in nested.regions for v in captured(r))]
            if inside.isdisjoint(used) and movable(nested, indices):
                ops.append(nested)
            else:
                inside.update(nested.results)
                kept.append(nested)
        ops.append(replace(op, regions=(Region(inner.args, tuple(kept), inner.yields),)))
    return Region(region.args, tuple(ops), region.yields)


def hoist(group: Op) -> Op:
    """The group with invariant elements moved out of its inner loops."""
    return replace(group, regions=(_hoist(group.regions[0], Indices(group)),))


@register("hoist", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Moves invariant elements out of inner loops."""
    return map_groups(module, hoist)
