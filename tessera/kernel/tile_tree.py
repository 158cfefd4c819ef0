"""The tile part of a kernel's typed tree: values that a group holds together, and the memory they come from.

A *tile* is a value of the whole group: an array of rank 1 to 3 whose type is `TileType(shape, dtype)`. Tiles are
immutable values like elements; they are held in `Var`s, carried by loops and joined by branches in the same way
(`Assign`, `If`, `For`, `While`, `Read` of `tree.py` know both). Tile operations stand in uniform control flow only.

The element nodes of `tree.py` are used for tiles too: `Unary`, `Binary`, `Compare`, `Cast`, `Where` and `Read` with a
`TileType` take operands that are tiles of exactly that shape. Everything implicit in the source is explicit here:

- a number beside a tile is a `Splat`; broadcasting, `[:, None]` and rule R5 are `Broadcast`; `.T` is `Permute`;
- `zeros` and `full` are `Splat(Const)`; `causal_mask`, `online_softmax`, `update_accumulator` ... are spelled out;
- `a + mma(b, c)` is `Mma(b, c, acc=a)` where a is a tile of the accumulator's type;
- operands of `Mma` have the types that the product is made of: equal types, or two fp8 types;
- reads outside of a tensor give 0 and writes there are dropped (rule R8): `LoadTile`, `Copy`, `StoreTile` and
  `AtomicTile` clip their window to the buffer's extents by themselves. Where more is needed (the identity of a
  reduction, 0 in an operand of `Mma` that was computed) a `Mask` says so. Nothing else in the tree
  knows about ragged edges.

Memory is named by a `Window`: a rectangle of one buffer. Lists of shared buffers are one buffer with a leading axis,
indexed by the list index (a dropped axis with any uniform index), so a ring of stages needs no node of its own.

A `Barrier` completes all copies of the group (rule R6: commit, wait for all, then synchronise). Tile operations of a
group mean program order (rule R7): whoever lowers the tree orders conflicting `LoadTile`, `StoreTile` and `Copy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tessera.dtypes import DType
from tessera.errors import Span
from tessera.shapes import Dim

if TYPE_CHECKING:
    from tessera.kernel.tree import Buffer, Elem, Expr

__all__ = [
    "Axis", "Broadcast", "Commit", "Copy", "Iota", "LoadTile", "Mask", "Mma", "Permute", "ReduceTile", "Splat",
    "StoreTile", "TileType", "Wait", "Window",
]  # fmt: skip


@dataclass(frozen=True)
class TileType:
    """A tile: its shape (ints once the kernel's open dims are fixed) and element type."""

    shape: tuple[Dim, ...]
    dtype: DType
    varying: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(frozen=True)
class Window:
    """A rectangle of a buffer: on each axis a uniform i64 start and an extent; None drops the axis (one index).

    A shape of rank 0 is one element. An extent that equals the axis' dim with start 0 is the whole axis.
    """

    buffer: Buffer
    starts: tuple[Expr, ...]
    extents: tuple[Dim | None, ...]

    @property
    def shape(self) -> tuple[Dim, ...]:
        return tuple(e for e in self.extents if e is not None)

    @property
    def type(self) -> TileType:
        return TileType(self.shape, self.buffer.dtype.base)


# Expressions (all of them have `type: TileType` and `span`) -----------------------------------------------------------


@dataclass(frozen=True)
class LoadTile:
    """The elements of a window; 0 where it lies outside of its buffer."""

    window: Window
    span: Span

    @property
    def type(self) -> TileType:
        return self.window.type


@dataclass(frozen=True)
class Splat:
    """A uniform element in every place."""

    a: Expr
    type: TileType
    span: Span


@dataclass(frozen=True)
class Iota:
    """The coordinates 0, 1, .. of a rank-1 tile of i32."""

    type: TileType
    span: Span


@dataclass(frozen=True)
class Broadcast:
    """Axis i of `a` becomes axis `axes[i]` (ascending) of the result; it has that extent, or 1 and is repeated.

    Axes of the result that are not in `axes` repeat all of `a`.
    """

    a: Expr
    axes: tuple[int, ...]
    type: TileType
    span: Span


@dataclass(frozen=True)
class Permute:
    """Axis i of the result is axis `axes[i]` of `a` (a transpose)."""

    a: Expr
    axes: tuple[int, ...]
    type: TileType
    span: Span


@dataclass(frozen=True)
class ReduceTile:
    """`add`, `max`, `min` over one axis, which goes away. Operands have the accumulating type (f32, f64, i32, i64).
    Of a tile of rank 1 the result is a uniform element.

    The meaning of `add` is the tree of halves: with n the next power of two of the extent and identities behind the
    end, element l takes in element l + n/2, and so on. `max` and `min` propagate NaN.
    """

    op: str
    a: Expr
    axis: int
    type: TileType | Elem
    span: Span


@dataclass(frozen=True)
class Mma:
    """`acc + a @ b` (`acc` None: 0): a is m x k, b k x n. Both widen to the type's dtype, which accumulates."""

    a: Expr
    b: Expr
    acc: Expr | None
    type: TileType
    span: Span


@dataclass(frozen=True)
class Mask:
    """`a` where on every axis the coordinate is below the axis' count (uniform i64; None: everywhere), else `other`.

    Counts may be negative or beyond the extent. `other` is a tile of the same type.
    """

    a: Expr
    counts: tuple[Expr | None, ...]
    other: Expr
    type: TileType
    span: Span


# Statements -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreTile:
    """Stores a tile of the window's type; what lies outside of the buffer, or behind a count, is dropped."""

    window: Window
    value: Expr
    counts: tuple[Expr | None, ...]
    span: Span


@dataclass(frozen=True)
class Copy:
    """Starts an asynchronous copy of `src` (global, clipped: 0 outside) to `dst` (shared); the shapes are equal.

    It belongs to the group that the next `Commit` makes. The data are there after a `Wait` that covers it, or a
    `Barrier`; to read `dst` before is an error.
    """

    dst: Window
    src: Window
    span: Span


@dataclass(frozen=True)
class Commit:
    """The copies started since the last commit become one group."""

    span: Span


@dataclass(frozen=True)
class Wait:
    """Until at most `pending` of the groups committed last are unfinished. Copies not committed are not waited for."""

    pending: int
    span: Span


# The grid -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A parallel axis of the launch: `name` = start + group_id(axis) * step, for `trips` groups.

    `kind` is "domain" (rule R2), "work" (R3) or "batch" (R4). The kernel's body begins with an `Assign` to the variable
    `<name>.block` for each axis, in their order.
    """

    name: str
    start: Dim
    stop: Dim
    step: Dim
    trips: Dim
    kind: str
