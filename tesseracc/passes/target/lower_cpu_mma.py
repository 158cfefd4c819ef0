"""`tile.mma` on a CPU: a register-blocked micro-kernel over tiles in scratch memory.

A block of rows x native vectors of the accumulator is held in registers while k runs: per step one load for each
vector of b, one broadcast of a per row, one fma per accumulator, so each element is summed in order of k. The main
block has two vectors and as many rows as the register file holds; a right operand in panels gives its vectors from
consecutive memory, and a panel stays in the nearest cache for all main blocks. The rows left over go by blocks of 4
and of 1 with more vectors, for only enough independent sums hide the latency of an fma. The rows of a are read as they
lie. Where the machine multiplies pairs of narrow elements along k, a step takes two: a pair of a is broadcast, and b
has its rows in pairs. Where it has tile registers, they take the product (lower_cpu_amx).
"""

from __future__ import annotations

from dataclasses import dataclass

from tesseracc.ir.types import ScalarType, VecType, kind_of, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.lower_cpu_amx import multiply
from tesseracc.passes.target.lower_cpu_grouped import fill_grouped
from tesseracc.passes.target.lower_cpu_tiles import (
    PANEL_VECTORS,
    copy_tile,
    element_offset,
    matrix_tile,
    new_tile,
    operand_form,
    read_tile,
    tile_of,
    uses_of,
)
from tesseracc.passes.target.lower_cpu_values import Affine, Int, Kernel, Rep, Tile, native

#: panels that a block of few rows takes at once: more sums than hide the latency of an fma
MOST_PANELS = 4


def _spare(k: Kernel) -> int:
    """Registers that hold no sums: one for a, one more, and two for the products of a machine without fma."""
    return 2 if k.arch.has("fma") else 4


def block_rows(k: Kernel) -> int:
    """Rows of the main block: of the registers left, each row takes a panel's, and so does b."""
    return max(1, (k.arch.vector_registers - _spare(k)) // PANEL_VECTORS - 1)


def block_panels(k: Kernel, rows: int) -> int:
    """Panels that a block of these rows takes at once."""
    return max(1, min(MOST_PANELS, (k.arch.vector_registers - _spare(k)) // (PANEL_VECTORS * (rows + 1))))


@dataclass(frozen=True, slots=True)
class _Product:
    """acc += a b for the first `depth` columns of a and rows of b."""

    k: Kernel
    a: Tile
    b: Tile
    acc: Tile
    depth: Int

    def blocks(self, first: Int, stop: Int, rows: int, columns: Int) -> None:
        """The rows first .. stop, a multiple of `rows`, for so many columns: several panels at once, then one."""
        k, panel = self.k, PANEL_VECTORS * native(self.k, self.acc.dtype)
        panels = block_panels(k, rows)
        done: Int = 0
        for count in dict.fromkeys((panels, 1)):
            width = count * panel
            # columns beyond the limit are part of the tiles, and nobody looks at them
            end = columns if count == 1 else k.mul(k.floordiv(columns, width), width)

            def across(j: Value, _: list[Value], count: int = count) -> list[Value]:
                def down(i: Value, _: list[Value]) -> list[Value]:
                    self.micro(rows, count * PANEL_VECTORS, i, j)
                    return []

                k.loop(first, stop, rows, (), down)
                return []

            k.loop(done, end, width, (), across)
            done = end

    def micro(self, rows: int, vectors: int, i: Value, j: Value) -> None:
        """acc[i : i + rows, j : j + vectors] += a[i : i + rows, :depth] b[:depth, same columns]."""
        k, a, acc, dtype = self.k, self.a, self.acc, self.acc.dtype
        lanes, size = native(k, dtype), size_of(dtype)
        vec = VecType(lanes, dtype)
        corner = k.offset(acc.ptr, element_offset(k, acc, i, j), dtype)
        places = [k.offset(corner, r * acc.row + v * lanes, dtype) for r in range(rows) for v in range(vectors)]
        first = [k.b.op("target.load", place, types=vec, align=size * lanes) for place in places]
        line = k.arch.cache_line // size
        for r in range(rows, 2 * rows):  # of the block that comes next
            for at in range(0, vectors * lanes, line):
                k.b.emit("target.prefetch", k.offset(corner, r * acc.row + at, dtype))
        left = k.offset(a.ptr, element_offset(k, a, i, 0), a.dtype)
        right = k.offset(self.b.ptr, element_offset(k, self.b, 0, j), self.b.dtype)
        step = self.b.panel or self.b.row
        columns = [element_offset(k, self.b, 0, p * PANEL_VECTORS * lanes) for p in range(-(-vectors // PANEL_VECTORS))]
        group, narrow = self.b.group, self.b.dtype
        word = "i32" if group > 1 else dtype  # what holds the elements of one step

        def body(kk: Value, sums: list[Value]) -> list[Value]:
            here = k.offset(right, k.mul(kk, step), narrow)
            places = [k.add(columns[v // PANEL_VECTORS], v % PANEL_VECTORS * lanes * group) for v in range(vectors)]
            loaded = [
                k.b.op("target.load", k.offset(here, at, narrow), types=VecType(lanes, word), align=size * lanes)
                for at in places
            ]
            column = k.offset(left, kk, narrow)
            found = []
            for r in range(rows):
                place = k.offset(column, r * a.row, narrow)
                scalar = k.b.op("target.load", place, types=ScalarType(word), align=size_of(word))
                wide = k.b.op("target.splat", scalar, count=lanes)
                found += [_step(k, wide, loaded[v], sums[r * vectors + v], dtype) for v in range(vectors)]
            return found

        sums = k.loop(0, self.depth, group, first, body)
        for place, total in zip(places, sums, strict=True):
            k.b.emit("target.store", total, place, align=size * lanes)


def lower_mma(k: Kernel, op: Op) -> Rep:
    acc = tile_of(k, op["acc"])
    m, n, depth = _limits(k, op)
    a = _operand(k, op["a"], operand_form(k, op, "a"), (m, depth))
    b = _operand(k, op["b"], operand_form(k, op, "b"), (depth, n))
    target = acc
    if not uses_of(k).last_in_place(op["acc"], op):
        target = new_tile(k, acc.shape, acc.dtype)
        copy_tile(k, acc, target)
    instruction = matrix_tile(k, op)
    if instruction is not None:
        multiply(k, instruction, (a, b, target), (m, n, depth))
        return target
    product = _Product(k, a, b, target, depth)
    done: Int = 0
    for rows in dict.fromkeys((block_rows(k), min(4, block_rows(k)), 1)):
        stop = k.add(done, k.mul(k.floordiv(k.sub(m, done), rows), rows))
        product.blocks(done, stop, rows, n)
        done = stop
    return target


def _limits(k: Kernel, op: Op) -> list[Int]:
    """How far the product goes along m, n and k."""
    shape = (*tile_of(k, op["acc"]).shape, tile_of(k, op["a"]).shape[1])
    extents = op.group("extents")
    if not extents:
        return list(shape)
    found: list[Int] = []
    for value, size in zip(extents, shape, strict=True):
        rep = k.env[value]
        assert isinstance(rep, Affine)
        found.append(k.max(k.min(rep.base, size), 0))
    return found


def _operand(k: Kernel, value: Value, form: tuple[str, int], limits: tuple[Int, Int]) -> Tile:
    """An operand in the form that the product takes; a map that feeds only products has written it so."""
    tile, (dtype, group) = tile_of(k, value), form
    if (tile.dtype, tile.group) == (dtype, group):
        return tile
    found = new_tile(k, tile.shape, dtype, panels=group > 1, group=group)
    if group > 1:
        fill_grouped(k, found, limits, lambda at: read_tile(k, tile, at))
    else:
        copy_tile(k, tile, found)
    return found


def _step(k: Kernel, a: Value, b: Value, acc: Value, dtype: str) -> Value:
    """One fma, or the dot product of pairs; two
    roundings on a machine that has none, where the exact operation would cost thirty times as much."""
    if a.type != acc.type:
        return k.b.op("target.dot_pairs", a, b, acc)
    if kind_of(dtype) != "f" or not k.arch.has("fma"):
        return k.b.op("arith.add", k.b.op("arith.mul", a, b), acc)
    return k.b.op("arith.fma", a, b, acc)
