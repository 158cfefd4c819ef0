"""Products in parts (split-K): both launches together, the tree that joins them, and how many parts there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tessera as ts
import tessera.kernels as K
from tessera.kernels.split import parts_for
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.driver import Build, host_level
from tesseracc.frontend.kernel import lower
from tests.kernel.everywhere import everywhere, levels
from tests.kernels.cases import RESULT, Call, U, empty, normal, ratio, stored, wide
from tests.kernels.deletions import Ordered
from tests.kernels.matrix import CASES, fixed


def half_relu(t: Any) -> Any:
    return ts.tile.maximum(t, 0.0) * 0.5


def joined(w: Any) -> Any:
    """The sum over the first axis as a tree of halves, in f32."""
    size = 1 << (len(w) - 1).bit_length()
    w = np.concatenate([w, np.zeros((size - len(w), *w.shape[1:]), w.dtype)])
    while len(w) > 1:
        w = w[: len(w) // 2] + w[len(w) // 2 :]
    return w[0]


@pytest.mark.parametrize("dtype,parts,arch", [("bf16", 4, "sm_90"), ("f16", 3, "sm_80")])
def test_parts_and_their_sum(dtype: str, parts: int, arch: str) -> None:
    """At every level the partial sums, and the product with an epilogue from those of the evaluator."""
    m, k, n = (int(x) for x in np.random.default_rng(parts).integers((17, 300, 17), (60, 400, 60)))
    a, b, w = normal(m, k, dtype=dtype), normal(k, n, seed=1, dtype=dtype), empty(parts, m, n)
    everywhere(K.matmul_parts.of(dtype, parts=parts).definition, [a, b, w], archs=(arch,))
    sums = K.sum_parts.of("f32", parts=parts, out=getattr(ts, dtype)).definition
    found = everywhere(sums, [w, half_relu], archs=(arch,))
    size = np.abs(wide(a)) @ np.abs(wide(b))
    want = stored(RESULT, dtype, np.maximum(wide(a) @ wide(b), 0) * 0.5, (-(-k // parts) + 64) * U * size / 2)
    assert ratio(found, want) <= 1
    block = wide(a)[:, :64] @ wide(b)[:64]
    assert ratio((np.maximum(wide(a) @ wide(b) - block, 0) * 0.5).astype(found.dtype), want) > 1


@pytest.mark.parametrize("parts", [1, 5, 8])
def test_parts_are_joined_in_one_tree(parts: int) -> None:
    """Bit for bit, at every level and for any number of threads."""
    w = normal(parts, 21, 75) * np.float32(2) ** np.arange(parts, dtype=np.float32)[::-1, None, None]
    kernel, _, given = fixed(K.sum_parts.of("f32", parts=parts).definition, Call([w], []))
    want = joined(w)
    assert parts < 3 or not np.array_equal(want, w.sum(0))
    runs = levels(kernel, ("sm_80", "sm_90") if parts == 5 else ())
    runs["one thread"] = load_bundle(Build(lower(kernel), [host_level()]).bundle(), threads=1)[kernel.name]
    for level, run in runs.items():
        found = run(*given)
        np.testing.assert_array_equal(found[0] if isinstance(found, list) else found, want, err_msg=level)


def test_no_bit_depends_on_what_runs_at_once() -> None:
    """Threads of a CPU, and on a GPU how many blocks take the tiles in turn, and the order of warps and blocks."""
    a, b, w = normal(130, 200, dtype="bf16"), normal(200, 72, seed=1, dtype="bf16"), empty(3, 130, 72)
    case = CASES["matmul_parts_nn-bf16"]
    kernel, _, given = fixed(case.kernel(), Call([a, b, w], []))
    native = Build(lower(kernel), [host_level()]).bundle()
    gpu = Ordered(case, load("sm_90"), kernel)
    assert gpu.blocks
    for found in (
        [load_bundle(native, threads=n)[kernel.name](*(x.copy() for x in given)) for n in (1, 2, 3)],
        [gpu.result(given, seed, blocks) for seed, blocks in ((0, 1 << 20), (1, 1), (2, 3))],
    ):
        assert np.isfinite(found[0]).all() and all(np.array_equal(found[0], other) for other in found[1:])


def test_how_many_parts() -> None:
    """Never more blocks than units, nor less depth than a part is worth; twice as many would break one of these."""
    assert [parts_for(4096, 4096, 4096), parts_for(128, 128, 1 << 20), parts_for(128, 128, 1000)] == [1, 32, 1]
    for m, n, k, units in np.random.default_rng(3).integers((1, 1, 0, 1), (600, 600, 20000, 200), (50, 4)).tolist():
        parts, blocks = parts_for(m, n, k, units), -(-m // 128) * -(-n // 128)
        fits = [p for p in (1, 2, 4, 8, 16, 32) if p == 1 or (p * blocks <= units and k >= 512 * p)]
        assert parts == max(fits)


def test_calls_from_a_host_program() -> None:
    a, b, w = ts.tensor(normal(9, 1100)), ts.tensor(normal(1100, 7, seed=1)), ts.zeros(8, 9, 7)
    found = ts.kernels.sum_parts(ts.kernels.matmul_parts(a, b, w)).numpy()
    np.testing.assert_allclose(found, wide(a.numpy()) @ wide(b.numpy()), rtol=1e-5, atol=1e-4)
