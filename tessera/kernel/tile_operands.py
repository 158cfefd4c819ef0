"""Tiles while a kernel is read: operands with what is known about them, and broadcasting.

Beside its expression a tile has *facts*: which part of it is valid where a slice lies over the edge of a tensor (rule
R8), whether a vector belongs to rows or to columns (R5), and where its axes begin. They steer what the reader writes
into the tree (`Mask`, `Broadcast`) and never reach it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from tessera.dtypes import DType
from tessera.errors import Span
from tessera.kernel.report import fail
from tessera.kernel.tree import (
    Binary,
    Broadcast,
    Cast,
    Const,
    DimValue,
    Elem,
    Expr,
    Id,
    Permute,
    Read,
    Splat,
    TileType,
    Unary,
    Window,
    parts,
)
from tessera.shapes import Dim, known_equal

__all__ = [
    "Facts", "Register", "TileOp", "WindowRef", "apart", "broadcast_shapes", "cast_tile", "counts_of", "direct", "key",
    "least", "linear", "may_equal", "merge", "reads", "splat", "spread", "tile_type", "transpose", "unknown_count",
]  # fmt: skip

Counts: TypeAlias = "tuple[Expr | None, ...]"


@dataclass(frozen=True)
class Facts:
    """What is known about a tile.

    `counts`: per axis the number of valid elements (an effect-free i64 expression), None where all are. `zero`: what
    is not valid is 0. `origins`: per axis where it begins in a tensor, None if nothing is known. `tag`: `row` or `col`
    for a vector with one element per row or column. `form`: how it was computed, for the warning W206. `pinned`: all
    elements count, because a loop carries it: an update by a ragged tile changes the valid part only. `updated`: the
    value of a name computed from that name.
    """

    counts: Counts
    origins: tuple[str | None, ...]
    tag: str | None = None
    zero: bool = False
    form: tuple[str, str] | None = None
    pinned: bool = False
    updated: bool = False
    loaded: bool = False

    @staticmethod
    def plain(rank: int) -> Facts:
        return Facts((None,) * rank, (None,) * rank)


@dataclass(frozen=True, eq=False)
class TileOp:
    """A tile value."""

    expr: Expr
    facts: Facts

    @property
    def type(self) -> TileType:
        assert isinstance(self.expr.type, TileType)
        return self.expr.type

    @property
    def dtype(self) -> DType:
        return self.expr.type.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape


@dataclass(frozen=True, eq=False)
class WindowRef:
    """A slice of memory that is named, not read. `whole` when it was made without an index of its own axes."""

    window: Window
    span: Span


@dataclass(frozen=True)
class Register:
    """Registers that have been allocated and hold no value yet."""

    type: TileType | Elem


# Keys of uniform expressions ------------------------------------------------------------------------------------------


def key(expr: Expr) -> str:
    """A spelling that is equal for equal uniform i64 expressions, whatever their places in the source."""
    terms, constant = linear(expr)
    spelled = [f"{coef}*{name}" for name, coef in sorted(terms.items()) if coef]
    return "+".join([*spelled, f"({constant})"])


def linear(expr: Expr) -> tuple[dict[str, int], Dim]:
    """The expression as a sum of atoms times integers, and a dim."""
    match expr:
        case Const(value) if isinstance(value, int):
            return {}, int(value)
        case DimValue(dim):
            return {}, dim
        case Read(var):
            return {f"{var.name}": 1}, 0
        case Binary("add" | "sub" as op, a, b):
            (x, c), (y, d) = linear(a), linear(b)
            sign = 1 if op == "add" else -1
            return {n: x.get(n, 0) + sign * y.get(n, 0) for n in {**x, **y}}, c + d if sign == 1 else c - d
        case Binary("mul", a, b):
            (x, c), (y, d) = linear(a), linear(b)
            if not x and isinstance(c, int):
                return {n: k * c for n, k in y.items()}, d * c
            if not y and isinstance(d, int):
                return {n: k * d for n, k in x.items()}, c * d
            if not x and not y:
                return {}, c * d
        case Cast(a, Elem(dtype)) if a.type.dtype.is_int and dtype.is_int and dtype.bits > a.type.dtype.bits:
            return linear(a)  # an index that overflows its narrow type is out of bounds anyhow
    return {_spelled(expr): 1}, 0


def least(a: Expr, b: Expr, span: Span) -> Expr:
    """The smaller one of two counts; one of them as it is where that is known to be it."""
    x, y = _terms_of_min(a), _terms_of_min(b)
    if x >= y:
        return a
    return b if y >= x else Binary("min", a, b, a.type, span)


def _terms_of_min(expr: Expr) -> frozenset[str]:
    match expr:
        case Binary("min", a, b):
            return _terms_of_min(a) | _terms_of_min(b)
    return frozenset({key(expr)})


def _spelled(expr: Expr) -> str:
    match expr:
        case Binary("min"):
            return f"min({','.join(sorted(_terms_of_min(expr)))})"
        case Binary(op, a, b):
            return f"{op}({key(a)},{key(b)})"
        case Unary(op, a):
            return f"{op}({key(a)})"
        case Cast(a, type_):
            return f"{type_}({key(a)})"
        case Id(kind, axis=axis):
            return f"{kind}_id({axis})"
        case _:
            return f"{type(expr).__name__}@{expr.span.line}:{expr.span.col}:{id(expr)}"


def apart(a: Expr, b: Expr) -> Dim | None:
    """`b - a` where that is a dim."""
    (x, c), (y, d) = linear(a), linear(b)
    if any(x.get(n, 0) != y.get(n, 0) for n in {**x, **y}):
        return None
    return d - c


def reads(expr: Expr) -> set[str]:
    """The names of the variables that an expression reads."""
    return {e.var.name for e in parts(expr) if isinstance(e, Read)}


def unknown_count(count: Expr | None) -> str | None:
    """`buffer.axis` of shared memory, if its count differs between iterations there and is not tracked."""
    if count is not None:
        for name in sorted(reads(count)):
            if name.startswith("?"):
                return name[1:]
    return None


# Making tiles ---------------------------------------------------------------------------------------------------------


def splat(value: Expr, shape: tuple[Dim, ...], span: Span) -> TileOp:
    """A uniform element in every place."""
    assert isinstance(value.type, Elem) and not value.type.varying
    return TileOp(Splat(value, TileType(shape, value.type.dtype), span), Facts.plain(len(shape)))


def tile_type(shape: tuple[Dim, ...], dtype: DType) -> TileType:
    return TileType(shape, dtype.base)


def cast_tile(tile: TileOp, dtype: DType, span: Span) -> TileOp:
    """The tile as another element type."""
    dtype = dtype.base
    if tile.dtype == dtype:
        return tile
    return TileOp(Cast(tile.expr, TileType(tile.shape, dtype), span), tile.facts)


def transpose(tile: TileOp, span: Span) -> TileOp:
    """The last two axes exchanged. Raises SourceError E207 for a vector."""
    rank = len(tile.shape)
    if rank < 2:
        raise fail("E207", "`.T` needs a tile with two axes", span, "use [:, None] or [None, :] for a vector")
    axes = (*range(rank - 2), rank - 1, rank - 2)
    facts = tile.facts
    swapped = replace(
        facts, counts=tuple(facts.counts[i] for i in axes), origins=tuple(facts.origins[i] for i in axes), form=None
    )
    type_ = TileType(tuple(tile.shape[i] for i in axes), tile.dtype)
    if isinstance(tile.expr, Permute):
        return TileOp(tile.expr.a, swapped)
    return TileOp(Permute(tile.expr, axes, type_, span), swapped)


def may_equal(a: Dim, b: Dim) -> bool:
    """Whether two extents are equal, or may be (one of them is not fixed yet)."""
    return known_equal(a, b) or not (isinstance(a, int) and isinstance(b, int))


def counts_of(*tiles: TileOp) -> list[Expr]:
    """All counts of some tiles."""
    return [c for t in tiles for c in t.facts.counts if c is not None]


# Broadcasting ---------------------------------------------------------------------------------------------------------


def broadcast_shapes(shapes: list[tuple[Dim, ...]], span: Span) -> tuple[Dim, ...]:
    """The common shape of tiles of one rank: extents equal, or 1. Raises SourceError E223."""
    out: list[Dim] = list(shapes[0])
    for shape in shapes[1:]:
        for axis, extent in enumerate(shape):
            if known_equal(out[axis], 1):
                out[axis] = extent
            elif not known_equal(extent, 1) and not known_equal(extent, out[axis]):
                if not may_equal(extent, out[axis]):
                    text = " and ".join(f"({', '.join(map(str, s))})" for s in shapes)
                    raise fail("E223", f"tiles of shapes {text} do not fit together", span)
                if isinstance(extent, int):
                    out[axis] = extent
    return tuple(out)


def direct(vector: TileOp, other: TileOp, span: Span) -> tuple[int, str]:
    """The axis of `other` that a vector lies along, and why (rule R5). Raises SourceError E223."""
    if vector.facts.tag is not None:
        what = "row" if vector.facts.tag == "row" else "column"
        return (0 if what == "row" else 1), f"R5: the vector has one element per {what}"
    origin = vector.facts.origins[0]
    found = [axis for axis, o in enumerate(other.facts.origins) if o is not None and o == origin]
    if len(found) == 1:
        return found[0], f"R5: the vector begins where axis {found[0]} of the tile does"
    if isinstance(vector.expr, Splat):
        fits = [a for a, e in enumerate(other.shape) if known_equal(e, vector.shape[0])]
        return (fits[0] if fits else 0), ""
    equal = [axis for axis, e in enumerate(other.shape) if may_equal(e, vector.shape[0])]
    help = "write [:, None] for one element per row, [None, :] for one per column"
    if len(equal) > 1:
        help = f"both axes have {vector.shape[0]} elements, so lengths cannot decide; {help}"
    raise fail("E223", f"a vector of {vector.shape[0]} meets a tile of {other.type}: along which axis?", span, help)


def spread(tile: TileOp, shape: tuple[Dim, ...], axes: tuple[int, ...], span: Span) -> TileOp:
    """The tile broadcast to `shape`, its axes becoming `axes`."""
    if axes == tuple(range(len(shape))) and tile.shape == shape:
        return tile
    counts: list[Expr | None] = [None] * len(shape)
    origins: list[str | None] = [None] * len(shape)
    for at, axis in enumerate(axes):
        if known_equal(tile.shape[at], shape[axis]) or not known_equal(tile.shape[at], 1):
            counts[axis], origins[axis] = tile.facts.counts[at], tile.facts.origins[at]
    facts = Facts(tuple(counts), tuple(origins))
    type_ = TileType(shape, tile.dtype)
    if isinstance(tile.expr, Splat):
        return TileOp(Splat(tile.expr.a, type_, span), facts)
    return TileOp(Broadcast(tile.expr, axes, type_, span), facts)


def merge(tiles: list[TileOp], span: Span) -> Facts:
    """The facts of a value computed element by element: valid where all operands are."""
    first = tiles[0].facts
    counts, origins = list(first.counts), list(first.origins)
    tag, pinned = first.tag, False
    for tile in tiles[1:]:
        facts = tile.facts
        for axis, count in enumerate(facts.counts):
            counts[axis] = _smaller(counts[axis], count, span)
            origins[axis] = facts.origins[axis] if origins[axis] is None else origins[axis]
        if tag is not None and facts.tag is not None and facts.tag != tag:
            raise fail("E223", "one of the vectors has an element per row, the other one per column", span)
        tag = tag or facts.tag
    return Facts(tuple(counts), tuple(origins), tag, pinned=pinned)


def _smaller(a: Expr | None, b: Expr | None, span: Span) -> Expr | None:
    if a is None or b is None:
        return b if a is None else a
    return least(a, b, span)
