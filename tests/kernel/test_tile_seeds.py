"""The seeds' tile kernels, as they stand in samples/seeds, evaluated eagerly against float64 references.

The bounds follow from where a kernel rounds; leaving out one block of K, one mask or one correction exceeds them.
"""

from __future__ import annotations

import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tessera.errors import SourceError
from tessera.kernel import evaluate, specialise
from tests.kernel import seed_faults

SEEDS = Path(__file__).parents[2] / "samples" / "seeds"
BF16 = ml_dtypes.bfloat16
U32, U16 = 2.0**-24, 2.0**-8  # unit roundoff of f32 and bf16


@cache
def load(name: str) -> Any:
    return runpy.run_path(str(SEEDS / f"{name}.py"))[name]


def normal(*shape: int, seed: int = 0, dtype: Any = BF16) -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def wide(x: Any) -> Any:
    return np.asarray(x).astype(np.float64)


def attention(q: Any, k: Any, v: Any, causal: bool, scale: float) -> tuple[Any, Any]:
    """softmax(q k') v, and the same with |v|, which bounds the effect of rounding the probabilities."""
    q, k, v = wide(q), wide(k), wide(v)
    scores = np.einsum("bqd,bkd->bqk", q, k) * scale
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
    if not scores.size:
        return v, v
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return p @ v, p @ np.abs(v)


MATRICES = [(64, 32, 64), (1, 1, 1), (0, 5, 3), (5, 0, 7), (100, 70, 130), (129, 64, 65), (63, 161, 1), (200, 33, 64)]


def gemm_bound(a: Any, b: Any, c: Any, block: int) -> Any:
    rounds = 2 * (-(-a.shape[1] // block) + 1)
    return rounds * U32 * (np.abs(wide(c)) + np.abs(wide(a)) @ np.abs(wide(b)))


@pytest.mark.parametrize("shape", MATRICES, ids=str)
@pytest.mark.parametrize("name", ["gemm", "double_buffered_gemm"])
def test_gemm(name: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b, c = normal(m, k), normal(k, n, seed=1), normal(m, n, seed=2, dtype=np.float32)
    want = wide(c) + wide(a) @ wide(b)
    bound = gemm_bound(a, b, c, 32)
    result = evaluate(load(name).definition, [a, b, c])
    assert result is (c if name == "gemm" else None)
    assert np.all(np.abs(c - want) <= bound)


@pytest.mark.parametrize("config", [(16, 16, 16), (32, 64, 16), (128, 64, 64)], ids=str)
def test_schedule_parameters(config: tuple[int, int, int]) -> None:
    """Rule R11: any block sizes give the product."""
    a, b, c = normal(70, 150), normal(150, 40, seed=1), normal(70, 40, seed=2, dtype=np.float32)
    want, bound = wide(c) + wide(a) @ wide(b), gemm_bound(a, b, c, config[2])
    kernel = load("double_buffered_gemm").definition
    assert dict(kernel.config) == {"BK": 32, "BM": 64, "BN": 64}
    evaluate(specialise(kernel, config=dict(zip(("BM", "BN", "BK"), config, strict=True))), [a, b, c])
    assert np.all(np.abs(c - want) <= bound)


LENGTHS = [1, 63, 64, 65, 128, 150, 200]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("s", LENGTHS)
def test_flash_attention(s: int, causal: bool) -> None:
    q, k, v = (normal(2, s, 32, seed=i) * BF16(2) for i in range(3))
    want, scale = attention(q, k, v, causal, 32**-0.5)
    result = evaluate(load("flash_attention").definition, [q, k, v, causal])
    assert result.shape == (2, s, 32) and result.dtype == BF16
    assert np.all(np.abs(wide(result) - want) <= U16 * np.abs(want) + 1.1 * U16 * scale + 1e-5 * scale)


@pytest.mark.parametrize("blocks", [(64, 128), (128, 64), (16, 32)], ids=str)
@pytest.mark.parametrize("d", [64, 128])
def test_flash_attention_configurations(blocks: tuple[int, int], d: int) -> None:
    q, k, v = (normal(1, 150, d, seed=i) for i in range(3))
    want, scale = attention(q, k, v, True, d**-0.5)
    config = {"BLOCK_M": blocks[0], "BLOCK_N": blocks[1]}
    result = evaluate(specialise(load("flash_attention").definition, config=config), [q, k, v])
    assert np.all(np.abs(wide(result) - want) <= U16 * np.abs(want) + 1.1 * U16 * scale + 1e-5 * scale)


def test_flash_attention_of_nothing() -> None:
    empty = normal(3, 0, 64)
    assert evaluate(load("flash_attention").definition, [empty, empty, empty]).shape == (3, 0, 64)


@pytest.mark.parametrize("s", [1, 100, 128, 129, 300])
def test_fused_attention_kernel(s: int) -> None:
    q, k, v = (normal(2, s, 64, seed=i) * BF16(2) for i in range(3))
    o = normal(2, s, 64, seed=3)
    want, scale = attention(q, k, v, False, 0.125)
    kernel = load("fused_attention_kernel").definition
    assert kernel.fixed == (("D", 64),) and not kernel.open
    evaluate(kernel, [q, k, v, o, 0.125])
    assert np.all(np.abs(wide(o) - want) <= U16 * np.abs(want) + 1.1 * U16 * scale + 1e-5 * scale)


def test_fused_attention_kernel_has_one_head_size() -> None:
    x = normal(1, 8, 32)
    with pytest.raises(SourceError) as caught:
        evaluate(load("fused_attention_kernel").definition, [x, x, x, x.copy(), 1.0])
    assert caught.value.code == "E307"


def test_custom_attention_is_the_kernel() -> None:
    space = runpy.run_path(str(SEEDS / "fused_attention_kernel.py"))
    assert space["custom_attention"].compiled and space["custom_attention"].name == "fused_attention_kernel"


@pytest.mark.parametrize("shape", [(1, 1), (0, 9), (128, 128), (130, 257), (3, 300)], ids=str)
def test_optimized_memory_access(shape: tuple[int, int]) -> None:
    x, y = normal(*shape), normal(*shape, seed=1)
    evaluate(load("optimized_memory_access").definition, [x, y])
    np.testing.assert_array_equal(wide(y), wide(x))


@pytest.mark.parametrize("shape", [(1, 1), (0, 9), (64, 64), (70, 200)], ids=str)
def test_memory_hierarchy_example(shape: tuple[int, int]) -> None:
    x = normal(*shape, dtype=np.float32)
    before = x.copy()
    kernel = load("memory_hierarchy_example").definition
    assert evaluate(kernel, [x]) is None
    np.testing.assert_array_equal(x, before)
    assert {"W202", "W204"} <= {note.code for note in kernel.warnings}


def messages(name: str) -> list[str]:
    return [note.message for note in load(name).definition.notes]


def test_notes_name_the_rules() -> None:
    assert [m[:2] for m in messages("gemm") if m.startswith("R2")] == ["R2"] * 3
    assert "R2: `tile_k` runs over `K` by 32, in sequence" in messages("gemm")
    found = messages("flash_attention")
    for rule in ("R3", "R4", "R5", "R8", "R9", "R10"):
        assert any(m.startswith(rule + ":") for m in found), rule
    assert sum(m.startswith("R11:") for m in messages("double_buffered_gemm")) == 3
    fused = load("fused_attention_kernel").definition
    assert [(a.name, a.kind, str(a.stop), a.step) for a in fused.axes] == [
        ("q_tile", "work", "S", 128), ("batch", "batch", "B_H", 1)
    ]  # fmt: skip


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*.py")), ids=lambda p: p.stem)
def test_headers_say_what_was_changed_and_why(path: Path) -> None:
    text = path.read_text()
    header = text[: text.index("\n\n")].replace("\n# ", " ")
    assert re.match(r"# Seed \d, .*\(X\d\d\)\. (Verbatim( but for the import)?\.|Corrected)", header)
    assert len(header.split()) > 20


# The faults that the seeds have, as they stand ------------------------------------------------------------------------


def test_double_correction_is_told() -> None:
    """X05: literally compiled, with a warning; exact for one block of keys, wrong for several."""
    kernel = seed_faults.double_correction.definition
    assert [n.code for n in kernel.warnings] == ["W206"]
    short, long = normal(1, 60, 32), normal(1, 300, 32)
    for x, good in ((short, True), (long, False)):
        want, scale = attention(x, x, x, False, 1.0)
        result = np.zeros_like(x)
        evaluate(kernel, [x, x, x, result])
        assert bool(np.all(np.abs(wide(result) - want) <= 3 * U16 * scale + 1e-5)) is good


def test_unconsumed_stage_is_told() -> None:
    """X21: the last block of K is copied and never multiplied."""
    kernel = seed_faults.missing_block.definition
    lines = (Path(__file__).parent / "seed_faults.py").read_text().splitlines()
    warnings = [(n.code, lines[n.span.line - 1].strip().split("(")[0]) for n in kernel.warnings]
    assert warnings == [("W209", "ts.tile.cp_async")] * 2
    a, b, c = normal(64, 128), normal(128, 64, seed=1), np.zeros((64, 64), np.float32)
    evaluate(kernel, [a, b, c])
    np.testing.assert_allclose(c, wide(a)[:, :96] @ wide(b)[:96], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", sorted(p.stem for p in SEEDS.glob("*.py") if "@ts.kernel" in p.read_text()))
def test_warnings_of_the_samples(name: str) -> None:
    kernel = load(name)
    expected = {"memory_hierarchy_example": {"W202", "W204", "W209"}}
    assert {note.code for note in kernel.definition.warnings} == expected.get(name, set())
