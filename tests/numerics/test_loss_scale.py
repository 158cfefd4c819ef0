"""Loss scaling: small gradients survive narrow types, overflow skips the step, and nothing else changes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.pytree import flatten

RUNS = pytest.mark.parametrize("run", [lambda f: f, ts.jit], ids=["eager", "compiled"])
SCALE = 2.0**15
START = ts.tensor([1.0, -0.5, 0.25], ts.f16)


def small_loss(x: Any, w: Any) -> Any:
    """Its cotangents are about 2^-27 at w: nothing in f16, whose least number is 2^-24."""
    return ts.sum((x * w).astype(ts.f32)) * 2.0**-27


@ts.function
def plain(x: ts.Tensor["N", ts.f16], w: ts.Tensor["N", ts.f16]):
    return ts.grad(lambda w: small_loss(x, w))(w)


@ts.function
def scaled(x: ts.Tensor["N", ts.f16], w: ts.Tensor["N", ts.f16 @ ts.loss_scale(SCALE)]):
    return ts.value_and_grad(lambda w: small_loss(x, w))(w)


@RUNS
def test_small_gradients_survive(run: Callable[[Any], Any]) -> None:
    x = np.random.default_rng(1).integers(1, 8, 33).astype(np.float16) / 8
    w = np.random.default_rng(2).standard_normal(33).astype(np.float16)
    assert np.all(run(plain)(x, w).numpy() == 0)
    value, gradient = run(scaled)(x, w)
    assert gradient.dtype == ts.f32
    np.testing.assert_array_equal(gradient.numpy(), x.astype(np.float32) * 2.0**-27)
    products = (x.astype(np.float32) * w.astype(np.float32)).astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(value.item(), products.sum() * 2.0**-27, rtol=1e-5)


@ts.function
def steep(a: ts.Tensor["N", "f16 @loss_scale(1024.0)"], b: ts.Tensor["M", ts.f32], factor: ts.Tensor[ts.f32]):
    return ts.grad(lambda a, b: ts.sum(a.astype(ts.f32) * factor) + ts.sum(b * b))(a, b)


@RUNS
def test_overflow_anywhere_gives_zeros_everywhere(run: Callable[[Any], Any]) -> None:
    a, b = np.ones(5, np.float16), np.arange(7, dtype=np.float32)
    da, db = run(steep)(a, b, np.float32(60.0))
    np.testing.assert_array_equal(da.numpy(), np.full(5, 60.0))
    np.testing.assert_array_equal(db.numpy(), 2 * b)
    da, db = run(steep)(a, b, np.float32(70.0))  # 1024 * 70 is beyond f16
    assert np.all(da.numpy() == 0) and np.all(db.numpy() == 0) and len(db.numpy()) == 7


@ts.function
def declared_loss(w: ts.Tensor["N", "bf16 @accum(f32) @loss_scale(128.0)"], x: ts.Tensor["N", ts.bf16]):
    return ts.sum((w * w * x).astype(ts.f32))


def test_a_function_that_declares_the_scale() -> None:
    rng = np.random.default_rng(4)
    w, x = (ts.tensor(rng.standard_normal(9).astype(np.float32)).astype(ts.bf16) for _ in range(2))
    found = ts.grad(declared_loss)(w, x)
    bare = ts.grad(lambda w: ts.sum((w * w * x).astype(ts.f32)))(w)
    assert found.dtype.base == ts.f32 and bare.dtype.base == ts.bf16
    np.testing.assert_array_equal(found.numpy(), bare.astype(ts.f32).numpy())  # a power of two scales exactly


def test_trees_of_weights_and_the_value_form() -> None:
    rng = np.random.default_rng(6)
    tree = {"a": rng.standard_normal((3, 2)).astype(np.float32), "b": [rng.standard_normal(2).astype(np.float32)]}
    x = ts.tensor(rng.standard_normal((4, 3)).astype(np.float32))

    def loss(weights: Any) -> Any:
        return ts.mean(ts.tanh(x @ weights["a"] + weights["b"][0]))

    def typed(dtype: str) -> Any:
        return {"a": ts.tensor(tree["a"], dtype), "b": [ts.tensor(tree["b"][0], dtype)]}

    want, found = ts.grad(loss)(typed("f32")), ts.grad(loss)(typed("f32 @loss_scale(64.0)"))
    np.testing.assert_array_equal(found["a"].numpy(), want["a"].numpy())
    np.testing.assert_array_equal(found["b"][0].numpy(), want["b"][0].numpy())

    @ts.function
    def by_value(x: Any, a: Any) -> Any:
        return ts.grad(ts.mean(ts.tanh(x @ a)), a)

    a = ts.tensor(tree["a"])
    np.testing.assert_array_equal(by_value(x, a.astype("f32 @loss_scale(64.0)")).numpy(), by_value(x, a).numpy())


def test_one_scale_for_one_loss() -> None:
    a, b = ts.ones(2, dtype=ts.f32).astype("f32 @loss_scale(2.0)"), ts.ones(2).astype("f32 @loss_scale(4.0)")
    with pytest.raises(ts.SourceError) as caught:
        ts.grad(lambda a, b: ts.sum(a * b))(a, b)
    assert caught.value.code == "E313" and "loss scales 2.0 and 4.0" in caught.value.message


def test_all_finite() -> None:
    tree = {"a": [ts.ones(3), ts.arange(4)], "b": ts.tensor([1.0, 3e38])}
    assert bool(ts.all_finite(tree)) and bool(ts.all_finite([])) and bool(ts.all_finite(ts.zeros(0)))
    for bad in (np.nan, np.inf, -np.inf):
        assert not bool(ts.all_finite({**tree, "c": ts.tensor([0.0, bad])}))
        assert not bool(ts.all_finite(ts.tensor([bad]).astype(ts.bf16)))


@RUNS
def test_training_skips_steps_that_overflow(run: Callable[[Any], Any]) -> None:
    """adamw with momentum and decay under a scale of 1024: three steps, of which the second is beyond f16."""
    optimiser = ts.optim.skip_zero(ts.optim.adamw(0.1, decay=0.1))

    @run
    @ts.function
    def step(w: ts.Tensor[3, "f16 @loss_scale(1024.0)"], state: ts.like(optimiser.init(START)), x: ts.Tensor[ts.f32]):
        grads = ts.grad(lambda w: ts.sum(w.astype(ts.f32) * x * x))(w)
        return optimiser.update(w, grads, state)

    w, state = START, optimiser.init(START)
    first, m, v = np.array(START.tolist()), np.zeros(3), np.zeros(3)
    for i, x in enumerate((2.0, 90.0, 3.0)):
        before = (w, state)
        w, state = step(w, state, np.float32(x))
        leaves = [a.tolist() for a in flatten((w, state))[0]]
        skipped = leaves == [a.tolist() for a in flatten(before)[0]]
        assert skipped == (i == 1), (i, leaves)
        if not skipped:
            taken = 1 + (i > 1)
            g = x * x
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            first = first - 0.1 * (m / (1 - 0.9**taken) / (np.sqrt(v / (1 - 0.999**taken)) + 1e-8) + 0.1 * first)
        np.testing.assert_allclose(np.array(w.tolist()), first, atol=2e-3)
