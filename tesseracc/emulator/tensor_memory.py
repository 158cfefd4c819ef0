"""Tensor Memory of sm_100a: per CTA 128 lanes of 512 columns of 32 bits, and the operations under way on it.

An address holds the lane in its upper and the column in its lower half. Warp w of a CTA reaches the lanes of its
*window*, 32 (w mod 4) and on. Products, copies from shared memory and commits of one CTA are carried out in the order
in which they were issued, but late: when someone waits on the mbarrier of a commit behind them, unless the seed lets
them land at once. What a warp loads stays aside until its tcgen05.wait::ld; what it stored is marked until its
tcgen05.wait::st.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.access import shadow_of
from tesseracc.emulator.findings import ASYNC_HAZARD, BAD_STATE, DEADLOCK, OUT_OF_BOUNDS, UNINITIALISED
from tesseracc.emulator.races import Shadow
from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.launch import Launch
    from tesseracc.emulator.wave import Wave

__all__ = ["COLUMNS", "LANES", "TENSOR_MEMORY_BYTES", "WINDOW", "Pending", "TensorMemory"]

LANES, COLUMNS, WINDOW = 128, 512, 32
TENSOR_MEMORY_BYTES = 4 * LANES * COLUMNS  # of a CTA
_WINDOWS = LANES // WINDOW


@dataclass(slots=True, eq=False)
class Pending:
    """An operation of a CTA: `carry_out` does it; `columns` are what it writes in `ctas`, `reads` shared granules.

    A commit arrives at the mbarriers `targets`, during the phases noted when it lands.
    """

    pc: int
    carry_out: Callable[[], None]
    columns: slice
    reads: Array
    targets: Sequence[int] = ()
    phases: Sequence[int] = ()
    ctas: Sequence[int] = ()


@dataclass(slots=True, eq=False)
class _Load:
    pc: int
    lanes: Array
    slots: tuple[int, ...]
    values: Array  # [slots, lanes]


class TensorMemory:
    """The tensor memory of a batch."""

    def __init__(self, launch: Launch, w: Wave) -> None:
        self.launch, self.wave = launch, w
        self.ctas = w.ctas if launch.prepared.uses_tensor_memory else 0  # most programs have no use for it
        self.data = np.full((self.ctas, LANES, COLUMNS), 0xA5A5A5A5, np.uint32)
        self.owner = np.zeros((self.ctas, COLUMNS), np.int32)  # pc + 1 of the allocation
        self.start = np.full((self.ctas, COLUMNS), -1, np.int32)  # the first column of the allocation
        self.closed = np.zeros(self.ctas, np.bool_)  # the permit to allocate was given back
        self.writing = np.zeros((self.ctas, COLUMNS), np.int32)  # pc + 1 of the product or copy under way
        self.storing = np.zeros((self.ctas, _WINDOWS, COLUMNS), np.int32)  # pc + 1 of a store not waited for
        self.queue: list[list[Pending]] = [[] for _ in range(self.ctas)]
        self.landed: dict[int, list[Pending]] = {}  # by CTA: carried out, but nobody has waited for it yet
        self.loads: dict[int, list[_Load]] = {}  # by warp
        self.stores: dict[int, list[tuple[int, int, Array]]] = {}  # by warp: CTA, window, columns
        self.shadow = Shadow(self.ctas * _WINDOWS * COLUMNS)

    # -- allocation --------------------------------------------------------------------------------------------------

    def allocate(self, w: Wave, cta: int, count: int) -> int:
        """The first column of `count` free ones (a power of two from 32 on), aligned to their number."""
        code = w.code[w.pc]
        if count < 32 or count > COLUMNS or count & (count - 1):
            w.log.add(BAD_STATE, f"tcgen05.alloc of {count} columns: a power of two from 32 to 512 is expected", code)
            return 0
        if self.closed[cta]:
            w.log.add(BAD_STATE, "tcgen05.alloc after the permit to allocate was relinquished", code)
        free = (self.owner[cta].reshape(-1, count) == 0).all(axis=1)
        if not free.any():
            w.log.add(DEADLOCK, f"tcgen05.alloc of {count} columns waits forever: nobody frees any", code)
            return 0
        first = int(np.argmax(free)) * count
        self.owner[cta, first : first + count] = w.pc + 1
        self.start[cta, first : first + count] = first
        return first

    def free(self, w: Wave, cta: int, first: int, count: int, lane: int) -> None:
        """tcgen05.dealloc by the warp of `lane`; to others' accesses it is like a write."""
        code = w.code[w.pc]
        if np.count_nonzero(self.start[cta] == first) != count or not count:
            words = f"tcgen05.dealloc of columns {first} to {first + count - 1}, which were not allocated so"
            w.log.add(BAD_STATE, words, code)
            return
        clash = self.writing[cta, first : first + count]
        if clash.any():
            w.log.add(ASYNC_HAZARD, "tensor memory is freed that an unfinished operation still writes", code,
                      w.code[int(clash.max()) - 1])  # fmt: skip
        self.race(w, cta, range(_WINDOWS), slice(first, first + count), lane, "write")
        self.owner[cta, first : first + count] = 0
        self.start[cta, first : first + count] = -1

    # -- ordinary accesses -------------------------------------------------------------------------------------------

    def place(
        self, w: Wave, cta: int, warp: int | None, address: int, height: int, width: int
    ) -> tuple[int, int] | None:
        """(lane, first column) of an access; None (reported) where it is not allowed."""
        code = w.code[w.pc]
        lane, column = address >> 16, address & 0xFFFF
        if warp is not None and lane // WINDOW != warp % _WINDOWS:
            w.log.add(OUT_OF_BOUNDS, f"warp {warp} accesses lane {lane} of tensor memory; it reaches lanes "
                      f"{warp % _WINDOWS * WINDOW} to {warp % _WINDOWS * WINDOW + WINDOW - 1}", code)  # fmt: skip
            return None
        if lane + height > LANES or column + width > COLUMNS or not self.owner[cta, column : column + width].all():
            words = f"columns {column} to {column + width - 1} of tensor memory are not allocated"
            w.log.add(OUT_OF_BOUNDS, words, code)
            return None
        return lane, column

    def note(self, w: Wave, cta: int, windows: range, columns: slice, lane: int, kind: str) -> None:
        """Tells the detector that `lane` of the batch reads or writes columns, and reports operations under way."""
        code = w.code[w.pc]
        clash = self.writing[cta, columns]
        if clash.any():
            w.log.add(ASYNC_HAZARD, "tensor memory is accessed that an unfinished operation still writes", code,
                      w.code[int(clash.max()) - 1])  # fmt: skip
        self.check_stores(w, cta, windows, columns)
        self.race(w, cta, windows, columns, lane, kind)

    def check_stores(self, w: Wave, cta: int, windows: range, columns: slice) -> None:
        """Reports stores that nobody has waited for."""
        clash = self.storing[cta, windows.start : windows.stop, columns]
        if clash.any():
            w.log.add(ASYNC_HAZARD, "tensor memory is accessed before tcgen05.wait::st of what was stored there",
                      w.code[w.pc], w.code[int(clash.max()) - 1])  # fmt: skip

    def race(self, w: Wave, cta: int, windows: range, columns: slice, lane: int, kind: str) -> None:
        """Tells the detector."""
        if not self.launch.detect:
            return
        granules = (cta * _WINDOWS + np.arange(windows.start, windows.stop))[:, None] * COLUMNS
        granules = (granules + np.arange(columns.start, columns.stop)).reshape(-1)
        lanes = np.full(len(granules), lane)
        if kind == "read":
            self.launch.races.read(self.shadow, granules, lanes, w.pc, False, "tensor")
        else:
            self.launch.races.write(self.shadow, granules, lanes, w.pc, False, "tensor", None)

    def load(self, warp: int, lanes: Array, slots: tuple[int, ...], values: Array) -> None:
        """Keeps what a warp loads until it waits."""
        self.loads.setdefault(warp, []).append(_Load(self.wave.pc, lanes, slots, values))

    def wait_loads(self, w: Wave, warps: Array) -> None:
        """tcgen05.wait::ld."""
        kept = w.sel
        for warp in warps.tolist():
            for item in self.loads.pop(warp, []):
                w.select(item.lanes)
                for slot, value in zip(item.slots, item.values):
                    w.store(slot, value)
        w.select(kept)

    def stored(self, w: Wave, warp: int, cta: int, window: int, columns: slice) -> None:
        """Marks what a warp stored until it waits."""
        self.storing[cta, window, columns] = w.pc + 1
        self.stores.setdefault(warp, []).append((cta, window, np.arange(columns.start, columns.stop)))

    def wait_stores(self, warps: Array) -> None:
        """tcgen05.wait::st."""
        for warp in warps.tolist():
            for cta, window, columns in self.stores.pop(warp, []):
                self.storing[cta, window, columns] = 0

    # -- operations under way ----------------------------------------------------------------------------------------

    def issue(self, w: Wave, cta: int, operation: Pending) -> None:
        """One more operation of a CTA."""
        if self.launch.detect and len(operation.reads):
            self._read(w, cta, operation)
        self._mark(operation)
        self.queue[cta].append(operation)
        if self.launch.asynchronous.early():
            self.land(cta, operation)

    def _mark(self, operation: Pending) -> None:
        for cta in operation.ctas:
            self.writing[cta, operation.columns] = operation.pc + 1

    def _read(self, w: Wave, cta: int, operation: Pending) -> None:
        """Tells the detector of the shared granules that an operation reads."""
        launch, code = self.launch, w.code[w.pc]
        if (launch.written["shared"].view(np.uint32)[operation.reads] != 0x01010101).any():
            w.log.add(UNINITIALISED, f"{code.text} reads shared memory that nobody has written", code)
        granules = np.unique(operation.reads * 4 // launch.granule["shared"])
        lanes = np.full(len(granules), w.lanes[np.argmax(w.cta[w.lanes] == cta)])
        launch.races.read(shadow_of(w, "shared", launch.shared), granules, lanes, w.pc, False, "shared")

    def land(self, cta: int, last: Pending) -> None:
        """Carries out the operations of a CTA up to `last`. Their marks stay until someone has waited for them."""
        queue, phase = self.queue[cta], self.launch.asynchronous.mbarriers.phase
        while last in queue:
            operation = queue.pop(0)
            operation.phases = [int(phase[target]) for target in operation.targets]
            operation.carry_out()
            self.landed.setdefault(cta, []).append(operation)
        if not self.launch.detect:
            self._settle(cta, len(self.landed[cta]))

    def seen(self, mbarriers: Array) -> None:
        """Waits on these have passed: what was committed to phases that are over is there for everybody."""
        phase = self.launch.asynchronous.mbarriers.phase
        waited = set(mbarriers.tolist())
        for cta, landed in list(self.landed.items()):
            over = [
                number for number, operation in enumerate(landed, 1)
                if any(k in waited and phase[k] > then for k, then in zip(operation.targets, operation.phases))
            ]  # fmt: skip
            if over:
                self._settle(cta, over[-1])

    def _settle(self, cta: int, count: int) -> None:
        """The first `count` of a CTA's landed operations leave no marks; those of others on the same places stay."""
        landed = self.landed.pop(cta)
        for operation in landed[:count]:
            for written in operation.ctas:
                marks = self.writing[written, operation.columns]
                marks[marks == operation.pc + 1] = 0
            if len(operation.reads):
                self.launch.asynchronous.release_reads(operation.reads)
        for operation in (*landed[count:], *self.queue[cta]):
            self._mark(operation)
            if len(operation.reads):
                self.launch.asynchronous.reading[operation.reads] = operation.pc + 1
        if landed[count:]:
            self.landed[cta] = landed[count:]

    def finish(self, w: Wave) -> None:
        """The batch has ended."""
        code = self.launch.program.code
        for queue in (*self.landed.values(), *self.queue):
            for operation in queue:
                if not operation.targets:
                    self.launch.log.add(ASYNC_HAZARD, "the kernel ends before anyone has waited for this operation",
                                        code[operation.pc])  # fmt: skip
        for pc in np.unique(self.owner):
            if pc:
                self.launch.log.add(BAD_STATE, "the columns allocated here are never freed", code[int(pc) - 1])
