"""Canonical indices: what cancels, what ranges decide, and that values stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from tesseracc.interpret.schedule import run
from tesseracc.ir.parser import parse_module
from tesseracc.ir.value import Module
from tests.passes.programs import passes

TEXT = """
schedule.func @f(%x: tensor<f32[A, B]>) -> (tensor<f32[A*B]>) {
  %y = schedule.group {domain = [<A*B>]} (%i: i64) {
BODY
    %v = schedule.read %x, [%p, %q], where %in : f32
    schedule.write %v, [%w] {result = 0}
  } : tensor<f32[A*B]>
  yield %y
}
"""
BODY = """
    %b = schedule.dim {expr = <B>} : i64
    %n = schedule.dim {expr = <A*B>} : i64
    %zero = arith.constant {value = 0} : i64
    %p = arith.floordiv %i, %b : i64
    %q = arith.mod %i, %b : i64
    %pb = arith.mul %p, %b : i64
    %w = arith.add %pb, %q : i64
    %in = arith.cmp %COND : bool
"""


def load(cond: str) -> Module:
    return parse_module(TEXT.replace("BODY", BODY.replace("%COND", cond)))


def names(module: Module) -> list[str]:
    return [op.name for op in module.funcs[0].walk()]


def test_taking_apart_and_putting_together_cancels() -> None:
    done = passes(load('%w, %n {pred = "lt"}'), "simplify-indices")
    write = next(op for op in done.funcs[0].walk() if op.name == "schedule.write")
    assert write.group("indices")[0] is done.funcs[0].body.ops[0].regions[0].args[0]


@pytest.mark.parametrize(
    ("cond", "value"),
    [
        ('%i, %zero {pred = "ge"}', True),
        ('%i, %n {pred = "lt"}', True),
        ('%q, %b {pred = "lt"}', True),
        ('%i, %n {pred = "ge"}', False),
        ('%w, %i {pred = "eq"}', True),
        ('%p, %q {pred = "lt"}', None),
    ],
)
def test_comparisons_that_ranges_decide(cond: str, value: bool | None) -> None:
    done = passes(load(cond), "simplify-indices,fold-elements")
    assert ("arith.cmp" in names(done)) == (value is None)
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    assert np.array_equal(run(done, "f", [x])[0], run(load(cond), "f", [x])[0])
