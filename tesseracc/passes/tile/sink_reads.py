"""`sink-reads`: an operand of products is read from shared memory where it is used first.

    a = read R;  x = work(..);  y = mma(x, a, ..)      =>      x = work(..);  a = read R;  y = mma(x, a, ..)

Registers hold it from the read to the product: not while other products and the work between them need theirs. A read
and what transposes it move down in their region, up to their first use and not behind a write to the buffer, or to one
that is chosen while running. (No barrier stands in their way: what a group does with tiles has the order of the
program, whoever provides for it.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tesseracc.ir.dialects.tile_values import WRITERS
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, users_of
from tesseracc.ir.types import BufType
from tesseracc.ir.value import Func, Module, Op, Region, Value


def sunk(kernel: Func) -> Func:
    """One kernel."""
    users = users_of(kernel)
    ops = list(kernel.walk())
    own = {op.result for op in ops if op.name == "tile.alloc"}
    operands: set[Value] = set()  # of products alone, as they are or transposed
    for op in reversed(ops):
        if op.name != "tile.transpose" and (op.name != "tile.read" or op["buf"] not in own):
            continue
        if all(_takes(user, op.result) or operands.intersection(user.results) for user in users[op.result]):
            operands.add(op.result)
    for op in ops:
        if op.name == "tile.transpose" and op["a"] not in operands:  # of a tile in registers
            operands.discard(op.result)
    return replace(kernel, body=_region(kernel.body, operands, own))


def _takes(op: Op, value: Value) -> bool:
    return op.name == "tile.mma" and op["acc"] is not value


def _region(region: Region, operands: set[Value], own: set[Value]) -> Region:
    ops: list[Op] = []
    waiting: list[Op] = []  # in program order

    def release(values: Iterable[Value]) -> None:
        """Puts here what makes some values."""
        needed = set(values)
        found = []
        for op in reversed(waiting):
            if op.result in needed:
                needed.update(op.operands)
                found.append(op)
        ops.extend(reversed(found))
        for op in found:
            waiting.remove(op)

    for op in region.ops:
        if operands.intersection(op.results):
            waiting.append(op)
            continue
        inside = list(op.walk())
        changed = {inner.operands[1] for inner in inside if inner.name in WRITERS}
        behind = [read for read in waiting if read.name == "tile.read" and _may_change(changed, read["buf"], own)]
        used = [v for inner in inside for v in (*inner.operands, *(y for r in inner.regions for y in r.yields))]
        release([*used, *(read.result for read in behind)])
        regions = tuple(_region(inner, operands, own) for inner in op.regions)
        ops.append(replace(op, regions=regions) if regions else op)
    release([op.result for op in waiting])
    return Region(region.args, tuple(ops), region.yields)


def _may_change(changed: set[Value], buf: Value, own: set[Value]) -> bool:
    """Whether one of the changed buffers is this one, or shared memory that another name stands for."""
    return buf in changed or any(_shared(other) and other not in own for other in changed)


def _shared(buf: Value) -> bool:
    return isinstance(buf.type, BufType) and buf.type.space == "shared"


@register("sink-reads", level="tile")
def run(module: Module, context: Context) -> Module:
    """Reads operands of products from shared memory where they are used first."""
    return module.with_(funcs=map_funcs(module.funcs, "tile.kernel", sunk))
