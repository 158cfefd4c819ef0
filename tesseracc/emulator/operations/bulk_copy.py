"""cp.async.bulk and cp.reduce.async.bulk, flat and tensor (TMA): PTX ISA, bulk copies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator.asynchronous import Bulk
from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.findings import BAD_STATE, MISALIGNED, OUT_OF_BOUNDS, UNINITIALISED
from tesseracc.emulator.memory import RANK_SHIFT, SHARED_BASE, Segment
from tesseracc.emulator.operations.mbarriers import barrier_index
from tesseracc.emulator.ptx import Address, Imm, Instruction
from tesseracc.emulator.table import Step
from tesseracc.emulator.tensor_map import TensorMap, reduce_bytes
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


def _shared_bytes(w: Wave, lane: int, address: int, size: int, rank: int | None = None) -> Array | None:
    """Positions in the shared data of `size` bytes at a shared or generic address; None (reported) if outside."""
    if address >= SHARED_BASE:
        address -= SHARED_BASE
    if rank is not None:
        address = (rank + 1) << RANK_SHIFT | address & ((1 << RANK_SHIFT) - 1)
    cta, offset = access.resolve_shared(w, np.array([address]), np.array([lane]))
    if cta[0] < 0 or offset[0] + size > w.launch.shared_size:
        w.log.add(OUT_OF_BOUNDS, f"bulk copy of {size} bytes at shared address {address:#x} by "
                  f"{w.launch.who(w, lane)}; the space has {w.launch.shared_size} bytes", w.code[w.pc])  # fmt: skip
        return None
    return np.asarray(int(cta[0]) * w.launch.shared_stride + int(offset[0]) + np.arange(size))


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


def _granules(at: Array) -> Array:
    return np.unique(at // 4)


def _race(w: Wave, at: Array, lane: int, kind: str) -> None:
    """Tell the detector that `lane` reads or writes the shared bytes `at` through the asynchronous proxy."""
    launch = w.launch
    if not launch.detect or not len(at):
        return
    shadow = access.shadow_of(w, "shared", launch.shared)
    granules = np.unique(at // launch.granule["shared"])
    lanes = np.full(len(granules), lane)
    if kind == "write":
        launch.races.write(shadow, granules, lanes, w.pc, False, "shared", None)
    else:
        launch.races.read(shadow, granules, lanes, w.pc, False, "shared")
        if not launch.written["shared"][at].all():
            w.log.add(UNINITIALISED, f"a bulk copy by {launch.who(w, lane)} reads shared memory that none has written",
                      w.code[w.pc])  # fmt: skip


def _issue_to_shared(w: Wave, lane: int, targets: list[Array], load: Callable[[], Array],
                     barriers: list[tuple[int, int]], reads: Array) -> None:  # fmt: skip
    """A copy into the shared memory of one or (multicast) several CTAs, completing on mbarriers."""
    launch = w.launch
    engine = launch.asynchronous
    everything = np.concatenate(targets)
    _race(w, everything, lane, "write")
    knowledge = launch.races.release(np.array([lane >> 5]))[0] if launch.detect else None
    if knowledge is not None:
        for index, _ in barriers:
            engine.mbarriers.learn(index, knowledge)
    pc = w.pc

    def land(data: Array) -> None:
        for target in targets:
            launch.shared.data[target] = data
            launch.written["shared"][target] = 1

    w.counters.async_copies[w.code[pc].text.split(".mbarrier")[0]] += 1
    w.counters.async_bytes["to shared"] += len(everything)
    engine.issue_bulk(w, Bulk(pc, lane, _granules(reads), _granules(everything), load, land, barriers))


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

            reads = np.zeros(0, np.int64)
            w.counters.bytes_read["global"] += size
        else:
            at = _shared_bytes(w, lane, src, size)
            if at is None:
                return
            reads = at
            _race(w, at, lane, "read")
            shared = w.launch.shared.data

            def load() -> Array:
                return shared[at].copy()

        if target == "shared":
            targets, barriers = [], []
            for rank in _ranks(w, lane, cast):
                spot = _shared_bytes(w, lane, dst, size, rank)
                if spot is None:
                    return
                targets.append(spot)
                barriers.append((_barrier_of(w, lane, bar, rank), size))
            _issue_to_shared(w, lane, targets, load, barriers, reads)
            return
        out = _global_bytes(w, dst, size)
        if out is None:
            return
        segment_out, start = out

        def land(data: Array) -> None:
            view = segment_out.data[start : start + size]
            view[:] = reduce_bytes(view, data, reduce, kind) if reduce else data

        w.counters.bytes_written["global"] += size
        w.counters.async_copies["cp.async.bulk to global"] += 1
        w.launch.asynchronous.issue_bulk(w, Bulk(w.pc, lane, _granules(reads), np.zeros(0, np.int64), load, land))

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
        from tesseracc.emulator.memory import PARAM_BASE

        inner = address
        return (lambda w: inner(w) + np.uint64(PARAM_BASE)), coordinates
    return address, coordinates


def _fetch_map(w: Wave, lane: int, address: int) -> TensorMap | None:
    kept = w.sel
    w.select(np.array([lane]))
    words = access.load(w, "generic", np.array([address], np.uint64), 8, 1)
    raw = b""
    for k in range(16):
        words = access.load(w, "generic", np.array([address + 8 * k], np.uint64), 8, 1)
        raw += int(np.ravel(words[0])[0]).to_bytes(8, "little")
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
            spot = _shared_bytes(w, lane, dst, size, rank)
            if spot is None:
                return
            targets.append(spot[0] + tensor.swizzled(int(spot[0]) % w.launch.shared_stride))
            barriers.append((_barrier_of(w, lane, bar, rank), size))
        memory, code = w.launch.memory, w.code[w.pc]

        def load() -> Array:
            return tensor.read_box(memory, at, lambda text: w.log.add(OUT_OF_BOUNDS, text, code))

        w.counters.bytes_read["global"] += size
        _issue_to_shared(w, lane, targets, load, barriers, np.zeros(0, np.int64))

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
        spot = _shared_bytes(w, lane, src, tensor.box_bytes)
        if spot is None:
            return
        source = spot[0] + tensor.swizzled(int(spot[0]) % w.launch.shared_stride)
        _race(w, source, lane, "read")
        shared, memory, code = w.launch.shared.data, w.launch.memory, w.code[w.pc]

        def land(data: Array) -> None:
            tensor.write_box(memory, at, data, reduce, lambda text: w.log.add(OUT_OF_BOUNDS, text, code))

        w.counters.bytes_written["global"] += tensor.box_bytes
        w.counters.async_copies["cp.async.bulk.tensor to global"] += 1
        w.launch.asynchronous.issue_bulk(
            w, Bulk(w.pc, lane, _granules(source), np.zeros(0, np.int64), lambda: shared[source].copy(), land)
        )

    def run(w: Wave) -> None:
        w.progress += 1
        src, where = w.spread(of(w)), w.spread(address(w))
        at = [w.spread(c(w)) for c in coordinates]
        for k, lane in enumerate(w.lanes):
            one(w, int(lane), int(src[k]), int(where[k]), [int(c[k]) for c in at])

    return run
