"""Derivatives and batches of control flow: vmap is the loop, rules of the user's own count in bodies, bounded loops
have gradients. Against NumPy loops and central differences in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tests.models.levels import Compiled, numeric_gradient

Array = np.ndarray[Any, Any]


def stacked(f: Callable[..., Any], axes: tuple[Any, ...], *args: Array) -> Any:
    """f for each example, the results stacked."""
    size = next(len(a) for a, axis in zip(args, axes, strict=True) if axis == 0)
    found = [f(*(a[i] if axis == 0 else a for a, axis in zip(args, axes, strict=True))) for i in range(size)]
    parts = zip(*(one if isinstance(one, tuple) else (one,) for one in found), strict=True)
    return [np.stack([np.asarray(x) for x in part]) for part in parts]


def check_vmap(f: Callable[..., Any], axes: tuple[Any, ...], *args: Array) -> None:
    got = ts.vmap(f, axes)(*args)
    for a, b in zip(got if isinstance(got, tuple) else (got,), stacked(f, axes, *args), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-12, atol=1e-12)


# Batches --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0)])
def test_scan_in_vmap(axes: tuple[Any, ...]) -> None:
    """A state that only becomes one for each example after two steps: a from w, b from a, the count never."""
    rng = np.random.default_rng(sum(a is not None for a in axes))
    shapes = ((3,), (4, 3), (3,))
    w, rows, start = (rng.standard_normal((5, *s) if axis == 0 else s) for s, axis in zip(shapes, axes, strict=True))

    def f(w: Any, rows: Any, start: Any) -> Any:
        def step(state: Any, row: Any) -> Any:
            a, b, i = state
            return (ts.sin(a + w), b + a + start, i + 1), (row * 2.0, b, i)

        (a, b, i), ys = ts.scan(step, (ts.zeros(3, dtype=ts.f64), ts.ones(3, dtype=ts.f64), 0), rows, reverse=True)
        return (a, b, i, *ys)

    check_vmap(f, axes, w, rows, start)


def test_cond_in_vmap() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal(3)

    def each(x: Any, y: Any) -> Any:
        return ts.cond(ts.sum(x) > 0, lambda v: (v * y, ts.max(v)), lambda v: (y, ts.sum(v)), x)

    def shared(x: Any, y: Any) -> Any:
        return ts.cond(ts.sum(y) > 0, lambda v: (v * y, ts.max(v)), lambda v: (y, ts.sum(v)), x)

    assert (x.sum(1) > 0).any() and (x.sum(1) < 0).any()
    check_vmap(each, (0, None), x, y)
    check_vmap(shared, (0, None), x, y)
    check_vmap(shared, (0, None), x, -y)


def test_while_in_vmap() -> None:
    """Examples stop at different steps, or all at once."""
    rng = np.random.default_rng(6)
    x, most = rng.uniform(0.5, 2.0, (5, 2)), np.array([1.0, 50.0, 3.0, 9.0, 0.0])

    def f(x: Any, most: Any) -> Any:
        v, count, total = ts.while_loop(lambda s: ts.sum(s[0]) < most, lambda s: (s[0] * 1.5, s[1] + 1, s[2] + x[0]),
                                        (x, 0, ts.zeros((), dtype=ts.f64)))
        return v, count, total

    check_vmap(f, (0, 0), x, most)
    check_vmap(f, (None, 0), x[0], most)
    check_vmap(lambda x, n: ts.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] * x), (0, ts.ones(2)))[1],
               (0, None), x.astype(np.float32), np.array(4))  # fmt: skip


# Rules of the user's own ----------------------------------------------------------------------------------------------


def odd_square() -> Any:
    """x^2 * scale, whose rule says 7 scale x instead of 2 scale x."""

    @ts.custom_vjp
    def f(x: Any, scale: Any) -> Any:
        return x * x * scale

    f.defvjp(lambda x, scale: (f(x, scale), {"x": x, "scale": scale, "factor": 7.0}),
             lambda saved, ct: (ct * saved["x"] * saved["factor"] * saved["scale"], None))
    return f


def odd_sine() -> Any:
    """sin x, whose rule says 3 cos x."""

    @ts.custom_jvp
    def f(x: Any) -> Any:
        return ts.sin(x)

    @f.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (x,), (t,) = primals, tangents
        return f(x), 3.0 * ts.cos(x) * t

    return f


def test_rules_count_in_scans() -> None:
    square, x = odd_square(), np.random.default_rng(1).standard_normal((4, 3))

    def total(rows: Any) -> Any:
        last, ys = ts.scan(lambda s, row: (s + square(row, 2.0), square(s, 1.0)), ts.zeros(3, dtype=ts.f64), rows)
        return ts.sum(last) + ts.sum(ys)

    states = np.cumsum(2 * x * x, 0) - 2 * x * x
    # d total / d state_i: 1 from the last state or the steps between, and 7 state_i from its own y
    later = 1.0 + np.cumsum((7 * states)[::-1], 0)[::-1] - 7 * states
    want = later * 7 * 2 * x
    np.testing.assert_allclose(ts.grad(total, argnums=0)(x).numpy(), want, rtol=1e-12)
    direction = np.random.default_rng(2).standard_normal(x.shape)
    _, moved = ts.jvp(total, (x,), (direction,))
    np.testing.assert_allclose(moved.numpy(), (want * direction).sum(), rtol=1e-12)
    # the value itself, and the rule's own derivative: 7 (2 x) is 14, where x^2 alone would give 2
    np.testing.assert_allclose(total(x).numpy(), ((states + 2 * x * x)[-1] + (states**2).sum(0)).sum(), rtol=1e-12)


def test_rules_count_in_branches_and_loops() -> None:
    square, sine = odd_square(), odd_sine()
    x = np.array([0.3, -0.4])

    def branch(x: Any) -> Any:
        return ts.sum(ts.cond(ts.sum(x) > 0, lambda v: square(v, 1.0), lambda v: sine(v), x))

    np.testing.assert_allclose(ts.grad(branch, argnums=0)(x).numpy(), 3 * np.cos(x))
    np.testing.assert_allclose(ts.grad(branch, argnums=0)(-x).numpy(), 7 * -x)

    def loop(x: Any) -> Any:
        return ts.sum(ts.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, sine(s[1])), (0, x), max_steps=5)[1])

    want = 9 * np.cos(np.sin(x)) * np.cos(x)
    np.testing.assert_allclose(ts.grad(loop, argnums=0)(x).numpy(), want)
    _, moved = ts.jvp(loop, (x,), (np.ones(2),))
    np.testing.assert_allclose(moved.numpy(), want.sum())


def test_rules_take_tensors_from_outside_and_batches() -> None:
    """A rule that refers to a tensor of the place where it was written, in a scan, for each example of a batch."""
    w, x = np.array([2.0, 3.0]), np.random.default_rng(3).standard_normal((5, 4, 2))

    def total(w: Any, rows: Any) -> Any:
        @ts.custom_vjp
        def scaled(v: Any) -> Any:
            return v * w

        scaled.defvjp(lambda v: (v * w, None), lambda saved, ct: 10.0 * ct * w)
        return ts.sum(ts.scan(lambda s, row: (s + scaled(row), None), ts.zeros(2, dtype=ts.f64), rows)[0])

    got = ts.vmap(ts.grad(total, argnums=(0, 1)), (None, 0))(w, x)
    np.testing.assert_array_equal(got[0].numpy(), np.zeros((5, 2)))
    np.testing.assert_allclose(got[1].numpy(), np.broadcast_to(10 * w, x.shape))
    np.testing.assert_allclose(ts.grad(lambda x: ts.sum(ts.vmap(total, (None, 0))(w, x)))(x).numpy(),
                               np.broadcast_to(10 * w, x.shape))


# Bounded loops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0, 2, 30])
def test_a_bounded_loop_has_a_gradient(most: int) -> None:
    rng = np.random.default_rng(most)
    x, w = np.abs(rng.standard_normal(3)) + 0.1, rng.uniform(1.1, 1.4, 3)

    def reference(x: Array, w: Array) -> Array:
        v, count = x.copy(), 0
        while (v * v).sum() < 40.0 and count < most:
            v, count = v * w + x, count + 1
        return v

    def bounded(x: Any, w: Any) -> Any:
        return ts.while_loop(lambda v: ts.sum(v * v) < 40.0, lambda v: v * w + x, x, max_steps=most)

    np.testing.assert_allclose(bounded(ts.tensor(x), ts.tensor(w)).numpy(), reference(x, w), rtol=1e-14)
    got = ts.grad(lambda x, w: ts.sum(ts.sin(bounded(x, w))), argnums=(0, 1))(x, w)
    for a, g in zip((x, w), got, strict=True):
        want = numeric_gradient(lambda _: float(np.sin(reference(x, w)).sum()), a)
        np.testing.assert_allclose(g.numpy(), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("test", "most", "code", "words"), [
    (lambda s: s, 3, "E317", "test of while_loop"), (lambda s: (s > 0, s > 0), None, "E317", "test of while_loop"),
    (lambda s: s > 0, -1, "E305", "max_steps=-1"), (lambda s: s > 0, 1.5, "E305", "not a size"),
])  # fmt: skip
def test_misuse_of_loops(test: Any, most: Any, code: str, words: str) -> None:
    with pytest.raises(ts.SourceError, match=words) as caught:
        ts.while_loop(test, lambda s: s - 1.0, ts.zeros(()), max_steps=most)
    assert caught.value.code == code


# All of it, compiled --------------------------------------------------------------------------------------------------


def settle(w: ts.Tensor["D", "D", ts.f32], x: ts.Tensor["B", "T", "D", ts.f32]):
    """Per example: a scan over rows, whose steps branch on data and then iterate a bounded loop."""

    def one(w: Any, rows: Any) -> Any:
        def step(state: Any, row: Any) -> Any:
            state = ts.cond(ts.sum(row) > 0, lambda s: ts.tanh(s @ w + row), lambda s: s * 0.5 + row, state)
            state = ts.while_loop(lambda s: ts.sum(s * s) > 1.0, lambda s: s * 0.75, state, max_steps=8)
            return state, ts.sum(state)

        last, sums = ts.scan(step, ts.zeros(rows.shape[1]), rows)
        return ts.sum(last * last) + ts.sum(sums)

    value, gradient = ts.vmap(ts.value_and_grad(one, argnums=0), (None, 0))(w, x)
    return value, ts.sum(gradient, 0)


def settle_reference(w: Array, x: Array) -> Array:
    totals = []
    for rows in x:
        state, total = np.zeros(len(w)), 0.0
        for row in rows:
            state = np.tanh(state @ w + row) if row.sum() > 0 else state * 0.5 + row
            count = 0
            while (state * state).sum() > 1.0 and count < 8:
                state, count = state * 0.75, count + 1
            total += state.sum()
        totals.append((state * state).sum() + total)
    return np.array(totals)


def test_control_in_vmap_of_grad_at_every_level() -> None:
    rng = np.random.default_rng(8)
    w, x = rng.standard_normal((3, 3)).astype(np.float32), rng.standard_normal((4, 3, 3)).astype(np.float32)
    wide, rows = w.astype(np.float64), x.astype(np.float64)
    slope = numeric_gradient(lambda w: float(settle_reference(w, rows).sum()), wide)
    Compiled(settle).check("settle", (w, x), (settle_reference(wide, rows), slope), 1e-4)
