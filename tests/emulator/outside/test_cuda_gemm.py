"""A matrix product of CUDA C++ with TMA, a ring of stages and wgmma by two warpgroups, against NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tesseracc.emulator import GlobalMemory
from tests.emulator.outside.support import program, run, tensor_map, within

STAGES, STAGE = 3, 4 * 64 * 128


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gemm(seed: int) -> None:
    """Two by three tiles, seven steps through three stages; any order in which copies land."""
    m, n, k = 256, 384, 448
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=s).astype(ml_dtypes.bfloat16) for s in ((m, k), (n, k)))
    memory = GlobalMemory()
    maps = [tensor_map(memory, x, "bf16", (64, 128), 128)[0] for x in (a, b)]
    c = np.zeros((m, n), np.uint16)
    counters = run(program("cuda/gemm"), "gemm", (n // 128, m // 128), (256,), [*maps, c, n, k], memory=memory,
                   dynamic_shared=STAGES * STAGE, seed=seed).counters  # fmt: skip
    x, y = a.astype(np.float64), b.astype(np.float64).T
    want = x @ y
    within(c.view(ml_dtypes.bfloat16), want, np.abs(want) * 2.0**-8 + np.abs(x) @ np.abs(y) * (k / 16) * 2.0**-24)
    assert counters.mma == {"wgmma.m64n128k16.bf16": 6 * 7 * 4 * 2}
    assert counters.async_bytes["to shared"] == 6 * 7 * STAGE
    assert counters.bytes_written["global"] == c.nbytes
