"""Tiles on the CPU: products and maps against NumPy in f64, on ragged extents, at every level that runs here."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.interpret.tile import Memory, run_kernel
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.value import Module
from tests.passes.target.cpu_kernels import matmul
from tests.passes.target.native import Native, levels

LEVELS = pytest.mark.parametrize("level", levels())
#: a small tile, so that several tiles, several steps of k and every kind of remainder occur
TILE = (30, 64, 48)
SHAPES = [
    (1, 1, 1),
    (30, 64, 48),
    (31, 65, 49),
    (5, 10, 64),
    (67, 130, 97),
    (29, 63, 47),
    (3, 0, 4),
    (0, 5, 2),
    (4, 7, 0),
]


@cache
def native(text: str, level: str, passes: str = "tile-to-cpu") -> Native:
    return Native(text, level, passes)


def run(code: Native, a: Any, b: Any, bias: Any, out: type, seed: int) -> Any:
    """The product; in one go and in pieces it has the same bits."""
    m, k = a.shape
    n = b.shape[1]
    symbols = {"M": m, "N": n, "K": k}
    first, second = np.full((m, n), 7, out), np.full((m, n), 9, out)
    code("mm", [a, b, bias, first], symbols)
    total = code.groups("mm", symbols)
    cut = int(np.random.default_rng(seed).integers(0, total + 1))
    code("mm", [a, b, bias, second], symbols, [(cut, total), (0, cut)])
    np.testing.assert_array_equal(first, second)
    return first


@LEVELS
@pytest.mark.parametrize("m,n,k", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul(level: str, m: int, n: int, k: int, dtype: type) -> None:
    rng = np.random.default_rng(m * 1000 + n)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    bias = rng.standard_normal(n).astype(dtype)
    name = "f32" if dtype is np.float32 else "f64"
    found = run(native(matmul(*TILE, name, name), level), a, b, bias, dtype, k)
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble) + bias
    # each of k steps and the bias rounds the running sum, which |a| |b| bounds: twice per step without fma
    unit = np.finfo(dtype).eps / 2
    bound = unit * (2 * k + 1) * (np.abs(a).astype(np.longdouble) @ np.abs(b) + np.abs(bias))
    assert (np.abs(found - exact) <= bound).all()


@LEVELS
@pytest.mark.parametrize("m,n,k", SHAPES[:6])
def test_sum_is_sequential_in_k(level: str, m: int, n: int, k: int) -> None:
    """The very bits of one fma per step in order of k (two roundings per step where there is no fma)."""
    rng = np.random.default_rng(k)
    a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    bias = np.zeros(n, np.float32)
    code = native(matmul(*TILE), level)
    found = run(code, a, b, bias, np.float32, k)
    total = np.zeros((m, n), np.float32)
    if code.arch.has("fma"):
        kernel = code.kernels["mm"]
        run_kernel(kernel, [Memory(x, None) for x in (a, b, bias, total)], {"M": m, "N": n, "K": k})
    else:
        for step in range(k):
            total = total + a[:, step : step + 1] * b[step : step + 1]
    np.testing.assert_array_equal(found, total)


@LEVELS
@pytest.mark.parametrize("m,n", [(1, 256), (19, 256), (15, 255), (7, 130), (2, 33)])
def test_blocks_of_few_rows_take_several_panels(level: str, m: int, n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.integers(-9, 9, (m, 11)).astype(np.float32), rng.integers(-9, 9, (11, n)).astype(np.float32)
    bias = rng.integers(-9, 9, n).astype(np.float32)
    found = run(native(matmul(19, 256, 11), level), a, b, bias, np.float32, m)
    np.testing.assert_array_equal(found, a @ b + bias)


def test_operands_are_asked_for_some_rows_early() -> None:
    kernel = native(matmul(*TILE), "x86-64-v4").kernels["mm"]
    module = run_pipeline(parse_pipeline("tile-to-cpu"), Module((kernel,)), Context(load("x86-64-v4")))
    stored = {op["ptr"] for op in module.funcs[0].walk() if op.name == "target.store"}
    asked = [op["ptr"] for op in module.funcs[0].walk() if op.name == "target.prefetch"]
    # an operand's row of 48 or 64 elements in chunks of two lines, and the accumulators of the next block
    assert len(asked) >= 4 and stored.isdisjoint(asked)


@LEVELS
@pytest.mark.parametrize("m,n,k", SHAPES)
@pytest.mark.parametrize("dtype", ["f32", "f64", "i16"])
@pytest.mark.parametrize("extents", [True, False])
def test_operands_that_lie_transposed(level: str, m: int, n: int, k: int, dtype: str, extents: bool) -> None:
    rng = np.random.default_rng(k)
    kind = np.dtype({"f32": "float32", "f64": "float64", "i16": "int16"}[dtype])
    acc = {"i16": "i32"}.get(dtype, dtype)
    a, b = rng.integers(-9, 9, (m, k)).astype(kind), rng.integers(-9, 9, (k, n)).astype(kind)
    bias = rng.integers(-9, 9, n).astype({"i32": np.int32}.get(acc, kind))
    code = native(matmul(*TILE, dtype, acc, transposed=True, extents=extents), level)
    found = np.full((m, n), 7, bias.dtype)
    code("mm", [np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), bias, found], {"M": m, "N": n, "K": k})
    np.testing.assert_array_equal(found, a.astype(np.int64) @ b.astype(np.int64) + bias)


def test_transposed_operands_are_not_gathered() -> None:
    code = native(matmul(64, 64, 64, transposed=True), "x86-64-v4")
    whole = [line for line in code.ir.splitlines() if "llvm.masked.gather" in line and "declare" not in line]
    # only in the ragged rest of either operand: its columns, its rows, its corner
    assert 0 < len(whole) <= 8
    assert code.ir.count("shufflevector <16 x float>") >= 2 * 64


@LEVELS
@pytest.mark.parametrize("m,n,k", SHAPES)
def test_products_without_extents_see_zeros_outside(level: str, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(k)
    a, b = rng.integers(-9, 9, (m, k)).astype(np.float32), rng.integers(-9, 9, (k, n)).astype(np.float32)
    bias = rng.integers(-9, 9, n).astype(np.float32)
    found = run(native(matmul(*TILE, extents=False), level), a, b, bias, np.float32, k)
    np.testing.assert_array_equal(found, a @ b + bias)


@LEVELS
@pytest.mark.parametrize("m,n,k", SHAPES)
@pytest.mark.parametrize("dtype", ["i8", "u8", "i16"])
def test_integers_are_widened(level: str, m: int, n: int, k: int, dtype: str) -> None:
    rng = np.random.default_rng(n)
    kind = np.dtype(dtype.replace("i", "int").replace("u", "uint"))
    limits = np.iinfo(kind)
    a = rng.integers(limits.min, limits.max + 1, (m, k)).astype(kind)
    b = rng.integers(limits.min, limits.max + 1, (k, n)).astype(kind)
    bias = rng.integers(-99, 99, n).astype(np.int32)
    found = run(native(matmul(*TILE, dtype, "i32"), level), a, b, bias, np.int32, k)
    expected = (a.astype(np.int64) @ b.astype(np.int64) + bias).astype(np.int32)
    np.testing.assert_array_equal(found, expected)


#: row sums of squares of a rank-3 box through maps only: results that feed a map, a whole-tile observer, two results
MAPS = """
tile.kernel @maps(%x: buf<f32[A, B, C], global>, %y: buf<f32[3, 5, 40], global>, %z: buf<f32[A, B, C], global>) {
    group = 32, grid = [1], symbols = ["A", "B", "C"], access = ["read", "write", "write"]} {
  %a = tile.dim {expr = <A>} : i64
  %b = tile.dim {expr = <B>} : i64
  %c = tile.dim {expr = <C>} : i64
  %three = arith.constant {value = 3} : i64
  %five = arith.constant {value = 5} : i64
  %forty = arith.constant {value = 40} : i64
  %v, %n = tile.map [%a, %b, %c], [] {shape = [3, 5, 40]} (%i: lanes<i64>, %j: lanes<i64>, %k: lanes<i64>) {
    %e = tile.load %x, [%i, %j, %k] : lanes<f32>
    %one = arith.constant {value = 1.0} : lanes<f32>
    %p = arith.add %e, %one : lanes<f32>
    %q = arith.cast %k {to = "i32"} : lanes<i32>
    yield %p, %q
  } : tile<f32[3, 5, 40]>, tile<i32[3, 5, 40]>
  %w = tile.map [%a, %b, %c], [%v, %n] {shape = [3, 5, 40]}
      (%i: lanes<i64>, %j: lanes<i64>, %k: lanes<i64>, %e: lanes<f32>, %q: lanes<i32>) {
    %f = arith.cast %q {to = "f32"} : lanes<f32>
    %p = arith.mul %e, %f : lanes<f32>
    tile.store %p, %z, [%i, %j, %k]
    yield %p
  } : tile<f32[3, 5, 40]>
  tile.map [%three, %five, %forty], [%w] {shape = [3, 5, 40]}
      (%i: lanes<i64>, %j: lanes<i64>, %k: lanes<i64>, %e: lanes<f32>) {
    tile.store %e, %y, [%i, %j, %k]
  }
}
"""


@LEVELS
@pytest.mark.parametrize("shape", [(3, 5, 40), (1, 1, 1), (2, 4, 33), (3, 5, 31), (0, 2, 3), (2, 0, 5), (3, 3, 7)])
def test_maps_of_rank_three(level: str, shape: tuple[int, int, int]) -> None:
    x = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    y, z = np.full((3, 5, 40), 9, np.float32), np.full(shape, 9, np.float32)
    native(MAPS, level)("maps", [x, y, z], dict(zip("ABC", shape, strict=True)))
    expected = (x + np.float32(1)) * np.arange(shape[2], dtype=np.float32)
    np.testing.assert_array_equal(z, expected)
    full = np.zeros((3, 5, 40), np.float32)
    full[: shape[0], : shape[1], : shape[2]] = expected
    np.testing.assert_array_equal(y, full)


#: tiles carried through a loop and swapped in it; a tile used twice; a tile chosen by scf.if
SWAP = """
tile.kernel @swap(%x: buf<f32[8, 50], global>, %y: buf<f32[8, 50], global>, %r: i64) {group = 32, grid = [1],
    symbols = [], access = ["read", "write", "value"]} {
  %zero = arith.constant {value = 0} : i64
  %one = arith.constant {value = 1} : i64
  %two = arith.constant {value = 2} : i64
  %m = arith.constant {value = 8} : i64
  %n = arith.constant {value = 50} : i64
  %a = tile.map [%m, %n], [] {shape = [8, 50]} (%i: lanes<i64>, %j: lanes<i64>) {
    %e = tile.load %x, [%i, %j] : lanes<f32>
    yield %e
  } : tile<f32[8, 50]>
  %z = tile.zeros : tile<f32[8, 50]>
  %p, %q, %s = scf.for %zero, %r, %one, [%a, %z, %a]
      (%k: i64, %u: tile<f32[8, 50]>, %v: tile<f32[8, 50]>, %w: tile<f32[8, 50]>) {
    %t = tile.map [%m, %n], [%u, %v] {shape = [8, 50]}
        (%i: lanes<i64>, %j: lanes<i64>, %e: lanes<f32>, %f: lanes<f32>) {
      %g = arith.add %e, %f : lanes<f32>
      yield %g
    } : tile<f32[8, 50]>
    yield %v, %u, %t
  } : tile<f32[8, 50]>, tile<f32[8, 50]>, tile<f32[8, 50]>
  %odd0 = arith.mod %r, %two : i64
  %odd = arith.cmp %odd0, %one {pred = "eq"} : bool
  %c = scf.if %odd () {
    yield %q
  } () {
    yield %p
  } : tile<f32[8, 50]>
  tile.map [%m, %n], [%c, %s] {shape = [8, 50]} (%i: lanes<i64>, %j: lanes<i64>, %e: lanes<f32>, %f: lanes<f32>) {
    %d = arith.constant {value = 10.0} : lanes<f32>
    %h = arith.mul %e, %d : lanes<f32>
    %g = arith.add %h, %f : lanes<f32>
    tile.store %g, %y, [%i, %j]
  }
}
"""


@LEVELS
@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_carried_tiles(level: str, rounds: int) -> None:
    x = np.random.default_rng(rounds).integers(-9, 9, (8, 50)).astype(np.float32)
    y = np.zeros_like(x)
    native(SWAP, level)("swap", [x, y, np.int64(rounds)], {})
    u, v, w = x, np.zeros_like(x), x
    for _ in range(rounds):
        u, v, w = v, u, u + v
    np.testing.assert_array_equal(y, (v if rounds % 2 else u) * 10 + w)
