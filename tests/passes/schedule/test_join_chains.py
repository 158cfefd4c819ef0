"""Long chains of operators are cut where the fewest values cross, and what is cut computes what one group would."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tessera as ts
from tesseracc.driver import front
from tesseracc.interpret import graph, schedule
from tesseracc.ir.value import Op
from tesseracc.passes.schedule import join_chains, tidy
from tesseracc.passes.schedule.groups import tensors_read
from tesseracc.passes.schedule.join_chains import MOST_RESULTS, MOST_WORK, pieces, work_of
from tests.passes.programs import fused, groups, passes, scheduled

X = ts.Tensor["N", ts.f32]


def one(x: X):
    """One value crosses everywhere."""
    y = x
    for i in range(400):
        y = y * (1.0 + i / 400) + x
    return y


def two(x: X):
    """Two values follow each other; three are there within a step."""
    a, b = x, x * 2.0
    for _ in range(150):
        a, b = a * 0.7 + b, b * 0.5 - a * 0.1
    return a, b


def told(x: X):
    """Every value is a result."""
    found = []
    for i in range(60):
        x = x * 0.9 + float(i)
        found.append(x)
    return found


def summed(x: X):
    """Sums over what the chain makes go into it again: it is none from there on."""
    y = x
    for i in range(10):
        for _ in range(20):
            y = ts.maximum(y * 0.9, x - float(i))
        y = y + ts.sum(y) * 1e-4
    return y


def behind(x: X):
    """What reads the chain otherwise than point by point stands between its parts."""
    y, flipped = x, x
    for i in range(400):
        y = y * 0.99 + float(i % 3)
        if i == 200:
            flipped = ts.flip(y)
    return y, flipped * y


def product(x: X):
    """A chain ends in a product, which computes none of it for each of its elements."""
    y = x
    for i in range(150):
        y = y * 0.9 + float(i % 5)
    return y[:, None] @ y[None, :]


CHAINS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (one, two, told, summed, behind, product)}


def outcomes(function: Callable[..., Any], size: int) -> tuple[list[Op], list[np.ndarray], list[np.ndarray]]:
    """The groups after all passes of the level, what they compute, and what the graph does."""
    module = front({function.__name__: ts.function(function)})
    done = fused(scheduled(module))
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    found = schedule.run(done, function.__name__, [x])
    return groups(done), found, graph.run(module, function.__name__, [x])


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_parts_compute_what_the_chain_does(name: str) -> None:
    made, found, expected = outcomes(CHAINS[name], 37)
    assert all(work_of(group) <= MOST_WORK and len(group.results) <= MOST_RESULTS for group in made)
    for got, want in zip(found, expected, strict=True):
        if name in ("summed", "product"):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
        else:
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("name", "crossing"), [("one", 1), ("two", 2), ("behind", 2)])
def test_few_values_cross(name: str, crossing: int) -> None:
    made, *_ = outcomes(CHAINS[name], 3)
    assert len(made) >= 2 and all(len(group.results) <= crossing for group in made)
    work = sum(work_of(group) for group in made)
    assert len(made) <= 2 * work / MOST_WORK + 2


def test_results_that_are_told_stay_few_in_a_group() -> None:
    made, *_ = outcomes(told, 3)
    assert len(made) == -(-60 // MOST_RESULTS)


@pytest.mark.parametrize("name", ["one", "two", "told"])
def test_operations_are_looked_at_in_proportion(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Twice the chain, twice the operations that all passes of the level look at: none takes n^2 steps."""
    seen = []

    def count(groups: Callable[[Op], Op]) -> Callable[[Op], Op]:
        def counted(group: Op) -> Op:
            seen.append(sum(1 for _ in group.walk()))
            return groups(group)

        return counted

    monkeypatch.setattr(tidy, "share_elements", count(tidy.share_elements))

    def looked_at(steps: int) -> int:
        def chain(x: X):
            a, b, found = x, x, []
            for i in range(steps):
                a, b = a * 0.5 + float(i), b * 0.9 - a if name == "two" else b
                found.append(a)
            return found if name == "told" else (a, b)

        seen.clear()
        fused(scheduled(front({"chain": ts.function(chain)})))
        return sum(seen)

    few, many = looked_at(110), looked_at(220)
    assert many < 2.2 * few


def test_thousands_of_operators_in_no_deep_recursion() -> None:
    def endless(x: X):
        for _ in range(1500):
            x = x * 1.5
        return x

    done = passes(scheduled(front({"endless": ts.function(endless)})), "join-chains,fuse")
    made = groups(done)
    assert sum(map(work_of, made)) == 1500 and len(made) <= 2 * 1500 // MOST_WORK
    for before, after in pairwise(made):
        assert before.result in tensors_read(after)


@given(st.data())
def test_pieces_are_of_bounded_size_and_end_where_little_crosses(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 60))
    work = data.draw(st.lists(st.integers(0, 200), min_size=count, max_size=count))
    last = [data.draw(st.integers(i, count - 1)) for i in range(count)]
    outside = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    found = list(pieces(work, last, outside))
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])] and found[-1][1] == count

    def results(start: int, end: int) -> int:
        return sum(outside[i] or last[i] >= end for i in range(start, end))

    def crossing(end: int) -> int:
        return sum(last[i] >= end for i in range(end))

    for start, end in found:
        assert end > start
        assert end == start + 1 or (sum(work[start:end]) <= MOST_WORK and results(start, end) <= MOST_RESULTS)
        others = [other for other in range(start + 1, count + 1)
                  if sum(work[start:other]) <= MOST_WORK and results(start, other) <= MOST_RESULTS]  # fmt: skip
        if end < count and others:
            long = [other for other in others if 2 * sum(work[start:other]) >= MOST_WORK]
            assert crossing(end) == min(map(crossing, long)) if long else end == others[-1]


def test_many_parts_of_one_tensor_go_into_it_at_once() -> None:
    def stacked(x: X):
        return ts.stack([x * float(i) for i in range(join_chains.SHORT + 9)])

    made, (found,), (expected,) = outcomes(stacked, 5)
    np.testing.assert_array_equal(found, expected)
    assert len(made) <= 2 + (join_chains.SHORT + 9) // MOST_RESULTS
