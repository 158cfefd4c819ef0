"""Builders that compute equal numbers once."""

from __future__ import annotations

from tesseracc.ir.builder import Numbering
from tesseracc.ir.types import I64, PtrType
from tesseracc.ir.value import Value


def test_equal_operations_are_one() -> None:
    b = Numbering()
    x, y = Value(I64), Value(I64)
    first = b.op("arith.add", x, y)
    assert b.op("arith.add", x, y) is first
    assert b.op("arith.add", y, x) is not first and b.op("arith.sub", x, y) is not first
    assert b.emit("arith.add", x, y).result is not first
    assert len(b.ops) == 4


def test_constants_are_told_apart_by_their_bits() -> None:
    b = Numbering()
    assert b.const(0.0, "f32") is b.const(0.0, "f32")
    assert b.const(-0.0, "f32") is not b.const(0.0, "f32")
    assert b.const(1, "i32") is not b.const(1, "i64")
    assert b.const(True, "bool") is not b.const(1, "i32")


def test_what_memory_or_threads_decide_is_built_each_time() -> None:
    b = Numbering()
    pointer, value = Value(PtrType("global")), Value(I64)
    loads = [b.op("target.load", pointer, types=I64, align=8) for _ in range(2)]
    assert loads[0] is not loads[1]
    assert b.op("target.movmatrix", value) is not b.op("target.movmatrix", value)


def test_regions_see_what_is_around_them() -> None:
    outer = Numbering()
    x, y = Value(I64), Value(I64)
    total = outer.op("arith.add", x, y)
    then, otherwise = Numbering(None, outer), Numbering(None, outer)
    assert then.op("arith.add", x, y) is total and not then.ops
    product = then.op("arith.mul", x, y)
    assert otherwise.op("arith.mul", x, y) is not product and outer.op("arith.mul", x, y) is not product
    assert then.sees(outer) and not outer.sees(then) and not then.sees(otherwise)
