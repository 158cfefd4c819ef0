"""A dry run: the control flow and the copies of one group, without data, to find copies that are used wrongly.

The run takes sizes at which loops over tiles make a few iterations, and knows integers only. What depends on data is
unknown: of an `if` both sides are run, of a loop one iteration, and nothing found there is called an error. It tells

- E225: memory is read, or filled again, while a copy into it is certainly in flight;
- W208: a wait that never waits for anything;
- W209: a copy whose data are never read, such as the last stage of a pipeline that nobody consumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tessera.errors import Span
from tessera.kernel.report import Report, fail
from tessera.kernel.tree import (
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
    Expr,
    For,
    Id,
    If,
    Load,
    LoadTile,
    Read,
    Stmt,
    Store,
    StoreTile,
    Unary,
    Var,
    Wait,
    Where,
    While,
    Window,
    children,
    walk,
)
from tessera.shapes import Dim, substitute

__all__ = ["dry_run"]

_TRIPS = 8
_STEPS = 20_000

_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b if b else 0,
    "mod": lambda a, b: a % b if b else 0,
    "min": min,
    "max": max,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}

#: per axis the first element and one past the last; None where it is not known
Box = tuple[tuple[int, int] | None, ...]


@dataclass(eq=False)
class _Copy:
    buffer: Buffer
    box: Box
    span: Span
    certain: bool
    group: int | None = None  # the commit group
    landed: bool = False
    used: bool = False


@dataclass
class _Run:
    dims: dict[str, Dim]
    report: Report
    env: dict[Var, int | None] = field(default_factory=dict)
    copies: list[_Copy] = field(default_factory=list)
    commits: int = 0
    certain: bool = True
    steps: int = 0
    cut: bool = False  # a loop was left early
    waits: dict[Span, int] = field(default_factory=dict)  # most groups that a wait waited for
    dead: dict[Span, bool] = field(default_factory=dict)  # by place of a copy: whether all its data were never read

    # -- statements --------------------------------------------------------------------------------------------------

    def block(self, body: Sequence[Stmt]) -> None:
        for stmt in body:
            self.steps += 1
            if self.steps > _STEPS:
                raise _TooLong
            self.statement(stmt)

    def statement(self, stmt: Stmt) -> None:
        match stmt:
            case Assign(var, value):
                self.env[var] = self.value(value)
            case Store(buffer, indices, value) | Atomic(_, buffer, indices, value):
                self.value(value)
                self.fill(buffer, tuple(_one(self.value(i)) for i in indices), stmt.span, whole=False)
            case StoreTile(window, value, counts) | AtomicTile(_, window, value, counts):
                self.value(value)
                for count in counts:
                    self.value(count)
                self.fill(window.buffer, self.box(window), stmt.span, whole=True)
            case Copy(dst, src):
                nothing = self.outside(src)
                box = self.box(dst)
                self.fill(dst.buffer, box, stmt.span, whole=True)
                self.copies.append(_Copy(dst.buffer, box, stmt.span, self.certain, used=nothing))
            case Commit():
                for copy in self.copies:
                    if copy.group is None and not copy.landed:
                        copy.group = self.commits
                self.commits += 1
            case Wait(pending):
                groups = {c.group for c in self.copies if c.group is not None and not c.landed}
                done = {g for g in groups if g < self.commits - pending}
                self.waits[stmt.span] = max(len(done), self.waits.get(stmt.span, 0))
                for copy in self.copies:
                    copy.landed = copy.landed or copy.group in done
            case Barrier():
                for copy in self.copies:
                    copy.landed = True
            case If(cond, then, orelse):
                test = self.value(cond)
                if test is not None:
                    self.block(then if test else orelse)
                else:
                    self.unsure(then, orelse)
            case For():
                self.loop(stmt)
            case While(cond, body):
                self.repeat(cond, body)
            case _:
                pass

    def unsure(self, *bodies: Sequence[Stmt]) -> None:
        """Runs statements of which it is not known whether, or how often, they are executed."""
        outer, self.certain = self.certain, False
        for body in bodies:
            self.block(body)
        self.certain = outer

    def loop(self, stmt: For) -> None:
        lo, hi, step = (self.value(e) for e in (stmt.lo, stmt.hi, stmt.step))
        if lo is None or hi is None or step is None or step <= 0:
            self.env[stmt.var] = None
            self.unsure(stmt.body)
            return
        trips = range(lo, hi, step)
        self.cut = self.cut or len(trips) > _TRIPS
        for index in trips[:_TRIPS]:
            self.env[stmt.var] = index
            self.block(stmt.body)

    def repeat(self, cond: Expr, body: Sequence[Stmt]) -> None:
        for _ in range(_TRIPS):
            test = self.value(cond)
            if test is None:
                self.unsure(body)
                return
            if not test:
                return
            self.block(body)
        self.cut = True

    # -- memory ------------------------------------------------------------------------------------------------------

    def size(self, dim: Dim) -> int:
        value = substitute(dim, self.dims)
        return value if isinstance(value, int) else 1

    def box(self, window: Window) -> Box:
        out: list[tuple[int, int] | None] = []
        for start, extent in zip(window.starts, window.extents, strict=True):
            first = self.value(start)
            out.append(None if first is None else (first, first + (1 if extent is None else self.size(extent))))
        return tuple(out)

    def outside(self, window: Window) -> bool:
        """Whether a window lies past the end of its tensor: a pipeline may copy nothing in its last iterations."""
        pairs = zip(self.box(window), window.buffer.dims, strict=True)
        return any(box is not None and box[0] >= self.size(dim) for box, dim in pairs)

    def read(self, buffer: Buffer, box: Box, span: Span) -> None:
        for copy in self.copies:
            if copy.buffer is buffer:
                meets = _meet(copy.box, box)
                if meets and not copy.landed and self.certain and copy.certain:
                    self.in_flight(copy, span, "read")
                if meets is not False:
                    copy.used = True

    def fill(self, buffer: Buffer, box: Box, span: Span, whole: bool) -> None:
        """Memory gets new contents: copies that it held are over."""
        for copy in self.copies:
            if copy.buffer is buffer and _meet(copy.box, box):
                if not copy.landed and self.certain and copy.certain:
                    self.in_flight(copy, span, "filled")
                if whole:
                    self.close(copy)
        self.copies = [c for c in self.copies if not (whole and c.buffer is buffer and _meet(c.box, box))]

    def in_flight(self, copy: _Copy, span: Span, what: str) -> None:
        message = f"`{copy.buffer.name}` is {what} while the copy of line {copy.span.line} is in flight"
        help = "complete it with cp_commit_group and cp_wait_group, or with barrier"
        self.report.error(fail("E225", message, span, help))

    def close(self, copy: _Copy) -> None:
        unused = not copy.used and copy.certain
        self.dead[copy.span] = self.dead.get(copy.span, False) or unused

    # -- values ------------------------------------------------------------------------------------------------------

    def value(self, expr: Expr | None) -> int | None:
        """The integer that an expression gives, if it is known; reads on the way are recorded."""
        match expr:
            case None:
                return None
            case Const(value):
                return int(value) if not isinstance(value, float) or math.isfinite(value) else None
            case DimValue(dim):
                return self.size(dim)
            case Id("group"):
                return 0
            case Read(var):
                return self.env.get(var)
            case LoadTile(window):
                self.read(window.buffer, self.box(window), expr.span)
                return None
            case Load(buffer, indices):
                self.read(buffer, tuple(_one(self.value(i)) for i in indices), expr.span)
                return None
            case Block(body, value):
                self.block(body)
                return self.value(value)
            case Choose(cond, a, b) | Where(cond, a, b):
                test = self.value(cond)
                if test is not None and isinstance(expr, Choose):
                    return self.value(a if test else b)
                x, y = self.value(a), self.value(b)
                return None if test is None else x if test else y
        found = [self.value(child) for child in children(expr)]
        if any(v is None for v in found):
            return None
        known = [v for v in found if v is not None]
        match expr:
            case Binary(op) if op in _ARITHMETIC:
                return _ARITHMETIC[op](*known)
            case Compare(pred):
                return int(_COMPARE[pred](*known))
            case Cast():
                return known[0]
            case Unary("neg"):
                return -known[0]
            case Unary("not"):
                return int(not known[0])
        return None


class _TooLong(Exception):
    """The run has gone on long enough."""


def _one(index: int | None) -> tuple[int, int] | None:
    return None if index is None else (index, index + 1)


def _meet(a: Box, b: Box) -> bool | None:
    """Whether two boxes have an element in common; None where that is not known."""
    known = True
    for x, y in zip(a, b, strict=True):
        if x is None or y is None:
            known = False
        elif x[1] <= y[0] or y[1] <= x[0]:
            return False
    return True if known else None


def _sizes(statements: list[Stmt], dims: Sequence[str]) -> dict[str, Dim]:
    """Sizes of dims at which slices move on three times and end in a ragged part."""
    widths: dict[str, int] = {}
    largest = 1
    for stmt in statements:
        if isinstance(stmt, Copy):
            for extent, dim in zip(stmt.src.extents, stmt.src.buffer.dims, strict=True):
                if isinstance(extent, int):
                    widths[str(dim)] = max(extent, widths.get(str(dim), 1))
                    largest = max(extent, largest)
    return {name: 3 * widths.get(name, largest) + 1 for name in dims}


def dry_run(body: tuple[Stmt, ...], dims: Sequence[str], params: Sequence[Var], report: Report) -> None:
    """Runs a kernel's body for group 0; reports errors and warnings."""
    statements = list(walk(body))
    if not any(isinstance(s, (Copy, Wait)) for s in statements):
        return
    run = _Run(_sizes(statements, dims), report, dict.fromkeys(params))
    try:
        run.block(body)
    except _TooLong:
        return
    for copy in run.copies:
        run.close(copy)
    for stmt in statements:
        if isinstance(stmt, Wait) and run.waits.get(stmt.span, 1) == 0:
            report.warn("W208", "this wait never waits: no committed group of copies is left for it", stmt.span)
        if isinstance(stmt, Copy) and not run.cut and run.dead.get(stmt.span, False):
            report.warn("W209", f"data of this copy are never read from `{stmt.dst.buffer.name}`", stmt.span)
