"""Tensor core, TMA and cluster programs of another compiler (nvcc), against NumPy.

The programs address fragments by the tables of the PTX documentation, so they check the emulator's layouts.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tesseracc.emulator import GlobalMemory, Module, launch, parse_ptx
from tests.emulator.outside.support import HERE, program, run, tensor_map

BF16: Any = ml_dtypes.bfloat16


@pytest.fixture(scope="module")
def tensor() -> Module:
    return program("cuda/tensor")


@pytest.fixture(scope="module")
def hopper() -> Module:
    return program("cuda/hopper")


def close(got: Any, want: Any, depth: int) -> None:
    """Within the rounding of one f32 sum per instruction."""
    assert np.abs(got - want).max() <= depth * 2.0**-23 * np.abs(want).max()


def test_wmma(tensor: Module) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(32, 48)).astype(np.float16), rng.normal(size=(16, 48)).astype(np.float16)
    c = np.zeros((32, 16), np.float32)
    run(tensor, "wmma_matmul", (1, 2), (32,), [a, b, c, 16, 48])
    close(c, 2 * (a.astype(np.float64) @ b.astype(np.float64).T), 3)


def test_mma_fragments_follow_the_documentation(tensor: Module) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(16, 64)).astype(BF16), rng.normal(size=(64, 8)).astype(BF16)
    d = np.zeros((16, 8), np.float32)
    counters = run(tensor, "mma_by_hand", (1,), (32,), [a.view(np.uint16), b.view(np.uint16), d, 64]).counters
    close(d, a.astype(np.float64) @ b.astype(np.float64), 4)
    assert counters.mma == {"mma.m16n8k16.bf16": 4}


def test_integer_mma_is_exact(tensor: Module) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(-128, 128, (16, 32)).astype(np.int8), rng.integers(-128, 128, (8, 32)).astype(np.int8)
    d = np.zeros((16, 8), np.int32)
    run(tensor, "mma_s8", (1,), (32,), [a, b, d])
    assert np.array_equal(d, a.astype(np.int32) @ b.astype(np.int32).T)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cp_async_ring_with_ldmatrix(tensor: Module, seed: int) -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(128, 160)).astype(np.float16), rng.normal(size=(160, 64)).astype(np.float16)
    c = np.zeros((128, 64), np.float32)
    counters = run(tensor, "pipelined_matmul", (1, 2), (128,), [a, b, c, 64, 160], seed=seed).counters
    close(c, a.astype(np.float64) @ b.astype(np.float64), 10)
    assert counters.async_bytes["cp.async"] == 2 * 5 * (64 * 32 + 32 * 64) * 2
    assert counters.mma["mma.m16n8k16.f16"] == 2 * 4 * 5 * 2 * 8


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_wgmma_fed_by_tma(hopper: Module, seed: int) -> None:
    rng = np.random.default_rng(5)
    m, n, k = 128, 32, 320
    a, b = rng.normal(size=(m, k)).astype(BF16), rng.normal(size=(n, k)).astype(BF16)
    memory = GlobalMemory()
    maps = [tensor_map(memory, x.view(np.uint16), "bf16", (64, box), 128)[0] for x, box in ((a, 64), (b, 16))]
    c = np.zeros((m, n), np.float32)
    report = run(hopper, "wgmma_tma", (2, 2), (128,), [*maps, c, n, k], dynamic_shared=2 * 80 * 128, memory=memory,
                 seed=seed)  # fmt: skip
    close(c, a.astype(np.float64) @ b.astype(np.float64).T, 20)
    assert report.counters.mma == {"wgmma.m64n16k16.bf16": 4 * 5 * 4}
    assert report.counters.async_bytes["to shared"] == 4 * 5 * 80 * 128


@pytest.mark.parametrize("seed", [0, 1])
def test_bulk_copies(hopper: Module, seed: int) -> None:
    x = np.random.default_rng(6).normal(size=(5, 256)).astype(np.float32)
    y = np.zeros_like(x)
    run(hopper, "bulk_scale", (5,), (64,), [x, y, np.float32(3)], seed=seed)
    assert np.array_equal(y, x * np.float32(3))


def test_cluster_histogram(hopper: Module) -> None:
    data = np.random.default_rng(7).integers(0, 256, 3000).astype(np.uint8)
    bins = np.zeros(256, np.uint32)
    run(hopper, "cluster_histogram", (8,), (128,), [data, bins, len(data)])
    assert np.array_equal(bins, np.bincount(data, minlength=256))


def test_wrong_byte_count_hangs(hopper: Module) -> None:
    """The same program with a larger expectation: the phase never completes."""
    text = (HERE / "cuda/hopper.ptx").read_text()
    lines = text.split("\n")
    at = next(k for k, line in enumerate(lines) if "expect_tx" in line and "1024" in line)
    lines[at] = lines[at].replace("1024", "2048")
    x, y = np.zeros((1, 256), np.float32), np.zeros((1, 256), np.float32)
    report = launch(parse_ptx("\n".join(lines)), "bulk_scale", (1,), (64,), [x, y, np.float32(3)])
    assert [f.code for f in report.findings][:1] == ["E957"]
    assert "1024 bytes outstanding" in report.findings[0].message
    assert "try_wait" in lines[report.findings[0].ptx_line - 1]
