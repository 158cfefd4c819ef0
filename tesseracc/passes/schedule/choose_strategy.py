"""`choose-strategy`: how each group is mapped to groups of lanes. Recorded in the group's `plan` attribute.

    mma    a contraction: tiles of the result per group, the sum over k in steps of matrix products
    rows   one point of the domain per group, inner loops spread over the lanes
    lanes  one point of the domain per lane, inner loops serial in each lane
    turn   like lanes, without inner loops, by square tiles: some operands are contiguous along another axis

The choice depends on the group's own shape of computation: what is contiguous along which loop, and static sizes.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.analysis.access import accesses, dependence, is_contraction
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, map_ops
from tesseracc.ir.types import element, size_of
from tesseracc.ir.value import Func, Module, Op, Value

#: below this static extent an inner axis is too short to be spread over the lanes of a group
SHORT_AXIS = 24
#: elements of fewer bytes are left to `lanes`: a register holds so many that turning a square of them is long code
SMALLEST = 4
#: static extents below this are not worth a tile
SHORT_SIDE = 8


def inner_loops(op: Op) -> list[Op]:
    """The reductions and inner loops that stand directly in the group's region."""
    loops = ("schedule.reduce", "schedule.each")
    return [inner for inner in op.regions[0].ops if inner.name in loops and inner.attrs["sizes"]]


def turned_reads(group: Op) -> tuple[int, list[Op]] | None:
    """An axis, not the last, along which some reads are contiguous that are not so along the last axis; those reads."""
    domain, args = group.attrs["domain"], group.regions[0].args
    if len(domain) < 2 or any(op.regions for op in group.regions[0].ops):
        return None
    found: dict[int, list[Op]] = {}
    for access in accesses(group):
        if access.is_write:
            continue
        if access.stride(args[-1]) in (None, 0, 1) or size_of(element(access.op.result.type)) < SMALLEST:
            continue
        for axis, arg in enumerate(args[:-1]):
            if access.stride(arg) == 1:
                found.setdefault(axis, []).append(access.op)
    if not found:
        return None
    axis = max(found, key=lambda at: (len(found[at]), at))
    short = (isinstance(size, int) and size < SHORT_SIDE for size in (domain[axis], domain[-1]))
    return None if any(short) else (axis, found[axis])


def choose(group: Op) -> str:
    """The strategy of one group."""
    if is_contraction(group) is not None:
        return "mma"
    loops = inner_loops(group)
    if not loops:
        return "turn" if turned_reads(group) else "lanes"
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
                anywhere: frozenset[Value] = frozenset().union(
                    *(depends.get(v, frozenset()) for v in access.group("indices"))
                )
                # what does not depend on the last axis is one element for all lanes if they run along it
                along_loop += inner in where and last_axis in anywhere
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
