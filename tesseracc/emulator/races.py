"""Data races, by clocks. One detector serves shared memory (granules per CTA) and global memory (granules per buffer).

Every warp has its own clock, which steps at each release (barrier, fence, mbarrier arrival). `known[c, v, w]` is the
clock of warp w up to which warp v of the same cluster has synchronised with it. An earlier access is *ordered* before
the present one if it is by the same thread, or its clock is known to the present warp; inside one warp, if the warp
has synchronised as a whole since. Clusters order each other only through fences or scoped release and acquire.

A granule remembers its last write and two reads by different warps, packed into 64 bits:

    thread + 1 : 27 | strong : 1 | clock : 20 | program counter : 16

Accesses that are both *strong* (atomic, volatile, relaxed, acquire, release) never race with each other. Two plain
writes of the same value are not reported: nobody can observe their order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.findings import GLOBAL_RACE, SHARED_RACE, FindingLog
from tesseracc.emulator.lane_releases import LaneReleases
from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.ptx import Instruction
    from tesseracc.emulator.tensor_fences import TensorFences

__all__ = ["RaceDetector", "Shadow"]

_THREAD = np.uint64(37)
_FIRST_THREAD = np.uint64(1 << 37)
_STRONG = np.uint64(1 << 36)
_CLOCK = np.uint64(16)
_CLOCK_MASK = np.uint64((1 << 20) - 1)
_CLOCK_FIELD = _CLOCK_MASK << _CLOCK
_FIRST = np.zeros(1, np.int64)
_MOST_WAITING = 1 << 21
_PC_MASK = np.uint64((1 << 16) - 1)


class Shadow:
    """Access records of a memory region: one per granule.

    A read matters only to later writes, so it just waits (`waiting`: first granules, how many, records) until a write
    comes, and what nobody writes costs next to nothing. `reads` and `writes`: whether there are records that may race.
    """

    __slots__ = ("count", "epoch", "read1", "read2", "reads", "waiting", "write", "writes")

    def __init__(self, granules: int) -> None:
        self.write = np.zeros(granules, np.uint64)
        self.read1 = np.zeros(granules, np.uint64)
        self.read2 = np.zeros(granules, np.uint64)
        self.waiting: list[tuple[Array, int, Array]] = []
        self.count = 0
        self.reads = self.writes = False
        self.epoch = 0

    def settle(self, epoch: int) -> None:
        """Everything recorded so far is ordered before whatever comes."""
        self.epoch = epoch
        self.reads = self.writes = False
        self.waiting, self.count = [], 0

    def wait(self, granules: Array, span: int, record: Array) -> None:
        """Note a read."""
        self.waiting.append((granules, span, record))
        self.count += len(record)
        if self.count > _MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Enter the reads that wait, in their order."""
        for first, span, record in self.waiting:
            for k in range(span):
                self._enter(_shifted(first, k), record)
        self.waiting, self.count = [], 0

    def _enter(self, granules: Array, record: Array) -> None:
        run = isinstance(granules, slice)
        if self.reads:
            before = self.read1[granules]
            other = _apart(before, record) & (before != 0)
            if other.any():
                at = np.arange(granules.start, granules.stop, granules.step) if run else granules
                self.read2[at[other]] = before[other]
        self.read1[granules] = record
        self.reads = True
        if not run:
            lost = _apart(self.read1[granules], record)
            if lost.any():  # several warps read one granule in one step
                self.read2[granules[lost]] = record[lost]


def _shifted(granules: Array, k: int) -> Array:
    """The granules `k` further on."""
    if isinstance(granules, slice):
        return slice(granules.start + k, granules.stop + k, granules.step)
    return granules + k if k else granules


class RaceDetector:
    """Clocks of one batch of CTAs. `first_thread` is the launch-wide lane number of the batch's first lane."""

    def __init__(self, code: list[Instruction], log: FindingLog, warps: int, warps_per_cluster: int, first_thread: int,
                 released: Array, acquired: Array, warps_per_cta: int) -> None:  # fmt: skip
        self.code, self.log = code, log
        self.warps_per_cluster = warps_per_cluster
        self.warps_per_cta = warps_per_cta
        self.first_thread = first_thread
        self.first_warp = first_thread >> 5
        self.clock = np.ones(warps, np.int64)
        # The thread and clock fields of a record by each lane; what is at or below `floor` in shared memory is ordered.
        self.threads = (np.arange(1, warps * 32 + 1) + first_thread).astype(np.uint64).reshape(-1, 32) << _THREAD
        self.stamp = self.threads | np.uint64(1) << _CLOCK
        self.floor, self.epoch = np.uint64(0), 0
        self.warp_sync = np.zeros(warps, np.int64)
        self.whole = np.zeros(warps, np.int64)  # up to where all lanes of a warp have released
        self.lane_releases = LaneReleases()
        # By program counter: copies that complete on an mbarrier; mbarrier.init.
        self.copies: Array | None = None
        self.inits: Array | None = None
        clusters = warps // warps_per_cluster
        self.known = np.zeros((clusters, warps_per_cluster, warps_per_cluster), np.int64)
        self.known_inits: Array | None = None  # the same, of what fence.mbarrier_init orders
        self.tensor_fences: TensorFences | None = None  # where fences around accesses to tensor memory are demanded
        # Launch-wide: up to which clock each warp has released at gpu scope; whether each CTA has acquired.
        self.released, self.acquired = released, acquired

    # --- synchronisation ---------------------------------------------------------------------------------------------

    def _coordinates(self, warps: Array) -> tuple[Array, Array]:
        return warps // self.warps_per_cluster, warps % self.warps_per_cluster

    def snapshot(self, warps: Array) -> Array:
        """What `warps` [n] know, their own accesses so far included: [n, warps_per_cluster]. Does not step clocks."""
        c, w = self._coordinates(warps)
        rows = self.known[c, w].copy()
        rows[np.arange(len(warps)), w] = self.clock[warps]
        return rows

    def release(self, warps: Array, absent: Array | None = None) -> Array:
        """Publish: the snapshot, after which later accesses of `warps` [n] belong to a new clock.

        `absent` [n]: masks of the lanes that take no part.
        """
        rows = self.snapshot(warps)
        if absent is None or not absent.any():
            self.whole[warps] = self.clock[warps]
        else:
            for warp, mask in zip(warps.tolist(), absent.tolist()):
                clock = int(self.clock[warp])
                if mask:
                    whole = max(int(self.whole[warp]), int(self.warp_sync[warp]))
                    self.lane_releases.note(warp, clock, whole, ~mask)
                else:
                    self.whole[warp] = clock
        self.step(warps)
        return rows

    def step(self, warps: Array) -> None:
        """Later accesses of `warps` belong to a new clock."""
        self.clock[warps] += 1
        clock = np.minimum(self.clock[warps], int(_CLOCK_MASK)).astype(np.uint64)
        self.stamp[warps] = self.threads[warps] | (clock << _CLOCK)[:, None]

    def acquire(self, warps: Array, rows: Array) -> None:
        """`warps` [n] learn `rows` [n or 1, warps_per_cluster]."""
        c, w = self._coordinates(warps)
        self.known[c, w] = np.maximum(self.known[c, w], rows)

    def known_to(self, warps: Array) -> Array:
        """What `warps` of one cluster know together, their own accesses included: [warps_per_cluster]."""
        return np.asarray(self.snapshot(warps).max(axis=0))

    def knows(self, warp: int, other: int, clock: int) -> bool:
        """Whether `warp` has synchronised with `other` of its cluster, if that is another, since `clock`."""
        c, w = divmod(warp, self.warps_per_cluster)
        return warp == other or (other // self.warps_per_cluster == c and bool(
            max(self.known[c, w, other % self.warps_per_cluster], 0 if self.known_inits is None else
                self.known_inits[c, w, other % self.warps_per_cluster]) >= clock
        ))  # fmt: skip

    def acquire_inits(self, warps: Array, row: Array) -> None:
        """`warps` [n] learn of the mbarriers initialised up to `row` [warps_per_cluster]."""
        if self.known_inits is None:
            self.known_inits = np.zeros_like(self.known)
        c, w = self._coordinates(warps)
        self.known_inits[c, w] = np.maximum(self.known_inits[c, w], row)

    def learn(self, warp: int, row: Array) -> None:
        """`warp` learns `row` from a thread of its cluster, perhaps of its own: its lanes hand data to each other."""
        c, w = divmod(warp, self.warps_per_cluster)
        self.known[c, w] = np.maximum(self.known[c, w], row)
        self.meet(warp, int(row[w]))

    def meet(self, warp: int, clock: int) -> None:
        """The lanes of `warp` know what they did up to `clock`."""
        self.warp_sync[warp] = max(int(self.warp_sync[warp]), clock)

    def join_groups(self, warps: Array, group: Array) -> None:
        """A barrier: `warps` [n] with equal `group` [n] numbers all learn what any of them knows."""
        rows = self.release(warps)
        self.warp_sync[warps] = self.clock[warps] - 1
        numbers, inverse = np.unique(group, return_inverse=True)
        joint = np.zeros((len(numbers), rows.shape[1]), np.int64)
        np.maximum.at(joint, inverse, rows)
        self.acquire(warps, joint[inverse])

    def join_all(self, warps_per_group: int) -> None:
        """A barrier of every CTA (or cluster) of the batch at once."""
        warps = np.arange(len(self.clock))
        rows = self.snapshot(warps)
        if warps_per_group == self.warps_per_cluster:  # nobody else reaches their shared memory
            self.clock[:] = self.clock.max()
            self.floor, self.epoch = np.uint64(self.clock[0]) << _CLOCK, self.epoch + 1
        self.step(warps)
        self.warp_sync[:] = self.clock - 1
        joint = rows.reshape(-1, warps_per_group, rows.shape[1]).max(axis=1)
        self.acquire(warps, np.repeat(joint, warps_per_group, axis=0))

    def sync_warps(self, warps: Array) -> None:
        """bar.warp.sync by whole warps."""
        self.warp_sync[warps] = self.clock[warps]
        self.step(warps)

    def fence(self, warps: Array) -> None:
        """A fence of gpu scope: releases what the warps know to other clusters, and acquires what those released."""
        rows = self.release(warps)
        first = warps // self.warps_per_cluster * self.warps_per_cluster + self.first_warp
        for k in range(rows.shape[1]):
            np.maximum.at(self.released, first + k, rows[:, k])
        self.acquired[(warps + self.first_warp) // self.warps_per_cta] = True

    # --- accesses ----------------------------------------------------------------------------------------------------

    def records(self, lanes: Array, pc: int, strong: bool) -> Array:
        """The packed records of an access by `lanes` of the batch."""
        flags = np.uint64(pc & 0xFFFF) | (_STRONG if strong else np.uint64(0))
        stamp = self.stamp.reshape(-1)
        n = len(lanes)
        if n and lanes[-1] - lanes[0] == n - 1:  # ascending lanes
            return stamp[lanes[0] : lanes[0] + n] | flags
        return stamp[lanes] | flags

    def _settle(self, shadow: Shadow, space: str) -> None:
        if space == "shared" and shadow.epoch != self.epoch:
            shadow.settle(self.epoch)

    def read(self, shadow: Shadow, granules: Array, lanes: Array, pc: int, strong: bool, space: str,
             span: int = 1) -> None:  # fmt: skip
        """Lanes [n] read `span` granules each from `granules` [n] on (numbers, or a slice)."""
        self._settle(shadow, space)
        record = self.records(lanes, pc, strong)
        if shadow.writes:
            for k in range(span):
                self._check(shadow.write[_shifted(granules, k)], record, lanes, pc, space, "read", "write")
        shadow.wait(granules, span, record)

    def write(self, shadow: Shadow, granules: Array, lanes: Array, pc: int, strong: bool, space: str,
              changed: Callable[[int], Array] | None, span: int = 1) -> None:  # fmt: skip
        """Lanes [n] write `span` granules each from `granules` [n] on (numbers, or a slice).

        `changed(k)` [n] tells where the stored value differs from the present one in the k-th of them.
        """
        self._settle(shadow, space)
        shadow.flush()
        record = self.records(lanes, pc, strong)
        written = shadow.writes
        for k in range(span):
            at = _shifted(granules, k)
            if written:
                differs = None if changed is None else partial(changed, k)
                self._check(shadow.write[at], record, lanes, pc, space, "write", "write", differs)
            if shadow.reads:
                self._check(shadow.read1[at], record, lanes, pc, space, "write", "read")
                self._check(shadow.read2[at], record, lanes, pc, space, "write", "read")
            shadow.write[at] = record
        shadow.writes = True

    def wrote(self, shadow: Shadow, granules: Array, lanes: Array, pc: int) -> None:
        """Lanes [n] wrote `granules` [n] of shared memory by an operation that was checked when it was issued."""
        self._settle(shadow, "shared")
        shadow.write[granules] = self.records(lanes, pc, False)
        shadow.writes = True

    def same_step(self, lanes: Array, winners: Array, pc: int, space: str) -> None:
        """Lanes [n] wrote a granule in one step with other values than `winners` [n]."""
        if len(lanes):
            at = self.code[pc]
            self.log.add(GLOBAL_RACE if space == "global" else SHARED_RACE,
                         f"{self._who(int(lanes[0]))} and {self._who(int(winners[0]))} write different values to one "
                         f"{space} address in the same instruction", at, at, len(lanes))  # fmt: skip

    def lane_of(self, records: Array) -> Array:
        """The lanes of the batch that made the accesses; negative or beyond the batch for others."""
        return (records >> _THREAD).astype(np.int64) - 1 - self.first_thread

    def _who(self, lane: int) -> str:
        threads = self.warps_per_cta * 32
        return f"thread {lane % threads} of CTA {(lane + self.first_thread) // threads}"

    def _check(self, before: Array, record: Array, lanes: Array, pc: int, space: str, now: str, then: str,
               changed: Callable[[], Array] | None = None) -> None:  # fmt: skip
        live = before & _CLOCK_FIELD > (self.floor if space == "shared" else 0)
        if not live.any():
            return
        suspect = live & ((before ^ record) >> _THREAD != 0) & (before & record & _STRONG == 0)
        if not suspect.any():
            return
        if changed is not None:
            suspect &= changed()
        at = np.flatnonzero(suspect)
        if not len(at):
            return
        old, mine = before[at], lanes[at]
        # Neighbours mostly have the same history: one question for each run of them.
        fresh = np.concatenate([_FIRST, np.flatnonzero((old[1:] != old[:-1]) | (mine[1:] != mine[:-1])) + 1])
        old, mine, times = old[fresh], mine[fresh], np.diff(fresh, append=len(old))
        unordered = ~self.ordered(old, mine)
        if space == "tensor" and self.tensor_fences is not None:
            clocks = (old >> _CLOCK & _CLOCK_MASK).astype(np.int64)
            unordered |= ~self.tensor_fences.ordered(_warp(old) - self.first_warp, clocks, mine >> 5)
        if not unordered.any():
            return
        first = int(np.flatnonzero(unordered)[0])
        other = self.code[int(old[first] & _PC_MASK)]
        self.log.add(
            GLOBAL_RACE if space == "global" else SHARED_RACE,
            f"{now} of {space} memory by {self._who(int(mine[first]))} races with the {then} by "
            f"{self._who(int(old[first] >> _THREAD) - 1 - self.first_thread)}",
            self.code[pc], other, int(times[unordered].sum()),
        )  # fmt: skip

    def ordered(self, old: Array, lanes: Array) -> Array:
        """Whether the accesses `old` [n] happen before the present one of `lanes` [n]."""
        clock = (old >> _CLOCK & _CLOCK_MASK).astype(np.int64)
        theirs = np.minimum(_warp(old), len(self.released) - 1)  # launch-wide
        mine = lanes >> 5
        local = theirs - self.first_warp
        c, w = self._coordinates(mine)
        near = (local >= 0) & (local < len(self.clock)) & (local // self.warps_per_cluster == c)
        safe = np.where(near, local, 0)
        known = self.known[c, w, safe % self.warps_per_cluster]
        if self.known_inits is not None:
            init = self.known_inits[c, w, safe % self.warps_per_cluster]
            known = np.where(self._by_init(old), np.maximum(known, init), known)
        same = mine == local
        if same.any():  # a lane learns of a copy by its warp mate as any other thread does: from the copy's mbarrier
            same &= ~self._by_copy(old)
            known = np.where(same, self.warp_sync[mine], known)
        reached = clock <= known
        if self.lane_releases:
            asked = np.flatnonzero(near & ~same & reached)
            lanes_there = self.lane_of(old[asked]) & 31
            reached[asked] = ~self.lane_releases.missed(local[asked], known[asked], clock[asked], lanes_there)
        far = (clock <= self.released[theirs]) & self.acquired[(mine + self.first_warp) // self.warps_per_cta]
        return np.where(near, reached, far)

    def _by_copy(self, old: Array) -> Array:
        """Whether accesses were made by copies that complete on an mbarrier."""
        if self.copies is None:
            self.copies = self._marked(lambda i: i.opcode == "cp" and "mbarrier::complete_tx::bytes" in i.mods)
        return np.asarray(self.copies[(old & _PC_MASK).astype(np.int64)])

    def _by_init(self, old: Array) -> Array:
        """Whether accesses are initialisations of mbarriers."""
        if self.inits is None:
            self.inits = self._marked(lambda i: i.opcode == "mbarrier" and "init" in i.mods)
        return np.asarray(self.inits[(old & _PC_MASK).astype(np.int64)])

    def _marked(self, chosen: Callable[[Instruction], bool]) -> Array:
        """By the program counter of a record: whether its instruction is a chosen one."""
        out = np.zeros(int(_PC_MASK) + 1, np.bool_)
        out[np.array([pc for pc, i in enumerate(self.code) if chosen(i)], np.int64) & int(_PC_MASK)] = True
        return out


def _warp(record: Array) -> Array:
    """The warp of records, launch-wide."""
    return (record - _FIRST_THREAD >> _THREAD + np.uint64(5)).astype(np.int64)


def _apart(a: Array, b: Array) -> Array:
    """Whether records are of different warps."""
    return (a - _FIRST_THREAD ^ b - _FIRST_THREAD) >> _THREAD + np.uint64(5) != 0
