"""Policies change what is computed, eagerly and compiled: accumulation types, compute modes, stochastic rounding."""

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front
from tesseracc.emulator_device import EmulatorDevice

BF16 = np.dtype(ml_dtypes.bfloat16)


def graph(fn: Any) -> list[str]:
    """The operations of a function's graph, without the part behind the types."""
    text = Build(front({fn.name: fn}), (load("sm_90"),)).text("graph")
    return [line.split("graph.")[1].split(" :")[0] for line in text.splitlines() if " = graph." in line]


@ts.function
def in_f64(x: ts.Tensor["N", "K", "f32 @accum(f64)"]):
    return ts.sum(x, 1), ts.mean(x, 1)


@ts.function
def product_in_f64(x: ts.Tensor["M", "K", "f32 @accum(f64)"], w: ts.Tensor["K", "N", ts.f32]):
    return x @ w


@ts.function
def plain_product(x: ts.Tensor["M", "K", "bf16 @accum(f32)"], w: ts.Tensor["K", "N", "bf16 @accum(f32)"]):
    return x @ w


def cancelling(n: int, k: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Rows whose sums are tiny beside their terms: f32 loses all of it, f64 keeps it."""
    x = rng.standard_normal((n, k)).astype(np.float32) * np.float32(1e4)
    x[:, 1::2] = -x[:, : 2 * (k // 2) : 2]
    return np.concatenate([x, rng.standard_normal((n, 1)).astype(np.float32) * np.float32(1e-4)], 1)


@pytest.mark.parametrize("run", [lambda f: f, ts.jit], ids=["eager", "compiled"])
def test_sums_accumulate_in_the_policys_type(run: Callable[[Any], Any]) -> None:
    x = cancelling(5, 37, np.random.default_rng(1))[:, np.random.default_rng(2).permutation(38)]
    total, mean = run(in_f64)(x)
    exact = x.astype(np.float64).sum(1)
    np.testing.assert_array_equal(total.numpy(), exact.astype(np.float32))
    np.testing.assert_allclose(mean.numpy(), (exact / 38).astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("run", [lambda f: f, ts.jit], ids=["eager", "compiled"])
def test_products_accumulate_in_the_policys_type(run: Callable[[Any], Any]) -> None:
    rng = np.random.default_rng(3)
    x, w = cancelling(7, 62, rng), np.ones((63, 5), np.float32)
    found = run(product_in_f64)(x, w).numpy()
    exact = x.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_allclose(found, exact, rtol=2e-7)


def test_the_graph_says_where_it_rounds() -> None:
    assert graph(product_in_f64) == [
        'cast %x {dtype = "f64"}', 'cast %w {dtype = "f64"}', 'matmul %0, %1 {dtype = "f64"}',
        'cast %2 {dtype = "f32"}',
    ]


def test_a_policy_that_asks_for_what_is_done_anyway_adds_no_cast() -> None:
    assert graph(plain_product) == ['matmul %x, %w {dtype = ""}']


def test_policies_travel() -> None:
    x = ts.tensor(np.ones((3, 4), np.float32), "bf16 @accum(f64)")
    w = ts.tensor(np.ones((4, 3), np.float32), "bf16 @accum(f32) @loss_scale(8.0)")
    assert str((x.mT + w).dtype) == "bf16 @accum(f64)"
    assert str(x.astype(ts.f32).dtype) == "f32 @accum(f64)"
    assert str(x.astype("bf16 @accum(f32)").dtype) == "bf16 @accum(f32)"
    assert str(ts.stop_gradient(w).dtype) == "bf16 @accum(f32)"


@ts.function
def in_tf32(x: ts.Tensor["M", "K", ts.f32 @ ts.compute(ts.tf32)], w: ts.Tensor["K", "N", ts.f32]):
    return x @ w


@ts.function
def in_bf16(x: ts.Tensor["M", "K", "f32 @compute(bf16)"], w: ts.Tensor["K", "N", ts.f32]):
    return x @ w


@pytest.mark.parametrize(("product", "bits"), [(in_tf32, 10), (in_bf16, 7)], ids=["tf32", "bf16"])
@pytest.mark.parametrize("run", [lambda f: f, ts.jit], ids=["eager", "compiled"])
def test_compute_modes_round_the_operands(run: Callable[[Any], Any], product: Any, bits: int) -> None:
    rng = np.random.default_rng(5)
    # integers below 2^(bits + 3), so that rounding matters and every product and sum is exact in f32
    x = rng.integers(-(2 ** (bits + 3)), 2 ** (bits + 3), (9, 3)).astype(np.float32)
    w = rng.choice([-1.0, 1.0], (3, 4)).astype(np.float32)
    fraction, exponent = np.frexp(x.astype(np.float64))
    rounded = np.ldexp(np.rint(np.ldexp(fraction, bits + 1)), exponent - bits - 1)
    assert np.any(rounded != x)
    np.testing.assert_array_equal(run(product)(x, w).numpy(), (rounded @ w).astype(np.float32))


@ts.function
def update(w: ts.Tensor["N", "bf16 @stochastic_round"], g: ts.Tensor["N", ts.bf16], key: ts.Tensor[ts.u64]):
    with ts.rounding_key(key):
        return w - g * 0.01


def test_stochastic_rounding_is_unbiased_where_rounding_to_nearest_stands_still() -> None:
    n = 4000
    w, g = np.full(n, 1.0).astype(BF16), np.full(n, 0.1).astype(BF16)
    exact = 1.0 - float(np.float32(g[0]) * np.float32(0.01))
    still = ts.tensor(w) - ts.tensor(g) * 0.01
    assert np.all(still.numpy() == w)
    found = update(w, g, ts.random.key(3)).numpy().astype(np.float64)
    assert set(found) == {1.0, 1.0 - 2.0**-8}
    step = 2.0**-8
    deviation = step * np.sqrt((1 - exact) / step * (1 - (1 - exact) / step) / n)
    assert abs(found.mean() - exact) < 5 * deviation + 1e-5
    again = update(w, g, ts.random.key(3)).numpy()
    np.testing.assert_array_equal(again.astype(np.float64), found)
    other = update(w, g, ts.random.key(4)).numpy()
    assert np.any(other.astype(np.float64) != found)


def test_stochastic_rounding_has_the_same_bits_compiled() -> None:
    rng = np.random.default_rng(11)
    w, g = (rng.standard_normal(777).astype(BF16) for _ in range(2))
    key = ts.random.key(12)
    eager, compiled = update(w, g, key).numpy(), ts.jit(update)(w, g, key).numpy()
    np.testing.assert_array_equal(eager.view(np.uint16), compiled.view(np.uint16))


def test_each_rounding_is_one_operation_behind_f32() -> None:
    names = [op.split()[0] for op in graph(update)]
    # the product with the bare g is rounded to nearest, within `mul`; only the difference takes random bits
    assert names.count("cast_by_bits") == 1 and names[-1] == "cast_by_bits" and names.count("sub") == 1


def test_gradients_obey_the_policies_of_the_primals() -> None:
    rng = np.random.default_rng(8)
    x = ts.tensor(cancelling(6, 40, rng), "f32 @accum(f64)")
    w = ts.tensor(rng.standard_normal((41, 3)).astype(np.float32))
    found = ts.grad(lambda w: ts.sum(x @ w))(w)
    exact = np.broadcast_to(x.numpy().astype(np.float64).sum(0)[:, None], (41, 3))
    np.testing.assert_allclose(found.numpy(), exact, rtol=2e-7)


@ts.function
def by_loops(x: ts.Tensor["N", "K", "f32 @accum(f64)"], flag: ts.Tensor[ts.bool]):
    def body(total, row):
        return total + ts.sum(row), ts.sum(row)

    _, rows = ts.scan(body, ts.full((), 0.0), x)
    return rows, ts.cond(flag, lambda y: ts.sum(y, 1), lambda y: ts.max(y, 1), x)


@pytest.mark.parametrize("run", [lambda f: f, ts.jit], ids=["eager", "compiled"])
def test_policies_hold_in_loops_and_branches(run: Callable[[Any], Any]) -> None:
    x = cancelling(4, 30, np.random.default_rng(21))
    exact = x.astype(np.float64).sum(1).astype(np.float32)
    for found in run(by_loops)(x, np.array(True)):
        np.testing.assert_allclose(found.numpy(), exact, rtol=1e-6)


def adds_up(x: Any) -> tuple[Any, ...]:
    """Everything that adds up, of a tensor [N, K]."""
    places = ts.zeros(x.shape[0], dtype=ts.i64)
    moved = ts.grad(lambda t: ts.sum(ts.take(t, places, 0) * ts.stop_gradient(x)))(x[:1])
    image = x.reshape(1, 1, *x.shape)
    return (ts.sum(x, 0), ts.mean(x, 0), ts.matmul(ts.ones(1, x.shape[0]), x)[0], moved[0],
            ts.nn.conv2d(image, ts.ones(1, 1, x.shape[0], 1))[0, 0, 0], ts.prod(ts.exp(x * 1e-6), 0))  # fmt: skip


@ts.function
def all_sums(x: ts.Tensor[41, 6, "f32 @accum(f64)"]):
    return adds_up(x)


def test_everything_that_adds_up_takes_the_policys_type() -> None:
    text = Build(front({"all_sums": all_sums}), (load("sm_90"),)).text("graph")
    adds = re.compile(r"graph\.(sum|prod|matmul|convolution|scatter_add) ")
    adding = [line for line in text.splitlines() if adds.search(line)]
    assert len(adding) >= 5 and all("tensor<f64" in line for line in adding), adding
    x = cancelling(6, 40, np.random.default_rng(31)).T.copy()
    wide = x.astype(np.float64)
    total = wide.sum(0)
    want = (total, total / len(x), total, total, total, np.exp(total * 1e-6))
    for found, exact in zip(adds_up(ts.tensor(x, "f32 @accum(f64)")), want, strict=True):
        np.testing.assert_allclose(found.numpy(), exact, rtol=1e-6)


def test_emulated_gpus_round_stochastically_to_the_same_bits() -> None:
    rng = np.random.default_rng(13)
    w, g = (rng.standard_normal(50).astype(BF16) for _ in range(2))
    key = ts.random.key(14)
    data = Build(front({"update": update}), (load("sm_80"),)).bundle()
    found = load_bundle(data, device=EmulatorDevice())["update"](w, g, key.numpy())
    np.testing.assert_array_equal(found.view(np.uint16), update(w, g, key).numpy().view(np.uint16))
