"""A tile in the registers of a group: which element each register of each thread holds, and where that element is.

A layout maps (register, lane, warp) to a coordinate of the tile, padded to powers of two. Thread t is lane t mod 32 of
warp t / 32, so the bits of t are the lane's bits and then the warp's. By linearity the coordinate of register r splits
into a part of the thread, computed once, and a known part of the register: at(t, r) = at(t, 0) xor at(0, r).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tesseracc.ir.builder import Builder, Numbering
from tesseracc.ir.types import bits_of
from tesseracc.ir.value import Value
from tesseracc.layout.fragments import next_power
from tesseracc.layout.linear import LinearLayout


def padded(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape with every extent a power of two."""
    return tuple(next_power(max(1, n)) for n in shape)


def registers(layout: LinearLayout) -> int:
    """Elements that each thread holds."""
    return layout.in_size("register")


def thread_columns(layout: LinearLayout) -> tuple[tuple[int, ...], ...]:
    """The coordinate that each bit of the thread's number stands for."""
    return (*layout.vectors("lane"), *layout.vectors("warp"))


def constant_part(layout: LinearLayout, register: int) -> tuple[int, ...]:
    """The coordinate of a register of thread 0."""
    return layout.at(register=register)


@dataclass(slots=True)
class Spread:
    """A tile's elements in a thread: `elements` one by one, or `words` of 32 bits that hold neighbouring registers.

    What one is made of the other is kept where it is made, `b`: other regions may not see it."""

    layout: LinearLayout
    shape: tuple[int, ...]
    dtype: str
    elements: list[Value] | None = None
    words: list[Value] | None = None
    #: the form that is not given, and the region that it is made in
    other: tuple[Numbering, list[Value]] | None = field(default=None, init=False)

    def as_elements(self, b: Numbering) -> list[Value]:
        """The elements, taken out of the words where only those are known."""
        return self.elements if self.elements is not None else self._other(b, self.words, unpack)

    def as_words(self, b: Numbering) -> list[Value]:
        """The words; elements of 32 bits and more are words of their own."""
        return self.words if self.words is not None else self._other(b, self.elements, pack)

    def _other(
        self, b: Numbering, given: list[Value] | None, make: Callable[[Builder, Sequence[Value], str], list[Value]]
    ) -> list[Value]:
        assert given is not None
        if self.other is None or not b.sees(self.other[0]):
            self.other = b, make(b, given, self.dtype)
        return self.other[1]


@dataclass(slots=True)
class Free:
    """A tile that needs no memory and no other tile: made in whatever layout it is asked for."""

    make: Callable[[LinearLayout], Spread]


def per_word(dtype: str) -> int:
    """Elements in a word of 32 bits."""
    return max(1, 32 // bits_of(dtype))


def pack(b: Builder, elements: Sequence[Value], dtype: str) -> list[Value]:
    """Words of 32 bits, the first element lowest."""
    count, bits = per_word(dtype), bits_of(dtype)
    if count == 1:
        return list(elements)
    words = []
    for start in range(0, len(elements), count):
        word: Value | None = None
        for at, value in enumerate(elements[start : start + count]):
            raw = b.op("arith.cast", b.op("arith.bitcast", value, to=f"u{bits}"), to="u32")
            moved = b.op("arith.shl", raw, b.const(at * bits, "u32")) if at else raw
            word = moved if word is None else b.op("arith.or", word, moved)
        assert word is not None
        words.append(word)
    return words


def unpack(b: Builder, words: Sequence[Value], dtype: str) -> list[Value]:
    """The elements of words."""
    count, bits = per_word(dtype), bits_of(dtype)
    if count == 1:
        return list(words)
    found = []
    for word in words:
        for at in range(count):
            moved = b.op("arith.shr", word, b.const(at * bits, "u32")) if at else word
            found.append(b.op("arith.bitcast", b.op("arith.cast", moved, to=f"u{bits}"), to=dtype))
    return found


def xor_of_bits(b: Builder, number: Value, columns: Sequence[int]) -> Value:
    """The xor of columns[i] over the set bits i of a number (i64): runs of bits that stay together move together."""
    found: Value | None = None
    seen = 0
    at = 0
    while at < len(columns):
        column = columns[at]
        run = 1
        while column and at + run < len(columns) and columns[at + run] == column << run and column & (column - 1) == 0:
            run += 1
        if column:
            part = b.op("arith.shr", number, b.const(at)) if at else number
            part = b.op("arith.and", part, b.const((1 << run) - 1))
            if column != 1:
                part = b.op("arith.mul", part, b.const(column))
            used = column * ((1 << run) - 1)
            found = part if found is None else b.op("arith.xor" if used & seen else "arith.or", found, part)
            seen |= used
        at += run
    return b.const(0) if found is None else found


@dataclass(slots=True)
class Places:
    """Coordinates of a thread's elements, computed once per builder and layout."""

    b: Builder
    thread: Value
    layout: LinearLayout
    base: list[Value] = field(default_factory=list)
    known: dict[tuple[int, int], Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = thread_columns(self.layout)
        rank = len(self.layout.outs)
        self.base = [xor_of_bits(self.b, self.thread, [c[axis] for c in columns]) for axis in range(rank)]

    def reach(self, axis: int) -> int:
        """Bits of a coordinate that differ between threads."""
        mask = 0
        for column in thread_columns(self.layout):
            mask |= column[axis]
        return mask

    def at(self, axis: int, register: int) -> Value:
        """The coordinate of a register along an axis, i64."""
        constant = constant_part(self.layout, register)[axis]
        key = (axis, constant)
        if key not in self.known:
            base = self.base[axis]
            if constant:
                how = "arith.xor" if constant & self.reach(axis) else "arith.add"
                base = self.b.op(how, base, self.b.const(constant))
            self.known[key] = base
        return self.known[key]

    def first_copy(self) -> Value | None:
        """Whether this thread speaks for its elements, of several that hold them; None: there is one for each."""
        free = self.layout.free_variables()
        lanes = len(self.layout.bases("lane"))
        mask = free.get("lane", 0) | free.get("warp", 0) << lanes
        if not mask:
            return None
        own = self.b.op("arith.and", self.thread, self.b.const(mask))
        return self.b.op("arith.cmp", own, self.b.const(0), pred="eq")
