"""The algebra of sizes against plain integer arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tessera.errors import SourceError
from tessera.shapes import (
    Dim,
    Divisible,
    Expr,
    UnifyError,
    ceildiv,
    collect_assumptions,
    dim_max,
    dim_min,
    divisible,
    equal_if_divisible,
    known_equal,
    parse_dim,
    product,
    substitute,
    symbol,
    symbols_of,
    unify,
)
from tessera_runtime.core.shapeexpr import evaluate, validate

A, B, D = symbol("A"), symbol("B"), symbol("D")
NAMES = ("A", "B", "D")

OPERATIONS: dict[str, Any] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "//": lambda a, b: a // b,
    "%": lambda a, b: a % b, "ceildiv": ceildiv, "min": dim_min, "max": dim_max,
}
PLAIN: dict[str, Any] = {**OPERATIONS, "ceildiv": lambda a, b: -(-a // b), "min": min, "max": max}

trees = st.recursive(
    st.one_of(st.integers(-6, 6), st.sampled_from(NAMES)),
    lambda inner: st.tuples(st.sampled_from(sorted(OPERATIONS)), inner, inner), max_leaves=8)
environments = st.fixed_dictionaries({name: st.integers(0, 9) for name in NAMES})


def build(tree: Any) -> Dim:
    if isinstance(tree, tuple):
        return OPERATIONS[tree[0]](build(tree[1]), build(tree[2]))  # type: ignore[no-any-return]
    return symbol(tree) if isinstance(tree, str) else tree


def compute(tree: Any, env: dict[str, int]) -> int:
    if isinstance(tree, tuple):
        return PLAIN[tree[0]](compute(tree[1], env), compute(tree[2], env))  # type: ignore[no-any-return]
    return env[tree] if isinstance(tree, str) else tree


def both(tree: Any, env: dict[str, int]) -> tuple[Dim, int]:
    """The size and its value; discards what divides by zero."""
    try:
        return build(tree), compute(tree, env)
    except ZeroDivisionError:
        assume(False)
        raise


@given(trees, environments)
def test_substitution_is_integer_arithmetic(tree: Any, env: dict[str, int]) -> None:
    expr, value = both(tree, env)
    try:
        found = substitute(expr, env)
    except ZeroDivisionError:
        # Nothing is lost: simplification may only remove divisions.
        raise AssertionError("a division by zero that the expression does not have") from None
    assert found == value
    assert type(found) is int


@given(trees, environments)
def test_text_and_postfix_round_trip(tree: Any, env: dict[str, int]) -> None:
    expr, value = both(tree, env)
    assert parse_dim(str(expr)) == expr
    if isinstance(expr, Expr):
        postfix = expr.to_postfix()
        validate(postfix, expr.symbols())
        assert evaluate(postfix, env) == value


@given(trees, trees, environments)
def test_equal_sizes_are_equal_for_all_values(left: Any, right: Any, env: dict[str, int]) -> None:
    (a, x), (b, y) = both(left, env), both(right, env)
    if known_equal(a, b):
        assert x == y
        assert hash(a) == hash(b)


@given(trees, st.integers(1, 9), environments)
def test_divisible_holds(tree: Any, k: int, env: dict[str, int]) -> None:
    expr, value = both(tree, env)
    known = divisible(expr, k)
    if known is not None:
        assert known == (value % k == 0)


@given(st.lists(trees, min_size=1, max_size=3), environments)
def test_unify_finds_the_values(patterns: list[Any], env: dict[str, int]) -> None:
    pairs = [both(t, env) for t in [*NAMES, *patterns]]
    assume(all(v >= 0 for _, v in pairs))
    found = unify([p for p, _ in pairs], [v for _, v in pairs], {})
    assert {name: found[name] for name in NAMES} == env


def test_canonical_forms() -> None:
    assert str(1 + 3 * D - B * D) == "-B*D + 3*D + 1"
    assert str(B * D * 2) == "2*B*D"
    assert (B * D) // D == B
    assert (6 * D + 7) // 3 == 2 * D + 2
    assert (4 * D) // 16 == D // 4
    assert (8 * D) % 4 == 0
    assert ceildiv(4 * D + 4, 4) == D + 1
    assert D - D == 0 and type(D - D) is int
    assert dim_max(B + 1, B) == B + 1
    assert dim_min(D // 2, D) == D // 2
    assert dim_max(0, D - D // 2) == D - D // 2
    assert dim_min(B, D) == dim_min(D, B)
    assert product((B, 3, D)) == 3 * B * D
    assert symbols_of(ceildiv(B, 2) * D + 1) == {"B", "D"}
    assert f"{B:>4}" == "   B"


def test_unify_solves_and_remembers() -> None:
    assert unify((B, 3 * D), (7, 12), {}) == {"B": 7, "D": 4}
    assert unify((3 * D + 1,), (A * 3 + 1,), {}) == {"D": A}
    bound = unify((A * B,), (12,), {})
    assert bound == {"A*B": 12}
    with pytest.raises(UnifyError):
        unify((A * B,), (13,), bound)
    with pytest.raises(UnifyError) as caught:
        unify((D, 3 * D), (4, 13), {})
    assert (caught.value.axis, str(caught.value.pattern), caught.value.expected) == (1, "3*D", 12)
    for actual in (13, 2):
        with pytest.raises(UnifyError):
            unify((3 * D + 5,), (actual,), {})


def test_divisibility_assumptions() -> None:
    assert equal_if_divisible(B * 16 * (D // 16), B * D) == (Divisible(D, 16),)
    assert equal_if_divisible(A * (D // A), D) == (Divisible(D, A),)
    assert equal_if_divisible(D, D) == ()
    assert equal_if_divisible(D, B) is None
    assert str(Divisible(D, 16)) == "D % 16 == 0"
    import tessera as ts
    from tessera.types import TensorType
    from tests.operators.scalars import SymbolicInterpreter, SymbolicTensor

    interpreter = SymbolicInterpreter()
    x = SymbolicTensor(TensorType.parse("f32[B, D]"), interpreter)
    from tessera.interpreters import interpret
    with interpret(interpreter), collect_assumptions() as found:
        y = ts.reshape(x, x.shape[0], 16, x.shape[1] // 16)
        ts.reshape(x, x.shape[0], 16, x.shape[1] // 16)
    assert str(y.type) == "f32[B, 16, D//16]"
    assert found == [Divisible(D, 16)]


@pytest.mark.parametrize("text", [
    "", "3**D", "f(D)", "D.x", "'a'", "1.5", "min(D)", "ceildiv(D, 2, 3)", "D +", "(" * 400, "not D", "True", "D // 0",
    "max(D, k=2)", "D[0]", "x" * 600])
def test_bad_text_is_diagnosed(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_dim(text)
    assert caught.value.code == "E306"


@pytest.mark.parametrize("use", [bool, int, float, lambda d: d < 3, lambda d: range(d), lambda d: [1, 2][d]])
def test_a_symbolic_size_is_not_a_number(use: Any) -> None:
    with pytest.raises(SourceError) as caught:
        use(B)
    assert caught.value.code == "E308"
    assert "`B`" in caught.value.message
