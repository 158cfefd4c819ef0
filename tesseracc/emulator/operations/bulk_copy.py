"""cp.async.bulk and cp.reduce.async.bulk, flat and tensor (TMA): PTX ISA, bulk copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator.asynchronous import Bulk, granule_run
from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.findings import BAD_STATE, MISALIGNED, OUT_OF_BOUNDS, UNINITIALISED
from tesseracc.emulator.memory import PARAM_BASE, RANK_SHIFT, SHARED_BASE, Segment
from tesseracc.emulator.operations.mbarriers import barrier_index
from tesseracc.emulator.ptx import Address, Imm, Instruction
from tesseracc.emulator.table import Step
from tesseracc.emulator.tensor_map import CHUNK, TensorMap, reduce_bytes
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

__all__ = ["bulk_step"]


def _immediate(i: Instruction, k: int) -> int:
    operand = i.operands[k]
    if not isinstance(operand, Imm):
        raise ValueError("immediate expected")
    return int(operand.value)


def bulk_step(i: Instruction, d: Decoder) -> Step:
    """One form of the bulk copies."""
    if "commit_group" in i.mods:
        return lambda w: w.launch.asynchronous.bulk_commit(w)
    if "wait_group" in i.mods:
        left = _immediate(i, 0)
        return lambda w: w.launch.asynchronous.bulk_wait(w, left, "read" in i.mods)
    if "prefetch" in i.mods:
        return lambda w: None
    spaces = [m for m in i.mods if m.split("::")[0] in ("shared", "global")]
    reduce = next((m for m in i.mods if m in ("add", "min", "max", "inc", "dec", "and", "or", "xor")), None)
    target, source = (s.split("::")[0] for s in spaces[:2])
    if "tensor" in i.mods:
        if "im2col" in i.mods or any("gather" in m or "scatter" in m for m in i.mods):
            raise ValueError("im2col and gather modes")
        return _tensor_load(i, d) if target == "shared" else _tensor_store(i, d, reduce)
    return _flat(i, d, target, source, spaces, reduce)


# --- shared memory of the issuing thread's view -----------------------------------------------------------------------


def _shared_place(w: Wave, lane: int, address: int, size: int, rank: int | None = None) -> int | None:
    """Position in the shared data of `size` bytes at a shared or generic address; None (reported) if outside."""
    if address >= SHARED_BASE:
        address -= SHARED_BASE
    if rank is not None:
        address = (rank + 1) << RANK_SHIFT | address & ((1 << RANK_SHIFT) - 1)
    cta, offset = access.resolve_shared(w, np.array([address]), np.array([lane]))
    if cta[0] < 0 or offset[0] + size > w.launch.shared_size:
        w.log.add(OUT_OF_BOUNDS, f"bulk copy of {size} bytes at shared address {address:#x} by "
                  f"{w.launch.who(w, lane)}; the space has {w.launch.shared_size} bytes", w.code[w.pc])  # fmt: skip
        return None
    return int(cta[0]) * w.launch.shared_stride + int(offset[0])


def _aligned(w: Wave, what: str, value: int, unit: int) -> bool:
    if value % unit:
        w.log.add(MISALIGNED, f"{what} of a bulk copy is {value}, not a multiple of {unit}", w.code[w.pc])
        return False
    return True


def _global_bytes(w: Wave, address: int, size: int) -> tuple[Segment, int] | None:
    segment = w.launch.memory.find(address, size)
    if segment is None:
        w.log.add(OUT_OF_BOUNDS, f"bulk copy of {size} bytes at global address {address:#x}{w.launch.nearest(address)}",
                  w.code[w.pc])  # fmt: skip
        return None
    return segment, address - segment.base


def _race(w: Wave, start: int, size: int, lane: int, kind: str, strong: bool = False) -> None:
    """Tell the detector that `lane` reads or writes shared bytes through the asynchronous proxy."""
    launch = w.launch
    if not launch.detect:
        return
    shadow = access.shadow_of(w, "shared", launch.shared)
    granules = granule_run(start, size, launch.granule["shared"])
    lanes = np.full(granules.stop - granules.start, lane)
    if kind == "write":
        launch.races.write(shadow, granules, lanes, w.pc, strong, "shared", None)
    else:
        launch.races.read(shadow, granules, lanes, w.pc, False, "shared")
        if not launch.written["shared"][start : start + size].all():
            w.log.add(UNINITIALISED, f"a bulk copy by {launch.who(w, lane)} reads shared memory that none has written",
                      w.code[w.pc])  # fmt: skip


def _issue_to_shared(w: Wave, lane: int, targets: list[int], size: int, load: Callable[[], Array],
                     barriers: list[tuple[int, int]], reads: Sequence[slice],
                     order: Array | None = None, reduce: tuple[str, str] | None = None) -> None:  # fmt: skip
    """A copy into the shared memory of one or (multicast) several CTAs, completing on mbarriers.

    `order`: where the copy's chunks of 16 bytes go, if not one after the other. `reduce` (operation, type): what is
    there takes part; reductions do not race with each other.
    """
    launch = w.launch
    engine = launch.asynchronous
    extent = size if order is None else -(-size // 128) * 128  # a swizzle stays inside rows of 128 bytes
    for target in targets:
        _race(w, target, extent, lane, "write", reduce is not None)
    knowledge = launch.races.release(np.array([lane >> 5]))[0] if launch.detect else None
    if knowledge is not None:
        for index, _ in barriers:
            engine.mbarriers.learn(index, knowledge)
    pc = w.pc

    def land(data: Array) -> None:
        for target in targets:
            there, known = (x[target : target + extent] for x in (launch.shared.data, launch.written["shared"]))
            if reduce is not None:
                there[:] = reduce_bytes(there, data, *reduce)
            elif order is None:
                there[:], known[:] = data, 1
            else:
                there.view(CHUNK)[order] = data.view(CHUNK)
                known.reshape(-1, 16)[order] = 1

    w.counters.async_copies[w.code[pc].text.split(".mbarrier")[0]] += 1
    w.counters.async_bytes["to shared"] += size * len(targets)
    w.counters.bytes_written["shared"] += size * len(targets)
    engine.issue_bulk(w, Bulk(pc, lane, reads, [granule_run(t, extent) for t in targets], load, land, barriers))


def _count_to_global(w: Wave, size: int, inside: int) -> None:
    w.counters.bytes_written["global"] += inside
    w.counters.async_copies[w.code[w.pc].text.split(".bulk_group")[0]] += 1
    w.counters.async_bytes["to global"] += size


def _multicast(i: Instruction, d: Decoder, operands: int) -> Source | None:
    if not any("multicast" in m for m in i.mods):
        return None
    return d.source(i.operands[operands], "b16")


def _ranks(w: Wave, lane: int, mask: int | None) -> list[int | None]:
    if mask is None:
        return [None]
    size = w.launch.cluster_size
    if mask >> size:
        w.log.add(BAD_STATE, f"multicast mask {mask:#x} names CTAs beyond the cluster of {size}", w.code[w.pc])
    return [r for r in range(size) if mask >> r & 1]


def _barrier_of(w: Wave, lane: int, address: int, rank: int | None) -> int:
    kept = w.sel
    w.select(np.array([lane]))
    if rank is not None:
        address = (rank + 1) << RANK_SHIFT | address % SHARED_BASE & ((1 << RANK_SHIFT) - 1)
    index = barrier_index(w, np.array([address], np.uint64), "read")
    w.launch.asynchronous.mbarriers.check(w, index)
    w.launch.asynchronous.mbarriers.check_visible(w, index, lane)
    w.select(kept)
    return int(index[0])


def _flat(i: Instruction, d: Decoder, target: str, source: str, spaces: list[str], reduce: str | None) -> Step:
    """[dst], [src], size (, [mbar]) (, mask)."""
    _, to = d.address(i.operands[0])
    _, of = d.address(i.operands[1])
    size_source = d.source(i.operands[2], "u32")
    mbar = d.address(i.operands[3])[1] if target == "shared" else None
    mask = _multicast(i, d, 4)
    kind = i.mods[-1] if reduce else ""

    def one(w: Wave, lane: int, dst: int, src: int, size: int, bar: int, cast: int | None) -> None:
        if not (_aligned(w, "the size", size, 16) and _aligned(w, "the source", src, 16)
                and _aligned(w, "the destination", dst, 16)) or not size:  # fmt: skip
            return
        if source == "global":
            found = _global_bytes(w, src, size)
            if found is None:
                return
            segment, offset = found

            def load() -> Array:
                return segment.data[offset : offset + size].copy()

            reads = []
            w.counters.bytes_read["global"] += size
        else:
            at = _shared_place(w, lane, src, size)
            if at is None:
                return
            reads = [granule_run(at, size)]
            _race(w, at, size, lane, "read")
            w.counters.bytes_read["shared"] += size
            shared = w.launch.shared.data[at : at + size]

            def load() -> Array:
                return shared.copy()

        if target == "shared":
            targets, barriers = [], []
            for rank in _ranks(w, lane, cast):
                spot = _shared_place(w, lane, dst, size, rank)
                if spot is None:
                    return
                targets.append(spot)
                barriers.append((_barrier_of(w, lane, bar, rank), size))
            operation = (reduce, kind) if reduce else None
            _issue_to_shared(w, lane, targets, size, load, barriers, reads, reduce=operation)
            return
        out = _global_bytes(w, dst, size)
        if out is None:
            return
        segment_out, start = out

        def land(data: Array) -> None:
            view = segment_out.data[start : start + size]
            view[:] = reduce_bytes(view, data, reduce, kind) if reduce else data

        _count_to_global(w, size, size)
        w.launch.asynchronous.issue_bulk(w, Bulk(w.pc, lane, reads, (), load, land))

    def run(w: Wave) -> None:
        w.progress += 1
        columns = [w.spread(s(w)) for s in (to, of, size_source)]
        bars = w.spread(mbar(w)) if mbar is not None else columns[0]
        casts = w.spread(mask(w)) if mask is not None else None
        for k, lane in enumerate(w.lanes):
            target, source, size = (int(c[k]) for c in columns)
            one(w, int(lane), target, source, size, int(bars[k]), None if casts is None else int(casts[k]))

    del spaces
    return run


# --- tensors ---------------------------------------------------------------------------------------------------------


def _map_and_coordinates(i: Instruction, d: Decoder, k: int) -> tuple[Source, list[Source]]:
    operand = i.operands[k]
    if not isinstance(operand, Address) or operand.coords is None:
        raise ValueError("[tensorMap, {coordinates}] expected")
    space, address = d.address(operand)
    coordinates = [d.source(c, "s32") for c in operand.coords.items]
    if space == "param":
        inner = address
        return (lambda w: inner(w) + np.uint64(PARAM_BASE)), coordinates
    return address, coordinates


def _fetch_map(w: Wave, lane: int, address: int) -> TensorMap | None:
    kept = w.sel
    w.select(np.array([lane]))
    params = w.launch.params
    if PARAM_BASE <= address <= PARAM_BASE + params.size - 128:
        raw = params.data[address - PARAM_BASE :][:128].tobytes()
    else:
        words = [access.load(w, "generic", np.array([address + 8 * k], np.uint64), 8, 1)[0] for k in range(16)]
        raw = b"".join(int(np.ravel(word)[0]).to_bytes(8, "little") for word in words)
    w.select(kept)
    try:
        return TensorMap.decode(raw)
    except ValueError as error:
        w.log.add(BAD_STATE, f"the tensor map is invalid: {error}", w.code[w.pc])
        return None


def _tensor_load(i: Instruction, d: Decoder) -> Step:
    """[dst], [map, coords], [mbar] (, mask) (, cache hint)."""
    _, to = d.address(i.operands[0])
    address, coordinates = _map_and_coordinates(i, d, 1)
    _, mbar = d.address(i.operands[2])
    mask = _multicast(i, d, 3)

    def one(w: Wave, lane: int, dst: int, where: int, at: list[int], bar: int, cast: int | None) -> None:
        tensor = _fetch_map(w, lane, where)
        if tensor is None or not _aligned(w, "the destination", dst, 128):
            return
        if len(at) != tensor.rank:
            w.log.add(BAD_STATE, f"{len(at)} coordinates for a tensor map of rank {tensor.rank}", w.code[w.pc])
            return
        size = tensor.box_bytes
        targets, barriers = [], []
        for rank in _ranks(w, lane, cast):
            spot = _shared_place(w, lane, dst, size, rank)
            if spot is None:
                return
            targets.append(spot)
            barriers.append((_barrier_of(w, lane, bar, rank), size))
        memory, code = w.launch.memory, w.code[w.pc]

        def load() -> Array:
            return tensor.read_box(memory, at, lambda text: w.log.add(OUT_OF_BOUNDS, text, code))

        w.counters.bytes_read["global"] += tensor.inside_bytes(at)
        order = tensor.chunks(targets[0] % w.launch.shared_stride) if targets else None
        _issue_to_shared(w, lane, targets, size, load, barriers, (), order)

    def run(w: Wave) -> None:
        w.progress += 1
        dst, where, bars = (w.spread(s(w)) for s in (to, address, mbar))
        at = [w.spread(c(w)) for c in coordinates]
        casts = w.spread(mask(w)) if mask is not None else None
        for k, lane in enumerate(w.lanes):
            one(w, int(lane), int(dst[k]), int(where[k]), [int(c[k]) for c in at], int(bars[k]),
                None if casts is None else int(casts[k]))  # fmt: skip

    return run


def _tensor_store(i: Instruction, d: Decoder, reduce: str | None) -> Step:
    """[map, coords], [src]."""
    address, coordinates = _map_and_coordinates(i, d, 0)
    _, of = d.address(i.operands[1])

    def one(w: Wave, lane: int, src: int, where: int, at: list[int]) -> None:
        tensor = _fetch_map(w, lane, where)
        if tensor is None or not _aligned(w, "the source", src, 128):
            return
        size = tensor.box_bytes
        spot = _shared_place(w, lane, src, size)
        if spot is None:
            return
        order = tensor.chunks(spot % w.launch.shared_stride)
        extent = size if order is None else -(-size // 128) * 128
        _race(w, spot, size, lane, "read")
        shared, memory, code = w.launch.shared.data[spot : spot + extent], w.launch.memory, w.code[w.pc]

        def load() -> Array:
            return shared.copy() if order is None else shared.view(CHUNK)[order].view(np.uint8)

        def land(data: Array) -> None:
            tensor.write_box(memory, at, data, reduce, lambda text: w.log.add(OUT_OF_BOUNDS, text, code))

        w.counters.bytes_read["shared"] += size
        _count_to_global(w, size, tensor.inside_bytes(at))
        w.launch.asynchronous.issue_bulk(w, Bulk(w.pc, lane, [granule_run(spot, extent)], (), load, land))

    def run(w: Wave) -> None:
        w.progress += 1
        src, where = w.spread(of(w)), w.spread(address(w))
        at = [w.spread(c(w)) for c in coordinates]
        for k, lane in enumerate(w.lanes):
            one(w, int(lane), int(src[k]), int(where[k]), [int(c[k]) for c in at])

    return run
