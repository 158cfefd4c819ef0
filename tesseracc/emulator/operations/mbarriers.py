"""mbarrier.*: init inval arrive arrive_drop expect_tx complete_tx test_wait try_wait pending_count."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.findings import OUT_OF_BOUNDS
from tesseracc.emulator.memory import SHARED_BASE
from tesseracc.emulator.ptx import Address, Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.13.15 mbarrier"


def barrier_index(w: Wave, address: Array, kind: str) -> Array:
    """Indices (offset / 8 over the batch) of the mbarriers at shared or generic addresses; `kind` read, write or end.

    Operations on a barrier do not race with each other, nor with its end: uses after it are found by `check`.
    """
    address = w.spread(address)
    address = np.where(address >= np.uint64(SHARED_BASE), address - np.uint64(SHARED_BASE), address)
    cta, offset = access.resolve_shared(w, address, w.lanes)
    bad = (cta < 0) | (offset + 8 > w.launch.shared_size) | (offset & 7 != 0)
    if bad.any():
        w.log.add(OUT_OF_BOUNDS, f"no mbarrier can be at shared address {int(address[np.flatnonzero(bad)[0]]):#x}",
                  w.code[w.pc])  # fmt: skip
        cta, offset = np.where(bad, 0, cta), np.where(bad, 0, offset)
    target = cta * w.launch.shared_stride + offset
    launch = w.launch
    if launch.detect:
        shadow = access.shadow_of(w, "shared", launch.shared)
        step = launch.granule["shared"]
        if kind != "read":
            launch.races.write(shadow, target // step, w.lanes, w.pc, kind == "end", "shared", None)
            access.mark_initialised(launch.written["shared"], target, 8)
        else:
            launch.races.read(shadow, target // step, w.lanes, w.pc, True, "shared")
    return np.asarray(target // 8)


def split_scope(i: Instruction) -> tuple[bool, bool]:
    """(release or acquire semantics, destination operand absent)."""
    return "relaxed" not in i.mods, isinstance(i.operands[0], Address)


@instruction("mbarrier", _SECTION, ".b64; .shared::cta .shared::cluster; .parity; .expect_tx")
def mbarrier(i: Instruction, d: Decoder) -> Step:
    """A barrier object with phases: arrivals and bytes complete a phase; waits name a phase or its parity."""
    action = i.mods[0]
    if action == "init":
        _, address = d.address(i.operands[0])
        count = d.source(i.operands[1], "u32")

        def init(w: Wave) -> None:
            index = barrier_index(w, address(w), "write")
            w.launch.asynchronous.mbarriers.init(w, index, w.spread(count(w)).astype(np.int64))

        return init
    if action == "inval":
        _, address = d.address(i.operands[0])
        return lambda w: w.launch.asynchronous.mbarriers.inval(w, barrier_index(w, address(w), "end"))
    if action in ("arrive", "arrive_drop"):
        return _arrive(i, d, action == "arrive_drop")
    if action in ("expect_tx", "complete_tx"):
        return _tx(i, d, action)
    if action in ("test_wait", "try_wait"):
        return _wait(i, d)
    if action == "pending_count":
        raise ValueError("the state token is opaque here")
    raise ValueError(f"mbarrier.{action}")


def _arrive(i: Instruction, d: Decoder, drop: bool) -> Step:
    release, no_result = split_scope(i)
    operands = i.operands if no_result else i.operands[1:]
    put = d.sink(None if no_result else i.operands[0], "b64")
    _, address = d.address(operands[0])
    value: Source | None = d.source(operands[1], "u32") if len(operands) > 1 else None
    expect = "expect_tx" in i.mods

    def run(w: Wave) -> None:
        barriers = w.launch.asynchronous.mbarriers
        index = barrier_index(w, address(w), "read")
        barriers.check(w, index)
        given = None if value is None else w.spread(value(w)).astype(np.int64)
        one = np.ones(len(index), np.int64)
        if expect and given is not None:
            barriers.expect_tx(index, given)
        count = given if given is not None and not expect else one
        put(w, barriers.arrive(w, index, count, release, drop).astype(np.uint64))

    return run


def _tx(i: Instruction, d: Decoder, action: str) -> Step:
    _, address = d.address(i.operands[0])
    value = d.source(i.operands[1], "u32")

    def run(w: Wave) -> None:
        barriers = w.launch.asynchronous.mbarriers
        index = barrier_index(w, address(w), "read")
        barriers.check(w, index)
        count = w.spread(value(w)).astype(np.int64)
        barriers.expect_tx(index, count if action == "expect_tx" else -count)
        barriers.advance(w, index)

    return run


def _wait(i: Instruction, d: Decoder) -> Step:
    put = d.sink(i.operands[0], "pred")
    _, address = d.address(i.operands[1])
    parity = "parity" in i.mods
    value = d.source(i.operands[2], "u32" if parity else "b64")

    def run(w: Wave) -> None:
        barriers = w.launch.asynchronous.mbarriers
        index = barrier_index(w, address(w), "read")
        barriers.check(w, index)
        which = w.spread(value(w)).astype(np.int64)
        done = barriers.ready(w, index, which if parity else None, None if parity else which)
        w.poll(~done)
        put(w, done)

    return run
