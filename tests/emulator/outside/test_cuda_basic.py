"""Whole programs of another compiler (nvcc), against NumPy; counters against counts by hand."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from tesseracc.emulator import Module
from tests.emulator.harness import same_bits
from tests.emulator.outside.support import program, run


@pytest.fixture(scope="module")
def basic() -> Module:
    return program("cuda/basic")


@pytest.mark.parametrize("n", [1, 31, 256, 1000])
def test_vector_add(basic: Module, n: int) -> None:
    rng = np.random.default_rng(n)
    a, b, c = (rng.normal(size=n).astype(np.float32) for _ in range(3))
    run(basic, "vector_add", (-(-n // 128),), (128,), [a, b, c, n])
    same_bits(c, a + b)


def test_vector_add_counters(basic: Module) -> None:
    a = np.ones(1024, np.float32)
    counters = run(basic, "vector_add", (8,), (128,), [a, a, a.copy(), 1024]).counters
    assert counters.instructions["ld.global.f32"] == 2 * 32  # two loads in each of 32 warps
    assert counters.instructions["st.global.f32"] == 32
    assert counters.threads["st.global.f32"] == 1024
    assert counters.bytes_read["global"] == 2 * 4096
    assert counters.bytes_written["global"] == 4096
    assert counters.global_requests == 96
    assert counters.global_sectors == 96 * 4  # 128 bytes are four sectors
    assert counters.coalescing_efficiency == 1.0


def test_tree_reduce(basic: Module) -> None:
    x = np.random.default_rng(1).normal(size=5000).astype(np.float32)
    out = np.zeros(8, np.float32)
    counters = run(basic, "tree_reduce", (8,), (128,), [x, out, len(x)], dynamic_shared=512).counters
    padded = np.zeros(5 * 1024, np.float32)
    padded[:5000] = x
    s = np.zeros((8, 128), np.float32)
    for part in padded.reshape(5, 8, 128):
        s += part
    s[:, :64] += s[:, 64:]
    v = s[:, :32] + s[:, 32:64]
    for k in (16, 8, 4, 2, 1):
        v[:, :k] += v[:, k : 2 * k]
    same_bits(out, v[:, 0].copy())
    assert counters.barriers == 8 * 2 and counters.barrier_waits == 8 * 4 * 2  # two in each of eight blocks


@pytest.mark.parametrize(("name", "conflicts"), [("transpose_padded", 0), ("transpose_conflicts", 31)])
def test_transpose_and_bank_conflicts(basic: Module, name: str, conflicts: int) -> None:
    a = np.random.default_rng(2).normal(size=(96, 96)).astype(np.float32)
    out = np.zeros_like(a)
    counters = run(basic, name, (3, 3), (32, 8), [a, out, 96]).counters
    same_bits(out, np.ascontiguousarray(a.T))
    requests = 9 * 8 * 4  # blocks, warps, rows per thread; as many column reads
    assert counters.shared_requests == 2 * requests
    assert counters.bank_conflicts == conflicts * requests
    assert counters.global_sectors == 2 * requests * 4


def test_histogram(basic: Module) -> None:
    data = np.random.default_rng(3).integers(0, 256, 10001).astype(np.uint8)
    bins = np.zeros(256, np.uint32)
    run(basic, "histogram", (5,), (256,), [data, bins, len(data)])
    same_bits(bins, np.bincount(data, minlength=256).astype(np.uint32))


def test_assorted(basic: Module) -> None:
    n = 333
    a = np.random.default_rng(4).normal(size=n).astype(np.float32)
    out = np.zeros(n, np.float32)
    run(basic, "assorted", (3,), (128,), [a, out, n, 1.25])
    i = np.arange(n)
    v = a * np.array([1, 2, 3, 4], np.float32)[i & 3]
    r = v.copy()
    for k in range(7):
        fused = (r.astype(np.float64) * v.astype(np.float64) + 1.0).astype(np.float32)
        r = np.where(k < (i & 7), fused, r)
    r = r + v * ((i - n) & 7).astype(np.float32) + np.float32(1.25 * 1.25)
    want = np.select([i % 5 == 0, i % 5 == 1, i % 5 == 2, i % 5 == 3],
                     [r + 1, r * 2, r - 7, r / np.float32(3)], np.sqrt(np.abs(r)))  # fmt: skip
    assert np.allclose(out, want, rtol=1e-5, atol=1e-5)


def test_last_block_sum_is_ordered_by_its_fences(basic: Module) -> None:
    x = np.random.default_rng(5).normal(size=1000).astype(np.float32)
    partial, out = np.zeros(10, np.float32), np.zeros(1, np.float32)
    run(basic, "last_block_sum", (10,), (32,), [x, partial, out, len(x)])
    assert abs(out[0] - x.sum(dtype=np.float64)) < 1e-3


def test_lanes_take_a_lock_in_turn(basic: Module) -> None:
    lock, counter = np.zeros(1, np.int32), np.zeros(1, np.int32)
    run(basic, "spin_lock", (3,), (48,), [lock, counter])
    assert counter[0] == 3 * 48
    assert lock[0] == 0


def test_batches_do_not_change_results(basic: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(6).normal(size=4096).astype(np.float32)
    results = []
    for limit in (1 << 16, 256):
        monkeypatch.setattr(import_module("tesseracc.emulator.launch"), "_BATCH_LANES", limit)
        out = np.zeros(8, np.float32)
        report = run(basic, "tree_reduce", (8,), (128,), [x, out, len(x)], dynamic_shared=512)
        results.append((out.tobytes(), report.counters.to_json()))
    assert results[0] == results[1]
