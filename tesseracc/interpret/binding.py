"""Sizes at run time: solving a program's symbols from actual shapes, and evaluating dim expressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.shapes import Dim, substitute, unify


def evaluate_dim(expr: Dim, symbols: Mapping[str, int]) -> int:
    """The value of a dim; every symbol in it must be given."""
    value = substitute(expr, symbols)
    assert isinstance(value, int), f"{expr} still depends on {value}"
    return value


def solve_dims(declared: Sequence[Sequence[Dim]], actual: Sequence[Sequence[int]]) -> dict[str, int]:
    """The symbols that make the declared shapes equal the actual ones. Raises UnifyError where none do."""
    pattern = [dim for shape in declared for dim in shape]
    sizes = [size for shape in actual for size in shape]
    found = unify(pattern, sizes, {})
    return {name: value for name, value in found.items() if isinstance(value, int)}
