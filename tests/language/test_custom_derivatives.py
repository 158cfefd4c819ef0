"""Rules of the user's own, checkpoints, and gradients of values."""

import functools
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError
from tessera.interpreters import Interpreter, interpret
from tessera.tensor import EagerTensor

RNG = np.random.default_rng(11)


@ts.custom_vjp
def custom_gelu(x):  # type: ignore[no-untyped-def]
    """GELU with custom backward pass"""
    return 0.5 * x * (1 + ts.tanh(0.79788456 * (x + 0.044715 * x**3)))


def custom_gelu_fwd(x):  # type: ignore[no-untyped-def]
    y = custom_gelu(x)
    return y, (x, y)


def custom_gelu_bwd(saved, grad_output):  # type: ignore[no-untyped-def]
    x, _y = saved
    cdf = 0.5 * (1 + ts.tanh(0.79788456 * (x + 0.044715 * x**3)))
    pdf = ts.exp(-0.5 * x**2) / ts.sqrt(2 * ts.pi)
    return grad_output * (cdf + x * pdf)


custom_gelu.defvjp(custom_gelu_fwd, custom_gelu_bwd)


def gelu_slope(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The literal formula of custom_gelu_bwd, which is no derivative of custom_gelu."""
    cdf = 0.5 * (1 + np.tanh(0.79788456 * (x + 0.044715 * x**3)))
    return cdf + x * np.exp(-0.5 * x**2) / np.float64(np.sqrt(np.float32(2 * np.pi)))  # ts.sqrt of a number is f32


def test_a_rule_is_used_as_it_is_written() -> None:
    x, ct = RNG.uniform(-3, 3, 40), RNG.standard_normal(40)
    value, pullback = ts.vjp(custom_gelu, x)
    np.testing.assert_allclose(value.numpy(), 0.5 * x * (1 + np.tanh(0.79788456 * (x + 0.044715 * x**3))))
    np.testing.assert_allclose(pullback(ct)[0].numpy(), ct * gelu_slope(x), rtol=1e-12)
    # forwards the same rule, though it is given backwards only; the true slope is up to 8.3e-4 away
    np.testing.assert_allclose(ts.jvp(custom_gelu, (x,), (ct,))[1].numpy(), ct * gelu_slope(x), rtol=1e-12)
    true = ts.grad(lambda x: ts.sum(custom_gelu.python(x)))(x).numpy()
    assert 1e-4 < np.abs(true - gelu_slope(x)).max() < 1e-3


def test_rules_in_batches_compiled_and_of_higher_order() -> None:
    x = RNG.uniform(-3, 3, (4, 5))
    each = ts.vmap(ts.grad(lambda v: ts.sum(custom_gelu(v) ** 2)))
    y = 0.5 * x * (1 + np.tanh(0.79788456 * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(each(x).numpy(), 2 * y * gelu_slope(x), rtol=1e-12)
    np.testing.assert_allclose(ts.grad(lambda v: ts.sum(ts.vmap(custom_gelu)(v)))(x).numpy(), gelu_slope(x))

    def slope(v: ts.Tensor) -> ts.Tensor:
        return ts.sum(ts.grad(lambda u: ts.sum(custom_gelu(u)))(v))

    step = 1e-6
    numeric = (gelu_slope(x + step) - gelu_slope(x - step)) / (2 * step)
    np.testing.assert_allclose(ts.grad(slope)(x).numpy(), numeric, atol=1e-8)
    compiled = ts.jit(lambda x: ts.grad(lambda v: ts.sum(custom_gelu(v)))(x))
    np.testing.assert_allclose(compiled(x).numpy(), gelu_slope(x), rtol=1e-9, atol=1e-12)


@ts.custom_jvp
def safe_norm(x, scale):  # type: ignore[no-untyped-def]
    return {"norm": ts.sqrt(ts.sum(x * x)) * scale}


@safe_norm.defjvp
def _safe_norm_rule(primals, tangents):  # type: ignore[no-untyped-def]
    (x, scale), (dx, dscale) = primals, tangents
    norm = ts.sqrt(ts.sum(x * x))
    inverse = ts.where(norm > 0, 1.0 / ts.maximum(norm, 1e-30), 0.0)
    return {"norm": norm * scale}, {"norm": ts.sum(x * dx) * inverse * scale + norm * dscale}


def test_forward_rules_serve_reverse_mode() -> None:
    x, dx = RNG.standard_normal(6), RNG.standard_normal(6)
    _, moved = ts.jvp(lambda x: safe_norm(x, 3.0)["norm"], (x,), (dx,))
    np.testing.assert_allclose(float(moved), 3 * x @ dx / np.linalg.norm(x), rtol=1e-12)
    found = ts.grad(lambda x, s: safe_norm(x, s)["norm"], argnums=(0, 1))(x, ts.tensor(np.float64(3)))
    np.testing.assert_allclose(found[0].numpy(), 3 * x / np.linalg.norm(x), rtol=1e-12)
    np.testing.assert_allclose(float(found[1]), np.linalg.norm(x))
    zero = ts.zeros(6, dtype=ts.f64)
    assert ts.grad(lambda x: safe_norm(x, 1.0)["norm"])(zero).tolist() == [0.0] * 6
    batch = RNG.standard_normal((3, 6))
    rows = ts.vmap(ts.grad(lambda x: safe_norm(x, 1.0)["norm"]))(batch).numpy()
    np.testing.assert_allclose(rows, batch / np.linalg.norm(batch, axis=1, keepdims=True))


def test_several_arguments_and_residuals_of_any_kind() -> None:
    @ts.custom_vjp
    def f(tree: Any, k: int, w: ts.Tensor) -> Any:
        return tree["a"] * k + ts.sum(w), {"n": tree["i"]}

    f.defvjp(lambda tree, k, w: (f(tree, k, w), {"k": k}),
             lambda saved, ct: ({"a": ct[0] * saved["k"] * 10, "i": None}, None, None))
    a, w = RNG.standard_normal(3), RNG.standard_normal(2)
    tree = {"a": ts.tensor(a), "i": ts.tensor([1, 2])}

    def loss(a: ts.Tensor, w: ts.Tensor) -> ts.Tensor:
        return ts.sum(f({"a": a, "i": tree["i"]}, 7, w)[0])

    da, dw = ts.grad(loss, argnums=(0, 1))(ts.tensor(a), ts.tensor(w))
    assert da.tolist() == [70.0] * 3 and dw.tolist() == [0.0] * 2
    assert float(loss(ts.tensor(a), ts.tensor(w))) == pytest.approx(7 * a.sum() + 3 * w.sum())


def bare(x: Any) -> Any:
    return x


def with_rule(forward: Any, backward: Any) -> Any:
    f = ts.custom_vjp(lambda x: x * 2)
    f.defvjp(forward, backward)
    return f


@pytest.mark.parametrize("function", [
    ts.custom_vjp(bare), ts.custom_jvp(bare), with_rule(lambda x: x, lambda s, g: g),
    with_rule(lambda x: (x, x), lambda s, g: (g, g)), with_rule(lambda x: (x, x), lambda s, g: g[:1]),
])
def test_bad_rules_are_told(function: Any) -> None:
    with pytest.raises(SourceError) as caught:
        ts.grad(lambda x: ts.sum(function(x)))(ts.ones(3))
    assert caught.value.code == "E313"


# Checkpoints ----------------------------------------------------------------------------------------------------------


class _Counter(Interpreter):
    """Counts what is executed."""

    dynamic = True

    def __init__(self) -> None:
        self.names: list[str] = []

    def process(self, op: Any, args: Any, loc: Any) -> Any:
        self.names.append(op.name)
        return EagerTensor(np.asarray(op.ref(*(a.numpy() for a in args))))


def block(x: ts.Tensor, w: ts.Tensor) -> ts.Tensor:
    h = ts.tanh(x @ w)
    return h * ts.where(h > 0, 1.0, 0.5) + x


def test_checkpoints_change_memory_only() -> None:
    x, w = ts.tensor(RNG.standard_normal((3, 5))), ts.tensor(RNG.standard_normal((5, 5)))

    def loss(wrap: Any, w: ts.Tensor) -> ts.Tensor:
        step = wrap(lambda h: block(h, w))  # w comes in by the closure
        return ts.sum(step(step(x)) ** 2)

    plain = ts.grad(lambda w: loss(lambda f: f, w))(w)
    np.testing.assert_array_equal(ts.grad(lambda w: loss(ts.checkpoint, w))(w).numpy(), plain.numpy())
    counted = {}
    for name, wrap in (("plain", lambda f: f), ("again", ts.checkpoint)):
        with interpret(_Counter()) as counter:
            ts.grad(functools.partial(loss, wrap))(w)
        counted[name] = counter.names.count("tanh")
    assert counted == {"plain": 2, "again": 4}
    # also under a second derivative, in batches, and nested
    for wrap in (lambda f: f, lambda f: ts.checkpoint(ts.checkpoint(f))):
        hessian = ts.hvp(functools.partial(loss, wrap), w, w)
        step = 1e-6
        ends = [ts.grad(functools.partial(loss, wrap))(w * (1 + s * step)).numpy() for s in (1, -1)]
        np.testing.assert_allclose(hessian.numpy(), (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)
    many = ts.vmap(ts.grad(lambda w: loss(ts.checkpoint, w)))(ts.stack([w, 2 * w])).numpy()
    np.testing.assert_allclose(many[0], plain.numpy(), rtol=1e-12)


# Gradients of values --------------------------------------------------------------------------------------------------


@ts.function
def training_step(
    model_weights: ts.Tensor["layers", "params", ts.f64], batch: ts.Tensor["B", "params", ts.f64],
    targets: ts.Tensor["B", "layers", ts.f64],
) -> ts.Dict[str, ts.Tensor]:
    loss = ts.mse(batch @ model_weights.T, targets)
    grads = ts.grad(loss, model_weights)
    return {"loss": loss, "gradients": grads}


def test_the_value_form_eagerly_and_compiled() -> None:
    w, x, y = RNG.standard_normal((2, 3)), RNG.standard_normal((7, 3)), RNG.standard_normal((7, 2))
    want = 2 * (x @ w.T - y).T @ x / y.size
    for f in (training_step, ts.jit(training_step)):
        found = f(w, x, y)
        np.testing.assert_allclose(found["gradients"].numpy(), want, rtol=1e-9)
        np.testing.assert_allclose(float(found["loss"]), np.mean((x @ w.T - y) ** 2), rtol=1e-9)


def test_the_value_form_by_trees_and_twice() -> None:
    @ts.function
    def f(params: Any, x: ts.Tensor) -> Any:
        inner = params["w"] * 3.0
        loss = ts.sum(inner * inner * x)
        first = ts.grad(loss, {"p": params, "i": [inner]})
        penalty = ts.sum(first["p"]["w"] ** 2)
        return first, ts.grad(penalty, params["w"])

    w, x = RNG.standard_normal(4), RNG.standard_normal(4)
    first, second = f({"w": ts.tensor(w), "unused": ts.ones(2), "n": ts.tensor([1])}, ts.tensor(x))
    np.testing.assert_allclose(first["p"]["w"].numpy(), 18 * w * x)
    np.testing.assert_allclose(first["i"][0].numpy(), 6 * w * x)
    assert first["p"]["unused"].tolist() == [0, 0] and first["p"]["n"] is None
    np.testing.assert_allclose(second.numpy(), 2 * (18 * x) ** 2 * w)


@pytest.mark.parametrize("call", [
    lambda: ts.grad(ts.ones(()), ts.ones(3)), lambda: ts.grad(ts.ones(())), lambda: ts.grad(ts.ones(3), ts.ones(3)),
    lambda: ts.function(lambda w: ts.grad(ts.sum(w), ts.ones(3)))(ts.ones(3)),
])
def test_impossible_gradients_of_values_are_diagnosed(call: Any) -> None:
    with pytest.raises(SourceError) as caught:
        call()
    assert caught.value.code == "E313"


def test_random_draws_are_the_same_when_computed_again() -> None:
    x, key = ts.tensor(RNG.standard_normal((6, 8))), ts.random.key(5)

    def loss(wrap: Any, w: ts.Tensor) -> ts.Tensor:
        block = wrap(lambda h: ts.nn.dropout(ts.tanh(h * w), 0.5, key))
        return ts.sum(block(block(x)) ** 2)

    w = ts.tensor(RNG.standard_normal(8))
    plain = ts.grad(functools.partial(loss, lambda f: f))(w)
    np.testing.assert_array_equal(ts.grad(functools.partial(loss, ts.checkpoint))(w).numpy(), plain.numpy())
    compiled = ts.jit(lambda w: ts.grad(functools.partial(loss, ts.checkpoint))(w))
    np.testing.assert_allclose(compiled(w).numpy(), plain.numpy(), rtol=1e-9)
    kept = ts.nn.dropout(ts.ones(6, 8), 0.5, key).numpy() > 0
    slope = ts.grad(lambda v: ts.sum(ts.nn.dropout(v, 0.5, key)))(x).numpy()
    np.testing.assert_array_equal(slope, np.where(kept, 2.0, 0.0))
