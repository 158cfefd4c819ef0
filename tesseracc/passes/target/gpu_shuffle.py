"""Conversions inside of a warp: the rounds of shuffles and the transposes that layout/convert.py plans.

Which register a lane offers, and into which it puts what it receives, may depend on the lane. Both are linear, so a
register number is known up to the span of a few vectors: one selection by a lane's bit for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesseracc.ir.types import bits_of
from tesseracc.ir.value import Value
from tesseracc.layout.convert import Conversion
from tesseracc.layout.gf2 import Span, combine, extend
from tesseracc.layout.matrix_turn import Turns
from tesseracc.layout.shuffle import Shuffles
from tesseracc.passes.target.gpu_spread import Spread, pack, per_word, unpack, xor_of_bits

if TYPE_CHECKING:
    from tesseracc.layout.linear import LinearLayout
    from tesseracc.passes.target.lower_gpu import Lowering


def in_warp(low: Lowering, value: Spread, target: LinearLayout, plan: Conversion) -> Spread:
    """The tile in the target layout, by a plan of the kind `shuffle` or `turn`."""
    elements = value.as_elements(low.b)
    held = [elements[r] for r in plan.sources]
    if plan.turns is not None:
        found = _turned(low, held, plan.turns, value.dtype)
    else:
        assert plan.shuffles is not None
        found = _shuffled(low, held, plan.shuffles, value.dtype)
    return Spread(target, value.shape, value.dtype, elements=[found[r] for r in plan.copies])


def _turned(low: Lowering, held: Sequence[Value], plan: Turns, dtype: str) -> dict[int, Value]:
    found: dict[int, Value] = {}
    for source, target in plan.words:
        (word,) = pack(low.b, [held[r] for r in source], dtype)
        found |= zip(target, unpack(low.b, [low.b.op("target.movmatrix", word)], dtype), strict=True)
    return found


class _Number:
    """A linear function of the thread: `parts` are independent vectors, of which each thread adds up some."""

    def __init__(self, low: Lowering, columns: Sequence[int]) -> None:
        b = low.b
        self.parts = extend((), columns)
        span = Span(self.parts)
        number = xor_of_bits(b, low.thread(), [span.solve(column) or 0 for column in columns])
        self.has = [
            b.op("arith.cmp", b.op("arith.and", number, b.const(1 << i)), b.const(0), pred="ne")
            for i in range(len(self.parts))
        ]

    def choose(self, low: Lowering, values: dict[int, Value], at: int) -> Value:
        """values[at ^ this number]."""
        row = [values[at ^ combine(self.parts, mask)] for mask in range(1 << len(self.parts))]
        for cond in reversed(self.has):
            half = len(row) // 2
            row = [low.b.op("arith.select", cond, row[half + i], row[i]) for i in range(half)]
        return row[0]


def _shuffled(low: Lowering, held: Sequence[Value], plan: Shuffles, dtype: str) -> dict[int, Value]:
    b = low.b
    offers, targets = _Number(low, plan.offers), _Number(low, plan.targets)
    sender = b.op("arith.cast", xor_of_bits(b, low.thread(), plan.lanes), to="i32")
    guard = xor_of_bits(b, low.thread(), plan.guards) if any(plan.guards) else None
    own = dict(enumerate(held))
    along, into = ([combine([p[side] for p in plan.packs], i) for i in range(1 << len(plan.packs))] for side in (0, 1))
    received: dict[int, Value] = {}
    for step in plan.rounds:
        group = [offers.choose(low, own, step.offer ^ other) for other in along]
        lane = b.op("arith.xor", sender, b.const(step.lane, "i32")) if step.lane else sender
        for other, value in zip(into, _moved(low, group, lane, dtype), strict=True):
            at = step.target ^ other
            if guard is not None and at in received:
                mine = b.op("arith.cmp", guard, b.const(step.guard), pred="eq")
                value = b.op("arith.select", mine, value, received[at])
            received[at] = value
    return {at: targets.choose(low, received, at) for at in received}


def _moved(low: Lowering, group: Sequence[Value], lane: Value, dtype: str) -> list[Value]:
    """Elements of one word (or one of several words) from another lane."""
    b, bits = low.b, bits_of(dtype)

    def shuffle(word: Value) -> Value:
        moved = b.op("target.shfl", b.op("arith.bitcast", word, to="i32"), lane, mode="idx")
        return b.op("arith.bitcast", moved, to="u32")

    if bits == 32:
        return [b.op("arith.bitcast", shuffle(b.op("arith.bitcast", v, to="u32")), to=dtype) for v in group]
    if bits < 32:
        full = [*group, *[group[0]] * (per_word(dtype) - len(group))]
        return unpack(b, [shuffle(pack(b, full, dtype)[0])], dtype)[: len(group)]
    found = []
    for value in group:
        wide = b.op("arith.bitcast", value, to="u64")
        halves = [b.op("arith.cast", b.op("arith.shr", wide, b.const(s, "u64")), to="u32") for s in (0, 32)]
        first, second = (b.op("arith.cast", shuffle(half), to="u64") for half in halves)
        joined = b.op("arith.or", b.op("arith.shl", second, b.const(32, "u64")), first)
        found.append(b.op("arith.bitcast", joined, to=dtype))
    return found
