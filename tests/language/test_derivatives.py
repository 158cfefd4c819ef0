"""grad, value_and_grad, vjp, jvp on whole functions; the operators' own rules are tested over the registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError

RNG = np.random.default_rng(5)
X, W, B, Y = (ts.tensor(RNG.standard_normal(s)) for s in ((4, 3), (3, 2), (2,), (4, 2)))


def loss(x, w, b, y_true):  # type: ignore[no-untyped-def]
    return ts.mse(ts.relu(x @ w + b), y_true)


def numeric(f: Any, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The gradient by central differences."""
    out = np.zeros_like(array)
    for place in np.ndindex(*array.shape):
        for sign in (1, -1):
            moved = array.copy()
            moved[place] += sign * 1e-6
            out[place] += sign * float(f(ts.tensor(moved)).item()) / 2e-6
    return out


def test_grad_leaves_out_data() -> None:
    dw, db = ts.grad(loss)(X, W, B, Y)
    np.testing.assert_allclose(dw.numpy(), numeric(lambda w: loss(X, w, B, Y), W.numpy()), atol=1e-8)
    np.testing.assert_allclose(db.numpy(), numeric(lambda b: loss(X, W, b, Y), B.numpy()), atol=1e-8)
    bare = ts.grad(lambda x, w: ts.sum(x @ w))(X, W)
    assert isinstance(bare, ts.Tensor) and bare.shape == W.shape
    only_data = ts.grad(lambda x: ts.sum(x * x))(X)
    np.testing.assert_allclose(only_data.numpy(), 2 * X.numpy())
    value, grads = ts.value_and_grad(ts.autodiff(ts.function(loss)))(X, W, B, Y)
    assert float(value) == float(loss(X, W, B, Y)) and len(grads) == 2


def test_argnums_and_trees() -> None:
    dx = ts.grad(loss, argnums=0)(X, W, B, Y)
    np.testing.assert_allclose(dx.numpy(), numeric(lambda x: loss(x, W, B, Y), X.numpy()), atol=1e-8)
    assert [g.shape for g in ts.grad(loss, argnums=(0, -1))(X, W, B, Y)] == [(4, 3), (4, 2)]
    params = {"w": W, "rest": [B, ts.tensor([1, 2]), ts.ones(3)]}
    grads = ts.grad(lambda params, x: loss(x, params["w"], params["rest"][0], Y))(params, X)
    assert grads["w"].shape == (3, 2) and grads["rest"][1] is None
    np.testing.assert_array_equal(grads["rest"][2].numpy(), np.zeros(3))


def test_vjp_and_jvp() -> None:
    def f(a: ts.Tensor, b: ts.Tensor) -> dict[str, Any]:
        return {"p": a @ b, "n": ts.argmax(a, 1), "q": (ts.tanh(a), 3)}

    out, pullback = ts.vjp(f, X, W)
    u, v = RNG.standard_normal((4, 2)), RNG.standard_normal((4, 3))
    da, db = pullback({"p": u, "n": 0, "q": (v, 0)})
    np.testing.assert_allclose(da.numpy(), u @ W.numpy().T + v * (1 - np.tanh(X.numpy()) ** 2))
    np.testing.assert_allclose(db.numpy(), X.numpy().T @ u)
    assert out["n"].dtype == ts.i64 and out["q"][1] == 3
    t = RNG.standard_normal((4, 3))
    _, moved = ts.jvp(f, (X, W), (t, None))
    np.testing.assert_allclose(moved["p"].numpy(), t @ W.numpy())
    np.testing.assert_allclose(moved["q"][0].numpy(), t * (1 - np.tanh(X.numpy()) ** 2))


def test_higher_order() -> None:
    def f(x: ts.Tensor) -> ts.Tensor:
        return ts.sum(ts.sin(x) * x**3)

    x = ts.tensor([0.3, -1.2], ts.f64)
    a = x.numpy()
    third = lambda v: (6 - 9 * v**2) * np.sin(v) + (18 * v - v**3) * np.cos(v)  # noqa: E731
    second = ts.grad(lambda y: ts.sum(ts.grad(f)(y)))
    np.testing.assert_allclose(second(x).numpy(), (6 * a - a**3) * np.sin(a) + 6 * a**2 * np.cos(a))
    np.testing.assert_allclose(ts.grad(lambda y: ts.sum(second(y)))(x).numpy(), third(a))
    _, hessian_vector = ts.jvp(ts.grad(f), (x,), (ts.ones(2, dtype=ts.f64),))
    np.testing.assert_allclose(hessian_vector.numpy(), second(x).numpy())


def test_what_stops_gradients() -> None:
    x = ts.tensor([1.0, 2.0])
    assert ts.grad(lambda w: ts.sum(ts.stop_gradient(w) * w))(x).tolist() == [1, 2]
    assert ts.grad(lambda w: ts.sum(ts.round(w) + 0.0 * w))(x).tolist() == [0, 0]
    assert ts.grad(lambda w: ts.sum(w.astype(ts.i32).astype(ts.f32)))(x).tolist() == [0, 0]
    assert ts.grad(lambda w: ts.sum(w.astype(ts.bf16)))(x).dtype == ts.f32


def test_a_gradient_is_of_its_parameters_type() -> None:
    w = ts.ones(3, dtype=ts.bf16)
    assert ts.grad(lambda w: ts.mse(w, ts.zeros(3)))(w).dtype == ts.bf16


def test_training_reduces_the_loss() -> None:
    rng = np.random.default_rng(3)
    x, target = ts.tensor(rng.standard_normal((64, 5)).astype(np.float32)), ts.tensor(rng.integers(0, 3, 64))
    params = {"w": ts.zeros(5, 3), "b": ts.zeros(3)}

    @ts.function
    def step(params, x, target):  # type: ignore[no-untyped-def]
        return ts.value_and_grad(lambda p: ts.nn.cross_entropy(ts.linear(x, p["w"], p["b"]), target))(params)

    losses = []
    for _ in range(30):
        value, grads = step(params, x, target)
        params = {k: v - 0.5 * grads[k] for k, v in params.items()}
        losses.append(float(value))
    assert abs(losses[0] - np.log(3)) < 1e-5
    assert all(b < a for a, b in zip(losses, losses[1:]))


@pytest.mark.parametrize("call", [
    lambda: ts.grad(lambda w: w * 2)(ts.ones(2)), lambda: ts.grad(lambda w: ts.argmax(w))(ts.ones(2)),
    lambda: ts.grad(lambda w: 3.0)(ts.ones(2)), lambda: ts.grad(lambda n: n)(3),
    lambda: ts.grad(loss, argnums=7)(X, W, B, Y), lambda: ts.vjp(ts.exp, X)[1](ts.ones(2)),
    lambda: ts.vjp(ts.exp, X)[1]((X,)), lambda: ts.jvp(ts.exp, (X,), (ts.ones(2),)),
])
def test_impossible_derivatives_are_diagnosed(call: Any) -> None:
    with pytest.raises(SourceError) as caught:
        call()
    assert caught.value.code == "E313"


def test_a_value_that_escapes_its_function() -> None:
    kept = []
    ts.grad(lambda w: (kept.append(w), ts.sum(w))[1])(ts.ones(2))
    with pytest.raises(SourceError) as caught:
        kept[0] * 2
    assert caught.value.code == "E309"


def test_the_forms_of_the_seeds() -> None:
    """Rule R12 on functions that are marked for compilation, called eagerly and compiled."""
    @ts.jit
    @ts.autodiff
    def loss_function(x, W, b, y_true):  # type: ignore[no-untyped-def]
        return ts.mse(ts.relu(ts.matmul(x, W) + b), y_true)

    @ts.jit
    @ts.autodiff
    def train_step(x, y, W):  # type: ignore[no-untyped-def]
        return ts.sum((ts.gemm(x, W) - y) ** 2)

    grad_w, grad_b = ts.grad(loss_function)(X, W, B, Y)
    np.testing.assert_allclose(grad_w.numpy(), numeric(lambda w: loss(X, w, B, Y), W.numpy()), atol=1e-8)
    np.testing.assert_allclose(grad_b.numpy(), numeric(lambda b: loss(X, W, b, Y), B.numpy()), atol=1e-8)
    assert abs(float(loss_function(X, W, B, Y)) - float(loss(X, W, B, Y))) < 1e-12
    want = 2 * X.numpy().T @ (X.numpy() @ W.numpy() - Y.numpy())
    np.testing.assert_allclose(ts.grad(train_step)(X, Y, W).numpy(), want, rtol=1e-9)
    np.testing.assert_allclose(ts.jit(ts.grad(train_step))(X, Y, W).numpy(), want, rtol=1e-9)
    # a closure: what is differentiated by is the only argument
    np.testing.assert_allclose(ts.grad(lambda v: train_step(X, Y, v))(W).numpy(), want, rtol=1e-9)
