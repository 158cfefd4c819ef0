"""Right operands whose rows lie in pairs: what an instruction wants that multiplies two elements along k at a time.

A panel of such a tile holds of rows 2r and 2r + 1 the elements of its first column, then of its second, and so on. Two
rows are computed and interleaved. Where memory is contiguous down the columns, the two elements of a pair already lie
side by side, and a square block of pairs is turned like a block of words. An odd last row has zeros for a neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tesseracc.ir.types import element, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.lower_cpu_tiles import Place, element_offset, walk
from tesseracc.passes.target.lower_cpu_transpose import Lower, transpose
from tesseracc.passes.target.lower_cpu_values import ALL, Affine, Int, Kernel, Rep, Tile, native

PAIR = 2


def fill_pairs(
    k: Kernel, tile: Tile, limits: Sequence[Int], value: Callable[[Place], Rep], *, first: tuple[Int, Int] = (0, 0)
) -> None:
    """Writes the tile from `first`, an even row and the start of a panel, up to the limits."""

    def row(i: Int, j: Int) -> Value:
        found = k.vector(value(([i], j)), tile.dtype)
        if k.mask == ALL:
            return found
        return k.b.op("arith.select", k.vector(k.mask, "bool"), found, k.constant(0.0, tile.dtype))

    def put(i: Int, j: Int, second: Value) -> None:
        top, lanes = row(i, j), k.width
        place = k.offset(tile.ptr, element_offset(k, tile, i, j), tile.dtype)
        for half in range(PAIR):
            columns = range(half * lanes // PAIR, (half + 1) * lanes // PAIR)
            order = tuple(at for column in columns for at in (column, lanes + column))
            pairs = k.b.op("target.shuffle", top, second, lanes=order)
            to = k.offset(place, half * lanes, tile.dtype)
            k.b.emit("target.store", pairs, to, align=min(64, lanes * size_of(tile.dtype)))

    even = k.mul(k.floordiv(limits[0], PAIR), PAIR)

    def both(place: Place) -> None:
        (i,), j = place
        put(i, j, row(k.add(i, 1), j))

    def last(place: Place) -> None:
        (i,), j = place
        put(i, j, k.constant(0.0, tile.dtype))

    walk(k, tile.shape, [even, limits[1]], tile.panel, both, first=first, rows=PAIR)
    walk(k, tile.shape, limits, tile.panel, last, first=(even, first[1]))


def pairs_by_columns(k: Kernel, op: Op, tile: Tile, rows: Int, columns: Int, lower: Lower) -> None:
    """Writes the block rows x columns of a map's result, whole squares of pairs, from loads down the columns."""
    region, dtype = op.regions[0], element(op.results[0].type)
    words = native(k, "f32")
    saved = k.width, k.mask
    k.width, k.mask = PAIR * words, ALL

    def block(i: Value, j: Value) -> None:
        vectors = []
        for at in range(words):
            k.env.update(zip(region.args, [Affine(i, 1), Affine(k.add(j, at))], strict=True))
            vectors.append(k.b.op("target.recast", k.vector(lower(k, region)[0], dtype), dtype="i32"))
        inside = k.b.op("arith.mod", j, k.value(tile.panel))
        corner = k.offset(tile.ptr, element_offset(k, tile, i, k.sub(j, inside)), dtype)
        corner = k.offset(corner, k.mul(inside, PAIR), dtype)
        for at, vector in enumerate(transpose(k.b, vectors)):
            k.b.emit("target.store", vector, k.offset(corner, at * PAIR * tile.panel, dtype), align=64)

    def down(i: Value, _: list[Value]) -> list[Value]:
        def across(j: Value, _: list[Value]) -> list[Value]:
            block(i, j)
            return []

        k.loop(0, columns, words, (), across)
        return []

    k.loop(0, rows, PAIR * words, (), down)
    k.width, k.mask = saved
