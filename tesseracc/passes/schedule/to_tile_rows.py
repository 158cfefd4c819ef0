"""Strategy `rows`: one point of the domain per group; reductions and inner loops go over the lanes.

Short rows of a GPU are one warp's each. Where the target lets a group keep a row (`Tuning.keep`), elementary functions
that several loops need are computed once, if the row is no longer than what is kept; both forms of the code exist when
its extent is not known.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera.shapes import Dim, product
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import BufType, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.schedule.choose_strategy import inner_loops
from tesseracc.passes.schedule.elements import Emitter, Place, delinearize
from tesseracc.passes.schedule.kept import Row, shared_row
from tesseracc.passes.schedule.tuning import Tuning


def lower_rows(group: Op, emitter: Emitter, tuning: Tuning) -> tuple[Dim, ...]:
    """Emits the body for the point with the group's number; the grid has one group per point."""
    domain = group.attrs["domain"]
    emitter.lanes = _lanes(group, tuning)
    point: list[Value] = []
    if domain:
        sizes = [emitter.dim(size) for size in domain]
        point = delinearize(emitter.b, emitter.b.op("tile.group_id"), sizes)
    row = shared_row(inner_loops(group)) if tuning.keep else None
    longest = tuning.keep // sum(size_of(value.dtype) for value in row.values) if row else 0
    if row is None or (isinstance(row.size, int) and row.size > longest):
        emitter.region(group.regions[0], point, {})
    elif isinstance(row.size, int):
        _keeping(emitter, emitter.b, group, point, row, row.size)
    else:
        fits = emitter.b.op("arith.cmp", emitter.dim(row.size), emitter.b.const(longest), pred="le")

        def keep(b: Builder) -> Sequence[Value]:
            _keeping(emitter, b, group, point, row, longest)
            return ()

        def repeat(b: Builder) -> Sequence[Value]:
            emitter.at(b).region(group.regions[0], point, {})
            return ()

        emitter.b.if_(fits, keep, repeat)
    return (product(domain),)


def _lanes(group: Op, tuning: Tuning) -> int:
    """Lanes of a group: on a GPU one warp where no row has more elements than a whole group has lanes, for a warp sums
    without a barrier, and more rows are under way at a time."""
    rows = [loop.attrs["sizes"][-1] for loop in inner_loops(group)]
    short = all(isinstance(size, int) and size <= tuning.lanes for size in rows)
    return tuning.arch.lanes if tuning.arch.kind == "cuda" and short and group.attrs["domain"] else tuning.lanes


def _keeping(emitter: Emitter, b: Builder, group: Op, point: Sequence[Value], row: Row, size: int) -> None:
    """The body with the row's shared values in memory of the group."""
    inside = emitter.at(b)
    places: dict[Value, Place] = {}
    for value in row.values:
        buf = b.op("tile.alloc", types=BufType((size,), value.dtype, "shared"))
        for at, (use, index) in enumerate(value.uses):
            places[use] = Place(buf, index, first=at == 0)
    inside.kept = places
    inside.region(group.regions[0], point, {})
