"""Operands that a product may read where they lie in shared memory, so that nobody loads them into registers.

A product of warp groups is given the place of an operand in shared memory. The program reads a block and multiplies
it later; that is the same where nothing writes to the buffer in between, where all that becomes of the block is an
operand of such products, and where the block begins at known indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tesseracc.ir.dialects.tile_values import WRITERS
from tesseracc.ir.rewrite import makers_of, users_of
from tesseracc.ir.types import BufType, TileType
from tesseracc.ir.value import Func, Op, Region, Value
from tesseracc.passes.target.gpu_buffers import Block, Swizzle


@dataclass(frozen=True, slots=True)
class Placed:
    """A tile that is a block of shared memory: where it begins along its own axes, and the buffer's axis of each."""

    buf: Value
    start: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def turned(self) -> bool:
        """Whether memory is contiguous along the tile's first axis."""
        return self.axes[0] > self.axes[1]


@dataclass(frozen=True, slots=True)
class Located:
    """A tile of a lowered kernel that stays in shared memory."""

    block: Block

    def transposed(self, perm: Sequence[int]) -> Located:
        shape = tuple(self.block.shape[p] for p in perm)
        return Located(replace(self.block, shape=shape, axes=tuple(self.block.axes[p] for p in perm)))


def placed_operands(kernel: Func) -> dict[Value, Placed]:
    """Every operand of a product that lies in swizzled shared memory when the product is made."""
    made, used = makers_of(kernel), users_of(kernel)
    found: dict[Value, Placed] = {}
    for region in _regions(kernel.body):
        index = {op: number for number, op in enumerate(region.ops)}
        for number, op in enumerate(region.ops):
            for value in (op["a"], op["b"]) if op.name == "tile.mma" else ():
                placed = _placed(value, made, used)
                if placed is None:
                    continue
                read = _source(value, made)
                if read in index and not any(_writes(o, placed.buf) for o in region.ops[index[read] : number]):
                    found[value] = placed
    return found


def _regions(region: Region) -> Iterator[Region]:
    yield region
    for op in region.ops:
        for inner in op.regions:
            yield from _regions(inner)


def _writes(op: Op, buf: Value) -> bool:
    return any(inner.name in WRITERS and buf in inner.operands for inner in op.walk())


def _source(value: Value, makers: dict[Value, Op]) -> Op | None:
    """The read that a value is, as it is or transposed."""
    op = makers.get(value)
    while op is not None and op.name == "tile.transpose":
        op = makers.get(op["a"])
    return op if op is not None and op.name == "tile.read" else None


def _placed(value: Value, makers: dict[Value, Op], users: dict[Value, list[Op]]) -> Placed | None:
    if any(user.name != "tile.mma" or user["acc"] is value for user in users[value]):
        return None
    op = makers.get(value)
    assert isinstance(value.type, TileType)
    if op is not None and op.name == "tile.transpose":
        if len(users[op["a"]]) != 1:
            return None
        inner = _placed_read(makers.get(op["a"]), makers)
        if inner is None:
            return None
        perm = op.attrs["perm"]
        start, axes = (tuple(numbers[p] for p in perm) for numbers in (inner.start, inner.axes))
        return Placed(inner.buf, start, axes)
    return _placed_read(op, makers)


def _placed_read(op: Op | None, makers: dict[Value, Op]) -> Placed | None:
    if op is None or op.name != "tile.read":
        return None
    type_, axes = op["buf"].type, tuple(op.attrs["axes"])
    assert isinstance(type_, BufType)
    rank = len(type_.dims)
    alloc = makers.get(op["buf"])
    if alloc is None or alloc.attrs["swizzle"] == "none":
        return None
    if type_.space != "shared" or sorted(axes) != [rank - 2, rank - 1] or Swizzle.of_buffer(op["buf"]) is None:
        return None
    start: list[int] = []
    for axis in axes:
        made = makers.get(op.group("indices")[axis])
        if made is None or made.name != "arith.constant":
            return None
        start.append(made.attrs["value"])
    return Placed(op["buf"], tuple(start), axes)
