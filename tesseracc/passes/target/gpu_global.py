"""Tiles between registers and global memory: directly, or by way of a layout that memory is read and written best in.

The layout of a value follows from what is computed with it. Where threads then touch more sectors and lines of memory
than the bytes need, a store first converts the tile to the layout in which threads hold vectors of 16 bytes side by
side, and a load reads it in that layout. Which way is cheaper is counted from the layouts, with the target's costs.

Vectors need addresses that are multiples of their size, which a ragged row length may deny: then a tile that goes
through shared memory anyway is moved element by element, neighbours by neighbouring lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from tesseracc.analysis.tensor_copies import TensorStore
from tesseracc.arch.arch import Arch
from tesseracc.ir.types import ScalarType, TileType, Type, bits_of, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.layout.access import offsets, vectors
from tesseracc.layout.build import coalesced, unique_registers
from tesseracc.layout.convert import convert as plan_conversion
from tesseracc.layout.convert import least_cost
from tesseracc.layout.exchange import GlobalAccess, global_access, room
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_blocks import read_block, update_block, write_block
from tesseracc.passes.target.gpu_buffers import Block, block_of
from tesseracc.passes.target.gpu_convert import by_registers, cast_elements, convert, means
from tesseracc.passes.target.gpu_memory import BUFFER_ALIGNMENT, Outside
from tesseracc.passes.target.gpu_parts import Parts, block_of_part, parts_of
from tesseracc.passes.target.gpu_placed import Located
from tesseracc.passes.target.gpu_rolled import over_registers
from tesseracc.passes.target.gpu_spread import Places, Spread, registers
from tesseracc.passes.target.gpu_staging import Room, make_room, put, take
from tesseracc.passes.target.gpu_tensor_store import ALIGNMENT, box_side, store_box

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering


LEAST_PART = 4096  # bytes: smaller parts are mostly barriers


@dataclass(frozen=True, slots=True)
class Route:
    """`wide` has vectors, `narrow` single elements, side by side in lanes; `staged`: through shared memory.

    `slots`, `conflicts`: what it costs a warp, of issue slots and of bank conflicts.
    """

    wide: LinearLayout
    narrow: LinearLayout
    staged: bool
    slots: int
    conflicts: int


def slots(arch: Arch, access: GlobalAccess) -> int:
    """What an access of global memory costs."""
    return access.count + access.sectors * arch.costs.sector + access.lines * arch.costs.line


def route(low: Lowering, block: Block, layout: LinearLayout, *, store: bool) -> Route | None:
    """The cheapest way around for a tile in a layout; None: directly."""
    memory = block.memory
    last = len(memory.dims) - 1
    if memory.space != "global" or last not in block.axes or memory.dtype == "bool":
        return None
    axis, bits, arch = block.axes.index(last), bits_of(memory.dtype), low.arch
    order = (axis, *(a for a in reversed(range(len(layout.shape))) if a != axis))

    def spread(deep: int, vector_bits: int = 128) -> LinearLayout:
        return coalesced(layout.shape, bits, low.warps, order, vector_bits, low.lanes, deep)

    wides = dict.fromkeys(spread(deep, size) for size in (128, 64, 32) for deep in (1, 2, 4))
    if any(by_registers(layout, wide) is not None for wide in wides):
        return None
    found: Route | None = None
    least = slots(arch, global_access(layout, axis, bits)), 0
    for wide in wides:
        ends = (layout, wide) if store else (wide, layout)
        cost, conflicts = slots(arch, global_access(wide, axis, bits)), 0
        if cost >= least[0]:  # before all else: most tiles go directly
            continue
        if (cost + least_cost(*ends, bits, means(arch)), 0) >= least:
            continue
        plan = plan_conversion(*ends, bits, means(arch))
        staged = plan.kind == "shared" or low.lanes != arch.lanes
        if staged:
            _, first, second = room(*ends, bits, arch.has("stmatrix"), arch.has("ldmatrix"))
            cost += first.slots + second.slots + arch.costs.barrier
            conflicts = first.conflicts + second.conflicts
        else:
            cost += plan.cost
        if (cost, conflicts) < least:
            least, found = (cost, conflicts), Route(wide, spread(1, bits), staged, cost, conflicts)
    return found


def write_global(
    low: Lowering, block: Block, value: Spread, counts: Sequence[Value | None], boxes: TensorStore | None = None
) -> None:
    """Stores a tile; what lies outside of the buffer, or behind a count, is dropped. `boxes`: as tensor copies can."""
    way = route(low, block, value.layout, store=True)
    if boxes is not None and _by_boxes(low, boxes, block, value, way):
        return
    if way is not None:
        low.tell(f"stored {_saying(way)}")
    if way is None:
        write_block(low, block, value, counts)
    elif not way.staged:
        _around(low, block, way, counts, lambda inner, layout: convert(inner, value, layout), value.layout)
    else:
        parts = _fitting(low, value, BUFFER_ALIGNMENT)
        if parts is None:
            write_block(low, block, value, counts)
            return
        for number in range(parts.count):
            start = parts.start(number)
            found = block_of_part(low, block, start, parts.layout.shape, counts)
            if found is None:
                continue
            part, left = found
            own = parts.of(value, number, part.shape)
            inside = route(low, part, own.layout, store=True) if parts.count > 1 else way
            if inside is None or not inside.staged:
                write_block(low, part, own, left)
                continue
            held = staged(low, own, inside.wide)
            shape = part.shape
            _around(low, part, inside, left, lambda inner, to, h=held, s=shape: take(inner, h, to, s),  # type: ignore[misc]
                    together=_together(inside.narrow, held))  # fmt: skip


def _saying(way: Route) -> str:
    """How a tile goes around."""
    size = way.wide.in_size("register")
    means = "shared memory" if way.staged else "shuffles"
    return f"in vectors, {size} elements a thread, after a change of layout through {means}"


def _around(
    low: Lowering, block: Block, way: Route, counts: Sequence[Value | None],
    given: Callable[[Lowering, LinearLayout], Spread], other: LinearLayout | None = None, together: int = 0,
) -> None:  # fmt: skip
    """Stores the tile that `given` gives in a layout: by vectors where they are aligned, else by elements. These are in
    the `other` layout, or may be given few at a time, some bits of the register `together`."""

    def vectors(inner: Lowering) -> list[Value]:
        write_block(inner, block, given(inner, way.wide), counts, known=True)
        return []

    def store(inner: Lowering, layout: LinearLayout) -> None:
        write_block(inner, block, given(inner, layout), counts, known=False)

    def elements(inner: Lowering) -> list[Value]:
        if other is None:
            over_registers(inner, way.narrow, store, together)
        else:
            store(inner, other)
        return []

    aligned = block.aligned(low, block.vector(way.wide), list(counts) or [None] * len(block.axes))
    low.branch(aligned, vectors, elements, [])


def _together(layout: LinearLayout, held: Room) -> int:
    """The bits of the register that vectors of a staged tile are made of."""
    lean, old = unique_registers(layout)
    bits = vectors(offsets(lean, held.layout), bits_of(held.dtype)).bits
    return sum(old[1 << bit] for bit in range(len(lean.bases("register"))) if bits >> bit & 1)


def _has_room(low: Lowering, size: int, alignment: int, limit: int) -> bool:
    """Whether a staged tile of so many bytes has a place in so much shared memory."""
    return low.shared.fits("convert", size, alignment, limit)


def _fitting(low: Lowering, value: Spread, alignment: int) -> Parts | None:
    """The fewest parts of a tile of which one fits into shared memory at a time: into what leaves other blocks their
    room, else into all that there is."""
    size = prod(value.layout.shape) * size_of(value.dtype)
    for limit in (low.room, low.arch.limits.shared_per_block):
        count = 1
        while size // count >= LEAST_PART or count == 1:
            if _has_room(low, size // count, alignment, limit):
                return parts_of(value.layout, count, value.dtype)
            count *= 2
    return None


def _by_boxes(low: Lowering, boxes: TensorStore, block: Block, value: Spread, way: Route | None) -> bool:
    """Stores a tile by tensor copies, where that is cheaper than what threads do; whether it did."""
    parts = _fitting(low, value, ALIGNMENT)
    if parts is None or (found := box_side(low, boxes, parts.layout)) is None:
        return False
    bits, arch = bits_of(value.dtype), low.arch
    best = slots(arch, global_access(coalesced(value.layout.shape, bits, low.warps), len(block.axes) - 1, bits))
    cost = best + parts.count * (found[1].slots + arch.costs.barrier)
    threads = way.slots if way else slots(arch, global_access(value.layout, len(block.axes) - 1, bits))
    if cost >= threads:
        return False
    how = "stmatrix" if found[1].move else f"stores of {found[1].access.bytes} bytes"
    low.tell(f"stored through shared memory ({how}) by tensor copies (TMA), in {parts.count} parts")
    for number in range(parts.count):
        part = block_of_part(low, block, parts.start(number), parts.layout.shape, ())
        if part is not None:
            store_box(low, boxes, part[0], parts.of(value, number, part[0].shape), found[0])
    return True


def staged(low: Lowering, value: Spread, wide: LinearLayout) -> Room:
    """The tile in shared memory, for all to read by vectors."""
    arch = low.arch
    layout, _, _ = room(value.layout, wide, bits_of(value.dtype), arch.has("stmatrix"), arch.has("ldmatrix"))
    held = make_room(low, "convert", layout, value.dtype)
    low.before_write(held.ptr)
    put(low, held, value)
    low.before_read(held.ptr)
    return held


def read_global(low: Lowering, block: Block, layout: LinearLayout) -> Spread:
    """The block in a layout; 0 outside of the buffer."""
    way = route(low, block, layout, store=False)
    dtype, arch = block.memory.dtype, low.arch
    size = prod(layout.shape) * size_of(dtype)
    if way is None or (way.staged and not _has_room(low, size, BUFFER_ALIGNMENT, arch.limits.shared_per_block)):
        return read_block(low, block, layout)
    low.tell(f"read {_saying(way).replace('after', 'before')}")
    aligned = block.aligned(low, block.vector(way.wide), [None] * len(block.axes))
    if not way.staged:
        types: list[Type] = [ScalarType(dtype)] * registers(layout)

        def by_vectors(inner: Lowering) -> list[Value]:
            return convert(inner, read_block(inner, block, way.wide, known=True), layout).as_elements(inner.b)

        def directly(inner: Lowering) -> list[Value]:
            return read_block(inner, block, layout, known=False).as_elements(inner.b)

        found = list(low.branch(aligned, by_vectors, directly, types))
        return Spread(layout, block.shape, dtype, elements=found)
    place, _, _ = room(way.wide, layout, bits_of(dtype), arch.has("stmatrix"), arch.has("ldmatrix"))
    held = make_room(low, "convert", place, dtype)
    low.before_write(held.ptr)

    def vectors(inner: Lowering) -> list[Value]:
        put(inner, held, read_block(inner, block, way.wide, known=True))
        return []

    def move(inner: Lowering, some: LinearLayout) -> None:
        put(inner, held, read_block(inner, block, some, known=False))

    def elements(inner: Lowering) -> list[Value]:
        over_registers(inner, way.narrow, move, _together(way.narrow, held))
        return []

    low.branch(aligned, vectors, elements, [])
    low.before_read(held.ptr)
    return take(low, held, layout, block.shape)


# -- operations --------------------------------------------------------------------------------------------------------


def lower_read(low: Lowering, op: Op) -> Spread | Located:
    type_ = op.result.type
    assert isinstance(type_, TileType)
    block = block_of(low, op["buf"], op.group("indices"), type_.shape, op.attrs["axes"])
    if op.result in low.layouts.stays:
        return Located(block)
    if block.memory.space == "shared":
        low.before_read(block.memory.ptr)
    layout = low.layouts.of(op.result)
    low.reach(_outside(low, op, block, layout, write=False))
    if type_.dtype == "bool":
        return cast_elements(low, read_global(low, _bytes(block), layout), "bool")
    return read_global(low, block, layout)


def _outside(low: Lowering, op: Op, block: Block, layout: LinearLayout, *, write: bool) -> Outside:
    """An access of a block, with its place where each thread moves elements of its own directly."""
    buf = op["buf"]
    if buf not in low.changed:
        return Outside(buf, True, write)
    directly = route(low, block, layout, store=write) is None
    alone = Places(low.b, low.thread(), layout).first_copy() is None
    if not directly or not alone:
        return Outside(buf, True, write)
    places = [low.get(index) for index in op.group("indices")]
    at = tuple(place if (number := low.known(place)) is None else number for place in places)
    return Outside(buf, True, write, at, (tuple(op.attrs["axes"]), layout))


def _bytes(block: Block) -> Block:
    """A block of bools as what they are in memory: bytes."""
    return replace(block, memory=replace(block.memory, dtype="u8"))


def _written(low: Lowering, op: Op) -> tuple[Block, Spread, list[Value]]:
    """The block that an operation changes, the tile, and how much of it counts."""
    value = low.spread(op["value"])
    block = block_of(low, op["buf"], op.group("indices"), value.shape, op.attrs["axes"])
    if block.memory.space == "shared":
        low.before_write(block.memory.ptr)
    if value.dtype == "bool":
        block, value = _bytes(block), cast_elements(low, value, "u8")
    return block, value, [low.index(v) for v in op.group("counts")]


def lower_update(low: Lowering, op: Op) -> None:
    block, value, counts = _written(low, op)
    low.reach(Outside(op["buf"], True, True))
    update_block(low, block, value, counts, op.attrs["kind"])


def lower_write(low: Lowering, op: Op) -> None:
    block, value, counts = _written(low, op)
    access = _outside(low, op, block, value.layout, write=True)
    if not _behind_barrier(low, op, block, value):
        low.reach(access)
    write_global(low, block, value, counts, low.roles.stores.get(op) if low.roles else None)
    low.reached(access)


def _behind_barrier(low: Lowering, op: Op, block: Block, value: Spread) -> bool:
    """Whether a barrier of its own stands before all that a store writes: it passes through shared memory at once."""
    if op["buf"] not in low.changed:
        return True
    way = route(low, block, value.layout, store=True)
    parts = _fitting(low, value, BUFFER_ALIGNMENT) if way is not None and way.staged else None
    return parts is not None and parts.count == 1
