"""Statements and expressions of a kernel's typed tree as Tile IR."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tessera.dtypes import f64
from tessera.errors import Span
from tessera.kernel import values
from tessera.kernel.tree import (
    Alloc,
    Assign,
    Atomic,
    AtomicTile,
    Barrier,
    Binary,
    Block,
    Buffer,
    Cast,
    Choose,
    Commit,
    Compare,
    Const,
    Copy,
    DimValue,
    Elem,
    Expr,
    For,
    Id,
    If,
    Load,
    Read,
    Reduce,
    Stmt,
    Store,
    StoreTile,
    TileType,
    Unary,
    Var,
    Wait,
    Where,
    While,
    parts,
    walk,
)
from tesseracc.frontend.kernel_tiles import copy_tile, ir_tile, static_extents, store_tile, tile_expr, update_tile
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import BOOL, I64, BufType, LanesType, ScalarType, Type, with_element
from tesseracc.ir.value import Loc, Region, Value

__all__ = ["Body"]


def ir_type(elem: Elem | TileType) -> Type:
    """`f32` for a uniform element, `lanes<f32>` for a varying one, `tile<f32[64, 64]>` for a tile."""
    if isinstance(elem, TileType):
        return ir_tile(elem)
    return LanesType(elem.dtype.name) if elem.varying else ScalarType(elem.dtype.name)


def assigned(body: Sequence[Stmt]) -> list[Var]:
    """The variables that statements assign, in order (those of helpers inlined into expressions included)."""
    found: dict[Var, None] = {}
    for stmt in walk(tuple(body)):
        if isinstance(stmt, Assign):
            found.setdefault(stmt.var)
    return list(found)


class Body:
    """Builds operations in `b`; `env` holds the current value of every variable, always of the variable's type."""

    def __init__(self, b: Builder, group: int, loc: Callable[[Span], Loc]) -> None:
        self.b = b
        self.group = group
        self.loc = loc
        self.env: dict[Var, Value] = {}
        self.buffers: dict[Buffer, Value] = {}

    def buffer(self, buffer: Buffer, value: Value) -> Value:
        """Declares what a buffer of the tree is in the IR."""
        self.buffers[buffer] = value
        return value

    # -- regions ---------------------------------------------------------------------------------------------------

    def inside(self, run: Callable[[], None]) -> tuple[Builder, dict[Var, Value]]:
        """Builds into a fresh builder; gives it and the variables at its end. The outer state is kept."""
        outer, env = self.b, self.env
        self.b, self.env = Builder(outer.loc), dict(env)
        try:
            run()
            return self.b, self.env
        finally:
            self.b, self.env = outer, env

    # -- statements ------------------------------------------------------------------------------------------------

    def block(self, body: Sequence[Stmt]) -> None:
        for stmt in body:
            self.b.loc = self.loc(stmt.span)
            self.statement(stmt)

    def statement(self, stmt: Stmt) -> None:
        match stmt:
            case Assign(var, value):
                self.env[var] = self.typed(self.expr(value), var.type)
                if not self.env[var].name:
                    self.env[var].name = var.name.replace(".", "_")
            case Store():
                self.store(stmt)
            case Atomic(op, buffer, exprs, value, varying):
                indices, where = self.element(exprs, varying)
                self.b.emit("tile.update", self.expr(value), self.buffers[buffer], indices, where, kind=op)
            case If():
                self.branch(stmt)
            case For():
                self.loop(stmt)
            case While():
                self.repeat(stmt)
            case Barrier():
                self.b.emit("tile.barrier")
            case StoreTile():
                store_tile(self, stmt)
            case AtomicTile():
                update_tile(self, stmt)
            case Copy():
                copy_tile(self, stmt)
            case Commit():
                self.b.emit("tile.commit")
            case Wait(pending):
                self.b.emit("tile.wait", pending=pending)
            case Alloc(buffer):
                dims = static_extents(buffer.dims, f"the shared memory `{buffer.name}`", stmt.span)
                type_ = BufType(dims, buffer.dtype.name, "shared")
                made = self.b.op("tile.alloc", types=type_, swizzle=buffer.swizzle or "")
                self.buffer(buffer, made).name = buffer.name.replace(".", "_")

    def store(self, stmt: Store) -> None:
        buf = self.buffers[stmt.buffer]
        value = self.expr(stmt.value)
        indices, where = self.element(stmt.indices, stmt.varying)
        self.b.emit("tile.store", value, buf, indices, where)

    def element(self, exprs: Sequence[Expr], varying: bool) -> tuple[list[Value], Value | None]:
        """Indices of an access; one that every active lane makes by itself has a lanes index (or, of rank 0, mask)."""
        indices = [self.expr(i) for i in exprs]
        if not varying or any(isinstance(i.type, LanesType) for i in indices):
            return indices, None
        if not indices:
            return [], self.b.const(True, LanesType("bool"))
        return [self.b.op("tile.splat", indices[0]), *indices[1:]], None

    def branch(self, stmt: If) -> None:
        cond = self.expr(stmt.cond)
        sides = [self.inside(lambda body=body: self.block(body)) for body in (stmt.then, stmt.orelse)]  # type: ignore[misc]
        known = [v for v in assigned((*stmt.then, *stmt.orelse)) if all(v in env for _, env in sides)]
        regions = [b.region((), [env[v] for v in known]) for b, env in sides]
        self._flow("if", [cond], [], known, regions, cond.type != BOOL)

    def _flow(
        self,
        name: str,
        operands: list[Value],
        inits: list[Value],
        results: list[Var],
        regions: list[Region],
        varying: bool,
    ) -> None:
        args: list[Value | Sequence[Value]] = [*operands] if name == "if" else [*operands, inits]
        op = self.b.emit(
            f"{'tile' if varying else 'scf'}.{name}", *args, types=[ir_type(v.type) for v in results], regions=regions
        )
        for var, value in zip(results, op.results, strict=True):
            value.name = var.name.replace(".", "_")
            self.env[var] = value

    def _carried(self, body: Sequence[Stmt]) -> tuple[list[Var], list[Value]]:
        """Variables that pass from one iteration to the next, and fresh region arguments for them."""
        carried = [v for v in assigned(body) if v in self.env]
        return carried, [Value(ir_type(v.type), v.name.replace(".", "_")) for v in carried]

    def loop(self, stmt: For) -> None:
        bounds = [self.expr(e) for e in (stmt.lo, stmt.hi, stmt.step)]
        carried, args = self._carried(stmt.body)
        index = Value(ir_type(stmt.var.type), stmt.var.name.replace(".", "_"))

        def body() -> None:
            self.env.update(zip(carried, args, strict=True))
            self.env[stmt.var] = index
            self.block(stmt.body)

        b, env = self.inside(body)
        region = b.region([index, *args], [env[v] for v in carried])
        self._flow("for", bounds, [self.env[v] for v in carried], carried, [region], stmt.var.type.varying)

    def repeat(self, stmt: While) -> None:
        carried, args = self._carried(stmt.body)
        again = [Value(a.type, a.name) for a in args]
        test: list[Value] = []

        def cond() -> None:
            self.env.update(zip(carried, args, strict=True))
            test.append(self.typed(self.expr(stmt.cond), stmt.cond.type))

        def body() -> None:
            self.env.update(zip(carried, again, strict=True))
            self.block(stmt.body)

        first, _ = self.inside(cond)
        second, env = self.inside(body)
        regions = [first.region(args, test), second.region(again, [env[v] for v in carried])]
        inits = [self.env[v] for v in carried]
        self._flow("while", [], inits, carried, regions, stmt.cond.type.varying)

    # -- expressions -----------------------------------------------------------------------------------------------

    def typed(self, value: Value, elem: Elem | TileType) -> Value:
        """The value in every lane, where that is wanted."""
        if elem.varying and not isinstance(value.type, LanesType):
            return self.b.op("tile.splat", value)
        return value

    def together(self, *exprs: Expr) -> list[Value]:
        """Operands of one operation: all uniform, or all per lane."""
        found = [self.expr(e) for e in exprs]
        if any(isinstance(v.type, LanesType) for v in found):
            return [v if isinstance(v.type, LanesType) else self.b.op("tile.splat", v) for v in found]
        return found

    def expr(self, expr: Expr) -> Value:
        """The value of an expression; it may be uniform where the tree only knows it as varying."""
        b = self.b
        match expr:
            case Const():
                return self.constant(expr)
            case DimValue(dim):
                return b.const(dim, I64) if isinstance(dim, int) else b.op("tile.dim", expr=dim)
            case Id("group", axis=axis):
                return b.op("tile.group_id", axis=axis)
            case Id(kind):
                return b.op(f"tile.{kind}_id")
            case Read(var):
                return self.env[var]
            case Unary("round_tf32", a):
                return round_tf32(b, self.expr(a))
            case Unary(op, a):
                return b.op(f"arith.{op}", self.expr(a))
            case Binary(op, x, y):
                return b.op(f"arith.{op}", *self.together(x, y))
            case Compare(pred, x, y):
                return b.op("arith.cmp", *self.together(x, y), pred=pred)
            case Cast(a, type_):
                return b.op("arith.cast", self.expr(a), to=type_.dtype.name)
            case Where(cond, x, y):
                return b.op("arith.select", *self.together(cond, x, y))
            case Choose():
                return self.choose(expr)
            case Load(buffer, exprs, type_):
                indices, where = self.element(exprs, type_.varying)
                return b.op("tile.load", self.buffers[buffer], indices, where)
            case Reduce(op, a):
                return b.op("tile.reduce", self.typed(self.expr(a), Elem(a.type.dtype, True)), kind=op)
            case Block(body, value):
                self.block(body)
                return self.expr(value)
            case _:
                return tile_expr(self, expr)

    @staticmethod
    def constant_value(expr: Const) -> int | float | bool:
        """The number of a literal, rounded to its type."""
        dtype = expr.type.dtype
        if not dtype.is_float:
            return expr.value
        return float(values.cast(np.array([float(expr.value)]), f64, dtype)[0])

    def constant(self, expr: Const) -> Value:
        """A literal. One of a narrow type enters by a cast that is exact."""
        dtype = expr.type.dtype
        number = self.constant_value(expr)
        if not dtype.is_float:
            return self.b.const(number, dtype.name)
        wide = self.b.const(number, dtype.wide.name)
        return wide if dtype.wide == dtype else self.b.op("arith.cast", wide, to=dtype.name)

    def choose(self, expr: Choose) -> Value:
        """A select where both sides may be computed by everyone, else a branch."""
        if not any(isinstance(e, (Load, Block)) for side in (expr.a, expr.b) for e in parts(side)):
            return self.b.op("arith.select", *self.together(expr.cond, expr.a, expr.b))
        cond = self.typed(self.expr(expr.cond), expr.cond.type)
        regions: list[Region] = []
        for side in (expr.a, expr.b):
            result: list[Value] = []
            b, _ = self.inside(lambda side=side, result=result: result.append(self.typed(self.expr(side), expr.type)))  # type: ignore[misc]
            regions.append(b.region((), result))
        name = "scf.if" if cond.type == BOOL else "tile.if"
        return self.b.op(name, cond, types=ir_type(expr.type), regions=regions)


def round_tf32(b: Builder, x: Value) -> Value:
    """f32 rounded to nearest, ties to even, to 10 bits of mantissa, by its pattern."""
    words = with_element(x.type, "u32")

    def number(value: int) -> Value:
        return b.const(value, words)

    pattern = b.op("arith.bitcast", x, to="u32")
    kept = b.op("arith.shr", pattern, number(13))
    half = b.op("arith.add", b.op("arith.and", kept, number(1)), number(0xFFF))
    rounded = b.op("arith.shl", b.op("arith.shr", b.op("arith.add", pattern, half), number(13)), number(13))
    quiet = b.op("arith.shl", b.op("arith.or", kept, number(1 << 9)), number(13))
    found = b.op("arith.select", b.op("arith.cmp", x, x, pred="ne"), quiet, rounded)
    return b.op("arith.bitcast", found, to="f32")
