"""Sharing inside groups, in loops and of whole loops."""

from __future__ import annotations

import numpy as np

from tesseracc.interpret.schedule import run
from tesseracc.ir.parser import parse_module
from tests.passes.programs import passes

TEXT = """
schedule.func @f(%x: tensor<f32[N, D]>) -> (tensor<f32[N]>) {
  %y = schedule.group {domain = [<N>]} (%i: i64) {
    %s = schedule.reduce {kind = "add", sizes = [<D>]} (%k: i64) {
      %a = schedule.read %x, [%i, %k] : f32
      %b = schedule.read %x, [%i, %k] : f32
      %p = arith.mul %a, %b : f32
      yield %p
    } : f32
    %t = schedule.reduce {kind = "add", sizes = [<D>]} (%l: i64) {
      %c = schedule.read %x, [%i, %l] : f32
      %q = arith.mul %c, %c : f32
      yield %q
    } : f32
    %m = schedule.reduce {kind = "max", sizes = [<D>]} (%o: i64) {
      %e = schedule.read %x, [%i, %o] : f32
      %g = arith.mul %e, %e : f32
      yield %g
    } : f32
    %u = arith.sub %s, %t : f32
    %v = arith.add %u, %m : f32
    schedule.write %v, [%i] {result = 0}
  } : tensor<f32[N]>
  yield %y
}
"""


def test_equal_loops_are_shared_and_others_are_not() -> None:
    before = parse_module(TEXT)
    done = passes(before, "share-elements")
    kinds = [op.attrs["kind"] for op in done.funcs[0].walk() if op.name == "schedule.reduce"]
    assert kinds == ["add", "max"]
    assert sum(op.name == "schedule.read" for op in done.funcs[0].walk()) == 2
    x = np.random.default_rng(2).standard_normal((5, 9)).astype(np.float32)
    assert np.array_equal(run(done, "f", [x])[0], run(before, "f", [x])[0])
