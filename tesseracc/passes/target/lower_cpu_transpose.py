"""Maps whose loads are contiguous down the columns: computed by columns, turned in registers, written by rows.

A tile of x^T is filled from memory that runs along the other axis. With the columns of a row as lanes every load would
be a gather. Here a block of n x n elements (n lanes of a native vector) is computed as n vectors along the rows'
coordinate, which load contiguously, and transposed by log2(n) rounds of two-source shuffles:

    round d = 1, 2, 4, ..:  exchange the elements (r, c + d) and (r + d, c) for all r, c that lack the bit d
"""

from __future__ import annotations

from collections.abc import Callable

from tesseracc.ir.builder import Builder
from tesseracc.ir.types import element
from tesseracc.ir.value import Op, Region, Value
from tesseracc.passes.target.lower_cpu_values import ALL, Affine, Int, Kernel, Rep, Tile, native

Lower = Callable[[Kernel, Region], list[Rep]]
_PURE = ("tile.load", "tile.splat", "tile.dim")


def is_plain(region: Region) -> bool:
    """Whether a region only loads and computes, without control flow."""
    return all(inner.defn.dialect == "arith" or inner.name in _PURE for inner in region.ops)


def favours_columns(k: Kernel, op: Op, target: Tile, lower: Lower) -> bool:
    """Whether fewer loads are scattered when the lanes of this map run along its first axis."""
    region = op.regions[0]
    if len(op.attrs["shape"]) != 2 or op.group("tiles") or len(op.results) != 1 or not is_plain(region):
        return False
    along_rows, along_columns = (_scattered(k, region, target, axis, lower) for axis in (1, 0))
    return along_columns < along_rows


def _scattered(k: Kernel, region: Region, target: Tile, axis: int, lower: Lower) -> int:
    """How many loads are gathers when the lanes run along `axis`; the code is thrown away."""
    saved = k.b, k.width, k.mask, k.gathers
    k.b, k.width, k.mask, k.gathers = Builder(), native(k, target.dtype), ALL, 0
    # two coordinates that nothing is known about
    places = [k.b.op("arith.add", k.value(0), k.value(0)) for _ in range(2)]
    k.env.update(zip(region.args, [Affine(place, int(i == axis)) for i, place in enumerate(places)], strict=True))
    lower(k, region)
    found = k.gathers
    k.b, k.width, k.mask, k.gathers = saved
    return found


def fill_by_columns(k: Kernel, op: Op, target: Tile, rows: Int, columns: Int, lower: Lower) -> None:
    """Writes the block rows x columns of the map's result; both are multiples of the native vector's lanes."""
    region = op.regions[0]
    dtype = element(op.results[0].type)
    lanes = native(k, target.dtype)
    saved = k.width, k.mask
    k.width, k.mask = lanes, ALL

    def block(i: Value, j: Value) -> None:
        vectors = []
        for at in range(lanes):
            k.env.update(zip(region.args, [Affine(i, 1), Affine(k.add(j, at))], strict=True))
            vector = k.vector(lower(k, region)[0], dtype)
            vectors.append(vector if dtype == target.dtype else k.b.op("arith.cast", vector, to=target.dtype))
        corner = k.offset(target.ptr, _corner(k, target, i, j), target.dtype)
        step = target.panel or target.row
        for at, vector in enumerate(transpose(k.b, vectors)):
            k.b.emit("target.store", vector, k.offset(corner, at * step, target.dtype), align=k.arch.vector_bits // 8)

    def down(i: Value, _: list[Value]) -> list[Value]:
        def across(j: Value, _: list[Value]) -> list[Value]:
            block(i, j)
            return []

        k.loop(0, columns, lanes, (), across)
        return []

    k.loop(0, rows, lanes, (), down)
    k.width, k.mask = saved


def _corner(k: Kernel, tile: Tile, row: Int, column: Value) -> Int:
    """Where an element lies whose column starts a native vector."""
    if not tile.panel:
        return k.add(k.mul(row, tile.row), column)
    inside = k.b.op("arith.mod", column, k.value(tile.panel))
    panel = k.mul(k.sub(column, inside), tile.panel_rows)
    return k.add(k.add(panel, k.mul(row, tile.panel)), inside)


def transpose(b: Builder, vectors: list[Value]) -> list[Value]:
    """The transpose of a square block of as many vectors as a vector has lanes."""
    count = len(vectors)
    found = list(vectors)
    distance = 1
    while distance < count:
        for r in range(count):
            if r & distance:
                continue
            upper, lower = found[r], found[r + distance]
            first = tuple(count + c - distance if c & distance else c for c in range(count))
            second = tuple(count + c if c & distance else c + distance for c in range(count))
            found[r] = b.op("target.shuffle", upper, lower, lanes=first)
            found[r + distance] = b.op("target.shuffle", upper, lower, lanes=second)
        distance *= 2
    return found
