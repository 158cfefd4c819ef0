"""`ts.cond`, `ts.while_loop` and `ts.scan` at every level, with derivatives, against loops in float64 NumPy."""

from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError
from tesseracc.ir.parser import parse_module
from tesseracc.ir.printer import module_text
from tests.models.control_programs import collatz, nested, recur
from tests.models.levels import Compiled, numeric_gradient

Array = np.ndarray[Any, Any]


# Functions under test -------------------------------------------------------------------------------------------------


def recur_gradients(w: ts.Tensor["D", "D", ts.f32], h: ts.Tensor["B", "D", ts.f32],
                    x: ts.Tensor["T", "B", "D", ts.f32]):
    def loss(w, h, x):
        last, ys = ts.scan(lambda s, row: (ts.tanh(s @ w + row), s * row), h, x, reverse=True)
        return ts.sum(last) + ts.sum(ys * ys)

    return ts.value_and_grad(loss, argnums=(0, 1, 2))(w, h, x)


def choose(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    def pick(x, y):
        big = ts.sum(x) > ts.sum(y)
        return ts.cond(big, lambda a: (a * y, ts.max(a)), lambda a: (ts.exp(a), ts.sum(y)), x)

    def loss(x, y):
        a, b = pick(x, y)
        return ts.sum(a) + b

    return (*pick(x, y), *ts.grad(loss, argnums=(0, 1))(x, y))


def counted(x: ts.Tensor["N", ts.f32], n: ts.Tensor["K", ts.u8]):
    return ts.scan(lambda s, _: (s * 0.5 + x, None), x, length=n.shape[0])[0]


def moved(x: ts.Tensor["N", ts.f32], t: ts.Tensor["N", ts.f32]):
    def f(x):
        y = ts.while_loop(lambda v: ts.sum(v * v) < 50.0, lambda v: v * 1.5 + x, x)
        return ts.cond(ts.sum(x) > 0, lambda: y, lambda: y * y)

    return ts.jvp(f, (x,), (t,))


@cache
def compiled() -> Compiled:
    return Compiled(recur, recur_gradients, choose, collatz, nested, counted, moved)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return (rng.standard_normal(shape) * 0.7).astype(np.float32)


# Scan -----------------------------------------------------------------------------------------------------------------


def recur_reference(w: Array, h: Array, x: Array) -> tuple[Array, Array, Array]:
    ys = []
    for row in x:
        h = np.tanh(h @ w + row)
        ys.append(h * h)
    return h, x[:, 0], np.array(ys).reshape(x.shape)


@pytest.mark.parametrize(("t", "b", "d"), [(0, 2, 3), (1, 1, 1), (5, 2, 4)])
def test_scan(t: int, b: int, d: int) -> None:
    rng = np.random.default_rng(t)
    args = normal(rng, d, d), normal(rng, b, d), normal(rng, t, b, d)
    compiled().check("recur", args, recur_reference(*(a.astype(np.float64) for a in args)))


def reversed_loss(w: Array, h: Array, x: Array) -> float:
    total = 0.0
    for row in x[::-1]:
        total += float(((h * row) ** 2).sum())
        h = np.tanh(h @ w + row)
    return total + float(h.sum())


@pytest.mark.parametrize("t", [0, 1, 4])
def test_scan_has_a_reverse_derivative(t: int) -> None:
    rng = np.random.default_rng(t)
    args = normal(rng, 3, 3), normal(rng, 2, 3), normal(rng, t, 2, 3)
    wide = [a.astype(np.float64) for a in args]
    want = [numeric_gradient(lambda _: reversed_loss(*wide), a) for a in wide]
    compiled().check("recur_gradients", args, (np.asarray(reversed_loss(*wide)), want), 1e-4)


def test_scan_of_second_order() -> None:
    """The gradient of a scan's gradient, eagerly, against differences of the gradient."""
    rng = np.random.default_rng(9)
    w, x = rng.standard_normal(3), rng.standard_normal((4, 3))

    def loss(w: Any) -> Any:
        return ts.sum(ts.scan(lambda s, row: (ts.sin(s * w + row), s), ts.tensor(x[0]), ts.tensor(x))[1] ** 2)

    slope = ts.grad(loss, argnums=0)
    second = ts.grad(lambda w: ts.sum(slope(w) * slope(w)), argnums=0)(ts.tensor(w)).numpy()
    want = numeric_gradient(lambda w: float((slope(ts.tensor(w)).numpy() ** 2).sum()), w.copy())
    np.testing.assert_allclose(second, want, rtol=1e-5, atol=1e-6)


def test_scan_by_length() -> None:
    x = normal(np.random.default_rng(4), 6)
    for count in (0, 1, 7):
        want = x.astype(np.float64)
        for _ in range(count):
            want = want * 0.5 + x
        compiled().check("counted", (x, np.zeros(count, np.uint8)), want)


def test_nested_control() -> None:
    rng = np.random.default_rng(6)
    x, limit = normal(rng, 6, 4), np.float32(11.0)
    a, b, rows = np.zeros(4), np.ones(4), []
    assert (x.sum(1) > 0).any() and (x.sum(1) < 0).any()
    for row in x.astype(np.float64):
        if row.sum() > 0:
            while row.sum() < limit:
                row = row * 2.0
        else:
            row = row - a
        rows.append(row)
        a, b = b, a + row
    compiled().check("nested", (x, limit), ((a, b, np.asarray(6)), (np.array(rows), np.arange(6))))


# While and cond -------------------------------------------------------------------------------------------------------


def test_while() -> None:
    for n in ([1], [6, 7, 1, 27], []):
        count, m = 0, np.array(n, np.int64)
        while np.any(m != 1):
            m, count = np.where(m == 1, m, np.where(m % 2 == 1, 3 * m + 1, m // 2)), count + 1
        compiled().check("collatz", (np.array(n, np.int64),), (np.asarray(count), m))


@pytest.mark.parametrize("bigger", [True, False])
def test_cond_and_its_derivatives(bigger: bool) -> None:
    rng = np.random.default_rng(bigger)
    x, y = normal(rng, 5), normal(rng, 5)
    if (x.sum() > y.sum()) != bigger:
        x, y = y, x
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    if bigger:
        slope = (y64 + (x64 == x64.max()), x64)
        want = (x64 * y64, x64.max(), *slope)
    else:
        want = (np.exp(x64), y64.sum(), np.exp(x64), np.ones(5))
    compiled().check("choose", (x, y), want)


def test_forward_derivatives() -> None:
    rng = np.random.default_rng(2)
    x, t = np.abs(normal(rng, 4)), normal(rng, 4)

    def f(x: Array) -> Array:
        y = x
        while (y * y).sum() < 50.0:
            y = y * 1.5 + x
        return y if x.sum() > 0 else y * y

    wide, step = x.astype(np.float64), 1e-6
    slope = (f(wide + step * t) - f(wide - step * t)) / (2 * step)
    compiled().check("moved", (x, t), (f(wide), slope), 1e-4)


def test_python_decides_a_python_bool() -> None:
    assert ts.cond(True, lambda: 1, lambda: 2) == 1


# Form -----------------------------------------------------------------------------------------------------------------


def test_text_reads_back_at_every_level() -> None:
    build = compiled().build
    for module in (compiled().module, build.graph, build.schedule, build.tile(build.archs[0])):
        text = module_text(module)
        assert module_text(parse_module(text)) == text
    assert "graph.scan" in module_text(build.graph) and "tile.branch" in module_text(build.tile(build.archs[0]))


def test_same_bits_on_one_and_two_threads() -> None:
    rng = np.random.default_rng(1)
    args = normal(rng, 40, 40), normal(rng, 30, 40), normal(rng, 3, 30, 40)
    one = compiled().on_threads(1)["recur_gradients"](*args)
    for a, b in zip(one, compiled().native["recur_gradients"](*args), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(("call", "code", "words"), [
    (lambda x: ts.cond(x, lambda: 1, lambda: 2), "E303", "bool scalar"),
    (lambda x: ts.cond(x[0] > 0, lambda: x, lambda: x[0]), "E317", "branches"),
    (lambda x: ts.while_loop(lambda s: s > 0, lambda s: s, x), "E317", "test"),
    (lambda x: ts.while_loop(lambda s: s[0] > 0, lambda s: s[:1], x), "E317", "state"),
    (lambda x: ts.scan(lambda s, r: (s, r, r), x, x), "E317", "pair"),
    (lambda x: ts.scan(lambda s, r: (s + r.astype(ts.f64), r), x[0], x), "E317", "f64"),
    (lambda x: ts.scan(lambda s, r: (s, r), x, (x, x[1:])), "E302", "rows"),
    (lambda x: ts.scan(lambda s, _: (s, None), x), "E305", "length"),
    (lambda x: ts.scan(lambda s, r: (s, r), x, x[0]), "E304", "first axis"),
    (lambda x: ts.grad(lambda v: ts.sum(ts.while_loop(lambda s: s[0] < 9.0, lambda s: s * 2.0, v)))(x), "E313",
     "while_loop"),
    (lambda x: ts.scan(lambda s, r: (s if r > 0 else -s, r), x[0], x), "E309", "while tracing"),
])  # fmt: skip
def test_misuse(call: Any, code: str, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        call(ts.tensor([1.0, 2.0, 3.0]))
    assert caught.value.code == code


def test_a_region_sees_nothing_of_the_outside() -> None:
    from tessera_runtime.core.errors import TesseraError
    from tesseracc.ir.verify import verify

    text = """graph.func @f(%x: tensor<f32[N]>, %p: tensor<bool[]>) -> (tensor<f32[N]>) {
      %0 = graph.cond %p, [%x] (%a: tensor<f32[N]>) {
        yield %a
      } (%b: tensor<f32[N]>) {
        yield %b
      } : tensor<f32[N]>
      yield %0
    }"""
    verify(parse_module(text))
    with pytest.raises(TesseraError, match="E404"):
        verify(parse_module(text.replace("yield %b", "yield %x")))
