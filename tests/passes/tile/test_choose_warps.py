"""The number of warps by the registers of a loop."""

from __future__ import annotations

import pytest

from tesseracc.arch.arch import load
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.value import Module
from tesseracc.passes.tile import choose_warps
from tests.passes.tile import kernels

PASSES = (choose_warps,)  # importing a pass registers it


def group(module: Module, arch: str) -> tuple[int, list[str]]:
    context = Context(load(arch))
    found = run_pipeline(parse_pipeline("choose-warps"), module, context)
    return int(found.funcs[0].attrs["group"]), [note.message for note in context.notes]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_tiles_of_a_loop_decide(arch: str) -> None:
    # a thread of 128: sums of 64, scores of 32 2.5 times; of 128 columns twice the scores, of 128 rows twice both
    assert group(kernels.attention(64, 64, 128, "bf16"), arch) == (128, [])
    for rows, columns in ((64, 128), (128, 64)):
        found, notes = group(kernels.attention(rows, columns, 128, "bf16"), arch)
        assert found == 256 and len(notes) == 1 and "8 warps in place of 4" in notes[0]
    # one product: its sums alone, 256 registers of a thread of 128
    assert group(kernels.gemm(128, 128, 32, "bf16"), arch)[0] == 128
    assert group(kernels.gemm(128, 256, 32, "bf16"), arch)[0] == 256


def test_more_than_asked_for_is_the_users() -> None:
    assert group(kernels.attention(64, 64, 64, "bf16", group=512), "sm_80")[0] == 512


def test_kernels_that_see_lanes_keep_theirs() -> None:
    assert group(kernels.folds(), "sm_80")[0] == 64
