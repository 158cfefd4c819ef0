"""Communication inside a warp: shfl vote match redux activemask elect, bar.warp.sync."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tesseracc.emulator import numeric as nm
from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.findings import UNINITIALISED
from tesseracc.emulator.ptx import Imm, Instruction, Operand, Pair
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import TYPES, Array, where
from tesseracc.emulator.wave import Wave

_SYNC = "9.7.13 Parallel Synchronization and Communication"
_ALL = 0xFFFFFFFF


class Rows:
    """The executing lanes as rows of 32: `row`, `column` per lane, `here` [warps, 32]."""

    def __init__(self, w: Wave) -> None:
        lanes = w.lanes
        self.column = lanes & 31
        if w.full:
            self.row = lanes >> 5
            self.count = w.size >> 5
        else:
            warps, self.row = np.unique(lanes >> 5, return_inverse=True)
            self.count = len(warps)
        self.here = np.zeros((self.count, 32), np.bool_)
        self.here[self.row, self.column] = True

    def grid(self, value: Array) -> Array:
        """Values per lane as [warps, 32]; zeros where nobody executes."""
        out = np.zeros((self.count, 32), value.dtype)
        out[self.row, self.column] = value
        return out

    def flat(self, grid: Array) -> Array:
        """Back to one value per executing lane."""
        return grid[self.row, self.column]


def ballot(bits: Array) -> Array:
    """[warps, 32] truth values to one mask per warp."""
    return (bits.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(axis=1).astype(np.uint32)


def member_wait(d: Decoder, i: Instruction, mask: Operand, step: Callable[[Wave, Array], None]) -> Step:
    """A `.sync` step: waits until the lanes of the member mask are here, then runs with the mask per lane."""
    members: Source = d.source(mask, "u32")
    whole = isinstance(mask, Imm) and mask.value in (_ALL, -1)
    guard = d.predicate(i.guard) if i.guard is not None else None

    def run(w: Wave) -> bool | None:
        kept = None
        if guard is not None:
            on = w.spread(guard(w))
            if not on.any():
                return None
            if not on.all():
                kept = w.lanes[~on]
                w.narrow(on)
        there = w.gather_warps(None if whole and w.full else w.spread(members(w)))
        if there:
            step(w, w.spread(members(w)))
        if kept is not None or not there:
            # The lanes that did not take part go on; those that did follow or are held.
            if there:
                w.queue(w.pc + 1, w.sel)
            if kept is not None:
                w.queue(w.pc + 1, kept)
            return True
        return None

    return run


@instruction("shfl", _SYNC + ": shfl.sync", ".up .down .bfly .idx, b32", control=True)
def shfl(i: Instruction, d: Decoder) -> Step:
    """Read a register of another lane of the segment; a lane outside the segment reads itself (p = false)."""
    if "sync" not in i.mods:
        raise ValueError("shfl without .sync")
    mode = next(m for m in i.mods if m in ("up", "down", "bfly", "idx"))
    targets = i.operands[0]
    first, second = (targets.first, targets.second) if isinstance(targets, Pair) else (targets, None)
    put, put_p = d.sink(first, "b32"), d.sink(second, "pred")
    a, b, c = (d.source(o, "u32") for o in i.operands[1:4])

    def step(w: Wave, members: Array) -> None:
        rows = Rows(w)
        value = rows.grid(w.spread(a(w)))
        lane = rows.column
        n = w.spread(b(w)).astype(np.int64) & 31
        bound, segment = w.spread(c(w)).astype(np.int64) & 31, w.spread(c(w)).astype(np.int64) >> 8 & 31
        highest = (lane & segment) | (bound & ~segment)
        lowest = lane & segment
        if mode == "up":
            source = lane - n
            inside = source >= highest
        elif mode == "down":
            source = lane + n
            inside = source <= highest
        elif mode == "bfly":
            source = lane ^ n
            inside = source <= highest
        else:
            source = lowest | (n & ~segment)
            inside = source <= highest
        source = where(inside, source, lane) & 31
        missing = ~rows.here[rows.row, source]
        if missing.any():
            w.log.add(UNINITIALISED, "shfl.sync reads the register of a lane that does not take part", i,
                      count=int(missing.sum()))  # fmt: skip
        put(w, value[rows.row, source])
        put_p(w, inside)

    return member_wait(d, i, i.operands[4], step)


@instruction("vote", _SYNC + ": vote.sync", ".all .any .uni .ballot", control=True)
def vote(i: Instruction, d: Decoder) -> Step:
    """A predicate over the member lanes, or the mask of lanes where it holds."""
    mode = next(m for m in i.mods if m in ("all", "any", "uni", "ballot"))
    put, a = d.sink(i.operands[0], "b32" if mode == "ballot" else "pred"), d.source(i.operands[1], "pred")

    def step(w: Wave, members: Array) -> None:
        rows = Rows(w)
        masks = members.astype(np.uint32)
        yes = ballot(rows.grid(w.spread(a(w))))[rows.row] & masks
        everyone = ballot(rows.here)[rows.row] & masks
        if mode == "ballot":
            put(w, yes)
        elif mode == "all":
            put(w, yes == everyone)
        elif mode == "any":
            put(w, yes != 0)
        else:
            put(w, (yes == 0) | (yes == everyone))

    return member_wait(d, i, i.operands[2], step)


@instruction("match", _SYNC + ": match.sync", ".any .all, b32 b64", control=True)
def match(i: Instruction, d: Decoder) -> Step:
    """.any: the lanes that hold my value; .all: the members if all hold one value, else 0 (and p)."""
    kind = i.mods[-1]
    targets = i.operands[0]
    first, second = (targets.first, targets.second) if isinstance(targets, Pair) else (targets, None)
    put, put_p, a = d.sink(first, "b32"), d.sink(second, "pred"), d.source(i.operands[1], kind)

    def step(w: Wave, members: Array) -> None:
        rows = Rows(w)
        value = rows.grid(w.spread(a(w)))
        equal = (value[:, :, None] == value[:, None, :]) & rows.here[:, None, :]
        masks = (equal.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(axis=2).astype(np.uint32)
        mine = masks[rows.row, rows.column] & members
        if "any" in i.mods:
            put(w, mine)
            return
        same = mine == (members & ballot(rows.here)[rows.row])
        put(w, where(same, mine, np.uint32(0)))
        put_p(w, same)

    return member_wait(d, i, i.operands[2], step)


@instruction(
    "redux", _SYNC + ": redux.sync", ".add .min .max u32 s32, .and .or .xor b32, .min .max f32 .abs .NaN", control=True
)
def redux(i: Instruction, d: Decoder) -> Step:
    """A reduction over the member lanes, the result in all of them."""
    kind = i.mods[-1]
    op = next(m for m in i.mods if m in ("add", "min", "max", "and", "or", "xor"))
    put, a = d.sink(i.operands[0], kind), d.source(i.operands[1], kind)

    def reduce(values: Array) -> Array:
        if kind == "f32":
            if "abs" in i.mods:
                values = np.abs(values)
            if "NaN" in i.mods:
                return nm.canonical((np.minimum if op == "min" else np.maximum).reduce(values))
            return nm.canonical((np.fmin if op == "min" else np.fmax).reduce(values))
        table = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
                 "xor": np.bitwise_xor}  # fmt: skip
        return table[op].reduce(values, dtype=values.dtype)

    def step(w: Wave, members: Array) -> None:
        rows = Rows(w)
        value = w.spread(a(w))
        out = np.zeros(w.n, TYPES[kind].dtype)
        keys = rows.row.astype(np.int64) << 32 | members.astype(np.int64)
        if len(rows.row) % 32 == 0 and rows.count * 32 == w.n and (members == np.uint32(_ALL)).all():
            grid = rows.grid(value)
            result = reduce(np.moveaxis(grid, 1, 0))
            put(w, result[rows.row])
            return
        for key in np.unique(keys):
            at = keys == key
            out[at] = reduce(value[at])
        put(w, out)

    return member_wait(d, i, i.operands[2], step)


@instruction("activemask", _SYNC + ": activemask", "b32")
def activemask(i: Instruction, d: Decoder) -> Step:
    """The lanes of the warp that execute together now."""
    put = d.sink(i.operands[0], "b32")

    def run(w: Wave) -> None:
        rows = Rows(w)
        put(w, ballot(rows.here)[rows.row])

    return run


@instruction("elect", _SYNC + ": elect.sync", "", control=True)
def elect(i: Instruction, d: Decoder) -> Step:
    """p is true in one lane of the member mask, the lowest; d is its number."""
    targets = i.operands[0]
    first, second = (targets.first, targets.second) if isinstance(targets, Pair) else (None, targets)
    put, put_p = d.sink(first, "b32"), d.sink(second, "pred")

    def step(w: Wave, members: Array) -> None:
        rows = Rows(w)
        present = members & ballot(rows.here)[rows.row]
        leader = np.bitwise_count((present & (~present + np.uint32(1))) - np.uint32(1)).astype(np.uint32)
        put(w, leader)
        put_p(w, leader == rows.column.astype(np.uint32))

    return member_wait(d, i, i.operands[1], step)
