"""Products of tensor functions on a GPU: the same code as of kernels, on the emulator through a bundle."""

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.codegen.image import Image
from tesseracc.driver import Build, front
from tesseracc.emulator_device import EmulatorDevice

BF16: Any = ml_dtypes.bfloat16


def linear(x: ts.Tensor["M", "K", ts.bf16], w: ts.Tensor["K", 64, ts.bf16], c: ts.Tensor[64, ts.f32]
           ) -> ts.Tensor["M", 64, ts.f32]:  # fmt: skip
    """A product with an epilogue; the accumulator's type is the result's."""
    return ts.relu(ts.matmul(ts.cast(x, ts.f32), ts.cast(w, ts.f32)) + c)


def rows_by_rows(x: ts.Tensor["B", "M", "K", ts.bf16], y: ts.Tensor["B", 40, "K", ts.bf16]
                 ) -> ts.Tensor["B", "M", 40, ts.bf16]:  # fmt: skip
    return ts.matmul(x, ts.transpose(y, (0, 2, 1)))


FUNCTIONS = {f.__name__: ts.function(f) for f in (linear, rows_by_rows)}


@cache
def emulated(arch: str) -> tuple[Any, str]:
    build = Build(front(FUNCTIONS), [load(arch)])
    (image,) = build.images
    assert isinstance(image, Image)
    return load_bundle(build.bundle(), device=EmulatorDevice()), image.ptx


def operand(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(BF16)


@pytest.mark.parametrize("arch,unit", [("sm_90", "wgmma"), pytest.param("sm_80", "mma.sync", marks=pytest.mark.slow)])
def test_products(arch: str, unit: str) -> None:
    bundle, ptx = emulated(arch)
    assert f"{unit}." in ptx and ("cp.async.bulk.tensor" in ptx) == (arch == "sm_90")
    rng = np.random.default_rng(4)
    for m, k in ((136, 200), (3, 40)):
        x, w, c = operand(rng, m, k), operand(rng, k, 64), rng.standard_normal(64).astype(np.float32)
        want = np.maximum(x.astype(np.float64) @ w.astype(np.float64) + c, 0)
        bound = (k + 3) * 2**-24 * (np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64) + np.abs(c))
        assert (np.abs(np.asarray(bundle["linear"](x, w, c)) - want) <= bound).all()
    for b, m, k in ((2, 72, 64), (0, 8, 8), (1, 5, 0), (1, 3, 33)):
        x, y = operand(rng, b, m, k), operand(rng, b, 40, k)
        want = x.astype(np.float64) @ y.astype(np.float64).transpose(0, 2, 1)
        bound = 2**-8 * np.abs(want) + k * 2**-24 * (
            np.abs(x).astype(np.float64) @ np.abs(y).astype(np.float64).transpose(0, 2, 1)
        )
        got = np.asarray(bundle["rows_by_rows"](x, y)).astype(np.float64)
        assert got.shape == want.shape and (np.abs(got - want) <= bound).all()
