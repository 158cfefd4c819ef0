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

from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.findings import GLOBAL_RACE, SHARED_RACE, FindingLog
from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.ptx import Instruction

__all__ = ["RaceDetector", "Shadow"]

_THREAD = np.uint64(37)
_STRONG = np.uint64(1 << 36)
_CLOCK = np.uint64(16)
_CLOCK_MASK = np.uint64((1 << 20) - 1)
_PC_MASK = np.uint64((1 << 16) - 1)


class Shadow:
    """Access records of a memory region: one per granule."""

    __slots__ = ("read1", "read2", "write")

    def __init__(self, granules: int) -> None:
        self.write = np.zeros(granules, np.uint64)
        self.read1 = np.zeros(granules, np.uint64)
        self.read2 = np.zeros(granules, np.uint64)

    def forget(self, granules: Array) -> None:
        """Drop the records of `granules`: their bytes were replaced by something already ordered."""
        self.write[granules] = 0
        self.read1[granules] = 0
        self.read2[granules] = 0


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
        self.warp_sync = np.zeros(warps, np.int64)
        clusters = warps // warps_per_cluster
        self.known = np.zeros((clusters, warps_per_cluster, warps_per_cluster), np.int64)
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

    def release(self, warps: Array) -> Array:
        """Publish: the snapshot, after which later accesses of `warps` belong to a new clock."""
        rows = self.snapshot(warps)
        self.clock[warps] += 1
        return rows

    def acquire(self, warps: Array, rows: Array) -> None:
        """`warps` [n] learn `rows` [n or 1, warps_per_cluster]."""
        c, w = self._coordinates(warps)
        self.known[c, w] = np.maximum(self.known[c, w], rows)

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
        rows = self.release(warps)
        self.warp_sync[:] = self.clock - 1
        joint = rows.reshape(-1, warps_per_group, rows.shape[1]).max(axis=1)
        self.acquire(warps, np.repeat(joint, warps_per_group, axis=0))

    def sync_warps(self, warps: Array) -> None:
        """bar.warp.sync by whole warps."""
        self.warp_sync[warps] = self.clock[warps]
        self.clock[warps] += 1

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
        thread = (lanes + (self.first_thread + 1)).astype(np.uint64)
        clock = np.minimum(self.clock[lanes >> 5], int(_CLOCK_MASK)).astype(np.uint64)
        flags = np.uint64(pc & 0xFFFF) | (_STRONG if strong else np.uint64(0))
        return thread << _THREAD | clock << _CLOCK | flags

    def read(self, shadow: Shadow, granules: Array, lanes: Array, pc: int, strong: bool, space: str) -> None:
        """Lanes [n] read `granules` [n]."""
        record = self.records(lanes, pc, strong)
        self._check(shadow.write[granules], record, lanes, pc, space, "read", "write")
        before = shadow.read1[granules]
        other = (before != 0) & (_warp(before) != _warp(record))
        if other.any():
            shadow.read2[granules[other]] = before[other]
        shadow.read1[granules] = record
        lost = _warp(shadow.read1[granules]) != _warp(record)
        if lost.any():  # several warps read one granule in this very step
            shadow.read2[granules[lost]] = record[lost]

    def write(self, shadow: Shadow, granules: Array, lanes: Array, pc: int, strong: bool, space: str,
              changed: Array | None) -> None:  # fmt: skip
        """Lanes [n] write `granules` [n]; `changed` [n] tells where the stored value differs from the present one."""
        record = self.records(lanes, pc, strong)
        before = shadow.write[granules]
        if changed is not None:
            before = np.where(changed, before, np.uint64(0))
        self._check(before, record, lanes, pc, space, "write", "write")
        self._check(shadow.read1[granules], record, lanes, pc, space, "write", "read")
        self._check(shadow.read2[granules], record, lanes, pc, space, "write", "read")
        shadow.write[granules] = record

    def same_step(self, lanes: Array, winners: Array, pc: int, space: str) -> None:
        """Lanes [n] wrote a granule in one step with other values than `winners` [n]."""
        if len(lanes):
            at = self.code[pc]
            self.log.add(SHARED_RACE if space == "shared" else GLOBAL_RACE,
                         f"{self._who(int(lanes[0]))} and {self._who(int(winners[0]))} write different values to one "
                         f"{space} address in the same instruction", at, at, len(lanes))  # fmt: skip

    def lane_of(self, records: Array) -> Array:
        """The lanes of the batch that made the accesses; negative or beyond the batch for others."""
        return (records >> _THREAD).astype(np.int64) - 1 - self.first_thread

    def _who(self, lane: int) -> str:
        threads = self.warps_per_cta * 32
        return f"thread {lane % threads} of CTA {(lane + self.first_thread) // threads}"

    def _check(self, before: Array, record: Array, lanes: Array, pc: int, space: str, now: str, then: str) -> None:
        if not before.any():
            return
        suspect = (before != 0) & ((before ^ record) >> _THREAD != 0) & (before & record & _STRONG == 0)
        if not suspect.any():
            return
        at = np.flatnonzero(suspect)
        old, mine = before[at], lanes[at]
        unordered = ~self.ordered(old, mine)
        if not unordered.any():
            return
        first = int(np.flatnonzero(unordered)[0])
        other = self.code[int(old[first] & _PC_MASK)]
        self.log.add(
            SHARED_RACE if space == "shared" else GLOBAL_RACE,
            f"{now} of {space} memory by {self._who(int(mine[first]))} races with the {then} by "
            f"{self._who(int(old[first] >> _THREAD) - 1 - self.first_thread)}",
            self.code[pc], other, int(unordered.sum()),
        )  # fmt: skip

    def ordered(self, old: Array, lanes: Array) -> Array:
        """Whether the accesses `old` [n] happen before the present one of `lanes` [n]."""
        clock = (old >> _CLOCK & _CLOCK_MASK).astype(np.int64)
        theirs = _warp(old)  # launch-wide
        mine = lanes >> 5
        local = theirs - self.first_warp
        c, w = self._coordinates(mine)
        near = (local >= 0) & (local < len(self.clock)) & (local // self.warps_per_cluster == c)
        safe = np.where(near, local, 0)
        known = np.where(mine == local, self.warp_sync[mine], self.known[c, w, safe % self.warps_per_cluster])
        far = (clock <= self.released[theirs]) & self.acquired[(mine + self.first_warp) // self.warps_per_cta]
        return np.where(near, clock <= known, far)


def _warp(record: Array) -> Array:
    return ((record >> _THREAD).astype(np.int64) - 1) >> 5
