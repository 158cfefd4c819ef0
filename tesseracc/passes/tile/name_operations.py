"""`name-operations`: kernels say what they compute, for profiles and pages: the attribute `ops`.

The names of their operations on data, each once, in order of first use. Moving data, choosing it and converting it is
none, and neither is arithmetic on indices, which is i64; but a kernel that has nothing else is one on integers.
"""

from __future__ import annotations

from tesseracc.ir.dialects.arith import BINARY, UNARY
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.types import element
from tesseracc.ir.value import Func, Module, Op

__all__ = ["run"]

_NAMES = {f"arith.{name}": name for name in (*BINARY, *UNARY, "fma")} | {"tile.mma": "matmul"}
_SUMS = {"add": "sum", "mul": "prod"}  # other kinds of a reduction are words as they are
_MOST = 32  # names that a bundle keeps


@register("name-operations", level="tile")
def run(module: Module, context: Context) -> Module:
    """Gives kernels the attribute `ops`."""

    def named(func: Func) -> Func:
        return func.with_(attrs={**func.attrs, "ops": _of(func)}) if func.kind == "tile.kernel" else func

    return module.with_(funcs=tuple(map(named, module.funcs)))


def _of(kernel: Func) -> tuple[str, ...]:
    found = [(name, element(op.results[0].type)) for op in kernel.walk() if op.results and (name := _name(op))]
    on_data = [name for name, dtype in found if dtype not in ("i64", "bool")]
    return tuple(dict.fromkeys(on_data or [name for name, _ in found]))[:_MOST]


def _name(op: Op) -> str:
    """The word for an operation; empty for what computes nothing."""
    if op.name in ("tile.reduce", "tile.fold"):
        kind = str(op.attrs["kind"])
        return _SUMS.get(kind, kind)
    return _NAMES.get(op.name, "")
