"""Strategy `lanes`: one point of the domain per lane; reductions and inner loops are serial in each lane.

The innermost axis is cut into chunks, one per group, and a group's lanes go over its chunk in steps of the group
size: neighbouring lanes touch neighbouring elements. A short innermost axis is first merged with the outer ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera.shapes import Dim, ceildiv, product
from tesseracc.ir.builder import Builder
from tesseracc.ir.value import Op, Value
from tesseracc.passes.schedule.choose_strategy import inner_loops
from tesseracc.passes.schedule.elements import Emitter, delinearize
from tesseracc.passes.schedule.to_tile_columns import column_reduction, lower_columns
from tesseracc.passes.schedule.tuning import Tuning


def lower_lanes(group: Op, emitter: Emitter, tuning: Tuning) -> tuple[Dim, ...]:
    """Emits the body for one chunk; the grid has one group per chunk of every row."""
    domain: tuple[Dim, ...] = group.attrs["domain"]
    outer, inner = (domain[:-1], domain[-1]) if domain else ((), 1)
    merged = bool(outer) and isinstance(inner, int) and inner < tuning.lanes
    columns = column_reduction(group) if tuning.strip and not merged else None
    if columns is not None:
        return lower_columns(group, columns, emitter, tuning)
    if merged:
        outer, inner = (), product(domain)
    # a lane that loops serially carries state in registers: one element per lane then
    chunk = tuning.lanes if inner_loops(group) else tuning.chunk
    chunks = ceildiv(inner, chunk)
    b = emitter.b
    sizes = [emitter.dim(size) for size in (*outer, chunks)]
    *rows, block = delinearize(b, b.op("tile.group_id"), sizes) if outer else [b.op("tile.group_id")]
    start = b.op("arith.mul", block, b.const(chunk))
    stop = b.op("arith.min", b.op("arith.add", start, b.const(chunk)), emitter.dim(inner))
    first = b.op("arith.add", b.op("tile.splat", start), b.op("tile.local_id"))

    def body(inner_builder: Builder, index: Value, _: list[Value]) -> Sequence[Value]:
        inside = emitter.in_lanes(inner_builder)
        point = [*rows, index]
        if merged:
            extents = [inside.splat(inside.dim(size)) for size in domain]
            point = delinearize(inner_builder, index, extents)
        inside.region(group.regions[0], point if domain else [], {})
        return ()

    b.for_(first, stop, b.const(emitter.lanes), (), body, name="tile.for")
    return (product(outer) * chunks,)
