"""Tiles of a group on a CPU: where they lie, and `tile.map`.

A tile lies in scratch memory, row-major with rows padded to whole vectors, or in panels of as many columns as the
matrix micro-kernel takes at once: panel p holds columns p * panel .. of all rows, row after row. Right operands of
`tile.mma` are written in panels by the map that makes them, so nothing is packed a second time. Where an instruction
multiplies groups of elements along k, a panel has the rows of a group side by side, column by column
(lower_cpu_grouped).

Outside its extents a tile is 0, but that is written only where an observer may look there: when every use of the tile
is bounded by the same extents (`bounds_of`), nobody does. Columns up to the next whole vector are always written.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from tesseracc.arch.arch import MmaRow
from tesseracc.ir.types import ScalarType, TileType, VecType, element, kind_of, size_of
from tesseracc.ir.value import Func, Op, Region, Value
from tesseracc.passes.target.lower_cpu_values import ALL, Affine, Int, Kernel, Range, Rep, Tile, Vec, native

PANEL_VECTORS = 2  # native vectors in a panel's row
GROUP_BYTES = 4  # elements along k that an instruction multiplies at a time: as many as a word holds
Use = tuple[Op, str, int]


class TileUses:
    """Who uses each tile value of a kernel, and in which region it is defined."""

    def __init__(self, func: Func) -> None:
        self.uses: dict[Value, list[Use]] = {}
        self.home: dict[Value, int] = {}
        self.counts: Counter[Value] = Counter()
        self.regions: dict[int, Op] = {}
        self._visit(func.body, None)

    def _visit(self, region: Region, owner: Op | None) -> None:
        here = id(region)
        for arg in region.args:
            self.home[arg] = here
        for op in region.ops:
            for spec in op.defn.operands:
                for at, value in enumerate(op.group(spec.name)):
                    if isinstance(value.type, TileType):
                        self.uses.setdefault(value, []).append((op, spec.name, at))
                        self.counts[value] += 1
            for result in op.results:
                self.home[result] = here
            for inner in op.regions:
                self._visit(inner, op)
        for at, value in enumerate(region.yields):
            if isinstance(value.type, TileType) and owner is not None:
                self.uses.setdefault(value, []).append((owner, "yield", at))
                self.counts[value] += 1

    def last_in_place(self, value: Value, op: Op) -> bool:
        """Whether `op` is the only use of a tile of the same region: its memory may be reused."""
        return self.counts[value] == 1 and any(self.home[value] == self.home[r] for r in op.results)

    def bounds_of(self, value: Value) -> tuple[Value, ...] | None:
        """The extents by which every observer of a tile bounds itself, or None."""
        found: set[tuple[Value, ...]] = set()
        return next(iter(found)) if self._collect(value, found, set()) and len(found) == 1 else None

    def _collect(self, value: Value, found: set[tuple[Value, ...]], seen: set[Value]) -> bool:
        if value in seen:
            return True
        seen.add(value)
        for op, segment, at in self.uses.get(value, []):
            if op.name == "tile.map":
                found.add(op.group("extents"))
            elif op.name == "tile.mma" and op.group("extents"):
                m, n, k = op.group("extents")
                found.add({"a": (m, k), "b": (k, n), "acc": (m, n)}[segment])
                if segment == "acc" and not self._collect(op.result, found, seen):
                    return False
            elif op.name == "scf.for" and segment in ("inits", "yield"):
                arg = op.regions[0].args[at + 1]
                if not self._collect(arg, found, seen) or not self._collect(op.results[at], found, seen):
                    return False
            else:
                return False
        return True

    def operand_of(self, k: Kernel, value: Value) -> tuple[str, str, int] | None:
        """(`a` or `b`, and the form of that operand) when all uses of a tile are that operand of `tile.mma`."""
        found = {
            (segment, *operand_form(k, op, segment))
            for op, segment, _ in self.uses.get(value, [])
            if op.name == "tile.mma"
        }
        all_mma = all(op.name == "tile.mma" for op, _, _ in self.uses.get(value, []))
        if len(found) != 1 or not all_mma:
            return None
        (side,) = found
        return side if side[0] in "ab" else None


def operand_form(k: Kernel, op: Op, side: str) -> tuple[str, int]:
    """How a product takes an operand: its element type, and how many along k it multiplies at a time."""
    a, b, acc = (element(op[name].type) for name in ("a", "b", "acc"))
    pairs = (a, b, acc) == ("bf16", "bf16", "f32") and k.arch.has("bf16_dot")
    if not pairs and matrix_tile(k, op) is None:
        return acc, 1
    return (b, GROUP_BYTES // size_of(b)) if side == "b" else (a, 1)


def matrix_tile(k: Kernel, op: Op) -> MmaRow | None:
    """The instruction on tile registers that multiplies what this product does, if the machine has one."""
    return k.arch.tile_product(*(element(op[name].type) for name in ("a", "b", "acc")))


def _rows_at_once(k: Kernel, dtype: str, panels: bool) -> int:
    """Rows that an instruction on tile registers reads at a time, those beyond a tile's end too."""
    return max((row.k if panels else row.m for row in k.arch.mma if not panels or row.b == dtype), default=1)


def uses_of(k: Kernel) -> TileUses:
    if k.tile_uses is None:
        k.tile_uses = TileUses(k.func)
    found = k.tile_uses
    assert isinstance(found, TileUses)
    return found


# -- memory ------------------------------------------------------------------------------------------------------------


def chunk_width(k: Kernel) -> int:
    """Columns that a map computes at a time, whatever the element type: two native vectors of 32-bit elements."""
    return PANEL_VECTORS * k.arch.vector_bits // 32


def row_stride(k: Kernel, columns: int, dtype: str) -> int:
    """Elements from row to row: whole chunks and vectors, and an odd number of cache lines, to spread a column over
    the sets."""
    width = max(chunk_width(k), native(k, dtype))
    padded = -(-columns // width) * width
    line = k.arch.cache_line // size_of(dtype)
    return padded + line if padded >= 2 * line and (padded // line) % 2 == 0 else padded


def new_tile(k: Kernel, shape: tuple[int, ...], dtype: str, *, panels: bool = False, group: int = 1) -> Tile:
    """Fresh scratch memory for a tile."""
    unit = _rows_at_once(k, dtype, panels)
    rows = -(-math.prod(shape[:-1]) // unit) * unit
    panel = PANEL_VECTORS * native(k, dtype) // group if panels else 0
    row = -(-shape[-1] // panel) * panel if panels else row_stride(k, shape[-1], dtype)
    tile = Tile(k.scratch, shape, dtype, rows, row, panel, group)
    return replace(tile, ptr=k.reserve(tile.count * size_of(dtype)))


def element_offset(k: Kernel, tile: Tile, row: Int, column: Int) -> Int:
    """Where element (row, column) lies; in panels, for a column that starts a panel."""
    if tile.panel:  # (column / panel) * panel_rows * panel; the row starts a group
        return k.add(k.mul(column, tile.panel_rows), k.mul(row, tile.panel))
    return k.add(k.mul(row, tile.row), column)


def zero_of(dtype: str) -> int | float | bool:
    return 0.0 if kind_of(dtype) == "f" else False if dtype == "bool" else 0


def fill_zero(k: Kernel, tile: Tile) -> None:
    """Zeros everywhere, padding included."""
    lanes = native(k, tile.dtype)
    saved, k.width = k.width, lanes
    zero = k.constant(zero_of(tile.dtype), tile.dtype)
    k.width = saved

    def body(i: Value, _: list[Value]) -> list[Value]:
        k.b.emit("target.store", zero, k.offset(tile.ptr, i, tile.dtype), align=min(64, lanes * size_of(tile.dtype)))
        return []

    k.loop(0, tile.count, lanes, (), body)


def copy_tile(k: Kernel, source: Tile, target: Tile) -> None:
    """Copies a whole tile, padding included; converts the element type and the layout where they differ."""
    if source.ptr is target.ptr:
        return
    if (source.dtype, source.row, source.panel) == (target.dtype, target.row, target.panel):
        lanes = native(k, source.dtype)
        align = min(64, lanes * size_of(source.dtype))

        def body(i: Value, _: list[Value]) -> list[Value]:
            from_, to = k.offset(source.ptr, i, source.dtype), k.offset(target.ptr, i, source.dtype)
            found = k.b.op("target.load", from_, types=VecType(lanes, source.dtype), align=align)
            k.b.emit("target.store", found, to, align=align)
            return []

        k.loop(0, source.count, lanes, (), body)
        return
    sizes = [Affine(size) for size in source.shape]
    write_tile(k, target, sizes, lambda at: read_tile(k, source, at), source.dtype, bounded=False)


# -- going over a tile -------------------------------------------------------------------------------------------------

Place = tuple[list[Int], Int]  # leading coordinates, first column of a chunk


def _row(tile: Tile, k: Kernel, leading: Sequence[Int]) -> Int:
    """The number of a row of a tile of any rank."""
    row: Int = 0
    for index, size in zip(leading, tile.shape[:-1], strict=True):
        row = k.add(k.mul(row, size), index)
    return row


def read_tile(k: Kernel, tile: Tile, place: Place) -> Rep:
    """A chunk of a row as lanes; reads the padding too."""
    leading, column = place
    row = _row(tile, k, leading)
    if tile.panel and k.width != tile.panel:
        raise AssertionError("a panel is read by whole rows")
    ptr = k.offset(tile.ptr, element_offset(k, tile, row, column), tile.dtype)
    return Vec(k.b.op("target.load", ptr, types=k.vec_type(tile.dtype), align=size_of(tile.dtype)))


def put_tile(k: Kernel, tile: Tile, place: Place, rep: Rep, dtype: str) -> None:
    """Writes a chunk of a row, zeros in the lanes that take no part; converts from `dtype`."""
    leading, column = place
    value = k.vector(rep, dtype)
    if k.mask != ALL:
        value = k.b.op("arith.select", k.vector(k.mask, "bool"), value, k.constant(zero_of(dtype), dtype))
    if dtype != tile.dtype:
        value = k.b.op("arith.cast", value, to=tile.dtype)
    ptr = k.offset(tile.ptr, element_offset(k, tile, _row(tile, k, leading), column), tile.dtype)
    k.b.emit("target.store", value, ptr, align=size_of(tile.dtype))


def limits_of(k: Kernel, shape: Sequence[int], extents: Sequence[Rep]) -> list[Int]:
    """The extents, clamped to the shape."""
    limits: list[Int] = []
    for rep, size in zip(extents, shape, strict=True):
        assert isinstance(rep, Affine)
        limits.append(k.max(k.min(rep.base, size), 0))
    return limits


def walk(
    k: Kernel,
    shape: Sequence[int],
    limits: Sequence[Int],
    width: int,
    visit: Callable[[Place], None],
    *,
    first: tuple[Int, Int] = (0, 0),
    rows: int = 1,
) -> None:
    """Visits every chunk of `width` columns below the limits: whole ones without a mask, then the rest of the row.

    `first` is where the first axis and the last one begin; the latter starts a chunk. `rows` of the first axis are
    taken at a time. Rows are finished one by one, for that is the order in which most memory is read best.
    """

    def over_rows(leading: list[Int], body: Callable[[list[Int]], None]) -> None:
        if len(leading) == len(limits) - 1:
            body(leading)
            return

        def row(i: Value, _: list[Value]) -> list[Value]:
            over_rows([*leading, i], body)
            return []

        k.loop(0 if leading else first[0], limits[len(leading)], 1 if leading else rows, (), row)

    def over_columns(body: Callable[[Int], None]) -> None:
        last = limits[-1]
        end = whole(k, last, width)

        def chunk(j: Value, _: list[Value]) -> list[Value]:
            body(j)
            return []

        if end != 0 and shape[-1] >= width:
            k.loop(first[1], end, width, (), chunk)
        if end == last:
            return

        def rest() -> list[Value]:
            k.mask = Range(None, k.sub(last, end))
            body(end)
            k.mask = ALL
            return []

        k.when(k.less(end, last), rest, list)

    saved = k.width, k.mask
    k.width, k.mask = width, ALL
    over_rows([], lambda leading: over_columns(lambda j: visit((leading, j))))
    k.width, k.mask = saved


def write_tile(
    k: Kernel, tile: Tile, extents: Sequence[Rep], value: Callable[[Place], Rep], dtype: str, *, bounded: bool
) -> None:
    """Fills a tile below the extents with values of `dtype`; with zeros elsewhere, unless nobody looks there."""
    if not bounded:
        fill_zero(k, tile)

    def visit(place: Place) -> None:
        put_tile(k, tile, place, value(place), dtype)

    walk(k, tile.shape, limits_of(k, tile.shape, extents), tile.panel or chunk_width(k), visit)


# -- operations --------------------------------------------------------------------------------------------------------


def tile_of(k: Kernel, value: Value) -> Tile:
    found = k.env[value]
    assert isinstance(found, Tile)
    return found


def as_carried(k: Kernel, op: Op, init: Value) -> Tile:
    """The memory in which a loop keeps a carried tile, holding its initial value."""
    source = tile_of(k, init)
    if uses_of(k).last_in_place(init, op):
        return source
    home = new_tile(k, source.shape, source.dtype)
    copy_tile(k, source, home)
    return home


def lower_zeros(k: Kernel, op: Op) -> Rep:
    """Zeros, as far as they are looked at."""
    type_ = op.result.type
    assert isinstance(type_, TileType)
    tile = new_tile(k, type_.shape, type_.dtype)
    bounds = uses_of(k).bounds_of(op.result)
    if bounds is None or any(v not in k.env for v in bounds):
        fill_zero(k, tile)
    else:
        zero = k.b.const(zero_of(type_.dtype), ScalarType(type_.dtype))
        write_tile(k, tile, [k.env[v] for v in bounds], lambda place: k.wrap_scalar(zero), type_.dtype, bounded=True)
    return tile


def whole(k: Kernel, size: Int, step: int) -> Int:
    """The largest multiple of `step`, a power of two, up to `size`."""
    return k.mul(k.floordiv(size, step), step)
