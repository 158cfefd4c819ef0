"""The typed tree of a kernel: names are resolved, helpers inlined, every expression has an element type.

An expression is *uniform* (one value for the group) or *varying* (one value per lane). Statements change variables
and buffers only. A `Var` is one storage place: a Python name that changes its type in the course of a kernel has
several. Operation names are those of the compiler's `arith` dialect, so that the tree lowers without a table.

Ids, loops that are spread over groups (rules R2, R3, R4) and over lanes, and returned scalars and tiles are already
spelled out: the tree has sequential loops and stores only. Tiles are described in `tile_tree.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from tessera.dtypes import DType
from tessera.errors import Span
from tessera.kernel.atomic_tree import Atomic, AtomicTile
from tessera.kernel.tile_tree import (
    Axis,
    Broadcast,
    Commit,
    Copy,
    Iota,
    LoadTile,
    Mask,
    Mma,
    Permute,
    ReduceTile,
    Splat,
    StoreTile,
    TileType,
    Wait,
    Window,
)
from tessera.shapes import Dim

__all__ = [
    "Alloc", "Assign", "Atomic", "AtomicTile", "Axis", "Barrier", "Binary", "Block", "Broadcast", "Buffer", "Cast",
    "Choose", "Commit", "Compare", "Const", "Copy", "DimValue", "Elem", "Expr", "For", "Id", "If", "Iota", "KernelDef",
    "Load", "LoadTile", "Mask", "Mma", "Note", "Param", "Permute", "Read", "Reduce", "ReduceTile", "Result", "Splat",
    "Stmt", "Store", "StoreTile", "TileType", "Unary", "Var", "Wait", "Where", "While", "Window", "children", "parts",
    "walk", "walk_exprs",
]  # fmt: skip


@dataclass(frozen=True)
class Elem:
    """The type of one element: its dtype, and whether it differs between the lanes of a group."""

    dtype: DType
    varying: bool = False

    def __str__(self) -> str:
        return f"{'varying' if self.varying else 'uniform'} {self.dtype}"


@dataclass(frozen=True)
class Var:
    """A storage place for one element (per lane if varying) or a tile; equal when name and type are."""

    name: str
    type: Elem | TileType


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory: a parameter (`global`) or an allocation of the group (`shared`).

    `declared` are the dims of a parameter as the signature names them: where numbers are given for them, names still
    tell axes of one size apart.
    """

    name: str
    dims: tuple[Dim, ...]
    dtype: DType
    space: str
    span: Span
    swizzle: str | None = None
    alignment: int | None = None
    declared: tuple[Dim, ...] = ()

    def axis(self, at: int) -> Dim:
        """The size of an axis, by its name where it has one."""
        return self.declared[at] if self.declared else self.dims[at]

    @property
    def rank(self) -> int:
        return len(self.dims)


# Expressions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Const:
    value: int | float | bool
    type: Elem
    span: Span


@dataclass(frozen=True)
class DimValue:
    """The run-time value of a dim expression (i64)."""

    dim: Dim
    type: Elem
    span: Span


@dataclass(frozen=True)
class Id:
    """`linear`, `local`, `lane` (varying) or `group` (uniform, along grid axis `axis`)."""

    kind: str
    type: Elem
    span: Span
    axis: int = 0


@dataclass(frozen=True)
class Read:
    """A variable's value. `known` is an expression of ids, dims and constants that it is known to equal."""

    var: Var
    span: Span
    known: Expr | None = None

    @property
    def type(self) -> Elem | TileType:
        return self.var.type


@dataclass(frozen=True)
class Unary:
    op: str
    a: Expr
    type: Elem | TileType
    span: Span


@dataclass(frozen=True)
class Binary:
    op: str
    a: Expr
    b: Expr
    type: Elem | TileType
    span: Span


@dataclass(frozen=True)
class Compare:
    pred: str
    a: Expr
    b: Expr
    type: Elem | TileType
    span: Span


@dataclass(frozen=True)
class Cast:
    a: Expr
    type: Elem | TileType
    span: Span


@dataclass(frozen=True)
class Choose:
    """`a if cond else b`: each lane evaluates only its side (also what `and` and `or` become)."""

    cond: Expr
    a: Expr
    b: Expr
    type: Elem
    span: Span


@dataclass(frozen=True)
class Where:
    """Both sides are evaluated by all lanes."""

    cond: Expr
    a: Expr
    b: Expr
    type: Elem | TileType
    span: Span


@dataclass(frozen=True)
class Load:
    buffer: Buffer
    indices: tuple[Expr, ...]
    type: Elem
    span: Span


@dataclass(frozen=True)
class Reduce:
    """`add`, `max`, `min` of one element per lane: lane l takes in lane l + n/2, then n halves. Uniform."""

    op: str
    a: Expr
    type: Elem
    span: Span


@dataclass(frozen=True)
class Block:
    """An inlined helper: the statements, then its value."""

    body: tuple[Stmt, ...]
    value: Expr
    span: Span

    @property
    def type(self) -> Elem | TileType:
        return self.value.type


Expr: TypeAlias = (
    Const | DimValue | Id | Read | Unary | Binary | Compare | Cast | Choose | Where | Load | Reduce | Block
    | LoadTile | Splat | Iota | Broadcast | Permute | ReduceTile | Mma | Mask
)  # fmt: skip

# Statements -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Assign:
    var: Var
    value: Expr
    span: Span


@dataclass(frozen=True)
class Store:
    """`varying` when executed per lane: under varying control, or with a varying index or value."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    value: Expr
    varying: bool
    span: Span


@dataclass(frozen=True)
class If:
    cond: Expr
    then: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]
    span: Span


@dataclass(frozen=True)
class For:
    """`var` = lo, lo + step, .. below hi, one after the other; `var` is varying if a bound is."""

    var: Var
    lo: Expr
    hi: Expr
    step: Expr
    body: tuple[Stmt, ...]
    span: Span


@dataclass(frozen=True)
class While:
    cond: Expr
    body: tuple[Stmt, ...]
    span: Span


@dataclass(frozen=True)
class Barrier:
    span: Span


@dataclass(frozen=True)
class Alloc:
    """Fresh memory of the group; its contents are undefined."""

    buffer: Buffer
    span: Span


Stmt: TypeAlias = (
    Assign | Store | Atomic | If | For | While | Barrier | Alloc | StoreTile | AtomicTile | Copy | Commit | Wait
)  # fmt: skip

# Kernels --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    """Something that the rules of the language decided, or (with a code `Wxyz`) a warning."""

    message: str
    span: Span
    code: str | None = None


@dataclass(frozen=True)
class Param:
    """A parameter: `buffer` set for a tensor, `var` for a scalar, neither for a compile-time constant."""

    name: str
    span: Span
    buffer: Buffer | None = None
    var: Var | None = None
    default: object = None
    has_default: bool = False
    constant: bool = False


@dataclass(frozen=True)
class Result:
    """A returned parameter (`param`), or the buffer that a returned scalar (rank 0) or tile is stored to."""

    name: str
    buffer: Buffer
    param: str | None = None


@dataclass(frozen=True)
class KernelDef:
    """A kernel ready to be evaluated or lowered.

    `grid` is the number of groups per axis, `group` the lanes of a group, `symbols` all dim names (sorted), `written`
    and `read` the names of parameters that the kernel stores to and loads from. `axes` are the axes of the grid that
    rules R2 to R4 made, in grid order. `config` holds the schedule parameters (of the autotune space, and rule R11).
    `fixed` are dims that are compile-time numbers here; `open` are those that must be fixed (`specialise`) before
    the kernel can be evaluated or lowered, because the shape of a tile depends on them.
    """

    name: str
    params: tuple[Param, ...]
    body: tuple[Stmt, ...]
    results: tuple[Result, ...]
    group: int
    grid: tuple[Dim, ...]
    symbols: tuple[str, ...]
    read: frozenset[str]
    written: frozenset[str]
    notes: tuple[Note, ...]
    span: Span
    doc: str = ""
    constants: tuple[tuple[str, object], ...] = ()
    explicit_grid: bool = False
    axes: tuple[Axis, ...] = ()
    config: tuple[tuple[str, int], ...] = ()
    fixed: tuple[tuple[str, int], ...] = ()
    open: tuple[str, ...] = ()
    function: object = field(default=None, compare=False)

    @property
    def buffers(self) -> tuple[Param, ...]:
        return tuple(p for p in self.params if p.buffer is not None)

    @property
    def warnings(self) -> tuple[Note, ...]:
        return tuple(note for note in self.notes if note.code is not None)

    def access(self, name: str) -> str:
        """`read`, `write` or `readwrite` of a tensor parameter, `value` of a scalar."""
        if not any(p.name == name for p in self.buffers):
            return "value"
        if name not in self.written:
            return "read"
        return "readwrite" if name in self.read else "write"


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct operands of an expression (for a block: its value)."""
    match expr:
        case Unary(_, a) | Cast(a) | Reduce(_, a):
            return (a,)
        case Binary(_, a, b) | Compare(_, a, b):
            return (a, b)
        case Choose(cond, a, b) | Where(cond, a, b):
            return (cond, a, b)
        case Load(_, indices):
            return indices
        case LoadTile(window):
            return window.starts
        case Splat(a) | Broadcast(a) | Permute(a) | ReduceTile(_, a):
            return (a,)
        case Mma(a, b, acc):
            return (a, b) if acc is None else (a, b, acc)
        case Mask(a, counts, other):
            return (a, *(c for c in counts if c is not None), other)
        case Block(_, value):
            return (value,)
        case _:
            return ()


def _own(stmt: Stmt) -> tuple[Expr, ...]:
    match stmt:
        case Assign(_, value):
            return (value,)
        case Store(_, indices, value) | Atomic(_, _, indices, value):
            return (*indices, value)
        case StoreTile(window, value, counts) | AtomicTile(_, window, value, counts):
            return (*window.starts, value, *(c for c in counts if c is not None))
        case Copy(dst, src):
            return (*dst.starts, *src.starts)
        case If(cond) | While(cond):
            return (cond,)
        case For(_, lo, hi, step):
            return (lo, hi, step)
        case _:
            return ()


def walk(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """All statements, outer first, those inside inlined helpers included."""
    for stmt in body:
        yield stmt
        for expr in _own(stmt):
            for inner in parts(expr):
                if isinstance(inner, Block):
                    yield from walk(inner.body)
        match stmt:
            case If(_, then, orelse):
                yield from walk(then)
                yield from walk(orelse)
            case For(body=inner_body) | While(body=inner_body):
                yield from walk(inner_body)


def parts(expr: Expr) -> Iterator[Expr]:
    """An expression and all its operands (of a block: its value's)."""
    yield expr
    for child in children(expr):
        yield from parts(child)


def walk_exprs(body: tuple[Stmt, ...]) -> Iterator[Expr]:
    """All expressions of all statements."""
    for stmt in walk(body):
        for expr in _own(stmt):
            yield from parts(expr)
