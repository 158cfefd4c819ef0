"""The library's kernels against NumPy in float64; every evaluation is held against the levels below (`everywhere`).

The bounds follow from where a kernel rounds: U of the result's type once, f32's U for each step of a sum, and an ulp or
two for an elementary function. Types, sizes and targets are drawn pairwise: each type with each kind of size, every
matrix unit with every family of kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
import tessera.kernels as K
from tessera.kernel import evaluate
from tessera_runtime import load as load_bundle
from tessera_runtime.core.dtypes import np_dtype
from tesseracc.driver import Build, front, host_level
from tesseracc.frontend import source
from tests.kernel.everywhere import everywhere

BF16 = ml_dtypes.bfloat16
TYPES = {"bf16": BF16, "f16": np.float16, "f32": np.float32}
ROUNDOFF = {"bf16": 2.0**-8, "f16": 2.0**-11, "f32": 2.0**-24}
U = 2.0**-24
CASES = [("bf16", "sm_90"), ("f16", "sm_80"), ("f32", "sm_75")]
# rows, columns: none, one, ragged, a whole block, several blocks; wide ones are aligned as tensor copies need it
SHAPES = {"bf16": [(0, 5), (1, 1), (9, 600)], "f16": [(3, 0), (17, 256)], "f32": [(1, 700), (20, 33)]}
CASES_OF_ROWS = [(dtype, arch, shape) for dtype, arch in CASES for shape in SHAPES[dtype]]
rows = pytest.mark.parametrize("dtype,arch,shape", CASES_OF_ROWS, ids=str)


def normal(*shape: int, seed: int = 0, dtype: str = "f32") -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(TYPES[dtype])


def empty(*shape: int, dtype: str = "f32") -> Any:
    """Memory for a result, which starts as nothing that could be one."""
    return np.full(shape, 99, TYPES[dtype])


def wide(x: Any) -> Any:
    return np.asarray(x).astype(np.float64)


def run(arch: str, kernel: Any, *args: Any) -> Any:
    """What the evaluator gives, after it was compared with the interpreter, native code and `arch` on the emulator."""
    return everywhere(kernel.definition, list(args), archs=(arch,))


def within(dtype: str, found: Any, want: Any, bound: Any) -> None:
    """`bound` besides the one rounding to the result's type; what is not finite must be the same."""
    finite = np.isfinite(want)
    assert found.shape == want.shape
    np.testing.assert_array_equal(wide(found)[~finite], want[~finite])
    found, want, bound = found[finite], want[finite], np.broadcast_to(bound, want.shape)[finite]
    bound = bound + 1.01 * ROUNDOFF[dtype] * np.abs(want) + float(ml_dtypes.finfo(TYPES[dtype]).smallest_subnormal)
    error = np.abs(wide(found) - want)
    assert np.all(error <= bound), f"off by {(error / bound).max()} times the bound"


# Products -------------------------------------------------------------------------------------------------------------

PRODUCTS = [
    # type, target, A transposed, B transposed, batched
    ("bf16", "sm_75", False, False, False),
    ("bf16", "sm_80", True, False, True),
    ("bf16", "sm_90", False, True, False),
    ("f16", "sm_75", True, False, False),
    ("f16", "sm_80", False, True, False),
    ("f16", "sm_90", False, False, True),
    ("f32", "sm_75", True, True, True),
    ("f32", "sm_80", False, False, False),
    ("f32", "sm_90", True, False, False),
    ("bf16", "sm_90", True, True, False),
]


@pytest.mark.parametrize("dtype,arch,trans_a,trans_b,batched", PRODUCTS, ids=str)
def test_matmul(dtype: str, arch: str, trans_a: bool, trans_b: bool, batched: bool) -> None:
    kernel = K.matmul.of(dtype, trans_a=trans_a, trans_b=trans_b, batched=batched)
    for m, k, n in ((0, 5, 3), (5, 0, 7), (1, 1, 1), (70, 33, 65), (72, 136, 64)):
        batch = (2,) if batched else ()
        a, b = normal(*batch, m, k, dtype=dtype), normal(*batch, k, n, seed=1, dtype=dtype)
        given = (x.swapaxes(-1, -2).copy() if t else x for x, t in ((a, trans_a), (b, trans_b)))
        found = run(arch, kernel, *given)
        within(dtype, found, wide(a) @ wide(b), (k + 2) * U * (np.abs(wide(a)) @ np.abs(wide(b))))


def half_relu(t: Any) -> Any:
    return ts.tile.maximum(t, 0.0) * 0.5


def test_epilogue_and_type_of_the_result() -> None:
    a, b = normal(70, 40, dtype="bf16"), normal(40, 66, seed=1, dtype="bf16")
    kernel = K.matmul.of(ts.bf16, out=ts.f32)
    found = run("sm_80", kernel, a, b, half_relu)
    want = np.maximum(wide(a) @ wide(b), 0) * 0.5
    within("f32", found, want, 42 * U * (np.abs(wide(a)) @ np.abs(wide(b))))


def test_integers_are_multiplied_exactly() -> None:
    rng = np.random.default_rng(5)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((70, 100), (100, 33)))
    found = run("sm_80", K.matmul.of(ts.i8, out=ts.i32), a, b)
    np.testing.assert_array_equal(found, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize("dtype", ("f64", "fp8_e4m3"))
def test_wide_and_narrow_products(dtype: str) -> None:
    numpy, out = np_dtype(dtype), "f64" if dtype == "f64" else "f32"
    a, b = (normal(*shape, seed=i).astype(numpy) for i, shape in enumerate(((20, 40), (40, 35))))
    found = run("sm_90", K.matmul.of(dtype, out=ts.f64 if dtype == "f64" else ts.f32), a, b)
    unit = 2.0**-53 if dtype == "f64" else U
    assert found.dtype == np_dtype(out)
    assert np.all(np.abs(found - wide(a) @ wide(b)) <= 43 * unit * (np.abs(wide(a)) @ np.abs(wide(b))))


# Rows and columns -----------------------------------------------------------------------------------------------------


def row_error(n: int) -> float:
    """Rounding of a sum of n elements, in blocks of at least 128 that are trees; of what is done once; and to spare."""
    return (-(-n // 128) * 6 + 32) * U


@rows
def test_softmax(dtype: str, arch: str, shape: tuple[int, int]) -> None:
    x = (normal(*shape, dtype=dtype) * 4).astype(TYPES[dtype])
    x[:, 3:5] = -np.inf
    y = run(arch, K.softmax.of(dtype), x, empty(*shape, dtype=dtype))
    away = wide(x) - wide(x).max(1, keepdims=True, initial=-np.inf)
    want = np.exp(away)
    want /= want.sum(1, keepdims=True)
    within(dtype, y, want, want * (row_error(shape[1]) + np.where(want > 0, np.abs(away), 0) * U))


@rows
@pytest.mark.parametrize("offset", (0, 30))
def test_layer_norm(dtype: str, arch: str, shape: tuple[int, int], offset: int) -> None:
    x, n = (normal(*shape, dtype=dtype) + offset).astype(TYPES[dtype]), shape[1]
    weight, bias = normal(n, seed=1, dtype=dtype), normal(n, seed=2, dtype=dtype)
    y = run(arch, K.layer_norm.of(dtype), x, weight, bias, empty(*shape, dtype=dtype), 1e-5)
    t, w = wide(x), wide(weight)
    mean = t.sum(1, keepdims=True) / max(n, 1)
    scale = 1 / np.sqrt(((t - mean) ** 2).sum(1, keepdims=True) / max(n, 1) + 1e-5)
    size = np.abs(t).sum(1, keepdims=True) / max(n, 1) * scale  # how far the mean's error goes
    error = row_error(n) * (1 + size) * (np.abs(t - mean) * scale + 1) * np.abs(w)
    within(dtype, y, (t - mean) * scale * w + wide(bias), error + 2 * U * np.abs(wide(bias)))


@rows
def test_rms_norm(dtype: str, arch: str, shape: tuple[int, int]) -> None:
    x, weight = normal(*shape, dtype=dtype), normal(shape[1], seed=1, dtype=dtype)
    y = run(arch, K.rms_norm.of(dtype), x, weight, empty(*shape, dtype=dtype), 1e-6)
    t = wide(x)
    want = t / np.sqrt((t * t).sum(1, keepdims=True) / max(shape[1], 1) + 1e-6) * wide(weight)
    within(dtype, y, want, row_error(shape[1]) * np.abs(want))


@rows
def test_cross_entropy(dtype: str, arch: str, shape: tuple[int, int]) -> None:
    m, n = shape
    x = (normal(m, n, dtype=dtype) * 4).astype(TYPES[dtype])
    label = np.random.default_rng(1).integers(-1, max(n, 1), m).astype(np.int32)
    label[:1] = n - 1
    loss = run(arch, K.cross_entropy.of(dtype), x, label, empty(m))
    logits = np.concatenate([wide(x), np.zeros((m, 1))], 1)[np.arange(m), label]
    with np.errstate(divide="ignore"):  # a row without elements
        total = np.log(np.exp(wide(x)).sum(1))
    want = np.where(label < 0, 0, total - logits)
    within("f32", loss, want, row_error(n) * (40 + np.abs(logits)))


@rows
def test_sums(dtype: str, arch: str, shape: tuple[int, int]) -> None:
    x = normal(*shape, dtype=dtype)
    for axis, kernel in ((1, K.row_sum), (0, K.column_sum)):
        found = run(arch, kernel.of(dtype), x, empty(shape[1 - axis]))
        bound = (-(-shape[axis] // 32) + 8) * U * np.abs(wide(x)).sum(axis)
        within("f32", found, wide(x).sum(axis), bound)


@rows
def test_extrema(dtype: str, arch: str, shape: tuple[int, int]) -> None:
    x = normal(*shape, dtype=dtype)
    for axis, kernel in ((1, K.row_max), (0, K.column_max)):
        found = run(arch, kernel.of(dtype), x, empty(shape[1 - axis], dtype=dtype))
        np.testing.assert_array_equal(wide(found), wide(x).max(axis, initial=-np.inf))


def test_integers_are_added_exactly() -> None:
    x = np.random.default_rng(1).integers(-(2**31), 2**31, (9, 300)).astype(np.int32)
    for axis, kernel in ((1, K.row_sum), (0, K.column_sum)):
        found = run("sm_80", kernel.of(ts.i32), x, np.full(x.shape[1 - axis], 99, np.int64))
        np.testing.assert_array_equal(found, x.astype(np.int64).sum(axis))
    found = run("sm_80", K.row_max.of(ts.i32), x, np.full(9, 99, np.int32))
    np.testing.assert_array_equal(found, x.max(1))
    narrow = x.astype(np.int8)
    found = run("sm_90", K.row_sum.of(ts.i8), narrow, np.full(9, 99, np.int32))
    np.testing.assert_array_equal(found, narrow.astype(np.int64).sum(1))


@pytest.mark.parametrize("dtype,arch", [*CASES, ("i32", "sm_80"), ("i8", "sm_90")])
def test_transpose(dtype: str, arch: str) -> None:
    for shape in ((0, 3), (1, 1), (33, 70), (64, 32)):
        bits = np.random.default_rng(1).integers(-99, 99, shape)
        x = bits.astype(TYPES.get(dtype) or {"i32": np.int32, "i8": np.int8}[dtype])
        np.testing.assert_array_equal(run(arch, K.transpose.of(dtype), x), x.T)


# Attention ------------------------------------------------------------------------------------------------------------

ATTENTION = [
    # type, target, B, H, G, S, T, D, causal
    ("bf16", "sm_90", 1, 2, 1, 70, 70, 64, True),
    ("bf16", "sm_90", 1, 1, 1, 5, 130, 64, False),
    ("bf16", "sm_75", 1, 2, 2, 33, 80, 32, True),
    ("f16", "sm_80", 2, 4, 2, 37, 70, 32, True),
    ("f16", "sm_80", 1, 1, 1, 1, 1, 32, False),
    ("f16", "sm_75", 1, 3, 1, 66, 129, 32, False),
    ("f32", "sm_80", 1, 2, 1, 20, 90, 16, True),
    ("f32", "sm_90", 1, 1, 1, 0, 4, 16, True),
    ("bf16", "sm_80", 1, 1, 1, 70, 20, 32, True),
    ("bf16", "sm_80", 1, 1, 1, 3, 0, 32, False),
]


@pytest.mark.parametrize("case", ATTENTION, ids=lambda c: "-".join(map(str, c)))
def test_flash_attention(case: Any) -> None:
    dtype, arch, b, h, g, s, t, d, causal = case
    q = normal(b, h, s, d, dtype=dtype)
    k, v = (normal(b, g, t, d, seed=i, dtype=dtype) for i in (1, 2))
    o, logs, scale = empty(*q.shape, dtype=dtype), empty(b, h, s), d**-0.5
    run(arch, K.flash_attention.of(dtype), q, k, v, o, logs, scale, causal)
    keys, values = (np.repeat(wide(x), h // g, 1) for x in (k, v))
    scores = wide(q) @ keys.swapaxes(-1, -2) * scale
    if causal:
        scores = np.where(np.arange(t) > np.arange(s)[:, None] + t - s, -np.inf, scores)
    sees = np.isfinite(scores).any(-1)
    assert np.isnan(wide(o)[~sees]).all() and (logs[~sees] == -np.inf).all()
    top = np.where(sees, scores.max(-1, initial=-np.inf), 0)[..., None]
    p = np.exp(scores - top)
    with np.errstate(invalid="ignore"):
        want = p @ values / p.sum(-1, keepdims=True)
        size = p @ np.abs(values) / p.sum(-1, keepdims=True)
    # the scores' error is relative to their weights, each of which is rounded to the type (f16 has a least step)
    error = (d + 4) * U * (np.abs(wide(q)) @ np.abs(keys).swapaxes(-1, -2) * scale).max(initial=1) + row_error(t)
    least = float(ml_dtypes.finfo(TYPES[dtype]).smallest_subnormal) * t * np.abs(values).max(initial=0)
    bound = (1.01 * ROUNDOFF[dtype] + 2 * error) * size + least
    within(dtype, o[sees], want[sees], bound[sees])
    logged = (top[..., 0] + np.log(p.sum(-1), where=sees, out=np.zeros(sees.shape)))[sees]
    within("f32", logs[sees], logged, 2 * error * (1 + np.abs(logged)))


# What the tests would see ---------------------------------------------------------------------------------------------


def test_the_bounds_see_a_block_that_is_left_out_and_a_mask_that_is_off_by_one() -> None:
    a, b = normal(70, 96, dtype="bf16"), normal(96, 65, seed=1, dtype="bf16")
    found = evaluate(K.matmul.of(ts.bf16, out=ts.f32).definition, [a, b])
    bound = 98 * U * (np.abs(wide(a)) @ np.abs(wide(b)))
    within("f32", found, wide(a) @ wide(b), bound)
    for left_out in range(0, 96, 32):
        rest = np.arange(96) // 32 != left_out // 32
        with pytest.raises(AssertionError):
            within("f32", found, wide(a)[:, rest] @ wide(b)[rest], bound)
    narrow = wide(np.asarray(wide(a)[:, :64] @ wide(b)[:64]).astype(BF16)) + wide(a)[:, 64:] @ wide(b)[64:]
    with pytest.raises(AssertionError):  # a partial sum that was kept in a narrow type
        within("f32", found, narrow, bound)
    x = normal(9, 600)
    loss = evaluate(K.cross_entropy.of("f32").definition, [x, np.full(9, 3, np.int32), empty(9)])
    for columns, seen in ((x, True), (x[:, :-1], False), (np.pad(x, ((0, 0), (0, 1))), False)):
        want = np.log(np.exp(wide(columns)).sum(1)) - wide(x)[:, 3]
        assert np.all(np.abs(loss - want) <= row_error(600) * 44) == seen


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
    path.write_text("import tessera as ts\nimport tessera.kernels\ngemm = ts.kernels.matmul.of(ts.f32, trans_b=True)\n")
    loaded = source.load(path)
    assert list(loaded.entries) == ["gemm"]
    gemm = load_bundle(Build(front(loaded.entries), [host_level()]).bundle())["gemm"]
    a, b = normal(5, 6), normal(7, 6, seed=1)
    np.testing.assert_allclose(gemm(a, b), wide(a) @ wide(b).T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in K.__all__ if name != "Family"])
def test_no_kernel_has_a_warning(name: str) -> None:
    assert getattr(K, name).of(ts.f16).definition.warnings == ()
