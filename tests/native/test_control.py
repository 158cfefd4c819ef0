"""Branches and loops in compiled plans: values of eager execution, bits of the runtime."""

from pathlib import Path

import numpy as np
import pytest

import tessera as ts
import tessera_runtime
from tessera.pytree import flatten
from tests.models.control_programs import collatz, nested, recur
from tests.native.called import Called


@ts.function
def backwards(h: ts.Tensor["D", ts.f32], x: ts.Tensor["T", "D", ts.f32]):
    return ts.scan(lambda s, row: (0.5 * s + row, s * row), h, x, reverse=True)


@ts.function
def choose(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    big = ts.sum(x) > ts.sum(y)
    return ts.cond(big, lambda a: (a * y, ts.max(a)), lambda a: (ts.exp(a), ts.sum(y)), x)


ENTRIES = {f.name: f for f in (backwards, choose, *map(ts.function, (recur, collatz, nested)))}


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Called:
    return Called(tmp_path_factory.mktemp("native"), ENTRIES)


@pytest.fixture(scope="module")
def bundle(called: Called) -> tessera_runtime.Bundle:
    return tessera_runtime.load(called.build.bundle(), threads=1)


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape).astype(np.float32)


def check(called: Called, bundle: tessera_runtime.Bundle, name: str, inputs: dict, **sizes: int) -> None:
    code, results = called(name, inputs, **sizes)
    assert code == 0
    expected = flatten(ENTRIES[name](*inputs.values()))[0]
    theirs = bundle[name](**inputs)
    for mine, other, eager in zip(
        results.values(), theirs if isinstance(theirs, tuple) else (theirs,), expected, strict=True
    ):
        np.testing.assert_array_equal(mine, other)
        np.testing.assert_allclose(mine, eager.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_scans(called: Called, bundle: tessera_runtime.Bundle, steps: int) -> None:
    w, h, x = rand(5, 5), rand(3, 5), rand(steps, 3, 5)
    check(called, bundle, "recur", {"w": w, "h": h, "x": x}, D=5, B=3, T=steps)
    _, results = called("recur", {"w": w, "h": h, "x": x}, D=5, B=3, T=steps)
    state = h.astype(np.float64)
    for row in x:
        state = np.tanh(state @ w.astype(np.float64) + row)
    np.testing.assert_allclose(next(iter(results.values())), state, rtol=0, atol=1e-5)
    h, x = rand(7), rand(steps, 7)
    check(called, bundle, "backwards", {"h": h, "x": x}, D=7, T=steps)
    _, results = called("backwards", {"h": h, "x": x}, D=7, T=steps)
    last, rows = results.values()
    state, products = h.astype(np.float64), np.zeros((steps, 7))
    for i in reversed(range(steps)):
        products[i] = state * x[i]
        state = 0.5 * state + x[i]
    np.testing.assert_allclose(last, state, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows, products, rtol=1e-5, atol=1e-6)


def test_branches_and_loops_over_values(called: Called, bundle: tessera_runtime.Bundle) -> None:
    x, y = rand(40), rand(41)[:40].copy()
    for a, b in ((x, y), (x - 5, y), (x + 5, y)):
        a = a.astype(np.float32)
        check(called, bundle, "choose", {"x": a, "y": b}, N=40)
        _, results = called("choose", {"x": a, "y": b}, N=40)
        first, second = results.values()
        wide = a.astype(np.float64)
        expected = (wide * b, wide.max()) if wide.sum() > b.sum() else (np.exp(wide), b.astype(np.float64).sum())
        np.testing.assert_allclose(first, expected[0], rtol=1e-5)
        np.testing.assert_allclose(second, expected[1], rtol=1e-4)
    numbers = np.array([1, 7, 27, 6], np.int64)
    check(called, bundle, "collatz", {"n": numbers}, N=4)
    _, results = called("collatz", {"n": numbers}, N=4)
    count, ones = results.values()
    assert int(count) == 111 and ones.tolist() == [1, 1, 1, 1]  # 27 takes 111 steps


def test_loops_in_branches_in_loops(called: Called, bundle: tessera_runtime.Bundle) -> None:
    for steps in (1, 5):
        x = rand(steps, 6)
        check(called, bundle, "nested", {"x": x, "limit": np.array(20.0, np.float32)}, T=steps, N=6)


def test_a_library_with_loops_needs_nothing(called: Called, tmp_path: Path) -> None:
    from tessera_runtime.devices.elf import read_symbols

    assert "m_nested" in read_symbols(called.made.image, "x86-64")
    assert called("recur", {"w": rand(5, 5), "h": rand(3, 5), "x": rand(2, 3, 5)}, D=5, B=3, T=2, short=1)[0] == 3


@ts.function
def usual(x: ts.Tensor["B", ts.dim("S", min=1, max=64, multiple_of=8), "D", ts.f32], w: ts.Tensor["D", "D", ts.f32]):
    y = ts.softmax(x @ w)
    return {"y": y, "total": ts.sum(y, axis=1)}


def test_code_for_usual_sizes(tmp_path: Path) -> None:
    """Sizes that a variant is for, and others, for which its sizes would be wrong."""
    called = Called(tmp_path, {"usual": usual}, variants=[{"B": 1, "S": 5}, {"D": 4}])
    general = Called(tmp_path, {"usual": usual}, stem="g")
    assert len(called.build.target(called.build.archs[0]).of_kind("target.func")) > 2
    bundle = tessera_runtime.load(called.build.bundle(), threads=1)
    for b, s, d in ((1, 5, 3), (2, 8, 3), (2, 16, 4), (2, 7, 5), (1, 5, 4), (0, 8, 2), (1, 72, 4), (1, 64, 4)):
        x, w = rand(b, s, d), rand(d, d)
        sizes = {"B": b, "S": s, "D": d}
        code, results = called("usual", {"x": x, "w": w}, **sizes)
        assert code == 0, called.message(code)
        wide = np.exp(x.astype(np.float64) @ w)
        wide /= wide.sum(-1, keepdims=True)
        np.testing.assert_allclose(results["y"], wide, rtol=0, atol=1e-6)
        np.testing.assert_allclose(results["total"], wide.sum(1), rtol=0, atol=1e-4)
        found = dict(zip(bundle["usual"].outputs, bundle["usual"](x, w), strict=True))
        for name, array in results.items():
            np.testing.assert_array_equal(array, found[name])
        assert general("usual", {"x": x, "w": w}, **sizes)[0] == 0
    assert called.workspace("usual", B=1, S=1 << 61, D=3) == -2
