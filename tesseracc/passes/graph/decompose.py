"""`decompose`: operators defined by `compose` are expanded until only those defined by `element` remain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tessera.errors import Span
from tessera.interpreters import Interpreter, interpret
from tessera.operator import Operator
from tessera.tensor import Tensor
from tesseracc.ir.builder import Builder
from tesseracc.ir.control import emit_operator
from tesseracc.ir.dialects.graph import operator_of, to_lang
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_func, map_funcs, substitute
from tesseracc.ir.tensor import Held
from tesseracc.ir.value import Func, Module, Op, Region, Value


class _Expander(Interpreter):
    """Emits the operators of a composition, compositions in it expanded in turn."""

    dynamic = True

    def __init__(self, b: Builder) -> None:
        self.b = b

    def process(self, op: Operator, args: tuple[Tensor, ...], loc: Span | None) -> Any:
        if op.has("compose"):
            return op.compose(*args)
        types = op.infer(*(x.type for x in args))
        results = types if isinstance(types, tuple) else (types,)
        values = [x.held for x in args if isinstance(x, Held)]
        assert len(values) == len(args), f"{op}: a composition uses a tensor that is not made of its operands"
        made = emit_operator(self.b, op, values)
        if made.regions:
            self.b.ops[-1] = made = map_func(Func("graph.func", "", Region((), (made,))), decompose).body.ops[0]
        parts = tuple(Held(self, t, v) for t, v in zip(results, made.results, strict=True))
        return parts if isinstance(types, tuple) else parts[0]


def expand(op: Op, b: Builder) -> tuple[Value, ...]:
    """Emits what a composed operation stands for; returns the values of its results."""
    b.loc = op.loc
    return emit_composition(b, operator_of(op).compose, op.operands)


def emit_composition(b: Builder, compose: Callable[..., Any], values: Sequence[Value]) -> tuple[Value, ...]:
    """Emits what a function of tensors does with values; returns those of its results."""
    with interpret(_Expander(b)) as expander:
        found = compose(*(Held(expander, to_lang(v.type), v) for v in values))
    parts = found if isinstance(found, tuple) else (found,)
    return tuple(part.held for part in parts)


def decompose(func: Func) -> Func:
    """The function in terms of operators that have an `element` rule."""
    b = Builder(func.loc)
    same: dict[Value, Value] = {}
    for op in func.body.ops:
        (op,) = substitute(Region((), (op,)), same).ops
        if op.regions or op.name == "graph.constant" or operator_of(op).has("element"):
            b.append(op)
        else:
            same.update(zip(op.results, expand(op, b), strict=True))
    return func.with_(body=b.region(func.params, [same.get(v, v) for v in func.body.yields]))


@register("decompose", level="graph")
def run(module: Module, context: Context) -> Module:
    """Expands composed operators into those with an element rule."""
    return module.with_(funcs=map_funcs(module.funcs, "graph.func", decompose))
