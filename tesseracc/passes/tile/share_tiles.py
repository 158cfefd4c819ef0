"""`share-tiles`: equal operations of a kernel are one, and a tile is masked before its elements are cast.

    b = cast a;  c = select m, b, 0     =>     d = select m, a, 0;  c = cast d

Masking an operand of a product and masking what is summed are the same operation then, and registers hold one tile in
place of two. A cast of 0 is 0, so every element has the same bits.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, map_ops, remove_dead, uses
from tesseracc.ir.types import TileType, Type, element, kind_of
from tesseracc.ir.value import Func, Module, Op, Region, Value

#: name, operands, attributes as they are spelled (0.0 is not -0.0), types
Key = tuple[str, tuple[Value, ...], tuple[tuple[str, str], ...], tuple[Type, ...]]


def shared(kernel: Func) -> Func:
    """One kernel."""
    body = _once(_masked_first(kernel.body), {}, {})
    return replace(kernel, body=remove_dead(body))


def _masked_first(body: Region) -> Region:
    counts = uses(body)
    makers = {r: op for region_op in body.ops for op in region_op.walk() for r in op.results}

    def visit(op: Op) -> list[Op] | None:
        if op.name != "arith.select" or not isinstance(op.result.type, TileType):
            return None
        mask, kept, other = op.operands
        cast, zero = makers.get(kept), makers.get(other)
        if cast is None or cast.name != "arith.cast" or counts[kept] != 1 or not _is_zero(zero):
            return None
        wide = cast["a"]
        if not kind_of(element(wide.type)) == kind_of(element(kept.type)) == "f":
            return None
        b = Builder(op.loc)
        masked = b.op("arith.select", mask, wide, b.op("arith.constant", types=wide.type, value=0.0))
        return [*b.ops, replace(cast, operands=(masked,), results=op.results)]

    return map_ops(body, visit)


def _is_zero(op: Op | None) -> bool:
    """Whether an operation gives nothing but +0."""
    if op is None or op.name not in ("tile.zeros", "arith.constant"):
        return False
    return op.name == "tile.zeros" or repr(op.attrs["value"]) in ("0", "0.0")


def _once(region: Region, known: dict[Key, Op], subst: dict[Value, Value]) -> Region:
    """The region without what it, or a region around it, has computed before."""
    known = dict(known)
    ops: list[Op] = []
    for op in region.ops:
        op = replace(op, operands=tuple(subst.get(v, v) for v in op.operands))
        if op.regions:
            op = replace(op, regions=tuple(_once(r, known, subst) for r in op.regions))
        elif op.defn.effect == "pure" and op.name != "tile.alloc":
            spelled = tuple(sorted((name, repr(value)) for name, value in op.attrs.items()))
            key = (op.name, op.operands, spelled, tuple(r.type for r in op.results))
            if key in known:
                subst.update(zip(op.results, known[key].results, strict=True))
                continue
            known[key] = op
        ops.append(op)
    return Region(region.args, tuple(ops), tuple(subst.get(v, v) for v in region.yields))


@register("share-tiles", level="tile")
def run(module: Module, context: Context) -> Module:
    """Shares equal operations of kernels, and masks tiles before casts."""
    return module.with_(funcs=map_funcs(module.funcs, "tile.kernel", shared))
