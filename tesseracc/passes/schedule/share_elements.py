"""`share-elements`: inside a group, equal computations are done once (tensors do not change while a group runs).

Two operations are equal when name, attributes, operands and regions agree; a region agrees up to the names of what is
defined in it. What an outer region has computed is used in the inner ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import has_effect
from tesseracc.ir.value import Module, Op, Region, Value
from tesseracc.passes.schedule.groups import map_groups


def key_of(op: Op, local: Mapping[Value, int]) -> Hashable:
    """Equal for operations that compute the same; `local` numbers the values of regions that are being compared."""
    operands = tuple(local.get(v, v) for v in op.operands)
    attrs = tuple((k, type(v).__name__, repr(v)) for k, v in op.attrs.items())
    regions = tuple(_region_key(region, local) for region in op.regions)
    return (op.name, attrs, operands, op.segments, tuple(str(r.type) for r in op.results), regions)


def _region_key(region: Region, local: Mapping[Value, int]) -> Hashable:
    inside = dict(local)
    for arg in region.args:
        inside[arg] = len(inside)
    keys = []
    for op in region.ops:
        keys.append(key_of(op, inside))
        for result in op.results:
            inside[result] = len(inside)
    return (len(region.args), tuple(keys), tuple(inside.get(v, v) for v in region.yields))


def _share(region: Region, known: dict[Hashable, Op], same: dict[Value, Value]) -> Region:
    known = dict(known)
    ops: list[Op] = []
    for op in region.ops:
        operands = tuple(same.get(v, v) for v in op.operands)
        op = op.rebound(operands, tuple(_share(inner, known, same) for inner in op.regions))
        if not has_effect(op):
            key = key_of(op, {})
            earlier = known.setdefault(key, op)
            if earlier is not op:
                same.update(zip(op.results, earlier.results, strict=True))
                continue
        ops.append(op)
    return Region(region.args, tuple(ops), tuple(same.get(v, v) for v in region.yields))


def share_elements(group: Op) -> Op:
    """The group without repeated computations."""
    return replace(group, regions=(_share(group.regions[0], {}, {}),))


@register("share-elements", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Computes equal elements of a group once."""
    return map_groups(module, share_elements)
