"""The library's kernels against NumPy in float64: a sample of the whole matrix (test_matrix), and what families do.

Kernels are called once, with one type on one target; types, targets and kinds of shapes are drawn in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
import tessera.kernels as K
from tessera_runtime import load as load_bundle
from tesseracc.driver import Build, front, host_level
from tesseracc.frontend import source
from tests.kernel.everywhere import everywhere
from tests.kernels.attention_cases import Attention
from tests.kernels.cases import RESULT, Case, U, normal, ratio, stored, wide
from tests.kernels.matrix import ARCHS, CASES, FAMILIES, measured


def sample(family: dict[str, Case]) -> Iterator[tuple[str, str, int]]:
    """Every kernel of a family and every target at least once; types and calls in turn."""
    named: dict[str, list[str]] = {}
    for key, case in family.items():
        # wide heads take long; products of other types are the same kernels
        if not case.name.endswith(("_64", "_80", "_128", "_256")) and "_to_" not in case.name.removeprefix("sum_"):
            named.setdefault(case.name, []).append(key)
    keys = list(named.values())
    for at in range(max(len(keys), len(ARCHS))):
        key = keys[at % len(keys)][at % len(keys[at % len(keys)])]
        yield key, ARCHS[at % len(ARCHS)], at % len(CASES[key].calls)


SAMPLE = [one for family in FAMILIES.values() for one in sample(family)]


def test_the_sample_has_every_pair_of_family_and_target() -> None:
    pairs = {(family, arch) for family, cases in FAMILIES.items() for name, arch, _ in SAMPLE if name in cases}
    assert len(pairs) == len(FAMILIES) * len(ARCHS)


@pytest.mark.parametrize("name,arch,at", SAMPLE, ids=str)
def test_sample(name: str, arch: str, at: int) -> None:
    found = measured(CASES[name], [arch], [at])
    assert max(found.values()) <= 1, found


def half_relu(t: Any) -> Any:
    return ts.tile.maximum(t, 0.0) * 0.5


def test_epilogue_and_type_of_the_result() -> None:
    a, b = normal(70, 40, dtype="bf16"), normal(40, 66, seed=1, dtype="bf16")
    kernel = K.matmul.of(ts.bf16, out=ts.f32).definition
    found = everywhere(kernel, [a, b, half_relu], archs=("sm_80",))
    bound = 42 * U * (np.abs(wide(a)) @ np.abs(wide(b)))
    assert ratio(found, stored(RESULT, "f32", np.maximum(wide(a) @ wide(b), 0) * 0.5, bound)) <= 1


# Attention as a whole -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 4, 2, 37, 70, True), (1, 2, 1, 70, 33, False)], ids=str)
def test_gradients_of_attention(shape: tuple[int, int, int, int, int, bool]) -> None:
    """Forwards and then backwards, beside the derivative of the plain formula and beside differences in f64."""
    problem = Attention("f32", 32, shape)
    s, t, causal = shape[3:]
    q, k, v, do, scale = problem.q, problem.k, problem.v, problem.do, problem.scale
    o, logs, dq, delta, dk, dv = (np.zeros_like(x) for x in (q, q[..., 0], q, q[..., 0], k, v))
    K.flash_attention(q, k, v, o, logs, scale, causal)
    K.flash_attention_grad_q(q, k, v, o, logs, do, dq, delta, scale, causal)
    K.flash_attention_grad_kv(q, k, v, logs, delta, do, dk, dv, scale, causal)

    def plain(q: Any, k: Any, v: Any) -> Any:
        return ts.sum(ts.nn.flash_attention(q, k, v, causal, scale) * do)

    for found, want in zip((dq, dk, dv), ts.grad(plain, argnums=(0, 1, 2))(q, k, v), strict=True):
        np.testing.assert_allclose(found, want.numpy(), atol=2e-5 * np.abs(found).max())

    def loss(q: Any, k: Any, v: Any) -> float:
        scores = wide(q) @ problem.heads(k).swapaxes(-1, -2) * scale
        if causal:
            scores = np.where(np.arange(t) > np.arange(s)[:, None] + t - s, -np.inf, scores)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        return float((p / p.sum(-1, keepdims=True) @ problem.heads(v) * wide(do)).sum())

    for at, found in enumerate((dq, dk, dv)):
        step = [np.zeros(x.shape) for x in (q, k, v)]
        step[at] = np.random.default_rng(at).standard_normal(found.shape) * 1e-4
        moved = [loss(*(wide(x) + sign * e for x, e in zip((q, k, v), step, strict=True))) for sign in (1, -1)]
        want = (moved[0] - moved[1]) / 2
        assert abs(want - float((wide(found) * step[at]).sum())) <= 1e-5 * np.abs(step[at] * found).sum()


# The families ---------------------------------------------------------------------------------------------------------


def test_a_family_makes_each_kernel_once_and_takes_the_type_from_the_argument() -> None:
    assert K.matmul.of(ts.bf16) is K.matmul.of("bf16", trans_a=False)
    assert K.matmul.of(ts.bf16) is not K.matmul.of(ts.f16)
    with pytest.raises(TypeError, match="transposed"):
        K.matmul.of(ts.bf16, transposed=True)
    assert (ts.kernels.matmul.of(ts.f32).name, repr(K.softmax)) == ("matmul", "<kernels softmax>")
    a, b = ts.tensor(normal(5, 6)), ts.tensor(normal(6, 7, seed=1))
    found = ts.kernels.matmul(a, b).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wide(a.numpy()) @ wide(b.numpy()), rtol=1e-5, atol=1e-5)


def test_a_kernel_of_the_library_is_an_entry_of_the_module_that_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("import tessera as ts\ngemm = ts.kernels.matmul.of(ts.f32, trans_b=True)\n")
    loaded = source.load(path)
    assert list(loaded.entries) == ["gemm"]
    gemm = load_bundle(Build(front(loaded.entries), [host_level()]).bundle())["gemm"]
    a, b = normal(5, 6), normal(7, 6, seed=1)
    np.testing.assert_allclose(gemm(a, b), wide(a) @ wide(b).T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in K.__all__ if name != "Family"])
def test_no_kernel_has_a_warning(name: str) -> None:
    assert getattr(K, name).of(ts.f16).definition.warnings == ()
