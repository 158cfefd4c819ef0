"""Blocks of buffers as spread tiles, and back, and `tile.copy_async` on a GPU.

Consecutive registers that lie side by side in memory move together, up to 16 bytes. In global memory that needs
addresses that are multiples of the vector, which a ragged row length may deny. Uniform branches choose between vectors
without checks, where the block is inside of the buffer, vectors checked as a whole, and checked single elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from tesseracc.ir.types import ScalarType, Type, bits_of, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.layout.build import coalesced
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_buffers import Block, block_of
from tesseracc.passes.target.gpu_matrix_load import matrix_load
from tesseracc.passes.target.gpu_rolled import over_registers
from tesseracc.passes.target.gpu_spread import (
    Places,
    Spread,
    constant_part,
    pack,
    padded,
    per_word,
    registers,
    unpack,
)
from tesseracc.passes.target.gpu_staging import load_vector, store_vector

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering


# -- reading -----------------------------------------------------------------------------------------------------------


def read_block(low: Lowering, block: Block, layout: LinearLayout, known: bool | None = None) -> Spread:
    """The block in a layout; 0 outside of the buffer. `known`: whether vectors are aligned, if that was asked."""
    dtype = block.memory.dtype
    if block.memory.space == "shared":
        found = matrix_load(low, block, layout)
        if found is not None:
            return Spread(layout, block.shape, dtype, words=found)
    vector = block.vector(layout)
    words = vector * bits_of(dtype) >= 32 and bits_of(dtype) < 32
    places = Places(low.b, low.thread(), layout)
    count = registers(layout)
    for axis in range(len(block.axes)):
        for register in range(count):
            places.at(axis, register)
    none: list[Value | None] = [None] * len(block.axes)

    def fast(inner: Lowering) -> list[Value]:
        found: list[Value] = []
        for register in range(0, count, vector):
            ptr = block.memory.address(inner, block.indices(inner, places, register))
            found += _load(inner, ptr, dtype, vector, words)
        return found

    step = vector // (per_word(dtype) if words else 1)
    kind = "u32" if words else dtype

    def checked(inner: Lowering) -> list[Value]:
        found: list[Value] = []
        for register in range(0, count, vector):

            ptr = block.memory.address(inner, block.indices(inner, places, register))

            def load(deep: Lowering, ptr: Value = ptr) -> list[Value]:
                return _load(deep, ptr, dtype, vector, words)

            inside = block.inside(inner, places, register, none)
            found += inner.branch(inside, load, lambda deep: [deep.zero(kind)] * step, [ScalarType(kind)] * step)
        return found

    def slow(inner: Lowering) -> list[Value]:
        found: list[Value] = []
        for register in range(count):

            ptr = block.memory.address(inner, block.indices(inner, places, register))

            def load(deep: Lowering, ptr: Value = ptr) -> list[Value]:
                return [deep.b.op("target.load", ptr, types=ScalarType(dtype), align=size_of(dtype))]

            inside = block.inside(inner, places, register, none)
            found += inner.branch(inside, load, lambda deep: [deep.zero(dtype)], [ScalarType(dtype)])
        return pack(inner.b, found, dtype) if words else found

    types: list[Type] = [ScalarType(kind)] * (count * step // vector)
    values = _choose(low, block, layout, vector, none, (fast, checked, slow), types, known)
    return Spread(layout, block.shape, dtype, **{"words" if words else "elements": values})


Path = Callable[["Lowering"], list[Value]]


def _choose(
    low: Lowering, block: Block, layout: LinearLayout, vector: int, extra: Sequence[Value | None],
    paths: tuple[Path, Path, Path], types: Sequence[Type], known: bool | None,
) -> list[Value]:  # fmt: skip
    """Vectors without checks, checked vectors, or single elements, as a uniform branch finds."""
    fast, checked, slow = paths

    def vectors(inner: Lowering) -> list[Value]:
        whole = block.whole(inner, layout, extra)
        return list(inner.branch(whole, fast, checked, types))

    if known is not None:
        return vectors(low) if known else slow(low)
    return list(low.branch(block.aligned(low, vector, extra), vectors, slow, types))


def _load(low: Lowering, ptr: Value, dtype: str, vector: int, words: bool) -> list[Value]:
    """`vector` elements, as words or one by one."""
    kind, count = ("u32", vector // per_word(dtype)) if words else (dtype, vector)
    return load_vector(low, ptr, kind, count, vector * size_of(dtype))


# -- writing -----------------------------------------------------------------------------------------------------------


def write_block(
    low: Lowering, block: Block, value: Spread, counts: Sequence[Value | None] = (), known: bool | None = None
) -> None:
    """Stores a tile; what lies outside of the buffer, or behind a count, is dropped. `known`: see `read_block`."""
    dtype, layout = block.memory.dtype, value.layout
    vector = block.vector(layout)
    words = vector * bits_of(dtype) >= 32 and bits_of(dtype) < 32
    places = Places(low.b, low.thread(), layout)
    count = registers(layout)
    for axis in range(len(block.axes)):
        for register in range(count):
            places.at(axis, register)
    extra: list[Value | None] = list(counts) or [None] * len(block.axes)
    pieces = value.as_words(low.b) if words else value.as_elements(low.b)
    fresh = sorted({constant_part(layout, r): r for r in reversed(range(count))}.values())

    def fast(inner: Lowering) -> list[Value]:
        step = vector // (per_word(dtype) if words else 1)
        for number, register in enumerate(range(0, count, vector)):
            if register in fresh:
                ptr = block.memory.address(inner, block.indices(inner, places, register))
                store_vector(inner, pieces[number * step : (number + 1) * step], ptr, vector * size_of(dtype))
        return []

    def checked(inner: Lowering) -> list[Value]:
        step = vector // (per_word(dtype) if words else 1)
        for number, register in enumerate(range(0, count, vector)):
            if register not in fresh:
                continue

            ptr = block.memory.address(inner, block.indices(inner, places, register))

            def store(deep: Lowering, ptr: Value = ptr, number: int = number) -> list[Value]:
                store_vector(deep, pieces[number * step : (number + 1) * step], ptr, vector * size_of(dtype))
                return []

            inner.branch(block.inside(inner, places, register, extra), store, lambda _: [], [])
        return []

    def slow(inner: Lowering) -> list[Value]:
        elements = unpack(inner.b, pieces, dtype) if words else pieces
        for register in fresh:

            ptr = block.memory.address(inner, block.indices(inner, places, register))

            def store(deep: Lowering, ptr: Value = ptr, register: int = register) -> list[Value]:
                deep.b.emit("target.store", elements[register], ptr, align=size_of(dtype))
                return []

            inner.branch(block.inside(inner, places, register, extra), store, lambda _: [], [])
        return []

    def both(inner: Lowering) -> list[Value]:
        padding = layout.shape != block.shape  # it is not written
        return _choose(inner, block, layout, vector, extra, (checked if padding else fast, checked, slow), [], known)

    first = places.first_copy()
    if first is None:
        both(low)
    else:
        low.branch(first, both, lambda _: [], [])


def update_block(low: Lowering, block: Block, value: Spread, counts: Sequence[Value | None], kind: str) -> None:
    """Changes the elements of a block atomically, each by one thread; what lies outside, or behind a count, is left."""
    places = Places(low.b, low.thread(), value.layout)
    count = registers(value.layout)
    for axis in range(len(block.axes)):
        for register in range(count):
            places.at(axis, register)
    elements = value.as_elements(low.b)
    extra: list[Value | None] = list(counts) or [None] * len(block.axes)

    def each(inner: Lowering) -> list[Value]:
        for register in sorted({constant_part(value.layout, r): r for r in reversed(range(count))}.values()):

            def update(deep: Lowering, register: int = register) -> list[Value]:
                ptr = block.memory.address(deep, block.indices(deep, places, register))
                deep.b.emit("target.update", elements[register], ptr, kind=kind)
                return []

            inner.branch(block.inside(inner, places, register, extra), update, lambda _: [], [])
        return []

    first = places.first_copy()
    if first is None:
        each(low)
    else:
        low.branch(first, each, lambda _: [], [])


# -- operations --------------------------------------------------------------------------------------------------------


def lower_copy(low: Lowering, op: Op) -> None:
    """Asynchronous where vectors of 4 bytes and more are aligned; elsewhere through registers."""
    shape = tuple(op.attrs["shape"])
    source = block_of(low, op["src"], op.group("src_at"), shape, op.attrs["src_axes"])
    target = block_of(low, op["dst"], op.group("dst_at"), shape, op.attrs["dst_axes"])
    dtype = source.memory.dtype
    layout = coalesced(padded(shape), bits_of(dtype), low.warps, lanes=low.lanes)
    low.before_write(target.memory.ptr)
    vector = min(source.vector(layout), target.vector(layout))
    size = vector * size_of(dtype)
    exact = prod(layout.shape) == prod(shape)

    def move(inner: Lowering, some: LinearLayout, known: bool | None) -> None:
        write_block(inner, target, read_block(inner, source, some, known))

    def by_elements(inner: Lowering) -> list[Value]:
        over_registers(inner, layout, lambda deep, some: move(deep, some, known=False))
        return []

    if not low.arch.has("cp_async") or size < 4 or not exact:
        move(low, layout, known=None)
        return
    aligned = source.aligned(low, vector, [None] * len(shape))
    if aligned is False:
        by_elements(low)
        return
    low.state = replace(low.state, copies=True)
    places = Places(low.b, low.thread(), layout)
    for axis in range(len(shape)):
        for register in range(0, registers(layout), vector):
            places.at(axis, register)

    def asynchronous(inner: Lowering) -> list[Value]:
        for register in range(0, registers(layout), vector):
            inside = source.inside(inner, places, register, [None] * len(shape))
            count = inner.b.op("arith.select", inside, inner.b.const(size, "i32"), inner.b.const(0, "i32"))
            at = source.indices(inner, places, register)
            at = [inner.b.op("arith.select", inside, index, inner.b.const(0)) for index in at]
            from_ = source.memory.address(inner, at)
            to = target.memory.address(inner, target.indices(inner, places, register))
            inner.b.emit("target.copy_async", to, from_, count, bytes=size)
        return []

    first = places.first_copy()
    if first is not None:
        body: Callable[[Lowering], list[Value]] = lambda inner: (  # noqa: E731 - one expression, used once
            list(inner.branch(first, asynchronous, lambda _: [], []))
        )
    else:
        body = asynchronous
    low.branch(aligned, body, by_elements, [])
