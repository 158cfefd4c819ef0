"""jacfwd, jacrev, hvp, gradcheck; and how gradients of narrow types are added."""

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError

RNG = np.random.default_rng(21)


def f(x: ts.Tensor, y: ts.Tensor) -> dict[str, ts.Tensor]:
    return {"a": ts.sin(x) @ y, "s": ts.sum(x * x) * ts.sum(y)}


def by_differences(g: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    columns = []
    for place in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        columns.append((np.asarray(g(x + step)) - np.asarray(g(x - step))) / 2e-6)
    return np.stack(columns, -1).reshape(*columns[0].shape, *x.shape)


@pytest.mark.parametrize("jacobian", [ts.jacfwd, ts.jacrev])
@pytest.mark.parametrize("argnum", [0, 1])
def test_jacobians(jacobian: Any, argnum: int) -> None:
    args = [RNG.standard_normal((2, 3)), RNG.standard_normal((3, 4))]
    found = jacobian(f, argnum)(*args)
    for key in ("a", "s"):
        def of(v: np.ndarray[Any, Any], key: str = key) -> Any:
            return f(*(ts.tensor(v if i == argnum else a) for i, a in enumerate(args)))[key].numpy()

        np.testing.assert_allclose(found[key].numpy(), by_differences(of, args[argnum]), rtol=1e-6, atol=1e-7)
    both = jacobian(f, (0, 1))(*args)
    np.testing.assert_allclose(both["a"][argnum].numpy(), found["a"].numpy())


def test_jacobians_of_trees_and_compiled() -> None:
    w = {"m": ts.tensor(RNG.standard_normal((3, 3))), "b": [ts.tensor(RNG.standard_normal(3))]}
    x = ts.tensor(RNG.standard_normal(3))

    def layer(w: Any, x: ts.Tensor) -> ts.Tensor:
        return w["m"] @ x + w["b"][0]

    for jacobian in (ts.jacfwd, ts.jacrev):
        found = jacobian(layer)(w, x)
        np.testing.assert_allclose(found["b"][0].numpy(), np.eye(3))
        np.testing.assert_allclose(found["m"].numpy(), np.einsum("ij,k->ijk", np.eye(3), x.numpy()))
    hessian = lambda x: ts.jacfwd(ts.jacrev(lambda v: ts.sum(ts.exp(v) * v)))(x)  # noqa: E731
    want = np.diag(np.exp(x.numpy()) * (x.numpy() + 2))
    np.testing.assert_allclose(hessian(x).numpy(), want, atol=1e-12)
    np.testing.assert_allclose(ts.jit(hessian)(x).numpy(), want, atol=1e-9)


def test_transformed_functions_compile() -> None:
    @ts.function
    def loss(w: ts.Tensor["D", ts.f64], x: ts.Tensor["B", "D", ts.f64]) -> ts.Tensor[ts.f64]:
        return ts.sum(ts.tanh(x @ w))

    w, x = RNG.standard_normal(3), RNG.standard_normal((4, 3))
    slope = 1 - np.tanh(x @ w) ** 2
    value, gradient = ts.jit(ts.value_and_grad(loss))(w, x)
    np.testing.assert_allclose(float(value), np.tanh(x @ w).sum(), rtol=1e-9)
    np.testing.assert_allclose(gradient.numpy(), slope @ x, rtol=1e-9)
    np.testing.assert_allclose(ts.jit(ts.grad(loss))(w=w, x=x).numpy(), slope @ x, rtol=1e-9)
    one = lambda w, x: ts.tanh(ts.sum(w * x))  # noqa: E731
    each = ts.jit(ts.vmap(ts.grad(one), (None, 0)))(w, x)
    np.testing.assert_allclose(each.numpy(), slope[:, None] * x, rtol=1e-9)
    rows = ts.jit(ts.jacrev(lambda w, x: ts.tanh(x @ w)))(w, x)
    np.testing.assert_allclose(rows.numpy(), slope[:, None] * x, rtol=1e-9)
    with pytest.raises(ts.TesseraError, match="rank 2, expected 1"):
        ts.jit(ts.grad(loss))(x, x)


def test_hessian_times_vector() -> None:
    a = RNG.standard_normal((5, 5))
    x, v = RNG.standard_normal(5), RNG.standard_normal(5)
    quadratic = lambda x, s: ts.sum(x * (ts.tensor(a) @ x)) * s  # noqa: E731
    np.testing.assert_allclose(ts.hvp(lambda x: quadratic(x, 1.0), x, v).numpy(), (a + a.T) @ v)
    s, ds = ts.tensor(np.float64(2)), ts.tensor(np.float64(0.5))
    hx, hs = ts.hvp(quadratic, (x, s), (v, ds))
    np.testing.assert_allclose(hx.numpy(), 2 * (a + a.T) @ v + 0.5 * (a + a.T) @ x)
    np.testing.assert_allclose(float(hs), x @ (a + a.T) @ v)


def test_cotangents_of_narrow_values_are_added_in_f32() -> None:
    # 1 + 300 * 2^-9 is 1.5859375; in bf16 every single addition would round back to 1
    w = ts.ones((), dtype=ts.bf16)
    small = ts.full((), 2.0**-9, ts.bf16)

    def loss(w: ts.Tensor) -> ts.Tensor:
        total = w.astype(ts.f32)
        for _ in range(300):
            total = total + (w * small).astype(ts.f32)
        return total

    gradient = ts.grad(loss)(w)
    assert gradient.dtype == ts.bf16 and float(gradient) == 1.5859375


def test_gradcheck() -> None:
    x, w = RNG.standard_normal((2, 3)), RNG.standard_normal(3)
    ts.gradcheck(lambda x, w: ts.sum(ts.tanh(x * w)), x, w)
    wrong = ts.custom_vjp(lambda x: x * x)
    wrong.defvjp(lambda x: (x * x, x), lambda x, ct: ct * x)
    with pytest.raises(SourceError) as caught:
        ts.gradcheck(lambda x: ts.sum(wrong(x)), x)
    assert caught.value.code == "E313" and "argument 0 at [0, 0]" in caught.value.message


@pytest.mark.parametrize("call", [
    lambda: ts.jacfwd(f, 2)(ts.ones(2), ts.ones(2)), lambda: ts.jacrev(lambda x: x)(3),
    lambda: ts.vmap(lambda x: x)(3), lambda: ts.vmap(lambda x, y: x)(ts.ones(2), ts.ones(3)),
    lambda: ts.vmap(lambda x: x, (0, 0))(ts.ones(2)), lambda: ts.vmap(lambda x: x, 0, None)(ts.ones(2)),
    lambda: ts.vmap(lambda x: (x, x), 0, (0, 0, 0))(ts.ones(2)),
])
def test_impossible_calls_are_diagnosed(call: Any) -> None:
    with pytest.raises(SourceError) as caught:
        call()
    assert caught.value.code == "E313"
