"""`target`: operations that only CPUs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.define import define
from tesseracc.ir.types import Type, VecType, size_of
from tesseracc.ir.value import Attr, Op, Value

TILE_REGISTERS = 8
#: element types of the operands of `target.amx_dot`; sums are f32 or i32
AMX_DTYPES = (("bf16", "bf16"), ("i8", "i8"), ("i8", "u8"), ("u8", "i8"), ("u8", "u8"))


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


def _check_register(op: Op) -> str | None:
    number = op.attrs["register"]
    return None if 0 <= number < TILE_REGISTERS else f"there is no tile register {number}"


def _check_amx_dot(op: Op) -> str | None:
    registers, dtypes = op.attrs["registers"], op.attrs["dtypes"]
    if len(registers) != 3 or len(set(registers)) != 3 or not set(registers) <= set(range(TILE_REGISTERS)):
        return f"{registers} are not three tile registers"
    return None if dtypes in AMX_DTYPES else f"no instruction multiplies {dtypes}"


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
define(
    "target.amx_config",
    effect="sync",
    doc="Makes all tile registers 16 rows of 64 bytes; before any other operation on them (CPU).",
)
define("target.amx_release", effect="sync", doc="Gives the tile registers back (CPU).")
define(
    "target.amx_load",
    "ptr stride",
    "register:int",
    effect="sync",  # it writes a register
    verify=_check_register,
    doc="A tile register from rows that lie `stride` (i64) bytes apart (CPU).",
)
define(
    "target.amx_store",
    "ptr stride",
    "register:int",
    effect="write",
    verify=_check_register,
    doc="A tile register to rows that lie `stride` (i64) bytes apart (CPU).",
)
define(
    "target.amx_dot",
    attrs="registers:tuple dtypes:tuple",
    effect="sync",
    verify=_check_amx_dot,
    doc=(
        "registers = (acc, a, b): acc[m, n] += the sum over g of a[m, g] * b[g, n], words that are pairs of bf16 or "
        "quadruples of 8-bit integers; dtypes are those of a and b. Integers wrap. Of bf16, the products of first and "
        "of second elements are summed by fma in order of g from 0, then added to each other and that to acc, all with "
        "rounding to nearest even; subnormals are 0 (CPU)."
    ),
)
