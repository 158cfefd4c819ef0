"""Fusion of functions: what a product of one row takes along, and numbers that are computed."""

import numpy as np

import tessera as ts
from tesseracc.driver import front
from tesseracc.interpret.schedule import run
from tesseracc.passes.schedule.groups import tensors_read
from tests.passes.programs import groups, passes, scheduled


def random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def test_a_product_of_one_row_takes_what_follows() -> None:
    """It runs as a sum, whose group goes on with the scale, the bias and the function."""

    @ts.function
    def f(x: ts.Tensor[1, "K", ts.f32], w: ts.Tensor["K", "N", ts.f32], b: ts.Tensor["N", ts.f32]):
        return ts.tanh((x @ w) * 0.5 + b)

    before = scheduled(front({"f": f}))
    done = passes(before, "fuse")
    assert len(groups(done)) == 1
    inputs = [random((1, 9)), random((9, 5), 1), random((5,), 2)]
    for got, expected in zip(run(done, "f", inputs), run(before, "f", inputs), strict=True):
        assert np.array_equal(got, expected)


def test_attention_of_one_query_is_four_groups() -> None:
    """Scores with their scale, weights, their sums, and the result: the scale is no group, and no pass over scores."""

    @ts.function
    def f(
        q: ts.Tensor["B", 4, 1, 16, ts.f32], k: ts.Tensor["B", 4, "T", 16, ts.f32], v: ts.Tensor["B", 4, "T", 8, ts.f32]
    ):
        return ts.nn.scaled_dot_product_attention(q, k, v)

    before = scheduled(front({"f": f}))
    done = passes(before, "fuse")
    assert len(groups(done)) == 4
    inputs = [random((2, 4, 1, 16)), random((2, 4, 7, 16), 1), random((2, 4, 7, 8), 2)]
    for got, expected in zip(run(done, "f", inputs), run(before, "f", inputs), strict=True):
        assert np.array_equal(got, expected)


def test_numbers_that_are_computed_are_constants_of_their_readers() -> None:
    """1 / sqrt(9) is no group of its own, nor read by the one that makes a product's elements."""

    @ts.function
    def f(x: ts.Tensor["M", "K", ts.f32], w: ts.Tensor["K", "N", ts.f32]):
        return (x @ w) * ts.rsqrt(ts.cast(ts.full((), 9), ts.f32))

    (group,) = groups(passes(scheduled(front({"f": f})), "fuse"))
    assert len(tensors_read(group)) == 2
