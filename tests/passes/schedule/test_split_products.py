"""Products in parts of their sum: as exact as in one, only where that pays, only where the profile allows it."""

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
from tesseracc.interpret import schedule
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.value import Module

BF16: Any = ml_dtypes.bfloat16


def long_sum(x: ts.Tensor[40, 4096, ts.bf16], w: ts.Tensor[4096, 64, ts.bf16], c: ts.Tensor[64, ts.f32]
             ) -> ts.Tensor[40, 64, ts.f32]:  # fmt: skip
    return ts.relu(ts.matmul(ts.cast(x, ts.f32), ts.cast(w, ts.f32)) + c)


def many_tiles(x: ts.Tensor[4096, 1024, ts.bf16], w: ts.Tensor[1024, 4096, ts.bf16]) -> ts.Tensor[4096, 4096, ts.bf16]:
    return ts.matmul(x, w)


def odd_sum(x: ts.Tensor[40, 4095, ts.bf16], w: ts.Tensor[4095, 64, ts.bf16]) -> ts.Tensor[40, 64, ts.bf16]:
    return ts.matmul(x, w)


def thirds(x: ts.Tensor[40, 4056, ts.bf16], w: ts.Tensor[4056, 64, ts.bf16]) -> ts.Tensor[40, 64, ts.f32]:
    """4056 = 8 * 3 * 13 * 13: the parts' rows stay whole vectors."""
    return ts.matmul(ts.cast(x, ts.f32), ts.cast(w, ts.f32))


def prime_sum(x: ts.Tensor[40, 4093, ts.bf16], w: ts.Tensor[4093, 64, ts.bf16]) -> ts.Tensor[40, 64, ts.bf16]:
    return ts.matmul(x, w)


def short_sum(x: ts.Tensor[40, 512, ts.bf16], w: ts.Tensor[512, 64, ts.bf16]) -> ts.Tensor[40, 64, ts.bf16]:
    return ts.matmul(x, w)


def parts(function: Any, arch: str = "sm_90", numerics: str = "deterministic") -> tuple[int, Module]:
    build = Build(front({function.__name__: ts.function(function)}), [load(arch)], numerics=numerics)
    context = Context(load(arch), numerics)
    module = run_pipeline(parse_pipeline("split-products"), build.schedule, context)
    groups = [op for op in module.func(function.__name__).body.ops if op.name == "schedule.group"]
    return groups[0].attrs["domain"][0] if len(groups) > 1 else 1, module


@pytest.mark.parametrize("function,arch,many", [
    (long_sum, "sm_90", True), (long_sum, "sm_80", True), (many_tiles, "sm_90", False), (odd_sum, "sm_90", True),
    (thirds, "sm_80", True), (prime_sum, "sm_90", False),
    (short_sum, "sm_90", False), (long_sum, "x86-64-v3", False),
])  # fmt: skip
def test_where_it_pays(function: Any, arch: str, many: bool) -> None:
    assert (parts(function, arch)[0] > 1) == many


def test_the_profile_decides() -> None:
    assert parts(long_sum, numerics="strict")[0] == 1


def test_results() -> None:
    count, module = parts(long_sum)
    build = Build(front({"long_sum": ts.function(long_sum)}), [load("sm_90")])
    (image,) = build.images
    assert isinstance(image, Image) and "wgmma.mma_async" in image.ptx and "cp.async.bulk.tensor.2d" in image.ptx
    rng = np.random.default_rng(8)
    x, w = rng.standard_normal((40, 4096)).astype(BF16), rng.standard_normal((4096, 64)).astype(BF16)
    c = rng.standard_normal(64).astype(np.float32)
    wide_x, wide_w = x.astype(np.float64), w.astype(np.float64)
    want = np.maximum(wide_x @ wide_w + c, 0)
    bound = (4096 // count + count + 3) * 2**-24 * (np.abs(wide_x) @ np.abs(wide_w) + np.abs(c))
    bundle = load_bundle(build.bundle(), device=EmulatorDevice())
    found = [np.asarray(bundle["long_sum"](x, w, c)) for _ in range(2)]
    for got in (schedule.run(module, "long_sum", [x, w, c])[0], *found):
        assert (np.abs(got - want) <= bound).all()
    np.testing.assert_array_equal(*found)


def test_parts_of_any_number() -> None:
    count, module = parts(thirds)
    assert count % 3 == 0 and 4056 // count % 8 == 0
    rng = np.random.default_rng(9)
    x, w = rng.standard_normal((40, 4056)).astype(BF16), rng.standard_normal((4056, 64)).astype(BF16)
    wide_x, wide_w = x.astype(np.float64), w.astype(np.float64)
    bound = (4056 // count + count + 3) * 2**-24 * (np.abs(wide_x) @ np.abs(wide_w))
    (found,) = schedule.run(module, "thirds", [x, w])
    assert (np.abs(found - wide_x @ wide_w) <= bound).all()
