"""Prefetches: where they are emitted, how far ahead, and that they change no result."""

from __future__ import annotations

import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.lower_cpu_prefetch import AHEAD, LINES
from tests.passes.target.native import Native, levels

# row sums of x, twice over the same row; column sums of x in each lane
ROWS = """
tile.kernel @rows(%x: buf<f32[N, D], global>, %y: buf<f32[N], global>) {
  access = ["read", "write"], grid = [<N>], group = 64, symbols = ["D", "N"]} {
  %g = tile.group_id {axis = 0} : i64
  %l = tile.local_id : lanes<i64>
  %d = tile.dim {expr = <D>} : i64
  %w = arith.constant {value = 64} : i64
  %z = arith.constant {value = 0.0} : lanes<f32>
  %s = tile.for %l, %d, %w, [%z] (%i: lanes<i64>, %a: lanes<f32>) {
    %v = tile.load %x, [%g, %i] : lanes<f32>
    %b = arith.add %a, %v : lanes<f32>
    yield %b
  } : lanes<f32>
  %t = tile.for %l, %d, %w, [%s] (%i: lanes<i64>, %a: lanes<f32>) {
    %v = tile.load %x, [%g, %i] : lanes<f32>
    %b = arith.add %a, %v : lanes<f32>
    yield %b
  } : lanes<f32>
  %r = tile.reduce %t {kind = "add"} : f32
  tile.store %r, %y, [%g]
}
"""
COLUMNS = """
tile.kernel @columns(%x: buf<f32[N, D], global>, %y: buf<f32[D], global>) {
  access = ["read", "write"], grid = [<ceildiv(D, 64)>], group = 64, symbols = ["D", "N"]} {
  %j = tile.linear_id : lanes<i64>
  %d = tile.dim {expr = <D>} : i64
  %e = tile.splat %d : lanes<i64>
  %m = arith.cmp %j, %e {pred = "lt"} : lanes<bool>
  tile.if %m () {
    %n = tile.dim {expr = <N>} : i64
    %0 = arith.constant {value = 0} : i64
    %1 = arith.constant {value = 1} : i64
    %z = arith.constant {value = 0.0} : lanes<f32>
    %s = scf.for %0, %n, %1, [%z] (%i: i64, %a: lanes<f32>) {
      %v = tile.load %x, [%i, %j] : lanes<f32>
      %b = arith.add %a, %v : lanes<f32>
      yield %b
    } : lanes<f32>
    tile.store %s, %y, [%j]
  } () {
  }
}
"""


def ops(text: str, level: str) -> list[Op]:
    module = run_pipeline(parse_pipeline("tile-to-cpu"), parse_module(text), Context(load(level)))
    return list(module.funcs[0].walk())


def test_the_first_loop_over_a_row_asks_for_its_end_and_the_second_for_the_next_row() -> None:
    found = ops(ROWS, "x86-64-v4")
    lines = 64 * 4 // load("x86-64-v4").cache_line
    assert sum(op.name == "target.prefetch" for op in found) == 2 * lines
    constants = {op.result: op.attrs["value"] for op in found if op.name == "arith.constant"}
    made = {result: op for op in found for result in op.results}
    # the loop over groups is the outermost one: its index and 1 is the next row
    (groups, *_) = [op.regions[0].args[0] for op in found if op.name == "scf.for"]
    asks = {op["ptr"] for op in found if op.name == "target.prefetch"}
    following = {
        op.result for op in found
        if op.name == "arith.add" and op.operands[0] is groups and constants.get(op.operands[1]) == 1
    }  # fmt: skip

    def reaches(value: Value) -> bool:
        return value in following or (value in made and any(reaches(v) for v in made[value].operands))

    assert sum(map(reaches, asks)) == lines


def test_a_third_loop_asks_for_nothing() -> None:
    third = ROWS.replace("  %r = tile.reduce %t", """  %u = tile.for %l, %d, %w, [%t] (%i: lanes<i64>, %a: lanes<f32>) {
    %v = tile.load %x, [%g, %i] : lanes<f32>
    %b = arith.add %a, %v : lanes<f32>
    yield %b
  } : lanes<f32>
  %r = tile.reduce %u""")  # fmt: skip
    two, three = (sum(op.name == "target.prefetch" for op in ops(text, "x86-64-v4")) for text in (ROWS, third))
    assert two == three


@pytest.mark.parametrize(("text", "step"), [(ROWS, 64), (COLUMNS, 1)])
def test_asks_for_a_later_iteration(text: str, step: int) -> None:
    """Along the row by lanes, down the column by rows: the loop's index, some iterations on, is part of the address."""
    found = ops(text, "x86-64-v4")
    constants = {op.result: op.attrs["value"] for op in found if op.name == "arith.constant"}
    loops = {op.regions[0].args[0] for op in found if op.name == "scf.for"}
    later = [
        op for op in found
        if op.name == "arith.add" and op.operands[0] in loops and constants.get(op.operands[1]) == AHEAD * step
    ]  # fmt: skip
    assert later


def test_wide_loads_ask_for_nothing() -> None:
    lanes = 2 * LINES * 16
    wide = ROWS.replace("group = 64", f"group = {lanes}").replace("value = 64", f"value = {lanes}")
    assert not any(op.name == "target.prefetch" for op in ops(wide, "x86-64-v4"))


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize(("n", "d"), [(1, 1), (3, 131), (40, 300), (2, 0)])
def test_results(level: str, n: int, d: int) -> None:
    rng = np.random.default_rng(n + d)
    x = rng.integers(-9, 9, (n, d)).astype(np.float32)
    rows, columns = np.full(n, np.nan, np.float32), np.full(d, np.nan, np.float32)
    Native(ROWS, level)("rows", [x, rows], {"D": d, "N": n})
    Native(COLUMNS, level)("columns", [x, columns], {"D": d, "N": n})
    np.testing.assert_array_equal(rows, 2 * x.sum(1))
    np.testing.assert_array_equal(columns, x.sum(0))
