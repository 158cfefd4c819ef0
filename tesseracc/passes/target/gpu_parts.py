"""A tile in parts that registers alone tell apart, so that one after the other fits into little shared memory.

Every thread holds elements of each part: the part's number is a few bits of the register, which stand for the highest
bits of coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tesseracc.ir.value import Value
from tesseracc.layout.gf2 import log2
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_buffers import Block
from tesseracc.passes.target.gpu_spread import Spread, per_word

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering


@dataclass(frozen=True, slots=True)
class Parts:
    """`layout` is that of every part, `bits` are the bits of the register that number them, with their coordinates."""

    layout: LinearLayout
    bits: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def count(self) -> int:
        return 1 << len(self.bits)

    def start(self, part: int) -> tuple[int, ...]:
        """Where a part begins in the tile."""
        rank = len(self.layout.outs)
        taken = [vector for number, (_, vector) in enumerate(self.bits) if part >> number & 1]
        return tuple(sum(vector[axis] for vector in taken) for axis in range(rank))

    def of(self, value: Spread, part: int, shape: tuple[int, ...]) -> Spread:
        """A part of a tile, of which `shape` is not padding."""
        fixed = sum(1 << bit for number, (bit, _) in enumerate(self.bits) if part >> number & 1)
        mask = sum(1 << bit for bit, _ in self.bits)

        def pick(values: list[Value] | None, step: int) -> list[Value] | None:
            held = None if values is None else enumerate(values)
            return None if held is None else [v for i, v in held if (i * step) & mask == fixed]

        step = per_word(value.dtype)
        return Spread(self.layout, shape, value.dtype, pick(value.elements, 1), pick(value.words, step))


def parts_of(layout: LinearLayout, count: int, dtype: str, axes: Sequence[int] | None = None) -> Parts | None:
    """A tile in `count` parts, cut along the first of `axes` that can be cut; None where threads stand in the way.

    Without `axes` the last one comes first.
    """
    vectors = {name: list(layout.vectors(name)) for name, _ in layout.ins}
    shape, least = list(layout.shape), log2(per_word(dtype))
    numbers = list(range(len(vectors["register"])))
    found: list[tuple[int, tuple[int, ...]]] = []
    order = list(reversed(range(len(shape)))) if axes is None else list(axes)
    while 1 << len(found) < count:
        cut = next((c for axis in order if (c := _cut(vectors, shape, axis)) is not None), None)
        if cut is None or numbers[cut] < least:
            return None
        vector = vectors["register"].pop(cut)
        found.append((numbers.pop(cut), vector))
        shape = [n // 2 if v else n for n, v in zip(shape, vector, strict=True)]
    return Parts(LinearLayout.make(vectors, shape), tuple(found))


def _cut(vectors: dict[str, list[tuple[int, ...]]], shape: Sequence[int], axis: int) -> int | None:
    """The bit of the register that stands for the upper half of an axis, and nothing else does."""
    half = shape[axis] // 2
    wanted = tuple(half if a == axis else 0 for a in range(len(shape)))
    touching = [v for vs in vectors.values() for v in vs if v[axis] & half]
    alone = half and touching == [wanted] and wanted in vectors["register"]
    return vectors["register"].index(wanted) if alone else None


def block_of_part(
    low: Lowering, block: Block, start: Sequence[int], extent: Sequence[int], counts: Sequence[Value | None]
) -> tuple[Block, list[Value | None]] | None:
    """The part of a block, and of the counts of its valid elements; None for a part that is all padding."""
    shape = tuple(min(n, size - first) for n, size, first in zip(extent, block.shape, start, strict=True))
    if min(shape) <= 0:
        return None
    at = list(block.at)
    for axis, target in enumerate(block.axes):
        if start[axis]:
            at[target] = _moved(low, "arith.add", at[target], start[axis])
    left = [
        _moved(low, "arith.sub", count, first) if count is not None and first else count
        for count, first in zip(counts or [None] * len(start), start, strict=True)
    ]
    return replace(block, at=tuple(at), shape=shape), left


def _moved(low: Lowering, how: str, index: Value, by: int) -> Value:
    return low.divided(low.b.op(how, index, low.b.const(by)), min(low.divisor(index), by & -by))
