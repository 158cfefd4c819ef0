"""`tile.mma` on a CPU: a register-blocked micro-kernel over tiles in scratch memory.

A block of `rows` x 2 native vectors of the accumulator is held in registers while k runs: per step one vector load for
each of the two vectors of b, one broadcast of a per row, one fma per accumulator, so each element is summed in order of
k. The number of rows is what the register file holds; the rows left over go by blocks of 4 and of 1. A right operand in
panels gives 2 vectors per step from consecutive memory; the rows of a are read as they lie, one stream per row.
"""

from __future__ import annotations

from tesseracc.ir.types import ScalarType, VecType, kind_of, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.lower_cpu_tiles import (
    PANEL_VECTORS,
    copy_tile,
    element_offset,
    new_tile,
    tile_of,
    uses_of,
)
from tesseracc.passes.target.lower_cpu_values import Affine, Int, Kernel, Rep, Tile, native


def block_rows(k: Kernel) -> int:
    """Rows of the micro-kernel: registers less two for b, one for a, one spare; two more for products without fma."""
    spare = 4 if k.arch.has("fma") else 6
    return max(1, (k.arch.vector_registers - spare) // PANEL_VECTORS)


def lower_mma(k: Kernel, op: Op) -> Rep:
    acc = tile_of(k, op["acc"])
    a, b = (_operand(k, op[name], acc.dtype) for name in ("a", "b"))
    target = acc
    if not uses_of(k).last_in_place(op["acc"], op):
        target = new_tile(k, acc.shape, acc.dtype)
        copy_tile(k, acc, target)
    m, n, depth = _limits(k, op, (*acc.shape, a.shape[1]))
    width = PANEL_VECTORS * native(k, acc.dtype)

    def columns(j: Value, _: list[Value]) -> list[Value]:
        done: Int = 0
        for rows in dict.fromkeys((block_rows(k), min(4, block_rows(k)), 1)):
            rest = k.sub(m, done)
            stop = k.add(done, k.mul(k.floordiv(rest, rows), rows))

            def block(i: Value, _: list[Value], rows: int = rows) -> list[Value]:
                _micro(k, a, b, target, rows, i, j, depth)
                return []

            k.loop(done, stop, rows, (), block)
            done = stop
        return []

    k.loop(0, n, width, (), columns)
    return target


def _limits(k: Kernel, op: Op, shape: tuple[int, ...]) -> list[Int]:
    extents = op.group("extents")
    if not extents:
        return list(shape)
    found: list[Int] = []
    for value, size in zip(extents, shape, strict=True):
        rep = k.env[value]
        assert isinstance(rep, Affine)
        found.append(k.max(k.min(rep.base, size), 0))
    return found


def _operand(k: Kernel, value: Value, dtype: str) -> Tile:
    """An operand in the accumulator's element type; a map that feeds only products has written it so."""
    tile = tile_of(k, value)
    if tile.dtype == dtype:
        return tile
    wide = new_tile(k, tile.shape, dtype)
    copy_tile(k, tile, wide)
    return wide


def _micro(k: Kernel, a: Tile, b: Tile, acc: Tile, rows: int, i: Value, j: Value, depth: Int) -> None:
    """acc[i : i + rows, j : j + 2 vectors] += a[i : i + rows, :depth] b[:depth, same columns]."""
    dtype = acc.dtype
    lanes, size = native(k, dtype), size_of(dtype)
    vec = VecType(lanes, dtype)
    corner = k.offset(acc.ptr, element_offset(k, acc, i, j), dtype)
    places = [k.offset(corner, r * acc.row + v * lanes, dtype) for r in range(rows) for v in range(PANEL_VECTORS)]
    first = [k.b.op("target.load", place, types=vec, align=size * lanes) for place in places]
    left = k.offset(a.ptr, element_offset(k, a, i, 0), dtype)
    right = k.offset(b.ptr, element_offset(k, b, 0, j), dtype)
    step = b.panel or b.row

    def body(kk: Value, sums: list[Value]) -> list[Value]:
        here = k.offset(right, k.mul(kk, step), dtype)
        vectors = [
            k.b.op("target.load", k.offset(here, v * lanes, dtype), types=vec, align=size * lanes)
            for v in range(PANEL_VECTORS)
        ]
        column = k.offset(left, kk, dtype)
        found = []
        for r in range(rows):
            scalar = k.b.op("target.load", k.offset(column, r * a.row, dtype), types=ScalarType(dtype), align=size)
            wide = k.b.op("target.splat", scalar, count=lanes)
            found += [_step(k, wide, vectors[v], sums[r * PANEL_VECTORS + v], dtype) for v in range(PANEL_VECTORS)]
        return found

    sums = k.loop(0, depth, 1, first, body)
    for place, total in zip(places, sums, strict=True):
        k.b.emit("target.store", total, place, align=size * lanes)


def _step(k: Kernel, a: Value, b: Value, acc: Value, dtype: str) -> Value:
    """One fma; two roundings on a machine that has none, where the exact operation would cost thirty times as much."""
    if kind_of(dtype) != "f" or not k.arch.has("fma"):
        return k.b.op("arith.add", k.b.op("arith.mul", a, b), acc)
    return k.b.op("arith.fma", a, b, acc)
