"""Tiles in shared memory in any linear layout: written and read by threads, by vectors or by 8x8 matrices.

A tile that must change threads goes through a room of its own, laid out for the two accesses (layout/exchange.py), so
that neither has bank conflicts. Addresses are those of layout/address.py: the thread's part once, a constant for each
instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from tesseracc.ir.types import ScalarType, VecType, bits_of, size_of
from tesseracc.ir.value import Value
from tesseracc.layout.access import offsets
from tesseracc.layout.address import addressing
from tesseracc.layout.build import unique_registers
from tesseracc.layout.exchange import room, side
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_memory import BUFFER_ALIGNMENT
from tesseracc.passes.target.gpu_spread import Places, Spread, pack, per_word, registers, unpack

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering


@dataclass(frozen=True, slots=True)
class Room:
    """A tile in shared memory: `layout` maps offsets in elements to coordinates."""

    ptr: Value
    layout: LinearLayout
    dtype: str


def make_room(
    low: Lowering, use: str, layout: LinearLayout, dtype: str, alignment: int = BUFFER_ALIGNMENT
) -> Room:
    """The room of all who stage tiles for one use, one after the other."""
    size = prod(layout.shape) * size_of(dtype)
    return Room(low.shared_at(low.shared.scratch(use, size, alignment), size), layout, dtype)


def exchange(low: Lowering, value: Spread, target: LinearLayout, use: str = "convert") -> Spread:
    """A tile in another layout, through shared memory."""
    bits = bits_of(value.dtype)
    layout, _, _ = room(value.layout, target, bits, low.arch.has("stmatrix"), low.arch.has("ldmatrix"))
    found = make_room(low, use, layout, value.dtype)
    low.before_write(found.ptr)
    put(low, found, value)
    low.before_read(found.ptr)
    return take(low, found, target, value.shape)


# -- both sides --------------------------------------------------------------------------------------------------------


def put(low: Lowering, where: Room, value: Spread) -> None:
    """Writes a tile; of several threads that hold an element one does."""
    first = Places(low.b, low.thread(), value.layout).first_copy()

    def write(inner: Lowering) -> list[Value]:
        _put(inner, where, value)
        return []

    if first is None:
        write(low)
    else:
        value.as_words(low.b)
        low.branch(first, write, lambda _: [], [])


def _put(low: Lowering, where: Room, value: Spread) -> None:
    layout, old = unique_registers(value.layout)
    bits = bits_of(where.dtype)
    way = side(layout, where.layout, bits, low.arch.has("stmatrix"))
    if way.move is not None:
        at = _Addresses(low, where, way.move.address, "step")
        for step, matrices in enumerate(way.move.registers):
            words = [_word(low, value, [old[r] for r in group]) for group in matrices]
            low.b.emit("target.stmatrix", at(step), words, trans=way.move.trans)
        return
    at = _Addresses(low, where, offsets(layout, where.layout), "register")
    found = way.access.vectors
    for group in found.groups:
        _store(low, value, [old[r] for r in group], at(group[0]))


def take(low: Lowering, where: Room, layout: LinearLayout, shape: Sequence[int]) -> Spread:
    """Reads a tile."""
    lean, old = unique_registers(layout)
    dtype, bits = where.dtype, bits_of(where.dtype)
    way = side(lean, where.layout, bits, low.arch.has("ldmatrix"))
    words: dict[tuple[int, ...], Value] = {}  # by the registers that a word holds
    single: dict[int, Value] = {}
    if way.move is not None:
        at = _Addresses(low, where, way.move.address, "step")
        for step, matrices in enumerate(way.move.registers):
            types = [ScalarType("u32")] * way.move.count
            found = low.b.emit("target.ldmatrix", at(step), types=types, count=way.move.count, trans=way.move.trans)
            for group, word in zip(matrices, found.results, strict=True):
                words[tuple(old[r] for r in group)] = word if bits < 32 else low.b.op("arith.bitcast", word, to=dtype)
    else:
        at = _Addresses(low, where, offsets(lean, where.layout), "register")
        for group in way.access.vectors.groups:
            _load(low, dtype, [old[r] for r in group], at(group[0]), words, single)
    return _assembled(low, layout, tuple(shape), dtype, words, single)


class _Addresses:
    """The addresses of a thread's instructions."""

    def __init__(self, low: Lowering, where: Room, places: LinearLayout, name: str) -> None:
        self.low, self.found = low, addressing(places, bits_of(where.dtype), name)
        b, own = low.b, None
        for mask, shift in self.found.terms:
            part = b.op("arith.and", low.thread(), b.const(mask))
            if shift:
                part = b.op("arith.shl" if shift > 0 else "arith.shr", part, b.const(abs(shift)))
            own = part if own is None else b.op("arith.xor", own, part)
        thread = b.const(0) if own is None else own
        starts = {base: b.op("arith.xor", thread, b.const(base)) if base else thread for base in self.found.bases}
        self.bases = {base: b.op("target.offset", where.ptr, start, dtype="u8") for base, start in starts.items()}

    def __call__(self, number: int) -> Value:
        base, immediate = self.found.registers[number]
        b, ptr = self.low.b, self.bases[base]
        return b.op("target.offset", ptr, b.const(immediate), dtype="u8") if immediate else ptr


# -- registers and words -----------------------------------------------------------------------------------------------


def _word(low: Lowering, value: Spread, group: Sequence[int]) -> Value:
    """The 32 bits of some registers, the first lowest."""
    if len(group) == 1:
        word = value.as_elements(low.b)[group[0]]
        return word if value.dtype == "u32" else low.b.op("arith.bitcast", word, to="u32")
    if list(group) == list(range(group[0], group[0] + len(group))) and group[0] % len(group) == 0:
        return value.as_words(low.b)[group[0] // len(group)]
    elements = value.as_elements(low.b)
    return pack(low.b, [elements[r] for r in group], value.dtype)[0]


def _parts(group: Sequence[int], dtype: str) -> list[list[int]]:
    """The registers of each word of a vector; single ones where vectors are not made of words."""
    count = per_word(dtype)
    if count == 1 or len(group) < count:
        return [[r] for r in group]
    return [list(group[i : i + count]) for i in range(0, len(group), count)]


def _store(low: Lowering, value: Spread, group: Sequence[int], ptr: Value) -> None:
    b, parts = low.b, _parts(group, value.dtype)
    if len(parts[0]) > 1:
        pieces = [_word(low, value, part) for part in parts]
    else:
        pieces = [value.as_elements(b)[part[0]] for part in parts]
    store_vector(low, pieces, ptr, len(group) * size_of(value.dtype))


def store_vector(low: Lowering, pieces: Sequence[Value], ptr: Value, align: int) -> None:
    """Scalars of one type, side by side."""
    b = low.b
    if len(pieces) == 1:
        b.emit("target.store", pieces[0], ptr, align=align)
        return
    type_ = pieces[0].type
    assert isinstance(type_, ScalarType)
    zero: int | float | bool = False if type_.dtype == "bool" else 0 if type_.dtype[0] in "iu" else 0.0
    vec = b.op("arith.constant", types=VecType(len(pieces), type_.dtype), value=zero)
    for lane, piece in enumerate(pieces):
        vec = b.op("target.insert", vec, piece, lane=lane)
    b.emit("target.store", vec, ptr, align=align)


def _load(
    low: Lowering, dtype: str, group: Sequence[int], ptr: Value, words: dict[tuple[int, ...], Value],
    single: dict[int, Value],
) -> None:  # fmt: skip
    parts = _parts(group, dtype)
    kind = "u32" if len(parts[0]) > 1 else dtype
    for part, value in zip(parts, load_vector(low, ptr, kind, len(parts), len(group) * size_of(dtype)), strict=True):
        if len(part) > 1:
            words[tuple(part)] = value
        else:
            single[part[0]] = value


def load_vector(low: Lowering, ptr: Value, kind: str, count: int, align: int) -> list[Value]:
    """Scalars that lie side by side."""
    b = low.b
    if count == 1:
        return [b.op("target.load", ptr, types=ScalarType(kind), align=align)]
    vec = b.op("target.load", ptr, types=VecType(count, kind), align=align)
    return [b.op("target.extract", vec, lane=lane) for lane in range(count)]


def _assembled(
    low: Lowering, layout: LinearLayout, shape: tuple[int, ...], dtype: str, words: dict[tuple[int, ...], Value],
    single: dict[int, Value],
) -> Spread:  # fmt: skip
    """The tile of what was read: as words where they hold neighbouring registers, all of them."""
    count, step = registers(layout), per_word(dtype)
    if step > 1 and count % step == 0:
        neighbours = [tuple(range(r, r + step)) for r in range(0, count, step)]
        if all(group in words for group in neighbours):
            return Spread(layout, shape, dtype, words=[words[group] for group in neighbours])
    for group, word in words.items():
        single |= zip(group, unpack(low.b, [word], dtype) if step > 1 else [word], strict=True)
    held = {layout.at(register=r): value for r, value in single.items()}
    return Spread(layout, shape, dtype, elements=[held[layout.at(register=r)] for r in range(count)])
