"""Folding: bit for bit, with special values."""

from __future__ import annotations

import numpy as np
import pytest

from tesseracc.interpret.schedule import run
from tesseracc.ir.parser import parse_module
from tests.passes.programs import passes

TEXT = """
schedule.func @f(%x: tensor<TYPE[N]>) -> (tensor<TYPE[N]>) {
  %y = schedule.group {domain = [<N>]} (%i: i64) {
    %v = schedule.read %x, [%i] : TYPE
    %c = arith.constant {value = CONST} : TYPE
    %r = arith.OP : TYPE
    schedule.write %r, [%i] {result = 0}
  } : tensor<TYPE[N]>
  yield %y
}
"""
FLOATS = np.array([0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan, 1e-45], np.float32)
INTS = np.array([0, 1, -1, 2**31 - 1, -(2**31), 17], np.int32)


@pytest.mark.parametrize(
    ("dtype", "op", "const", "folds"),
    [
        ("f32", "add %v, %c", "0.0", False),  # -0 + 0 = 0
        ("f32", "add %v, %c", "-0.0", True),
        ("f32", "sub %v, %c", "0.0", True),
        ("f32", "sub %v, %c", "-0.0", False),
        ("f32", "mul %v, %c", "1.0", True),
        ("f32", "mul %v, %c", "0.0", False),
        ("f32", "div %v, %c", "1.0", True),
        ("i32", "add %c, %v", "0", True),
        ("i32", "mul %v, %c", "0", True),
        ("i32", "floordiv %v, %c", "1", True),
        ("i32", "floordiv %v, %c", "0", False),
        ("f32", "max %c, %c", "3.5", True),
        ("f32", "exp %c", "0.5", False),  # the target's exp decides its last bit
    ],
)
def test_identities(dtype: str, op: str, const: str, folds: bool) -> None:
    text = TEXT.replace("TYPE", dtype).replace("OP", op).replace("CONST", const)
    before = parse_module(text)
    done = passes(before, "fold-elements")
    left = [o.name for o in done.funcs[0].walk() if o.name.startswith("arith.") and o.name != "arith.constant"]
    assert (not left) == folds
    x = FLOATS if dtype == "f32" else INTS
    got, expected = run(done, "f", [x])[0], run(before, "f", [x])[0]
    assert got.tobytes() == expected.tobytes()


def test_casts_there_and_back() -> None:
    text = """
schedule.func @f(%x: tensor<bf16[N]>) -> (tensor<bf16[N]>) {
  %y = schedule.group {domain = [<N>]} (%i: i64) {
    %v = schedule.read %x, [%i] : bf16
    %w = arith.cast %v {to = "f32"} : f32
    %r = arith.cast %w {to = "bf16"} : bf16
    schedule.write %r, [%i] {result = 0}
  } : tensor<bf16[N]>
  yield %y
}
"""
    assert "arith.cast" not in [op.name for op in passes(parse_module(text), "fold-elements").funcs[0].walk()]
    narrowing = text.replace("bf16", "f64").replace('{to = "f64"} : f64', '{to = "f64"} : f64')
    assert "arith.cast" in [op.name for op in passes(parse_module(narrowing), "fold-elements").funcs[0].walk()]


def test_reads_with_known_conditions() -> None:
    text = TEXT.replace("TYPE", "i32").replace("OP", "add %v, %v").replace("CONST", "0")
    for value in ("true", "false"):
        cond = f"    %on = arith.constant {{value = {value}}} : bool\n    %v = schedule.read %x, [%i], where %on"
        before = parse_module(text.replace("    %v = schedule.read %x, [%i]", cond))
        done = passes(before, "fold-elements")
        reads = [op for op in done.funcs[0].walk() if op.name == "schedule.read"]
        assert [op.optional("where") for op in reads] == ([None] if value == "true" else [])
        assert np.array_equal(run(done, "f", [INTS])[0], run(before, "f", [INTS])[0])
