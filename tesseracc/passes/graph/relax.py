"""`relax`: identities of real numbers that change rounding, where the numeric profile allows them.

Equations and profiles are `tesseracc.numerics.RULES`; what was applied is noted. Numbers are folded in f64 and rounded
once, to the type of the operation. Only f32 and f64 are touched, but for `excess-precision`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from tessera.shapes import known_equal, product
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, remove_dead, substitute, uses
from tesseracc.ir.types import TensorType, bits_of, element, kind_of
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.numerics import allows


@dataclass(frozen=True)
class _Graph:
    """What a rule sees: what made each value, how often each is used, and where new operations go."""

    b: Builder
    made: dict[Value, Op]
    used: Counter[Value]

    def source(self, value: Value, name: str) -> Op | None:
        """What made a value, if it is an operation of that name and nothing else uses its result."""
        op = self.made.get(value)
        return op if op is not None and op.name == f"graph.{name}" and self.used[value] == 1 else None

    def number(self, value: Value) -> float | None:
        """The number that every element of a float value is."""
        op = self.made.get(value)
        while op is not None and op.name in ("graph.broadcast_to", "graph.expand_dims", "graph.reshape"):
            op = self.made.get(op.operands[0])
        if op is None or op.name != "graph.full" or not isinstance(op.attrs["value"], (int, float)):
            return None
        return float(op.attrs["value"])

    def full(self, value: float, like: Value) -> Value:
        return self.b.op("graph.full", shape=(), value=value, dtype=element(like.type))

    def scaled(self, value: Value) -> tuple[Value, float] | None:
        """(x, a) for a value x * a with a number a, that has x's type."""
        op = self.source(value, "mul")
        if op is not None:
            for x, other in (op.operands, op.operands[::-1]):
                factor = self.number(other)
                if factor is not None and x.type == value.type:
                    return x, factor
        return None


Rewrite = Callable[[Op, _Graph], "Value | None"]
#: (name of the rule, operation) -> how
REWRITES: list[tuple[str, str, Rewrite]] = []


def rewrite(rule: str, *names: str) -> Callable[[Rewrite], Rewrite]:
    def enter(function: Rewrite) -> Rewrite:
        REWRITES.extend((rule, f"graph.{name}", function) for name in names)
        return function

    return enter


def _is_wide(value: Value) -> bool:
    return element(value.type) in ("f32", "f64")


@rewrite("reciprocal-root", "div")
def _root(op: Op, g: _Graph) -> Value | None:
    root = g.source(op.operands[1], "sqrt")
    if root is None or not _is_wide(op.result):
        return None
    return g.b.op("graph.mul", op.operands[0], g.b.op("graph.rsqrt", root.operands[0]))


@rewrite("reciprocal", "div")
def _reciprocal(op: Op, g: _Graph) -> Value | None:
    x, c = op.operands
    if not _is_wide(op.result) or element(c.type) != element(op.result.type):
        return None
    number = g.number(c)
    if number is not None:
        if number == 0 or not math.isfinite(1 / number) or g.number(x) is not None:
            return None
        return g.b.op("graph.mul", x, g.full(1 / number, op.result))
    assert isinstance(c.type, TensorType) and isinstance(op.result.type, TensorType)
    if known_equal(product(c.type.dims), product(op.result.type.dims)):
        return None
    return g.b.op("graph.mul", x, g.b.op("graph.div", g.full(1.0, c), c))


@rewrite("reassociate", "mul")
def _products(op: Op, g: _Graph) -> Value | None:
    for x, other in (op.operands, op.operands[::-1]):
        factor, inner = g.number(other), g.scaled(x)
        if factor is not None and inner is not None and _is_wide(op.result) and x.type == op.result.type:
            return g.b.op("graph.mul", inner[0], g.full(inner[1] * factor, op.result))
    return None


@rewrite("reassociate", "add")
def _sums(op: Op, g: _Graph) -> Value | None:
    for x, other in (op.operands, op.operands[::-1]):
        term, inner = g.number(other), g.source(x, "add")
        if term is None or inner is None or not _is_wide(op.result) or x.type != op.result.type:
            continue
        for y, second in (inner.operands, inner.operands[::-1]):
            number = g.number(second)
            if number is not None and y.type == x.type:
                return g.b.op("graph.add", y, g.full(number + term, op.result))
    return None


@rewrite("factor-out", "sum")
def _of_sum(op: Op, g: _Graph) -> Value | None:
    inner = g.scaled(op.operands[0])
    if inner is None or not _is_wide(op.result):
        return None
    total = g.b.emit(op.name, inner[0], **op.attrs).result
    return g.b.op("graph.mul", total, g.full(inner[1], op.result))


@rewrite("factor-out", "matmul")
def _of_product(op: Op, g: _Graph) -> Value | None:
    if not _is_wide(op.result):
        return None
    for at in (0, 1):
        inner = g.scaled(op.operands[at])
        if inner is not None and _is_wide(inner[0]):
            operands = [inner[0] if i == at else v for i, v in enumerate(op.operands)]
            return g.b.op("graph.mul", g.b.emit(op.name, *operands, **op.attrs).result, g.full(inner[1], op.result))
    return None


@rewrite("excess-precision", "cast")
def _excess(op: Op, g: _Graph) -> Value | None:
    inner = g.made.get(op.operands[0])
    if inner is None or inner.name != "graph.cast" or inner.operands[0].type != op.result.type:
        return None
    narrow = element(inner.result.type)
    floats = kind_of(narrow) == "f" and element(op.result.type) == "f32"
    return inner.operands[0] if floats and bits_of(narrow) == 16 else None


def relax(func: Func, context: Context) -> Func:
    """The function with every allowed rule applied where it fits, in one pass over it."""
    allowed = [entry for entry in REWRITES if allows(context.numerics, entry[0])]
    if not allowed:
        return func
    g = _Graph(Builder(), {}, uses(func.body))
    same: dict[Value, Value] = {}
    for old in func.body.ops:
        (op,) = substitute(Region((), (old,)), same).ops
        g.b.loc = op.loc
        first = len(g.b.ops)
        found: Value | None = None
        for rule, name, function in allowed:
            found = function(op, g) if op.name == name else None
            if found is not None:
                context.permit(rule, op.name.removeprefix("graph."), op.loc)
                break
        if found is None:
            g.b.append(op)
        else:
            same[op.result] = found
            g.used[found] += g.used[op.result]
        for made in g.b.ops[first:]:
            g.made.update(dict.fromkeys(made.results, made))
            if found is not None:
                g.used.update(made.operands)
    yields = tuple(same.get(v, v) for v in func.body.yields)
    return func.with_(body=remove_dead(replace(func.body, ops=tuple(g.b.ops), yields=yields)))


@register("relax", level="graph")
def run(module: Module, context: Context) -> Module:
    """Applies identities that change rounding, where the numeric profile allows them."""
    return module.with_(funcs=map_funcs(module.funcs, "graph.func", lambda func: relax(func, context)))
