"""Loops of a kernel: types found by reading the body until they settle, and the loops that are spread out.

The outermost `ts.tile.range` that stores elements of a parameter at places depending on its variable is a *work
loop* (rule R3): each group runs one iteration. A `ts.tile.range` inside it with uniform bounds, all of whose stores
depend on its variable, is shared by the lanes of the group (A69). Every other loop is sequential.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence

from tessera.dtypes import i64
from tessera.errors import Span
from tessera.kernel.domains import domain_loop, store_places
from tessera.kernel.expressions import effect_free
from tessera.kernel.operands import (
    BufferRef,
    Items,
    Operand,
    Static,
    arithmetic,
    constant_dim,
    describe,
    held_type,
    is_expr,
    static_dim,
    to_expr,
)
from tessera.kernel.report import fail
from tessera.kernel.scope import Bound, Env, Poison, Unset, conversions, join_env
from tessera.kernel.syntax import (
    assigned_names,
    atomic_calls,
    carried_names,
    mentions,
    store_targets,
    tail_returns,
    tainted_names,
)
from tessera.kernel.tile_operands import Register
from tessera.kernel.tree import Block, Const, Elem, Expr, For, Id, Stmt, Var, While
from tessera.kernel.vocabulary import COLLECTIVE, Word
from tessera.kernel.work import Work

__all__ = ["Reader", "has_word"]

_UNROLL = 32


class Reader(Work):
    """Reads a whole kernel."""

    work_level = -1  # the level of the innermost work loop's body
    work_body: Sequence[ast.stmt] = ()

    # -- loops -----------------------------------------------------------------------------------------------------

    def _fixpoint(self, names: set[str], read: Callable[[], bool], span: Span) -> tuple[list[Stmt], Env]:
        """Reads a loop body until the types at its head settle; returns the body and the bindings at the head.

        `read` reads the loop once and says whether lanes may leave it at different times. Only `names`, those
        assigned in the loop, can change.
        """
        head = dict(self.frame.env)
        invariant = self.invariant(names, self._serial)
        for _ in range(64):
            mark = self.report.mark()
            varying = False

            def run() -> None:
                nonlocal varying
                varying = read()

            body, back = self.nested(run, head, self.varying)
            # an error may be one of this reading only: what it left unknown is as before, to be read again
            unknown = [name for name in head if isinstance(back.get(name), Poison) and head[name] != back[name]]
            back |= {name: head[name] for name in unknown}
            known = {name: back[name] for name in head if name in back}
            joined = join_env(head, known, varying or self.varying, span, self.frame.prefix, invariant)
            if joined == head:
                self.out.extend(conversions(self.frame.env, head, span))
                body += conversions(back, head, span)
                for name in sorted(names - set(head)):
                    head[name] = Unset("is assigned only inside a loop that may not run")
                head |= dict.fromkeys(unknown, Poison())
                self.frame.env = head
                return body, head
            self.report.back(mark)
            head = joined
        raise fail("E206", "the types of this loop's variables do not settle", span)

    def do_While(self, node: ast.While) -> None:
        self._plain_loop(node)
        span = self.span(node)
        test: Expr | None = None

        def read() -> bool:
            nonlocal test
            outer, self.out = self.out, []
            cond = self.truth(self.expr(node.test), self.span(node.test))
            test = to_expr(cond, self.span(node.test))
            if self.out:  # statements of an inlined helper belong to the condition
                test = Block(tuple(self.out), test, self.span(node.test))
            self.out = outer
            self.varying = self.varying or test.type.varying
            self.block(tail_returns(node.body, ast.Continue))
            return test.type.varying

        body, _ = self._fixpoint(assigned_names(node.body), read, span)
        assert test is not None
        if isinstance(test, Const) and test.value:
            raise fail(
                "E202",
                "this loop never ends",
                self.span(node.test),
                "a kernel has no `break`: put the condition into the `while`",
            )
        if not (isinstance(test, Const) and not test.value):
            self.out.append(While(test, tuple(body), span))

    def _plain_loop(self, node: ast.For | ast.While) -> None:
        if node.orelse:
            raise fail("E202", "`else` of a loop is not supported in a kernel", self.span(node.orelse[0]))

    def do_For(self, node: ast.For) -> None:
        self._plain_loop(node)
        if not isinstance(node.target, ast.Name):
            raise fail("E202", "a loop has one variable in a kernel", self.span(node.target))
        domain = domain_loop(node)
        if domain is not None:
            width = self.domain_width(domain)
            self.report.once(f"R2: `{domain.name}` runs over `{domain.dim}` by {width}, in sequence", self.span(node))
            self._sequential(node, Static(0), Static(domain.dim), Static(width), False)
            return
        if not isinstance(node.iter, ast.Call):
            source = self.expr(node.iter)
            if isinstance(source, Items):
                self._unroll(node, source.items)
                return
            raise fail(
                "E202",
                f"a loop runs over ts.tile.range(...) or range(...), not {describe(source)}",
                self.span(node.iter),
            )
        function = self.expr(node.iter.func)
        word = function.value if isinstance(function, Static) else None
        if not isinstance(word, Word) or word.name not in ("range", "python_range", "grid_stride_range"):
            raise fail("E202", "a loop runs over ts.tile.range(...) or range(...)", self.span(node.iter))
        lo, hi, step = self._range(node.iter, word)
        if word.name == "grid_stride_range":
            self._sequential(node, *self.strided(lo, hi, step, self.span(node.iter)), False)
            return
        tile = word.name == "range"
        if tile and self.frame is self.kernel_frame and self.spread and not self.varying:
            if self.level == 0 and (self._is_work(node) or self._is_needed(node, lo, hi)):
                self._work_loop(node, lo, hi, step)
                return
            if self.parallel is not None and self.level == self.work_level and self._is_second(node, lo, hi, step):
                self._work_loop(node, lo, hi, step)
                return
        lanes = tile and self._over_lanes(node, lo, hi, step)
        bounds = [constant_dim(x) for x in (lo, hi, step)]
        if not tile and all(b is not None for b in bounds):
            values = range(*bounds)  # type: ignore[arg-type]
            if len(values) <= _UNROLL:
                self._unroll(node, tuple(Static(v) for v in values))
                return
        self._sequential(node, lo, hi, step, lanes)

    def _range(self, call: ast.Call, word: Word) -> tuple[Operand, Operand, Operand]:
        span = self.span(call)
        if any(isinstance(a, ast.Starred) for a in call.args):
            raise fail("E202", "star arguments are not supported in a kernel", span)
        args = [self.expr(a) for a in call.args]
        kwargs = {k.arg: self.expr(k.value) for k in call.keywords if k.arg is not None}
        kwargs.pop("prefetch", None)  # a hint
        self._stages(kwargs.pop("num_stages", None), span)
        if not 1 <= len(args) <= 3 or set(kwargs) - {"step"} or (len(args) == 3 and kwargs):
            raise fail("E218", f"`{word.shown}` takes stop, or start and stop, and a step", span)
        lo: Operand = Static(0)
        step: Operand = kwargs.get("step", Static(1))
        if len(args) == 1:
            (hi,) = args
        else:
            lo, hi = args[:2]
            step = args[2] if len(args) == 3 else step
        for value in (lo, hi, step):
            if not is_expr(value) or held_type(value).dtype.kind not in ("int", "uint"):
                raise fail("E206", f"the bounds of a range are integers, not {describe(value)}", span)
        constant = constant_dim(step)
        if constant is not None and (constant == 0 or (constant < 0 and word.name != "python_range")):
            raise fail("E219", f"a range needs a positive step, not {constant}", span)
        if constant is not None and constant < 0 and not all(constant_dim(x) is not None for x in (lo, hi)):
            raise fail("E219", "a range with a negative step needs compile-time bounds", span)
        return lo, hi, step

    def _stages(self, wanted: Operand | None, span: Span) -> None:
        """`num_stages=` of a range: the depth of the kernel's pipelines where its configuration has none."""
        if wanted is None:
            return
        value = wanted.value if isinstance(wanted, Static) else None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise fail("E218", "`num_stages` is a positive number known while compiling", span)
        self.config.setdefault("num_stages", value)

    def _unroll(self, node: ast.For, items: tuple[Operand, ...]) -> None:
        """A sequence known while compiling: the body once per item."""
        assert isinstance(node.target, ast.Name)
        body = tail_returns(node.body, ast.Continue)
        for item in items:
            self.bind_name(node.target.id, item, self.span(node.target))
            self.block(body)
        self.frame.env[node.target.id] = Unset("is not defined after its loop")

    def _sequential(self, node: ast.For, lo: Operand, hi: Operand, step: Operand, lanes: bool) -> None:
        assert isinstance(node.target, ast.Name)
        name, span = node.target.id, self.span(node)
        at = self.span(node.iter)
        if lanes:
            local = Id("local", Elem(i64, True), at)
            lo = arithmetic("add", lo, arithmetic("mul", local, step, at), at)
            step = arithmetic("mul", step, Static(self.group), at)
        first, last, stride = (to_expr(x, at, i64) for x in (lo, hi, step))
        first, last, stride = (x if effect_free(x) else self.temporary(x, "bound") for x in (first, last, stride))
        varying = any(x.type.varying for x in (first, last, stride))
        var = Var(self.frame.prefix + name, Elem(i64, varying))
        if any(isinstance(b, Bound) and b.var == var for b in self.frame.env.values()):  # of a loop around this one
            self._serial += 1
            var = Var(f"{var.name}.{self._serial}", var.type)
        start, stop, by = static_dim(lo), static_dim(hi), constant_dim(step)
        fixed = name not in assigned_names(node.body) and not lanes
        if start is not None and stop is not None and by is not None and fixed:
            self.ranges[var.name] = (start, stop, by)
        else:
            self.ranges.pop(var.name, None)
        (self.constant_names.add if fixed else self.constant_names.discard)(var.name)
        before = dict(self.frame.env)

        def read() -> bool:
            self.frame.env[name] = Bound(var)
            self.varying = self.varying or varying
            outer, self.spreading = self.spreading, self.spreading or lanes
            self.block(tail_returns(node.body, ast.Continue))
            self.spreading = outer
            self.frame.env.pop(name)
            if name in before:
                self.frame.env[name] = before[name]
            return varying

        assigned = assigned_names(node.body)
        body, head = self._fixpoint(assigned | {name}, read, span)
        head[name] = Unset("is not defined after its loop")
        if lanes:
            for other in sorted(assigned):
                head[other] = Unset("belongs to an iteration of a loop that is spread over the lanes")
        self.out.append(For(var, first, last, stride, tuple(body), span))

    # -- loops that are spread out (rules R3 and A69) --------------------------------------------------------------

    def _is_work(self, node: ast.For) -> bool:
        """Whether iterations store elements of a parameter at places that depend on the loop variable, or update some
        atomically by what depends on it."""
        assert isinstance(node.target, ast.Name)
        names = tainted_names(node.body, {node.target.id})
        params = [BufferRef(b) for b in self.params.values()]
        updates = [c for c in atomic_calls(node.body) if self._updated(c) in params]
        places: list[ast.expr] = [t.slice for t in self._written(node.body)]
        return any(mentions(part, names) for part in [*places, *updates])

    def _updated(self, call: ast.Call) -> object:
        """What the first argument of an atomic update is, where it is a name or a subscript of one."""
        place = call.args[0].value if isinstance(call.args[0], ast.Subscript) else call.args[0]
        return self.frame.env.get(place.id) if isinstance(place, ast.Name) else None

    def _written(self, body: Sequence[ast.stmt]) -> list[ast.Subscript]:
        """The subscripts of parameters that statements store to."""
        params = [BufferRef(b) for b in self.params.values()]
        return [
            t for t in store_places(body) if isinstance(t.value, ast.Name) and self.frame.env.get(t.value.id) in params
        ]

    def _is_needed(self, node: ast.For, lo: Operand, hi: Operand) -> bool:
        """Whether an output that is stored as a whole (rule R9) needs the axis that the loop runs over."""
        assert isinstance(node.target, ast.Name)
        stop = static_dim(hi)
        if stop is None or constant_dim(lo) != 0 or not self.needs_axis(stop):
            return False
        names = {node.target.id}
        return any(mentions(n.slice, names) for s in node.body for n in ast.walk(s) if isinstance(n, ast.Subscript))

    def _is_second(self, node: ast.For, lo: Operand, hi: Operand, step: Operand) -> bool:
        """Whether a loop inside a work loop makes one more axis: nothing is carried, and what leaves the kernel is made
        in it, all stores to parameters or what is stored behind the loops as a whole (rule R9)."""
        if static_dim(lo) is None or static_dim(hi) is None or constant_dim(step) is None or len(self.drafts) > 2:
            return False
        if any(isinstance(self.frame.env.get(n), Bound | Static | Register) for n in carried_names(node.body)):
            return False
        return self._has_all_stores(node) if self._written(self.work_body) else self._is_needed(node, lo, hi)

    def _has_all_stores(self, node: ast.For) -> bool:
        """Whether a loop has all stores of the work loop to parameters, as slices at places that depend on it."""
        assert isinstance(node.target, ast.Name)
        names = tainted_names(node.body, {node.target.id})
        mine = self._written(node.body)
        if len(mine) != len(self._written(self.work_body)) or not all(mentions(t.slice, names) for t in mine):
            return False
        written = {t.value.id for t in mine if isinstance(t.value, ast.Name)}
        around = [n for s in self.work_body for n in ast.walk(s) if isinstance(n, ast.Name) and n.id in written]
        if len(around) != len([n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in written]):
            return False
        return any(isinstance(n, ast.Slice) for t in mine for n in ast.walk(t.slice))

    def _work_loop(self, node: ast.For, lo: Operand, hi: Operand, step: Operand) -> None:
        """One group per iteration: the variable is `lo + group_id * step`, the body stands alone (rule R3)."""
        assert isinstance(node.target, ast.Name)
        span, name = self.span(node.iter), node.target.id
        start, stop, stride = static_dim(lo), static_dim(hi), static_dim(step)
        if start is None or stop is None or stride is None:
            raise fail(
                "E211",
                "the number of iterations of this work loop is not known at launch",
                span,
                "its bounds must be dims and compile-time integers; range() makes a sequential loop",
            )
        if self.level == 0 and any(d.axis.kind == "work" for d in self.drafts):
            raise fail(
                "E211",
                "a kernel has one loop that is spread over the groups, and this would be the second",
                span,
                "split the kernel, or use range() for a sequential loop",
            )
        stores = self._is_work(node)
        for carried, where in carried_names(node.body).items():
            value = self.frame.env.get(carried)
            if value is None or isinstance(value, (Unset, Poison, BufferRef, Items)):
                continue
            if not stores:
                self.report.once(
                    f"R3: `{carried}` has the value from before the loop in each iteration", self.span(where)
                )
                continue
            raise fail(
                "E214",
                f"`{carried}` is carried from one iteration to the next, but the iterations run in parallel",
                self.span(where),
                "give it its first value inside the loop, or use range() for a sequential loop",
            )
        draft = self.add_axis(name, Static(start), stop, stride, "work", span)
        trips = draft.axis.trips
        self.report.note(f"R3: each group runs one iteration of the loop over `{name}` ({trips} groups)", span)
        self.frame.env[name] = Bound(draft.var)
        outer = self.parallel, self.work_level, self.work_body
        self.parallel, self.work_body = span, node.body
        self.level += 1
        self.work_level = self.level
        self.block(tail_returns(node.body, ast.Continue))
        self.level -= 1
        self.parallel, self.work_level, self.work_body = outer

    def _over_lanes(self, node: ast.For, lo: Operand, hi: Operand, step: Operand) -> bool:
        """Whether a range inside a work loop is spread over the lanes of the group (rule A69)."""
        if self.parallel is None or self.varying or self.spreading or any(held_type(x).varying for x in (lo, hi, step)):
            return False
        assert isinstance(node.target, ast.Name)
        names = tainted_names(node.body, {node.target.id})
        stores = store_targets(node.body)
        if not (stores or atomic_calls(node.body)) or not all(mentions(t.slice, names) for t in stores):
            return False
        inner = [n for stmt in node.body for n in ast.walk(stmt)]
        if any(isinstance(n, ast.Slice) or (isinstance(n, ast.Attribute) and n.attr in COLLECTIVE) for n in inner):
            return False
        span = self.span(node.iter)
        carried = sorted(n for n in carried_names(node.body) if isinstance(self.frame.env.get(n), Bound | Static))
        if carried:
            self.report.note(
                f"the loop over `{node.target.id}` is sequential: `{carried[0]}` passes from one iteration to the next",
                span,
            )
            return False
        self.report.note(f"A69: the lanes of a group share the iterations of the loop over `{node.target.id}`", span)
        return True


def has_word(function: ast.AST, names: set[str]) -> bool:
    """Whether any attribute or name of these spellings occurs."""
    return any(
        (isinstance(n, ast.Attribute) and n.attr in names) or (isinstance(n, ast.Name) and n.id in names)
        for n in ast.walk(function)
    )
