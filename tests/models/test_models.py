"""Small models, forward and gradients, against float64: a vision transformer, a U-Net block, a mixture of experts, an
LSTM. Natively and on the emulated GPU; the language's own test of the operators is elsewhere."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tests.models import references as ref
from tests.models.levels import Compiled, numeric_gradient

Array = np.ndarray[Any, Any]


# A vision transformer -------------------------------------------------------------------------------------------------


def vit(x: ts.Tensor["B", 2, 4, 6, ts.f32], patch: ts.Tensor[4, 2, 2, 2, ts.f32], places: ts.Tensor[6, 4, ts.f32],
        qkv: ts.Tensor[4, 12, ts.f32], out: ts.Tensor[4, 4, ts.f32], mlp: ts.Tensor[4, 8, ts.f32],
        head: ts.Tensor[4, 3, ts.f32]):
    tokens = ts.nn.conv2d(x, patch, stride=2).reshape(x.shape[0], 4, 6).transpose(1, 2) + places
    tokens = ts.nn.transformer_layer(tokens, {"qkv": qkv, "out": out, "mlp": mlp}, heads=2, causal=False)
    return ts.nn.linear(ts.mean(ts.nn.layer_norm(tokens), 1), head)


def vit_reference(x: Array, patch: Array, places: Array, qkv: Array, out: Array, mlp: Array, head: Array) -> Array:
    tokens = ref.conv2d(x, patch, None, 2, 0, 1, 1).reshape(len(x), 4, 6).transpose(0, 2, 1) + places
    weights = {"qkv": qkv, "out": out, "mlp": mlp}
    tokens = ref.transformer_layer(tokens, weights, 2, 2, False, False, ref.gelu)
    return np.asarray(ref.layer_norm(tokens).mean(1) @ head)


# A block of a U-Net ---------------------------------------------------------------------------------------------------


def unet(x: ts.Tensor["N", 2, "2*H", 4, ts.f32], down: ts.Tensor[4, 2, 3, 3, ts.f32], scale: ts.Tensor[4, ts.f32],
         shift: ts.Tensor[4, ts.f32], middle: ts.Tensor[4, 4, 3, 3, ts.f32], up: ts.Tensor[2, 8, 1, 1, ts.f32]):
    """Down, across, and up again by nearest neighbours, beside what was there before."""
    skip = ts.silu(ts.nn.group_norm(ts.nn.conv2d(x, down, padding=1), 2, scale, shift))
    small = ts.silu(ts.nn.conv2d(ts.nn.max_pool2d(skip, 2), middle, padding=1))
    n, c, h, w = small.shape
    large = ts.broadcast_to(small.reshape(n, c, h, 1, w, 1), (n, c, h, 2, w, 2)).reshape(n, c, h * 2, w * 2)
    return x + ts.nn.conv2d(ts.concat([skip, large], 1), up)


def unet_reference(x: Array, down: Array, scale: Array, shift: Array, middle: Array, up: Array) -> Array:
    skip = ref.silu(ref.group_norm(ref.conv2d(x, down, None, 1, 1, 1, 1), 2, scale, shift))
    small = ref.silu(ref.conv2d(ref.pool2d(skip, 2, 2, 0, "max"), middle, None, 1, 1, 1, 1))
    large = small.repeat(2, 2).repeat(2, 3)
    return np.asarray(x + np.einsum("nchw,oc->nohw", np.concatenate([skip, large], 1), up[:, :, 0, 0]))


# A mixture of experts -------------------------------------------------------------------------------------------------


def experts(x: ts.Tensor["T", 4, ts.f32], gate: ts.Tensor[4, 3, ts.f32], rise: ts.Tensor[3, 4, 6, ts.f32],
            fall: ts.Tensor[3, 6, 4, ts.f32]):
    """Every token goes to the two experts of its largest probabilities, in their proportion."""
    p = ts.softmax(x @ gate)
    first = ts.one_hot(ts.argmax(p, -1), 3)
    second = ts.one_hot(ts.argmax(ts.where(first > 0, -1.0, p), -1), 3)
    chosen = p * (first + second)
    chosen = chosen / ts.sum(chosen, -1, True)
    each = ts.gelu(x @ rise) @ fall  # [expert, token, size]
    return ts.sum(each * chosen.T.expand_dims(-1), 0)


def experts_reference(x: Array, gate: Array, rise: Array, fall: Array) -> Array:
    y = np.zeros_like(x)
    for t, token in enumerate(x):
        p = ref.softmax(token @ gate)
        best = np.argsort(p)[-2:]
        for e in best:
            y[t] += p[e] / p[best].sum() * (ref.gelu(token @ rise[e]) @ fall[e])
    return y


# An LSTM --------------------------------------------------------------------------------------------------------------


def lstm(x: ts.Tensor["T", "B", 3, ts.f32], wx: ts.Tensor[3, 16, ts.f32], wh: ts.Tensor[4, 16, ts.f32],
         bias: ts.Tensor[16, ts.f32]):
    def step(state, row):
        h, c = state
        i, f, g, o = ts.split(row @ wx + h @ wh + bias, 4, dim=-1)
        c = ts.sigmoid(f) * c + ts.sigmoid(i) * ts.tanh(g)
        h = ts.sigmoid(o) * ts.tanh(c)
        return (h, c), h

    zero = ts.zeros(x.shape[1], 4)
    return ts.scan(step, (zero, zero), x)[1]


def lstm_reference(x: Array, wx: Array, wh: Array, bias: Array) -> Array:
    h = c = np.zeros((x.shape[1], 4))
    rows = []
    for row in x:
        i, f, g, o = np.split(row @ wx + h @ wh + bias, 4, -1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        rows.append(h)
    return np.array(rows)


# Forward and gradients ------------------------------------------------------------------------------------------------

SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "vit": ((2, 2, 4, 6), (4, 2, 2, 2), (6, 4), (4, 12), (4, 4), (4, 8), (4, 3)),
    "unet": ((1, 2, 6, 4), (4, 2, 3, 3), (4,), (4,), (4, 4, 3, 3), (2, 8, 1, 1)),
    "experts": ((7, 4), (4, 3), (3, 4, 6), (3, 6, 4)),
    "lstm": ((5, 2, 3), (3, 16), (4, 16), (16,)),
}
MODELS: dict[str, tuple[Callable[..., Any], Callable[..., Array]]] = {
    "vit": (vit, vit_reference), "unet": (unet, unet_reference), "experts": (experts, experts_reference),
    "lstm": (lstm, lstm_reference),
}  # fmt: skip


def gradients_of(model: Callable[..., Any]) -> Callable[..., Any]:
    """The gradients of the mean of the model's squares, by every argument; with the model's annotations."""

    @wraps(model)
    def run(*args: Any) -> Any:
        def loss(*xs: Any) -> Any:
            y = model(*xs)
            return ts.mean(y * y)

        return ts.grad(loss, argnums=range(len(args)))(*args)

    run.__name__ = f"{model.__name__}_gradients"
    return run


def arguments(name: str) -> list[Array]:
    rng = np.random.default_rng(len(name))
    return [rng.standard_normal(shape).astype(np.float32) * np.float32(0.7) for shape in SHAPES[name]]


@cache
def compiled_model(name: str) -> Compiled:
    model = MODELS[name][0]
    return Compiled(model, gradients_of(model))


def trained(name: str, threads: int, steps: int = 100) -> list[Array]:
    """The parameters after some steps against the gradient, on the CPU."""
    step = compiled_model(name).on_threads(threads)[f"{name}_gradients"]
    args = arguments(name)
    for _ in range(steps):
        args = [a - np.float32(0.05) * g for a, g in zip(args, step(*args), strict=True)]
    return args


@pytest.mark.parametrize("name", MODELS)
def test_training_has_the_same_bits_over_runs_and_threads(name: str) -> None:
    first = trained(name, 1)
    assert all(np.isfinite(a).all() for a in first)
    assert any((a != b).any() for a, b in zip(first, arguments(name), strict=True))
    for again in (trained(name, 1), trained(name, 2)):
        for a, b in zip(first, again, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_model_on_other_gpus(name: str) -> None:
    """Without tensor copies and wgmma, and the oldest target."""
    model = MODELS[name][0]
    check(name, Compiled(model, gradients_of(model), gpus=("sm_80", "sm_70")))


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    check(name, compiled_model(name))


def check(name: str, compiled: Compiled) -> None:
    reference, args = MODELS[name][1], arguments(name)
    wide = [a.astype(np.float64) for a in args]
    compiled.check(name, args, reference(*wide), 5e-5, interpreted=False)
    want = [numeric_gradient(lambda _: float((reference(*wide) ** 2).mean()), a) for a in wide]
    compiled.check(f"{name}_gradients", args, want, 2e-4, interpreted=False)
