"""A reduction over the lanes of a group, in the order that the Tile dialect fixes: lane l with lane l + n/2, halving.

Halves of whole warps are combined through shared memory, the last 32 lanes by shuffles; thread 0's result is then
read back by everyone. A group of one warp has it by a shuffle too, without memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tesseracc.ir.types import element, kind_of, size_of
from tesseracc.ir.value import Value

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering

WARP = 32


def shuffle(low: Lowering, value: Value, distance: int, mode: str) -> Value:
    """The value of the lane `distance` further on (`down`), or with other bits (`bfly`), for any element type."""
    b = low.b
    dtype = element(value.type)
    offset = b.const(distance, "i32")
    if size_of(dtype) < 4 or dtype == "bool":
        wide = b.op("arith.cast", value, to="i32")
        return b.op("arith.cast", b.op("target.shfl", wide, offset, mode=mode), to=dtype)
    bits = value if dtype[0] == "i" else b.op("arith.bitcast", value, to=f"i{8 * size_of(dtype)}")
    if size_of(dtype) == 4:
        moved = b.op("target.shfl", bits, offset, mode=mode)
    else:
        # two halves of 32 bits
        parts = [b.op("target.shfl", _half(low, bits, shift), offset, mode=mode) for shift in (0, 32)]
        words = [b.op("arith.cast", b.op("arith.bitcast", part, to="u32"), to="u64") for part in parts]
        high = b.op("arith.shl", words[1], b.const(32, "u64"))
        moved = b.op("arith.bitcast", b.op("arith.or", high, words[0]), to="i64")
    return moved if dtype[0] == "i" else b.op("arith.bitcast", moved, to=dtype)


def _half(low: Lowering, bits: Value, shift: int) -> Value:
    """32 bits of an i64, as i32."""
    b = low.b
    word = b.op("arith.shr", b.op("arith.bitcast", bits, to="u64"), b.const(shift, "u64"))
    return b.op("arith.bitcast", b.op("arith.cast", word, to="u32"), to="i32")


def warp_uniform(low: Lowering, number: Value) -> Value:
    """An i64 that is the same in all lanes (and fits 32 bits), in a form in which the assembler knows it to be."""
    narrow = low.b.op("arith.cast", number, to="i32")
    return low.b.op("arith.cast", low.b.op("target.shfl", narrow, low.b.const(0, "i32"), mode="idx"), to="i64")


def anew(low: Lowering, number: Value) -> Value:
    """The same i64 (that fits 32 bits), in a form that neither LLVM nor the assembler knows for the same: what follows
    is computed from it, and nothing that was before has to be kept for that. All lanes of the warp are here."""
    narrow = low.b.op("arith.cast", number, to="i32")
    return low.b.op("arith.cast", low.b.op("target.shfl", narrow, low.b.const(0, "i32"), mode="bfly"), to="i64")


def _within_warp(low: Lowering, value: Value, kind: str, lanes: int) -> Value:
    """The reduction over the first lanes of a warp, known to its lane 0."""
    while lanes > 1:
        lanes //= 2
        value = low.b.op(f"arith.{kind}", value, shuffle(low, value, lanes, "down"))
    return value


def group_reduce(low: Lowering, value: Value, kind: str) -> Value:
    """The reduction of `value` over all threads of the group, known to every thread."""
    b = low.b
    dtype = element(value.type)
    size = size_of(dtype)
    assert kind_of(dtype) in "fiub"
    if low.group == WARP:
        return shuffle(low, _within_warp(low, value, kind, WARP), 0, "idx")
    base = low.shared_at(low.shared.scratch("reduce", low.group * size), low.group * size)
    thread = low.thread()
    mine = b.op("target.offset", base, thread, dtype=dtype)
    width = low.group
    if width > WARP:
        low.before_write(base)
        b.emit("target.store", value, mine, align=size)
    while width > WARP:
        low.before_read(base)
        width //= 2
        half = width

        def combine(inner: Lowering, half: int = half, value: Value = value) -> list[Value]:
            other = inner.b.op("target.offset", base, inner.b.op("arith.add", thread, inner.b.const(half)), dtype=dtype)
            total = inner.b.op(f"arith.{kind}", value, inner.b.op("target.load", other, types=value.type, align=size))
            if half > WARP:
                inner.b.emit("target.store", total, mine, align=size)
            return [total]

        active = b.op("arith.cmp", thread, b.const(half), pred="lt")
        (value,) = low.branch(active, combine, lambda inner, value=value: [value], [value.type])  # type: ignore[misc]
        if half > WARP:
            low.state = low.state.wrote(low.span(base))  # where nobody has read
    value = _within_warp(low, value, kind, width)
    result = low.shared_at(low.shared.scratch("reduced", size), size)
    first = b.op("arith.cmp", thread, b.const(0), pred="eq")

    def publish(inner: Lowering) -> list[Value]:
        inner.b.emit("target.store", value, result, align=size)
        return []

    low.before_write(result)
    low.branch(first, publish, lambda _: [], [])
    low.before_read(result)
    return b.op("target.load", result, types=value.type, align=size)
