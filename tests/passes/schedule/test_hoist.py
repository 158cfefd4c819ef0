"""Hoisting moves what is safe, and nothing that might read out of bounds."""

from __future__ import annotations

import numpy as np
import pytest

from tesseracc.interpret.schedule import run
from tesseracc.ir.parser import parse_module
from tests.passes.programs import loops, passes

TEXT = """
schedule.func @f(%x: tensor<f32[N, D]>, %s: tensor<f32[N]>) -> (tensor<f32[N, D]>) {
  %y = schedule.group {domain = [<N>]} (%i: i64) {
    schedule.each {sizes = [<D>]} (%j: i64) {
      %z = arith.constant {value = 0} : i64
      %first = schedule.read %x, [%i, %z] : f32
      %scale = schedule.read %s, [%i] : f32
      %t = schedule.reduce {kind = "max", sizes = [<D>]} (%k: i64) {
        %a = schedule.read %x, [%i, %k] : f32
        yield %a
      } : f32
      %b = schedule.read %x, [%i, %j] : f32
      %c = arith.mul %b, %scale : f32
      %d = arith.add %c, %t : f32
      %e = arith.sub %d, %first : f32
      schedule.write %e, [%i, %j] {result = 0}
    }
  } : tensor<f32[N, D]>
  yield %y
}
"""


@pytest.mark.parametrize("shape", [(3, 0), (0, 2), (1, 1), (4, 6)])
def test_invariants_leave_the_loop_if_they_cannot_fail(shape: tuple[int, int]) -> None:
    before = parse_module(TEXT)
    done = passes(before, "hoist")
    group = done.funcs[0].body.ops[0]
    assert loops(group) == ["max", "each"]
    outside = [op for op in group.regions[0].ops if op.name == "schedule.read"]
    # s[i] is known to exist; x[i, 0] does not when D is 0
    assert [op["tensor"].name for op in outside] == ["s"]
    rng = np.random.default_rng(3)
    inputs = [rng.standard_normal(s).astype(np.float32) for s in (shape, shape[:1])]
    assert np.array_equal(run(done, "f", inputs)[0], run(before, "f", inputs)[0])
