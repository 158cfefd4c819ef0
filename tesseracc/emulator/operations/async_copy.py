"""cp.async, and dispatch of the bulk copies (see bulk_copy)."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.memory import SHARED_BASE
from tesseracc.emulator.operations.bulk_copy import bulk_step
from tesseracc.emulator.operations.mbarriers import barrier_index
from tesseracc.emulator.ptx import Imm, Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.9.25 Asynchronous copy"


@instruction("cp", _SECTION, ".async .ca .cg 4 8 16; commit_group wait_group wait_all mbarrier.arrive; .bulk; .reduce")
def cp(i: Instruction, d: Decoder) -> Step:
    """Copy without waiting; the bytes are there after the wait for the copy's group or mbarrier."""
    if "bulk" in i.mods:
        return bulk_step(i, d)
    if "commit_group" in i.mods:
        return lambda w: w.launch.asynchronous.commit(w)
    if "wait_group" in i.mods:
        left = i.operands[0]
        if not isinstance(left, Imm):
            raise ValueError("the group count must be an immediate")
        count = int(left.value)
        return lambda w: w.launch.asynchronous.wait_groups(w, count)
    if "wait_all" in i.mods:

        def wait_all(w: Wave) -> None:
            w.launch.asynchronous.commit(w)
            w.launch.asynchronous.wait_groups(w, 0)

        return wait_all
    if "mbarrier" in i.mods:
        _, address = d.address(i.operands[0])

        def arrive(w: Wave) -> None:
            index = barrier_index(w, address(w), "read")
            w.launch.asynchronous.mbarriers.check(w, index)
            w.launch.asynchronous.arrive_on_completion(w, index, "noinc" in i.mods)

        return arrive
    return _copy(i, d)


def _copy(i: Instruction, d: Decoder) -> Step:
    """cp.async.{ca,cg}.shared.global [dst], [src], size {, src-size | ignore-src}: the rest is filled with zeros."""
    _, target = d.address(i.operands[0])
    _, source = d.address(i.operands[1])
    size_operand = i.operands[2]
    if not isinstance(size_operand, Imm):
        raise ValueError("the size must be an immediate")
    size = int(size_operand.value)
    if size not in (4, 8, 16) or (size != 16 and "cg" in i.mods):
        raise ValueError(f"size {size}")
    extra = i.operands[3] if len(i.operands) > 3 else None
    ignores = extra is not None and not isinstance(extra, Imm) and getattr(extra, "type", "") == "pred"
    limit = None if extra is None else d.source(extra, "pred" if ignores else "u32")

    def run(w: Wave) -> None:
        launch = w.launch
        to = w.spread(target(w))
        to = np.where(to >= np.uint64(SHARED_BASE), to - np.uint64(SHARED_BASE), to)
        keep = np.full(w.n, size, np.int64)
        if limit is not None:
            v = w.spread(limit(w))
            keep = np.where(v, 0, size) if ignores else v.astype(np.int64)
        kept = w.sel
        places = access.places_of(w, "shared", to, size)
        if not places:
            return
        place = places[0]
        w.counters.async_copies["cp.async"] += w._count_warps()
        w.counters.async_bytes["cp.async"] += size * len(place.offset)
        w.counters.bytes_written["shared"] += size * len(place.offset)
        offset, lanes = place.offset, place.lanes
        at = np.arange(w.n) if place.at is None else place.at
        if launch.detect:
            shadow = access.shadow_of(w, "shared", launch.shared)
            granule = launch.granule["shared"]
            for k in range(0, size, granule):
                launch.races.write(shadow, (offset + k) // granule, lanes, w.pc, False, "shared", None)
        # The source is read when the copy lands; its addresses are checked now.
        base = w.spread(source(w))[at]
        keep = keep[at]
        image: list[tuple[Array, Array, Array, Array]] = []  # lanes, their source bytes, offset in the copy, memory
        for width in sorted({int(v) for v in np.unique(keep)} - {0}):
            chosen = np.flatnonzero(keep == width)
            w.select(lanes[chosen])
            for unit in range(0, width, 4 if width % 16 else width):
                step = 4 if width % 16 else width
                for part in access.places_of(w, "generic" if "global" not in i.mods else "global",
                                             base[chosen] + np.uint64(unit), step):  # fmt: skip
                    access.observe(w, part, step, "read", False, None)
                    where = chosen if part.at is None else chosen[part.at]
                    bytes_at = part.offset[:, None] + np.arange(step)
                    image.append((where, bytes_at, np.full(len(where), unit), part.segment.data))
        w.select(kept)

        def move(positions: Array) -> None:
            data = launch.shared.data
            moving = np.zeros(len(offset), np.bool_)
            moving[positions] = True
            data[offset[positions][:, None] + np.arange(size)] = 0
            for where, bytes_at, unit, memory in image:
                go = moving[where]
                if go.any():
                    width = bytes_at.shape[1]
                    data[(offset[where[go]] + unit[go])[:, None] + np.arange(width)] = memory[bytes_at[go]]

        launch.asynchronous.issue_granular(w, offset, lanes, size, move)

    return run
