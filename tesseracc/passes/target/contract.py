"""`contract`: x * y + z as one fused multiply-add, where the numeric profile allows it and the target has it.

It runs before functions become polynomials: their steps are chosen for where they round.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, remove_dead, uses
from tesseracc.ir.types import element
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.numerics import allows

SUMS = ("arith.add", "arith.sub")


class _Contraction:
    def __init__(self, func: Func) -> None:
        self.used = uses(func.body)
        self.added = Counter(v for op in func.walk() if op.name in SUMS for v in set(op.operands))
        self.products: dict[Value, Op] = {}
        self.count = 0

    def region(self, region: Region) -> Region:
        b = Builder()
        for op in region.ops:
            b.loc = op.loc
            if op.regions:
                op = replace(op, regions=tuple(self.region(inner) for inner in op.regions))
            if op.name == "arith.mul" and element(op.result.type) in ("f32", "f64"):
                self.products[op.result] = op
            fused = self.fused(b, op) if op.name in SUMS else None
            b.append(op if fused is None else replace(fused, results=op.results))
        return Region(region.args, tuple(b.ops), region.yields)

    def fused(self, b: Builder, op: Op) -> Op | None:
        """The multiply-add that an addition is, if one operand is a product that only such sums use."""
        for at, value in enumerate(op.operands):
            product = self.products.get(value)
            if product is None or self.used[value] != self.added[value]:
                continue
            x, y = product.operands
            z = op.operands[1 - at]
            if op.name == "arith.sub":  # x * y - z, z - x * y
                x, z = (b.op("arith.neg", x), z) if at == 1 else (x, b.op("arith.neg", z))
            self.count += 1
            made = Builder(op.loc).emit("arith.fma", x, y, z)
            return made
        return None


@register("contract", level="target")
def run(module: Module, context: Context) -> Module:
    """Fuses multiplications and additions, where the numeric profile allows it."""
    if not allows(context.numerics, "contract") or not context.need_arch().has("fma"):
        return module

    def change(func: Func) -> Func:
        contraction = _Contraction(func)
        body = contraction.region(func.body)
        if contraction.count:
            context.permit("contract", f"{contraction.count} times in {func.name}", func.loc)
        return func.with_(body=remove_dead(body))

    return module.with_(funcs=map_funcs(module.funcs, "target.func", change))
