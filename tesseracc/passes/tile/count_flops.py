"""`count-flops`: kernels on tiles say how many floating-point operations they do (tesseracc.analysis.flops).

Kernels that were made of groups have said it already: there it is the least number, not that of their tiles.
"""

from __future__ import annotations

from tesseracc.analysis.flops import counted, of_kernel
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.value import Func, Module

__all__ = ["run"]


@register("count-flops", level="tile")
def run(module: Module, context: Context) -> Module:
    """Gives kernels of the language the attribute `flops`."""

    def count(func: Func) -> Func:
        if func.kind != "tile.kernel" or "flops" in func.attrs:
            return func
        return counted(func, of_kernel(func), context.need_arch())

    return module.with_(funcs=tuple(count(func) for func in module.funcs))
