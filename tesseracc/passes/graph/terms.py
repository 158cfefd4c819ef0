"""Equations between graph operations as data: terms, what matches them, and what they stand for.

A term is a variable, or an operator on terms. Its attributes are given, or kept under a name and used again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tesseracc.ir.types import TensorType
from tesseracc.ir.value import Op, Value

Attrs = Mapping[str, Any]
#: attributes from the type of the first operand
Attributes = Callable[[TensorType], Attrs]


@dataclass(frozen=True)
class Term:
    """An operator on terms. `attrs` must hold; `kept` names the attributes of an operator, whatever they are."""

    name: str
    args: tuple[Pattern, ...]
    attrs: Attributes = field(default=lambda _: {})
    kept: str = ""


Pattern = Term | str
#: a right side that no term says: a function of tensors, from the operator on the left
Composition = Callable[[Op], Callable[..., Any]]


@dataclass(frozen=True)
class Bindings:
    """What a match found: values by variable, attributes by name, and the operations that the terms are."""

    values: dict[str, Value] = field(default_factory=dict)
    attrs: dict[str, Attrs] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)


def _anything(_: Bindings) -> bool:
    return True


@dataclass(frozen=True)
class Equation:
    """before -> after, where `when` holds; `rule` is the entry of `tesseracc.numerics.RULES` that must be allowed."""

    rule: str
    before: Term
    after: Pattern | Composition
    when: Callable[[Bindings], bool] = _anything


def tensor(value: Value) -> TensorType:
    """The type of a value of a graph."""
    assert isinstance(value.type, TensorType)
    return value.type


def matches(term: Pattern, value: Value, made: Mapping[Value, Op], found: Bindings) -> bool:
    """Whether a value is what a term says; fills `found`. A variable that occurs twice is the same value twice."""
    if isinstance(term, str):
        return found.values.setdefault(term, value) is value
    op = made.get(value)
    if op is None or op.name != f"graph.{term.name}" or len(op.operands) != len(term.args):
        return False
    if any(op.attrs[key] != want for key, want in term.attrs(tensor(op.operands[0])).items()):
        return False
    if term.kept:
        found.attrs[term.kept] = op.attrs
    found.ops.append(op)
    return all(matches(arg, v, made, found) for arg, v in zip(term.args, op.operands, strict=True))
