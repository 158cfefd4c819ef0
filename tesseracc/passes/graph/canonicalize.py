"""`canonicalize`: identities of operators that hold bit for bit, whatever the values; no numeric policy is needed.

Each rule has its equation above it and looks at one operation and what made its operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tesseracc.ir.builder import make
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, remove_dead
from tesseracc.ir.types import TensorType, bits_of, element, kind_of
from tesseracc.ir.value import Func, Module, Op, Region, Value

Made = Mapping[Value, Op]
Rule = Callable[[Op, Made], "Op | Value | None"]
RULES: dict[str, list[Rule]] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(function: Rule) -> Rule:
        for name in names:
            RULES.setdefault(f"graph.{name}", []).append(function)
        return function

    return enter


def _source(op: Op, made: Made, name: str, operand: int = 0) -> Op | None:
    """What made an operand, if it is an operation of that name."""
    found = made.get(op.operands[operand])
    return found if found is not None and found.name == f"graph.{name}" else None


def _filled(value: Value, made: Made) -> Any:
    """The number that every element of a value is, or None."""
    op = made.get(value)
    while op is not None and op.name in ("graph.broadcast_to", "graph.expand_dims", "graph.reshape"):
        op = made.get(op.operands[0])
    if op is None or op.name != "graph.full" or not isinstance(op.attrs["value"], (int, float)):
        return None
    return op.attrs["value"]


def _same_type(op: Op, value: Value) -> Value | None:
    return value if value.type == op.result.type else None


# f(x) = x where f gives x's own type: a cast, reshape, broadcast that changes nothing; a gradient stop
@rule("cast", "reshape", "broadcast_to", "stop_gradient")
def _nothing(op: Op, made: Made) -> Value | None:
    return _same_type(op, op.operands[0])


# cast(cast(x, wider), T) = x for x of type T, where every T is exactly a wider
@rule("cast")
def _there_and_back(op: Op, made: Made) -> Value | None:
    inner = _source(op, made, "cast")
    if inner is None or inner.operands[0].type != op.result.type:
        return None
    small, wide = element(op.result.type), element(inner.result.type)
    exact = kind_of(small) == kind_of(wide) and kind_of(small) in "fiu" and bits_of(small) < bits_of(wide)
    return inner.operands[0] if exact and not (wide in ("f16", "bf16") and small.startswith("fp8")) else None


# reshape(reshape(x)) = reshape(x), and the same for squeezed or expanded x
@rule("reshape")
def _one_reshape(op: Op, made: Made) -> Op | None:
    inner = _source(op, made, "reshape") or _source(op, made, "expand_dims") or _source(op, made, "squeeze")
    return None if inner is None else replace(op, operands=(inner.operands[0],))


# transpose(transpose(x, q), p) = transpose(x, q[p]);  transpose(x, (0, 1, ..)) = x
@rule("transpose")
def _one_transpose(op: Op, made: Made) -> Op | Value | None:
    axes = op.attrs["axes"]
    if axes == tuple(range(len(axes))):
        return op.operands[0]
    inner = _source(op, made, "transpose")
    if inner is None:
        return None
    both = tuple(inner.attrs["axes"][axis] for axis in axes)
    return replace(op, operands=(inner.operands[0],), attrs={**op.attrs, "axes": both})


# -(-x) = x,  not not x = x
@rule("neg", "not")
def _twice(op: Op, made: Made) -> Value | None:
    inner = _source(op, made, op.name.removeprefix("graph."))
    return None if inner is None else inner.operands[0]


# |(|x|)| = |x|,  relu(relu(x)) = relu(x),  floor(floor(x)) = floor(x), ...
@rule("abs", "relu", "floor", "ceil", "round", "trunc", "sign")
def _idempotent(op: Op, made: Made) -> Value | None:
    inner = _source(op, made, op.name.removeprefix("graph."))
    return None if inner is None else inner.result


# x * 1 = 1 * x = x
@rule("mul")
def _times_one(op: Op, made: Made) -> Value | None:
    first, second = op.operands
    if _filled(second, made) == 1:
        return _same_type(op, first)
    return _same_type(op, second) if _filled(first, made) == 1 else None


# x / 1 = x // 1 = x (ints for //; a float x // 1 floors)
@rule("div")
def _over_one(op: Op, made: Made) -> Value | None:
    return _same_type(op, op.operands[0]) if _filled(op.operands[1], made) == 1 else None


# x - 0 = x; the zero is positive, for x - (-0) turns -0 into 0
@rule("sub")
def _less_zero(op: Op, made: Made) -> Value | None:
    number = _filled(op.operands[1], made)
    return _same_type(op, op.operands[0]) if number == 0 and math.copysign(1.0, number) > 0 else None


# x + 0 = 0 + x = x for ints (a float -0 + 0 is 0)
@rule("add")
def _plus_zero(op: Op, made: Made) -> Value | None:
    if kind_of(element(op.result.type)) == "f":
        return None
    first, second = op.operands
    if _filled(second, made) == 0:
        return _same_type(op, first)
    return _same_type(op, second) if _filled(first, made) == 0 else None


# a reduction over no axes, of an input of its result's type, is the input
@rule("max", "min")
def _over_nothing(op: Op, made: Made) -> Value | None:
    return _same_type(op, op.operands[0]) if op.attrs["axes"] == () else None


# f(full(a)) stays; but a view of a filled tensor is a filled tensor: broadcast_to, reshape, .. (full(s, v)) =
# full(s', v)
@rule("broadcast_to", "reshape", "expand_dims", "squeeze", "transpose")
def _view_of_filled(op: Op, made: Made) -> Op | None:
    inner = _source(op, made, "full")
    if inner is None:
        return None
    assert isinstance(op.result.type, TensorType)
    filled = make("graph.full", types=[op.result.type], loc=op.loc, **{**inner.attrs, "shape": op.result.type.dims})
    return replace(filled, results=op.results)


def canonicalize(func: Func) -> Func:
    """The function with every rule applied until none fits."""
    made: dict[Value, Op] = {}
    same: dict[Value, Value] = {}
    ops: list[Op] = []
    for op in func.body.ops:
        op = replace(op, operands=tuple(same.get(v, v) for v in op.operands))
        found: Op | Value | None = op
        while isinstance(found, Op):
            op = found
            found = next((new for apply in RULES.get(op.name, ()) if (new := apply(op, made)) is not None), None)
        if isinstance(found, Value):
            same[op.result] = found
            continue
        made.update(dict.fromkeys(op.results, op))
        ops.append(op)
    body = Region(func.params, tuple(ops), tuple(same.get(v, v) for v in func.body.yields))
    return func.with_(body=remove_dead(body))


@register("canonicalize", level="graph")
def run(module: Module, context: Context) -> Module:
    """Applies identities that hold bit for bit."""
    return module.with_(funcs=map_funcs(module.funcs, "graph.func", canonicalize))
