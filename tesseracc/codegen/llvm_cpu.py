"""What only CPUs have of the `target` dialect in LLVM IR."""

from __future__ import annotations

from tesseracc.codegen.llvm_text import Handler, Writer
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


CPU: dict[str, Handler] = {
    "target.recast": _recast,
    "target.dot_pairs": _dot_pairs,
}
