"""Derivatives and batches of every operator on symbolic sizes: traced once, run at a size, they are those of eager."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera import derivatives
from tessera.decorators import Function
from tessera.interpreters import execute
from tessera.operator import Case
from tessera.shapes import symbol
from tessera.tensor import EagerTensor, Tensor
from tessera.types import TensorType
from tesseracc.frontend.trace import trace
from tesseracc.interpret import graph
from tests.operators.test_registry import (
    CASES,
    attribute_symbols,
    concrete,
    each,
    in_f64,
    inputs,
    rng_of,
    sizes,
)

WIDE = [wide for case in CASES if case.op.differentiable and (wide := in_f64(case)) is not None and wide.smooth]


def function_of(body: Any, count: int) -> Function:
    """A function of `count` parameters, as tracing needs them."""
    names = ", ".join(f"p{i}" for i in range(count))
    space: dict[str, Any] = {"body": body}
    exec(f"def f({names}):\n    return body({names})\n", space)
    return ts.function(space["f"])


def traced(body: Any, case: Case, types: list[TensorType], arrays: list[Any], env: dict[str, int]) -> list[Any]:
    """What `body(op, tensors)` gives, traced with the case's symbols and run at a size. One more parameter for each
    symbol says what it is."""
    names = sorted(attribute_symbols(case.op) | {s for t in types for s in t.symbols if s in env})
    given = [*types, *(TensorType((symbol(s),), ts.f32) for s in names)]
    f = function_of(lambda *xs: body(case.op, xs[: len(types)]), len(given))
    module = trace(f, {f"p{i}": t for i, t in enumerate(given)}, ".").module
    return graph.run(module, "f", [*arrays, *(np.zeros(env[s], np.float32) for s in names)])


def at_some_size(case: Case) -> tuple[Any, list[Any], dict[str, int]] | None:
    for env in reversed(list(sizes(case))):
        made = concrete(case, env)
        if made is not None:
            return made[0], inputs(case, made[1], rng_of(case)), env
    return None


def both_modes(op: Any, xs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The gradients of sum(y^2), and the tangent of y in the direction of x itself."""
    floats = [i for i, x in enumerate(xs) if x.dtype.is_float and i not in op.nondiff]

    def of(*chosen: Tensor) -> Any:
        full = list(xs)
        for i, x in zip(floats, chosen, strict=True):
            full[i] = x
        return execute(op, *full)

    chosen = [xs[i] for i in floats]
    out, pullback = derivatives.vjp(of, *chosen)
    _, moved = derivatives.jvp(of, chosen, chosen)
    cts = tuple(2.0 * o for o in each(out))
    grads = pullback(cts if isinstance(out, tuple) else cts[0])
    return (*(ts.zeros_like(x) if g is None else g for x, g in zip(chosen, grads, strict=True)), *each(moved))


@pytest.mark.parametrize("case", WIDE, ids=[f"{i}-{c}".replace(" ", "") for i, c in enumerate(WIDE)])
def test_traced_derivatives_are_the_eager_ones(case: Case) -> None:
    found = at_some_size(case)
    assert found is not None
    op, arrays, env = found
    want = both_modes(op, tuple(EagerTensor(np.asarray(a)) for a in arrays))
    for got, expected in zip(traced(both_modes, case, list(case.inputs), arrays, env), want, strict=True):
        a, b = np.asarray(got, np.float64), expected.numpy()
        scale = 1 + np.abs(np.where(np.isfinite(b), b, 0)).max(initial=0.0)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * scale)


BATCHED = [c for c in CASES if c.inputs and type(c.op).has("batch")]


@pytest.mark.parametrize("case", BATCHED, ids=[f"{i}-{c}".replace(" ", "") for i, c in enumerate(BATCHED)])
def test_traced_batches_are_the_eager_ones(case: Case) -> None:
    found = at_some_size(case)
    assert found is not None
    op, arrays, env = found
    if not all(t.dtype.name in ("f32", "f64", "i32", "i64", "bool") for t in case.inputs):
        return  # narrow types are widened and rounded alike; what differs between them is tested elsewhere
    batch = [np.stack([a, np.flip(a)]) for a in arrays]
    types = [TensorType((symbol("batch"), *t.dims), t.dtype) for t in case.inputs]

    def body(op: Any, xs: tuple[Tensor, ...]) -> Any:
        return derivatives.vmap(lambda *one: execute(op, *one))(*xs)

    results = traced(body, case, types, batch, env)
    for got, expected in zip(results, each(body(op, tuple(map(EagerTensor, batch)))), strict=True):
        want = expected.numpy()
        assert got.shape == want.shape and got.dtype == want.dtype
        scale = np.abs(np.where(np.isfinite(want), want, 0)).max(initial=1.0) if want.dtype.kind == "f" else 0
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6 * scale)
