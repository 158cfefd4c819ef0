"""`tile.map` on a CPU: a loop over rows and chunks of columns, which writes its results in the form that users want."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tesseracc.ir.types import element
from tesseracc.ir.value import Op, Region
from tesseracc.passes.target.lower_cpu_grouped import fill_grouped, groups_by_columns
from tesseracc.passes.target.lower_cpu_prefetch import ROWS_AHEAD, touching
from tesseracc.passes.target.lower_cpu_tiles import (
    Place,
    chunk_width,
    fill_zero,
    limits_of,
    new_tile,
    put_tile,
    read_tile,
    tile_of,
    uses_of,
    walk,
    whole,
)
from tesseracc.passes.target.lower_cpu_transpose import favours_columns, fill_by_columns, is_plain
from tesseracc.passes.target.lower_cpu_values import ALL, Affine, Int, Kernel, Rep, Tile, native


def lower_map(k: Kernel, op: Op, lower: Callable[[Kernel, Region], list[Rep]]) -> list[Rep]:
    """A loop over the rows and over chunks of columns; the region sees the columns of a chunk as its lanes."""
    uses = uses_of(k)
    region, shape = op.regions[0], tuple(op.attrs["shape"])
    extents = [k.env[v] for v in op.group("extents")]
    sources = [tile_of(k, v) for v in op.group("tiles")]
    targets: list[Tile] = []
    for result in op.results:
        side = uses.operand_of(k, result)
        if side and side[2] > 1 and len(op.results) > 1:
            side = None  # the product brings it into its form
        dtype, group = side[1:] if side else (element(result.type), 1)
        bounded = uses.bounds_of(result) == op.group("extents")
        # an operand that nobody else uses is overwritten: chunk by chunk, read before it is written
        reusable = [
            source
            for value, source in zip(op.group("tiles"), sources, strict=True)
            if source.dtype == dtype and source not in targets and uses.last_in_place(value, op)
        ]
        reused = reusable[0] if reusable and bounded and side is None else None
        right = side is not None and side[0] == "b"
        tile = reused or new_tile(k, shape, dtype, panels=right, group=group if right else 1)
        if not bounded:
            fill_zero(k, tile)
        targets.append(tile)
    panels = [t.panel for t in (*sources, *targets) if t.panel]
    width = panels[0] if panels else chunk_width(k)
    streams = len(shape) > 1 and not sources and is_plain(region)

    def elements(place: Place) -> list[Rep]:
        """What the region yields for a chunk of a row; the same chunk some rows further down is asked for."""
        leading, column = place
        coordinates = [*(Affine(i) for i in leading), Affine(column, 1)]
        if streams and k.mask == ALL:
            later = [Affine(k.add(leading[-1], ROWS_AHEAD)), Affine(column, 1)]
            k.env.update(zip(region.args, [*coordinates[:-2], *later], strict=True))
            touching(k, lambda: lower(k, region))
        found = [read_tile(k, s, place) for s in sources]
        k.env.update(zip(region.args, [*coordinates, *found], strict=True))
        return lower(k, region)

    def visit(place: Place) -> None:
        for tile, rep, result in zip(targets, elements(place), op.results, strict=True):
            put_tile(k, tile, place, rep, element(result.type))

    limits = limits_of(k, shape, extents)
    if len(targets) == 1 and targets[0].group > 1:
        fill = partial(fill_grouped, k, targets[0], value=lambda place: elements(place)[0])
        start: Int = 0
        if favours_columns(k, op, targets[0], lower):
            square = targets[0].group * native(k, "f32")
            start, columns = whole(k, limits[0], square), whole(k, limits[1], width)
            groups_by_columns(k, op, targets[0], start, columns, lower)
            fill([start, limits[1]], first=(0, columns))
        fill(limits, first=(start, 0))
    elif len(targets) == 1 and favours_columns(k, op, targets[0], lower):
        rows, columns = whole(k, limits[0], native(k, targets[0].dtype)), whole(k, limits[1], width)
        fill_by_columns(k, op, targets[0], rows, columns, lower)
        walk(k, shape, [rows, limits[1]], width, visit, first=(0, columns))
        walk(k, shape, limits, width, visit, first=(rows, 0))
    else:
        walk(k, shape, limits, width, visit)
    return list(targets)
