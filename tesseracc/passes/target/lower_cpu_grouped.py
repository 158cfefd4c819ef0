"""Right operands whose rows lie in groups: for instructions that multiply several elements along k at a time.

A panel of such a tile holds of the g rows of a group the elements of its first column, then of its second, and so on:
pairs of bf16, quadruples of 8-bit integers. Groups of rows are computed and interleaved. Where memory is contiguous
down the columns, the elements of a group already lie side by side, and a square block of groups is turned like a block
of words. In the last group, rows beyond the limit are zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tesseracc.ir.types import element, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.lower_cpu_tiles import Place, element_offset, walk, zero_of
from tesseracc.passes.target.lower_cpu_transpose import Lower, transpose
from tesseracc.passes.target.lower_cpu_values import ALL, Affine, Int, Kernel, Rep, Tile, native


def fill_grouped(
    k: Kernel, tile: Tile, limits: Sequence[Int], value: Callable[[Place], Rep], *, first: tuple[Int, Int] = (0, 0)
) -> None:
    """Writes the tile from `first`, the start of a group and of a panel, up to the limits."""

    def row(i: Int, j: Int) -> Value:
        found = k.vector(value(([i], j)), tile.dtype)
        if k.mask == ALL:
            return found
        return k.b.op("arith.select", k.vector(k.mask, "bool"), found, k.constant(zero_of(tile.dtype), tile.dtype))

    def put(i: Int, j: Int, rows: list[Value]) -> None:
        place = k.offset(tile.ptr, element_offset(k, tile, i, j), tile.dtype)
        while len(rows) > 2:  # row r with row r + g / 2, until two are left: then they alternate as wanted
            half = len(rows) // 2
            rows = [_alternate(k, rows[at], rows[at + half])[0] for at in range(half)]
        lanes = k.width * tile.group // 2
        for at, part in enumerate(_alternate(k, *rows, parts=2)):
            to = k.offset(place, at * lanes, tile.dtype)
            k.b.emit("target.store", part, to, align=min(64, lanes * size_of(tile.dtype)))

    def inside(place: Place) -> None:
        (i,), j = place
        put(i, j, [row(k.add(i, r), j) for r in range(tile.group)])

    def one(i: Int, j: Int) -> list[Value]:
        return [row(i, j)]

    def last(place: Place) -> None:
        (i,), j = place
        nothing = k.constant(zero_of(tile.dtype), tile.dtype)
        rows = [row(i, j)]
        for r in range(1, tile.group - 1):
            at = k.add(i, r)
            rows += k.when(k.less(at, limits[0]), partial(one, at, j), lambda: [nothing])
        put(i, j, [*rows, nothing])

    whole = k.mul(k.floordiv(limits[0], tile.group), tile.group)
    walk(k, tile.shape, [whole, limits[1]], tile.panel, inside, first=first, rows=tile.group)
    walk(k, tile.shape, limits, tile.panel, last, first=(whole, first[1]), rows=tile.group)


def _alternate(k: Kernel, a: Value, b: Value, *, parts: int = 1) -> list[Value]:
    """a[0], b[0], a[1], b[1], .. in so many vectors."""
    count = a.type.count  # type: ignore[union-attr]
    order = [at for column in range(count) for at in (column, count + column)]
    size = len(order) // parts
    return [k.b.op("target.shuffle", a, b, lanes=tuple(order[at : at + size])) for at in range(0, len(order), size)]


def groups_by_columns(k: Kernel, op: Op, tile: Tile, rows: Int, columns: Int, lower: Lower) -> None:
    """Writes the block rows x columns of a map's result, whole squares of groups, from loads down the columns."""
    region, dtype = op.regions[0], element(op.results[0].type)
    words = native(k, "f32")
    saved = k.width, k.mask
    k.width, k.mask = tile.group * words, ALL

    def block(i: Value, j: Value) -> None:
        vectors = []
        for at in range(words):
            k.env.update(zip(region.args, [Affine(i, 1), Affine(k.add(j, at))], strict=True))
            vectors.append(k.b.op("target.recast", k.vector(lower(k, region)[0], dtype), dtype="i32"))
        inside = k.b.op("arith.mod", j, k.value(tile.panel))
        corner = k.offset(tile.ptr, element_offset(k, tile, i, k.sub(j, inside)), dtype)
        corner = k.offset(corner, k.mul(inside, tile.group), dtype)
        for at, vector in enumerate(transpose(k.b, vectors)):
            k.b.emit("target.store", vector, k.offset(corner, at * tile.group * tile.panel, dtype), align=64)

    def down(i: Value, _: list[Value]) -> list[Value]:
        def across(j: Value, _: list[Value]) -> list[Value]:
            block(i, j)
            return []

        k.loop(0, columns, words, (), across)
        return []

    k.loop(0, rows, tile.group * words, (), down)
    k.width, k.mask = saved
