"""Tiles in the evaluator: an array of shape (groups, *tile) for every tile, in all groups together.

An asynchronous copy reads its source when it starts, and its data land at the wait or barrier that completes it;
until then its destination may be neither read nor written (E225). Accesses of tiles are the group's own, in program
order (rule R7), so that they never race with those of its lanes; between groups nothing is ordered (E215).

A product is summed in f64 in the order of k and rounded once with the accumulator: the value that every accumulation
in the accumulator's type must lie near.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tessera.dtypes import DType, as_dtype
from tessera.errors import Span
from tessera.kernel import values
from tessera.kernel.memory import Access, Memory
from tessera.kernel.tree import (
    Alloc,
    AtomicTile,
    Broadcast,
    Buffer,
    Copy,
    Expr,
    Iota,
    KernelDef,
    LoadTile,
    Mask,
    Mma,
    Permute,
    ReduceTile,
    Splat,
    StoreTile,
    TileType,
    Window,
    walk,
    walk_exprs,
)
from tessera.kernel.values import Array
from tessera.shapes import Dim, substitute

__all__ = ["Pending", "TileEvaluator", "largest_tile", "shape_of"]


def shape_of(dims: tuple[Dim, ...]) -> tuple[int, ...]:
    """The ints of a shape whose dims are fixed."""
    found = tuple(d for d in dims if isinstance(d, int))
    assert len(found) == len(dims), f"{dims} is not fixed"
    return found


def largest_tile(kernel: KernelDef) -> int:
    """The elements of the largest tile or shared buffer of a kernel; 1 if it has none."""
    sizes = [1]
    for expr in walk_exprs(kernel.body):
        if isinstance(expr.type, TileType):
            sizes.append(int(np.prod(shape_of(expr.type.shape), dtype=np.int64)))
    for stmt in walk(kernel.body):
        if isinstance(stmt, Alloc):
            sizes.append(int(np.prod(shape_of(stmt.buffer.dims), dtype=np.int64)))
    return max(sizes)


@dataclass
class Pending:
    """A copy in flight: where its data go, who started it, and its commit group (-1: none yet) there."""

    memory: Memory
    at: Array  # (groups, elements): flat places
    data: Array  # raw elements
    active: Array  # (groups,)
    group: Array  # (groups,)


class TileEvaluator:
    """The tile statements and expressions of some groups."""

    dims: Mapping[str, Dim]
    ids: Array
    memories: dict[Buffer, Memory]
    interval: Array
    whole: Array
    group: Array

    def __init__(self) -> None:
        self.copies: list[Pending] = []
        self.commits = np.zeros(len(self.ids), np.int64)

    def expr(self, expr: Expr, mask: Array) -> Array:
        raise AssertionError("given by the subclass")

    # -- windows -----------------------------------------------------------------------------------------------------

    def places(self, window: Window, counts: tuple[Expr | None, ...], mask: Array) -> tuple[list[Array], Array]:
        """Indices of a window's elements on each axis of the buffer, and where they lie inside of it and of the counts.

        Both broadcast to (groups, *shape).
        """
        shape = shape_of(window.shape)
        n = len(self.ids)
        inside = np.broadcast_to(mask[:, :1], (n, 1)).reshape(n, *[1] * len(shape)).copy()
        found: list[Array] = []
        at = 0
        for start, extent, dim in zip(window.starts, window.extents, window.buffer.dims, strict=True):
            first = np.broadcast_to(self.expr(start, mask), (n, 1)).reshape(n, *[1] * len(shape))
            index = first
            if extent is not None:
                along = np.arange(shape[at], dtype=np.int64).reshape([-1 if a == at else 1 for a in range(len(shape))])
                index = first + along
                count = counts[at] if counts else None
                if count is not None:
                    inside = inside & (along < self._per_tile(self.expr(count, mask), len(shape)))
                at += 1
            size = substitute(dim, self.dims)
            assert isinstance(size, int)
            inside = inside & (index >= 0) & (index < size)
            found.append(index)
        return found, np.broadcast_to(inside, (n, *shape))

    def _per_tile(self, value: Array, rank: int) -> Array:
        """A uniform value, ready to meet tiles of that rank."""
        out: Array = value.reshape(value.shape[0], *[1] * rank)
        return out

    def _flat(self, window: Window, indices: list[Array], inside: Array) -> Array:
        """Flat element numbers of the places inside, in order (others are 0)."""
        extents = list(shape_of(tuple(substitute(d, self.dims) for d in window.buffer.dims)))
        flat = np.zeros(inside.shape, np.int64)
        for index, extent in zip(indices, extents, strict=True):
            flat = flat * extent + index
        flat = np.where(inside, flat, 0)
        if window.buffer.space == "shared":
            rows = np.arange(len(self.ids), dtype=np.int64).reshape(-1, *[1] * (inside.ndim - 1))
            flat = flat + rows * int(np.prod(extents, dtype=np.int64))
        return flat

    def _access(self, flat: Array, inside: Array, span: Span) -> Access:
        def each(value: Array) -> Array:
            return np.broadcast_to(value.reshape(-1, *[1] * (inside.ndim - 1)), inside.shape)[inside]

        return Access(flat[inside], each(self.whole), each(self.group), each(self.interval), span, whole=True)

    def raw(self, window: Window, mask: Array, span: Span) -> Array:
        """The elements of a window as they are stored, 0 outside of the buffer."""
        memory = self.memories[window.buffer]
        indices, inside = self.places(window, (), mask)
        flat = self._flat(window, indices, inside)
        memory.load(self._access(flat, inside, span))
        out = np.zeros(inside.shape, memory.array.dtype)
        out[inside] = memory.elements(flat[inside])
        return out

    def load_tile(self, expr: LoadTile, mask: Array) -> Array:
        raw = self.raw(expr.window, mask, expr.span)
        return values.from_storage(raw, expr.window.buffer.dtype)

    def store_tile(self, stmt: StoreTile, mask: Array) -> None:
        window = stmt.window
        shape = shape_of(window.shape)
        value = np.broadcast_to(self.expr(stmt.value, mask), (len(self.ids), *shape))
        indices, inside = self.places(window, stmt.counts, mask)
        flat = self._flat(window, indices, inside)
        memory = self.memories[window.buffer]
        memory.store(self._access(flat, inside, stmt.span))
        raw = values.to_storage(np.ascontiguousarray(value[inside]), window.buffer.dtype)
        memory.put(flat[inside], raw)

    def atomic_tile(self, stmt: AtomicTile, mask: Array) -> None:
        window = stmt.window
        value = np.broadcast_to(self.expr(stmt.value, mask), (len(self.ids), *shape_of(window.shape)))
        indices, inside = self.places(window, stmt.counts, mask)
        flat = self._flat(window, indices, inside)
        memory = self.memories[window.buffer]
        memory.update(self._access(flat, inside, stmt.span), stmt.op)
        raw = values.to_storage(np.ascontiguousarray(value[inside]), window.buffer.dtype)
        memory.combine(flat[inside], raw, stmt.op)

    # -- asynchronous copies -----------------------------------------------------------------------------------------

    def copy(self, stmt: Copy, mask: Array) -> None:
        data = self.raw(stmt.src, mask, stmt.span)
        indices, inside = self.places(stmt.dst, (), mask)
        flat = self._flat(stmt.dst, indices, inside)
        memory = self.memories[stmt.dst.buffer]
        memory.start_copy(flat[inside], stmt.span)
        n = len(self.ids)
        active = np.broadcast_to(mask[:, :1], (n, 1)).reshape(n).copy()
        self.copies.append(
            Pending(memory, flat.reshape(n, -1), data.reshape(n, -1), active, np.full(n, -1, np.int64))
        )

    def commit(self, mask: Array) -> None:
        taken = np.broadcast_to(mask[:, :1], (len(self.ids), 1)).reshape(-1)
        for copy in self.copies:
            copy.group[:] = np.where(taken & copy.active & (copy.group < 0), self.commits, copy.group)
        self.commits = self.commits + taken

    def land(self, mask: Array, pending: int | None) -> None:
        """Completes copies: all (`pending` None), or those committed before the last `pending` groups."""
        taken = np.broadcast_to(mask[:, :1], (len(self.ids), 1)).reshape(-1)
        for copy in self.copies:
            done = copy.active & taken
            if pending is not None:
                done &= (copy.group >= 0) & (copy.group < self.commits - pending)
            if done.any():
                at = copy.at[done].reshape(-1)
                copy.memory.finish_copy(at)
                copy.memory.put(at, copy.data[done].reshape(-1))
                copy.active &= ~done
        self.copies = [c for c in self.copies if c.active.any()]

    # -- expressions -------------------------------------------------------------------------------------------------

    def tile(self, expr: Expr, mask: Array) -> Array:
        """The tile expressions that are not also expressions of elements."""
        match expr:
            case LoadTile():
                return self.load_tile(expr, mask)
            case Splat(a, type_):
                value = self._per_tile(self.expr(a, mask), type_.rank)
                return np.broadcast_to(value, (value.shape[0], *shape_of(type_.shape)))
            case Iota(type_):
                return np.arange(shape_of(type_.shape)[0], dtype=np.int32).reshape(1, -1)
            case Broadcast(a, axes, type_):
                value, shape = self.expr(a, mask), shape_of(type_.shape)
                sizes = [1] * len(shape)
                for at, axis in enumerate(axes):
                    sizes[axis] = value.shape[at + 1]
                return np.broadcast_to(value.reshape(value.shape[0], *sizes), (value.shape[0], *shape))
            case Permute(a, axes):
                return np.transpose(self.expr(a, mask), (0, *(axis + 1 for axis in axes)))
            case ReduceTile(op, a, axis, type_):
                result = halves(op, np.moveaxis(self.expr(a, mask), axis + 1, 1), type_.dtype)
                return result if isinstance(type_, TileType) else result.reshape(-1, 1)
            case Mma(a, b, acc, type_):
                start = None if acc is None else self.expr(acc, mask)
                return product(self.expr(a, mask), self.expr(b, mask), start, type_.dtype)
            case Mask(a, counts, other, type_):
                keep = np.ones((1,) * (type_.rank + 1), bool)
                for at, (count, extent) in enumerate(zip(counts, shape_of(type_.shape), strict=True)):
                    if count is not None:
                        along = np.arange(extent).reshape([-1 if x == at else 1 for x in range(type_.rank)])
                        keep = keep & (along < self._per_tile(self.expr(count, mask), type_.rank))
                return np.where(keep, self.expr(a, mask), self.expr(other, mask))
        raise AssertionError(type(expr).__name__)


def halves(op: str, a: Array, dtype: DType) -> Array:
    """Axis 1 reduced by the tree of halves."""
    n = a.shape[1]
    width = 1 << max(0, n - 1).bit_length()
    if width != n and op == "add":
        a = np.concatenate([a, np.zeros((a.shape[0], width - n, *a.shape[2:]), a.dtype)], 1)
    elif width != n:  # an element taken in twice changes no maximum
        a = np.concatenate([a, np.repeat(a[:, :1], width - n, 1)], 1)
    while a.shape[1] > 1:
        half = a.shape[1] // 2
        a = values.binary(op, a[:, :half], a[:, half:], dtype)
    return a[:, 0]


def product(a: Array, b: Array, acc: Array | None, dtype: DType) -> Array:
    """`acc + a @ b`, summed in f64 (i64 for integers) in the order of k, rounded once."""
    wide = np.float64 if dtype.is_float else np.int64
    n = max(a.shape[0], b.shape[0], 1 if acc is None else acc.shape[0])
    total = np.zeros((n, a.shape[1], b.shape[2]), wide)
    if acc is not None:
        total += acc
    x, y = a.astype(wide), b.astype(wide)
    with np.errstate(all="ignore"):
        for k in range(a.shape[2]):
            total += x[:, :, k, None] * y[:, k, None, :]
    return values.cast(total, as_dtype("f64" if dtype.is_float else "i64"), dtype)
