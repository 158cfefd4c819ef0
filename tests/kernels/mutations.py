"""Faults that a wrong pass would make, put into the Tile IR of a kernel one at a time.

- a loop leaves out its first or its last block, that of a lane its first or its last round
- a mask lets everything through, a guard every lane
- a sum over an axis leaves out the first part
- what is added up is kept in a narrow type: between two blocks, in memory, or before a sum over an axis
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tesseracc.ir.builder import Builder
from tesseracc.ir.types import BOOL, LanesType, TileType, element
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
    if op.name == "tile.for":
        if last:
            hi = b.op("arith.sub", hi, step)
        else:
            lo = b.op("arith.add", lo, b.op("tile.splat", step))
    elif last:
        one = b.const(1)
        count = b.op("arith.floordiv", b.op("arith.sub", b.op("arith.add", b.op("arith.sub", hi, lo), step), one), step)
        hi = b.op("arith.add", lo, b.op("arith.mul", b.op("arith.sub", count, one), step))
    else:
        lo = b.op("arith.add", lo, step)
    return [*b.ops, replace(op, operands=(lo, hi, *op.operands[2:]))]


def unmasked(op: Op) -> list[Op]:
    b = Builder(op.loc)
    everything = b.const(True, BOOL) if op.name == "tile.if" else b.const(True, op["cond"].type)
    if op.name == "tile.if":
        everything = b.op("tile.splat", everything)
    return [*b.ops, replace(op, operands=(everything, *op.operands[1:]))]


def rounded(b: Builder, value: Value, narrow: str) -> Value:
    return b.op("arith.cast", b.op("arith.cast", value, to=narrow), to=element(value.type))


def narrowed(op: Op, at: int, narrow: str) -> list[Op]:
    """A loop that rounds one of its carried values at the end of each iteration."""
    region = op.regions[0]
    b = Builder(op.loc)
    found = rounded(b, region.yields[at], narrow)
    yields = (*region.yields[:at], found, *region.yields[at + 1 :])
    return [replace(op, regions=(replace(region, ops=(*region.ops, *b.ops), yields=yields),))]


def narrowed_operand(op: Op, narrow: str) -> list[Op]:
    """A store of a sum, or a sum, whose operand is rounded."""
    b = Builder(op.loc)
    found = rounded(b, op.operands[0], narrow)
    return [*b.ops, replace(op, operands=(found, *op.operands[1:]))]


def without_first(op: Op) -> list[Op]:
    """A sum over an axis that takes the first part for 0."""
    b = Builder(op.loc)
    value, axis = op["a"], op.attrs["axis"]
    shape = value.type.shape  # type: ignore[union-attr]
    places = b.op("tile.coordinate", types=TileType(shape, "i64"), axis=axis)
    zero = b.op("tile.zeros", types=TileType(shape, "i64"))
    cond = b.op("arith.cmp", places, zero, pred="gt")
    rest = b.op("arith.select", cond, value, b.op("tile.zeros", types=value.type))
    return [*b.ops, replace(op, operands=(rest,))]


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

        ops = list(func.walk())
        read = {op["buf"] for op in ops if op.name == "tile.read"}
        for op in ops:
            if op.name in ("scf.for", "tile.for"):
                yield mutant("first block", op, shortened(op, last=False))
                yield mutant("last block", op, shortened(op, last=True))
                for at, value in enumerate(op.regions[0].yields):
                    if wide(value):
                        yield mutant("narrow", op, narrowed(op, at, narrow), op.results[at].name)
            elif (op.name == "arith.select" and isinstance(op.result.type, TileType)) or op.name == "tile.if":
                yield mutant("mask", op, unmasked(op))
            elif op.name == "tile.write" and op["buf"] in read and wide(op["value"]):
                yield mutant("narrow", op, narrowed_operand(op, narrow), op["buf"].name)
            elif op.name == "tile.fold" and op.attrs["kind"] == "add":
                yield mutant("part", op, without_first(op), op.result.name)
                if wide(op["a"]):
                    yield mutant("narrow", op, narrowed_operand(op, narrow), op.result.name)


def wide(value: Value) -> bool:
    return isinstance(value.type, TileType | LanesType) and value.type.dtype in ("f32", "f64")
