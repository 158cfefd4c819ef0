"""Every barrier, wait, fence and arrival that the compiler inserts, taken out in turn: the emulator alone finds it.

Found means a finding, or a wrong result, for one of a few seeds.
"""

from __future__ import annotations

import numpy as np
import pytest

from tesseracc.codegen.image import Image
from tesseracc.emulator import EmulatorError
from tesseracc.ir.types import BufType
from tesseracc.ir.value import Func
from tests.emulator.test_deletions import SYNCHRONISING, without
from tests.passes.target.test_gpu_tiles import DTYPES, built, operands
from tests.passes.target.test_lower_gpu import attempt

SIZES = {"M": 64, "N": 72, "K": 280}  # more k than the ring has slots, twice around
STEPS = 40_000

CASES = {
    # results of bf16 go through shared memory; on sm_90 tensor copies take them from there
    "sm_80": ("sm_80", {"m": 32, "n": 64, "k": 32, "group": 64, "out": "bf16"}),
    "sm_90": ("sm_90", {"m": 64, "n": 64, "k": 32, "group": 128, "out": "bf16"}),
    "sm_90 in pairs": ("sm_90", {"m": 64, "n": 64, "k": 32, "group": 128}),
    "sm_90 without tensor copies": ("sm_90", {"m": 64, "n": 64, "k": 32, "group": 128}),
    "sm_100": ("sm_100", {"m": 128, "n": 64, "k": 32, "group": 128}),
    "sm_100 in pairs": ("sm_100", {"m": 64, "n": 64, "k": 32, "group": 128}),
}
#: versions other than the general one
VERSIONS = {"sm_90": "gemm__tensor", "sm_90 in pairs": "gemm__cluster", "sm_100": "gemm__tensor",
            "sm_100 in pairs": "gemm__cluster"}


def outcome(
    kernel: Func, image: Image, lines: list[str], sizes: dict[str, int], seed: int, blocks: int, version: str = ""
) -> str | None:
    """How a kernel shows that it is wrong; None: it does not."""
    a, b = operands(sizes["M"], sizes["N"], sizes["K"], "bf16")
    type_ = kernel.params[2].type
    assert isinstance(type_, BufType)
    args = [a, b, np.full((sizes["M"], sizes["N"]), np.nan, DTYPES[type_.dtype])]
    try:
        found = attempt(kernel, image, args, sizes, ptx="\n".join(lines), seed=seed, max_steps=STEPS, blocks=blocks,
                        version=version, strict=True)  # fmt: skip
    except EmulatorError as error:
        return error.code
    assert found is not None
    if found[1].findings:
        return found[1].findings[0].code
    want = np.maximum(a.astype(np.float64) @ b.astype(np.float64), 0)
    bound = 1e-4 if type_.dtype == "f32" else 2.0**-8
    return None if np.allclose(args[2].astype(np.float64), want, rtol=bound, atol=1e-3) else "value"


#: by default every fourth line of the largest version
TAKEN = [(case, 4 if case == "sm_90" else 1) for case in CASES if "pairs" not in case and case != "sm_100"]


@pytest.mark.parametrize(
    "case,step", [*TAKEN, *(pytest.param(case, 1, marks=pytest.mark.slow) for case in CASES if (case, 1) not in TAKEN)]
)
def test_everything_that_orders_is_needed(case: str, step: int) -> None:
    arch, options = CASES[case]
    module, image = built(arch, "gemm", dtype="bf16", **options)
    kernel = module.funcs[0]
    wide = 256 if "pairs" in case else 70 if "without" in case else SIZES["N"]
    sizes = {**SIZES, "N": wide}
    blocks = int(case in VERSIONS)  # one, or one pair, does all tiles in turn
    lines = image.ptx.split("\n")
    assert outcome(kernel, image, lines, sizes, 0, blocks) is None
    name = VERSIONS.get(case, "gemm")
    start = next(i for i, line in enumerate(lines) if ".entry" in line and f"{name}(" in line)
    end = next((i for i in range(start + 1, len(lines)) if ".entry" in lines[i]), len(lines))
    numbers = [i for i in range(start, end) if SYNCHRONISING.search(lines[i])][::step]
    survivors = []
    for number in numbers:
        changed = [*lines[:number], without(lines[number]), *lines[number + 1 :]]
        if all(outcome(kernel, image, changed, sizes, seed, blocks, name) is None for seed in range(3)):
            survivors.append(lines[number].strip())
    assert not survivors, (len(numbers), survivors)
