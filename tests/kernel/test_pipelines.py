"""Pipelines of asynchronous copies against float64, at random sizes and depths, without a warning."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tessera.kernel import evaluate, specialise
from tests.kernel import pipelines as P
from tests.kernel.test_tile_seeds import U16, attention, gemm_bound, normal, wide


def sizes(seed: int) -> tuple[int, int, int]:
    rng = np.random.default_rng(seed)
    m, k, n = (int(v) for v in rng.integers(0, 100, 3))
    return m, k, n


def product(kernel: Any, shape: tuple[int, int, int], block: int, options: dict[str, Any]) -> None:
    m, k, n = shape
    a, b, c = normal(m, k), normal(k, n, seed=1), normal(m, n, seed=2, dtype=np.float32)
    want, bound = wide(a) @ wide(b), gemm_bound(a, b, 0 * c, block)
    evaluate(kernel, [a, b, c], options)
    assert np.all(np.abs(c - want) <= bound)


@pytest.mark.parametrize("stages", (2, 3, 4))
@pytest.mark.parametrize("seed", range(6))
def test_staged_gemm(stages: int, seed: int) -> None:
    config = {"BM": (16, 32, 64)[seed % 3], "BN": 32, "BK": (8, 16, 48)[stages - 2]}
    kernel = specialise(P.staged_gemm.definition, {"STAGES": stages}, config=config)
    assert kernel.warnings == ()
    product(kernel, sizes(seed), config["BK"], {"STAGES": stages})


@pytest.mark.parametrize("seed", range(6))
def test_guarded_gemm(seed: int) -> None:
    kernel = P.guarded_gemm.definition
    assert kernel.warnings == () and [axis.name for axis in kernel.axes] == ["m", "n"]
    product(kernel, sizes(seed), 16, {})


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("t", (1, 16, 17, 32, 33, 48, 70, 128))
def test_staged_attention(t: int, causal: bool) -> None:
    s = t if causal else 37
    q, k, v = (normal(2, n, 16, seed=i) * ml_dtypes.bfloat16(3) for i, n in enumerate((s, t, t)))
    want, scale = attention(q, k, v, causal, 0.25)
    kernel = specialise(P.staged_attention.definition, {"CAUSAL": causal}, config={"BM": 32, "BN": 16})
    assert kernel.warnings == ()
    o = np.full((2, s, 16), np.nan, np.float32)
    evaluate(kernel, [q, k, v, o, 0.25, causal])
    assert np.all(np.abs(o - want) <= 1.01 * U16 * scale + 1e-5)
