"""`exact-units`: products of f32 whose operands are tf32 run on tf32 units, which multiply them exactly.

Operands are tf32 by what is known of their low bits (analysis/low_bits.py): after the compute mode tf32, or widened
from a narrower type. The products are those of f32; sums are in f32 either way.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.analysis.low_bits import TF32, LowBits, known_low_bits
from tesseracc.arch.arch import Arch
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_ops
from tesseracc.ir.types import element
from tesseracc.ir.value import Func, Module, Op


def _marked(kernel: Func, known: LowBits) -> Func:
    def visit(op: Op) -> list[Op] | None:
        if op.name != "tile.mma" or any(element(op[name].type) != "f32" for name in ("a", "b", "acc")):
            return None
        if min(known.of(op["a"]), known.of(op["b"])) < TF32:
            return None
        return [replace(op, attrs={**op.attrs, "units": "tf32"})]

    return replace(kernel, body=map_ops(kernel.body, visit))


def _has_units(arch: Arch) -> bool:
    return any((row.a, row.b, row.acc) == ("tf32", "tf32", "f32") for row in arch.mma)


@register("exact-units", level="tile")
def run(module: Module, context: Context) -> Module:
    """Marks products whose operands a narrower unit multiplies exactly."""
    if not _has_units(context.need_arch()):
        return module
    known = known_low_bits(module)
    return module.with_(
        funcs=tuple(_marked(f, known[f.name]) if f.kind == "tile.kernel" else f for f in module.funcs)
    )
