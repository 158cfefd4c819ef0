"""The blocks that a multiprocessor is said to hold are those that what was lowered leaves room for."""

from __future__ import annotations

import pytest

from tesseracc.analysis.occupancy import blocks_at_once, room_of_block
from tesseracc.arch.arch import load
from tesseracc.ir.pipeline import Context, run_pipeline
from tesseracc.passes import pipelines
from tests.passes.tile import kernels

RINGS = pipelines.TARGET["cuda"][: [str(step) for step in pipelines.TARGET["cuda"]].index("tile-to-gpu")]


@pytest.mark.parametrize("m,n,out", [(128, 64, "f32"), (64, 128, "bf16"), (64, 64, "f32"), (128, 128, "bf16")])
def test_results_leave_other_blocks_their_room(m: int, n: int, out: str) -> None:
    """A persistent kernel launches as many blocks as are said to fit: fewer would mean a second round."""
    arch = load("sm_90")
    context = Context(arch)
    before = run_pipeline(RINGS, kernels.gemm(m, n, 64, "bf16", "f32", out), context)
    after = run_pipeline(pipelines.parse_pipeline("tile-to-gpu"), before, context)
    for kernel, func in zip(before.of_kind("tile.kernel"), after.of_kind("target.func"), strict=True):
        blocks = blocks_at_once(kernel, arch)
        shared = func.attrs.get("dynamic_shared") or func.attrs["shared"]
        assert shared <= room_of_block(kernel, arch) <= arch.limits.shared_per_block
        assert blocks * (shared + arch.limits.shared_reserved) <= arch.limits.shared_per_sm
        if m * n == 128 * 64:
            assert blocks == 2
