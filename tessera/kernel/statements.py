"""Statements of a kernel: variables, stores, branches, loops, and the loops that are spread over groups and lanes.

Types and uniformity are found by following the paths in order. Where two paths meet, a variable takes the joined
type; a loop is read again until the types at its head no longer change.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from tessera.dtypes import DType
from tessera.errors import Call, SourceError, Span
from tessera.kernel.atomic_words import AtomicWords
from tessera.kernel.expressions import effect_free
from tessera.kernel.operands import (
    NOT_ELEMENTS,
    BufferRef,
    Items,
    Operand,
    Static,
    describe,
    held_type,
    is_expr,
    pure,
    to_expr,
)  # fmt: skip
from tessera.kernel.report import Already, Report, fail
from tessera.kernel.scope import Bound, Env, Frame, Poison, conversions, hold, join_env
from tessera.kernel.syntax import (
    assigned_names,
    tail_returns,
)
from tessera.kernel.tile_operands import TileOp, WindowRef, reads
from tessera.kernel.tree import Assign, Buffer, Elem, Expr, If, Mask, Read, Stmt, Store, Var, Window
from tessera.shapes import Dim

__all__ = ["Statements"]

_HELPER_DEPTH = 24
_UNSUPPORTED = {
    ast.FunctionDef: "a nested function", ast.AsyncFunctionDef: "a nested function", ast.ClassDef: "a class",
    ast.Try: "try",
    ast.With: "with", ast.AsyncWith: "with", ast.Import: "import", ast.ImportFrom: "import", ast.Delete: "del",
    ast.Raise: "raise",
    ast.Assert: "assert", ast.Global: "global", ast.Nonlocal: "nonlocal", ast.Break: "break", ast.AsyncFor: "async for",
    ast.Match: "match",
}  # fmt: skip
_HELP = {
    ast.Break: "put the condition into a `while`, or guard the rest of the body with `if`",
    ast.Import: "import at the top of the module",
    ast.FunctionDef: "define helpers beside the kernel; they are inlined",
    ast.Assert: "check arguments before the kernel is called",
}


class Statements(AtomicWords):
    """Reads the statements of one kernel, helpers inlined.

    `spread` says whether the kernel may have a work loop (rule R3): it uses no ids of the grid, has no explicit grid,
    and returns no scalar.
    """

    def __init__(
        self, frame: Frame, report: Report, params: dict[str, Buffer], dims: Sequence[str], group: int, spread: bool
    ) -> None:
        super().__init__(frame, report)
        self.params = params
        self.dims = tuple(dims)
        self.group = group
        self.spread = spread
        self.trips: Dim | None = None  # iterations of the work loop
        self.readonly: frozenset[str] = frozenset()
        self.reduced = {}
        self.level = 0
        self.spreading = False  # inside a loop that is spread over lanes
        self.returns: list[tuple[Span, Operand | None]] = []
        self.kernel_frame = frame
        self.mentioned: set[str] = set()  # names in the value that is being assigned

    def state(self) -> dict[str, object]:
        """The bindings of this place. `@b` says what the shared buffer b holds, `#b.slot.axis` is a count of it."""
        return self.frame.env  # type: ignore[return-value]

    def read_state(self, name: str, default: Operand, span: Span) -> Operand:
        found = self.frame.env.get(name)
        if isinstance(found, Bound):
            return Read(found.var, span, found.known)
        return found if isinstance(found, Static) else default

    def write_state(self, name: str, value: Operand, span: Span) -> None:
        if isinstance(value, Static):
            self.frame.env[name] = value
            return
        expr = to_expr(value, span)
        var = Var(name, expr.type)
        self.out.append(Assign(var, expr, span))
        self.frame.env[name] = Bound(var, pure(expr))

    # -- blocks ----------------------------------------------------------------------------------------------------

    def block(self, body: Sequence[ast.stmt]) -> None:
        """Statements in order; an error in one does not hide those of the next."""
        for stmt in body:
            try:
                self.statement(stmt)
            except Already:
                self.report.left_out += 1
                self._recover(stmt)
            except SourceError as error:
                self.report.error(self._placed(error))
                self._recover(stmt)

    def statement(self, node: ast.stmt) -> None:
        method: Callable[[ast.stmt], None] | None = getattr(self, "do_" + type(node).__name__, None)
        if method is None:
            what = _UNSUPPORTED.get(type(node), type(node).__name__)
            raise fail("E202", f"{what} is not supported in a kernel", self.span(node), _HELP.get(type(node)))
        method(node)

    def _placed(self, error: SourceError) -> SourceError:
        """The error with the chain of helpers that leads to it."""
        if error.span is not None and not error.calls and self.frame.caller is not None:
            calls: list[Call] = []
            frame, span = self.frame, error.span
            while True:
                calls.append(Call(frame.function.__name__, span))
                if frame.caller is None or frame.called_at is None:
                    break
                span, frame = frame.called_at, frame.caller
            error.calls = tuple(calls)
        return error

    def _recover(self, stmt: ast.stmt) -> None:
        """After an error: looks for errors inside a compound statement; what it assigns is not to be relied on."""
        if isinstance(stmt, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.If)):
            if isinstance(stmt, ast.For) and isinstance(stmt.target, ast.Name):
                self.frame.env[stmt.target.id] = Poison()
            if isinstance(stmt, (ast.For, ast.While, ast.If)):
                kind: type[ast.stmt] = ast.Return if isinstance(stmt, ast.If) else ast.Continue
                for body in (tail_returns(stmt.body, kind), tail_returns(stmt.orelse, kind)):
                    self.nested(partial(self.block, body), self.frame.env, self.varying)
            for node in ast.walk(stmt):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    self.frame.env[node.id] = Poison()

    def nested(self, run: Callable[[], None], env: Env, varying: bool) -> tuple[list[Stmt], Env]:
        """Statements of a branch or loop body, and the bindings at its end."""
        outer = self.out, self.frame.env, self.varying
        self.out, self.frame.env, self.varying = [], dict(env), varying
        self.level += 1
        try:
            run()
            return self.out, self.frame.env
        finally:
            self.out, self.frame.env, self.varying = outer
            self.level -= 1

    # -- simple statements -----------------------------------------------------------------------------------------

    def do_Pass(self, node: ast.Pass) -> None:
        pass

    def do_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):  # a docstring
            return
        if not isinstance(node.value, ast.Call):
            raise fail("E202", "this expression has no effect", self.span(node))
        self.alone = node.value
        self.expr(node.value)

    def do_Assign(self, node: ast.Assign) -> None:
        first = node.targets[0]
        self.naming = first.id if isinstance(first, ast.Name) else None
        try:
            value = self.expr(node.value)
        finally:
            self.naming = None
        self.mentioned = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        if isinstance(first, (ast.Tuple, ast.List)) or len(node.targets) > 1:
            value = self._settled(value)
        for target in node.targets:
            self.assign(target, value, self.span(node))

    def do_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is None:
            return
        value = self.expr(node.value)
        declared = self.expr(node.annotation)
        if isinstance(declared, Static) and isinstance(declared.value, DType):
            value = to_expr(value, self.span(node.value), declared.value)
        self.assign(node.target, value, self.span(node))

    def _settled(self, value: Operand) -> Operand:
        """The value held apart from the variables it was made of (for swaps, and tuples with a name)."""
        if isinstance(value, Items):
            return Items(tuple(self._settled(item) for item in value.items))
        if isinstance(value, WindowRef):
            value = self.tile(value, value.span)
        if isinstance(value, TileOp):
            return TileOp(self.temporary(value.expr), value.facts)
        if not hold(value):
            return value
        assert not isinstance(value, NOT_ELEMENTS)
        return self.temporary(value)

    def assign(self, target: ast.expr, value: Operand, span: Span) -> None:
        match target:
            case ast.Name(id=name):
                self.bind_name(name, value, span)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                if not isinstance(value, Items) or len(value.items) != len(targets):
                    given = f"a tuple of {len(value.items)}" if isinstance(value, Items) else describe(value)
                    raise fail("E206", f"{len(targets)} names cannot be given the values of {given}", span)
                for part, item in zip(targets, value.items, strict=True):
                    self.assign(part, item, span)
            case ast.Subscript():
                self.store(target, value, span)
            case _:
                raise fail("E208", "only names and elements of tensors can be assigned", self.span(target))

    def bind_name(self, name: str, value: Operand, span: Span, updated: bool = False) -> None:
        """`name = value`; `updated` when the value was made from the name's old one."""
        if isinstance(value, WindowRef):
            value = self.tile(value, value.span)
        param = self.params.get(name)
        if (
            param is not None
            and self.frame is self.kernel_frame
            and self.frame.env.get(name) == BufferRef(param)
            and not isinstance(value, BufferRef)
        ):
            raise fail(
                "E208",
                f"`{name}` is a tensor parameter and cannot be bound to {describe(value)}",
                span,
                f"store to its elements: {name}[...] = ...",
            )
        if isinstance(value, Items):
            value = self._settled(value)
        if isinstance(value, TileOp):
            self._bind_tile(name, value, span, updated or name in self.mentioned)
            return
        if not hold(value):
            assert isinstance(value, NOT_ELEMENTS)
            self.frame.env[name] = value
            return
        assert not isinstance(value, NOT_ELEMENTS) and isinstance(value.type, Elem)
        var = Var(self.frame.prefix + name, Elem(value.type.dtype, value.type.varying or self.varying))
        self.out.append(Assign(var, value, span))
        self.frame.env[name] = Bound(var, pure(value))

    def _bind_tile(self, name: str, value: TileOp, span: Span, updated: bool) -> None:
        """A tile. Where all of the old one counts (see `join_tiles`), a ragged update changes the valid part only."""
        old = self.frame.env.get(name)
        facts = replace(value.facts, updated=updated)
        expr = value.expr
        if updated and isinstance(old, Bound) and old.facts is not None and old.facts.pinned:
            if old.var.type == expr.type and any(c is not None for c in facts.counts):
                expr = Mask(expr, facts.counts, Read(old.var, span), value.type, span)
                facts = replace(facts, counts=(None,) * len(facts.counts), zero=False)
            facts = replace(facts, pinned=True)
        var = Var(self.frame.prefix + name, value.type)
        self.out.append(Assign(var, expr, span))
        self.frame.env[name] = Bound(var, None, facts)

    def store(self, target: ast.Subscript, value: Operand, span: Span) -> None:
        """`x[i] = value`, of an element or a tile."""
        found = self._target(target)
        if isinstance(found, Window):
            if not found.shape:
                self._store(found.buffer, found.starts, value, span)
            else:
                self.store_window(found, value, span)
            return
        self._store(found, self.indices(found, target), value, span)

    def _target(self, target: ast.Subscript) -> Buffer | Window:
        """The buffer, where the subscript names an element of it, or the window that it names."""
        base = self.expr(target.value)
        if isinstance(base, WindowRef) or (isinstance(base, BufferRef) and not self.names_element(base.buffer, target)):
            window = self.window(base, target)
            self.may_store(window.buffer, self.span(target))
            return window
        if not isinstance(base, BufferRef):
            raise fail(
                "E208",
                f"{describe(base)} has no elements to store to",
                self.span(target),
                "tensors are declared as parameters, shared memory with ts.tile.alloc_shared",
            )
        if base.buffer.name in self.readonly and base.buffer.space == "global":
            raise fail("E208", f"`{base.buffer.name}` is declared Region[read]", self.span(target))
        return base.buffer

    def check_stored(self, buffer: Buffer, value: Operand, span: Span) -> None:
        """Raises SourceError E206 for an element that a buffer cannot hold."""
        if not is_expr(value):
            raise fail("E206", f"an element of `{buffer.name}` cannot be {describe(value)}", span)
        have, want = held_type(value).dtype, buffer.dtype
        weak_int = isinstance(value, Static) and not isinstance(value.value, float)
        if (have.is_float and not want.is_float) or (want.kind == "bool" and have.kind != "bool"):
            raise fail(
                "E206",
                f"`{buffer.name}` holds {want.base}, and the value is {have.base}",
                span,
                f"convert it with ts.cast(..., ts.{want.base})",
            )
        if have.is_int and want.is_int and not weak_int and want.bits < have.bits and have.name != "i64":
            raise fail(
                "E206",
                f"`{buffer.name}` holds {want.base}, and the value is {have.base}",
                span,
                f"convert it with ts.cast(..., ts.{want.base})",
            )

    def _store(self, buffer: Buffer, indices: tuple[Expr, ...], value: Operand, span: Span) -> None:
        self.check_stored(buffer, value, span)
        if buffer.space == "shared":
            self.frame.env.pop(f"@{buffer.name}", None)
        expr = to_expr(value, span, buffer.dtype)
        varying = self.varying or expr.type.varying or any(i.type.varying for i in indices)
        self.out.append(Store(buffer, indices, expr, varying, span))

    def do_AugAssign(self, node: ast.AugAssign) -> None:
        span = self.span(node)
        if isinstance(node.target, ast.Name):
            read = ast.copy_location(ast.Name(node.target.id, ast.Load()), node.target)
            old = self.expr(read)
            if isinstance(old, BufferRef):
                raise fail("E208", f"`{node.target.id}` is a tensor: name an element or a slice of it", span)
            self.bind_name(node.target.id, self.binary(type(node.op), old, self.expr(node.value), span), span, True)
            return
        if not isinstance(node.target, ast.Subscript):
            raise fail("E208", "only names and elements of tensors can be assigned", span)
        found = self._target(node.target)
        if isinstance(found, Window) and found.shape:
            old = self.load_tile(found, self.span(node.target))
            self.store_window(found, self.binary(type(node.op), old, self.expr(node.value), span), span)
            return
        buffer = found.buffer if isinstance(found, Window) else found
        places = found.starts if isinstance(found, Window) else self.indices(found, node.target)
        indices = tuple(i if effect_free(i) else self.temporary(i) for i in places)
        old = self.load(buffer, indices, self.span(node.target))
        self._store(buffer, indices, self.binary(type(node.op), old, self.expr(node.value), span), span)

    def do_Return(self, node: ast.Return) -> None:
        span = self.span(node)
        value: Operand | None = None if node.value is None else self.expr(node.value)
        if isinstance(value, Static) and value.value is None:
            value = None
        if self.frame is self.kernel_frame:
            self.returns.append((span, value))
        if value is None:
            return
        items = value.items if isinstance(value, Items) else (value,)
        if isinstance(value, Items) or self.frame is self.kernel_frame:
            self.frame.env["return"] = Static(("tuple", len(items)))
            for at, item in enumerate(items):
                if isinstance(item, Items):
                    raise fail("E213", "a tuple inside a returned tuple is not supported", span)
                self.bind_name(f"return.{at}", item, span)
        else:
            self.bind_name("return", value, span)

    # -- branches --------------------------------------------------------------------------------------------------

    def do_If(self, node: ast.If) -> None:
        cond = self.truth(self.expr(node.test), self.span(node.test))
        if isinstance(cond, Static):
            self.block(node.body if cond.value else node.orelse)
            return
        test = to_expr(cond, self.span(node.test))
        varying = self.varying or test.type.varying
        env, span, prefix = self.frame.env, self.span(node), self.frame.prefix
        then, env_then = self.nested(lambda: self.block(node.body), env, varying)
        orelse, env_else = self.nested(lambda: self.block(node.orelse), env, varying)
        serial = self._serial
        invariant = self.invariant(assigned_names([*node.body, *node.orelse]), serial)
        joined = join_env(env_then, env_else, test.type.varying or self.varying, span, prefix, invariant)
        then += conversions(env_then, joined, span)
        orelse += conversions(env_else, joined, span)
        self.frame.env = joined
        self.out.append(If(test, tuple(then), tuple(orelse), span))

    def invariant(self, names: set[str], serial: int) -> Callable[[Expr], bool]:
        """Whether an expression of sizes is the same before and behind statements that assign these names."""

        def check(expr: Expr) -> bool:
            for name in reads(expr):
                last = name.removeprefix(self.frame.prefix)
                if last in names or name.startswith("?") or "#" in name:
                    return False
                number = last.rpartition(".")[2]
                if number.isdigit() and int(number) > serial:
                    return False
            return True

        return check
