"""Operators of the language as graph operations; programs (tessera.programs) become closed regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tesseracc.ir.builder import Arg, Builder
from tesseracc.ir.dialects.graph import attrs_of, from_lang, to_lang
from tesseracc.ir.value import Loc, Op, Region, Value

if TYPE_CHECKING:
    from tessera.errors import Span
    from tessera.operator import Operator
    from tessera.programs import Program


At = Callable[["Span | None"], "Loc | None"]


def emit_operator(b: Builder, operator: Operator, values: Sequence[Value], at: At | None = None) -> Op:
    """The graph operation of an operator on values; `at` gives the places of what programs hold."""
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
    regions = [region_of(program, b, at) for program in operator.programs]
    return b.emit(f"graph.{operator.name}", *segments, types=types, regions=regions, **attrs)


def emit_results(
    b: Builder, operator: Operator, values: Sequence[Value], at: At | None = None
) -> tuple[Value, ...]:
    """The results of an operator on values. A call with a derivative of its own is what it computes: in a graph all
    derivatives have been taken."""
    from tessera.derivatives.ruled import Ruled

    if isinstance(operator, Ruled):
        return tuple(_emitted(operator.run, b, values, at)[: operator.results])
    return emit_operator(b, operator, values, at).results


def region_of(program: Program, b: Builder, at: At | None = None) -> Region:
    """The closed region of a program."""
    inner = Builder(b.loc)
    args = [Value(from_lang(t)) for t in program.params]
    return inner.region(args, _emitted(program, inner, args, at))


def _emitted(program: Program, b: Builder, values: Sequence[Value], at: At | None) -> list[Value]:
    """The results of a program whose operators are emitted into `b`, each at the place where it was written."""
    from tessera.interpreters import place

    outer = b.loc

    def step(operator: Operator, *xs: Value) -> tuple[Value, ...]:
        b.loc = (at(place()) if at is not None else None) or outer
        return emit_results(b, operator, xs, at)

    found = program.replay(*values, step=step)  # type: ignore[arg-type]
    b.loc = outer
    return found


def by_segment(op: Op, values: dict[Value, Value]) -> list[Arg]:
    """An operation's operands, replaced, as a builder takes them."""
    found: list[Arg] = []
    for spec in op.defn.operands:
        group = [values[v] for v in op.group(spec.name)]
        found.append(group[0] if spec.arity == "1" else group)
    return found
