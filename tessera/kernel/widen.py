"""Loops of small copies as one copy of a large tile.

    for j in range(lo, hi, w):  dst[.., j + a : j + a + w] = src[.., j + b : j + b + w]

with constant bounds is the copy of hi - lo elements at once: source and destination are different memory, so the order
of the iterations does not show, and what lies outside is 0 or dropped in both. A dropped axis indexed by the variable,
with step 1, becomes an axis of the tile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tessera.dtypes import i64
from tessera.kernel.report import Report
from tessera.kernel.tile_operands import linear, reads
from tessera.kernel.tree import (
    Assign,
    Binary,
    Const,
    Elem,
    Expr,
    For,
    If,
    LoadTile,
    Read,
    Stmt,
    StoreTile,
    Var,
    While,
    Window,
    walk_exprs,
)

__all__ = ["widen"]


def widen(body: tuple[Stmt, ...], report: Report) -> tuple[Stmt, ...]:
    """The statements with such loops replaced, innermost first."""
    uses = Counter(e.var for e in walk_exprs(body) if isinstance(e, Read))
    return tuple(_block(body, uses, report))


def _block(body: Sequence[Stmt], uses: Counter[Var], report: Report) -> list[Stmt]:
    return [_statement(stmt, uses, report) for stmt in body]


def _statement(stmt: Stmt, uses: Counter[Var], report: Report) -> Stmt:
    match stmt:
        case If(_, then, orelse):
            return replace(stmt, then=tuple(_block(then, uses, report)), orelse=tuple(_block(orelse, uses, report)))
        case While(_, body):
            return replace(stmt, body=tuple(_block(body, uses, report)))
        case For(body=body):
            stmt = replace(stmt, body=tuple(_block(body, uses, report)))
            copy = _as_copy(stmt, uses)
            if copy is None:
                return stmt
            report.once("the copies of this loop are made as one tile", stmt.span)
            return copy
    return stmt


def _as_copy(stmt: For, uses: Counter[Var]) -> StoreTile | None:
    """The loop as one copy, if it is one."""
    store = _only_copy(stmt.body, uses)
    bounds = [e.value if isinstance(e, Const) else None for e in (stmt.lo, stmt.hi, stmt.step)]
    if store is None or not all(isinstance(b, int) for b in bounds):
        return None
    lo, hi, step = (int(b) for b in bounds if b is not None)
    if hi <= lo or step <= 0 or (hi - lo) % step:
        return None
    assert isinstance(store.value, LoadTile)
    dst = _widened(store.window, stmt.var.name, lo, hi - lo, step)
    src = _widened(store.value.window, stmt.var.name, lo, hi - lo, step)
    if dst is None or src is None or dst[1] != src[1] or dst[0].buffer is src[0].buffer:
        return None
    if len(dst[0].shape) > 3:
        return None
    counts = (None,) * len(dst[0].shape)
    return StoreTile(dst[0], LoadTile(src[0], store.value.span), counts, stmt.span)


def _only_copy(body: tuple[Stmt, ...], uses: Counter[Var]) -> StoreTile | None:
    """The copy that statements are: a store of a load, perhaps by way of a variable."""
    match body:
        case (StoreTile(value=LoadTile()) as store,):
            found = store
        case (Assign(var, LoadTile() as load), StoreTile(value=Read(other)) as store) if var == other:
            if uses[var] != 1:
                return None
            found = replace(store, value=load)
        case _:
            return None
    spaces = (found.window.buffer.space, found.value.window.buffer.space)  # type: ignore[union-attr]
    plain = all(c is None for c in found.counts) and found.window.type == found.value.type
    return found if plain and spaces in (("shared", "global"), ("global", "shared")) else None


def _widened(window: Window, name: str, lo: int, length: int, step: int) -> tuple[Window, int] | None:
    """The window over all iterations, and the axis of its shape that grows; None where it does not fit."""
    starts, extents = list(window.starts), list(window.extents)
    grown: int | None = None
    for axis, start in enumerate(window.starts):
        if name not in reads(start):
            continue
        coefficient = linear(start)[0].get(name, 0)
        extent = extents[axis]
        if coefficient != 1 or grown is not None or (extent != step and not (extent is None and step == 1)):
            return None
        grown = axis
        starts[axis] = _without(start, name, lo)
        if name in reads(starts[axis]):
            return None
        extents[axis] = length
    if grown is None:
        return None
    return Window(window.buffer, tuple(starts), tuple(extents)), sum(e is not None for e in extents[:grown])


def _without(expr: Expr, name: str, value: int) -> Expr:
    """The expression with a number in place of the variable."""
    match expr:
        case Read(var) if var.name == name:
            return Const(value, Elem(i64), expr.span)
        case Binary(op, a, b, type_, span):
            x, y = _without(a, name, value), _without(b, name, value)
            for side, other in ((x, y), (y, x)):
                if op == "add" and isinstance(side, Const) and side.value == 0:
                    return other
            return Binary(op, x, y, type_, span)
    return expr

