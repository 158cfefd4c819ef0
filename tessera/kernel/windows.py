"""Slices of memory: which rectangle a subscript names, and what is known about the data in it (rules R4 and R8)."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace

from tessera.dtypes import i64
from tessera.errors import Span
from tessera.kernel.operands import (
    BufferRef,
    Operand,
    Static,
    arithmetic,
    compare,
    describe,
    held_type,
    is_expr,
    to_expr,
)
from tessera.kernel.report import fail
from tessera.kernel.tile_expressions import TileExpressions
from tessera.kernel.tile_operands import Facts, WindowRef, apart, key, reads, unknown_count
from tessera.kernel.tree import (
    Block,
    Buffer,
    Const,
    DimValue,
    Elem,
    Expr,
    Load,
    Read,
    Reduce,
    Var,
    Where,
    Window,
    parts,
)
from tessera.shapes import Dim, divisible, known_equal

__all__ = ["Contents", "Windows", "varied"]


@dataclass(frozen=True, eq=False)
class Contents:
    """What was last put into a shared buffer (into every slot of a list of buffers, as far as it is the same)."""

    facts: Facts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contents) and _same(self.facts, other.facts)

    def __hash__(self) -> int:
        return hash(len(self.facts.counts))


def varied(buffer: str, axis: int, span: Span) -> Expr:
    """A count that differs between the iterations of a loop: known only if the reader tracks the buffer."""
    return Read(Var(f"?{buffer}.{axis}", Elem(i64)), span)


def _same(a: Facts, b: Facts) -> bool:
    keys = [tuple(None if c is None else key(c) for c in f.counts) for f in (a, b)]
    return keys[0] == keys[1] and a.origins == b.origins and a.zero == b.zero


class Windows(TileExpressions):
    """Reads subscripts that name rectangles."""

    expr: Callable[[ast.expr], Operand]
    span: Callable[[ast.AST], Span]
    batched: frozenset[str] = frozenset()  # parameters whose leading axis is lifted over (rule R4)
    tracked: frozenset[str] = frozenset()  # `buffer.axis` of shared memory whose counts are kept in variables

    def __init__(self) -> None:
        self.ranges: dict[str, tuple[Dim, Dim, int]] = {}  # variables that run over lo, lo + step, .. below hi
        self.constant_names: set[str] = set()  # scalar parameters that the kernel does not assign

    def batch_index(self, extent: Dim, span: Span) -> Expr:
        raise AssertionError("given by the subclass")

    def state(self) -> dict[str, object]:
        """The bindings of the place that is being read."""
        raise AssertionError("given by the subclass")

    # -- subscripts --------------------------------------------------------------------------------------------------

    def window(self, base: BufferRef | WindowRef, node: ast.Subscript) -> Window:
        """The rectangle that a subscript names. Raises SourceError E206, E207, E224."""
        span = self.span(node)
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if isinstance(base, BufferRef):
            buffer = base.buffer
            starts, extents = list(self.whole(buffer, span).starts), list[Dim | None](buffer.dims)
        else:
            buffer = base.window.buffer
            starts, extents = list(base.window.starts), list(base.window.extents)
        axes = [axis for axis, extent in enumerate(extents) if extent is not None]
        if isinstance(base, BufferRef) and buffer.name in self.batched and len(items) < len(axes):
            starts[0], extents[0] = self.batch_index(buffer.dims[0], span), None
            axes = axes[1:]
            self.report.once(f"R4: each group takes one index of the leading axis `{buffer.dims[0]}`", span)
        if len(items) > len(axes):
            dims = ", ".join(map(str, buffer.dims))
            raise fail("E207", f"`{buffer.name}` has {len(axes)} axes here, but {len(items)} indices are given", span,
                       f"it is {buffer.dtype.base}[{dims}]")  # fmt: skip
        for item, axis in zip(items, axes, strict=False):
            at = self.span(item)
            extent = extents[axis]
            assert extent is not None
            if isinstance(item, ast.Slice):
                start, extents[axis] = self._slice(item, extent, buffer, at)
            elif isinstance(item, ast.Constant) and item.value in (None, Ellipsis):
                raise fail("E207", f"{ast.unparse(item)} is no index of memory", at, "it is for tiles that were loaded")
            else:
                start, extents[axis] = self._uniform(self.expr(item), at), None
            starts[axis] = to_expr(arithmetic("add", _operand(starts[axis]), _operand(start), at), at, i64)
        return Window(buffer, tuple(starts), tuple(extents))

    def _slice(self, node: ast.Slice, whole: Dim, buffer: Buffer, span: Span) -> tuple[Expr, Dim]:
        if node.step is not None:
            raise fail("E224", "a slice with a step is not supported in a kernel", span)
        lower: Operand = Static(0) if node.lower is None else self.expr(node.lower)
        upper: Operand = Static(whole) if node.upper is None else self.expr(node.upper)
        start = self._uniform(lower, span)
        if isinstance(start, Const) and start.value < 0:
            raise fail("E224", f"a slice that begins at {start.value}", span, "indices do not count from the end")
        if isinstance(start, DimValue) and known_equal(start.dim, whole):
            raise fail("E224", f"a slice that begins at the end of the axis, which is `{whole}` long", span,
                       "a domain variable (rule R2) needs a name that is no dim")  # fmt: skip
        extent = apart(start, to_expr(upper, span, i64)) if is_expr(upper) else None
        if extent is None:
            raise fail("E224", "the width of this slice is not known while compiling", span,
                       "write start:start+width; what lies past the end of the tensor is masked (rule R8)")  # fmt: skip
        if isinstance(extent, int) and extent < 1:
            raise fail("E224", f"a slice of {extent} elements", span)
        if isinstance(extent, int) and isinstance(whole, int) and buffer.space == "shared" and extent > whole:
            raise fail("E224", f"a slice of {extent} elements of an axis of {whole} of `{buffer.name}`", span)
        return start, extent

    def _uniform(self, operand: Operand, span: Span) -> Expr:
        if not is_expr(operand) or held_type(operand).dtype.kind not in ("int", "uint"):
            raise fail("E206", f"an index must be an integer, not {describe(operand)}", span)
        expr = to_expr(operand, span, i64)
        if expr.type.varying:
            raise fail("E206", "the place of a tile must be the same for all lanes of the group", span,
                       "an index per lane reads or stores one element: give one for each axis")  # fmt: skip
        if any(isinstance(e, (Load, Block, Reduce)) for e in parts(expr)):
            return self.temporary(expr)
        return expr

    # -- facts -------------------------------------------------------------------------------------------------------

    def facts_of(self, window: Window, span: Span) -> Facts:
        """What a read of a window is known to give."""
        if window.buffer.space == "shared":
            return self._shared_facts(window, span)
        counts: list[Expr | None] = []
        origins: list[str | None] = []
        for start, extent, dim in zip(window.starts, window.extents, window.buffer.dims, strict=True):
            if extent is None:
                continue
            origins.append(f"{dim}@{key(start)}")
            inside = self._inside(start, extent, dim)
            counts.append(None if inside else self._settled_count(_minus(dim, start, span)))
        if any(c is not None for c in counts):
            self.report.once("R8: this slice may reach past the end of the tensor; what lies there reads as 0 and "
                             "does not count", span)  # fmt: skip
        return Facts(tuple(counts), tuple(origins), zero=True)

    def _settled_count(self, count: Expr) -> Expr:
        """A count that stays what it is: one of variables that may be assigned later is held in its own."""
        if all(map(self.is_constant, reads(count))):
            return count
        return self.temporary(count, "count")

    def is_constant(self, name: str) -> bool:
        """Whether a variable keeps its value as long as it can be named."""
        return name in self.ranges or name in self.constant_names

    def _inside(self, start: Expr, extent: Dim, dim: Dim) -> bool:
        """Whether a slice certainly lies inside its axis."""
        if isinstance(start, Const):
            left = dim - int(start.value) - extent
            return left >= 0 if isinstance(left, int) else left.is_nonnegative
        if isinstance(start, Read) and start.var.name in self.ranges and isinstance(extent, int):
            lo, hi, step = self.ranges[start.var.name]
            if known_equal(hi, dim) and extent <= step and divisible(hi - lo, step):
                return True
            if isinstance(hi, int) and isinstance(lo, int) and isinstance(dim, int):
                last = lo + max(0, (hi - lo - 1) // step) * step
                return last + extent <= dim
        return False

    def _shared_facts(self, window: Window, span: Span) -> Facts:
        buffer = window.buffer
        kept = [axis for axis, extent in enumerate(window.extents) if extent is not None]
        found = self.state().get(f"@{buffer.name}")
        if not isinstance(found, Contents):
            return Facts.plain(len(kept))
        facts = found.facts
        counts: list[Expr | None] = []
        origins: list[str | None] = []
        for axis in kept:
            count, start = facts.counts[axis], window.starts[axis]
            if unknown_count(count) and f"{buffer.name}.{axis}" in self.tracked:
                count = self._tracked(buffer, axis, window.starts[0] if window.extents[0] is None else None, span)
            at_zero = isinstance(start, Const) and start.value == 0
            if count is not None and not at_zero:
                count = to_expr(arithmetic("sub", _operand(count), _operand(start), span), span, i64)
            counts.append(count)
            origins.append(facts.origins[axis] if at_zero else None)
        return Facts(tuple(counts), tuple(origins), zero=facts.zero)

    def _tracked(self, buffer: Buffer, axis: int, slot: Expr | None, span: Span) -> Expr:
        """The count of an axis, from the variables of the slots."""
        names = self._slots(buffer, slot)
        result: Expr | None = None
        for at, name in reversed(names):
            value = to_expr(self.read_state(f"{name}.{axis}", Static(buffer.dims[axis]), span), span, i64)
            if result is None or slot is None:
                result = value
            else:
                test = to_expr(compare("eq", _operand(slot), Static(at), span), span)
                result = value if key(value) == key(result) else Where(test, value, result, Elem(i64), span)
        assert result is not None
        return result

    def read_state(self, name: str, default: Operand, span: Span) -> Operand:
        raise AssertionError("given by the subclass")

    def write_state(self, name: str, value: Operand, span: Span) -> None:
        raise AssertionError("given by the subclass")

    def _slots(self, buffer: Buffer, slot: Expr | None) -> list[tuple[int, str]]:
        """The slots that an index may mean, with their names."""
        if slot is None:
            return [(0, f"#{buffer.name}.0")]
        if isinstance(slot, Const):
            return [(int(slot.value), f"#{buffer.name}.{slot.value}")]
        assert isinstance(buffer.dims[0], int)
        return [(at, f"#{buffer.name}.{at}") for at in range(buffer.dims[0])]

    def filled(self, window: Window, facts: Facts, span: Span) -> None:
        """Records that a shared window was filled with data of these facts."""
        buffer = window.buffer
        state = self.state()
        name = f"@{buffer.name}"
        whole = all(
            isinstance(start, Const) and start.value == 0 and (extent is None or known_equal(extent, dim))
            for start, extent, dim in list(zip(window.starts, window.extents, buffer.dims, strict=True))[
                1 if window.extents[0] is None else 0 :
            ]
        )
        if not whole:
            state.pop(name, None)
            return
        at = iter(range(len(facts.counts)))
        counts: list[Expr | None] = []
        origins: list[str | None] = []
        for extent in window.extents:
            index = None if extent is None else next(at)
            counts.append(None if index is None else facts.counts[index])
            origins.append(None if index is None else facts.origins[index])
        new = Facts(tuple(counts), tuple(origins), zero=facts.zero)
        if any(f"{buffer.name}.{axis}" in self.tracked for axis in range(buffer.rank)):
            self._track(buffer, window.starts[0] if window.extents[0] is None else None, new, span)
        old = state.get(name)
        if window.extents[0] is None and isinstance(old, Contents):
            new = join_contents(old.facts, new, buffer.name, span)
        state[name] = Contents(new)

    def allocated(self, buffer: Buffer, span: Span) -> None:
        """Gives the counts of a tracked buffer their first values: no slot is ragged."""
        slots = buffer.dims[0] if isinstance(buffer.dims[0], int) else 1
        for axis, extent in enumerate(buffer.dims):
            if f"{buffer.name}.{axis}" in self.tracked:
                for slot in range(slots):
                    self.write_state(f"#{buffer.name}.{slot}.{axis}", Static(extent), span)

    def _track(self, buffer: Buffer, slot: Expr | None, facts: Facts, span: Span) -> None:
        for axis, count in enumerate(facts.counts):
            if (axis == 0 and slot is not None) or f"{buffer.name}.{axis}" not in self.tracked:
                continue
            extent = Static(buffer.dims[axis])
            value: Operand = extent if count is None else _operand(count)
            names = self._slots(buffer, slot)
            for at, name in names:
                new = value
                if len(names) > 1 and slot is not None:
                    old = to_expr(self.read_state(f"{name}.{axis}", extent, span), span, i64)
                    test = to_expr(compare("eq", _operand(slot), Static(at), span), span)
                    new = Where(test, to_expr(value, span, i64), old, Elem(i64), span)
                self.write_state(f"{name}.{axis}", new, span)


def join_contents(a: Facts, b: Facts, name: str, span: Span) -> Facts:
    """What is known where a buffer holds one or the other."""
    counts = tuple(
        x if (None if x is None else key(x)) == (None if y is None else key(y)) else varied(name, axis, span)
        for axis, (x, y) in enumerate(zip(a.counts, b.counts, strict=True))
    )
    origins = tuple(x if x == y else None for x, y in zip(a.origins, b.origins, strict=True))
    return replace(a, counts=counts, origins=origins, zero=a.zero and b.zero)


def _operand(expr: Expr) -> Operand:
    """Constants as compile-time numbers, so that arithmetic folds them."""
    match expr:
        case Const(value):
            return Static(value)
        case DimValue(dim):
            return Static(dim)
    return expr


def _minus(dim: Dim, start: Expr, span: Span) -> Expr:
    return to_expr(arithmetic("sub", Static(dim), _operand(start), span), span, i64)


