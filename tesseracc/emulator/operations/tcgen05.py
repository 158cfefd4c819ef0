"""tcgen05: tensor memory of sm_100a: alloc, dealloc, ld, st, wait, commit, fence (PTX ISA 9.7.16).

Fences around thread synchronisation do nothing unless a launch demands them: what barriers and mbarriers order is what
the race detector knows.
"""

from __future__ import annotations

import numpy as np

from tesseracc.emulator.asynchronous import Bulk
from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.findings import BAD_STATE
from tesseracc.emulator.operations.mbarriers import barrier_index
from tesseracc.emulator.operations.tcgen05_copies import write_word
from tesseracc.emulator.ptx import Imm, Instruction, Operand, Reg, Vector
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.tensor_memory import WINDOW, Pending
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.16 TensorCore 5th Generation"
_JUNK = np.uint32(0x7FC0DEAD)

_LANE = np.arange(32)


def places(shape: str, repeat: int, split: int) -> tuple[Array, Array]:
    """(row, column) of every register as [32 lanes, registers], relative to the address (PTX ISA, tcgen05.ld shapes).

    32x32b    register j of lane t: row t, column j
    16x64b    row t / 4 + 8 (t mod 2), column 2 j + (t / 2) mod 2
    16x128b   row t / 4 + 8 (j mod 2), column 4 (j / 2) + t mod 4
    16x256b   row t / 4 + 8 (j / 2 mod 2), column 8 (j / 4) + 2 (t mod 4) + j mod 2
    16x32bx2  row t mod 16, column j, the upper half of the lanes `split` columns on
    """
    t = _LANE[:, None]
    if shape == "32x32b":
        j = np.arange(repeat)[None]
        return t + 0 * j, j + 0 * t
    if shape == "16x64b":
        j = np.arange(repeat)[None]
        return (t >> 2) + 8 * (t & 1) + 0 * j, 2 * j + (t >> 1 & 1)
    if shape == "16x128b":
        j = np.arange(2 * repeat)[None]
        return (t >> 2) + 8 * (j & 1), 4 * (j >> 1) + (t & 3)
    if shape == "16x256b":
        j = np.arange(4 * repeat)[None]
        return (t >> 2) + 8 * (j >> 1 & 1), 8 * (j >> 2) + 2 * (t & 3) + (j & 1)
    if shape == "16x32bx2":
        j = np.arange(repeat)[None]
        return (t & 15) + 0 * j, j + split * (t >> 4)
    raise ValueError(f"shape {shape}")


def _number(operand: Operand) -> int:
    if not isinstance(operand, Imm):
        raise ValueError("an immediate is expected")
    return int(operand.value)


def _whole(w: Wave) -> Array | None:
    """The executing lanes as [warps, 32]; None (reported) where a warp is not there as a whole."""
    lanes = w.lanes
    if len(lanes) % 32 or (lanes.reshape(-1, 32)[:, 0] & 31).any() or (np.diff(lanes.reshape(-1, 32)) != 1).any():
        w.log.add(BAD_STATE, "an instruction for whole warps is executed by part of a warp", w.code[w.pc])
        return None
    return lanes.reshape(-1, 32)


# -- allocation ------------------------------------------------------------------------------------------------------


@instruction("tcgen05.alloc", _SECTION + ": tcgen05.alloc", ".cta_group::1 .cta_group::2 .b32")
def alloc(i: Instruction, d: Decoder) -> Step:
    """Columns for the CTA of a warp; their address goes to shared memory. Waits as long as there are too few."""
    _, address = d.address(i.operands[0])
    count = d.source(i.operands[1], "u32")

    def run(w: Wave) -> None:
        warps = _whole(w)
        if warps is None:
            return
        where, counts = w.spread(address(w))[::32], w.spread(count(w))[::32]
        for lane, target, number in zip(warps[:, 0].tolist(), where.tolist(), counts.tolist()):
            first = w.launch.tensor_memory.allocate(w, int(w.cta[lane]), int(number))
            write_word(w, lane, int(target), first)

    return run


@instruction("tcgen05.dealloc", _SECTION + ": tcgen05.dealloc", ".b32")
def dealloc(i: Instruction, d: Decoder) -> Step:
    """Columns given back."""
    address, count = d.source(i.operands[0], "u32"), d.source(i.operands[1], "u32")

    def run(w: Wave) -> None:
        warps = _whole(w)
        if warps is None:
            return
        where, counts = w.spread(address(w))[::32], w.spread(count(w))[::32]
        for lane, target, number in zip(warps[:, 0].tolist(), where.tolist(), counts.tolist()):
            w.launch.tensor_memory.free(w, int(w.cta[lane]), int(target) & 0xFFFF, int(number), lane)

    return run


@instruction("tcgen05.relinquish_alloc_permit", _SECTION + ": tcgen05.relinquish_alloc_permit")
def relinquish(i: Instruction, d: Decoder) -> Step:
    """The CTA allocates no more."""

    def run(w: Wave) -> None:
        w.launch.tensor_memory.closed[np.unique(w.cta[w.lanes])] = True

    return run


# -- loads and stores ------------------------------------------------------------------------------------------------


def _access(
    i: Instruction, d: Decoder, vector: int, address: int
) -> tuple[Source, Array, Array, tuple[Operand | None, ...]]:
    """Address, rows and columns of the registers of a load or store, and the registers."""
    shape = next(m for m in i.mods if m[:2] in ("32", "16") and "b" in m)
    repeat = int(next(m for m in i.mods if m.startswith("x"))[1:])
    registers = i.operands[vector]
    items = registers.items if isinstance(registers, Vector) else (registers,)
    split = next((_number(o) for o in i.operands if isinstance(o, Imm)), 0)
    rows, columns = places(shape, repeat, split)
    packed = any(m in ("pack::16b", "unpack::16b") for m in i.mods)
    if len(items) * (2 if packed else 1) != rows.shape[1]:
        raise ValueError(f"{len(items)} registers for {shape}.x{repeat}")
    return d.address(i.operands[address])[1], rows, columns, items


@instruction("tcgen05.ld", _SECTION + ": tcgen05.ld", ".32x32b .16x64b .16x128b .16x256b .16x32bx2 .pack::16b")
def load(i: Instruction, d: Decoder) -> Step:
    """Tensor memory into registers, which hold junk until tcgen05.wait::ld."""
    source, rows, columns, items = _access(i, d, 0, 1)
    if not all(isinstance(item, Reg) for item in items):
        raise ValueError("destinations must be registers")
    slots = tuple(item.slot for item in items if isinstance(item, Reg))
    packed = "pack::16b" in i.mods
    height, width = int(rows.max()) + 1, int(columns.max()) + 1

    def run(w: Wave) -> None:
        warps = _whole(w)
        if warps is None:
            return
        memory = w.launch.tensor_memory
        for lanes, address in zip(warps, w.spread(source(w))[::32].tolist()):
            lane, cta = int(lanes[0]), int(w.cta[lanes[0]])
            at = memory.place(w, cta, w.thread[lane] // 32, int(address) & 0xFFFFFFFF, height, width)
            if at is None:
                continue
            memory.note(w, cta, range(at[0] // WINDOW, at[0] // WINDOW + 1), slice(at[1], at[1] + width), lane, "read")
            values = memory.data[cta, at[0] + rows, at[1] + columns].T
            if packed:
                values = values[::2] & np.uint32(0xFFFF) | values[1::2] << np.uint32(16)
            memory.load(lane >> 5, lanes, slots, values)
        for slot in slots:
            w.store(slot, _JUNK)

    return run


@instruction("tcgen05.st", _SECTION + ": tcgen05.st", ".32x32b .16x64b .16x128b .16x256b .16x32bx2 .unpack::16b")
def store(i: Instruction, d: Decoder) -> Step:
    """Registers into tensor memory."""
    source, rows, columns, items = _access(i, d, 1 + (len(i.operands) == 3), 0)
    values = [d.source(item, "b32") for item in items]
    unpacked = "unpack::16b" in i.mods
    height, width = int(rows.max()) + 1, int(columns.max()) + 1

    def run(w: Wave) -> None:
        warps = _whole(w)
        if warps is None:
            return
        memory = w.launch.tensor_memory
        given = np.stack([w.spread(value(w)).view(np.uint32) for value in values]).reshape(len(values), -1, 32)
        for k, (lanes, address) in enumerate(zip(warps, w.spread(source(w))[::32].tolist())):
            lane, cta = int(lanes[0]), int(w.cta[lanes[0]])
            at = memory.place(w, cta, w.thread[lane] // 32, int(address) & 0xFFFFFFFF, height, width)
            if at is None:
                continue
            window = at[0] // WINDOW
            span = slice(at[1], at[1] + width)
            own = memory.storing[cta, window, span].copy()
            memory.storing[cta, window, span] = 0  # stores of one warp to one place keep their order
            memory.note(w, cta, range(window, window + 1), span, lane, "write")
            memory.storing[cta, window, span] = own
            data = given[:, k].T
            if unpacked:
                data = np.stack([data & np.uint32(0xFFFF), data >> np.uint32(16)], axis=2).reshape(32, -1)
            memory.data[cta, at[0] + rows, at[1] + columns] = data
            memory.stored(w, lane >> 5, cta, window, span)

    return run


@instruction("tcgen05.wait", _SECTION + ": tcgen05.wait", "::ld ::st")
def wait(i: Instruction, d: Decoder) -> Step:
    """Until what the thread's warp loaded or stored is there."""
    if i.mods[0] not in ("wait::ld", "wait::st"):
        raise ValueError(i.mods[0])
    loads = i.mods[0] == "wait::ld"

    def run(w: Wave) -> None:
        warps = _whole(w)
        if warps is None:
            return
        memory = w.launch.tensor_memory
        if loads:
            memory.wait_loads(w, warps[:, 0] >> 5)
        else:
            memory.wait_stores(warps[:, 0] >> 5)

    return run


# -- commit ----------------------------------------------------------------------------------------------------------


@instruction("tcgen05.fence", _SECTION + ": tcgen05.fence", "::before_thread_sync ::after_thread_sync")
def fence(i: Instruction, d: Decoder) -> Step:
    """What the race detector knows of barriers holds for tensor memory where fences are, if they are demanded."""
    if i.mods[0] not in ("fence::before_thread_sync", "fence::after_thread_sync"):
        raise ValueError(i.mods[0])
    before = i.mods[0] == "fence::before_thread_sync"

    def run(w: Wave) -> None:
        fences = w.launch.races.tensor_fences
        if fences is not None:
            (fences.before if before else fences.after)(np.unique(w.lanes >> 5))

    return run


@instruction("tcgen05.commit", _SECTION + ": tcgen05.commit", ".mbarrier::arrive::one .multicast::cluster .b64")
def commit(i: Instruction, d: Decoder) -> Step:
    """An arrival at mbarriers when everything that was issued before has finished."""
    _, address = d.address(i.operands[0])
    mask = d.source(i.operands[1], "u16") if "multicast::cluster" in i.mods else None

    def run(w: Wave) -> None:
        launch = w.launch
        engine = launch.asynchronous
        index = barrier_index(w, address(w), "read")
        engine.mbarriers.check(w, index)
        masks = None if mask is None else w.spread(mask(w)).tolist()
        for k, lane in enumerate(w.lanes.tolist()):
            cta = int(w.cta[lane])
            targets = [int(index[k])]
            if masks is not None:
                first = cta // launch.cluster_size * launch.cluster_size
                step = launch.shared_stride // 8
                ranks = [r for r in range(launch.cluster_size) if int(masks[k]) >> r & 1]
                targets = [int(index[k]) + (first + r - cta) * step for r in ranks]
                others = np.array([first + r for r in ranks if first + r != cta], np.int64)
                launch.remote.note(w, others, np.full(len(others), lane))
            if launch.races.tensor_fences is not None:
                launch.races.tensor_fences.before(np.array([lane >> 5]))
            known = launch.races.release(np.array([lane >> 5]))[0] if launch.detect else None
            engine.mbarriers.check_visible(w, np.array(targets), lane)
            for target in targets if known is not None else ():
                engine.mbarriers.learn(target, known)
            _queue_commit(w, cta, lane, targets)

    return run


def _queue_commit(w: Wave, cta: int, lane: int, targets: list[int]) -> None:
    """An arrival at mbarriers behind everything that the CTA has issued; a later commit brings earlier ones along."""
    engine, memory = w.launch.asynchronous, w.launch.tensor_memory

    def arrive() -> None:
        for target in targets:
            engine.mbarriers.pending[target] -= 1
        if not delivering:  # reached through a later operation
            bulk.landed = True
            engine.bulk.remove(bulk)
            engine.mbarriers.advance(w, np.array(targets))

    def land(_: Array) -> None:
        delivering.append(True)
        memory.land(cta, last)

    delivering: list[bool] = []
    last = Pending(w.pc, arrive, slice(0, 0), np.zeros(0, np.int64), targets)
    bulk = Bulk(w.pc, lane, (), (), lambda: np.zeros(0), land, [(target, 0) for target in targets])
    memory.queue[cta].append(last)
    engine.issue_bulk(w, bulk)
