"""`target`: operations that only CPUs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.define import define
from tesseracc.ir.types import Type, VecType, size_of
from tesseracc.ir.value import Attr, Op, Value


def _recast(operands: Sequence[Value], attrs: Mapping[str, Attr]) -> tuple[Type, ...]:
    type_, dtype = operands[0].type, attrs["dtype"]
    if not isinstance(type_, VecType) or type_.count * size_of(type_.dtype) % size_of(dtype):
        raise TesseraError("E404", f"{type_} cannot be seen as elements of {dtype}")
    return (VecType(type_.count * size_of(type_.dtype) // size_of(dtype), dtype),)


def _check_dot(op: Op) -> str | None:
    a, b, acc = (op[name].type for name in ("a", "b", "acc"))
    if not isinstance(acc, VecType) or acc.dtype != "f32" or a != b or a != VecType(acc.count, "i32"):
        return f"{a} and {b} are not pairs of bf16 for sums of {acc}"
    return None


define(
    "target.recast",
    "a",
    "dtype:str",
    infer=_recast,
    doc="The same bits as elements of another size, as many as there then are (CPU).",
)
define(
    "target.dot_pairs",
    "a b acc",
    infer=lambda v, a: (v[2].type,),
    verify=_check_dot,
    doc=(
        "acc + a.high * b.high, + a.low * b.low, where each i32 of a and b is a pair of bf16: two steps that round to "
        "nearest even. Subnormal operands and sums are 0 (CPU)."
    ),
)
