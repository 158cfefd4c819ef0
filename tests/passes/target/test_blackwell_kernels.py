"""Kernels of the language whose sums lie in tensor memory: several sums, values before the loop, epilogues, batches."""

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
import tessera.kernels as K
from tessera.kernel import KernelDef, specialise
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.driver import Build
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend.kernel import lower

Array = np.ndarray[Any, Any]
BF16: Any = ml_dtypes.bfloat16


@ts.kernel
def gated(
    x: ts.Tensor["M", "K", ts.bf16], w: ts.Tensor["K", "N", ts.bf16], v: ts.Tensor["K", "N", ts.bf16]
) -> ts.Tensor["M", "N", ts.f32]:
    """(1.5 + x w) (x v): two sums in one loop, one of them from a value before it."""
    up = ts.tile.full((64, 32), 1.5)
    gate = ts.tile.zeros((64, 32))
    for k in ts.tile.range(0, K, 32):
        a = x[m : m + 64, k : k + 32]
        up += ts.tile.mma(a, w[k : k + 32, n : n + 32])
        gate += ts.tile.mma(a, v[k : k + 32, n : n + 32])
    return up * gate


@ts.kernel
def chained(
    x: ts.Tensor["M", "K", ts.bf16], w: ts.Tensor["K", "N", ts.bf16], v: ts.Tensor["K", "N", ts.bf16]
) -> ts.Tensor["M", "N", ts.f32]:
    """x w + x v: two products in one sum; then another loop takes the sum on."""
    acc = ts.tile.zeros((64, 32))
    for k in ts.tile.range(0, K, 32):
        a = x[m : m + 64, k : k + 32]
        acc += ts.tile.mma(a, w[k : k + 32, n : n + 32])
        acc += ts.tile.mma(a, v[k : k + 32, n : n + 32])
    acc = ts.tile.maximum(acc, 0.0)
    for k in ts.tile.range(0, K, 64):
        acc += ts.tile.mma(x[m : m + 64, k : k + 64], w[k : k + 64, n : n + 32])
    return acc


def reference(name: str, x: Array, w: Array, v: Array) -> tuple[Array, Array]:
    """The result, and a bound of its rounding."""
    unit = (2 * x.shape[1] + 4) * 2.0**-24
    x, w, v = (t.astype(np.float64) for t in (x, w, v))
    first, second, size = x @ w, x @ v, np.abs(x) @ (np.abs(w) + np.abs(v))
    if name == "gated":
        want = (1.5 + first) * second
        return want, unit * ((1.5 + size) * np.abs(second) + size * np.abs(1.5 + first)) + 2.0**-23 * np.abs(want)
    return np.maximum(first + second, 0) + first, 3 * unit * size


def operands(m: int, n: int, k: int) -> list[Array]:
    rng = np.random.default_rng([m, n, k])
    return [rng.standard_normal(s).astype(BF16) for s in ((m, k), (k, n), (k, n))]


@cache
def bundle(kernel: KernelDef) -> Any:
    """The kernel on the emulator, every check on; its products are in tensor memory."""
    build = Build(lower(kernel), [load("sm_100")])
    assert "tcgen05.mma" in build.text("ptx", load("sm_100"))
    return load_bundle(build.bundle(), device=EmulatorDevice())[kernel.name]


def on_emulator(kernel: KernelDef, *args: Any) -> Array:
    found = bundle(kernel)(*args)
    return np.asarray(found[0] if isinstance(found, (tuple, list)) else found)


@pytest.mark.parametrize("kernel", [gated, pytest.param(chained, marks=pytest.mark.slow)], ids=lambda k: k.name)
def test_sums(kernel: Any) -> None:
    for m, n, k in ((72, 40, 168), (64, 32, 8), (8, 8, 32)):
        args = operands(m, n, k)
        want, bound = reference(kernel.name, *args)
        assert (np.abs(on_emulator(kernel.definition, *args) - want) <= bound).all()


def scaled(t: Any) -> Any:
    return ts.tile.maximum(t, 0.0) * 0.5


@pytest.mark.slow
@pytest.mark.parametrize("trans", [(False, False), (True, True)])
def test_batches_and_epilogues_of_the_library(trans: tuple[bool, bool]) -> None:
    rng = np.random.default_rng(6)
    family = K.matmul.of(ts.bf16, trans_a=trans[0], trans_b=trans[1], batched=True, out=ts.f32)
    kernel = specialise(family.definition, {"epilogue": scaled})
    for batch, m, n, k in ((2, 72, 136, 200), (3, 8, 16, 24), (1, 70, 33, 65)):
        a, b = (rng.standard_normal((batch, *s)).astype(BF16) for s in ((m, k), (k, n)))
        given = [np.ascontiguousarray(x.swapaxes(1, 2)) if t else x for x, t in zip((a, b), trans, strict=True)]
        found = on_emulator(kernel, *given)
        wide = [x.astype(np.float64) for x in (a, b)]
        bound = (k + 3) * 2.0**-24 * (np.abs(wide[0]) @ np.abs(wide[1]))
        assert (np.abs(found - np.maximum(wide[0] @ wide[1], 0) * 0.5) <= bound).all()
