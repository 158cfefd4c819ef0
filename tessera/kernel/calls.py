"""Calls in a kernel: words of the language, types, helpers; on elements and, element by element, on tiles."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType

from tessera.dtypes import DType, as_dtype, f32
from tessera.errors import SourceError, Span
from tessera.kernel.expressions import Expressions
from tessera.kernel.operands import (
    Args,
    Kwargs,
    Operand,
    Static,
    convert,
    describe,
    is_expr,
    is_number,
    number,
    to_expr,
)
from tessera.kernel.report import fail
from tessera.kernel.tile_operands import TileOp
from tessera.kernel.tree import Binary, Broadcast, Cast, Elem, Read, Unary
from tessera.kernel.vocabulary import ELEMENTWISE, PLACES, UNARY, Namespace, Word, suggestion, word_of

__all__ = ["Calls"]


class Calls(Expressions):
    """Reads calls; the words have their meaning in the subclasses (`word_<name>`, `call_<name>`)."""

    # -- calls -----------------------------------------------------------------------------------------------------

    def on_Call(self, node: ast.Call) -> Operand:
        span = self.span(node)
        function = self.expr(node.func)
        if isinstance(function, Static) and isinstance(function.value, Word) and function.value.name in PLACES:
            call: Callable[[ast.Call, str], Operand] = getattr(self, "call_" + function.value.name)
            return call(node, function.value.shown)
        stars = [a for a in node.args if isinstance(a, ast.Starred)] + [k.value for k in node.keywords if k.arg is None]
        if stars:
            raise fail("E202", "star arguments are not supported in a kernel", self.span(stars[0]))
        args = [self.expr(a) for a in node.args]
        kwargs = {k.arg: self.expr(k.value) for k in node.keywords if k.arg is not None}
        match function:
            case Static(Word() as word):
                if word.dtype is not None and kwargs.setdefault("dtype", Static(word.dtype)) != Static(word.dtype):
                    raise fail("E218", f"`{word.shown}` is given two element types", span)
                return self.word(word, args, kwargs, span)
            case Static(DType() as dtype):
                (value,) = self.bind(str(dtype), "x", args, kwargs, span)
                return self.cast(value, dtype, span)
            case Static(FunctionType() as helper):
                return self.inline(helper, args, kwargs, span)
            case Static(value) if (known := word_of(value)) is not None:
                return self.word(known, args, kwargs, span)
        raise fail(
            "E204",
            f"{describe(function)} cannot be called in a kernel",
            span,
            "kernels call ts.tile.*, element functions and plain Python functions",
        )

    def bind(
        self, name: str, params: str, args: Args, kwargs: Kwargs, span: Span
    ) -> list[Operand]:
        """Arguments in the order of `params` ("a b c=1"); defaults are ints or None. Raises SourceError E218."""
        specs = [p.partition("=") for p in params.split()]
        if len(args) > len(specs):
            raise fail(
                "E218", f"`{name}` takes {len(specs)} argument{'s' * (len(specs) != 1)}, {len(args)} are given", span
            )
        bound = dict(zip((p[0] for p in specs), args, strict=False))
        for key, value in kwargs.items():
            if key in bound or key not in {p[0] for p in specs}:
                raise fail(
                    "E218",
                    f"`{name}` has no argument `{key}` to give here",
                    span,
                    f"it is {name}({', '.join(p[0] for p in specs)})",
                )
            bound[key] = value
        for key, eq, default in specs:
            if key not in bound:
                if not eq:
                    raise fail(
                        "E218", f"`{name}` needs `{key}`", span, f"it is {name}({', '.join(p[0] for p in specs)})"
                    )
                bound[key] = Static(int(default) if default else None)
        return [bound[p[0]] for p in specs]

    def cast(self, value: Operand, dtype: object, span: Span) -> Operand:
        if isinstance(dtype, Static):
            dtype = dtype.value
        if self.is_tile(value):
            return self.lift([value], lambda v: self.cast(v[0], dtype, span), span)
        try:
            to = as_dtype(dtype).base
        except SourceError:
            raise fail("E206", "the second argument of a cast must be an element type such as ts.f16", span) from None
        expr = to_expr(value, span) if not is_number(value) else to_expr(value, span, to)
        return expr if expr.type.dtype == to else Cast(expr, Elem(to, expr.type.varying), span)

    def word(self, word: Word, args: Args, kwargs: Kwargs, span: Span) -> Operand:
        """A call of a word of the language."""
        name = word.name
        tiles = any(self.is_tile(a) for a in (*args, *kwargs.values()))
        if tiles and name in UNARY:
            (value,) = self.bind(word.shown, "x", args, kwargs, span)
            return self._unary_tile(UNARY[name], self.tile(value, span), span)
        if tiles and name in ELEMENTWISE and not (name in ("max", "min") and (len(args) == 1 or kwargs)):
            count, keys = len(args), list(kwargs)
            plain = [at for at, a in enumerate((*args, *kwargs.values())) if self.is_tile(a) or is_expr(a)]
            values = [*args, *kwargs.values()]

            def make(v: list[Operand]) -> Operand:
                given = list(values)
                for at, operand in zip(plain, v, strict=True):
                    given[at] = operand
                return self.word(word, given[:count], dict(zip(keys, given[count:], strict=True)), span)

            return self.lift([values[at] for at in plain], make, span)
        if name in UNARY:
            return self._unary(UNARY[name], self.bind(word.shown, "x", args, kwargs, span)[0], span)
        method = getattr(self, "word_" + name, None)
        if method is None:
            help = (
                "a loop over range() stands in a `for` statement"
                if "range" in name
                else suggestion(Namespace("tessera.tile"), name if name != "unsupported" else word.shown)
            )
            raise fail("E204", f"`{word.shown}` cannot be called here", span, help)
        result: Operand = method(word.shown, args, kwargs, span)
        return result

    def _unary_tile(self, op: str, tile: TileOp, span: Span) -> Operand:
        """A function of every element. What `exp(x - m)` was made of is kept, for W206."""
        result = self.lift([tile], lambda v: self._unary(op, v[0], span), span)
        if op == "exp" and isinstance(result, TileOp) and isinstance(tile.expr, Binary) and tile.expr.op == "sub":
            below = tile.expr.b
            while isinstance(below, Broadcast):
                below = below.a
            if isinstance(below, Read):
                return TileOp(result.expr, replace(result.facts, form=("exp", below.var.name)))
        return result

    def _unary(self, op: str, a: Operand, span: Span) -> Operand:
        value = number(a)
        if op == "sqrt" and value is not None and value >= 0:
            return Static(math.sqrt(value))
        x = to_expr(a, span)
        x = convert(x, x.type.dtype.wide if x.type.dtype.is_float else f32)
        return Unary(op, x, x.type, span)
