"""Products of tiles by fused multiply-adds, where the target has no matrix instruction for the types.

Operands are read from shared memory, element by element. Those in registers are staged there, in parts of the depth
where the whole has no room: the order of the sums is that of the depth in any case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from tesseracc.ir.types import ScalarType, kind_of, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.gpu_buffers import Block
from tesseracc.passes.target.gpu_convert import stage
from tesseracc.passes.target.gpu_parts import parts_of
from tesseracc.passes.target.gpu_placed import Located
from tesseracc.passes.target.gpu_spread import Places, Spread, padded, registers

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering

DEPTH = {"a": 1, "b": 0}  # the axis that is summed over


def by_fma(low: Lowering, op: Op, acc: Spread) -> Spread:
    """acc + a b: for each k in order, one fma (or multiply and add of integers) per element."""
    depth, extents = op["a"].type.shape[1], op.group("extents")  # type: ignore[union-attr]
    for start, end, left, right in _readable(low, op, depth):
        limit = low.b.const(end)
        if extents:
            limit = low.b.op("arith.min", low.get(extents[2]), limit)
        acc = _summed(low, acc, left, right, low.b.const(start), limit)
    return acc


def _readable(low: Lowering, op: Op, depth: int) -> Iterator[tuple[int, int, Block, Block]]:
    """Ranges of the depth and, for each, the blocks of both operands, in which depths count from 0 in any case."""
    values = {side: low.spread(op[side]) for side in DEPTH if not isinstance(low.env[op[side]], Located)}
    count = _count(low, values, depth)
    parts = {side: parts_of(value.layout, count, value.dtype, (DEPTH[side],)) for side, value in values.items()}
    if count > 1:
        low.tell(f"operands of the product pass through shared memory in {count} parts")
    length = padded((depth,))[0] // count
    for start in range(0, depth, length):
        blocks = []
        for side, axis in DEPTH.items():
            held = low.env[op[side]]
            if isinstance(held, Located):
                blocks.append(held.block)
            elif count == 1:
                blocks.append(stage(low, values[side], side))
            elif (cut := parts[side]) is None:  # threads tell the depths apart: each writes what it has of these
                blocks.append(stage(low, values[side], side, (axis, start, length)))
            else:
                number = next(n for n in range(count) if cut.start(n)[axis] == start)
                block = stage(low, cut.of(values[side], number, cut.layout.shape), side)
                blocks.append(_from_zero(low, block, axis, start))
        yield start, min(start + length, depth), blocks[0], blocks[1]


def _count(low: Lowering, values: dict[str, Spread], depth: int) -> int:
    """The fewest parts of what is staged of which one fits into shared memory at a time."""
    sizes = {side: prod(value.layout.shape) * size_of(value.dtype) for side, value in values.items()}
    count, limit = 1, low.arch.limits.shared_per_block
    while count < padded((depth,))[0]:
        if low.shared.with_all({side: size // count for side, size in sizes.items()}) <= limit:
            break
        count *= 2
    return count


def _from_zero(low: Lowering, block: Block, axis: int, start: int) -> Block:
    """The block of a part that begins at `start`, so that the whole's indices are its own."""
    at = list(block.at)
    at[block.axes[axis]] = low.b.const(-start)
    return replace(block, at=tuple(at))


def _summed(low: Lowering, acc: Spread, left: Block, right: Block, start: Value, limit: Value) -> Spread:
    """acc and the products of the depths from `start` up to, not with, `limit`."""
    layout, dtype = acc.layout, acc.dtype
    low.before_read(left.memory.ptr, right.memory.ptr)
    places = Places(low.b, low.thread(), layout)
    coordinates = [layout.at(register=r) for r in range(registers(layout))]
    rows = {c[0]: places.at(0, r) for r, c in enumerate(coordinates)}
    columns = {c[1]: places.at(1, r) for r, c in enumerate(coordinates)}

    def step(inner: Lowering, args: list[Value]) -> list[Value]:
        k, *carried = args

        def load(block: Block, place: list[Value]) -> Value:
            at = list(block.at)
            for axis, number in zip(block.axes, place, strict=True):
                at[axis] = inner.b.op("arith.add", at[axis], number)
            ptr, kind = block.memory.address(inner, at), block.memory.dtype
            value = inner.b.op("target.load", ptr, types=ScalarType(kind), align=size_of(kind))
            return value if kind == dtype else inner.b.op("arith.cast", value, to=dtype)

        a_values = {c: load(left, [row, k]) for c, row in rows.items()}
        b_values = {c: load(right, [k, column]) for c, column in columns.items()}
        found = []
        for total, (row, column) in zip(carried, coordinates, strict=True):
            x, y = a_values[row], b_values[column]
            if kind_of(dtype) == "f":
                found.append(inner.b.op("arith.fma", x, y, total))
            else:
                found.append(inner.b.op("arith.add", inner.b.op("arith.mul", x, y), total))
        return found

    elements = acc.as_elements(low.b)
    types = [ScalarType(dtype)] * len(elements)
    region = low.nested([ScalarType("i64"), *types], step)
    loop = low.b.emit("scf.for", start, limit, low.b.const(1), elements, types=types, regions=[region])
    return Spread(layout, acc.shape, dtype, elements=list(loop.results))
