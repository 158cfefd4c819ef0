"""ts.vmap over the registry: what an operator gives for a batch is what it gives for each example."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np

import tessera as ts
from tessera.arrays import dtype_of, widen
from tessera.interpreters import execute, interpret
from tessera.operator import Case, Operator
from tessera.shapes import symbol
from tessera.tensor import EagerTensor, Tensor
from tessera.types import TensorType
from tests.operators.scalars import SymbolicInterpreter, SymbolicTensor
from tests.operators.test_registry import ULP, concrete, each, inputs, over_cases, rng_of, sizes

EXAMPLES = 3


def choices(count: int) -> list[tuple[bool, ...]]:
    """Which operands have the batch: all, and each by itself."""
    return list(dict.fromkeys([(True,) * count, *(tuple(i == k for i in range(count)) for k in range(count))]))


def close(op: Operator, got: Tensor, want: np.ndarray[Any, Any]) -> None:
    array = got.numpy()
    assert (array.shape, dtype_of(array)) == (want.shape, dtype_of(want))
    a, b = widen(array).astype(np.float64), widen(want).astype(np.float64)
    # The same terms in another order: a few units of the result's type at the size of the largest result.
    unit = ULP.get(dtype_of(want).name, 0.0)
    scale = np.abs(np.where(np.isfinite(b), b, 0)).max(initial=1.0)
    np.testing.assert_allclose(a, b, rtol=4 * unit, atol=8 * unit * scale)


@over_cases
def test_vmap_is_the_loop(case: Case) -> None:
    rng = rng_of(case)
    if not case.inputs:
        return
    for env in sizes(case):
        made = concrete(case, env)
        if made is None:
            continue
        op, types = made
        examples = [inputs(case, types, rng) for _ in range(EXAMPLES)]
        for batched in choices(len(types)):
            args = [np.stack([e[i] for e in examples]) if own else examples[0][i] for i, own in enumerate(batched)]
            axes = tuple(0 if own else None for own in batched)
            got = ts.vmap(functools.partial(execute, op), axes)(*map(EagerTensor, args))
            single = [[e[i] if own else examples[0][i] for i, own in enumerate(batched)] for e in examples]
            with np.errstate(all="ignore"):
                results = [each(op.ref(*one)) for one in single]
            for g, parts in zip(each(got), zip(*results), strict=True):
                close(op, g, np.stack(parts))


@over_cases
def test_batching_needs_types_only(case: Case) -> None:
    """The rules of operators that have one run on symbolic sizes, also of the batch, and give the right types."""
    interpreter, size = SymbolicInterpreter(), symbol("batch")
    if not case.inputs or not type(case.op).has("batch"):
        return
    for batched in choices(len(case.inputs)):
        with interpret(interpreter):
            types = [TensorType((size, *t.dims), t.dtype) if own else t for t, own in zip(case.inputs, batched)]
            made = case.op.batch(tuple(SymbolicTensor(t, interpreter) for t in types), batched, size)
        wanted = [TensorType((size, *t.dims), t.dtype) for t in each(case.op.infer(*case.inputs))]
        assert [m.type for m in each(made)] == wanted


def test_axes_in_and_out() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((4, 5, 6)), rng.standard_normal((6, 7))

    def f(tree: dict[str, Any], y: Tensor, k: int) -> tuple[Any, ...]:
        return tree["x"] @ y, {"s": ts.sum(tree["x"]) * k, "y": y}, k

    for axis_in, axis_out in itertools.product((0, 1, -2), (0, 1, -1)):
        moved = np.moveaxis(a, 0, axis_in)
        p, rest, k = ts.vmap(f, ({"x": axis_in}, None, None), (axis_out, 0, None))({"x": moved}, b, 3)
        np.testing.assert_allclose(np.moveaxis(p.numpy(), axis_out, 0), a @ b)
        np.testing.assert_allclose(rest["s"].numpy(), 3 * a.sum((1, 2)))
        np.testing.assert_array_equal(rest["y"].numpy(), np.stack([b] * 4))
        assert k == 3


def test_batches_of_batches_and_derivatives() -> None:
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((3, 4, 5)), rng.standard_normal((5, 5))
    quadratic = lambda v, w: ts.sum(v * (w @ v))  # noqa: E731
    both = ts.vmap(ts.vmap(ts.grad(quadratic, argnums=0), (0, None)), (0, None))
    np.testing.assert_allclose(both(x, w).numpy(), x @ (w + w.T), atol=1e-12)
    # per-example gradients, and the gradient of a batched function
    per = ts.vmap(ts.grad(quadratic, argnums=1), (0, None))(x[0], w)
    np.testing.assert_allclose(per.numpy(), np.einsum("bi,bj->bij", x[0], x[0]), atol=1e-12)
    total = ts.grad(lambda x, w: ts.sum(ts.vmap(quadratic, (0, None))(x, w)), argnums=1)(x[0], w)
    np.testing.assert_allclose(total.numpy(), per.numpy().sum(0), atol=1e-12)


def test_gathering_with_indices_of_each_example() -> None:
    rng = np.random.default_rng(8)
    table, index = rng.standard_normal((3, 2, 5)), rng.integers(-7, 7, (3, 4))
    got = ts.vmap(lambda t, i: ts.take(t, i, 1))(table, index).numpy()
    place = np.where(index < 0, index + 5, index)
    want = np.stack([np.where((p >= 0) & (p < 5), t[:, np.clip(p, 0, 4)], 0) for t, p in zip(table, place)])
    np.testing.assert_array_equal(got, want)
