"""Short rows of a GPU are one warp's each: no barrier, and the values of the reference at ragged sizes."""

from functools import cache

import numpy as np
import pytest

import tessera as ts
import tessera_runtime
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front
from tesseracc.emulator_device import EmulatorDevice


@ts.function
def softmax(x: ts.Tensor["N", 40, ts.f32]):
    return ts.softmax(x), ts.argmax(x, axis=1)


@ts.function
def decode(q: ts.Tensor["B", 2, 1, 64, ts.f32], k: ts.Tensor["B", 2, "T", 64, ts.f32],
           v: ts.Tensor["B", 2, "T", 64, ts.f32]):  # fmt: skip
    return ts.nn.flash_attention(q, k, v)


@cache
def built(arch: str) -> tuple[Build, tessera_runtime.Bundle]:
    build = Build(front({"softmax": softmax, "decode": decode}), (load(arch),))
    return build, tessera_runtime.load(build.bundle(), device=EmulatorDevice())


def softmax_of(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_a_row_is_a_warp() -> None:
    build, _ = built("sm_90")
    kernels = {f.name: f for f in build.target(build.archs[0]).of_kind("target.func")}
    assert kernels["softmax__0"].attrs["group"] == kernels["decode__0"].attrs["group"] == 32
    for name in ("softmax__0", "decode__0"):
        assert kernels[name].attrs["shared"] == 0
        assert not any("barrier" in op.name for op in kernels[name].walk())
    assert len(kernels) == 5  # of attention four: scores, weights, their sums, and the result


@pytest.mark.parametrize("arch", ["sm_75", "sm_90"])
def test_values(arch: str) -> None:
    _, bundle = built(arch)
    rng = np.random.default_rng(len(arch))
    for n in (1, 3, 67):
        x = rng.standard_normal((n, 40)).astype(np.float32)
        y, at = bundle["softmax"](x)
        np.testing.assert_allclose(y, softmax_of(x.astype(np.float64)), rtol=2e-6)
        np.testing.assert_array_equal(at, x.argmax(1))
        q, k, v = (rng.standard_normal((2, 2, size, 64)).astype(np.float32) for size in (1, n, n))
        weights = softmax_of(q.astype(np.float64) @ k.astype(np.float64).swapaxes(2, 3) / 8)
        np.testing.assert_allclose(bundle["decode"](q, k, v), weights @ v, rtol=1e-5, atol=2e-6)
