"""What tile kernels mean: the evaluator against NumPy in float64, at sizes with ragged edges, one element, and none."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
import tessera.kernels
from tessera.errors import SourceError
from tessera.kernel import evaluate, specialise
from tessera.kernel.tree import Mma, walk_exprs
from tessera_runtime.core.dtypes import np_dtype
from tests.kernel import tile_kernels as K

U = 2.0**-24
SIZES = (0, 1, 16, 31, 33, 100)
MATRICES = [(1, 1), (0, 5), (16, 32), (17, 33), (50, 70)]


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def wide(x: Any) -> Any:
    return np.asarray(x).astype(np.float64)


def run(kernel: Any, *args: Any) -> Any:
    return evaluate(kernel.definition, list(args))


@pytest.mark.parametrize("n", SIZES)
def test_elementwise(n: int) -> None:
    x, h, y = normal(n), normal(n, seed=1, dtype=ml_dtypes.bfloat16), normal(n, seed=2)
    run(K.elementwise, x, h, y, 1.25)
    t, u = wide(x), wide(h)
    v = np.where(t > 0.5, t * 1.25 + u, np.maximum(-t, 0.25))
    want = 2 * v + np.abs(t) ** 2 - np.sqrt(np.minimum(t * t, 4)) + np.floor(t / 0.75) + 1 / (1 + np.exp(-u))
    np.testing.assert_allclose(y, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("n", SIZES)
def test_integers(n: int) -> None:
    x = np.random.default_rng(n).integers(-50, 50, n).astype(np.int32)
    y = np.zeros_like(x)
    run(K.integers, x, y)
    np.testing.assert_array_equal(y, ((x & 7) << 2) - x // 3 + x % 5 + ((x > 2) & (x < 40)))


def softmax(x: Any) -> Any:
    grown = np.exp(wide(x) - wide(x).max(1, keepdims=True, initial=-np.inf))
    return grown / grown.sum(1, keepdims=True)


@pytest.mark.parametrize("shape", MATRICES, ids=str)
def test_softmax(shape: tuple[int, int]) -> None:
    """The width is a dim: the kernel is specialised for it."""
    x = normal(*shape) * np.float32(20)
    y = np.zeros_like(x)
    assert K.softmax.definition.open == ("N",)
    run(K.softmax, x, y)
    np.testing.assert_allclose(y, softmax(x), rtol=1e-5, atol=1e-30)
    narrow = x.astype(ml_dtypes.bfloat16)
    out = run(K.returned_softmax, narrow)
    assert out.dtype == narrow.dtype
    np.testing.assert_allclose(wide(out), softmax(narrow), rtol=2.0**-8, atol=1e-30)


@pytest.mark.parametrize("shape", [(1, 1), (5, 31), (16, 32), (20, 100)], ids=str)
def test_layer_norm(shape: tuple[int, int]) -> None:
    x, g = normal(*shape) + 100, normal(shape[1], seed=1)
    y = np.zeros_like(x)
    run(K.layer_norm, x, g, y)
    v = wide(x) - wide(x).mean(1, keepdims=True)
    want = v / np.sqrt((v * v).mean(1, keepdims=True) + 1e-5) * g
    np.testing.assert_allclose(y, want, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("shape", [(1, 1), (5, 31), (16, 32), (35, 70), (0, 4)], ids=str)
def test_what_a_ragged_update_does_not_cover_keeps_its_value(shape: tuple[int, int]) -> None:
    x = normal(*shape)
    total, grown, low = (np.zeros(shape[1], np.float32) for _ in range(3))
    run(K.column_statistics, x, total, grown, low)
    np.testing.assert_allclose(total, wide(x).sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grown, np.exp(wide(x)).sum(0), rtol=1e-5)
    np.testing.assert_allclose(low, (x + np.float32(3)).min(0, initial=9.0))


@pytest.mark.parametrize("n", (1, 16, 17, 40, 64))
def test_valid_part_of_a_prefetched_tile(n: int) -> None:
    x, y = normal(n) - 10, normal(3, seed=1)
    run(K.prefetched_max, x, y)
    assert y[0] == (x - np.float32(5)).max()


@pytest.mark.parametrize("n", (1, 16, 21, 40))
def test_valid_part_outlives_its_variables(n: int) -> None:
    x, y = normal(n) - 10, normal(2, seed=1)
    run(K.moving_start, x, y, 3)
    assert y[0] == (x - np.float32(5)).max()


@pytest.mark.parametrize("s", (1, 31, 32, 33, 64, 65, 150))
def test_ring_of_stages(s: int) -> None:
    k, q = normal(s, 16), normal(20, 16, seed=1)
    top, sums = normal(20, seed=2), normal(20, seed=3)
    run(K.ring, k, q, top, sums)
    scores = wide(q) @ wide(k).T - 100
    np.testing.assert_allclose(top, scores.max(1), rtol=1e-6)
    np.testing.assert_allclose(sums, np.exp(scores - scores.max(1, keepdims=True)).sum(1), rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (0, 3, 4), (33, 20, 50), (64, 16, 48), (7, 0, 9)], ids=str)
def test_transposed_operands_and_bias(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b, bias = normal(k, m, dtype=np.float16), normal(n, k, seed=1, dtype=np.float16), normal(n, seed=2)
    want = np.maximum(wide(a).T @ wide(b).T + bias, 0)
    bound = (k + 2) * U * (np.abs(wide(a)).T @ np.abs(wide(b)).T + np.abs(bias))
    assert np.all(np.abs(run(K.transposed, a, b, bias) - want) <= bound)


@pytest.mark.parametrize("n", (1, 16, 40))
def test_two_parallel_axes(n: int) -> None:
    """All dims have one name: what is parallel follows from what is written."""
    a, b, c = normal(n, n), normal(n, n, seed=1), normal(n, n, seed=2)
    kernel = K.two_axes.definition
    assert [axis.name for axis in kernel.axes] == ["m", "n"]
    evaluate(kernel, [a, b, c])
    assert np.all(np.abs(c - wide(a) @ wide(b)) <= (n + 1) * U * (np.abs(wide(a)) @ np.abs(wide(b))))


@pytest.mark.parametrize("shape", [(1, 1, 1), (0, 3, 4), (33, 20, 17), (64, 70, 16)], ids=str)
def test_axes_of_different_kinds(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b, c = normal(m, k), normal(k, n, seed=1), normal(m, n, seed=2)
    want = wide(c) + 2 * wide(a) @ wide(b)
    bound = (k + 4) * U * (np.abs(wide(c)) + 2 * np.abs(wide(a)) @ np.abs(wide(b)))
    kernel = K.mixed_axes.definition
    assert [(axis.name, axis.kind) for axis in kernel.axes] == [("n", "domain"), ("m", "work")]
    if m:
        evaluate(kernel, [a, b, c])
    assert np.all(np.abs(c - want) <= bound)


@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 70, 20)], ids=str)
def test_products_of_narrow_types(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-128, 128, s).astype(np.int8) for s in ((m, k), (k, n)))
    c = np.zeros((m, n), np.int32)
    run(K.bytes_product, a, b, c)
    np.testing.assert_array_equal(c, a.astype(np.int64) @ b.astype(np.int64))
    x, y = normal(m, k, dtype=ml_dtypes.bfloat16), normal(k, n, seed=1, dtype=ml_dtypes.float8_e4m3fn)
    z = np.zeros((m, n), ml_dtypes.bfloat16)
    run(K.narrow_product, x, y, z)
    want = wide(x) @ wide(y)
    assert np.all(np.abs(wide(z) - want) <= 2.0**-8 * np.abs(want) + k * U * (np.abs(wide(x)) @ np.abs(wide(y))))


@pytest.mark.parametrize("shape", [(1, 1), (4, 8), (5, 11), (9, 30)], ids=str)
def test_vectors(shape: tuple[int, int]) -> None:
    x, y = normal(*shape), normal(*shape, seed=1)
    run(K.vectors, x, y)
    np.testing.assert_array_equal(y, x + np.float32(1))


@pytest.mark.parametrize("mode", (-1, 0, 1))
@pytest.mark.parametrize("flip", (False, True))
def test_control_flow_carries_tiles(mode: int, flip: bool) -> None:
    x, y = normal(37), normal(37, seed=1)
    evaluate(K.flow.definition, [x, y, mode, 5, flip])
    t = x + np.float32(1) if mode > 0 else -x if mode < 0 else x
    extra = np.float32(0.5) if mode > 0 else x * 2 if mode < 0 else x
    for _ in range(3):
        t = t * np.float32(1.5)
    np.testing.assert_array_equal(y, (-t if flip else t) + extra)


@pytest.mark.parametrize("s", (1, 16, 33, 70))
def test_grouped_heads(s: int) -> None:
    q = normal(2, 4, s, 16, dtype=ml_dtypes.bfloat16)
    k, v = (normal(2, 2, s, 16, seed=i, dtype=ml_dtypes.bfloat16) for i in (1, 2))
    o, logs = np.zeros((2, 4, s, 16), np.float32), np.zeros((2, 4, s), np.float32)
    kernel = K.grouped_heads.definition
    assert [axis.name for axis in kernel.axes] == ["b", "h", "q"]
    evaluate(kernel, [q, k, v, o, logs])
    scores = np.einsum("bhqd,bhkd->bhqk", wide(q), np.repeat(wide(k), 2, 1))
    scores = np.where(np.tril(np.ones((s, s), bool)), scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    total = np.exp(scores - top).sum(-1, keepdims=True)
    p, values = np.exp(scores - top) / total, np.repeat(wide(v), 2, 1)
    assert np.all(np.abs(o - p @ values) <= 1.01 * 2.0**-8 * (p @ np.abs(values)) + 1e-5)
    np.testing.assert_allclose(logs, (top + np.log(total))[..., 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (70, 40, 65)], ids=str)
def test_epilogue_is_a_compile_time_function(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b = normal(m, k, dtype=ml_dtypes.bfloat16), normal(k, n, seed=1, dtype=ml_dtypes.bfloat16)
    bias, c = normal(n, seed=2), normal(m, n, seed=3)
    product = wide(a) @ wide(b)
    for epilogue, want in ((None, product), (K.scaled_relu, np.maximum(product * 0.5 + bias, 0))):
        evaluate(K.with_epilogue.definition, [a, b, bias, c, epilogue])
        np.testing.assert_allclose(c, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", MATRICES, ids=str)
def test_transpose(shape: tuple[int, int]) -> None:
    x, y = normal(*shape), normal(*shape[::-1], seed=1)
    run(K.turned, x, y)
    np.testing.assert_array_equal(y, x.T)


@pytest.mark.parametrize("shape", [(1, 1), (8, 16), (9, 50), (20, 3)], ids=str)
def test_cross_entropy(shape: tuple[int, int]) -> None:
    x, loss = normal(*shape) * np.float32(5), normal(shape[0])
    label = np.random.default_rng(1).integers(0, shape[1], shape[0]).astype(np.int32)
    run(K.cross_entropy, x, label, loss)
    want = np.log(np.exp(wide(x)).sum(1)) - wide(x)[np.arange(shape[0]), label]
    np.testing.assert_allclose(loss, want, rtol=1e-5, atol=1e-5)


def test_broadcast_and_scale() -> None:
    x, y, z = normal(16, 8), normal(16, 8, seed=1), np.zeros(8, np.int32)
    run(K.spread_out, x, y, z)
    want = 2 * wide(x).max(1, keepdims=True) + 0.5 * wide(x).sum(0, keepdims=True)
    np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-6)
    assert (z == 128).all()
    lanes = np.zeros(128, np.int64)
    run(K.warps, lanes)
    np.testing.assert_array_equal(lanes, np.arange(128) // 32)


def test_vectors_of_rows_and_columns() -> None:
    x, y = normal(20, 8), normal(40, 8, seed=1)
    d = np.zeros((20, 40), np.float32)
    run(K.distances, x, y, d)
    want = ((wide(x)[:, None] - wide(y)[None]) ** 2).sum(2)
    np.testing.assert_allclose(d, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", (1, 128, 200))
def test_lanes_and_tiles(n: int) -> None:
    x, y = normal(n), normal(n, seed=1)
    run(K.lanes_and_tiles, x, y)
    padded = np.concatenate([x, np.zeros(-n % 128, np.float32)]).reshape(-1, 128)
    np.testing.assert_array_equal(y, (padded[:, ::-1] * 2).reshape(-1)[:n])


def test_dropped_axes_and_explicit_grid() -> None:
    x, y = normal(3, 5, 16), normal(3, 16, seed=1)
    run(K.by_group, x, y)
    np.testing.assert_array_equal(y, x.max(1))


def test_explicit_grid_of_a_product_and_an_open_dim() -> None:
    x, y = normal(6, 10), normal(6, 10, seed=1)
    assert K.explicit_product.definition.open == ("D",)
    run(K.explicit_product, x, y)
    np.testing.assert_array_equal(y, x - x.max(1, keepdims=True))


def test_three_axes() -> None:
    x, y = normal(5, 8, 4), normal(5, 8, seed=1)
    run(K.cubes, x, y)
    np.testing.assert_array_equal(y, (x * 2).max(2) - x.min(2))


@pytest.mark.parametrize("n", (0, 1, 64, 1000))
def test_returned_scalar(n: int) -> None:
    x = normal(n)
    np.testing.assert_allclose(run(K.total_of, x), wide(x).sum(), atol=n * U * np.abs(x).sum())


def test_batch_of_a_product() -> None:
    x = normal(3, 50)
    np.testing.assert_array_equal(run(K.row_block, x), x * np.float32(3))


def test_a_block_is_an_operand_of_two_products() -> None:
    q, k = (normal(size, 32, dtype=ml_dtypes.bfloat16) for size in (30, 40))
    o = np.zeros((30, 32), np.float32)
    run(K.one_block_in_two_products, q, k, o)
    scores = wide(q) @ wide(k).T
    assert np.all(np.abs(o - scores @ wide(k)) <= 1.01 * 2.0**-8 * (np.abs(scores) @ np.abs(wide(k))))


def test_domain_variables_in_a_compile_time_branch() -> None:
    x, y = normal(50, 50), np.zeros((50, 50), np.float32)
    for broad, want in ((False, x * 2), (True, x - 1)):
        run(K.chosen_domain, x, y, broad)
        np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (40, 70)], ids=str)
def test_a_tile_is_returned_from_nested_work_loops(shape: tuple[int, int]) -> None:
    x = normal(*shape)
    assert [a.kind for a in K.returned_from_nested_loops.definition.axes] == ["work", "work"]
    want = x + x[:, :8].max(1, keepdims=True, initial=-np.inf)
    np.testing.assert_array_equal(run(K.returned_from_nested_loops, x), want)


def test_other_words_for_products_and_sums() -> None:
    a, b = normal(20, 40, dtype=ml_dtypes.bfloat16), normal(40, 30, dtype=ml_dtypes.bfloat16)
    y = np.zeros(20, np.float32)
    run(K.other_words, a, b, y)
    np.testing.assert_allclose(y, (wide(a) @ wide(b)).sum(1), atol=1e-3)


@pytest.mark.parametrize("offsets", [(0, 0), (5, 0), (0, 9), (2**30, 0), (0, 2**30)], ids=str)
def test_causal_mask(offsets: tuple[int, int]) -> None:
    q, kv = offsets
    x, y = normal(20, 40), np.zeros((20, 40), np.float32)
    run(K.causal, x, y, q, kv)
    np.testing.assert_array_equal(
        y, np.where(kv + np.arange(40)[None, :] > q + np.arange(20)[:, None], -np.inf, x)
    )


def test_groups_must_not_store_to_one_element() -> None:
    with pytest.raises(SourceError) as caught:
        run(K.overlapping, normal(40), normal(40))
    assert caught.value.code == "E215"


TYPES = [
    # operands, what a plain product is made of, what one with a computed left operand is made of, the accumulator
    ("bf16", "bf16", ("bf16", "bf16"), ("bf16", "bf16"), "f32"),
    ("f16", "f16", ("f16", "f16"), ("f16", "f16"), "f32"),
    ("f32", "f32", ("f32", "f32"), ("f32", "f32"), "f32"),
    ("f64", "f64", ("f64", "f64"), ("f64", "f64"), "f64"),
    ("f16", "bf16", ("f32", "f32"), ("bf16", "bf16"), "f32"),
    ("f32", "bf16", ("f32", "f32"), ("bf16", "bf16"), "f32"),
    ("bf16", "fp8_e4m3", ("bf16", "bf16"), ("bf16", "bf16"), "f32"),
    ("fp8_e4m3", "fp8_e5m2", ("fp8_e4m3", "fp8_e5m2"), ("bf16", "bf16"), "f32"),
    ("i8", "i8", ("i8", "i8"), ("i8", "i8"), "i32"),
]


@pytest.mark.parametrize("case", TYPES, ids=lambda c: f"{c[0]}-{c[1]}")
def test_types_of_products(case: Any) -> None:
    a, b, plain, computed, acc = case
    kernel = K.product_of(*(getattr(ts, name) for name in (a, b, acc)))
    found = [e for e in walk_exprs(kernel.definition.body) if isinstance(e, Mma)]
    assert [(str(e.a.type.dtype), str(e.b.type.dtype), str(e.type.dtype)) for e in found] == [
        (*plain, acc), (*computed, acc)
    ]  # fmt: skip
    rng = np.random.default_rng(3)
    x, y = (rng.integers(-3, 4, (16, 16)).astype(np_dtype(name)) for name in (a, b))
    c = np.zeros((16, 16), np_dtype(acc))
    evaluate(kernel.definition, [x, y, c])
    np.testing.assert_array_equal(c, wide(x) @ wide(y))


@pytest.mark.parametrize("trans_a", (False, True))
@pytest.mark.parametrize("trans_b", (False, True))
def test_axes_of_one_size_are_told_apart_by_their_names(trans_a: bool, trans_b: bool) -> None:
    """Numbers for M, N and K, all the same, leave it clear which axis of the result a variable places."""
    general = tessera.kernels.matmul.of(ts.f32, trans_a=trans_a, trans_b=trans_b).definition
    kernel = specialise(general, config={"BM": 32, "BN": 16, "BK": 16}, dims={"M": 40, "N": 40, "K": 40})
    a, b = normal(40, 40), normal(40, 40, seed=1)
    want = (wide(a).T if trans_a else wide(a)) @ (wide(b).T if trans_b else wide(b))
    bound = 40 * U * np.abs(a).max() * np.abs(b).max()
    np.testing.assert_allclose(evaluate(kernel, [a, b]), want, rtol=0, atol=bound)


@pytest.mark.parametrize("shape", ((1, 1), (13, 37)))
def test_a_block_is_changed_by_what_is_read_elsewhere(shape: tuple[int, int]) -> None:
    x, r, y = normal(*shape), normal(shape[0], seed=1), normal(*shape, seed=2)
    want = wide(y) + (1 + wide(x)) * wide(r)[:, None]
    evaluate(K.updated_blocks.definition, [x, r, y])
    np.testing.assert_allclose(y, want, rtol=0, atol=8 * U * max(1, np.abs(want).max()))
