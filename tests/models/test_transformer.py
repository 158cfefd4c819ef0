"""Transformer layers: the seed's as it stands, and `ts.nn.transformer_layer` with all its weights, against float64."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.arrays import convert, widen
from tessera.dtypes import bf16
from tesseracc.frontend import source
from tests.models import references as ref
from tests.models.levels import Compiled, numeric_gradient

Array = np.ndarray[Any, Any]
SEED = Path(__file__).parents[2] / "samples" / "seeds" / "transformer_layer.py"


# The seed's layer -----------------------------------------------------------------------------------------------------


def to_bf16(x: Array) -> Array:
    return widen(convert(x, bf16)).astype(np.float64)


def seed_reference(
    x: Array, w_qkv: Array, w_out: Array, w_mlp: Array, rounded: Callable[[Array], Array] = to_bf16
) -> Array:
    """In float64, rounded (to bf16) where the program has a bf16 value."""
    b, s, d = x.shape
    heads = rounded(x @ w_qkv).reshape(b, s, 3, 16, d // 16).transpose(2, 0, 3, 1, 4)
    mixed = rounded(ref.attention(*heads, causal=True)).transpose(0, 2, 1, 3).reshape(b, s, d)
    x = rounded(ref.layer_norm(rounded(x + rounded(mixed @ w_out))))
    return rounded(x + rounded(rounded(ref.gelu(rounded(x @ w_mlp))) @ w_mlp.T))


def seed_gradients(x: ts.Tensor["B", "S", "D", ts.bf16], w_qkv: ts.Tensor["D", "3*D", ts.bf16],
                   w_out: ts.Tensor["D", "D", ts.bf16], w_mlp: ts.Tensor["D", "4*D", ts.bf16],
                   ct: ts.Tensor["B", "S", "D", ts.bf16]):
    """The cotangents of the layer's operands for one of its result."""
    _, pull = ts.vjp(source.load(SEED).entries["transformer_layer"].python, x, w_qkv, w_out, w_mlp)
    return pull(ct)


@cache
def seed(*gpus: str) -> Compiled:
    return Compiled(source.load(SEED).entries["transformer_layer"].python, gpus=gpus or ("sm_80",))


@cache
def seed_and_gradients(*gpus: str) -> Compiled:
    return Compiled(source.load(SEED).entries["transformer_layer"].python, seed_gradients, gpus=gpus or ("sm_80",))


def seed_arguments(b: int, s: int, d: int) -> list[Array]:
    """Weights of variance 1/D keep the softmax away from single keys."""
    rng = np.random.default_rng(s)
    return [convert(rng.standard_normal((b, s, d)), bf16),
            *(convert(rng.standard_normal((d, n * d)) / d**0.5, bf16) for n in (3, 1, 4))]


def check_seed(found: dict[str, list[Array]], args: list[Array]) -> None:
    """Errors stay a few units of bf16 (2^-8)."""
    want = seed_reference(*(widen(a).astype(np.float64) for a in args))
    for level, (got,) in found.items():
        error = np.linalg.norm(widen(got).astype(np.float64) - want) / np.linalg.norm(want)
        assert error < 2.0**-7, (level, error)


@pytest.mark.parametrize(("b", "s", "d"), [(1, 1, 16), (2, 7, 32), (1, 33, 48)])
def test_seed_layer(b: int, s: int, d: int) -> None:
    args = seed_arguments(b, s, d)
    check_seed(seed().results("transformer_layer", args), args)


@pytest.mark.slow
def test_seed_layer_by_warp_groups_and_without_matrix_units() -> None:
    """sm_90 multiplies bf16 by groups of warps, sm_70 has no unit for it; both with gradients."""
    args, ct = seed_arguments(2, 7, 32), convert(np.random.default_rng(1).standard_normal((2, 7, 32)), bf16)
    other = seed_and_gradients("sm_90", "sm_70")
    check_seed(other.results("transformer_layer", args), args)
    check_seed_gradients(other.results("seed_gradients", [*args, ct], interpreted=False), args, ct)


@pytest.mark.parametrize(("b", "s"), [(1, 256), (2, 97)])
def test_seed_layer_at_its_size(b: int, s: int) -> None:
    """16 heads of 32, whole and ragged lengths; natively."""
    args = seed_arguments(b, s, 512)
    check_seed({"native": [seed().native["transformer_layer"](*args)]}, args)


def check_seed_gradients(found: dict[str, list[Array]], args: list[Array], ct: Array) -> None:
    """The gradient g along random directions v, against differences of the layer in float64, without roundings.

    For v of independent elements of variance 1, <g - g0, v> has the size |g - g0|; bf16 leaves it at 2^-8 |g0| for each
    of some tens of roundings on the way.
    """
    wide, weight = [widen(a).astype(np.float64) for a in args], widen(ct).astype(np.float64)
    rng, step = np.random.default_rng(5), 1e-4
    for i, x in enumerate(wide):
        for _ in range(2):
            v = rng.standard_normal(x.shape)
            ends = [seed_reference(*wide[:i], x + sign * step * v, *wide[i + 1 :], rounded=np.asarray)
                    for sign in (1, -1)]
            want = float(((ends[0] - ends[1]) * weight).sum()) / (2 * step)
            for level, gradients in found.items():
                g = widen(gradients[i]).astype(np.float64)
                assert abs((g * v).sum() - want) < 0.04 * np.linalg.norm(g), (level, i)


@pytest.mark.slow
def test_seed_layer_gradients() -> None:
    args = seed_arguments(2, 7, 32)
    ct = convert(np.random.default_rng(1).standard_normal((2, 7, 32)), bf16)
    check_seed_gradients(seed_and_gradients().results("seed_gradients", [*args, ct], interpreted=False), args, ct)


@pytest.mark.slow
@pytest.mark.parametrize(("b", "s"), [(1, 256), (2, 97)])
def test_seed_layer_gradients_at_its_size(b: int, s: int) -> None:
    args = seed_arguments(b, s, 512)
    ct = convert(np.random.default_rng(1).standard_normal((b, s, 512)), bf16)
    found = seed_and_gradients().native["seed_gradients"](*args, ct)
    check_seed_gradients({"native": list(found)}, args, ct)


def test_seed_layer_needs_whole_heads() -> None:
    from tessera_runtime.core.errors import InputError

    args = [convert(np.ones(shape), bf16) for shape in ((1, 2, 24), (24, 72), (24, 24), (24, 96))]
    with pytest.raises(InputError, match="multiple of 16"):
        seed().native["transformer_layer"](*args)


# The library's layer --------------------------------------------------------------------------------------------------


def gpt(x: ts.Tensor["B", "S", 12, ts.f32], qkv: ts.Tensor[12, 24, ts.f32], out: ts.Tensor[12, 12, ts.f32],
        gate: ts.Tensor[12, 10, ts.f32], mlp: ts.Tensor[12, 10, ts.f32], down: ts.Tensor[10, 12, ts.f32],
        n1: ts.Tensor[12, ts.f32], n2: ts.Tensor[12, ts.f32]):
    weights = {"qkv": qkv, "out": out, "gate": gate, "mlp": mlp, "down": down, "norm1": {"weight": n1},
               "norm2": {"weight": n2}}
    return ts.nn.transformer_layer(x, weights, heads=6, kv_heads=3, rotary=True, activation="silu")


def gpt_gradients(x: ts.Tensor["B", "S", 12, ts.f32], qkv: ts.Tensor[12, 24, ts.f32], out: ts.Tensor[12, 12, ts.f32],
                  gate: ts.Tensor[12, 10, ts.f32], mlp: ts.Tensor[12, 10, ts.f32], down: ts.Tensor[10, 12, ts.f32],
                  n1: ts.Tensor[12, ts.f32], n2: ts.Tensor[12, ts.f32]):
    def loss(*args):
        y = gpt(*args)
        return ts.mean(y * y * y)

    return ts.grad(loss, argnums=range(8))(x, qkv, out, gate, mlp, down, n1, n2)


def gpt_reference(x: Array, *parts: Array) -> Array:
    names = ("qkv", "out", "gate", "mlp", "down")
    weights: dict[str, Any] = dict(zip(names, parts, strict=False))
    weights |= {"norm1": {"weight": parts[5]}, "norm2": {"weight": parts[6]}}
    return ref.transformer_layer(x, weights, 6, 3, True, True, ref.silu)


def stack(x: ts.Tensor["B", "S", 8, ts.f32], qkv: ts.Tensor[2, 8, 24, ts.f32], out: ts.Tensor[2, 8, 8, ts.f32],
          mlp: ts.Tensor[2, 8, 16, ts.f32], b: ts.Tensor[2, 16, ts.f32], n: ts.Tensor[2, 8, ts.f32]):
    weights = {"qkv": qkv, "out": out, "mlp": mlp, "mlp_bias": b, "norm1": {"weight": n, "bias": n}}
    return ts.nn.transformer_stack(x, weights, num_layers=2, heads=2, causal=False)


@cache
def compiled() -> Compiled:
    return Compiled(gpt, stack)


def gpt_arguments(b: int, s: int) -> list[Array]:
    rng = np.random.default_rng(s)
    shapes = ((b, s, 12), (12, 24), (12, 12), (12, 10), (12, 10), (10, 12), (12,), (12,))
    return [rng.standard_normal(shape).astype(np.float32) * np.float32(0.6) for shape in shapes]


@pytest.mark.parametrize(("b", "s"), [(1, 1), (2, 9)])
def test_gpt_block(b: int, s: int) -> None:
    args = gpt_arguments(b, s)
    compiled().check("gpt", args, gpt_reference(*(a.astype(np.float64) for a in args)), 5e-5)


@pytest.mark.parametrize("gpus", [(), pytest.param(("sm_90",), marks=pytest.mark.slow)], ids=["native", "emulated"])
def test_gpt_block_gradients(gpus: tuple[str, ...]) -> None:
    args = gpt_arguments(1, 5)
    wide = [a.astype(np.float64) for a in args]
    want = [numeric_gradient(lambda _: float((gpt_reference(*wide) ** 3).mean()), a) for a in wide]
    Compiled(gpt_gradients, gpus=gpus).check("gpt_gradients", args, want, 2e-4, interpreted=False)


def test_stack() -> None:
    rng = np.random.default_rng(8)
    x, qkv, out, mlp, b, n = (
        rng.standard_normal(shape).astype(np.float32) * np.float32(0.5)
        for shape in ((2, 5, 8), (2, 8, 24), (2, 8, 8), (2, 8, 16), (2, 16), (2, 8))
    )
    want = x.astype(np.float64)
    for i in range(2):
        layer = {"qkv": qkv[i], "out": out[i], "mlp": mlp[i], "mlp_bias": b[i]}
        layer = {k: v.astype(np.float64) for k, v in layer.items()} | {"norm1": {"weight": n[i], "bias": n[i]}}
        want = ref.transformer_layer(want, layer, 2, 2, False, False, ref.gelu)
    compiled().check("stack", (x, qkv, out, mlp, b, n), want, 5e-5)
    layers = [{"qkv": qkv[i], "out": out[i], "mlp": mlp[i], "mlp_bias": b[i], "norm1": {"weight": n[i], "bias": n[i]}}
              for i in range(2)]
    np.testing.assert_allclose(ts.nn.transformer_stack(x, layers, heads=2, causal=False).numpy(), want, atol=1e-4)
