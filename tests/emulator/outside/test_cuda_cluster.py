"""CUDA programs (nvcc) for Hopper: clusters, multicast, warp specialisation, wgmma variants, against NumPy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tesseracc.emulator import GlobalMemory
from tests.emulator.outside.support import program, run, tensor_map, within

BF16: Any = ml_dtypes.bfloat16
CLUSTER = "cuda/cluster"


def back(memory: GlobalMemory, address: int, like: Any) -> Any:
    return np.frombuffer(memory.read(address, like.nbytes), like.dtype).reshape(like.shape)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_specialised_warps_with_multicast(seed: int) -> None:
    m, n, k = 250, 56, 64 * 7
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(m, k)).astype(BF16), rng.normal(size=(n, k)).astype(BF16)
    memory = GlobalMemory()
    ma, _ = tensor_map(memory, a.view(np.uint16), "bf16", (64, 64), 128)
    mb, _ = tensor_map(memory, b.view(np.uint16), "bf16", (64, 16), 128)
    mc, address = tensor_map(memory, np.zeros((m, n), np.uint16), "bf16", (32, 64))
    counters = run(program(CLUSTER), "specialised", (4, 2), (256,), [ma, mb, mc, k], dynamic_shared=3 * 96 * 128,
                   memory=memory, seed=seed).counters  # fmt: skip
    x, y = a.astype(np.float64), b.astype(np.float64).T
    c = back(memory, address, np.zeros((m, n), np.uint16)).view(BF16).astype(np.float64)
    within(c, x @ y, np.abs(x @ y) * 2.0**-8 + np.abs(x) @ np.abs(y) * k * 2.0**-24)
    blocks, steps = 8, 7
    assert counters.mma == {"wgmma.m64n32k16.bf16": blocks * steps * 4}
    # Each block copies 64 rows of A and sends 16 rows of B to two.
    assert counters.async_bytes["to shared"] == blocks * steps * (64 + 2 * 16) * 128


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sum_over_a_cluster_by_remote_stores(seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=1001).astype(np.float32)
    out = np.zeros(2, np.float32)
    run(program(CLUSTER), "cluster_sum", (8,), (32,), [x, out, len(x)], seed=seed)
    within(out.sum(), x.sum(dtype=np.float64), 1e-4)


def test_rows_travel_round_a_cluster() -> None:
    x = np.random.default_rng(1).integers(-99, 99, (8, 64)).astype(np.int32)
    y = np.zeros_like(x)
    run(program(CLUSTER), "cluster_ring", (8,), (64,), [x, y])
    box = x.reshape(2, 4, 64)
    for _ in range(3):
        box = np.roll(box, 1, axis=1) + box[:, :, ::-1]
    assert np.array_equal(y, box.reshape(8, 64))


def tf32(x: Any) -> Any:
    """The 19 bits of an f32 that the tensor core reads."""
    return (x.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(np.float64)


def test_wgmma_with_registers_and_no_swizzle() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(64, 32)).astype(np.float32), rng.normal(size=(8, 32)).astype(np.float32)
    c = np.zeros((64, 8), np.float32)
    run(program(CLUSTER), "wgmma_registers", (1,), (128,), [a, b, c])
    x, y = tf32(a), tf32(b).T
    within(c, x @ y, np.abs(x) @ np.abs(y) * 2.0**-20)


@pytest.mark.parametrize("seed", [0, 1])
def test_wgmma_with_both_operands_transposed(seed: int) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(1, 16, 64)).astype(np.float16), rng.normal(size=(1, 16, 16)).astype(np.float16)
    c = rng.normal(size=(64, 16)).astype(np.float32)
    x, y = a[0].astype(np.float64).T, b[0].astype(np.float64)
    want = c - x @ y
    memory = GlobalMemory()
    maps = [tensor_map(memory, m, "f16", (64, 16, 1), 128)[0] for m in (a, b)]
    run(program(CLUSTER), "wgmma_transposed", (1,), (128,), [*maps, c], memory=memory, seed=seed)
    within(c, want, (np.abs(x) @ np.abs(y) + 5) * 2.0**-22)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tensor_reductions_over_the_edges(seed: int) -> None:
    rng = np.random.default_rng(4)
    shape = (5, 9, 20)
    x, y = (rng.integers(-50, 50, shape).astype(np.float32) for _ in range(2))
    memory = GlobalMemory()
    source, _ = tensor_map(memory, x, "f32", (8, 4, 2))
    target, address = tensor_map(memory, y, "f32", (8, 4, 2))
    # Boxes start three columns and one plane before the tensor; the last ones end behind it.
    run(program(CLUSTER), "tensor_reduce", (3, 3, 3), (64,), [source, target, -3, 0, -1], memory=memory, seed=seed)
    assert np.array_equal(back(memory, address, y), y + 4 * x)


@pytest.mark.parametrize("seed", [0, 1])
def test_wgmma_of_integers(seed: int) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(-128, 128, (64, 96)).astype(np.int8), rng.integers(-128, 128, (8, 96)).astype(np.int8)
    c = rng.integers(-1000, 1000, (64, 8)).astype(np.int32)
    want = c + a.astype(np.int32) @ b.astype(np.int32).T
    memory = GlobalMemory()
    maps = [tensor_map(memory, m.view(np.uint8), "u8", (32, rows), 32)[0] for m, rows in ((a, 64), (b, 8))]
    run(program(CLUSTER), "wgmma_integers", (1,), (128,), [*maps, c], memory=memory, seed=seed)
    assert np.array_equal(c, want)
