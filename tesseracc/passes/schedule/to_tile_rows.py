"""Strategy `rows`: one point of the domain per group; reductions and inner loops go over the lanes."""

from __future__ import annotations

from tessera.shapes import Dim, product
from tesseracc.ir.value import Op
from tesseracc.passes.schedule.elements import Emitter, delinearize
from tesseracc.passes.schedule.tuning import Tuning


def lower_rows(group: Op, emitter: Emitter, tuning: Tuning) -> tuple[Dim, ...]:
    """Emits the body for the point with the group's number; the grid has one group per point."""
    domain = group.attrs["domain"]
    point = []
    if domain:
        sizes = [emitter.dim(size) for size in domain]
        point = delinearize(emitter.b, emitter.b.op("tile.group_id"), sizes)
    emitter.region(group.regions[0], point, {})
    return (product(domain),)
