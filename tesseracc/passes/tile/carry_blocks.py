"""`carry-blocks`: a block that a loop reads, changes and writes back in every iteration stays in registers.

    for k:                          c = read C[m, n]
        c = read C[m, n]            c = for k, carried c:
        d = c + ..            =>        d = c + ..
        write d, C[m, n]                yield d
                                    write c, C[m, n]

That holds for a buffer which the loop touches in no other way, at a place that does not depend on the iteration: no two
buffers that a kernel is given overlap if it writes to one. Of the block, what lies outside of the buffer reads as 0 and
is never written, so between the read and the write may only be arithmetic element by element, which keeps that apart.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, map_ops, substitute
from tesseracc.ir.types import BufType, TileType
from tesseracc.ir.value import Func, Module, Op, Region, Value


def carried(kernel: Func) -> Func:
    """One kernel."""
    return replace(kernel, body=map_ops(kernel.body, _loop))


def _loop(op: Op) -> list[Op] | None:
    """The loop with its blocks carried, the reads before it and the writes behind it; None if there are none."""
    before: list[Op] = []
    behind: list[Op] = []
    found = op
    while op.name == "scf.for":
        pair = _pair(found.regions[0])
        if pair is None:
            break
        first, found, last = _carry(found, *pair)
        before += first
        behind += last
    return [*before, found, *behind] if before else None


def _pair(body: Region) -> tuple[Op, Op] | None:
    """A read and a write of one block, the only operations of the loop on their buffer."""
    for write in body.ops:
        if write.name != "tile.write" or write.group("counts"):
            continue
        touching = [op for top in body.ops for op in top.walk() if write["buf"] in op.operands]
        if len(touching) != 2 or touching[1] is not write:
            continue
        read, type_ = touching[0], write["buf"].type
        if read.name != "tile.read" or read not in body.ops:
            continue
        assert isinstance(type_, BufType)
        same = read.result.type == write["value"].type and read.attrs["axes"] == write.attrs["axes"]
        if type_.space == "global" and same and _same_place(read, write, body) and _elementwise(read, write, body):
            return read, write
    return None


def _same_place(read: Op, write: Op, body: Region) -> bool:
    """Whether both begin at the same indices, which the loop does not change."""
    inside = {result: op for op in body.ops for result in op.results}
    for a, b in zip(read.group("indices"), write.group("indices"), strict=True):
        made = inside.get(a), inside.get(b)
        constants = all(op is not None and op.name == "arith.constant" for op in made)
        if constants and made[0] is not None and made[1] is not None:
            if made[0].attrs["value"] != made[1].attrs["value"]:
                return False
        elif a is not b or made[0] is not None or a in body.args:
            return False
    return True


def _elementwise(read: Op, write: Op, body: Region) -> bool:
    """Whether nothing but arithmetic on tiles uses what was read and what is made of it, up to the write."""
    reached = {read.result}
    for op in body.ops:
        if op is write or not reached & _used(op):
            continue
        if op.defn.dialect != "arith" or not isinstance(op.result.type, TileType):
            return False
        reached.add(op.result)
    return not reached & set(body.yields) and write["value"] in reached


def _used(op: Op) -> set[Value]:
    inner = list(op.walk())
    return {v for o in inner for v in o.operands} | {v for o in inner for r in o.regions for v in r.yields}


def _carry(op: Op, read: Op, write: Op) -> tuple[list[Op], Op, list[Op]]:
    """The read before the loop, the loop, and the write behind it."""
    body = op.regions[0]
    inside = {result: o for o in body.ops for result in o.results}
    b = Builder(read.loc)
    at = [b.const(inside[v].attrs["value"]) if v in inside else v for v in read.group("indices")]
    start = b.op("tile.read", read["buf"], at, types=read.result.type, axes=read.attrs["axes"])
    held = Value(read.result.type, read.result.name)
    ops = tuple(o for o in body.ops if o is not read and o is not write)
    region = substitute(Region((*body.args, held), ops, (*body.yields, write["value"])), {read.result: held})
    after = Value(read.result.type, read.result.name)
    segments = (*op.segments[:3], op.segments[3] + 1)
    loop = replace(
        op, operands=(*op.operands, start), segments=segments, results=(*op.results, after), regions=(region,)
    )
    end = Builder(write.loc)
    end.emit("tile.write", after, write["buf"], at, [], axes=write.attrs["axes"])
    return b.ops, loop, end.ops


@register("carry-blocks", level="tile")
def run(module: Module, context: Context) -> Module:
    """Keeps blocks that a loop updates in registers."""
    return module.with_(funcs=map_funcs(module.funcs, "tile.kernel", carried))
