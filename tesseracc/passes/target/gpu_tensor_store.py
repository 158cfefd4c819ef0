"""Results that a tensor copy engine takes from shared memory to global memory.

    wait until the boxes before have been read; barrier      where there may be any
    every thread writes its registers to the box
    fence; barrier                                           the engine sees what threads wrote
    one lane starts the copies

The lane goes on at once, and the others do not wait for it: the next time that the box is written, or at the kernel's
end, the same lane waits until the engine has read it. What lies outside of the tensor is dropped by the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tesseracc.analysis.tensor_copies import TensorStore
from tesseracc.ir.types import bits_of
from tesseracc.ir.value import Value
from tesseracc.layout.exchange import Side, box_layout, side
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_buffers import Block
from tesseracc.passes.target.gpu_reduce import warp_uniform
from tesseracc.passes.target.gpu_spread import Spread
from tesseracc.passes.target.gpu_staging import Room, make_room, put

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering

ALIGNMENT = 1024  # of boxes: the swizzle repeats after 8 rows of 128 bytes


def box_side(low: Lowering, store: TensorStore, layout: LinearLayout) -> tuple[LinearLayout, Side] | None:
    """How a tile lies in the box and how threads write it; None where they cannot do that without conflicts."""
    rows, columns = layout.shape
    bits = bits_of(store.dtype)
    memory = box_layout((rows, columns), bits)
    if memory is None or rows % store.height or columns % store.width:
        return None
    found = side(layout, memory, bits, low.arch.has("stmatrix"))
    return None if found.conflicts else (memory, found)


def store_box(low: Lowering, store: TensorStore, block: Block, value: Spread, memory: LinearLayout) -> None:
    """Starts the copies of a tile; `memory` is its layout in the box."""
    box = make_room(low, "box", memory, value.dtype, ALIGNMENT)
    wait_stores(low)
    low.before_write(box.ptr)
    put(low, box, value)
    low.show()
    low.before_read(box.ptr)
    _alone(low, lambda inner: _start(inner, store, block, box))
    low.state = replace(low.state, stores=True)


def wait_stores(low: Lowering) -> None:
    """Until the engine has read all boxes; known to the lane that started the copies, so a barrier has to follow."""
    if low.state.stores:
        _alone(low, lambda inner: inner.b.emit("target.wait_stores"))
        low.state = replace(low.state.read(), stores=False)


def _alone(low: Lowering, body: Callable[[Lowering], object]) -> None:
    """One lane, always the same."""
    b = low.b
    warp = warp_uniform(low, b.op("arith.shr", low.thread(), b.const(5)))

    def one(inner: Lowering) -> list[Value]:
        body(inner)
        return []

    def first(inner: Lowering) -> list[Value]:
        inner.branch(inner.b.op("target.elect"), one, lambda _: [], [])
        return []

    low.branch(b.op("arith.cmp", warp, b.const(0), pred="eq"), first, lambda _: [], [])


def _start(low: Lowering, store: TensorStore, block: Block, box: Room) -> None:
    assert low.roles is not None
    b, place = low.b, box.layout.inverse()
    map_ = low.roles.map_of(store.param, store.span, store.box)
    for row, column in store.starts(block.shape):
        at = list(block.at)
        for axis, first in zip(block.axes, (row, column), strict=True):
            at[axis] = b.op("arith.add", at[axis], b.const(first)) if first else at[axis]
        words = [b.op("arith.cast", v, to="i32") for v in reversed(at)]
        (offset,) = place.at(dim0=row, dim1=column)
        source = b.op("target.offset", box.ptr, b.const(offset), dtype=box.dtype) if offset else box.ptr
        b.emit("target.tensor_store", source, map_, words)
    b.emit("target.commit_stores")
