"""Control flow of a group on a CPU.

Uniform `scf` stays as it is. Of `tile` control flow:

- `tile.if` under no mask, on "the first lanes": one copy of the region without masks for the usual case that all lanes
  take part, one with masks for the ragged rest. Any other condition: masked, skipped when no lane takes part.
- `tile.for` whose index is affine with a uniform end: the iterations in which all lanes take part, without masks, then
  the rest with masks. Any other bounds, and `tile.while`: under a mask until no lane is left.

Masked code never makes copies again, so nesting of depth d gives d + 1 copies, not 2^d.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.types import I64, LanesType, ScalarType, TileType, Type, element
from tesseracc.ir.value import Op, Region, Value
from tesseracc.passes.target.lower_cpu_align import lanes_to_boundary
from tesseracc.passes.target.lower_cpu_forms import Pack, Unpack, carried, choose
from tesseracc.passes.target.lower_cpu_memory import flat_index
from tesseracc.passes.target.lower_cpu_prefetch import within
from tesseracc.passes.target.lower_cpu_tiles import as_carried, copy_tile, new_tile
from tesseracc.passes.target.lower_cpu_values import (
    ALL,
    Affine,
    Int,
    Kernel,
    Lane,
    Range,
    Rep,
    Splat,
    Stream,
    Tile,
    Vec,
)

LowerRegion = Callable[[Kernel, Region], list[Rep]]
#: a region of at most this many operations, without stores and uniform accesses, is computed without a branch
FLAT = 16


def lane(rep: Rep) -> Lane:
    assert isinstance(rep, (Affine, Splat, Range, Vec))
    return rep


def _fresh(k: Kernel, values: Sequence[Value]) -> list[Value]:
    return [Value(v.type) for v in values]


class _Tiles:
    """Tiles among carried values: they stay in place, in one buffer per carried tile."""

    def __init__(self, k: Kernel, op: Op, inits: Sequence[Value]) -> None:
        self.k = k
        self.which = [i for i, v in enumerate(inits) if isinstance(v.type, TileType)]
        self.plain = [i for i in range(len(inits)) if i not in self.which]
        self.homes: dict[int, Tile] = {i: as_carried(k, op, inits[i]) for i in self.which}

    def join(self, plain: Sequence[Rep]) -> list[Rep]:
        """All carried values in order."""
        found: dict[int, Rep] = dict(zip(self.plain, plain, strict=True))
        found.update(self.homes)
        return [found[i] for i in range(len(found))]

    def settle(self, reps: Sequence[Rep]) -> list[Rep]:
        """Brings yielded tiles into their homes; returns the other values."""
        homes = {home.ptr for home in self.homes.values()}
        moves: list[tuple[Tile, Tile]] = []
        for i in self.which:
            rep = reps[i]
            assert isinstance(rep, Tile)
            if rep.ptr is self.homes[i].ptr:
                continue
            if rep.ptr in homes:  # another carried tile, which may be overwritten first
                spare = new_tile(self.k, rep.shape, rep.dtype)
                copy_tile(self.k, rep, spare)
                rep = spare
            moves.append((rep, self.homes[i]))
        for source, target in moves:
            copy_tile(self.k, source, target)
        return [reps[i] for i in self.plain]


def _loop(
    k: Kernel, op: Op, lo: Rep, hi: Rep, step: Rep, body: Callable[[Rep, list[Rep]], list[Rep]], inits: Sequence[Value]
) -> list[Rep]:
    """A uniform counted loop: the same for all lanes."""
    tiles = _Tiles(k, op, inits)
    bounds = [k.scalar(rep) for rep in (lo, hi, step)]

    def emit(first: list[Value], unpack: Unpack, pack: Pack) -> Sequence[Value]:
        args = [Value(bounds[0].type, "i"), *_fresh(k, first)]
        region = k.inside(lambda: pack(tiles.settle(body(k.wrap_scalar(args[0]), tiles.join(unpack(args[1:]))))), args)
        return k.b.emit("scf.for", *bounds, first, types=[v.type for v in first], regions=[region]).results

    plain = [inits[i] for i in tiles.plain]
    return tiles.join(carried(k, [k.env[v] for v in plain], [v.type for v in plain], emit))


# -- scf ---------------------------------------------------------------------------------------------------------------


def lower_scf_for(k: Kernel, op: Op, lower: LowerRegion) -> list[Rep]:
    region = op.regions[0]

    def body(index: Rep, values: list[Rep]) -> list[Rep]:
        k.env.update(zip(region.args, [index, *values], strict=True))
        return lower(k, region)

    lo, hi, step = (k.env[v] for v in op.operands[:3])
    by = step.base if isinstance(step, Affine) and step.stride == 0 else None
    stream = None if by is None else Stream(region.args[0], by, op)
    return within(k, stream, lambda: _loop(k, op, lo, hi, step, body, op.group("inits")))


def lower_scf_while(k: Kernel, op: Op, lower: LowerRegion) -> list[Rep]:
    test, work = op.regions
    inits = op.group("inits")
    tiles = _Tiles(k, op, inits)

    def emit(first: list[Value], unpack: Unpack, pack: Pack) -> Sequence[Value]:
        def run(region: Region, args: list[Value]) -> list[Rep]:
            k.env.update(zip(region.args, tiles.join(unpack(args)), strict=True))
            return lower(k, region)

        args, more = _fresh(k, first), _fresh(k, first)
        regions = [
            k.inside(lambda: [k.scalar(run(test, args)[0])], args),
            k.inside(lambda: pack(tiles.settle(run(work, more))), more),
        ]
        return k.b.emit("scf.while", first, types=[v.type for v in first], regions=regions).results

    plain = [inits[i] for i in tiles.plain]
    return tiles.join(carried(k, [k.env[v] for v in plain], [v.type for v in plain], emit))


def lower_scf_if(k: Kernel, op: Op, lower: LowerRegion) -> list[Rep]:
    """Only one of the regions runs: they have the same scratch memory."""
    start = most = k.scratch_bytes

    def branch(region: Region) -> list[Rep]:
        nonlocal most
        saved, k.scratch_bytes = dict(k.temporaries), start
        found = lower(k, region)
        k.scratch_bytes = most = max(most, k.scratch_bytes)
        k.temporaries = saved
        return found

    cond, types = k.scalar(k.env[op["cond"]]), [r.type for r in op.results]
    return choose(k, cond, types, *(lambda region=region: branch(region) for region in op.regions))


# -- tile.if -----------------------------------------------------------------------------------------------------------


def _dummy(k: Kernel, type_: Type) -> Rep:
    """Any value: no lane looks at it."""
    if not isinstance(type_, LanesType):
        raise TesseraError("E404", f"@{k.func.name}: a varying `tile.if` yields the uniform type {type_}")
    if type_.dtype == "i64":
        return Affine(0)
    zero = False if type_.dtype == "bool" else 0.0 if type_.dtype[0] in "fb" else 0
    return Splat(k.b.const(zero, ScalarType(type_.dtype)))


def _flat(region: Region) -> bool:
    """Whether a region may be computed when no lane takes part, and is cheap."""
    if len(region.ops) > FLAT:
        return False
    for op in region.ops:
        if op.name == "tile.load":
            if not isinstance(op.result.type, LanesType) or not any(
                isinstance(v.type, LanesType) for v in op.group("indices")
            ):
                return False
        elif op.regions or op.defn.effect != "pure":
            return False
    return True


def lower_tile_if(k: Kernel, op: Op, lower: LowerRegion) -> list[Rep]:
    cond = lane(k.env[op["cond"]])
    types = [r.type for r in op.results]
    then, orelse = op.regions
    if isinstance(cond, Splat):
        return choose(k, cond.value, types, lambda: lower(k, then), lambda: lower(k, orelse))

    def masked() -> list[Rep]:
        """Both regions, each under its mask; a region that no lane enters is skipped."""
        found = []
        for region, mask in ((then, cond), (orelse, k.invert(cond))):
            part = k.meet(k.mask, mask)

            def work(region: Region = region, part: Lane = part) -> list[Rep]:
                return k.under(part, lambda: lower(k, region))

            if _flat(region):
                found.append(work())
            else:
                found.append(choose(k, k.any(part), types, work, lambda: [_dummy(k, type_) for type_ in types]))
        return k.merge_all(cond, found[0], found[1], types)

    if k.mask != ALL or not isinstance(cond, Range):
        return masked()

    def rest() -> list[Rep]:
        if not orelse.ops and not types:
            return choose(k, k.any(cond), types, lambda: k.under(cond, lambda: lower(k, then)), list)
        return choose(k, k.any(cond), types, masked, lambda: lower(k, orelse))

    return choose(k, k.all(cond), types, lambda: lower(k, then), rest)


# -- tile.for, tile.while ----------------------------------------------------------------------------------------------


def lower_tile_for(k: Kernel, op: Op, lower: LowerRegion) -> list[Rep]:
    lo, hi, step = (lane(k.env[v]) for v in op.operands[:3])
    region, inits = op.regions[0], op.group("inits")

    def body(index: Rep, values: Sequence[Rep]) -> list[Rep]:
        k.env.update(zip(region.args, [index, *values], strict=True))
        return lower(k, region)

    uniform = all(isinstance(rep, Splat) or (isinstance(rep, Affine) and rep.stride == 0) for rep in (lo, hi, step))
    if uniform:  # every lane does the same iterations
        return _loop(k, op, lo, hi, step, body, inits)
    if any(isinstance(v.type, TileType) for v in inits):
        raise TesseraError("E404", f"@{k.func.name}: a loop with varying bounds carries a tile")
    types = [v.type for v in inits]
    state = [k.env[v] for v in inits]
    match lo, hi, step:
        case Affine(base, int() as slope), Affine(end, 0), Affine(by, 0) if slope > 0:
            stream = Stream(region.args[0], by, op)
            if k.mask == ALL and slope == 1 and by == k.width:
                base = _aligned(k, op, base, end, lambda index: body(index, ()))
            start = base
            if k.mask == ALL:
                full = k.sub(end, (k.width - 1) * slope)

                def main(first: list[Value], unpack: Unpack, pack: Pack) -> Sequence[Value]:
                    def work(i: Value, args: list[Value]) -> list[Value]:
                        new = within(k, stream, lambda: body(Affine(i, slope), unpack(args)[:-1]))
                        return pack([*new, Affine(k.add(i, by))])

                    return k.loop(base, full, by, first, work)

                *state, last = carried(k, [*state, Affine(k.value(base))], [*types, I64], main)
                assert isinstance(last, Affine)
                start = last.base

            def tail(first: list[Value], unpack: Unpack, pack: Pack) -> Sequence[Value]:
                def work(i: Value, args: list[Value]) -> list[Value]:
                    old = unpack(args)
                    inside = Range(None, k.ceildiv(k.sub(end, i), slope))
                    mask = k.meet(k.mask, inside)
                    # lane 0 takes part, unless an outer mask excludes it
                    some = True if isinstance(mask, Range) and mask.lo is None else k.any(mask)
                    new = choose(
                        k, some, types, lambda: k.under(mask, lambda: body(Affine(i, slope), old)), lambda: old
                    )
                    return pack(k.merge_all(inside, new, old, types))

                return k.loop(start, end, by, first, work)

            return carried(k, state, types, tail)
    return _lane_loop(k, lo, hi, step, element(op.operands[0].type), state, types, body)


def _aligned(k: Kernel, op: Op, base: Int, end: Int, body: Callable[[Rep], list[Rep]]) -> Int:
    """Runs the lanes up to a boundary of memory, where that is of use; returns the index at which the loop goes on."""
    lanes = lanes_to_boundary(k, op, base, lambda buf, indices: flat_index(k, buf, indices))
    if lanes is None:
        return base
    first = Range(None, k.min(lanes, k.sub(end, base)))
    choose(k, k.any(first), [], lambda: k.under(first, lambda: body(Affine(base, 1))), list)
    return k.add(base, lanes)


def _lane_loop(
    k: Kernel,
    lo: Lane,
    hi: Lane,
    step: Lane,
    dtype: str,
    state: list[Rep],
    types: list[Type],
    body: Callable[[Rep, list[Rep]], list[Rep]],
) -> list[Rep]:
    """Bounds of any kind: each lane counts on its own, under a mask until no lane is left."""
    end, by = k.vector(hi, dtype), k.vector(step, dtype)

    def below(index: Value, mask: Lane) -> Vec:
        return Vec(k.vector(k.meet(mask, Vec(k.b.op("arith.cmp", index, end, pred="lt"))), "bool"))

    first_index = k.vector(lo, dtype)
    first_mask = below(first_index, k.mask)
    control: list[Type] = [LanesType(dtype), LanesType("bool")]

    def work(values: list[Rep]) -> list[Rep]:
        index, mask, *old = values
        assert isinstance(index, Vec) and isinstance(mask, Vec)
        new = k.under(mask, lambda: body(index, old))
        merged = k.merge_all(mask, new, old, types)
        following = k.b.op("arith.add", index.value, by)
        return [Vec(following), below(following, mask), *merged]

    return _until_none(k, [Vec(first_index), first_mask, *state], [*control, *types], 1, work)[2:]


def _until_none(
    k: Kernel, state: list[Rep], types: list[Type], mask_at: int, work: Callable[[list[Rep]], list[Rep]]
) -> list[Rep]:
    """Repeats `work` while a lane of the carried mask takes part."""

    def emit(first: list[Value], unpack: Unpack, pack: Pack) -> Sequence[Value]:
        args, more = _fresh(k, first), _fresh(k, first)
        regions = [
            k.inside(lambda: [k.known(k.any(lane(unpack(args)[mask_at])))], args),
            k.inside(lambda: pack(work(unpack(more))), more),
        ]
        return k.b.emit("scf.while", first, types=[v.type for v in first], regions=regions).results

    return carried(k, state, types, emit)


def lower_tile_while(k: Kernel, op: Op, lower: LowerRegion) -> list[Rep]:
    """The mask of the lanes that go on is computed before the loop and at the end of each iteration."""
    test, region = op.regions
    inits = op.group("inits")
    types = [v.type for v in inits]

    def going(mask: Lane, values: Sequence[Rep]) -> Vec:
        def check() -> list[Rep]:
            k.env.update(zip(test.args, values, strict=True))
            return lower(k, test)

        return Vec(k.vector(k.meet(mask, lane(k.under(mask, check)[0])), "bool"))

    def work(values: list[Rep]) -> list[Rep]:
        mask, *old = values
        assert isinstance(mask, Vec)

        def inside() -> list[Rep]:
            k.env.update(zip(region.args, old, strict=True))
            return lower(k, region)

        new = k.under(mask, inside)
        merged = k.merge_all(mask, new, old, types)
        return [going(mask, merged), *merged]

    state = [k.env[v] for v in inits]
    return _until_none(k, [going(k.mask, state), *state], [LanesType("bool"), *types], 0, work)[1:]
