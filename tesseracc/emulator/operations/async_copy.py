"""cp.async, and dispatch of the bulk copies (see bulk_copy)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.findings import BAD_STATE
from tesseracc.emulator.operations.bulk_copy import bulk_step
from tesseracc.emulator.operations.matrix import shared_address
from tesseracc.emulator.operations.mbarriers import barrier_index
from tesseracc.emulator.ptx import Imm, Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.tensor_map import CHUNK
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

_UNITS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: CHUNK}
_SECTION = "9.7.9.25 Asynchronous copy"


def _pieces(width: int) -> list[tuple[int, int]]:
    """`width` bytes as (first byte, size) of aligned pieces, each a power of two, the largest first."""
    sizes = [1 << bit for bit in reversed(range(5)) if width >> bit & 1]
    return [(sum(sizes[:k]), size) for k, size in enumerate(sizes)]


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
    operands = i.operands[: len(i.operands) - ("L2::cache_hint" in i.mods)]
    extra = operands[3] if len(operands) > 3 else None
    ignores = extra is not None and not isinstance(extra, Imm) and getattr(extra, "type", "") == "pred"
    limit = None if extra is None else d.source(extra, "pred" if ignores else "u32")
    space = "global" if "global" in i.mods else "generic"

    def run(w: Wave) -> None:
        launch = w.launch
        kept = w.sel
        places = access.places_of(w, "shared", shared_address(w, target(w)), size)
        if not places:
            return
        place = places[0]
        w.counters.async_copies["cp.async"] += w.active_warps()
        w.counters.async_bytes["cp.async"] += size * len(place.offset)
        w.counters.bytes_written["shared"] += size * len(place.offset)
        offset, lanes = place.offset, place.lanes
        if launch.detect:
            shadow = access.shadow_of(w, "shared", launch.shared)
            granule = launch.granule["shared"]
            launch.races.write(
                shadow, place.units(granule, 0, size), lanes, w.pc, False, "shared", None, size // granule
            )
        # The source is read when the copy lands; its addresses are checked now.
        at = slice(None) if place.at is None else place.at
        base = w.spread(source(w))[at]
        keep = np.full(len(offset), size, np.int64)
        if limit is not None:
            v = w.spread(limit(w))[at]
            keep = np.where(v, 0, size) if ignores else v.astype(np.int64)
            if (keep > size).any():
                w.log.add(BAD_STATE, f"cp.async of {size} bytes from a source of {int(keep.max())}", w.code[w.pc])
                keep = np.minimum(keep, size)
        image: list[tuple[Array | None, int, int, access.Place]] = []  # lanes (None: all), first byte, bytes, source
        for width in sorted(set(keep.tolist()) - {0}):
            chosen = np.flatnonzero(keep == width)
            w.select(lanes[chosen])
            for first, unit in _pieces(width):
                for part in access.places_of(w, space, base[chosen] + np.uint64(first), unit):
                    access.observe(w, part, unit, "read", False, None)
                    where = chosen if part.at is None else chosen[part.at]
                    image.append((None if len(where) == len(offset) else where, first, unit, part))
        w.select(kept)
        copied = sum(unit * (len(offset) if where is None else len(where)) for where, _, unit, _ in image)

        def move(positions: Array) -> None:
            data = launch.shared.data
            everyone = len(positions) == len(offset)
            moving = np.zeros(len(offset), np.bool_)
            moving[positions] = True
            if copied < size * len(offset):
                data.view(_UNITS[size])[offset[positions] // size] = 0
            for where, first, unit, part in image:
                to = (offset if where is None else offset[where]) + first
                values = part.segment.view(_UNITS[unit])[part.units(unit, 0, unit)]
                if everyone:
                    data.view(_UNITS[unit])[to // unit] = values
                else:
                    go = moving if where is None else moving[where]
                    data.view(_UNITS[unit])[to[go] // unit] = values[go]

        launch.asynchronous.issue_granular(w, offset, lanes, size, move)

    return run
