"""Kernels on whole tiles: the interpreter against float64 NumPy, native code against the interpreter, bit for bit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tesseracc.interpret.tile import Memory, run_kernel
from tesseracc.ir.parser import parse_module
from tesseracc.ir.printer import module_text
from tesseracc.ir.value import Module
from tesseracc.passes import pipelines
from tests.passes.target.native import Native, levels
from tests.passes.tile import kernels

Array = np.ndarray[Any, Any]
LEVEL = levels()[-1]
PASSES = ",".join(str(step) for step in pipelines.TARGET["cpu"])


@cache
def built(name: str, *given: object, **options: object) -> tuple[Module, Native]:
    module: Module = getattr(kernels, name)(*given, **options)
    text = module_text(module)
    assert module_text(parse_module(text)) == text
    return module, Native(module, LEVEL, passes=PASSES)


def run(built: tuple[Module, Native], args: list[Array], symbols: dict[str, int], *, exact: bool = True) -> list[Array]:
    """The arguments after native code ran; where no polynomial is in it, the interpreter gives the same bits."""
    module, native = built
    kernel = module.funcs[0]
    ours, theirs = [a.copy() for a in args], [a.copy() for a in args]
    run_kernel(kernel, [Memory(a, None) for a in ours], symbols)
    native(kernel.name, theirs, symbols)
    for mine, other in zip(ours, theirs, strict=True):
        if exact:
            np.testing.assert_array_equal(mine, other)
        else:
            np.testing.assert_allclose(mine, other, rtol=2**-20, atol=2**-20)
    return theirs


def empty(*shape: int) -> Array:
    return np.full(shape, np.nan, np.float32)


@pytest.mark.parametrize("staged", ["none", "async", "write"])
@pytest.mark.parametrize("m,n,k", [(32, 64, 16), (70, 100, 37), (1, 1, 1), (33, 5, 100), (4, 4, 0), (0, 3, 3)])
def test_product(m: int, n: int, k: int, staged: str) -> None:
    rng = np.random.default_rng([m, n, k])
    a, b = rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32)
    found = run(built("gemm", staged=staged), [a, b, empty(m, n)], {"M": m, "N": n, "K": k})[2]
    bound = (k + 2) * 2**-24 * (np.abs(a).astype(float) @ np.abs(b))
    assert (np.abs(found - np.maximum(a.astype(float) @ b, 0)) <= bound).all()


@pytest.mark.parametrize("trans_a,trans_b", [(True, False), (False, True), (True, True)])
def test_transposed_operands(trans_a: bool, trans_b: bool) -> None:
    rng = np.random.default_rng(3)
    m, n, k = 45, 70, 33
    a, b = rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32)
    args = [np.ascontiguousarray(a.T) if trans_a else a, np.ascontiguousarray(b.T) if trans_b else b, empty(m, n)]
    found = run(built("gemm", trans_a=trans_a, trans_b=trans_b), args, {"M": m, "N": n, "K": k})[2]
    bound = (k + 2) * 2**-24 * (np.abs(a).astype(float) @ np.abs(b))
    assert (np.abs(found - np.maximum(a.astype(float) @ b, 0)) <= bound).all()


@pytest.mark.parametrize("size", [1, 32, 77])
def test_attention(size: int) -> None:
    rng = np.random.default_rng(size)
    q, k, v = rng.standard_normal((3, size, 64), dtype=np.float32)
    found = run(built("attention"), [q, k, v, empty(size, 64)], {"S": size}, exact=False)[3]
    scores = q.astype(float) @ k.T / 8
    scores[np.triu_indices(size, 1)] = -np.inf
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found, p / p.sum(axis=1, keepdims=True) @ v, rtol=0, atol=3e-6)


@pytest.mark.parametrize("dtype", ["f32", "i32"])
@pytest.mark.parametrize("rows,columns", [(40, 100), (16, 48), (1, 1), (17, 0)])
def test_folds(rows: int, columns: int, dtype: str) -> None:
    rng = np.random.default_rng([rows, columns])
    x = (rng.standard_normal((rows, columns)) * 100).astype(np.float32 if dtype == "f32" else np.int32)
    groups = -(-rows // 16)
    args = [x, *(np.zeros(s, x.dtype) for s in (rows, (groups, columns), rows))]
    _, sums, tops, whole = run(built("folds", dtype=dtype), args, {"R": rows, "C": columns, "G": groups})
    padded = np.zeros((groups * 16, columns))
    padded[:rows] = x
    np.testing.assert_array_equal(tops, padded.reshape(groups, 16, columns).max(axis=1))
    np.testing.assert_allclose(sums, x.astype(float).sum(axis=1), rtol=0, atol=1e-3 if dtype == "f32" else 0)
    expected = np.repeat(padded.sum(axis=1).reshape(groups, 16).sum(axis=1), 16)[:rows]
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-2 if dtype == "f32" else 0)


@pytest.mark.parametrize("rows,columns", [(50, 33), (1, 7), (32, 16)])
def test_transpose(rows: int, columns: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, columns), dtype=np.float32)
    found = run(built("transpose"), [x, empty(columns, rows)], {"R": rows, "C": columns})[1]
    i, j = np.indices((columns, rows))
    np.testing.assert_array_equal(found, x.T + ((i % 16) - (j % 32)).astype(np.float32))
