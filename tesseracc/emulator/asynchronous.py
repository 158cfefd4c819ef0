"""The asynchronous engine of one batch: copies whose bytes land later than they were asked for.

A copy lands when something that waits for it forces it to (a wait on its group, or all threads blocked on mbarriers),
never before, unless the seed lets it land at once. So a missing wait reads old bytes, on every run. Until whoever
issued the copy has waited, its shared bytes are marked: `writing` where a copy will store, `reading` where it still
has to load. An ordinary access to marked bytes is a finding (E959).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.access import shadow_of
from tesseracc.emulator.findings import ASYNC_HAZARD, PROXY_FENCE
from tesseracc.emulator.mbarrier import MBarriers
from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.launch import Launch
    from tesseracc.emulator.ptx import Instruction
    from tesseracc.emulator.wave import Wave

__all__ = ["AsyncEngine", "Bulk", "Granular", "granule_run"]


@dataclass(slots=True, eq=False)
class Granular:
    """One cp.async instruction: per lane a copy of `size` bytes from a global segment into shared memory."""

    pc: int
    lanes: Array
    group: Array  # the lane's group number at issue
    target: Array  # byte offsets in the shared data
    move: Callable[[Array], None]  # lands the copies at the given positions
    size: int
    landed: Array
    waited: Array
    noted: Array  # the race detector knows the write


@dataclass(slots=True, eq=False)
class Bulk:
    """One bulk operation of one thread. `load` captures the source, `land` stores the captured bytes."""

    pc: int
    lane: int
    reads: Sequence[slice]  # runs of 4-byte granules of shared memory that it loads from
    writes: Sequence[slice]  # ... that it stores to
    load: Callable[[], Array]
    land: Callable[[Array], None]
    barriers: list[tuple[int, int]] = field(default_factory=list)  # (mbarrier index, bytes) completed on landing
    group: int | None = None
    data: Array | None = None
    landed: bool = False
    waited: bool = False


def granule_run(start: int, size: int, unit: int = 4) -> slice:
    """The granules of `unit` bytes that bytes [start, start + size) touch."""
    return slice(start // unit, -(-(start + size) // unit))


def _clear(marks: Array, runs: Sequence[slice], mark: int) -> None:
    for run in runs:
        part = marks[run]
        part[part == mark] = 0


class AsyncEngine:
    """Pending operations and the marks on shared memory."""

    def __init__(self, launch: Launch, w: Wave) -> None:
        self.launch = launch
        self.wave = w
        self.busy = False
        granules = len(launch.shared.data) // 4 + 4
        self.writing: Array = np.zeros(granules, np.int32)
        self.reading: Array = np.zeros(granules, np.int32)
        self.dirty: Array | None = np.zeros(granules, np.bool_) if launch.uses_async_proxy else None
        self.mbarriers = MBarriers(launch, w)
        self.random = np.random.default_rng(launch.seed)
        self.group = np.zeros(w.size, np.int64)
        self.bulk_group = np.zeros(w.size, np.int64)
        self.granular: list[Granular] = []
        self.bulk: list[Bulk] = []
        # Copies that have landed before anyone waited: by mbarrier (phase at landing, pc, what settles them).
        self.unseen: dict[int, list[tuple[int, int, Callable[[], None]]]] = {}

    def origin(self, number: int) -> Instruction:
        """The instruction behind a mark."""
        return self.launch.program.code[number - 1]

    def early(self) -> bool:
        """Whether the operation being issued lands at once. Seed 0 delays everything as far as possible."""
        return self.launch.seed != 0 and bool(self.random.integers(2))

    # --- cp.async ----------------------------------------------------------------------------------------------------

    def issue_granular(self, w: Wave, target: Array, lanes: Array, size: int, move: Callable[[Array], None]) -> None:
        """cp.async by `lanes`, into the open group of each."""
        n = len(lanes)
        landed, waited, noted = np.zeros((3, n), np.bool_)
        op = Granular(w.pc, lanes, self.group[lanes].copy(), target, move, size, landed, waited, noted)
        for k in range(0, size, 4):
            self.writing[(target + k) // 4] = w.pc + 1
        self.granular.append(op)
        self.busy = True
        if self.early():
            move(np.arange(n))
            op.landed[:] = True

    def commit(self, w: Wave) -> None:
        """cp.async.commit_group."""
        self.group[w.sel] += 1

    def wait_groups(self, w: Wave, left: int) -> None:
        """cp.async.wait_group: all but the last `left` groups of each executing lane are complete."""
        here = np.zeros(w.size, np.bool_)
        here[w.sel] = True
        done = self.group - left
        for op in self.granular:
            self._finish_granular(op, here[op.lanes] & (op.group < done[op.lanes]) & ~op.waited)
        self._drop()

    def _finish_granular(self, op: Granular, mask: Array) -> None:
        if mask.any():
            self._move(op, mask)
            self._settle_granular(op, mask)
            self._note(op, mask)

    def _note(self, op: Granular, mask: Array) -> None:
        at = np.flatnonzero(mask & ~op.noted)
        if len(at):
            op.noted[at] = True
            self.note_write(op.target[at], op.size, op.lanes[at], op.pc)
            if self.launch.strict:  # the threads' own copies are ordinary stores to the other proxy
                self.note_generic_write(op.target[at], op.size)

    def _move(self, op: Granular, mask: Array) -> None:
        late = np.flatnonzero(mask & ~op.landed)
        if len(late):
            op.move(late)
            op.landed[late] = True

    def _settle_granular(self, op: Granular, mask: Array) -> None:
        """Somebody has waited for these copies."""
        at = np.flatnonzero(mask & ~op.waited)
        op.waited[at] = True
        for k in range(0, op.size, 4):
            granule = (op.target[at] + k) // 4
            mine = self.writing[granule] == op.pc + 1
            self.writing[granule[mine]] = 0

    def arrive_on_completion(self, w: Wave, index: Array, noinc: bool) -> None:
        """cp.async.mbarrier.arrive: arrivals once the copies that the lanes have issued so far are complete."""
        lanes = w.lanes
        if not noinc:
            np.add.at(self.mbarriers.pending, index, 1)
        mine: list[tuple[Granular, Array]] = []
        for op in self.granular:
            mask = np.isin(op.lanes, lanes) & ~op.waited
            if mask.any():
                self._note(op, mask)
                mine.append((op, mask))
        self.mbarriers.announce(w, index)
        for k in np.unique(index).tolist():
            here = lanes[index == k]
            parts = [(op, mask & np.isin(op.lanes, here)) for op, mask in mine]
            self._arrive_later(w, k, here, [(op, mask) for op, mask in parts if mask.any()])

    def _arrive_later(self, w: Wave, index: int, lanes: Array, parts: list[tuple[Granular, Array]]) -> None:
        """An operation that completes `parts` and then stands for an arrival of each of `lanes` at an mbarrier."""

        def land(_: Array) -> None:
            phase, w.pc, now = int(self.mbarriers.phase[index]), pc, w.pc
            for op, mask in parts:
                self._move(op, mask)
                self.unseen.setdefault(index, []).append((phase, op.pc, partial(self._settle_granular, op, mask)))
            self.mbarriers.count(w, np.full(len(lanes), index), np.ones(len(lanes), np.int64))
            w.pc = now

        pc = w.pc
        self.issue_bulk(w, Bulk(w.pc, int(lanes[0]), (), (), lambda: np.zeros(0), land, [(index, 0)]))

    # --- bulk operations ---------------------------------------------------------------------------------------------

    def issue_bulk(self, w: Wave, op: Bulk) -> None:
        """A bulk copy, tensor copy, reduction or remote store by one thread."""
        for marks, what in ((self.reading, "still reads"), (self.writing, "still writes")):
            for run in op.writes:
                clash = marks[run]
                if clash.any():
                    other = self.origin(int(clash[np.flatnonzero(clash)[0]]))
                    if "reduce" in other.mods and "reduce" in w.code[op.pc].mods:
                        continue  # reductions into one place take turns
                    message = f"a copy is issued into shared memory that an asynchronous operation {what}"
                    w.log.add(ASYNC_HAZARD, message, w.code[w.pc], other)
                    break
        for run in op.reads:
            self._check_proxy(w, run, w.code[w.pc])
        for run in op.writes:
            self.writing[run] = op.pc + 1
        for run in op.reads:
            self.reading[run] = op.pc + 1
        self.bulk.append(op)
        self.busy = True
        if self.early():
            self._land(op)

    def _capture(self, op: Bulk) -> None:
        if op.data is None:
            op.data = op.load()
            _clear(self.reading, op.reads, op.pc + 1)

    def _land(self, op: Bulk) -> None:
        if op.landed:
            return
        self._capture(op)
        if op.data is not None:
            op.land(op.data)
        op.landed = True
        if not (op.barriers and self.launch.detect):
            _clear(self.writing, op.writes, op.pc + 1)
        for (index, _), run in zip(op.barriers if self.launch.detect else (), op.writes):
            settle = partial(_clear, self.writing, [run], op.pc + 1)
            self.unseen.setdefault(index, []).append((int(self.mbarriers.phase[index]), op.pc, settle))
        for index, count in op.barriers:
            self.mbarriers.complete_tx(self.wave, index, count)
        if op.barriers:
            self.bulk.remove(op)

    def seen(self, index: Array) -> None:
        """Waits on these mbarriers have passed: what landed for phases that are over is there for ordinary accesses."""
        if self.launch.tensor_memory.landed:
            self.launch.tensor_memory.seen(index)
        for k in np.unique(index) if self.unseen else ():
            landed = self.unseen.pop(int(k), [])
            rest = [entry for entry in landed if entry[0] >= self.mbarriers.phase[k]]
            for phase, _, settle in landed:
                if phase < self.mbarriers.phase[k]:
                    settle()
            if rest:
                self.unseen[int(k)] = rest

    def deliver_one(self, w: Wave) -> bool:
        """Everyone is blocked: in every cluster let operations land, chosen by the seed, until a phase completes.

        False if there are none. Clusters get on together, so that they go on together.
        """
        pending: dict[int, list[Bulk]] = {}
        for op in self.bulk:
            if not op.landed and op.barriers:
                pending.setdefault(op.lane // (w.lanes_per_cta * self.launch.cluster_size), []).append(op)
        for operations in pending.values():
            before = w.progress
            while operations and w.progress == before:
                self._land(operations.pop(int(self.random.integers(len(operations)))))
        self._drop()
        return bool(pending)

    def bulk_commit(self, w: Wave) -> None:
        """cp.async.bulk.commit_group."""
        for op in self.bulk:
            if op.group is None and not op.barriers and op.lane in set(w.lanes.tolist()):
                op.group = int(self.bulk_group[op.lane])
        self.bulk_group[w.sel] += 1

    def bulk_wait(self, w: Wave, left: int, read_only: bool) -> None:
        """cp.async.bulk.wait_group: sources read (`.read`), or everything done, but for the last `left` groups."""
        lanes = set(w.lanes.tolist())
        for op in list(self.bulk):
            if op.group is not None and op.lane in lanes and op.group < self.bulk_group[op.lane] - left:
                if not op.waited:
                    self._read_until_now(w, op)
                op.waited = True
                if read_only:
                    self._capture(op)
                else:
                    self._land(op)
                    self.bulk.remove(op)
        self._drop()

    def _read_until_now(self, w: Wave, op: Bulk) -> None:
        """Who writes to a source must come behind the wait for it, not only behind the copy's start."""
        launch = self.launch
        for run in op.reads if launch.detect else ():
            granules = granule_run(4 * run.start, 4 * (run.stop - run.start), launch.granule["shared"])
            lanes = np.full(granules.stop - granules.start, op.lane)
            launch.races.read(shadow_of(w, "shared", launch.shared), granules, lanes, w.pc, False, "shared")

    def finish(self, w: Wave) -> None:
        """The batch has ended: everything lands; operations that nobody waited for are reported."""
        for op in self.granular:
            self._finish_granular(op, ~op.waited)
        for bulk in list(self.bulk):
            if not bulk.waited:
                self.launch.log.add(ASYNC_HAZARD, "the kernel ends before anyone has waited for this operation",
                                    self.launch.program.code[bulk.pc])  # fmt: skip
            self._land(bulk)
        for landed in self.unseen.values():
            for _, pc, _ in landed:
                self.launch.log.add(ASYNC_HAZARD, "the kernel ends before anyone has waited for this operation",
                                    self.launch.program.code[pc])  # fmt: skip
        self.granular, self.bulk, self.unseen = [], [], {}

    def _drop(self) -> None:
        self.granular = [op for op in self.granular if not op.waited.all()]
        self.busy = bool(self.granular or self.bulk or self.unseen) or bool(self.reading.any())

    # --- what the rest of the machine must know ----------------------------------------------------------------------

    def note_write(self, target: Array, size: int, lanes: Array, pc: int) -> None:
        """Landed bytes hold values; to the race detector they were written by the lanes that waited."""
        from tesseracc.emulator.access import mark_initialised, shadow_of

        launch = self.launch
        if not launch.detect:
            return
        step = min(size, 16)
        for k in range(0, size, step):
            mark_initialised(launch.written["shared"], target + k, step)
        shadow = shadow_of(self.wave, "shared", launch.shared)
        granule = launch.granule["shared"]
        for k in range(0, size, granule):
            launch.races.wrote(shadow, (target + k) // granule, lanes, pc)

    def note_generic_write(self, target: Array, width: int) -> None:
        """An ordinary store to shared memory: invisible to the asynchronous proxy until a proxy fence."""
        if self.dirty is not None:
            for k in range(0, width, 4):
                self.dirty[(target + k) // 4] = True

    def proxy_fence(self, w: Wave) -> None:
        """fence.proxy.async: the writes that the executing lanes made or know of become visible to the proxy."""
        if self.dirty is not None:
            for at, _ in self._known(w, self.dirty, 4):
                self.dirty[at] = False
        self.mbarrier_fence(w)

    def mbarrier_fence(self, w: Wave) -> None:
        """fence.mbarrier_init: the same, of mbarriers that were initialised."""
        if self.launch.strict:
            for at, warp in self._known(w, self.mbarriers.exists, 8):
                self.mbarriers.show(at, warp)

    def _known(self, w: Wave, marks: Array, unit: int) -> Iterator[tuple[Array, int]]:
        """By CTA the marks, one for `unit` bytes, of what the executing lanes wrote or know of, and a warp."""
        from tesseracc.emulator.access import shadow_of

        if not self.launch.detect:
            return
        shadow = shadow_of(w, "shared", self.launch.shared)
        granule = self.launch.granule["shared"]
        stride = self.launch.shared_stride // unit
        for cta in np.unique(w.cta[w.lanes]):
            mine = w.lanes[w.cta[w.lanes] == cta]
            at = np.flatnonzero(marks[cta * stride : (cta + 1) * stride]) + cta * stride
            if len(at):
                records = shadow.write[at * unit // granule]
                own = np.isin(self.launch.races.lane_of(records), mine)
                known = own | self.launch.races.ordered(records, np.full(len(at), mine[0]))
                yield at[known], int(mine[0]) >> 5

    def _check_proxy(self, w: Wave, granules: Array, at: Instruction) -> None:
        if self.dirty is not None and self.launch.detect and self.dirty[granules].any():
            w.log.add(PROXY_FENCE, "the asynchronous proxy reads shared memory that ordinary stores wrote with no "
                      "fence.proxy.async between", at)  # fmt: skip

    def proxy_read(self, w: Wave, granules: Array, lane: int, mark: bool) -> None:
        """A matrix instruction reads `granules` (rows) of shared memory; `mark`: until it is waited for."""
        if (self.dirty is not None and self.dirty[granules].any()) or self.writing[granules].any():
            for row in np.atleast_2d(granules):
                self._check_proxy(w, row, w.code[w.pc])
                clash = self.writing[row]
                if clash.any():
                    other = self.origin(int(clash[np.flatnonzero(clash)[0]]))
                    w.log.add(ASYNC_HAZARD, "a matrix instruction reads shared memory that an asynchronous copy still "
                              "writes: no wait orders them", w.code[w.pc], other)  # fmt: skip
        if mark:
            self.reading[granules] = w.pc + 1
            self.busy = True

    def store_async(self, w: Wave, target: Array, lanes: Array, values: list[Array], size: int, barrier: Array) -> None:
        """st.async: each lane's elements land in remote shared memory and complete on the mbarrier there."""
        data = self.launch.shared.data
        known = self.launch.races.release(np.unique(lanes >> 5)) if self.launch.detect else None
        warps = np.unique(lanes >> 5)
        for k, lane in enumerate(lanes):
            raw = np.concatenate([np.ascontiguousarray(v[k : k + 1]).view(np.uint8) for v in values])
            where = int(target[k]) + np.arange(size * len(values))

            def land(captured: Array, where: Array = where) -> None:
                data[where] = captured
                self.launch.written["shared"][where] = 1

            def load(raw: Array = raw) -> Array:
                return raw

            if known is not None:
                self.mbarriers.learn(int(barrier[k]), known[int(np.searchsorted(warps, lane >> 5))])
            bars = [(int(barrier[k]), size * len(values))]
            self.issue_bulk(w, Bulk(w.pc, int(lane), (), (granule_run(int(where[0]), len(where)),), load, land, bars))

    def release_reads(self, granules: Array) -> None:
        """The matrix instructions that read `granules` are complete."""
        self.reading[granules] = 0
