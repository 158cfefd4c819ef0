"""Barriers, fences and waiting: bar barrier membar fence nanosleep griddepcontrol setmaxnreg pmevent."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.flags import order
from tesseracc.emulator.operations.warp import member_wait
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

_SYNC = "9.7.13 Parallel Synchronization and Communication"


@instruction(
    "bar barrier", _SYNC + ": bar, barrier", ".sync .arrive .red (.popc .and .or), .warp.sync, .cluster", control=True
)
def bar(i: Instruction, d: Decoder) -> Step:
    """Wait for (or only announce) the threads of the CTA, a given number of them, the warp, or the cluster."""
    if "warp" in i.mods:
        return _warp_sync(i, d)
    if "cluster" in i.mods:
        return _cluster(i, d)
    aligned = i.opcode == "bar" or "aligned" in i.mods
    reduce = next((m for m in i.mods if m in ("popc", "and", "or")), None) if "red" in i.mods else None
    wait = "arrive" not in i.mods
    operands = list(i.operands)
    sink = d.sink(operands.pop(0), "u32" if reduce == "popc" else "pred") if reduce else None
    vote: Source | None = d.source(operands.pop(), "pred") if reduce else None
    number = d.source(operands[0], "u32")
    count = d.source(operands[1], "u32") if len(operands) > 1 else None
    guard = d.predicate(i.guard) if i.guard is not None else None

    def run(w: Wave) -> bool | None:
        rest = None
        if guard is not None:
            on = w.spread(guard(w))
            if not on.any():
                return None
            if not on.all():
                rest = w.lanes[~on]
                w.narrow(on)
        if aligned and not w.gather_warps():
            if rest is not None:
                w.queue(w.pc + 1, rest)
            return True
        held: Array | None = None if rest is None else rest
        if sink is not None and reduce is not None:
            w.launch.barriers.results[w.pc] = (reduce, sink)
        waits = w.launch.barriers.arrive(
            w, number(w), None if count is None else count(w), wait, None if vote is None else vote(w)
        )
        if held is not None:
            if not waits:
                w.queue(w.pc + 1, w.sel)
            w.queue(w.pc + 1, held)
            return True
        return True if waits else None

    return run


def _warp_sync(i: Instruction, d: Decoder) -> Step:
    def step(w: Wave, members: Array) -> None:
        if w.launch.detect:
            w.launch.races.sync_warps(w.warps)

    return member_wait(d, i, i.operands[0], step)


def _cluster(i: Instruction, d: Decoder) -> Step:
    arrive = "arrive" in i.mods
    aligned = "aligned" in i.mods
    guard = d.predicate(i.guard) if i.guard is not None else None

    def run(w: Wave) -> bool | None:
        rest = None
        if guard is not None:
            on = w.spread(guard(w))
            if not on.any():
                return None
            if not on.all():
                rest = w.lanes[~on]
                w.narrow(on)
        moved = False
        if aligned and not w.gather_warps():
            moved = True
        elif arrive:
            w.launch.cluster_barriers.arrive(w, "relaxed" not in i.mods)
        else:
            moved = w.launch.cluster_barriers.wait(w)
        if rest is not None:
            if not moved:
                w.queue(w.pc + 1, w.sel)
            w.queue(w.pc + 1, rest)
            return True
        return True if moved else None

    return run


@instruction(
    "membar fence", _SYNC + ": membar, fence", ".cta .gl .sys, .sc .acq_rel .acquire .release; .proxy; .mbarrier_init"
)
def fence(i: Instruction, d: Decoder) -> Step:
    """Order memory accesses. gpu and sys scope order CTAs; .proxy.async orders with asynchronous copies."""
    if "proxy" in i.mods:  # aliases, tensor maps and global memory have proxies whose accesses are not modelled
        if not any(m.startswith("async") for m in i.mods) or "global" in i.mods:
            return lambda w: None
        return lambda w: w.launch.asynchronous.proxy_fence(w)
    if "mbarrier_init" in i.mods:
        return _show_mbarriers
    wide = bool({"gl", "gpu", "sys", "cluster"} & set(i.mods))
    return lambda w: order(w, wide)


def _show_mbarriers(w: Wave) -> None:
    """fence.mbarrier_init: mbarriers become visible to the asynchronous proxy, and to the cluster with an arrival."""
    if w.launch.detect:
        w.launch.asynchronous.mbarrier_fence(w)
        w.launch.flags.fence_inits(w.warps)


@instruction("nanosleep", "9.7.20 Miscellaneous: nanosleep", "u32")
def nanosleep(i: Instruction, d: Decoder) -> Step:
    """Let others run."""

    def run(w: Wave) -> None:
        w.poll(np.bool_(True))

    return run


@instruction("griddepcontrol setmaxnreg pmevent", "9.7.20 Miscellaneous", "")
def no_effect(i: Instruction, d: Decoder) -> Step:
    """Launch dependencies are met (grids run one after another) and registers never run out: nothing to do."""
    return lambda w: None
