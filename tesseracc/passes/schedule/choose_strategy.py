"""`choose-strategy`: how each group is mapped to groups of lanes. Recorded in the group's `plan` attribute.

    mma    a contraction: tiles of the result per group, the sum over k in steps of matrix products
    rows   one point of the domain per group, inner loops spread over the lanes
    lanes  one point of the domain per lane, inner loops serial in each lane

The choice depends on the group's own shape of computation: what is contiguous along which loop, and static sizes.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.analysis.access import dependence, is_contraction
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, map_ops
from tesseracc.ir.value import Func, Module, Op

#: below this static extent an inner axis is too short to be spread over the lanes of a group
SHORT_AXIS = 24


def inner_loops(op: Op) -> list[Op]:
    """The reductions and inner loops that stand directly in the group's region."""
    loops = ("schedule.reduce", "schedule.each")
    return [inner for inner in op.regions[0].ops if inner.name in loops and inner.attrs["sizes"]]


def choose(group: Op) -> str:
    """The strategy of one group."""
    if is_contraction(group) is not None:
        return "mma"
    loops = inner_loops(group)
    if not loops:
        return "lanes"
    if not group.attrs["domain"]:
        return "rows"
    longest = [loop.attrs["sizes"][-1] for loop in loops]
    if all(isinstance(size, int) and size < SHORT_AXIS for size in longest):
        return "lanes"
    depends = dependence(group)
    last_axis = group.regions[0].args[-1]
    along_loop = along_domain = 0
    for loop in loops:
        inner = loop.regions[0].args[-1]
        for access in loop.walk():
            if access.name in ("schedule.read", "schedule.write") and access.group("indices"):
                where = depends.get(access.group("indices")[-1], frozenset())
                along_loop += inner in where
                along_domain += last_axis in where and inner not in where
    return "lanes" if along_domain > along_loop else "rows"


@register("choose-strategy", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Records for every group how it is mapped to groups of lanes."""

    def visit(op: Op) -> list[Op] | None:
        if op.name != "schedule.group" or op.attrs.get("plan"):
            return None
        return [replace(op, attrs={**op.attrs, "plan": choose(op)})]

    def change(func: Func) -> Func:
        return func.with_(body=map_ops(func.body, visit))

    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", change))
