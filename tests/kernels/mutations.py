"""Faults that a wrong pass would make, put into the Tile IR of a kernel one at a time.

- a loop leaves out its first or its last block
- a mask lets everything through
- what a loop adds up is kept in a narrow type between two blocks
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tesseracc.ir.builder import Builder
from tesseracc.ir.types import TileType, element
from tesseracc.ir.value import Func, Module, Op, Region, Value


@dataclass(frozen=True, slots=True)
class Mutation:
    """A fault, where it is in the source, the variable that it changes, and the module that has it."""

    kind: str
    file: str
    line: int
    name: str
    module: Module


def changed(region: Region, op: Op, new: list[Op]) -> Region:
    """The region with one operation, here or in an inner region, replaced by others."""
    ops: list[Op] = []
    for each in region.ops:
        if each is op:
            ops += new
        else:
            regions = tuple(changed(inner, op, new) for inner in each.regions)
            ops.append(replace(each, regions=regions) if each.regions else each)
    return replace(region, ops=tuple(ops))


def shortened(op: Op, last: bool) -> list[Op]:
    """A loop without its first or last block; the last one is where the loop would end, ragged or not."""
    b = Builder(op.loc)
    lo, hi, step = op["lo"], op["hi"], op["step"]
    if last:
        one = b.const(1)
        count = b.op("arith.floordiv", b.op("arith.sub", b.op("arith.add", b.op("arith.sub", hi, lo), step), one), step)
        hi = b.op("arith.add", lo, b.op("arith.mul", b.op("arith.sub", count, one), step))
    else:
        lo = b.op("arith.add", lo, step)
    return [*b.ops, replace(op, operands=(lo, hi, *op.operands[2:]))]


def unmasked(op: Op) -> list[Op]:
    b = Builder(op.loc)
    everything = b.const(True, op["cond"].type)
    return [*b.ops, replace(op, operands=(everything, *op.operands[1:]))]


def narrowed(op: Op, at: int, narrow: str) -> list[Op]:
    """A loop that rounds one of its carried tiles at the end of each iteration."""
    region = op.regions[0]
    b = Builder(op.loc)
    value = region.yields[at]
    found: Value = b.op("arith.cast", b.op("arith.cast", value, to=narrow), to=element(value.type))
    yields = (*region.yields[:at], found, *region.yields[at + 1 :])
    return [replace(op, regions=(replace(region, ops=(*region.ops, *b.ops), yields=yields),))]


def mutations(module: Module, narrow: str) -> Iterator[Mutation]:
    """Every mutation of every kernel of a module, in the order of the operations."""
    for func in module.funcs:
        if func.kind != "tile.kernel":
            continue

        def mutant(kind: str, op: Op, new: list[Op], name: str = "", func: Func = func) -> Mutation:
            other = replace(func, body=changed(func.body, op, new))
            funcs = tuple(other if f is func else f for f in module.funcs)
            assert op.loc is not None
            return Mutation(kind, op.loc.file, op.loc.line, name, module.with_(funcs=funcs))

        for op in func.walk():
            if op.name == "scf.for":
                yield mutant("first block", op, shortened(op, last=False))
                yield mutant("last block", op, shortened(op, last=True))
                for at, value in enumerate(op.regions[0].yields):
                    if isinstance(value.type, TileType) and value.type.dtype in ("f32", "f64"):
                        yield mutant("narrow", op, narrowed(op, at, narrow), op.results[at].name)
            elif op.name == "arith.select" and isinstance(op.result.type, TileType):
                yield mutant("mask", op, unmasked(op))
