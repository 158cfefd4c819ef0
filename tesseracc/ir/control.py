"""Operators of the language as graph operations; programs (tessera.programs) become closed regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesseracc.ir.builder import Arg, Builder
from tesseracc.ir.dialects.graph import attrs_of, from_lang, to_lang
from tesseracc.ir.value import Op, Region, Value

if TYPE_CHECKING:
    from tessera.operator import Operator
    from tessera.programs import Program


def emit_operator(b: Builder, operator: Operator, values: Sequence[Value]) -> Op:
    """The graph operation of an operator on values."""
    from tessera.control import Control, Scan, While

    if not isinstance(operator, Control):
        return b.emit(f"graph.{operator.name}", *values, **attrs_of(operator))
    values = list(values)
    segments: list[Arg] = [values[0], values[1:]]
    attrs = {}
    if isinstance(operator, While):
        segments = [values[: operator.consts], values[operator.consts :]]
    if isinstance(operator, Scan):
        first, second = operator.consts, operator.consts + operator.carried
        segments = [values[:first], values[first:second], values[second:]]
        attrs = {"length": operator.length, "reverse": operator.reverse}
    types = [from_lang(t) for t in operator.infer(*(to_lang(v.type) for v in values))]  # type: ignore[union-attr]
    regions = [region_of(program, b) for program in operator.programs]
    return b.emit(f"graph.{operator.name}", *segments, types=types, regions=regions, **attrs)


def emit_results(b: Builder, operator: Operator, values: Sequence[Value]) -> tuple[Value, ...]:
    """The results of an operator on values. A call with a derivative of its own is what it computes: in a graph all
    derivatives have been taken."""
    from tessera.derivatives.ruled import Ruled

    if isinstance(operator, Ruled):
        found = operator.run.replay(*values, step=lambda op, *xs: emit_results(b, op, xs))  # type: ignore[arg-type]
        return tuple(found[: operator.results])
    return emit_operator(b, operator, values).results


def region_of(program: Program, b: Builder) -> Region:
    """The closed region of a program."""
    inner = Builder(b.loc)
    args = [Value(from_lang(t)) for t in program.params]
    yields = program.replay(*args, step=lambda op, *xs: emit_results(inner, op, xs))  # type: ignore[arg-type]
    return inner.region(args, yields)


def by_segment(op: Op, values: dict[Value, Value]) -> list[Arg]:
    """An operation's operands, replaced, as a builder takes them."""
    found: list[Arg] = []
    for spec in op.defn.operands:
        group = [values[v] for v in op.group(spec.name)]
        found.append(group[0] if spec.arity == "1" else group)
    return found
