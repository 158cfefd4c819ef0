"""What kernels mean: the evaluator against NumPy; Tile IR, native code and emulated PTX against the evaluator."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tessera.kernel import evaluate
from tesseracc.frontend.kernel import lower
from tesseracc.interpret.tile import run
from tesseracc.ir.parser import parse_module
from tesseracc.ir.printer import module_text
from tesseracc.ir.verify import verify
from tests.kernel import kernels as K
from tests.kernel.compiled import compiled

SIZES = (0, 1, 31, 128, 129, 300)
Arrays = list[Any]


def check(kernel: Any, args: Arrays, exact: bool = True) -> Any:
    """Evaluates on copies, compares with the Tile interpreter, and returns (arguments after the call, result)."""
    mine = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    result = evaluate(kernel.definition, mine)
    module = lower(kernel.definition)
    text = module_text(module)
    assert module_text(verify(parse_module(text))) == text
    constants = [p.constant for p in kernel.definition.params]
    theirs = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    given = [a for a, constant in zip(theirs, constants, strict=False) if not constant]
    params = module.func(kernel.name).params
    given += [p.default for p in kernel.definition.params[len(args) :] if not p.constant]
    assert len(given) == len(params)
    outs = run(module, kernel.name, given)
    for a, b in zip(mine, theirs, strict=True):
        same(a, b, exact)
    flat = result if isinstance(result, tuple) else () if result is None else (result,)
    for a, b in zip(flat, outs, strict=False):
        same(a, b, exact)
    for function in compiled(kernel):
        fresh = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
        given = [a for a, constant in zip(fresh, constants, strict=False) if not constant]
        given += [p.default for p in kernel.definition.params[len(args) :] if not p.constant]
        found = function(*given)
        for a, b in zip(mine, fresh, strict=True):
            same(a, b, exact)
        for a, b in zip(flat, found if isinstance(found, tuple) else (found,), strict=False):
            same(a, b, exact)
    return mine, result


def same(a: Any, b: Any, exact: bool) -> None:
    x, y = np.asarray(a).astype(np.float64), np.asarray(b).astype(np.float64)
    if exact:
        np.testing.assert_array_equal(x, y)
    else:
        # the machine's elementary functions are good to an ulp or two of f32 (expand_math.py), on terms up to 4
        np.testing.assert_allclose(x, y, rtol=4e-7, atol=8 * 2.0**-23)


def normal(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("n", SIZES)
def test_branches(n: int) -> None:
    x = normal(n) * 2
    (_, y), _ = check(K.branches, [x, np.zeros_like(x)])
    want = np.where(x > 1, np.float32(1), np.where(x < -1, np.float32(-2), x * np.float32(2.5)))
    np.testing.assert_array_equal(y, np.where(np.arange(n) % 2 == 0, want, -want))


@pytest.mark.parametrize("n", SIZES)
def test_helpers(n: int) -> None:
    x = normal(n) * 2
    (_, y, z), _ = check(K.helpers, [x, np.zeros_like(x), np.zeros_like(x)])
    a, b = x * np.float32(2), x + np.float32(1)
    np.testing.assert_array_equal(y, np.where(a < -1, np.float32(-1), np.where(a > b + 3, b + 3, a)))
    np.testing.assert_array_equal(z, np.clip(x, -1, 1))


@pytest.mark.parametrize("n", SIZES)
def test_guarded(n: int) -> None:
    x = np.random.default_rng(2).integers(0, 4, n).astype(np.float32)
    (_, y), _ = check(K.guarded, [x, np.zeros_like(x)])
    want = np.zeros(n)
    for i in range(n):
        if 0 < i < n - 1 and x[i - 1] < x[i] and not x[i + 1] > x[i]:
            want[i] = 1
        elif i == 0 or x[i - 1] > x[i]:
            want[i] = 2
        else:
            want[i] = x[i + 1] if i + 1 < n else 0
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("n", SIZES)
def test_unrolled_stencil(n: int) -> None:
    x = normal(n)
    (_, y), _ = check(K.stencil, [x, np.zeros_like(x)])
    wide = np.pad(x.astype(np.float64), 1)
    np.testing.assert_allclose(y, 0.25 * wide[:-2] + 0.5 * wide[1:-1] + 0.25 * wide[2:], rtol=1e-6, atol=1e-7)


def test_varying_while() -> None:
    n = np.arange(1, 200, dtype=np.int32)
    (_, steps), _ = check(K.collatz, [n, np.zeros_like(n)])

    def count(v: int) -> int:
        return 0 if v <= 1 else 1 + count(v // 2 if v % 2 == 0 else 3 * v + 1)

    np.testing.assert_array_equal(steps, [count(int(v)) for v in n])


@pytest.mark.parametrize("n", SIZES)
def test_varying_bounds(n: int) -> None:
    x = normal(n).astype(np.float64)
    (_, y), _ = check(K.triangle, [x, np.zeros_like(x)])
    np.testing.assert_allclose(y, [x[i % 2 : i + 1 : 2].sum() for i in range(n)], rtol=1e-14, atol=1e-13)


def test_mathematics() -> None:
    x = np.concatenate([normal(200) * 3, np.array([0.0, -0.0, 1.5, 2.5, -2.5, 0.75], np.float32)])
    (_, y), _ = check(K.mathematics, [x, np.zeros((len(x), 8), np.float32)], exact=False)
    v = x.astype(np.float64)
    erf = np.array([math.erf(t) for t in v])
    want = [
        np.exp(v) + np.tanh(v),
        np.sqrt(np.abs(v)) / np.sqrt(1 + v * v),
        1 / (1 + np.exp(-v)) - np.maximum(v, 0),
        v**3 + 2.0**v,
        np.floor(v / 0.75) + (v - np.floor(v / 0.75) * 0.75),
        np.maximum(v, 0.5) * np.minimum(v, -0.5) + np.maximum(v, 2.0),
        np.where(v < 0, erf, np.log1p(np.abs(v))),
        np.floor(v) + np.ceil(v) + np.rint(v) + np.trunc(v),
    ]
    np.testing.assert_allclose(y, np.stack(want, 1), rtol=3e-6, atol=2e-6)


def test_integers() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-50, 50, 200).astype(np.int32) for _ in range(2))
    a[0], b[0] = -(2**31), 3
    (_, _, y), _ = check(K.integers, [a, b, np.zeros((200, 6), np.int32)])
    safe = np.where(b == 0, 1, b)
    want = [
        np.where(b == 0, 0, a // safe),
        np.where(b == 0, 0, a % safe),
        (a & 255) | (b ^ 3),
        (a << 2) + (a >> 3),
        -np.abs(a) + ~b,
        np.minimum(np.minimum(a, b), 7) * (a > b),
    ]
    np.testing.assert_array_equal(y, np.stack(want, 1))


def test_narrow_floats_round_once() -> None:
    x = normal(257).astype(np.float16)
    args = [
        x,
        np.zeros(257, ml_dtypes.bfloat16),
        np.zeros(257, ml_dtypes.float8_e4m3fn),
        np.zeros(257, np.float32),
    ]
    (_, y, q, s), _ = check(K.narrow, args)
    v = x.astype(np.float32) * x.astype(np.float32) + np.float32(0.1)
    np.testing.assert_array_equal(y, v.astype(ml_dtypes.bfloat16))
    big = np.minimum(v * np.float32(100), np.float32(448)).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(q.astype(np.float32), big.astype(np.float32))
    np.testing.assert_array_equal(s, v - v.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 0, 130), (5, 40, 131), (0, 4, 4)])
def test_matrix(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b, c = normal(m, k), normal(k, n, seed=2), normal(m, n, seed=3)
    (_, _, after), _ = check(K.matrix, [a, b, c])
    want = c + a.astype(np.float64) @ b
    bound = np.abs(c) + np.abs(a).astype(np.float64) @ np.abs(b)
    assert np.all(np.abs(after - want) <= (k + 2) * 2.0**-24 * bound)


@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (4, 200)])
def test_group_reductions(shape: tuple[int, int]) -> None:
    x = normal(*shape) * 4
    (_, y), _ = check(K.row_softmax, [x, np.zeros_like(x)], exact=False)
    grown = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, grown / grown.sum(1, keepdims=True), rtol=2e-6)


def test_carried_value_keeps_a_loop_sequential() -> None:
    x = normal(3, 150)
    (_, y), _ = check(K.row_scan, [x, np.zeros_like(x)])
    np.testing.assert_array_equal(y, np.cumsum(x, 1, dtype=np.float32))
    assert any("sequential" in note.message for note in K.row_scan.definition.notes)


@pytest.mark.parametrize("n", SIZES)
def test_shared_memory(n: int) -> None:
    x = np.arange(n, dtype=np.int64)
    (_, y), _ = check(K.reverse_in_groups, [x, np.zeros_like(x)])
    np.testing.assert_array_equal(y, np.concatenate([x[at : at + 128][::-1] for at in range(0, n, 128)] or [x]))


@pytest.mark.parametrize("n", (1, 127, 1000))
def test_several_scalars(n: int) -> None:
    x = normal(n)
    _, (total, low) = check(K.statistics, [x])
    np.testing.assert_allclose(total, np.sum(x.astype(np.float64) ** 2), rtol=1e-6)
    assert low == x.min() and total.dtype == np.float32
    plain, low = evaluate(K.statistics.definition, [x], {"squares": False, "bias": 1.0})
    np.testing.assert_allclose(plain, np.sum(x.astype(np.float64) + 1), rtol=1e-5, atol=1e-5)
    assert low == (x + np.float32(1)).min()


def test_ids() -> None:
    (where,), _ = check(K.ids, [np.zeros((300, 4), np.int32)])
    i = np.arange(300)
    np.testing.assert_array_equal(where, np.stack([i // 128, i % 128, i % 128 % 32, np.full(300, 128)], 1))


def test_explicit_grid() -> None:
    x = normal(3, 70)
    (_, y, _), _ = check(K.planes, [x, np.zeros_like(x), 5])
    np.testing.assert_array_equal(y, x * np.float32(5) + np.arange(3, dtype=np.float32)[:, None])


def test_lanes_from_a_guard() -> None:
    x = normal(7, 30)
    (after,), _ = check(K.flat, [x])
    np.testing.assert_array_equal(after, x * 2)


def test_dim_expressions_and_constants() -> None:
    x = normal(12)
    (after,), result = check(K.powers, [x])
    assert result is after
    np.testing.assert_array_equal(after, x * x * x * x)
    y = x.copy()
    evaluate(K.powers.definition, [y], {"BLOCK": 2})
    np.testing.assert_array_equal(y, x * x)


@pytest.mark.parametrize("n", (0, 1, 50))
def test_early_return_of_a_scalar(n: int) -> None:
    x = normal(n)
    _, best = check(K.one_value, [x])
    assert best.dtype == np.float64 and best == (x.max() if n else 0.0)


def test_one_lane_stores() -> None:
    x = normal(300)
    (_, y), _ = check(K.last_lane, [x, np.zeros(1, np.float32)])
    assert y[0] == x[-1]


def test_non_contiguous_arrays() -> None:
    base = normal(40, 40)
    x, y = base[::2, ::-1].T, np.zeros((40, 40), np.float32)[:, ::2]
    before = x.copy()
    evaluate(K.planes.definition, [x, y, 3])
    np.testing.assert_array_equal(y, before * 3 + np.arange(40, dtype=np.float32)[:, None])
