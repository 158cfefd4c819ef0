"""Strategy `turn`: element-wise work whose operands lie in memory along different axes, by square tiles.

    for each tile (a, last) of each point of the other axes, one group:
        for each read that is contiguous along a: tile.map of the elements that it reads
        tile.map of the rest of the region, with those elements; stores along the last axis

A tile is small enough for the innermost cache, so that each line of memory is fetched once, and the lowering of the
first map may read along `a` and turn what it has read in registers. Targets without such a lowering use `lanes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera.shapes import Dim, ceildiv, product
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import LanesType, TileType, element
from tesseracc.ir.value import Op, Value
from tesseracc.passes.schedule.choose_strategy import turned_reads
from tesseracc.passes.schedule.elements import Emitter, Env, delinearize
from tesseracc.passes.schedule.to_tile_lanes import lower_lanes
from tesseracc.passes.schedule.tuning import Tuning


def lower_turn(group: Op, emitter: Emitter, tuning: Tuning) -> tuple[Dim, ...]:
    """Emits the body for one tile; the grid has one group per tile of every point of the other axes."""
    found = turned_reads(group)
    if found is None or not tuning.turn:
        return lower_lanes(group, emitter, tuning)
    axis, reads = found
    b, side = emitter.b, tuning.turn
    domain: tuple[Dim, ...] = group.attrs["domain"]
    args = group.regions[0].args
    outer = [at for at in range(len(domain) - 1) if at != axis]
    blocks = [ceildiv(domain[-1], side), ceildiv(domain[axis], side)]
    sizes = [emitter.dim(size) for size in (*(domain[at] for at in outer), *blocks)]
    # tiles along the axis of the reads are neighbours: memory that is read is prefetched by the machine
    *point, last_block, block = delinearize(b, b.op("tile.group_id"), sizes)
    origin = [b.op("arith.mul", at, b.const(side)) for at in (block, last_block)]
    ends = [emitter.dim(domain[axis]), emitter.dim(domain[-1])]
    extents = [b.op("arith.sub", end, start) for end, start in zip(ends, origin, strict=True)]
    fixed: Env = {args[at]: value for at, value in zip(outer, point, strict=True)}

    def inside(inner: Builder, given: Sequence[Value]) -> tuple[Emitter, Env]:
        inner.loc = b.loc
        rows, columns = (inner.op("arith.add", inner.op("tile.splat", at), i) for at, i in zip(origin, given))
        return emitter.in_lanes(inner), {**fixed, args[axis]: rows, args[-1]: columns}

    def fill(read: Op) -> Value:
        needed = _behind(group, read)

        def body(inner: Builder, given: list[Value]) -> Sequence[Value]:
            local, env = inside(inner, given)
            for op in needed:
                local.op(op, env)
            return [local.splat(env[read.result])]

        region = b.nested([LanesType("i64")] * 2, body, ("i", "j"))
        type_ = TileType((side, side), element(read.result.type))
        return b.emit("tile.map", extents, [], types=[type_], regions=[region], shape=(side, side)).result

    tiles = [fill(read) for read in reads]

    def rest(inner: Builder, given: list[Value]) -> Sequence[Value]:
        local, env = inside(inner, given[:2])
        env.update(zip((read.result for read in reads), given[2:], strict=True))
        for op in group.regions[0].ops:
            if not any(op is read for read in reads):
                local.op(op, env)
        return ()

    types = [LanesType("i64")] * 2 + [LanesType(element(tile.type)) for tile in tiles]
    region = b.nested(types, rest, ("i", "j"))
    b.emit("tile.map", extents, tiles, types=[], regions=[region], shape=(side, side))
    return (product(domain[at] for at in outer) * blocks[0] * blocks[1],)


def _behind(group: Op, read: Op) -> list[Op]:
    """The operations of the region that a read needs, itself included, in order."""
    needed = {read.result}
    found: list[Op] = []
    for op in reversed(group.regions[0].ops):
        if not needed.isdisjoint(op.results):
            needed.update(op.operands)
            found.append(op)
    return found[::-1]
