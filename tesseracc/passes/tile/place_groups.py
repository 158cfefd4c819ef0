"""`place-groups`: which block of the work each block of the launch does, and when.

    body(group_id 0, group_id 1)  =>  i, j = decode(group_id): body(i, j)                    an order (group_order.py)
                                  or  for t = group_id, group_id + group_count, .. below tiles:
                                          i, j = decode(t): body(i, j)                       persistent

A kernel whose copies run ahead of its products is persistent: as many blocks as the chip holds take one tile of the
work after the other, so that the copies of the next tile run while the result of this one is stored. Results do not
depend on how many blocks there are. In a cluster (attribute `cluster`: blocks, axis) neighbours along an axis take the
tiles of a pair: t counts pairs, and the block's rank is the low bit of the index along that axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tessera.polynomials import dim_min
from tessera.shapes import Dim
from tesseracc.analysis.occupancy import blocks_at_once
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, map_ops, remove_dead, substitute
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.passes.tile.group_order import Order, choose_order, decode


def placed(kernel: Func, context: Context) -> Func:
    """One kernel."""
    arch = context.need_arch()
    if any(op.name == "tile.linear_id" for op in kernel.walk()):
        return kernel
    grid = tuple(kernel.attrs["grid"])
    cluster, axis = kernel.attrs.get("cluster", (1, 0))
    inner = tuple(size // cluster if number == axis else size for number, size in enumerate(grid))
    order = choose_order(kernel, arch)
    tiles: Dim = 1
    for size in inner:
        tiles = tiles * size
    # as many as the chip holds; whole clusters
    most = arch.throughput.units * blocks_at_once(kernel, arch) // cluster
    few = isinstance(tiles, int) and tiles <= most
    persistent = bool(kernel.attrs.get("tensor_copies")) and not few
    plain = order == Order(tuple(range(len(grid))))
    if plain and not persistent and cluster == 1:
        return kernel
    if not plain:
        context.note(f"@{kernel.name}: blocks in {order}: neighbours share operands", kernel.loc)
    allocs = [op for op in kernel.body.ops if op.name == "tile.alloc"]
    rest = Region((), tuple(op for op in kernel.body.ops if op.name != "tile.alloc"))
    b = Builder(kernel.loc)
    for op in allocs:
        b.append(op)
    first = b.op("tile.group_id")
    rank = b.op("arith.and", first, b.const(cluster - 1)) if cluster > 1 else None
    shift = b.const(cluster.bit_length() - 1) if cluster > 1 else None

    def body(inside: Builder, number: Value) -> None:
        found = decode(inside, inside.op("arith.cast", number, to="u32"), inner, order)
        if rank is not None:
            found[axis] = inside.op("arith.add", inside.op("arith.mul", found[axis], inside.const(cluster)), rank)
        for op in _with_ids(rest, found).ops:
            inside.append(op)

    first = b.op("arith.shr", first, shift) if shift is not None else first
    if persistent:
        stride = b.op("tile.group_count")
        stride = b.op("arith.shr", stride, shift) if shift is not None else stride

        def step(inside: Builder, number: Value, carried: Sequence[Value]) -> list[Value]:
            body(inside, number)
            if _touches_elements(rest, {op.result for op in allocs}):
                inside.emit("tile.barrier")  # the next tile's accesses come behind those of this one
            return []

        b.for_(first, b.op("tile.dim", expr=tiles), stride, [], step)
        launched = dim_min(tiles, most)
        blocks = launched * cluster
        context.note(f"@{kernel.name}: {blocks} blocks take the tiles in turn, copies run ahead", kernel.loc)
    else:
        body(b, first)
        launched = tiles
    region = remove_dead(b.region(list(kernel.params)))
    return replace(kernel, body=region, attrs={**kernel.attrs, "grid": (launched * cluster,)})


def _with_ids(region: Region, ids: Sequence[Value]) -> Region:
    """The region with the indices of the block replaced."""
    known = {op.result: ids[op.attrs["axis"]] for op in _walk(region) if op.name == "tile.group_id"}
    return substitute(map_ops(region, lambda op: [] if op.name == "tile.group_id" else None), known)


def _walk(region: Region) -> list[Op]:
    return [inner for op in region.ops for inner in op.walk()]


def _touches_elements(region: Region, buffers: set[Value]) -> bool:
    """Whether lanes access shared memory on their own: such accesses have no order but that of barriers."""
    return any(op.name in ("tile.load", "tile.store", "tile.update") and op["buf"] in buffers for op in _walk(region))


@register("place-groups", level="tile")
def run(module: Module, context: Context) -> Module:
    """Orders the blocks of a launch so that neighbours share operands, and lets blocks take several tiles."""
    context.need_arch()
    return module.with_(funcs=map_funcs(module.funcs, "tile.kernel", lambda kernel: placed(kernel, context)))
