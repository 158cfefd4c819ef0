"""Rings give way to what the lowering itself needs in shared memory; any number of slots computes the same."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.ir.pipeline import Context, run_pipeline
from tesseracc.ir.value import Func, Module
from tesseracc.passes import pipelines
from tesseracc.passes.target.gpu_slots import fewer_slots
from tests.passes.target.test_lower_gpu import attempt, compiled, versions
from tests.passes.tile.kernels import ZERO_ONE, Sketch, full, loop, read

SIZE = 128  # a tile of f32 takes 64 KB on its way to another layout


def mirrored(k: int) -> Module:
    """C[i, j] = sum over blocks of (A B)[i, j] (A B)[j, i], of k columns of A and rows of B each."""
    dims = {"a": ("bf16", f"{SIZE}, K", "read"), "b": ("bf16", f"K, {SIZE}", "read"),
            "c": ("f32", f"{SIZE}, {SIZE}", "write")}  # fmt: skip
    s = Sketch("mirrored", dims, ["1"], 256)
    zero, shape = s.b.const(0), (SIZE, SIZE)

    def step(b, at, carried):  # type: ignore[no-untyped-def]
        left, right = read(b, s["a"], [zero, at], (SIZE, k)), read(b, s["b"], [at, zero], (k, SIZE))
        product = b.op("tile.mma", left, right, full(b, 0.0, shape))
        return [b.op("arith.add", carried[0], b.op("arith.mul", product, b.op("tile.transpose", product, perm=(1, 0))))]

    (total,) = loop(s.b, s.dim("K"), k, [full(s.b, 0.0, shape)], step)
    s.b.emit("tile.write", total, s["c"], [zero, zero], axes=ZERO_ONE)
    return s.module()


def slots(kernel: Func) -> list[int]:
    return [op.attrs["stages"] for op in kernel.walk() if op.name == "tile.pipeline"]


@pytest.mark.parametrize("k,blocks", [(32, 5), (64, 3)], ids=["fewer slots", "one slot"])
def test_rings_leave_room_for_changes_of_layout(k: int, blocks: int) -> None:
    arch = "sm_86"
    module, context = mirrored(k), Context(load(arch))
    found = run_pipeline(pipelines.TARGET["cuda"], module, context)
    (func,) = found.of_kind("target.func")
    limit = load(arch).limits.shared_per_block
    assert limit - 2 * 2 * SIZE * k < func.attrs["dynamic_shared"] <= limit
    assert any("fewer slots" in note.message for note in context.notes), context.notes
    image = compiled(module, arch)
    rng = np.random.default_rng(k)
    for size in (0, 1, k, blocks * k, blocks * k - 3):
        a = rng.standard_normal((SIZE, size)).astype(ml_dtypes.bfloat16)
        b = rng.standard_normal((size, SIZE)).astype(ml_dtypes.bfloat16)
        c = np.full((SIZE, SIZE), np.nan, np.float32)
        ran = attempt(module.func("mirrored"), image, [a, b, c], {"K": size})
        assert ran is not None and not ran[1].findings, [f.render() for f in ran[1].findings]
        parts = [a[:, i : i + k].astype(float) @ b[i : i + k].astype(float) for i in range(0, size, k)]
        want = sum((p * p.T for p in parts), np.zeros((SIZE, SIZE)))
        np.testing.assert_allclose(c, want, rtol=1e-4, atol=1e-3)


def test_what_tensor_copies_have_no_room_for_is_copied_by_threads() -> None:
    """Two slots are the least for the engine; a target without copies that blocks share tries them."""
    module = mirrored(64)
    image = compiled(module, "sm_120")
    kinds = {f.name: f.attrs.get("maps", ()) for f in versions(image, module.func("mirrored"))}
    assert kinds == {"mirrored__tensor": (), "mirrored": ()}
    rng = np.random.default_rng(7)
    a, b = (rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for shape in ((SIZE, 128), (128, SIZE)))
    c = np.full((SIZE, SIZE), np.nan, np.float32)
    ran = attempt(module.func("mirrored"), image, [a, b, c], {"K": 128})
    assert ran is not None and not ran[1].findings
    parts = [a[:, i : i + 64].astype(float) @ b[i : i + 64].astype(float) for i in (0, 64)]
    np.testing.assert_allclose(c, sum(p * p.T for p in parts), rtol=1e-4, atol=1e-3)


def test_the_fewest_slots() -> None:
    module = run_pipeline(pipelines.parse_pipeline("pipeline-loads"), mirrored(32), Context(load("sm_86")))
    kernel = module.funcs[0]
    (had,) = slots(kernel)
    one = 2 * 2 * SIZE * 32
    fewer = fewer_slots(kernel, one + 1)
    assert fewer is not None and slots(fewer) == [had - 2]
    least = fewer_slots(kernel, 100 * one)
    assert least is not None and slots(least) == [1] and fewer_slots(least, 1) is None
