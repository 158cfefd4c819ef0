"""`tile.fold` and `tile.element` on a CPU.

The order of a fold is fixed (dialects/tile_values.py): the axis, padded to a power of two, is halved. Along rows the
upper halvings join whole chunks of columns, the last ones happen inside a vector. Along any other axis whole rows are
joined, chunk by chunk of the columns.
"""

from __future__ import annotations

from collections.abc import Callable

from tesseracc.ir.types import BufType, ScalarType, TileType, element, kind_of, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.lower_cpu_memory import flat_index, load
from tesseracc.passes.target.lower_cpu_tiles import chunk_width, element_offset, new_tile, read_tile, tile_of
from tesseracc.passes.target.lower_cpu_values import ALL, Buf, Int, Kernel, Range, Rep, Tile, Vec


def identity(kind: str, dtype: str) -> int | float | bool:
    """The element that a fold leaves out: what changes no other."""
    if kind in ("add", "or", "xor"):
        return 0.0 if kind_of(dtype) == "f" else False if dtype == "bool" else 0
    if kind in ("mul", "and"):
        return 1.0 if kind_of(dtype) == "f" else True if dtype == "bool" else 1 if kind == "mul" else -1
    if kind_of(dtype) == "f":
        return float("-inf") if kind == "max" else float("inf")
    if dtype == "bool":
        return kind == "min"
    bits, signed = 8 * size_of(dtype), kind_of(dtype) == "i"
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return low if kind == "max" else high


def halve(count: int, part: Callable[[int], Value | None], join: Callable[[Value, Value], Value]) -> Value:
    """Joins parts 0 .. count-1 in the order of a fold; `part` gives None for padding."""
    size = 1 << max(count - 1, 0).bit_length()

    def after(at: int, left: int) -> Value | None:  # part `at` when `left` parts remain
        if left == size:
            return part(at) if at < count else None
        first, second = after(at, 2 * left), after(at + left, 2 * left)
        return second if first is None else first if second is None else join(first, second)

    found = after(0, 1)
    assert found is not None, "an axis of a tile has elements"
    return found


def lower_fold(k: Kernel, op: Op) -> Rep:
    type_ = op["a"].type
    assert isinstance(type_, TileType)
    axis, kind = op.attrs["axis"], op.attrs["kind"]
    tile = tile_of(k, op["a"])
    saved = k.width, k.mask
    k.width, k.mask = chunk_width(k), ALL
    if axis == len(type_.shape) - 1:
        found = _along_rows(k, tile, kind, op)
    else:
        found = _across_rows(k, tile, axis, kind)
    k.width, k.mask = saved
    return found


def _row_fold(k: Kernel, tile: Tile, leading: list[Int], kind: str) -> Value:
    """One row as a scalar."""
    columns, dtype, width = tile.shape[-1], tile.dtype, k.width

    def chunk(at: int) -> Value:
        rep = read_tile(k, tile, (leading, at * width))
        found = k.vector(rep, dtype)
        rest = columns - at * width
        if rest >= width:
            return found
        inside = k.vector(Range(None, rest), "bool")
        return k.b.op("arith.select", inside, found, k.constant(identity(kind, dtype), dtype))

    vec = halve(-(-columns // width), chunk, lambda a, b: k.b.op(f"arith.{kind}", a, b))
    count = width
    while count > 1:
        half = count // 2
        low = k.b.op("target.shuffle", vec, vec, lanes=tuple(range(half)))
        high = k.b.op("target.shuffle", vec, vec, lanes=tuple(range(half, count)))
        vec = k.b.op(f"arith.{kind}", low, high)
        count = half
    return k.b.op("target.extract", vec, lane=0)


def _along_rows(k: Kernel, tile: Tile, kind: str, op: Op) -> Rep:
    if isinstance(op.result.type, ScalarType):
        return k.wrap_scalar(_row_fold(k, tile, [], kind))
    target = new_tile(k, tile.shape[:-1], tile.dtype)

    def rows(leading: list[Int]) -> None:
        if len(leading) < len(tile.shape) - 1:

            def row(i: Value, _: list[Value]) -> list[Value]:
                rows([*leading, i])
                return []

            k.loop(0, tile.shape[len(leading)], 1, (), row)
            return
        ptr = k.offset(target.ptr, _offset(k, target, leading), target.dtype)
        k.b.emit("target.store", _row_fold(k, tile, leading, kind), ptr, align=size_of(target.dtype))

    rows([])
    return target


def _offset(k: Kernel, tile: Tile, place: list[Int]) -> Int:
    row: Int = 0
    for index, size in zip(place[:-1], tile.shape[:-1], strict=True):
        row = k.add(k.mul(row, size), index)
    return element_offset(k, tile, row, place[-1])


def _across_rows(k: Kernel, tile: Tile, axis: int, kind: str) -> Rep:
    """Halves the axis in a copy of one column chunk at a time: `size` vectors of scratch memory."""
    dtype, width, count = tile.dtype, k.width, tile.shape[axis]
    rest = (*tile.shape[:axis], *tile.shape[axis + 1 :])
    target = new_tile(k, rest, dtype)
    room = k.reserve(count * width * size_of(dtype))
    vec, align = k.vec_type(dtype), min(64, width * size_of(dtype))

    def slot(i: Int) -> Value:
        return k.offset(room, k.mul(i, width), dtype)

    def fold(others: list[Int], column: Int) -> None:
        def take(i: Value, _: list[Value]) -> list[Value]:
            rep = read_tile(k, tile, ([*others[:axis], i, *others[axis:]], column))
            k.b.emit("target.store", k.vector(rep, dtype), slot(i), align=align)
            return []

        k.loop(0, count, 1, (), take)
        half = (1 << max(count - 1, 0).bit_length()) // 2
        while half:
            stop = min(half, count - half)  # what has no partner stays as it is

            def join(i: Value, _: list[Value], half: int = half) -> list[Value]:
                pair = [k.b.op("target.load", slot(at), types=vec, align=align) for at in (i, k.add(i, half))]
                k.b.emit("target.store", k.b.op(f"arith.{kind}", *pair), slot(i), align=align)
                return []

            k.loop(0, stop, 1, (), join)
            half //= 2
        found = k.b.op("target.load", room, types=vec, align=align)
        ptr = k.offset(target.ptr, _offset(k, target, [*others, column]), dtype)
        k.b.emit("target.store", found, ptr, align=size_of(dtype))

    def over(others: list[Int]) -> None:
        at = len(others)
        last = at == len(rest) - 1

        def step(i: Value, _: list[Value]) -> list[Value]:
            fold(others, i) if last else over([*others, i])
            return []

        k.loop(0, rest[at], width if last else 1, (), step)

    over([])
    return target


def lower_element(k: Kernel, op: Op) -> Rep:
    """An element of a tile for every lane: the tile is read as a buffer with padded rows."""
    tile = tile_of(k, op["tile"])
    assert not tile.panel, "a tile in panels has no users but products"
    buf = Buf(tile.ptr, BufType((*tile.shape[:-1], tile.row), tile.dtype, "shared"))
    found = load(k, buf, flat_index(k, buf, [k.env[v] for v in op.group("indices")]), None)
    dtype = element(op.result.type)
    return found if tile.dtype == dtype else Vec(k.b.op("arith.cast", k.vector(found, tile.dtype), to=dtype))
