"""`tile.mma` on the tile registers of a CPU (AMX): eight registers of 16 rows of 64 bytes.

An instruction adds to 16 x 16 sums the product of 16 rows of a, 64 bytes of each, and of 16 groups of rows of b, a word
of each per column: exactly how a row-major tile and a panel in groups lie in memory (lower_cpu_grouped). Four registers
hold a block of 32 x 32 sums, while along k two registers of a and two of b are loaded for four products; a panel of b,
32 columns, stays in the nearest cache for all blocks of rows.

Registers are always whole. What a tile has beyond its extents is read too: zeros along k, so that it adds nothing, and
any numbers elsewhere, whose sums nobody looks at. Registers keep their numbers, for no instruction copies one to
another: 0 .. 3 are the sums, 4, 5 of a, 6, 7 of b.
"""

from __future__ import annotations

from tesseracc.arch.arch import MmaRow
from tesseracc.ir.types import size_of
from tesseracc.ir.value import Value
from tesseracc.passes.target.lower_cpu_masked import masked_store
from tesseracc.passes.target.lower_cpu_tiles import element_offset, zero_of
from tesseracc.passes.target.lower_cpu_values import Int, Kernel, Range, Tile, native

#: register blocks in a block of sums along m, and along n: those of a panel
DOWN = ACROSS = 2
A_REGISTER, B_REGISTER = DOWN * ACROSS, DOWN * ACROSS + DOWN


def multiply(k: Kernel, unit: MmaRow, tiles: tuple[Tile, Tile, Tile], limits: tuple[Int, Int, Int]) -> None:
    """acc += a b for (a, b, acc) = `tiles` below the limits m, n, k."""
    a, b, _ = tiles
    m, n, depth = limits
    k.uses_tile_registers = True
    _clear_left(k, a, unit, m, depth)
    _clear_right(k, b, unit, n, depth)
    height, width = DOWN * unit.m, ACROSS * unit.n[0]
    assert b.panel == width, "a panel is as wide as the registers of a block"
    end = k.mul(k.ceildiv(m, unit.m), unit.m)
    whole = k.mul(k.floordiv(end, height), height)

    def across(j: Value, _: list[Value]) -> list[Value]:
        def down(i: Value, count: int) -> list[Value]:
            _block(k, unit, tiles, (i, j), depth, count)
            return []

        k.loop(0, whole, height, (), lambda i, _: down(i, DOWN))
        k.loop(whole, end, unit.m, (), lambda i, _: down(i, 1))
        return []

    k.loop(0, n, width, (), across)


def _block(
    k: Kernel, unit: MmaRow, tiles: tuple[Tile, Tile, Tile], corner: tuple[Value, Value], depth: Int, count: int
) -> None:
    """The sums of `count` registers of rows, and of a panel's columns."""
    a, b, acc = tiles
    i, j = corner

    def move(name: str, tile: Tile, place: Value, step: int, register: int) -> None:
        k.b.emit(f"target.amx_{name}", place, k.value(step * size_of(tile.dtype)), register=register)

    sums = [(r, c) for r in range(count) for c in range(ACROSS)]
    home = k.offset(acc.ptr, element_offset(k, acc, i, j), acc.dtype)
    places = [k.offset(home, r * unit.m * acc.row + c * unit.n[0], acc.dtype) for r, c in sums]
    for (r, c), place in zip(sums, places, strict=True):
        move("load", acc, place, acc.row, r * ACROSS + c)
    left = k.offset(a.ptr, element_offset(k, a, i, 0), a.dtype)
    right = k.offset(b.ptr, element_offset(k, b, 0, j), b.dtype)

    def body(at: Value, _: list[Value]) -> list[Value]:
        column, row = k.offset(left, at, a.dtype), k.offset(right, k.mul(at, b.panel), b.dtype)
        for c in range(ACROSS):
            move("load", b, k.offset(row, c * unit.n[0] * b.group, b.dtype), b.panel * b.group, B_REGISTER + c)
        for r in range(count):
            move("load", a, k.offset(column, r * unit.m * a.row, a.dtype), a.row, A_REGISTER + r)
            for c in range(ACROSS):
                registers = (r * ACROSS + c, A_REGISTER + r, B_REGISTER + c)
                k.b.emit("target.amx_dot", registers=registers, dtypes=(unit.a, unit.b))
        return []

    k.loop(0, depth, unit.k, (), body)
    for (r, c), place in zip(sums, places, strict=True):
        move("store", acc, place, acc.row, r * ACROSS + c)


# -- what registers read beyond the extents ------------------------------------------------------------------------


def _clear_left(k: Kernel, a: Tile, unit: MmaRow, m: Int, depth: Int) -> None:
    """Zeros in the last columns that a step along k reads; whole rows of them below the last row, which might hold
    numbers that take long."""
    whole = k.mul(k.floordiv(depth, unit.k), unit.k)
    lanes = native(k, a.dtype)
    saved, k.width = k.width, lanes
    zero = k.constant(zero_of(a.dtype), a.dtype)

    def rest() -> list[Value]:
        def row(i: Value, _: list[Value]) -> list[Value]:
            for at in range(0, unit.k, lanes):
                column = k.add(whole, at)
                place = k.offset(a.ptr, element_offset(k, a, i, column), a.dtype)
                masked_store(k, zero, place, a.dtype, Range(k.sub(depth, column)))
            return []

        k.loop(0, m, 1, (), row)
        return []

    k.when(k.less(whole, depth), rest, list)

    def below(i: Value, _: list[Value]) -> list[Value]:
        def chunk(j: Value, _: list[Value]) -> list[Value]:
            k.b.emit("target.store", zero, k.offset(a.ptr, element_offset(k, a, i, j), a.dtype), align=64)
            return []

        k.loop(0, depth, lanes, (), chunk)
        return []

    k.loop(m, k.mul(k.ceildiv(m, unit.m), unit.m), 1, (), below)
    k.width = saved


def _clear_right(k: Kernel, b: Tile, unit: MmaRow, n: Int, depth: Int) -> None:
    """Zeros in the groups of rows from the last one that is written to the end of a step along k."""
    saved, k.width = k.width, native(k, b.dtype)
    zero = k.constant(zero_of(b.dtype), b.dtype)

    def panel(j: Value, _: list[Value]) -> list[Value]:
        def group(i: Value, _: list[Value]) -> list[Value]:
            place = k.offset(b.ptr, element_offset(k, b, i, j), b.dtype)
            for at in range(0, b.group * b.panel, k.width):
                k.b.emit("target.store", zero, k.offset(place, at, b.dtype), align=64)
            return []

        first, end = (k.mul(k.ceildiv(depth, step), step) for step in (b.group, unit.k))
        k.loop(first, end, b.group, (), group)
        return []

    k.loop(0, n, b.panel, (), panel)
    k.width = saved
