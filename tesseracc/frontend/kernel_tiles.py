"""Tiles of a kernel's typed tree as Tile IR: every node is an operation, or a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tessera.errors import SourceError, Span
from tessera.kernel.tree import (
    AtomicTile,
    Broadcast,
    Const,
    Copy,
    Expr,
    Iota,
    LoadTile,
    Mask,
    Mma,
    Permute,
    ReduceTile,
    Splat,
    StoreTile,
    TileType,
    Window,
)
from tessera.polynomials import Dim
from tessera.shapes import symbols_of
from tesseracc.ir.types import TileType as IrTile
from tesseracc.ir.types import Type, element, with_element
from tesseracc.ir.value import Value

if TYPE_CHECKING:
    from tesseracc.frontend.kernel_body import Body


def static_extents(dims: Sequence[Dim], what: str, span: Span | None) -> tuple[int, ...]:
    """The extents as numbers. Raises E221 at `span` where one is not known when the kernel is compiled."""
    shape = tuple(n for n in dims if isinstance(n, int))
    if len(shape) != len(dims):
        open_ = ", ".join(f"`{n}`" for n in dims if not isinstance(n, int))
        sizes = ",".join(f"{name}=128" for name in sorted({s for dim in dims for s in symbols_of(dim)}))
        raise SourceError(
            "E221", f"the extent {open_} of {what} is not known when the kernel is compiled", span=span,
            help=f"give it a number in the signature, or one variant of the kernel each: --specialize {sizes}",
        )  # fmt: skip
    return shape


def ir_tile(type_: TileType, span: Span | None = None) -> IrTile:
    """The IR's type of a tile. Raises E221 where an extent is not known."""
    return IrTile(static_extents(type_.shape, "a tile", span), type_.dtype.name)


def _place(body: Body, window: Window) -> tuple[Value, list[Value], tuple[int, ...]]:
    """A window's buffer, where it begins, and the buffer's axes that its own are."""
    axes = tuple(axis for axis, extent in enumerate(window.extents) if extent is not None)
    starts = [body.expr(start) for start in window.starts]
    starts = [s if element(s.type) == "i64" else body.b.op("arith.cast", s, to="i64") for s in starts]
    return body.buffers[window.buffer], starts, axes


def _counts(body: Body, counts: Sequence[Expr | None], shape: Sequence[int]) -> list[Value]:
    if all(count is None for count in counts):
        return []
    return [body.b.const(n) if c is None else body.expr(c) for c, n in zip(counts, shape, strict=True)]


def tile_expr(body: Body, expr: Expr) -> Value:
    """The value of a tile expression."""
    b = body.b
    match expr:
        case LoadTile(window, span):
            buf, at, axes = _place(body, window)
            return b.op("tile.read", buf, at, types=ir_tile(window.type, span), axes=axes)
        case Splat(Const() as a, type_, span):
            value = body.constant_value(a)
            return b.op("arith.constant", types=ir_tile(type_, span), value=value)
        case Splat(a, type_, span):
            return b.op("tile.full", body.expr(a), types=ir_tile(type_, span))
        case Iota(type_, span):
            return b.op("tile.coordinate", types=ir_tile(type_, span), axis=0)
        case Broadcast(a, axes, type_, span):
            return b.op("tile.broadcast", body.expr(a), types=ir_tile(type_, span), axes=tuple(axes))
        case Permute(a, axes):
            return b.op("tile.transpose", body.expr(a), perm=tuple(axes))
        case ReduceTile(op, a, axis):
            return b.op("tile.fold", body.expr(a), axis=axis, kind=op)
        case Mma(a, other, acc, type_, span):
            tile = ir_tile(type_, span)
            first = b.op("tile.zeros", types=tile) if acc is None else body.expr(acc)
            return b.op("tile.mma", body.expr(a), body.expr(other), first)
        case Mask(a, counts, other, type_, span):
            return _mask(body, body.expr(a), counts, body.expr(other), ir_tile(type_, span))
    raise AssertionError(f"no tile expression: {expr}")


def _mask(body: Body, value: Value, counts: Sequence[Expr | None], other: Value, type_: IrTile) -> Value:
    """`value` where every coordinate is below its count, `other` elsewhere."""
    b = body.b
    index: Type = with_element(type_, "i64")
    inside: Value | None = None
    for axis, count in enumerate(counts):
        if count is None:
            continue
        limit = b.op("tile.full", body.expr(count), types=index)
        part = b.op("arith.cmp", b.op("tile.coordinate", types=index, axis=axis), limit, pred="lt")
        inside = part if inside is None else b.op("arith.and", inside, part)
    return value if inside is None else b.op("arith.select", inside, value, other)


def store_tile(body: Body, stmt: StoreTile) -> None:
    """A tile into a window of memory."""
    value = body.expr(stmt.value)
    buf, at, axes = _place(body, stmt.window)
    shape = ir_tile(stmt.window.type, stmt.span).shape
    body.b.emit("tile.write", value, buf, at, _counts(body, stmt.counts, shape), axes=axes)


def update_tile(body: Body, stmt: AtomicTile) -> None:
    """An atomic update of a window of memory by a tile."""
    value = body.expr(stmt.value)
    buf, at, axes = _place(body, stmt.window)
    shape = ir_tile(stmt.window.type, stmt.span).shape
    counts = _counts(body, stmt.counts, shape)
    body.b.emit("tile.update_block", value, buf, at, counts, axes=axes, kind=stmt.op)


def copy_tile(body: Body, stmt: Copy) -> None:
    """Starts an asynchronous copy."""
    source, source_at, source_axes = _place(body, stmt.src)
    target, target_at, target_axes = _place(body, stmt.dst)
    shape = ir_tile(stmt.src.type, stmt.span).shape
    body.b.emit(
        "tile.copy_async", source, target, source_at, target_at, shape=shape, src_axes=source_axes,
        dst_axes=target_axes,
    )  # fmt: skip


__all__ = ["copy_tile", "ir_tile", "static_extents", "store_tile", "tile_expr", "update_tile"]
