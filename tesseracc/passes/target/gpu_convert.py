"""Tiles from one layout to another, folds, broadcasts and transposes of spread tiles.

Where every thread already holds what it needs, a conversion only renumbers registers; others move inside of a warp
(gpu_shuffle.py) or go through shared memory (gpu_staging.py), as layout/convert.py plans. A fold takes the axis'
coordinate bits from the highest to the lowest, which is the order that the dialect fixes: a bit of the register joins
two registers, a bit of the lane is a shuffle, a bit of the warp an exchange through shared memory. Afterwards every
thread that held an element of a row holds the row's result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesseracc.ir.types import ScalarType, TileType, bits_of, element, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.layout.build import transpose, unique_registers
from tesseracc.layout.convert import Means
from tesseracc.layout.convert import convert as plan_conversion
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_blocks import write_block
from tesseracc.passes.target.gpu_buffers import Block, Memory, Swizzle
from tesseracc.passes.target.gpu_fragments import by_place
from tesseracc.passes.target.gpu_placed import Located
from tesseracc.passes.target.gpu_reduce import shuffle
from tesseracc.passes.target.gpu_shuffle import in_warp
from tesseracc.passes.target.gpu_spread import Places, Spread, padded, per_word, registers, thread_columns
from tesseracc.passes.target.gpu_staging import exchange
from tesseracc.passes.target.lower_cpu_fold import identity

if TYPE_CHECKING:
    from tesseracc.arch.arch import Arch
    from tesseracc.passes.target.lower_gpu import Lowering

THREAD = ("lane", "warp")


def same_threads(a: LinearLayout, b: LinearLayout) -> bool:
    """Whether threads stand for the same coordinates, whatever the registers add."""
    return a.outs == b.outs and thread_columns(a) == thread_columns(b)


def by_registers(source: LinearLayout, target: LinearLayout) -> list[int] | None:
    """For each register of the target the register of the source with the same element; None where threads differ."""
    if not same_threads(source, target):
        return None
    where = by_place(source)
    found = [where.get(target.at(register=register)) for register in range(registers(target))]
    return None if None in found else [r for r in found if r is not None]


def means(arch: Arch) -> Means:
    """What the target has for conversions."""
    features = {name: arch.has(name) for name in ("movmatrix", "stmatrix", "ldmatrix")}
    return Means(**features, barrier=arch.costs.barrier)


def convert(low: Lowering, value: Spread, target: LinearLayout) -> Spread:
    """The tile in another layout: in the thread, else in the warp, else through shared memory (layout/convert.py)."""
    if value.layout == target:
        return value
    plan = by_registers(value.layout, target)
    if plan is not None:
        if value.words is not None and value.elements is None:
            words = _whole_words(plan, per_word(value.dtype))
            if words is not None:
                return Spread(target, value.shape, value.dtype, words=[value.words[w] for w in words])
        elements = value.as_elements(low.b)
        return Spread(target, value.shape, value.dtype, elements=[elements[r] for r in plan])
    if value.dtype == "bool":
        moved = convert(low, cast_elements(low, value, "u8"), target)
        return cast_elements(low, moved, "bool")
    way = plan_conversion(value.layout, target, bits_of(value.dtype), means(low.arch))
    shape = " x ".join(map(str, value.shape))
    kinds = {"shuffle": "by shuffles", "turn": "by movmatrix"}
    low.tell(f"a tile of {shape} {value.dtype} changes its layout {kinds.get(way.kind, 'through shared memory')}")
    if low.lanes == low.arch.lanes and way.kind in ("shuffle", "turn"):
        return in_warp(low, value, target, way)
    return exchange(low, value, target)


def cast_elements(low: Lowering, value: Spread, dtype: str) -> Spread:
    """Every element cast."""
    elements = [low.b.op("arith.cast", element, to=dtype) for element in value.as_elements(low.b)]
    return Spread(value.layout, value.shape, dtype, elements=elements)


def _whole_words(plan: list[int], size: int) -> list[int] | None:
    """A plan of elements as one of words; None where it takes words apart."""
    words = [plan[at : at + size] for at in range(0, len(plan), size)]
    whole = all(w[0] % size == 0 and w == list(range(w[0], w[0] + size)) for w in words)
    return [w[0] // size for w in words] if whole else None


def stage(low: Lowering, value: Spread, use: str, window: tuple[int, int, int] | None = None) -> Block:
    """Writes a matrix to shared memory that is kept for this use, rows swizzled where they consist of chunks.

    The axis along which a thread holds neighbours becomes the one along which memory is contiguous. Of a window (axis,
    start, length) there is memory for these indices along the axis only, and what lies outside is dropped.
    """
    shape, starts = list(padded(value.shape)), [0, 0]
    vectors = value.layout.vectors("register")
    axes = (1, 0) if vectors and vectors[0] == (1, 0) else (0, 1)
    if window is not None:
        axis, start, shape[axis] = window
        starts[axes[axis]] = -start
    dims = (shape[axes[0]], shape[axes[1]])
    size = dims[0] * dims[1] * size_of(value.dtype)
    ptr = low.shared_at(low.shared.scratch(use, size), size)
    memory = Memory(ptr, dims, value.dtype, "shared", Swizzle.of(dims[1], value.dtype))
    low.before_write(ptr)
    at = [low.b.const(start) for start in starts]
    for number, start in zip(at, starts, strict=True):
        low.note_constant(number, start)
    found = Block(memory, (at[0], at[1]), padded(value.shape), axes)
    write_block(low, found, value, known=None if window is None else False)
    return found


def clean(low: Lowering, value: Spread, other: int | float | bool = 0) -> Spread:
    """The tile with `other` in the places that only pad it to powers of two."""
    if value.layout.shape == tuple(value.shape):
        return value
    b = low.b
    places = Places(b, low.thread(), value.layout)
    rest = b.const(float(other) if value.dtype[0] in "fb" and value.dtype != "bool" else other, value.dtype)
    found = []
    for register, piece in enumerate(value.as_elements(b)):
        inside: Value | None = None
        for axis, size in enumerate(value.shape):
            if value.layout.shape[axis] > size:
                part = b.op("arith.cmp", places.at(axis, register), b.const(size), pred="lt")
                inside = part if inside is None else b.op("arith.and", inside, part)
        found.append(piece if inside is None else b.op("arith.select", inside, piece, rest))
    return Spread(value.layout, value.shape, value.dtype, elements=found)


# -- shape operations --------------------------------------------------------------------------------------------------


def project(layout: LinearLayout, axes: Sequence[int], shape: Sequence[int]) -> LinearLayout:
    """The layout that a tile must have whose axis i is the result's axis axes[i], or repeats along it."""
    sizes = padded(shape)
    vectors = {
        name: [tuple(v[a] & (n - 1) for a, n in zip(axes, sizes, strict=True)) for v in layout.vectors(name)]
        for name in ("register", *THREAD)
    }
    return unique_registers(LinearLayout.make(vectors, sizes))[0]


def lower_broadcast(low: Lowering, op: Op) -> Spread:
    type_, source = op.result.type, op["a"].type
    assert isinstance(type_, TileType) and isinstance(source, TileType)
    axes = op.attrs["axes"]
    layout = low.layouts.of(op.result)
    value = low.tile(op["a"], project(layout, axes, source.shape))
    where = by_place(value.layout)
    elements = value.as_elements(low.b)
    sizes = padded(source.shape)
    found = []
    for register in range(registers(layout)):
        place = layout.at(register=register)
        found.append(elements[where[tuple(place[a] & (n - 1) for a, n in zip(axes, sizes, strict=True))]])
    return Spread(layout, type_.shape, type_.dtype, elements=found)


def lower_transpose(low: Lowering, op: Op) -> Spread | Located:
    type_ = op.result.type
    assert isinstance(type_, TileType)
    perm = list(op.attrs["perm"])
    held = low.env[op["a"]]
    if isinstance(held, Located):
        return held.transposed(perm)
    layout = low.layouts.of(op.result)
    value = low.tile(op["a"], transpose(layout, [perm.index(axis) for axis in range(len(perm))]))
    return Spread(layout, type_.shape, type_.dtype, elements=value.elements, words=value.words)


# -- folds -------------------------------------------------------------------------------------------------------------


def folded_layout(layout: LinearLayout, axis: int) -> LinearLayout:
    """The layout of a fold's result: the coordinate along the axis is forgotten."""
    rest = [a for a in range(len(layout.outs)) if a != axis]
    return project(layout, rest, [layout.shape[a] for a in rest]) if rest else _everywhere(layout)


def _everywhere(layout: LinearLayout) -> LinearLayout:
    empty = {name: [(0,)] * len(layout.bases(name)) for name in THREAD}
    return LinearLayout.make({"register": [], **empty}, (1,))


def lower_fold(low: Lowering, op: Op) -> Spread | Value:
    """The fold of an axis; of a tile of rank 1 a uniform value."""
    axis, kind = op.attrs["axis"], op.attrs["kind"]
    value = low.spread(op["a"])
    value = clean(low, value, identity(kind, value.dtype))
    layout = value.layout
    pieces: dict[tuple[int, ...], Value] = {}
    for register, piece in enumerate(value.as_elements(low.b)):
        pieces.setdefault(layout.at(register=register), piece)
    names = (*(("lane", i) for i in range(len(layout.bases("lane")))),
             *(("warp", i) for i in range(len(layout.bases("warp")))))  # fmt: skip
    bits = layout.shape[axis].bit_length() - 1
    for bit in reversed(range(bits)):
        size = 1 << bit
        holder = [name for name, vector in zip(names, thread_columns(layout), strict=True) if vector[axis] == size]
        if holder:
            place, number = holder[0]
            swap = _exchange if place == "warp" else _shuffle
            pieces = swap(low, pieces, number, kind)
        else:
            pieces = _join(low, pieces, axis, size, kind)
    if isinstance(op.result.type, ScalarType):
        return pieces[(0,)]
    target = folded_layout(layout, axis)
    places = [target.at(register=register) for register in range(registers(target))]
    found = [pieces[_with(place, axis, 0, insert=True)] for place in places]
    result = Spread(target, op.result.type.shape, value.dtype, elements=found)  # type: ignore[union-attr]
    return low.converted(result, low.layouts.of(op.result))


Pieces = dict[tuple[int, ...], Value]


def _with(place: tuple[int, ...], axis: int, value: int, *, insert: bool = False) -> tuple[int, ...]:
    """A coordinate with another number along an axis, or with a new axis there."""
    return (*place[:axis], value, *place[axis if insert else axis + 1 :])


def _join(low: Lowering, pieces: Pieces, axis: int, size: int, kind: str) -> Pieces:
    """Registers whose coordinates differ in one bit."""
    found: Pieces = {}
    for place, value in pieces.items():
        if not place[axis] & size:
            other = pieces[_with(place, axis, place[axis] | size)]
            found[place] = low.b.op(f"arith.{kind}", value, other)
    return found


def _shuffle(low: Lowering, pieces: Pieces, bit: int, kind: str) -> Pieces:
    """Lanes whose numbers differ in one bit; all kinds of folds commute, so both get the same bits."""
    moved = {place: shuffle(low, value, 1 << bit, "bfly") for place, value in pieces.items()}
    return {place: low.b.op(f"arith.{kind}", value, moved[place]) for place, value in pieces.items()}


def _exchange(low: Lowering, pieces: Pieces, bit: int, kind: str) -> Pieces:
    """Warps whose numbers differ in one bit: every thread writes its elements and reads those of its partner."""
    b = low.b
    dtype = element(next(iter(pieces.values())).type)
    size = size_of(dtype)
    bytes_ = low.group * len(pieces) * size
    base = low.shared_at(low.shared.scratch("exchange", bytes_), bytes_)
    mine = low.thread()
    partner = b.op("arith.xor", mine, b.const(low.lanes << bit))

    def slot(thread: Value, number: int) -> Value:
        return b.op("target.offset", base, b.op("arith.add", thread, b.const(number * low.group)), dtype=dtype)

    low.before_write(base)
    for number, value in enumerate(pieces.values()):
        b.emit("target.store", value, slot(mine, number), align=size)
    low.before_read(base)
    found: Pieces = {}
    for number, (place, value) in enumerate(pieces.items()):
        other = b.op("target.load", slot(partner, number), types=ScalarType(dtype), align=size)
        found[place] = b.op(f"arith.{kind}", value, other)
    return found
