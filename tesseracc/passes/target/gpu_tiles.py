"""Tiles on the GPU without matrix units: operands of a product in shared memory, everything else in registers.

A tile in registers is spread over the threads in a fixed way: the group is a grid of `rows x cols` threads, and thread
(r, c) holds the elements (r + i * rows, c + j * cols). Neighbouring threads hold neighbouring columns, so global
accesses coalesce, reads of the right operand hit different banks, and reads of the left operand are broadcasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.types import ScalarType, TileType, Type, element, kind_of, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.lower_gpu import Held, Lowering, Registers, SharedTile

if TYPE_CHECKING:
    from tesseracc.ir.builder import Builder


@dataclass(frozen=True, slots=True)
class Fragment:
    """The thread grid, and the elements per thread along each axis."""

    rows: int
    cols: int
    high: int
    wide: int

    @property
    def count(self) -> int:
        return self.high * self.wide


def fragment(shape: tuple[int, ...], group: int) -> Fragment:
    """How a tile is spread over a group: columns first, up to 16 threads wide or as wide as needed."""
    cols = min(16, group)
    while cols < group and cols < shape[1] and group // cols > shape[0]:
        cols *= 2
    rows = group // cols
    return Fragment(rows, cols, -(-shape[0] // rows), -(-shape[1] // cols))


def coordinates(low: Lowering, shape: tuple[int, int]) -> list[tuple[Value, Value]]:
    """Row and column of each of the thread's elements."""
    b = low.b
    frag = fragment(shape, low.group)
    thread = low.thread()
    row = b.op("arith.floordiv", thread, b.const(frag.cols))
    col = b.op("arith.mod", thread, b.const(frag.cols))
    rows = [b.op("arith.add", row, b.const(i * frag.rows)) for i in range(frag.high)]
    cols = [b.op("arith.add", col, b.const(j * frag.cols)) for j in range(frag.wide)]
    return [(r, c) for r in rows for c in cols]


def _shape(type_: Type) -> tuple[int, int]:
    assert isinstance(type_, TileType)
    if len(type_.shape) != 2:
        raise TesseraError("E542", f"a tile of rank {len(type_.shape)} has no form on this target")
    return type_.shape[0], type_.shape[1]


def lower_zeros(low: Lowering, op: Op) -> Held:
    shape = _shape(op.result.type)
    zero = low.zero(element(op.result.type))
    return Registers(shape, [zero] * fragment(shape, low.group).count)


def _inside(b: Builder, at: tuple[Value, Value], extents: list[Value]) -> Value:
    row = b.op("arith.cmp", at[0], extents[0], pred="lt")
    return b.op("arith.and", row, b.op("arith.cmp", at[1], extents[1], pred="lt"))


def _extents(low: Lowering, op: Op) -> list[Value]:
    """The extents, no larger than the shape (a thread may stand for coordinates beyond it)."""
    b = low.b
    pairs = zip(op.group("extents"), op.attrs["shape"], strict=True)
    return [b.op("arith.min", low.get(v), b.const(n)) for v, n in pairs]


def lower_map(low: Lowering, op: Op) -> None:
    """Element by element; a result that feeds a product goes to shared memory, any other stays in registers."""
    saved, low.in_map = low.in_map, True
    if any(r in low.operands for r in op.results):
        _map_to_shared(low, op)
    else:
        _map_in_registers(low, op)
    low.in_map = saved


def _element(low: Lowering, tile: Value, at: tuple[Value, Value], piece: int) -> Value:
    held = low.env[tile]
    if isinstance(held, Registers):
        return held.pieces[piece]
    assert isinstance(held, SharedTile)
    low.state.read = True
    return _load(low, held, at)


def _address(low: Lowering, tile: SharedTile, at: tuple[Value, Value]) -> Value:
    b = low.b
    flat = b.op("arith.add", b.op("arith.mul", at[0], b.const(tile.shape[1])), at[1])
    return b.op("target.offset", tile.ptr, flat, dtype=tile.dtype)


def _load(low: Lowering, tile: SharedTile, at: tuple[Value, Value]) -> Value:
    return low.b.op("target.load", _address(low, tile, at), types=ScalarType(tile.dtype), align=size_of(tile.dtype))


def _map_in_registers(low: Lowering, op: Op) -> None:
    shape = (op.attrs["shape"][0], op.attrs["shape"][1])
    extents = _extents(low, op)
    types: list[Type] = [ScalarType(element(r.type)) for r in op.results]
    pieces: list[list[Value]] = [[] for _ in op.results]
    for number, at in enumerate(coordinates(low, shape)):

        def body(inner: Lowering, at: tuple[Value, Value] = at, number: int = number) -> list[Value]:
            elements = [_element(inner, tile, at, number) for tile in op.group("tiles")]
            return inner.region(op.regions[0], [*at, *elements])

        def outside(inner: Lowering) -> list[Value]:
            return [inner.zero(element(r.type)) for r in op.results]

        found = low.branch(_inside(low.b, at, extents), body, outside, types)
        for held, value in zip(pieces, found, strict=True):
            held.append(value)
    for result, values in zip(op.results, pieces, strict=True):
        low.env[result] = Registers(shape, values)


def _map_to_shared(low: Lowering, op: Op) -> None:
    """Threads fill the tile in steps of the group size, neighbours along the last axis; 0 outside the extents."""
    shape = (op.attrs["shape"][0], op.attrs["shape"][1])
    if any(isinstance(low.env[t], Registers) for t in op.group("tiles")):
        raise TesseraError("E542", f"kernel @{low.kernel.name}: a product's operand comes from a tile in registers")
    extents = _extents(low, op)
    tiles = []
    for result in op.results:
        dtype = element(result.type)
        ptr = low.b.op("target.shared", offset=low.shared.take(shape[0] * shape[1] * size_of(dtype)))
        tiles.append(SharedTile(shape, ptr, dtype))
    if low.state.read:
        low.barrier()
    total = shape[0] * shape[1]

    def fill(inner: Lowering, args: list[Value]) -> list[Value]:
        b = inner.b
        at = (b.op("arith.floordiv", args[0], b.const(shape[1])), b.op("arith.mod", args[0], b.const(shape[1])))

        def body(deep: Lowering) -> list[Value]:
            elements = [_element(deep, tile, at, 0) for tile in op.group("tiles")]
            return deep.region(op.regions[0], [*at, *elements])

        def outside(deep: Lowering) -> list[Value]:
            return [deep.zero(tile.dtype) for tile in tiles]

        values = inner.branch(_inside(b, at, extents), body, outside, [ScalarType(t.dtype) for t in tiles])
        for tile, value in zip(tiles, values, strict=True):
            b.emit("target.store", value, _address(inner, tile, at), align=size_of(tile.dtype))
        return []

    region = low.nested([ScalarType("i64")], fill)
    low.b.emit("scf.for", low.thread(), low.b.const(total), low.b.const(low.group), [], types=[], regions=[region])
    low.state.written = True
    low.env.update(zip(op.results, tiles, strict=True))


def lower_mma(low: Lowering, op: Op) -> Held:
    """acc + a b: for each k in order, one fma (or multiply and add of integers) per element."""
    b = low.b
    left, right, acc = (low.env[v] for v in op.operands[:3])
    if not (isinstance(left, SharedTile) and isinstance(right, SharedTile) and isinstance(acc, Registers)):
        raise TesseraError("E542", f"kernel @{low.kernel.name}: a product needs operands that are filled by tile.map")
    if low.state.written:
        low.barrier()
    low.state.read = True
    dtype = element(op.result.type)
    frag = fragment(acc.shape, low.group)
    places = coordinates(low, acc.shape)
    rows = [places[i * frag.wide][0] for i in range(frag.high)]
    cols = [places[j][1] for j in range(frag.wide)]
    # a thread at the ragged edge of a shape that the thread grid does not divide reads a valid element in vain
    rows = [b.op("arith.min", r, b.const(acc.shape[0] - 1)) for r in rows] if acc.shape[0] % frag.rows else rows
    cols = [b.op("arith.min", c, b.const(acc.shape[1] - 1)) for c in cols] if acc.shape[1] % frag.cols else cols
    depth = left.shape[1]
    limit = b.const(depth)
    extents = op.group("extents")
    if extents:
        limit = b.op("arith.min", low.get(extents[2]), limit)

    def step(inner: Lowering, args: list[Value]) -> list[Value]:
        k, *carried = args

        def widen(value: Value) -> Value:
            return value if element(value.type) == dtype else inner.b.op("arith.cast", value, to=dtype)

        a_values = [widen(_load(inner, left, (row, k))) for row in rows]
        b_values = [widen(_load(inner, right, (k, col))) for col in cols]
        found = []
        for i, x in enumerate(a_values):
            for j, y in enumerate(b_values):
                total = carried[i * frag.wide + j]
                if kind_of(dtype) == "f":
                    found.append(inner.b.op("arith.fma", x, y, total))
                else:
                    found.append(inner.b.op("arith.add", inner.b.op("arith.mul", x, y), total))
        return found

    types: list[Type] = [ScalarType(dtype)] * frag.count
    region = low.nested([ScalarType("i64"), *types], step)
    found = b.emit("scf.for", b.const(0), limit, b.const(1), acc.pieces, types=types, regions=[region])
    return Registers(acc.shape, list(found.results))
