"""Groups that read the same elements are one, with the results that they had apart."""

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tesseracc.driver import front
from tesseracc.interpret import schedule
from tesseracc.ir.value import Module
from tests.passes.programs import groups, passes, scheduled


def both(function: Any) -> tuple[Module, Module]:
    """The module before and after the pass."""
    before = passes(scheduled(front({function.name: function})), "fuse")
    return before, passes(before, "fuse-siblings")


def pointwise(x: ts.Tensor["N", "M", ts.f32], y: ts.Tensor["N", "M", ts.f32], w: ts.Tensor["M", ts.f32]):
    return ts.exp(x) * w, ts.tanh(x + y), ts.sin(x)


def by_rows(x: ts.Tensor["N", "M", ts.f32]):
    return ts.sum(x, 1), ts.argmax(x, axis=1), ts.softmax(x)


def other_points(x: ts.Tensor["N", "M", ts.f32], w: ts.Tensor["M", ts.f32]):
    return ts.exp(w), ts.exp(x) * ts.log1p(x * x)


def products(x: ts.Tensor["N", "M", ts.f32], w: ts.Tensor["M", "M", ts.f32]):
    return x @ w, ts.exp(x) * ts.sin(x)


def columns(x: ts.Tensor["N", "M", ts.f32]):
    return ts.sum(x, 0), ts.max(x, 0)


def in_turn(x: ts.Tensor["N", ts.f32]):
    y = ts.sum(x)
    return y, ts.tanh(x) * y, ts.cos(x) - y


SHAPES = {"x": ("N", "M"), "y": ("N", "M"), "w": ("M",)}


@pytest.mark.parametrize(
    ("function", "counts"),
    [(pointwise, (3, 1)), (by_rows, (3, 1)), (other_points, (2, 2)), (products, (2, 2)), (columns, (2, 2)),
     (in_turn, (3, 2))],
    ids=lambda v: getattr(v, "__name__", None),
)  # fmt: skip
def test_groups_and_values(function: Any, counts: tuple[int, int]) -> None:
    modules = both(ts.function(function))
    assert tuple(len(groups(m)) for m in modules) == counts
    rng = np.random.default_rng(len(function.__name__))
    for n, m in ((1, 1), (3, 5), (20, 31)):
        arrays = [
            rng.standard_normal((n, m)[: len(p.type.dims)] if p.name != "w" or len(p.type.dims) == 2 else (m,))
            for p in modules[0].funcs[0].params
        ]
        if function is products:
            arrays[1] = rng.standard_normal((m, m))
        arrays = [a.astype(np.float32) for a in arrays]
        before, after = (schedule.run(module, function.__name__, arrays) for module in modules)
        for a, b in zip(after, before, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_arena_does_not_grow() -> None:
    """A new temporary may lie where one was that ends before it."""

    @ts.function
    def f(x: ts.Tensor["N", "M", ts.f32], w: ts.Tensor["M", "M", ts.f32]):
        a, b = x @ w, w @ w
        c = ts.sum(ts.exp(a) + x, 1)  # a ends
        d = ts.exp(x) * 2.0 + ts.sin(x)  # new
        return c, d @ b

    before, after = (len(groups(m)) for m in both(f))
    assert before == after
