"""The words of `ts.tile` for tiles: allocation, copies, products, reductions, and those made of other words."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace

from tessera.dtypes import DType, f32, i32
from tessera.errors import Span
from tessera.kernel.operands import (
    Args,
    BufferRef,
    Items,
    Kwargs,
    Operand,
    Static,
    arithmetic,
    constant_dim,
    describe,
    is_expr,
    to_expr,
)
from tessera.kernel.report import fail
from tessera.kernel.tile_operands import (
    Facts,
    Register,
    TileOp,
    WindowRef,
    cast_tile,
    key,
    may_equal,
    splat,
    spread,
    transpose,
    unknown_count,
)
from tessera.kernel.tree import (
    Alloc,
    Buffer,
    Commit,
    Copy,
    Elem,
    Expr,
    Iota,
    Splat,
    StoreTile,
    TileType,
    Wait,
    Window,
)
from tessera.kernel.vocabulary import Config
from tessera.kernel.words import Words
from tessera.shapes import Dim
from tessera.shapes import Expr as DimExpr

__all__ = ["TileWords"]



class TileWords(Words):
    """Words whose first argument is a place (`call_<name>`) get the call itself, the others their arguments."""

    config: dict[str, int]
    level: int  # how many loops, branches and helpers are around

    # -- shapes and types --------------------------------------------------------------------------------------------

    def _shape_and_type(
        self, name: str, what: str, args: Args, kwargs: Kwargs, span: Span
    ) -> tuple[tuple[Dim, ...], DType]:
        """`(shape, dtype)`, or `(n, m, dtype=)`."""
        args = list(args)
        dtype, shape = kwargs.pop("dtype", None), kwargs.pop("shape", None)
        if kwargs:
            raise fail("E218", f"`{name}` has no argument `{next(iter(kwargs))}`", span, f"it is {name}(shape, dtype)")
        if dtype is None and args and isinstance(args[-1], Static) and isinstance(args[-1].value, DType):
            dtype = args.pop()
        if shape is None:
            shape = args[0] if len(args) == 1 and isinstance(args[0], Items) else Items(tuple(args))
        elif args:
            raise fail("E218", f"`{name}` is given its shape twice", span)
        if not isinstance(dtype, Static) or not isinstance(dtype.value, DType):
            raise fail("E212", f"{what} needs an element type", span, f"write {name}((128,), ts.f32)")
        return self._dims(shape, what, span), dtype.value.base

    def _register_shape(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> tuple[tuple[Dim, ...], DType]:
        shape, dtype = self._shape_and_type(name, "a tile", args, kwargs, span)
        if len(shape) > 3:
            raise fail("E224", f"a tile has one to three axes, not {len(shape)}", span)
        return shape, dtype

    def word_zeros(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.collective(name, span)
        if not any(isinstance(a, Static) and isinstance(a.value, DType) for a in args):
            kwargs.setdefault("dtype", Static(f32))
        shape, dtype = self._register_shape(name, args, kwargs, span)
        return splat(to_expr(Static(0), span, dtype), shape, span)

    def word_full(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.collective(name, span)
        shape, value, dtype = self.bind(name, "shape value dtype=", args, kwargs, span)
        to = dtype.value if isinstance(dtype, Static) and isinstance(dtype.value, DType) else f32
        return splat(self.scalar(value, to.base, span), self._dims(shape, "a tile", span), span)

    def word_alloc_register(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.collective(name, span)
        shape, dtype = self._register_shape(name, args, kwargs, span)
        return Register(TileType(shape, dtype) if shape else Elem(dtype))

    def word_arange(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.collective(name, span)
        (shape,) = (self._dims(a, "a tile", span) for a in self.bind(name, "n", args, kwargs, span))
        return TileOp(Iota(TileType(shape, i32), span), Facts.plain(1))

    def word_context(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.bind(name, "", args, kwargs, span)
        return Static(Config())

    def list_of_buffers(self, items: tuple[Operand, ...], span: Span) -> Operand:
        """`[alloc_shared(..), alloc_shared(..)]`: one buffer with a leading axis, so that any index may be used."""
        buffers = [item.buffer for item in items if isinstance(item, BufferRef) and item.buffer.space == "shared"]
        tail = self.out[len(self.out) - len(items) :]
        fresh = [s.buffer for s in tail if isinstance(s, Alloc)]
        first = buffers[0] if buffers else None
        if (
            first is None
            or len(buffers) != len(items)
            or fresh != buffers
            or any((b.dims, b.dtype, b.swizzle) != (first.dims, first.dtype, first.swizzle) for b in buffers)
        ):
            return Items(items)
        del self.out[len(self.out) - len(items) :]
        ring = replace(first, dims=(len(items), *first.dims), span=span)
        self.out.append(Alloc(ring, span))
        self.allocated(ring, span)
        return BufferRef(ring)

    # -- copies ------------------------------------------------------------------------------------------------------

    def _place(self, node: ast.expr, what: str) -> Window:
        """A place in memory: a buffer, or a slice of one."""
        span = self.span(node)
        if isinstance(node, ast.Subscript):
            base = self.expr(node.value)
            if isinstance(base, (BufferRef, WindowRef)):
                return self.window(base, node)
        found = self.expr(node)
        if isinstance(found, WindowRef):
            return found.window
        if isinstance(found, BufferRef):
            return self.whole(found.buffer, span)
        raise fail("E208", f"{what} is shared memory, a parameter, or a slice of one, not {describe(found)}", span)

    def word_cp_async(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.collective(name, span)
        for hint in ("vector", "prefetch", "width", "multicast"):
            kwargs.pop(hint, None)
        dst, src = (self._window(a, span) for a in self.bind(name, "dst src", args, kwargs, span))
        if dst.buffer.space != "shared" or src.buffer.space != "global":
            raise fail("E208", f"`{name}` copies a slice of a parameter to shared memory", span)
        if dst.buffer.dtype.base != src.buffer.dtype.base:
            raise fail("E206", f"`{name}` copies {src.buffer.dtype.base} to {dst.buffer.dtype.base}", span,
                       "a copy does not convert: allocate the type of the source")  # fmt: skip
        self.fits(dst.shape, src.shape, f"`{name}` copies", span)
        if self.level:
            self.report.once("R7: copies of one iteration are ordered behind what earlier ones read", span)
        self.out.append(Copy(dst, src, span))
        self.filled(dst, self.facts_of(src, span), span)
        return Static(None)

    word_load_async = word_cp_async
    word_tma_load_async = word_cp_async

    def fits(self, dst: tuple[Dim, ...], src: tuple[Dim, ...], what: str, span: Span) -> None:
        """Equal shapes; a dim beside a number is fixed to it. Raises SourceError E223."""
        if len(dst) != len(src) or not all(map(may_equal, dst, src)):
            shown = [f"({', '.join(map(str, s))})" for s in (src, dst)]
            raise fail("E223", f"{what} a tile of shape {shown[0]} to one of {shown[1]}", span)
        for a, b in zip(dst, src, strict=True):
            for dim, size in ((a, b), (b, a)):
                if isinstance(dim, DimExpr) and isinstance(size, int):
                    self.fix(dim, size, span)

    def fix(self, dim: DimExpr, size: int, span: Span) -> None:
        raise AssertionError("given by the subclass")

    def _window(self, operand: Operand, span: Span) -> Window:
        match operand:
            case WindowRef(window):
                return window
            case BufferRef(buffer):
                return self.whole(buffer, span)
        raise fail("E208", f"a slice of memory is needed here, not {describe(operand)}", span)

    def word_cp_commit_group(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.bind(name, "", args, kwargs, span)
        self.collective(name, span)
        self.out.append(Commit(span))
        return Static(None)

    def word_cp_wait_group(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        pending = constant_dim(self.bind(name, "n=0", args, kwargs, span)[0])
        self.collective(name, span)
        if pending is None or pending < 0:
            raise fail("E218", f"`{name}` takes the number of groups that may be unfinished: a constant", span)
        self.out.append(Wait(pending, span))
        return Static(None)

    # -- loads and stores of places ----------------------------------------------------------------------------------

    def call_load(self, node: ast.Call, name: str) -> Operand:
        """load(src), or load(dst, src) into shared memory."""
        span = self.span(node)
        if wrong := [k.arg for k in node.keywords if k.arg not in ("vector", "prefetch")]:
            raise fail("E218", f"`{name}` has no argument `{wrong[0]}`", span, "it is load(x[..], vector=, prefetch=)")
        args = [self._place(a, "what is loaded") for a in node.args]
        if len(args) == 1:
            return self.load_tile(args[0], span)
        if len(args) != 2:
            raise fail("E218", f"`{name}` takes a slice of memory", span)
        self.store_window(args[0], self.load_tile(args[1], span), span)
        return Static(None)

    def call_store(self, node: ast.Call, name: str) -> Operand:
        """store(dst, tile); a whole parameter takes the tile at the place of the group's iteration (rule R9)."""
        span = self.span(node)
        given = [*node.args[1:], *(k.value for k in node.keywords if k.arg == "value")]
        if not node.args or len(given) != 1 or len(node.args) + len(node.keywords) != 2:
            raise fail("E218", f"`{name}` takes a place and a tile", span, "it is store(x[..], value)")
        value = self.expr(given[0])
        found = self.expr(node.args[0]) if isinstance(node.args[0], ast.Name) else None
        if isinstance(found, BufferRef) and found.buffer.space == "global":
            self.store_output(found.buffer, self.tile(value, span), span)
        else:
            self.store_window(self._place(node.args[0], "what is stored to"), value, span)
        return Static(None)

    def store_output(self, buffer: Buffer, tile: TileOp, span: Span) -> None:
        raise AssertionError("given by the subclass")

    def _vector(self, node: ast.expr, width: Dim, span: Span) -> Window:
        """The vector that begins at an element, or the first part of a row."""
        window = self._place(node, "a vector")
        extents = list(window.extents)
        rank = len(window.shape)
        if rank > 1:
            raise fail("E207", f"`{window.buffer.name}` needs an index for each axis but the last", span)
        extents[-1 if extents[-1] is not None or not rank else extents.index(window.shape[0])] = width
        return Window(window.buffer, window.starts, tuple(extents))

    def call_load_vector(self, node: ast.Call, name: str) -> Operand:
        """load_vector(src[i, j], width=4): `width` elements from there, masked as a slice is."""
        span = self.span(node)
        given = [*(k.value for k in node.keywords), *node.args[1:]]
        widths = [self.expr(a) for a in given] if all(k.arg == "width" for k in node.keywords) else []
        width = constant_dim(widths[0]) if len(widths) == 1 else None
        if not node.args or width is None or width < 1:
            raise fail("E218", f"`{name}` takes a place and width=, a constant", span)
        return self.load_tile(self._vector(node.args[0], width, span), span)

    def call_store_vector(self, node: ast.Call, name: str) -> Operand:
        """store_vector(dst[i, j], v): as many elements as the vector has."""
        span = self.span(node)
        if len(node.args) != 2:
            raise fail("E218", f"`{name}` takes a place and a vector", span)
        value = self.tile(self.expr(node.args[1]), span)
        self.store_window(self._vector(node.args[0], value.shape[-1], span), value, span)
        return Static(None)

    def store_window(self, window: Window, value: Operand, span: Span) -> None:
        """Stores a tile, or a number everywhere. Rounds to the buffer's type. Raises SourceError E206, E208, E223."""
        self.may_store(window.buffer, span)
        tile, counts = self.fitted(window, value, span)
        if window.buffer.space == "shared":
            whole = self.masked(tile, tuple(range(len(tile.shape))), 0, span)
            self.out.append(StoreTile(window, whole, (None,) * len(tile.shape), span))
            self.filled(window, replace(tile.facts, zero=True), span)
            return
        self.out.append(StoreTile(window, tile.expr, counts, span))

    def fitted(self, window: Window, value: Operand, span: Span) -> tuple[TileOp, tuple[Expr | None, ...]]:
        """A tile of the window's shape and type, and how much of it is valid beyond what the window clips."""
        self.collective("a store of a tile", span)
        buffer = window.buffer
        if is_expr(value):
            self.check_stored(buffer, value, span)
            value = splat(self.scalar(value, buffer.dtype.base, span), window.shape, span)
        tile = self.tile(value, span)
        have, want = tile.dtype, buffer.dtype.base
        if (have.is_float and not want.is_float) or (have.is_int and want.is_int and want.bits < have.bits):
            raise fail("E206", f"`{buffer.name}` holds {want}, and the tile is {have}", span,
                       f"convert it with ts.tile.cast(..., ts.{want})")  # fmt: skip
        if isinstance(tile.expr, Splat) and len(tile.shape) != len(window.shape):
            tile = splat(tile.expr.a, window.shape, span)
        if len(tile.shape) == len(window.shape) and all(
            may_equal(a, b) or a == 1 for a, b in zip(tile.shape, window.shape, strict=True)
        ):
            tile = spread(tile, window.shape, tuple(range(len(tile.shape))), span)
        self.fits(window.shape, tile.shape, f"`{buffer.name}` is given", span)
        tile = cast_tile(tile, want, span)
        own = self.facts_of(window, span).counts
        counts = tuple(
            None if c is None or unknown_count(c) or (o is not None and key(c) == key(o)) else c
            for c, o in zip(tile.facts.counts, own, strict=True)
        )
        return tile, counts

    def may_store(self, buffer: Buffer, span: Span) -> None:
        raise AssertionError("given by the subclass")

    def check_stored(self, buffer: Buffer, value: Operand, span: Span) -> None:
        raise AssertionError("given by the subclass")

    # -- registers that are changed in place: the name is bound anew ---------------------------------------------------

    def _register(self, node: ast.Call, name: str) -> tuple[str, TileType | Elem]:
        """The name of a register tile, its first argument. Raises SourceError E208."""
        target = node.args[0] if node.args else None
        if isinstance(target, ast.Name):
            found = self.frame.env.get(target.id)
            if isinstance(found, Register):
                return target.id, found.type
            value = self.expr(target)
            if isinstance(value, TileOp):
                return target.id, value.type
        raise fail("E208", f"`{name}` changes a tile in registers: give its name", self.span(node))

    def call_fill(self, node: ast.Call, name: str) -> Operand:
        """fill(t, v): every element of registers, or of shared memory, becomes v."""
        span = self.span(node)
        if len(node.args) != 2 or node.keywords:
            raise fail("E218", f"`{name}` takes a tile and a number", span)
        first = self.frame.env.get(node.args[0].id) if isinstance(node.args[0], ast.Name) else None
        value = self.expr(node.args[1])
        if not isinstance(first, Register):
            place = self.expr(node.args[0])
            if isinstance(place, (BufferRef, WindowRef)):
                self.store_window(self._window(place, span), value, span)
                return Static(None)
        target, type_ = self._register(node, name)
        scalar = self.scalar(value, type_.dtype, span)
        filled = splat(scalar, type_.shape, span) if isinstance(type_, TileType) else scalar
        self.bind_name(target, filled, span)
        return Static(None)

    def bind_name(self, name: str, value: Operand, span: Span, updated: bool = False) -> None:
        raise AssertionError("given by the subclass")

    # -- transposition and scale --------------------------------------------------------------------------------------

    def word_transpose(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return transpose(self.tile(self.bind(name, "x", args, kwargs, span)[0], span), span)

    def word_scale(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """scale(t, s): every element times s."""
        tile, factor = self.bind(name, "x s", args, kwargs, span)
        return self.lift([self.tile(tile, span), factor], lambda v: arithmetic("mul", v[0], v[1], span), span)

    def word_broadcast(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """broadcast(t, shape): axes of extent 1 are repeated, a vector is spread over rows or columns (rule R5)."""
        value, shape = self.bind(name, "x shape", args, kwargs, span)
        dims = self._dims(shape, "a tile", span)
        if is_expr(value):
            expr = to_expr(value, span)
            return splat(self.scalar(value, expr.type.dtype, span), dims, span)
        tile = self.tile(value, span)
        first = self.align([tile, splat(to_expr(Static(0), span, tile.dtype), dims, span)], span)[0]
        if not all(map(may_equal, first.shape, dims)):
            raise fail("E223", f"a tile of {tile.type} cannot be broadcast to ({', '.join(map(str, dims))})", span)
        return first

    # -- reductions --------------------------------------------------------------------------------------------------

    def _along(self, op: str, axis: int, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.collective(name, span)
        self.order(name, kwargs, span)
        x, keep = self.bind(name, "x keepdims=0", args, kwargs, span)
        tile = self.tile(x, span)
        if len(tile.shape) != 2:
            raise fail("E223", f"`{name}` reduces a tile of rank 2, not {tile.type}", span)
        return self._kept(self.reduce_axis(op, tile, axis, span), axis, keep, span)

    def _kept(self, value: Operand, axis: int, keep: Operand, span: Span) -> Operand:
        if isinstance(value, TileOp) and isinstance(keep, Static) and keep.value:
            items = [":"] * len(value.shape)
            items.insert(axis, "None")
            return self.expand(value, items, span)
        return value

    def reduction(self, op: str, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """sum(x, axis=, keepdims=): over one axis, or over all."""
        self.collective(name, span)
        self.order(name, kwargs, span)
        for alias, word in (("dim", "axis"), ("keepdim", "keepdims")):
            if alias in kwargs:
                kwargs[word] = kwargs.pop(alias)
        x, axis, keep = self.bind(name, "x axis= keepdims=0", args, kwargs, span)
        tile = self.tile(x, span)
        if axis == Static(None):
            return self.all_reduced(op, tile, span)
        at, rank = constant_dim(axis), len(tile.shape)
        if at is None or not -rank <= at < rank:
            raise fail("E218", f"the axis of `{name}` is a constant from {-rank} to {rank - 1}", span)
        return self._kept(self.reduce_axis(op, tile, at % rank, span), at % rank, keep, span)

    def word_sum(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return self.reduction("add", name, args, kwargs, span)


def _make(op: str, axis: int) -> Callable[..., Operand]:
    def word(self: TileWords, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return self._along(op, axis, name, args, kwargs, span)

    return word


for _op, _word in (("add", "sum"), ("max", "max"), ("min", "min")):
    setattr(TileWords, f"word_row_{_word}", _make(_op, 1))
    setattr(TileWords, f"word_col_{_word}", _make(_op, 0))
