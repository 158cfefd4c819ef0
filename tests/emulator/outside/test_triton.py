"""PTX of Triton's compiler for sm_80 and sm_90a, on random ragged inputs, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulator.harness import same_bits
from tests.emulator.outside.support import within
from tests.emulator.outside.triton_support import check_attention, check_described_attention, check_product, triton


@pytest.mark.parametrize("n", [1, 777])
def test_vector_add(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y, out = (rng.normal(size=n).astype(np.float32) for _ in range(3))
    triton("vector_add_80", (-(-n // 256),), [x, y, out, n])
    same_bits(out, x + y)


@pytest.mark.parametrize("columns", [33, 500])
def test_softmax(columns: int) -> None:
    x = (np.random.default_rng(1).normal(size=(5, columns)) * 4).astype(np.float32)
    out = np.zeros_like(x)
    triton("softmax_80", (5,), [x, out, columns, columns])
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    want = e / e.sum(axis=1, keepdims=True)
    # exp is ex2 of a rounded product: its argument (up to 40 octaves) is off by half an ulp.
    within(out, want, want * (40 + 12) * 2.0**-23)


def test_layer_norm() -> None:
    rng = np.random.default_rng(2)
    columns = 611
    x = (rng.normal(size=(4, columns)) * 3 + 1).astype(np.float16)
    gain, bias = rng.normal(size=columns).astype(np.float32), rng.normal(size=columns).astype(np.float32)
    out = np.zeros_like(x)
    triton("layer_norm_90", (4,), [x, gain, bias, out, columns, np.float32(1e-5)])
    v = x.astype(np.float64)
    d = v - v.mean(axis=1, keepdims=True)
    want = d / np.sqrt((d * d).mean(axis=1, keepdims=True) + np.float32(1e-5)) * gain + bias
    within(out, want, np.abs(want) * 2.0**-11 + 2.0**-18)


def test_scans_sorting_and_histograms() -> None:
    n = 201
    x = np.random.default_rng(3).integers(0, 10000, n).astype(np.int32)
    sums, ordered, histogram = np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(65, np.int32)
    triton("scan_and_sort_90", (1,), [x, sums, ordered, histogram, n])
    same_bits(sums, np.cumsum(x).astype(np.int32))
    padded = np.concatenate([x, np.zeros(256 - n, np.int32)])
    same_bits(ordered, np.sort(padded)[:n])
    same_bits(histogram[:64].copy(), np.bincount(padded & 63, minlength=64).astype(np.int32))
    assert histogram[64] == x.argmax()


POINTERS = [
    "f16_80", "bf16_80", "tf32_80", "f16_90", "bf16_90", "tf32_90", "e4m3_90", "f16_100", "tf32_100", "e4m3_100",
]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", POINTERS)
def test_matmul_by_pointers(name: str, seed: int) -> None:
    check_product(f"matmul_{name}", (75, 80, 176) if aligned(name) else (75, 70, 99 + 32 * seed), seed)


def aligned(name: str) -> bool:
    """Whether the kernel was compiled for multiples of 16."""
    return name not in ("bf16_80", "tf32_80", "bf16_90")


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", [f"{n}_{a}" for a in (90, 100) for n in ("tma", "specialized", "persistent")])
def test_matmul_by_tensor_descriptors(name: str, seed: int) -> None:
    check_product(f"matmul_{name}", (150, 88, 200), seed)


@pytest.mark.parametrize("name", ["attention_80", "attention_causal_90", "attention_causal_100"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_attention(name: str, seed: int) -> None:
    check_attention(name, seed)


@pytest.mark.parametrize("arch", [90, 100])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_attention_by_tensor_descriptors(seed: int, arch: int) -> None:
    check_described_attention(f"attention_tma_{arch}", seed)
