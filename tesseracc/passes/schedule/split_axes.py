"""Rows inside of longer rows become rows of a view, so that they end where an axis ends; loops over several become two.

    x[i, h * S + d], d < S, of x: [A, H * S]   =   x'[i, h, d]   of the view x': [A, H, S]
    for i in H * S: .. i mod S ..              =   for h in H, s in S: .. s ..

What is made of blocks of memory ends blocks at the end of an axis, and nowhere else (`tile.read`); masks that can be
skipped are sums of coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tessera.polynomials import is_symbol
from tessera.shapes import Dim, Expr, symbol, symbols_of
from tessera.shapes import substitute as put
from tesseracc.analysis.indices import Indices, divides
from tesseracc.ir.builder import Builder
from tesseracc.ir.rewrite import substitute
from tesseracc.ir.types import I64
from tesseracc.ir.value import Op, Region, Value
from tesseracc.passes.schedule.merge_axes import Merger, Touch
from tesseracc.passes.schedule.simplify_indices import simplify_indices

#: stands for a quotient that is exact
EXACT = "__exact"


def _quotient(value: Dim, size: Dim, assume: Sequence[tuple[Dim, Dim]]) -> Dim | None:
    """value / size where that is exact for every call; `assume`: (value, its divisor) that calls are checked for."""
    for whole, divisor in assume:
        if is_symbol(whole) and size == whole // divisor:  # with whole = divisor * q the size is q
            given = {str(whole): divisor * symbol(EXACT)}
            found = divides(symbol(EXACT), put(value, given))
            return None if found is None else put(found, {EXACT: size})
    return divides(size, value)


def _row(merger: Merger, touch: Touch, axis: int) -> Value | None:
    """The loop that runs along an axis, of an extent without a number."""
    index = touch.indices[axis]
    for name in sorted(symbols_of(index) & merger.known.extents.keys()):
        if merger.known.coefficient(index, name) == 1 and isinstance(merger.known.extents[name], Expr):
            return merger.known.args[name]
    return None


def _split(merger: Merger, tensor: Value, axis: int, assume: Sequence[tuple[Dim, Dim]]) -> None:
    """Splits one axis where all accesses agree."""
    touches = [touch for touch in merger.touches if touch.tensor is tensor]
    rows = [_row(merger, touch, axis) for touch in touches]
    size = merger.sizes[rows[0]] if rows[0] is not None else 1
    outer = _quotient(merger.dims[tensor][axis], size, assume)
    if size == 1 or outer is None or outer == 1:
        return
    places: list[tuple[Dim, Dim]] = []
    for touch, row in zip(touches, rows, strict=True):
        if row is None or merger.sizes[row] != size:
            return
        along = symbol(merger.known.name_of(row))
        place = _quotient(touch.indices[axis] - along, size, assume)
        if place is None:
            return
        places.append((place, along))
    merger.split_tensor_axis(tensor, axis, (outer, size), places)


def split_axes(group: Op, assume: Sequence[tuple[Dim, Dim]]) -> tuple[list[Op], Op]:
    """Views of what the group reads, and the group."""
    merger = Merger(group)
    for tensor in list(merger.dims):
        if tensor not in group.results:
            for axis in reversed(range(len(merger.dims[tensor]))):
                _split(merger, tensor, axis, assume)
    before, done, _ = merger.build()
    return before, done


def split_loops(group: Op) -> Op:
    """The group with two axes in place of each axis of its domain whose index it takes apart, both contiguous."""
    known = Indices(group)
    for axis, arg in enumerate(group.regions[0].args):
        for op in group.walk():
            if op.name != "arith.mod" or op.operands[0] is not arg:
                continue
            size = known.of(op.operands[1])
            outer = divides(size, group.attrs["domain"][axis]) if known.is_dim(size) else None
            if outer is not None and outer != 1 and size != 1:
                return split_loops(_two_loops(group, axis, outer, size))
    return group


def _two_loops(group: Op, axis: int, outer: Dim, size: Dim) -> Op:
    region, domain = group.regions[0], group.attrs["domain"]
    old = region.args[axis]
    turn, place = Value(I64), Value(I64, old.name)
    b = Builder(group.loc)
    whole = b.op("arith.add", b.op("arith.mul", turn, b.op("schedule.dim", expr=size)), place)
    body = substitute(Region((), region.ops), {old: whole})
    args = (*region.args[:axis], turn, place, *region.args[axis + 1 :])
    attrs = {**group.attrs, "domain": (*domain[:axis], outer, size, *domain[axis + 1 :])}
    return simplify_indices(replace(group, regions=(Region(args, (*b.ops, *body.ops), region.yields),), attrs=attrs))
