"""How many groups a kernel is launched with.

- an explicit `@ts.kernel(grid=...)`: groups per axis;
- a returned scalar: one group (rule R9);
- a work loop: one group per iteration (rule R3);
- `linear_id`: enough groups for as many lanes as the largest extent that `linear_id` (plus or minus a compile-time
  offset) subscripts among the parameters; where it subscripts none, as its guards `linear_id < n` admit;
- no ids of the grid at all: one group.
"""

from __future__ import annotations

from tessera.errors import Span
from tessera.kernel.operands import pure
from tessera.kernel.report import Report, fail
from tessera.kernel.tree import (
    Atomic,
    Binary,
    Buffer,
    Compare,
    Const,
    DimValue,
    Expr,
    Id,
    Load,
    Stmt,
    Store,
    walk,
    walk_exprs,
)
from tessera.shapes import Dim, ceildiv, parse_dim
from tessera.shapes import Expr as DimExpr

__all__ = ["check_grid", "check_group", "lanes_needed", "uses_id"]


def uses_id(body: tuple[Stmt, ...], kind: str) -> Id | None:
    """The first use of an id in the kernel."""
    for expr in walk_exprs(body):
        if isinstance(expr, Id) and expr.kind == kind:
            return expr
    return None


def _offset(expr: Expr) -> Dim | None:
    """`d` where the expression is linear_id + d."""
    match pure(expr):
        case Id("linear"):
            return 0
        case Binary("add", a, b) if (x := _offset(a)) is not None and (y := _dim(b)) is not None:
            return x + y
        case Binary("add", a, b) if (x := _dim(a)) is not None and (y := _offset(b)) is not None:
            return x + y
        case Binary("sub", a, b) if (x := _offset(a)) is not None and (y := _dim(b)) is not None:
            return x - y
    return None


def _dim(expr: Expr) -> Dim | None:
    match pure(expr):
        case Const(value) if isinstance(value, int):
            return value
        case DimValue(dim):
            return dim
    return None


def _largest(found: dict[Dim, tuple[str, Span]]) -> Dim | None:
    """The candidate that is at least as large as every other for all sizes."""
    for dim in found:
        if all(_at_least(dim, other) for other in found):
            return dim
    return None


def _at_least(a: Dim, b: Dim) -> bool:
    difference = a - b
    return difference >= 0 if isinstance(difference, int) else difference.is_nonnegative


def lanes_needed(body: tuple[Stmt, ...], report: Report, span: Span) -> Dim:
    """The number of lanes that a kernel with `linear_id` works on. Raises SourceError E211 when it is ambiguous."""
    accesses: list[tuple[Buffer, tuple[Expr, ...], Span]] = [
        (s.buffer, s.indices, s.span) for s in walk(body) if isinstance(s, (Store, Atomic))
    ] + [(e.buffer, e.indices, e.span) for e in walk_exprs(body) if isinstance(e, Load)]
    found: dict[Dim, tuple[str, Span]] = {}
    for buffer, indices, at in accesses:
        if buffer.space == "global":
            for axis, index in enumerate(indices):
                if _offset(index) is not None:
                    found.setdefault(buffer.dims[axis], (f"axis {axis} of `{buffer.name}`", at))
    if not found:
        for expr in walk_exprs(body):
            if isinstance(expr, Compare):
                bound = _guard(expr)
                if bound is not None:
                    found.setdefault(bound, ("a guard", expr.span))
    lanes = _largest(found)
    if lanes is not None:
        report.note(f"the kernel runs {lanes} lanes, for {found[lanes][0]}", found[lanes][1])
        return lanes
    if not found:
        raise fail(
            "E211",
            "the number of lanes is not known: no parameter is subscripted by linear_id, and no guard bounds it",
            span,
            'state the number of groups, as in @ts.kernel(grid="ceildiv(N, 128)")',
        )
    listed = ", ".join(f"{dim} ({what})" for dim, (what, _) in found.items())
    raise fail(
        "E211",
        f"the number of lanes is ambiguous: {listed}",
        span,
        'state the number of groups, as in @ts.kernel(grid="ceildiv(N, 128)")',
    )


def _guard(expr: Compare) -> Dim | None:
    """`n` where the comparison says linear_id < n."""
    for pred, a, b in ((expr.pred, expr.a, expr.b), ({"gt": "lt", "ge": "le"}.get(expr.pred, ""), expr.b, expr.a)):
        offset, bound = _offset(a), _dim(b)
        if pred in ("lt", "le") and offset is not None and bound is not None:
            return bound - offset + (pred == "le")
    return None


def check_group(group: object, span: Span) -> int:
    """Lanes per group: a power of two up to 1024. Raises SourceError E221."""
    if (
        isinstance(group, bool)
        or not isinstance(group, int)
        or group not in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    ):
        raise fail("E221", f"group= is a power of two up to 1024, not {group!r}", span)
    return group


def check_grid(grid: object, span: Span) -> tuple[Dim, ...]:
    """Groups per axis, one to three dims. Raises SourceError E221 (E306 for a dim that cannot be read)."""
    parts = grid if isinstance(grid, (tuple, list)) else (grid,)
    dims: list[Dim] = []
    for part in parts:
        dim = parse_dim(part) if isinstance(part, str) else part
        if isinstance(dim, bool) or not isinstance(dim, (int, DimExpr)) or (isinstance(dim, int) and dim < 0):
            raise fail("E221", f'grid= is one to three sizes, such as 8 or "ceildiv(N, 128)", not {grid!r}', span)
        dims.append(dim)
    if not 1 <= len(dims) <= 3:
        raise fail("E221", f"grid= has one to three axes, not {len(dims)}", span)
    return tuple(dims)


def groups_for(lanes: Dim, group: int) -> tuple[Dim, ...]:
    """The grid that holds that many lanes."""
    return (ceildiv(lanes, group),)
