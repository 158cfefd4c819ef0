"""Expressions on tiles: arithmetic by lifting the rules of elements, broadcasting, reductions, products.

An operation on tiles has the types that it has on elements: it is read once with stand-ins for the tiles, and the
result is lifted, every node becoming the same node on tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tessera.dtypes import DType, bf16, i64, promote
from tessera.errors import Span
from tessera.kernel.operands import NOT_ELEMENTS, BufferRef, Operand, Static, convert, describe, is_expr, to_expr
from tessera.kernel.report import Report, fail
from tessera.kernel.tile_operands import (
    Facts,
    TileOp,
    WindowRef,
    broadcast_shapes,
    cast_tile,
    direct,
    may_equal,
    merge,
    spread,
)
from tessera.kernel.tree import (
    Binary,
    Buffer,
    Cast,
    Choose,
    Compare,
    Const,
    Elem,
    Expr,
    LoadTile,
    Mask,
    Mma,
    Read,
    ReduceTile,
    Splat,
    TileType,
    Unary,
    Var,
    Where,
    Window,
    parts,
)
from tessera.shapes import Dim, known_equal

__all__ = ["TileExpressions"]

_STAND_IN = "%"


class TileExpressions:
    """What an expression reader needs for tiles; mixed into it."""

    report: Report
    varying: bool
    temporary: Callable[..., Read]

    def double_correction(self, a: Operand, b: Operand, span: Span) -> None:
        """Warns of exp(x - m) * row_sum(exp(y - m)): a sum that was already taken relative to m (W206)."""
        forms = [o.facts.form for o in (a, b) if isinstance(o, TileOp) and o.facts.form is not None]
        if len(forms) == 2 and forms[0][1] == forms[1][1] and {f[0] for f in forms} == {"exp", "sum"}:
            self.report.warn("W206", f"double correction: the sum is of exp(.. - {forms[0][1]}) already, and is scaled "
                                     "by such a factor once more", span)  # fmt: skip

    # -- from operands to tiles --------------------------------------------------------------------------------------

    def is_tile(self, operand: object) -> bool:
        """Whether the operand is a tile, or memory that is read as one."""
        if isinstance(operand, BufferRef):
            return operand.buffer.space == "shared" and operand.buffer.rank > 0
        return isinstance(operand, (TileOp, WindowRef))

    def tile(self, operand: Operand, span: Span) -> TileOp:
        """The operand's value as a tile; memory is read here. Raises SourceError E206."""
        match operand:
            case TileOp():
                return operand
            case WindowRef(window):
                return self.load_tile(window, span)
            case BufferRef(buffer) if self.is_tile(operand):
                return self.load_tile(self.whole(buffer, span), span)
        raise fail("E206", f"a tile is needed here, not {describe(operand)}", span)

    def whole(self, buffer: Buffer, span: Span) -> Window:
        """All of a buffer."""
        zero = Const(0, Elem(i64), span)
        return Window(buffer, (zero,) * buffer.rank, buffer.dims)

    def load_tile(self, window: Window, span: Span) -> TileOp:
        """The elements of a window. Raises SourceError E209 under divergent control flow, E224 for a bad rank."""
        self.collective("a read of a tile", span)
        if not 1 <= len(window.shape) <= 3:
            raise fail("E224", f"a tile has one to three axes, not {len(window.shape)}", span)
        return TileOp(LoadTile(window, span), replace(self.facts_of(window, span), loaded=True))

    def collective(self, name: str, span: Span) -> None:
        raise AssertionError("given by the subclass")

    def facts_of(self, window: Window, span: Span) -> Facts:
        raise AssertionError("given by the subclass")

    # -- element by element ------------------------------------------------------------------------------------------

    def align(self, tiles: list[TileOp], span: Span) -> list[TileOp]:
        """The tiles at one common shape (rule R5 for vectors beside tiles)."""
        rank = max(len(t.shape) for t in tiles)
        full = [t for t in tiles if len(t.shape) == rank]
        shape = broadcast_shapes([t.shape for t in full], span)
        out: list[TileOp] = []
        for tile in tiles:
            if len(tile.shape) == rank:
                self._straight(tile, full, span)
                out.append(spread(tile, shape, tuple(range(rank)), span))
                continue
            if len(tile.shape) != 1 or rank != 2:
                raise fail("E223", f"tiles of rank {len(tile.shape)} and {rank} do not fit together", span,
                           "bring them to one rank with [:, None]")  # fmt: skip
            other = max(full, key=lambda t: sum(o is not None for o in t.facts.origins))
            axis, why = direct(tile, other, span)
            if not may_equal(shape[axis], tile.shape[0]):
                raise fail("E223", f"a vector of {tile.shape[0]} does not fit axis {axis} of a tile of shape "
                                   f"({', '.join(map(str, shape))})", span, why or None)  # fmt: skip
            if why:
                self.report.once(why, span)
            if known_equal(shape[axis], 1):
                shape = tuple(tile.shape[0] if a == axis else e for a, e in enumerate(shape))
            out.append(spread(tile, shape, (axis,), span))
        return [t if t.shape == shape else spread(t, shape, tuple(range(rank)), span) for t in out]

    def _straight(self, tile: TileOp, others: list[TileOp], span: Span) -> None:
        """Warns of a vector laid along the wrong axis, which equal sizes hide."""
        if len(tile.shape) != 2 or not known_equal(tile.shape[0], 1) or tile.facts.tag != "row":
            return
        mine = tile.facts.origins[1]
        for other in others:
            rows, columns = other.facts.origins if len(other.shape) == 2 else (None, None)
            if mine is not None and mine == rows and mine != columns and not known_equal(other.shape[0], 1):
                self.report.warn("W205", "a vector with one element per row is laid along the columns here", span)

    def lift(self, operands: list[Operand], make: Callable[[list[Operand]], Operand], span: Span) -> Operand:
        """`make` applied element by element to tiles and uniform elements."""
        at = [i for i, o in enumerate(operands) if self.is_tile(o)]
        tiles = self.align([self.tile(operands[i], span) for i in at], span)
        names = [f"{_STAND_IN}{i}" for i in at]
        given = list(operands)
        for i, name, tile in zip(at, names, tiles, strict=True):
            given[i] = Read(Var(name, Elem(tile.dtype)), span)
        for operand in given:
            if not isinstance(operand, NOT_ELEMENTS) and operand.type.varying:
                raise fail("E206", "a value that differs between the lanes cannot meet a tile", span,
                           "tiles belong to the group as a whole")  # fmt: skip
        result = make(given)
        if isinstance(result, Static):
            result = to_expr(result, span)
        assert not isinstance(result, NOT_ELEMENTS)
        env = {name: self._cheap(tile, result, name) for name, tile in zip(names, tiles, strict=True)}
        shape = tiles[0].shape
        facts = merge(tiles, span)
        if len(tiles) == 1 and isinstance(result, (Cast, Read)):
            facts = tiles[0].facts
        return TileOp(self._tiled(self._lifted(result, env, shape), shape, span), facts)

    def _cheap(self, tile: TileOp, result: Expr, name: str) -> Expr:
        """The tile's expression; held in a variable if it is used more than once."""
        if isinstance(tile.expr, (Read, Splat)) or _uses(result, name) < 2:
            return tile.expr
        return self.temporary(tile.expr)

    def _tiled(self, expr: Expr, shape: tuple[Dim, ...], span: Span) -> Expr:
        if isinstance(expr.type, TileType):
            return expr
        return Splat(expr, TileType(shape, expr.type.dtype), span)

    def _lifted(self, expr: Expr, env: dict[str, Expr], shape: tuple[Dim, ...]) -> Expr:
        """The expression on tiles; what contains no stand-in stays an element."""

        def together(*sides: Expr) -> list[Expr] | None:
            found = [self._lifted(side, env, shape) for side in sides]
            if not any(isinstance(f.type, TileType) for f in found):
                return None
            return [self._tiled(f, shape, expr.span) for f in found]

        type_ = TileType(shape, expr.type.dtype)
        match expr:
            case Read(var) if var.name in env:
                return env[var.name]
            case Unary(op, a, span=span):
                found = together(a)
                return expr if found is None else Unary(op, found[0], type_, span)
            case Cast(a, span=span):
                found = together(a)
                return expr if found is None else Cast(found[0], type_, span)
            case Binary(op, a, b, span=span):
                found = together(a, b)
                if found is None:
                    return expr
                x, y = found
                if op == "add" and isinstance(y, Mma) and y.acc is None and y.type == x.type:
                    return replace(y, acc=x)
                if op == "add" and isinstance(x, Mma) and x.acc is None and x.type == y.type:
                    return replace(x, acc=y)
                return Binary(op, x, y, type_, span)
            case Compare(pred, a, b, span=span):
                found = together(a, b)
                return expr if found is None else Compare(pred, found[0], found[1], type_, span)
            case Where(cond, a, b, span=span) | Choose(cond, a, b, span=span):
                found = together(cond, a, b)
                return expr if found is None else Where(found[0], found[1], found[2], type_, span)
        return expr

    # -- reductions and products -------------------------------------------------------------------------------------

    def masked(self, tile: TileOp, axes: tuple[int, ...], fill: float | int, span: Span) -> Expr:
        """The tile with `fill` where it is not valid along some axes."""
        counts = tuple(c if axis in axes else None for axis, c in enumerate(tile.facts.counts))
        if not any(c is not None for c in counts) or (tile.facts.zero and fill == 0):
            return tile.expr
        other = Splat(convert(Const(fill, Elem(tile.dtype.base), span), tile.dtype), tile.type, span)
        return Mask(tile.expr, counts, other, tile.type, span)

    def reduce_axis(self, op: str, tile: TileOp, axis: int, span: Span) -> TileOp | Expr:
        """One axis reduced: a tile of one rank less, or a uniform element. Invalid elements do not count (R8)."""
        rank = len(tile.shape)
        dtype = tile.dtype
        wide = i64 if dtype.kind == "bool" else dtype.accum if op == "add" else dtype.wide
        tile = cast_tile(tile, wide, span)
        fill: float | int = 0
        if op != "add":
            worst = float("-inf") if op == "max" else float("inf")
            limit = wide.min_value if op == "max" else wide.max_value
            fill = worst if wide.is_float else int(limit)
        masked = self.masked(tile, (axis,), fill, span)
        if rank == 1:
            return ReduceTile(op, masked, 0, Elem(wide), span)
        left = [a for a in range(rank) if a != axis]
        type_ = TileType(tuple(tile.shape[a] for a in left), wide)
        tag = ("row" if axis == 1 else "col") if rank == 2 else None
        facts = Facts(tuple(tile.facts.counts[a] for a in left), tuple(tile.facts.origins[a] for a in left), tag)
        if op == "add" and tile.facts.form is not None and tile.facts.form[0] == "exp":
            facts = replace(facts, form=("sum", tile.facts.form[1]))
        return TileOp(ReduceTile(op, masked, axis, type_, span), facts)

    def mma(self, a: TileOp, b: TileOp, acc: TileOp | DType | None, span: Span) -> TileOp:
        """`acc + a @ b`. Raises SourceError E223, E206."""
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise fail("E223", f"mma multiplies two tiles of rank 2, not {a.type} and {b.type}", span)
        if not may_equal(a.shape[1], b.shape[0]):
            raise fail("E223", f"mma contracts {a.shape[1]} columns with {b.shape[0]} rows", span,
                       f"the operands are {a.type} and {b.type}; `.T` transposes one")  # fmt: skip
        left, right = self._operand_types(a, b, span)
        a, b = cast_tile(a, left, span), cast_tile(b, right, span)
        dtype = promote(left, right).accum if left.is_float else left.accum
        if isinstance(acc, DType) and acc.base != dtype:
            raise fail("E206", f"mma of {left} and {right} accumulates in {dtype}, not {acc}", span)
        type_ = TileType((a.shape[0], b.shape[1]), dtype)
        x, y = self.masked(a, (1,), 0, span), self.masked(b, (0,), 0, span)
        counts, origins = (a.facts.counts[0], b.facts.counts[1]), (a.facts.origins[0], b.facts.origins[1])
        start: Expr | None = None
        if isinstance(acc, TileOp):
            if len(acc.shape) != 2 or not all(map(may_equal, acc.shape, type_.shape)):
                raise fail("E223", f"the accumulator is {acc.type}, and the product is {type_}", span)
            if acc.dtype.wide != dtype:
                what = f"mma of {left} and {right} accumulates in {dtype}"
                raise fail("E206", f"{what}, not in a tile of {acc.dtype}", span)
            acc = cast_tile(acc, dtype, span)
            start = acc.expr
            merged = merge([acc, TileOp(x, Facts(counts, origins))], span)
            counts, origins = merged.counts, merged.origins  # type: ignore[assignment]
        return TileOp(Mma(x, y, start, type_, span), Facts(counts, origins))

    def _operand_types(self, a: TileOp, b: TileOp, span: Span) -> tuple[DType, DType]:
        """What the operands are multiplied as: their own types if equal; a computed f32 tile takes a narrow type."""
        x, y = a.dtype.base, b.dtype.base
        if "bool" in (x.kind, y.kind):
            raise fail("E206", "mma multiplies numbers, not bools", span, "convert with ts.cast")
        if x == y or (x.is_narrow and y.is_narrow and x.bits == y.bits == 8):
            return x, y
        if x.is_float != y.is_float or not x.is_float:
            raise fail("E206", f"mma of {x} and {y}", span, "convert one of them with ts.cast")
        if x.is_narrow and y.is_narrow:
            both = promote(x, y)
            return both, both
        wide, narrow = (a, y) if x.bits > y.bits else (b, x)
        if wide.dtype.name == "f32" and narrow.is_narrow and not wide.facts.loaded:
            both = bf16 if narrow.bits == 8 else narrow
            self.report.once(f"the f32 operand of mma is rounded to {both}, the type of the other one", span)
            return both, both
        both = promote(x, y)
        return both, both

    # -- tiles as values ---------------------------------------------------------------------------------------------

    def expand(self, tile: TileOp, items: list[str], span: Span) -> TileOp:
        """`t[:, None]`: new axes of extent 1. `items` are ":" and "None"."""
        if items.count(":") != len(tile.shape) or len(items) > 3:
            raise fail("E207", f"a tile of rank {len(tile.shape)} has one `:` for each of its axes, and `None`", span)
        axes = tuple(at for at, item in enumerate(items) if item == ":")
        shape = tuple(tile.shape[axes.index(at)] if at in axes else 1 for at in range(len(items)))
        out = spread(tile, shape, axes, span)
        return TileOp(out.expr, replace(out.facts, tag=tile.facts.tag)) if len(shape) == 2 else out

    def all_reduced(self, op: str, tile: TileOp, span: Span) -> Expr:
        """All elements reduced, the last axis first."""
        while True:
            value = self.reduce_axis(op, tile, len(tile.shape) - 1, span)
            if not isinstance(value, TileOp):
                return value
            tile = value

    def scalar(self, operand: Operand, dtype: DType, span: Span) -> Expr:
        """A uniform element of a type, to be spread over a tile. Raises SourceError E206."""
        if not is_expr(operand):
            raise fail("E206", f"a uniform number is needed here, not {describe(operand)}", span)
        expr = to_expr(operand, span, dtype)
        if expr.type.varying:
            raise fail("E206", "a tile cannot be filled with a value that differs between the lanes", span)
        return expr


def _uses(expr: Expr, name: str) -> int:
    return sum(isinstance(e, Read) and e.var.name == name for e in parts(expr))


