"""The words of the kernel language: one method `word_<name>` for each (see `vocabulary.py` for how they are found)."""

from __future__ import annotations

import math

from tessera.dtypes import DType, bool_, f32, i64
from tessera.errors import Span
from tessera.kernel.calls import Calls
from tessera.kernel.operands import (
    Args,
    BufferRef,
    Items,
    Kwargs,
    Operand,
    Static,
    arithmetic,
    constant_dim,
    convert,
    describe,
    held_type,
    is_expr,
    negate,
    number,
    static_dim,
    to_expr,
)
from tessera.kernel.report import fail
from tessera.kernel.tile_operands import TileOp
from tessera.kernel.tree import Alloc, Barrier, Buffer, Compare, Copy, Elem, Id, Reduce, Unary, Where
from tessera.shapes import Dim

__all__ = ["Words"]


class Words(Calls):
    """Each word takes what the user wrote for it, its arguments by position and by name, and the place of the call."""

    # -- elements --------------------------------------------------------------------------------------------------

    def word_python_round(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        (a,) = self.bind(name, "x", args, kwargs, span)
        return self.cast(self._unary("round", a, span), i64, span)

    def word_int_floor(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return self.cast(self._unary("floor", self.bind(name, "x", args, kwargs, span)[0], span), i64, span)

    def word_int_ceil(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return self.cast(self._unary("ceil", self.bind(name, "x", args, kwargs, span)[0], span), i64, span)

    def word_int(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        (a,) = self.bind(name, "x", args, kwargs, span)
        value = number(a)
        if value is not None and math.isfinite(value):
            return Static(int(value))
        return a if static_dim(a) is not None else self.cast(a, i64, span)

    def word_float(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        (a,) = self.bind(name, "x=0", args, kwargs, span)
        if isinstance(a, Static) and isinstance(a.value, (bool, int, float, str)):
            try:
                return Static(float(a.value))
            except (ValueError, OverflowError) as err:
                raise fail("E220", str(err), span) from None
        return a if is_expr(a) and held_type(a).dtype.is_float else self.cast(a, f32, span)

    def word_bool(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return self.truth(self.bind(name, "x", args, kwargs, span)[0], span)

    def word_len(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        match self.bind(name, "x", args, kwargs, span)[0]:
            case TileOp() as tile:
                return Static(tile.shape[0])
            case BufferRef(buffer) if buffer.rank:
                return Static(buffer.dims[0])
            case Items(items):
                return Static(len(items))
        raise fail("E206", "len() needs a tensor or a tuple", span)

    def word_abs(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        (a,) = self.bind(name, "x", args, kwargs, span)
        value = number(a)
        if value is not None:
            return Static(abs(value))
        x = to_expr(a, span)
        x = convert(x, i64 if x.type.dtype.kind == "bool" else x.type.dtype.wide)
        return Unary("abs", x, x.type, span)

    def _extremum(self, op: str, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        if len(args) == 1 and isinstance(args[0], Items):
            args = list(args[0].items)
        if len(args) < 2 or kwargs:
            raise fail("E218", f"`{name}` needs at least two elements", span)
        result = args[0]
        for arg in args[1:]:
            result = arithmetic(op, result, arg, span)
        return result

    def reduction(self, op: str, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        raise AssertionError("given by the subclass")

    def word_max(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        if args and self.is_tile(args[0]) and (len(args) == 1 or kwargs):
            return self.reduction("max", name, args, kwargs, span)
        return self._extremum("max", name, args, kwargs, span)

    def word_min(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        if args and self.is_tile(args[0]) and (len(args) == 1 or kwargs):
            return self.reduction("min", name, args, kwargs, span)
        return self._extremum("min", name, args, kwargs, span)

    def word_maximum(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return self._extremum("max", name, args, kwargs, span)

    def word_minimum(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return self._extremum("min", name, args, kwargs, span)

    def word_pow(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        a, b = self.bind(name, "a b", args, kwargs, span)
        return arithmetic("pow", a, b, span)

    def word_where(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        cond, a, b = self.bind(name, "cond a b", args, kwargs, span)
        return self.choose(to_expr(self.truth(cond, span), span), a, b, span, Where)

    def word_cast(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        value, dtype = self.bind(name, "x dtype", args, kwargs, span)
        return self.cast(value, dtype, span)

    def word_isnan(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        x = to_expr(self.bind(name, "x", args, kwargs, span)[0], span)
        x = convert(x, x.type.dtype.wide) if x.type.dtype.is_float else convert(x, f32)
        return Compare("ne", x, x, Elem(bool_, x.type.varying), span)

    def word_relu(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return arithmetic("max", self.bind(name, "x", args, kwargs, span)[0], Static(0), span)

    def word_sigmoid(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        (a,) = self.bind(name, "x", args, kwargs, span)
        grown = arithmetic("add", Static(1.0), self._unary("exp", negate(a, span), span), span)
        return arithmetic("div", Static(1.0), grown, span)

    # -- ts.tile ---------------------------------------------------------------------------------------------------

    def _id(
        self,
        kind: str,
        varying: bool,
        name: str,
        args: Args,
        kwargs: Kwargs,
        span: Span,
        axis: int = 0,
    ) -> Operand:
        if self.parallel is not None and kind in ("linear", "group"):
            raise fail(
                "E211",
                f"`{name}()` inside a loop whose iterations are spread over the groups (rule R3)",
                span,
                f"the loop is at line {self.parallel.line}; use local_id(), or give @ts.kernel(grid=...)",
            )
        return Id(kind, Elem(i64, varying), span, axis)

    def word_linear_id(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.bind(name, "", args, kwargs, span)
        return self._id("linear", True, name, args, kwargs, span)

    def word_local_id(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.bind(name, "", args, kwargs, span)
        return self._id("local", True, name, args, kwargs, span)

    def word_lane_id(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.bind(name, "", args, kwargs, span)
        return self._id("lane", True, name, args, kwargs, span)

    def word_warp_id(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """The lane's warp in its group: 32 lanes each."""
        return arithmetic("floordiv", self.word_local_id(name, args, kwargs, span), Static(32), span)

    def word_group_id(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        axis = constant_dim(self.bind(name, "axis=0", args, kwargs, span)[0])
        if axis not in (0, 1, 2):
            raise fail("E218", "the axis of group_id is 0, 1 or 2", span)
        return self._id("group", False, name, args, kwargs, span, axis)

    def word_group_size(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.bind(name, "", args, kwargs, span)
        return Static(self.group)

    word_group_tile_count = word_group_size

    def collective(self, name: str, span: Span) -> None:
        """Raises SourceError E209 where lanes may disagree on calling a group operation."""
        if self.varying:
            raise fail(
                "E209",
                f"`{name}` is reached by some lanes of the group and not by others",
                span,
                "move it out of the `if` or loop whose condition differs between lanes",
            )

    def word_barrier(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.bind(name, "", args, kwargs, span)
        self.collective(name, span)
        if any(isinstance(s, Copy) for s in self.out):
            self.report.note("R6: the barrier completes the copies that were started", span)
        self.out.append(Barrier(span))
        return Static(None)

    def order(self, name: str, kwargs: Kwargs, span: Span) -> None:
        """`order=` of a reduction: "tree" is the order that it has; "warp" asks for none, and has the same."""
        wanted = kwargs.pop("order", Static("tree"))
        if wanted not in (Static("tree"), Static("warp")):
            raise fail("E218", f'`order` of `{name}` is "tree" or "warp", not {describe(wanted)}', span)
        if wanted == Static("warp"):
            self.report.once("a reduction keeps the order of the tree of halves, so that its bits are the same", span)

    def _reduce(self, op: str, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        self.collective(name, span)
        self.order(name, kwargs, span)
        value = self.bind(name, "x", args, kwargs, span)[0]
        if self.is_tile(value):
            return self.all_reduced(op, self.tile(value, span), span)
        x = to_expr(value, span)
        dtype = x.type.dtype
        x = convert(x, (dtype.accum if op == "add" else dtype.wide) if dtype.kind != "bool" else i64)
        return self.temporary(Reduce(op, x, Elem(x.type.dtype), span), "reduced")

    def word_reduce_sum(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return self._reduce("add", name, args, kwargs, span)

    def word_reduce_max(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return self._reduce("max", name, args, kwargs, span)

    def word_reduce_min(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        return self._reduce("min", name, args, kwargs, span)

    def _dims(self, operand: Operand, what: str, span: Span) -> tuple[Dim, ...]:
        """A shape: positive compile-time integers, or dims that are fixed when the kernel is specialised."""
        items = operand.items if isinstance(operand, Items) else (operand,)
        dims: list[Dim] = []
        for item in items:
            size = static_dim(item)
            if size is None or (isinstance(size, int) and size < 1):
                shown = str(item.value) if isinstance(item, Static) else "a value known at run time only"
                raise fail("E212", f"the shape of {what} must be positive compile-time integers, not {shown}", span)
            dims.append(size)
        return tuple(dims)

    def _fresh_name(self, name: str) -> str:
        """A name that no other shared buffer has."""
        count = self._buffers.get(name, 0)
        self._buffers[name] = count + 1
        return f"{name}.{count}" if count else name

    def word_alloc_shared(self, name: str, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """alloc_shared((64, 32), ts.f32) or alloc_shared(64, 32, dtype=ts.f32), with swizzle= and alignment=."""
        self.collective(name, span)
        options = {key: kwargs.pop(key) for key in ("swizzle", "alignment") if key in kwargs}
        dtype = kwargs.pop("dtype", None)
        shape: Operand | None = kwargs.pop("shape", None)
        if kwargs:
            raise fail(
                "E218",
                f"`{name}` has no argument `{next(iter(kwargs))}`",
                span,
                "it is alloc_shared(shape, dtype, swizzle=, alignment=)",
            )
        if dtype is None and args and isinstance(args[-1], Static) and isinstance(args[-1].value, DType):
            dtype = args.pop()
        if shape is None:
            shape = args[0] if len(args) == 1 and isinstance(args[0], Items) else Items(tuple(args))
        elif args:
            raise fail("E218", f"`{name}` is given its shape twice", span)
        dims = self._dims(shape, "shared memory", span)
        if not isinstance(dtype, Static) or not isinstance(dtype.value, DType):
            raise fail(
                "E212", "shared memory needs an element type", span, "write ts.tile.alloc_shared((128,), ts.f32)"
            )
        swizzle, alignment = (
            v.value if isinstance(v := options.get(k, Static(None)), Static) else "?" for k in ("swizzle", "alignment")
        )
        if swizzle is not None and not (isinstance(swizzle, str) and swizzle in ("xor", "none")):
            raise fail("E212", f'swizzle is "xor" or "none", not {swizzle!r}', span)
        if alignment is not None and (not isinstance(alignment, int) or alignment not in (1, 2, 4, 8, 16, 32, 64, 128)):
            raise fail("E212", f"alignment is a power of two up to 128, not {alignment!r}", span)
        self._serial += 1
        label = self._fresh_name(self.naming or f"shared.{self._serial}")
        buffer = Buffer(label, dims, dtype.value.base, "shared", span, swizzle, alignment)
        self.out.append(Alloc(buffer, span))
        self.allocated(buffer, span)
        return BufferRef(buffer)
