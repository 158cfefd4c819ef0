"""What only CPUs have of the `target` dialect in LLVM IR."""

from __future__ import annotations

from tesseracc.codegen.llvm_text import Handler, Writer
from tesseracc.ir.dialects.target_cpu import TILE_REGISTERS
from tesseracc.ir.types import VecType
from tesseracc.ir.value import Op


def _recast(w: Writer, op: Op) -> str:
    return w.let(f"bitcast {w.typed(op['a'])} to {w.type(op.result.type)}")


def _dot_pairs(w: Writer, op: Op) -> str:
    type_ = op.result.type
    assert isinstance(type_, VecType)
    pairs = f"<{2 * type_.count} x bfloat>"
    a, b = (w.let(f"bitcast {w.typed(op[name])} to {pairs}") for name in ("a", "b"))
    name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * type_.count}"
    return w.value_call(name, w.type(type_), w.typed(op["acc"]), f"{pairs} {a}", f"{pairs} {b}")


# -- tile registers: by number, so that LLVM allocates none of them ----------------------------------------------------

#: palette 1; 64 bytes a row from byte 16, 16 rows from byte 48. (Intel SDM volume 1, 18: TILECFG)
_TILE_CONFIG = bytes([1, *[0] * 15, *[64, 0] * TILE_REGISTERS, *[0] * 16, *[16] * TILE_REGISTERS, *[0] * 8])
_DOT = {
    ("bf16", "bf16"): "tdpbf16ps", ("i8", "i8"): "tdpbssd", ("i8", "u8"): "tdpbsud", ("u8", "i8"): "tdpbusd",
    ("u8", "u8"): "tdpbuud",
}  # fmt: skip


def _amx_config(w: Writer, op: Op) -> None:
    place = w.fresh()
    w.entry.append(f"  {place} = alloca [64 x i8], align 64")
    values = ", ".join(f"i8 {value}" for value in _TILE_CONFIG)
    w.line(f"store <64 x i8> <{values}>, ptr {place}, align 64")
    w.call("llvm.x86.ldtilecfg", "void", f"ptr {place}")


def _amx_release(w: Writer, op: Op) -> None:
    w.call("llvm.x86.tilerelease", "void")


def _amx_move(name: str) -> Handler:
    def handler(w: Writer, op: Op) -> None:
        # `immarg` is the intrinsic's own, known to LLVM whatever the declaration says
        w.call(name, "void", f"i8 {op.attrs['register']}", w.typed(op["ptr"]), w.typed(op["stride"]))

    return handler


def _amx_dot(w: Writer, op: Op) -> None:
    w.call(f"llvm.x86.{_DOT[op.attrs['dtypes']]}", "void", *(f"i8 {number}" for number in op.attrs["registers"]))


CPU: dict[str, Handler] = {
    "target.recast": _recast,
    "target.dot_pairs": _dot_pairs,
    "target.amx_config": _amx_config,
    "target.amx_release": _amx_release,
    "target.amx_load": _amx_move("llvm.x86.tileloadd64"),
    "target.amx_store": _amx_move("llvm.x86.tilestored64"),
    "target.amx_dot": _amx_dot,
}
