"""Sizes and shapes: reading them, comparing them, fitting them to patterns.

A size (`Dim`) is an int or an `Expr` (tessera.polynomials); this module has everything that others need of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence

from tessera.assumptions import Divisible, assume, collect_assumptions, equal_if_divisible
from tessera.errors import SourceError
from tessera.polynomials import (
    OPERATORS,
    Dim,
    Expr,
    ceildiv,
    dim_max,
    dim_min,
    is_symbol,
    parts,
    substitute,
    symbol,
    symbols_of,
)

__all__ = [
    "Dim", "Divisible", "Expr", "UnifyError", "assume", "ceildiv", "collect_assumptions", "dim_max", "dim_min",
    "divisible", "equal_if_divisible", "known_equal", "parse_dim", "product", "substitute", "symbol", "symbols_of",
    "unify",
]


def parse_dim(text: str) -> Dim:
    """Read "B", "3*D + 1", "ceildiv(N, 128)", "N//2". Raises SourceError E306 that shows the column."""
    if len(text) > 500:
        raise SourceError("E306", "a dim expression is longer than 500 characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _from_ast(tree.body, text)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as err:
        column = (getattr(err, "offset", None) or 1) - 1
        raise _bad_dim(text, column, "it is not an expression") from None
    except ZeroDivisionError:
        raise _bad_dim(text, 0, "it divides by zero") from None


def _bad_dim(text: str, column: int, why: str) -> SourceError:
    return SourceError(
        "E306", f"bad dim expression {text!r} at column {column + 1}: {why}",
        help="a dim is an int, a name, or an expression of them with + - * // %, ceildiv, min and max, such as '3*D'",
    )


def _from_ast(node: ast.expr, text: str) -> Dim:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return symbol(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return 0 - _from_ast(node.operand, text)
    if isinstance(node, ast.BinOp):
        left, right = _from_ast(node.left, text), _from_ast(node.right, text)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.FloorDiv):
            return left // right
        if isinstance(node.op, ast.Mod):
            return left % right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords and len(node.args) == 2:
        function = OPERATORS.get(node.func.id)
        if function is not None:
            return function(_from_ast(node.args[0], text), _from_ast(node.args[1], text))
    raise _bad_dim(text, getattr(node, "col_offset", 0), "this is not allowed in a dim")


# Relations ------------------------------------------------------------------------------------------------------------


def product(dims: Iterable[Dim]) -> Dim:
    """The number of elements of a shape."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def known_equal(a: Dim, b: Dim) -> bool:
    """True when the two sizes are equal for every value of their symbols; False when that is not known."""
    return a == b


def divisible(a: Dim, k: int) -> bool | None:
    """Whether k divides `a` for every (True), for no (False), or for an unknown set of values (None) of its symbols."""
    terms, _ = parts(a)
    if any(c % k for m, c in terms.items() if m):
        return None
    return terms.get((), 0) % k == 0


class UnifyError(Exception):
    """Axis `axis` of an actual shape does not fit its pattern. `expected` is the pattern under what is bound so far."""

    def __init__(self, axis: int, pattern: Dim, expected: Dim, actual: Dim) -> None:
        super().__init__(f"axis {axis} is {actual}, expected {pattern}")
        self.axis, self.pattern, self.expected, self.actual = axis, pattern, expected, actual


def unify(pattern: Sequence[Dim], actual: Sequence[Dim], env: Mapping[str, Dim]) -> dict[str, Dim]:
    """Bind the symbols of `pattern` so that it equals `actual`; returns `env` extended by the new bindings.

    An expression linear in one unbound symbol is solved ("3*D" against 12 binds D = 4). An expression with more unbound
    symbols ("B*H") is remembered under its own text, so that its next use must agree. Raises UnifyError. The ranks
    must be equal.
    """
    if len(pattern) != len(actual):
        raise ValueError(f"rank {len(actual)} against a pattern of rank {len(pattern)}")
    bound = dict(env)
    # Bare names first: they make the expressions beside them decidable, in whatever order the dims are written.
    order = sorted(range(len(pattern)), key=lambda i: len(symbols_of(pattern[i])) > 1 or not is_symbol(pattern[i]))
    for axis in order:
        _unify_dim(axis, pattern[axis], actual[axis], bound)
    return bound


def _unify_dim(axis: int, pattern: Dim, actual: Dim, bound: dict[str, Dim]) -> None:
    try:
        expected = substitute(pattern, bound)
    except ZeroDivisionError:
        raise UnifyError(axis, pattern, pattern, actual) from None
    free = sorted(s for s in symbols_of(pattern) if s not in bound)
    if not free:
        if not known_equal(expected, actual):
            raise UnifyError(axis, pattern, expected, actual)
        return
    if len(free) == 1 and isinstance(expected, Expr):
        mono = ((free[0], 1),)
        coeff = dict(expected.terms).get(mono)
        rest = expected - symbol(free[0]) * coeff if coeff is not None else expected
        if coeff is not None and free[0] not in symbols_of(rest):
            value = actual - rest
            if divisible(value, coeff) is not True:
                raise UnifyError(axis, pattern, expected, actual)
            solved = value // coeff
            if isinstance(solved, int) and solved < 0:
                raise UnifyError(axis, pattern, expected, actual)
            bound[free[0]] = solved
            return
    key = str(pattern)
    if not known_equal(bound.setdefault(key, actual), actual):
        raise UnifyError(axis, pattern, bound[key], actual)
