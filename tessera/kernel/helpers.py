"""Helpers: plain Python functions that a kernel calls. They are inlined."""

from __future__ import annotations

from types import FunctionType

from tessera.errors import Span
from tessera.kernel.operands import Args, Items, Kwargs, Operand, Static
from tessera.kernel.report import Already, fail
from tessera.kernel.scope import Bound, Frame, Poison, Unset, static_operand
from tessera.kernel.statements import Statements
from tessera.kernel.syntax import assigned_names, function_source, nested_return, tail_returns
from tessera.kernel.tile_operands import TileOp, WindowRef
from tessera.kernel.tree import Read

__all__ = ["Helpers"]

_HELPER_DEPTH = 24


class Helpers(Statements):
    """Inlines calls of Python functions."""

    def inline(self, function: FunctionType, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """A call of a plain Python function: its statements, then its value."""
        depth, frame = 0, self.frame
        while frame.caller is not None:
            depth, frame = depth + 1, frame.caller
        if depth >= _HELPER_DEPTH:
            raise fail(
                "E202",
                f"`{function.__name__}` calls itself, or calls are nested too deeply",
                span,
                "helpers are inlined",
            )
        source = function_source(function)
        self._serial += 1
        held = {name: binding for name, binding in self.frame.env.items() if name[0] in "@#"}
        prefix = f"{self.frame.prefix}{function.__name__}.{self._serial}."
        inner = Frame(source, function, prefix, held, span, self.frame)
        late = nested_return(source.node.body)
        outer, self.frame = self.frame, inner
        outer_out, self.out = self.out, []
        self.level += 1
        try:
            if late is not None:
                raise self._placed(
                    fail("E213", "a `return` inside a loop is not supported in a kernel", self.span(late))
                )
            self._bind_arguments(inner, args, kwargs, span)
            before = len(self.report.errors)
            self.block(tail_returns(source.node.body))
            if len(self.report.errors) > before:
                raise Already
            value = self._returned(inner, span)
            statements = self.out
        finally:
            self.frame, self.out = outer, outer_out
            self.level -= 1
        self.frame.env.update({name: binding for name, binding in inner.env.items() if name[0] in "@#"})
        self.out.extend(statements)
        return value

    def _bind_arguments(self, inner: Frame, args: Args, kwargs: Kwargs, span: Span) -> None:
        function, node = inner.function, inner.source.node
        spec = node.args
        if spec.vararg or spec.kwarg:
            raise fail("E202", "star parameters are not supported in a kernel", span)
        positional = [a.arg for a in [*spec.posonlyargs, *spec.args]]
        names = [*positional, *(a.arg for a in spec.kwonlyargs)]
        if len(args) > len(positional):
            raise fail("E218", f"`{function.__name__}` takes {len(positional)} arguments, {len(args)} are given", span)
        bound = dict(zip(positional, args, strict=False))
        for key, value in kwargs.items():
            if key in bound or key not in names:
                raise fail("E218", f"`{function.__name__}` has no argument `{key}` to give here", span)
            bound[key] = value
        defaults = dict(zip(reversed(positional), reversed(function.__defaults__ or ()), strict=False)) | (
            function.__kwdefaults__ or {}
        )
        assigned = assigned_names(node.body)
        for name in names:
            if name not in bound:
                if name not in defaults:
                    raise fail("E218", f"`{function.__name__}` needs `{name}`", span)
                bound[name] = static_operand(defaults[name], name, span)
            value = bound[name]
            if isinstance(value, WindowRef):  # a slice is passed as the memory that it names
                inner.env[name] = value
            elif isinstance(value, Read) and self.is_constant(value.var.name) and name not in assigned:
                inner.env[name] = Bound(value.var, value.known)
            else:
                self.bind_name(name, value, span)

    def _returned(self, inner: Frame, span: Span) -> Operand:
        value = inner.env.get("return")
        match value:
            case None:
                return Static(None)
            case Unset():
                raise fail("E213", f"not every path of `{inner.function.__name__}` returns a value", span)
            case Static(("tuple", int() as count)):
                return Items(tuple(self._returned_item(inner.env[f"return.{k}"], span) for k in range(count)))
            case _:
                return self._returned_item(value, span)

    def _returned_item(self, value: object, span: Span) -> Operand:
        if isinstance(value, Bound):
            facts = value.facts
            return Read(value.var, span, value.known) if facts is None else TileOp(Read(value.var, span), facts)
        if isinstance(value, (Unset, Poison)):
            raise Already
        return value  # type: ignore[return-value]
