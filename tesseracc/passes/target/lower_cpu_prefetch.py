"""Prefetches: what a loop will load a few iterations from now.

The machine's own prefetcher follows streams, but stops at the end of every page and sees little of a loop that computes
much between two lines. A contiguous load whose index is the loop's own is asked for `AHEAD` iterations early: the same
address with a later index, so it works along a row as well as from row to row. When several loops go over the same
elements, only the first one asks; the second, which finds them in a cache and has time, asks for those of the next
group. An address beyond the buffer is harmless.

The rows of a tile are pieces of the rows of a matrix: while one is read, the lines of the row `ROWS_AHEAD` further down
are asked for (`touch`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tesseracc.ir.types import size_of
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.lower_cpu_values import ALL, Affine, Buf, Kernel, Rep, Stream, Vec

AHEAD = 8
#: a load of more cache lines than this keeps the memory busy by itself
LINES = 16
#: rows of a tile by which its elements are asked for early
ROWS_AHEAD = 6
T = TypeVar("T")


def within(k: Kernel, stream: Stream | None, body: Callable[[], T]) -> T:
    """Lowers the body of a loop."""
    saved, k.stream = k.stream, stream
    try:
        return body()
    finally:
        k.stream = saved


def touching(k: Kernel, body: Callable[[], T]) -> T:
    """Lowers code only for the addresses that it loads from: they are asked for, and what is computed is dropped."""
    saved, k.touches = k.touches, True
    try:
        return body()
    finally:
        k.touches = saved


def touch(k: Kernel, buf: Buf, place: Affine | Vec) -> None:
    """Asks for the elements that a load would take, if they are contiguous."""
    size = size_of(buf.type.dtype)
    if not isinstance(place, Affine) or place.stride != 1 or k.mask != ALL or buf.type.space != "global":
        return
    for at in range(0, k.width * size, k.arch.cache_line):
        k.b.emit("target.prefetch", k.offset(buf.ptr, k.add(place.base, at // size), buf.type.dtype))


def prefetch(k: Kernel, op: Op, buf: Buf, flat: Callable[[list[Rep]], Affine | Vec]) -> None:
    """Emits the prefetches of one `tile.load`; `flat` gives the element number of indices."""
    stream = k.stream
    indices = op.group("indices")
    size = size_of(buf.type.dtype)
    if stream is None or k.mask != ALL or buf.type.space != "global" or k.width * size > LINES * k.arch.cache_line:
        return
    here = k.env.get(stream.index)
    if not isinstance(here, Affine) or all(v is not stream.index for v in indices):
        return
    fixed = tuple(None if v is stream.index else v for v in indices)
    owners = k.streamed.setdefault((op["buf"], fixed), [])
    if stream.owner not in owners:
        owners.append(stream.owner)
    order = owners.index(stream.owner)
    later: dict[Value, Rep] = {stream.index: Affine(k.add(here.base, k.mul(stream.step, AHEAD)), here.stride)}
    if order == 1:
        later = {
            v: Affine(k.add(rep.base, 1)) for v in indices if isinstance(rep := k.env[v], Affine) and _is_group(k, rep)
        }
    if order > 1 or not later:
        return
    mark = len(k.b.ops)
    place = flat([later.get(v, k.env[v]) for v in indices])
    if not isinstance(place, Affine) or place.stride != 1:
        del k.b.ops[mark:]
        return
    touch(k, buf, place)


def _is_group(k: Kernel, rep: Affine) -> bool:
    """Whether an index is the group's number in a grid of one axis."""
    return len(k.group_ids) == 1 and rep.base is k.group_ids[0] and rep.stride == 0
