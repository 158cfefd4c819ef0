"""The machine: a batch of CTAs that executes in waves of lanes which share a program counter.

Groups of lanes wait at program counters; the lowest one runs next, as far as the next group's place or a branch that
splits it. With the order of `program.py` diverged lanes meet again where their paths join. A group that polls (an
mbarrier, a flag) and jumps back steps aside (`parked`) until something has changed, so spinning never starves the
lanes it spins for. Lanes that wait for the rest of their warp are `held`; lanes in a barrier belong to the barrier.
"""

from __future__ import annotations

import hashlib
import heapq
from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.findings import (
    BAD_STATE,
    DEADLOCK,
    DIVERGENT_BARRIER,
    STEP_LIMIT,
    FindingLog,
    StopLaunch,
)  # fmt: skip
from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.launch import Launch
    from tesseracc.emulator.ptx import Instruction

__all__ = ["Wave", "as_lanes", "merge_lanes"]

Lanes = Array  # a slice of contiguous lanes, or a sorted int64 array


def as_lanes(lanes: Lanes) -> Array:
    """The lane numbers of a selection."""
    return np.arange(lanes.start, lanes.stop) if isinstance(lanes, slice) else lanes


def _tidy(lanes: Array) -> Lanes:
    """A slice if the sorted lane numbers are contiguous."""
    if len(lanes) and lanes[-1] - lanes[0] + 1 == len(lanes):
        return slice(int(lanes[0]), int(lanes[-1]) + 1)
    return lanes


def merge_lanes(a: Lanes, b: Lanes) -> Lanes:
    """The union of two disjoint selections."""
    return _tidy(np.sort(np.concatenate([as_lanes(a), as_lanes(b)])))


class Wave:
    """Registers, position and waiting lanes of one batch. `size` lanes: CTAs x warps x 32, padding lanes never run.

    `sel`, `n`, `full` describe the lanes that execute now; `cta`, `thread` are per lane of the batch.
    """

    def __init__(self, launch: Launch, cta_number: Array, first_thread: int) -> None:
        self.launch = launch
        self.log: FindingLog = launch.log
        self.counters = launch.counters
        self.code = launch.program.code
        self.steps = launch.steps
        self.cta_number = cta_number
        self.warps_per_cta = launch.warps_per_cta
        self.lanes_per_cta = launch.warps_per_cta * 32
        self.ctas = len(cta_number)
        self.size = self.ctas * self.lanes_per_cta
        every = np.arange(self.size)
        self.cta = every // self.lanes_per_cta
        self.thread = every % self.lanes_per_cta
        self.alive = self.thread < launch.threads
        self.alive_in_warp = self.alive.reshape(-1, 32).sum(axis=1)
        self.alive_in_cta = np.full(self.ctas, launch.threads)
        self.shared_base, self.local_base = self.cta * launch.shared_stride, every * launch.local_stride
        self.special: dict[str, Array] = {}
        self.regs = launch.program.junk.copy()
        self.ready: dict[int, Lanes] = {}
        self.heap: list[int] = []
        self.parked: dict[int, Lanes] = {}
        self.held: dict[int, Lanes] = {}
        self.forced = False
        self.polled: Array | None = None
        self.progress = 0
        self.woken_at = -1
        self.parked_state = b""
        self.steps_done = 0
        self.pc = 0
        self.carry = np.zeros(self.size, np.bool_)
        self.return_to: dict[str, Array] = {}
        self.sel: Lanes = slice(0, 0)
        self.n = 0
        self.full = False
        self._lanes: Array | None = None
        launch.attach(self, first_thread)
        start = _tidy(np.flatnonzero(self.alive))
        self.queue(launch.program.entry_of[launch.program.kernel.name], start)

    # --- selection and registers -------------------------------------------------------------------------------------

    def select(self, lanes: Lanes) -> None:
        """Make `lanes` the executing ones."""
        self.sel = lanes
        if isinstance(lanes, slice):
            self.n = lanes.stop - lanes.start
            self.full = self.n == self.size
            self._lanes = None
        else:
            self.n = len(lanes)
            self.full = False
            self._lanes = lanes

    @property
    def lanes(self) -> Array:
        """The numbers of the executing lanes."""
        if self._lanes is None:
            self._lanes = np.arange(self.sel.start, self.sel.stop)
        return self._lanes

    def narrow(self, on: Array) -> None:
        """Keep the executing lanes where `on` (per executing lane, or one bool) holds."""
        self.select(_tidy(self.lanes[self.spread(on)]))

    def fetch(self, slot: int) -> Array:
        """A register's bits for the executing lanes."""
        v = self.regs[slot]
        return v if self.full or v.ndim == 0 else v[self.sel]

    def fetch_pair(self, slot: int) -> Array:
        """A 128-bit register: [..., 2] words, the low one first."""
        v = self.regs[slot]
        return v if self.full or v.ndim == 1 else v[self.sel]

    def store(self, slot: int, value: Array) -> None:
        """Replace a register's bits for the executing lanes. `value` must not be shared with another register."""
        if self.full:
            self.regs[slot] = value
            return
        v = self.regs[slot]
        if v.shape[:1] != (self.size,):
            pair = v.shape == (2,) or value.ndim == 2
            fresh = np.empty((self.size, 2) if pair else self.size, v.dtype)
            fresh[:] = v
            self.regs[slot] = v = fresh
        v[self.sel] = value

    def home(self, space: str) -> Array:
        """Where the executing lanes' own shared or local memory begins in the data of the batch."""
        base = self.shared_base if space == "shared" else self.local_base
        return base if self.full else base[self.sel]

    def spread(self, value: Array) -> Array:
        """`value` per executing lane, also if it is shared by all."""
        return value if value.ndim else np.full(self.n, value)

    def get_carry(self) -> Array:
        """CC.CF of the executing lanes."""
        return self.carry[self.sel]

    def set_carry(self, value: Array) -> None:
        """Write CC.CF."""
        self.carry[self.sel] = value

    @property
    def warps(self) -> Array:
        """The distinct warps of the executing lanes (numbers within the batch)."""
        if self.full:
            return np.arange(self.size >> 5)
        return np.unique(self.lanes >> 5)

    def absent(self, warps: Array) -> Array:
        """Masks of the live lanes of `warps` [n] that do not execute now."""
        here = np.zeros(self.size, np.bool_)
        here[self.sel] = True
        lanes = (self.alive & ~here).reshape(-1, 32)[warps]
        return np.asarray((lanes << np.arange(32)).sum(axis=1))

    # --- who runs where ----------------------------------------------------------------------------------------------

    def queue(self, pc: int, lanes: Lanes) -> None:
        """Lanes will run from `pc`."""
        old = self.ready.get(pc)
        if old is None:
            self.ready[pc] = lanes
            heapq.heappush(self.heap, pc)
        else:
            self.ready[pc] = merge_lanes(old, lanes)

    def jump(self, target: int) -> bool:
        """Send the executing lanes to `target`; a backward jump of polling lanes parks them."""
        if target <= self.pc and self.polled is not None and self.polled[self.sel].any():
            self.polled[self.sel] = False
            old = self.parked.get(target)
            self.parked[target] = self.sel if old is None else merge_lanes(old, self.sel)
        else:
            self.queue(target, self.sel)
        return True

    def poll(self, failed: Array) -> None:
        """Mark executing lanes that found what they poll for not yet there."""
        if self.polled is None:
            self.polled = np.zeros(self.size, np.bool_)
        self.polled[self.sel] = failed

    def exit(self) -> None:
        """The executing lanes are done."""
        lanes = self.lanes
        self.alive[lanes] = False
        self.progress += 1
        np.subtract.at(self.alive_in_warp, lanes >> 5, 1)
        np.subtract.at(self.alive_in_cta, self.cta[lanes], 1)
        self.launch.barriers.lanes_left(self, lanes)
        self.launch.cluster_barriers.lanes_left(self, lanes)
        self.launch.remote.lanes_left(self, lanes)
        if self.held:  # a warp that waited for these lanes may be complete now
            for pc in sorted(self.held):
                self.queue(pc, self.held.pop(pc))

    def gather_warps(self, members: Array | None = None) -> bool:
        """Keep only executing lanes whose warp is here as a whole; hold the others until the rest arrives.

        `members` [n] is the lane mask that each lane names (`.sync` instructions); None means every live lane.
        Returns False if nobody is left to go on.
        """
        if self.full and members is None:
            return True
        lanes = self.lanes
        warp = lanes >> 5
        if members is None:
            here = np.bincount(warp, minlength=self.size >> 5)
            complete = here[warp] == self.alive_in_warp[warp]
        else:
            alive = (self.alive.reshape(-1, 32) << np.arange(32)).sum(axis=1)
            bits = np.zeros(self.size >> 5, np.int64)
            np.bitwise_or.at(bits, warp, 1 << (lanes & 31))
            wanted = members.astype(np.int64) & alive[warp]
            complete = wanted & ~bits[warp] == 0
            outside = (members.astype(np.int64) >> (lanes & 31)) & 1 == 0
            if outside.any():
                self.log.add(BAD_STATE, "a lane executes a .sync instruction whose member mask leaves it out",
                             self.code[self.pc], count=int(outside.sum()))  # fmt: skip
        if complete.all():
            return True
        if self.forced:
            what = "is executed by part of a warp: the other lanes never come"
            self.log.add(DIVERGENT_BARRIER, f"`{self.code[self.pc].text}` {what}", self.code[self.pc])
            return True
        waiting = _tidy(lanes[~complete])
        old = self.held.get(self.pc)
        self.held[self.pc] = waiting if old is None else merge_lanes(old, waiting)
        if not complete.any():
            return False
        self.select(_tidy(lanes[complete]))
        return True

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Execute until every lane has exited; StopLaunch after a deadlock or beyond the step budget."""
        while True:
            if self.heap:
                self._advance()
            elif not self._wake():
                return

    def _advance(self) -> None:
        pc = heapq.heappop(self.heap)
        lanes = self.ready.pop(pc)
        if self.held and pc in self.held:
            lanes = merge_lanes(lanes, self.held.pop(pc))
        limit = self.heap[0] if self.heap else len(self.steps)
        if self.held:
            limit = min([limit, *(p for p in self.held if p > pc)])
        self.select(lanes)
        steps, warps, threads = self.steps, self.launch.warp_counts, self.launch.thread_counts
        active = self.active_warps()
        budget = self.launch.max_steps
        while True:
            self.pc = pc
            self.steps_done += 1
            warps[pc] += active
            threads[pc] += self.n
            before = self.n
            if steps[pc](self):
                break
            pc += 1
            if pc >= limit:
                self.queue(pc, self.sel)
                break
            if self.n != before:
                active = self.active_warps()
        if self.steps_done > budget:
            self.log.add(
                STEP_LIMIT, f"the launch is not finished after {budget} steps: an endless loop?", self.code[pc]
            )
            raise StopLaunch
        self.forced = False

    def active_warps(self) -> int:
        """Warps that have a selected lane."""
        if isinstance(self.sel, slice):
            return int((self.sel.stop + 31) // 32 - self.sel.start // 32)
        return int(np.count_nonzero(np.diff(self.lanes >> 5))) + 1

    def _wake(self) -> bool:
        """Nobody can run: wake pollers, let an asynchronous operation finish, or find out who hangs."""
        if self.parked and self.progress != self.woken_at:
            return self._wake_parked()
        waits = self.parked or self.held or self._in_barriers()
        if waits and self.launch.asynchronous.deliver_one(self):
            self.progress += 1
            return True
        if self.parked:
            # A loop that reads volatile memory is not yet a spin: it spins if its registers do not change either.
            state = self._fingerprint()
            if state != self.parked_state:
                self.parked_state = state
                return self._wake_parked()
        if self.held:
            pc = min(self.held)
            self.forced = True
            self.queue(pc, self.held.pop(pc))
            return True
        if not self.parked and not self._in_barriers():
            return False
        for pc in sorted(self.parked):
            count = len(as_lanes(self.parked[pc]))
            at = self._poller(pc)
            message = f"{count} threads wait for something that nobody left running can bring about"
            detail = self.launch.asynchronous.mbarriers.describe(at.index)
            self.log.add(DEADLOCK, f"{message}: {detail}" if detail else message, at)
        self.launch.barriers.report_stuck(self)
        self.launch.cluster_barriers.report_stuck(self)
        raise StopLaunch

    def _wake_parked(self) -> bool:
        self.woken_at = self.progress
        for pc in sorted(self.parked):
            self.queue(pc, self.parked.pop(pc))
        return True

    def _in_barriers(self) -> bool:
        return self.launch.barriers.waiting() or self.launch.cluster_barriers.stuck()

    def _fingerprint(self) -> bytes:
        """The registers of the parked lanes."""
        out = hashlib.blake2b()
        for pc in sorted(self.parked):
            out.update(str(pc).encode())
            for v in self.regs.values():
                out.update((v if v.shape[:1] != (self.size,) else v[self.parked[pc]]).tobytes())
        return out.digest()

    def _poller(self, pc: int) -> Instruction:
        """The polling instruction of the loop at `pc`, for the report."""
        polling = {"volatile", "acquire", "relaxed", "cas", "exch"}
        for i in self.code[pc : pc + 64]:
            if i.opcode == "mbarrier" or (i.opcode in ("ld", "atom") and polling & set(i.mods)):
                return i
        return self.code[pc]
