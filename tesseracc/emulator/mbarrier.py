"""mbarrier objects: phases, pending arrivals, transaction bytes (PTX ISA, mbarrier).

The object's eight bytes in shared memory stay opaque; its state lives in arrays indexed by offset / 8 over the shared
memory of the whole batch, so that any number of lanes and CTAs operate at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.findings import BAD_STATE, PROXY_FENCE
from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.launch import Launch
    from tesseracc.emulator.wave import Wave

__all__ = ["MBarriers"]


class MBarriers:
    """All mbarriers of a batch. `phase` counts completed phases; a wait for parity p passes once phase p is over."""

    def __init__(self, launch: Launch, w: Wave) -> None:
        self.launch = launch
        n = len(launch.shared.data) // 8 + 1
        self.exists = np.zeros(n, np.bool_)
        self.expected = np.zeros(n, np.int64)
        self.pending = np.zeros(n, np.int64)
        self.tx = np.zeros(n, np.int64)
        self.phase = np.zeros(n, np.int64)
        # Who showed the initialisation to the asynchronous proxy: warps, and the clock of the first fence of each.
        self.shown: dict[int, dict[int, int]] = {}
        self.arriving: dict[int, Array] = {}  # what the arrivals of the running phase know
        self.published: dict[int, Array] = {}  # what the completed phases know
        # Warps whose lanes all arrived together, and when: their lanes hand data to each other through the barrier.
        self.together: dict[int, dict[int, int]] = {}
        self.met: dict[int, dict[int, int]] = {}
        self.failed: dict[int, Array] = {}  # polling pc -> indices that were not ready, for reports
        del w

    def init(self, w: Wave, index: Array, count: Array) -> None:
        """mbarrier.init."""
        if (count <= 0).any() or (count > (1 << 20) - 1).any():
            w.log.add(BAD_STATE, "mbarrier.init with a count outside 1 .. 2^20 - 1", w.code[w.pc])
        self.exists[index] = True
        self.shown.update((int(k), {}) for k in index)
        self.expected[index] = count
        self.pending[index] = count
        self.tx[index] = 0
        self.phase[index] = 0
        w.progress += 1

    def inval(self, w: Wave, index: Array) -> None:
        """mbarrier.inval."""
        self.exists[index] = False

    def check(self, w: Wave, index: Array) -> None:
        """Report a use of memory that holds no mbarrier."""
        if not self.exists[index].all():
            w.log.add(BAD_STATE, "this memory holds no mbarrier: mbarrier.init is missing", w.code[w.pc],
                      count=int((~self.exists[index]).sum()))  # fmt: skip

    def show(self, index: Array, warp: int) -> None:
        """A fence by `warp`, which knows of the initialisation."""
        for k in index.tolist():
            self.shown[k].setdefault(warp, int(self.launch.races.clock[warp]))

    def check_visible(self, w: Wave, index: Array, lane: int) -> None:
        """Report an asynchronous operation by a lane that completes on an mbarrier which its proxy does not know."""
        if not (self.launch.strict and self.launch.detect):
            return
        knows = self.launch.races.knows
        if not all(any(knows(lane >> 5, *fence) for fence in self.shown.get(k, {}).items()) for k in index.tolist()):
            w.log.add(PROXY_FENCE, "an asynchronous operation completes on an mbarrier with no fence.mbarrier_init "
                      "behind the initialisation", w.code[w.pc])  # fmt: skip

    def arrive(self, w: Wave, index: Array, count: Array, release: bool = True, drop: bool = False) -> Array:
        """Arrivals by the executing lanes (one index and count each). Returns the phase before, the state token."""
        token = self.phase[index].copy()
        if drop:
            np.subtract.at(self.expected, index, count)
        if release:
            self.announce(w, index)
        self.count(w, index, count)
        return token

    def announce(self, w: Wave, index: Array) -> None:
        """What the executing lanes know goes to whoever waits for the running phase."""
        if not self.launch.detect:
            return
        warps, back = np.unique(w.lanes >> 5, return_inverse=True)
        rows = self.launch.races.release(warps, w.absent(warps))
        pairs, lanes = np.unique(index * len(warps) + back, return_counts=True)
        for pair, count in zip(pairs.tolist(), lanes.tolist()):
            barrier, k = divmod(pair, len(warps))
            self.learn(barrier, rows[k])
            if count == w.alive_in_warp[warps[k]]:
                self.together.setdefault(barrier, {})[int(warps[k])] = int(self.launch.races.clock[warps[k]]) - 1

    def count(self, w: Wave, index: Array, count: Array) -> None:
        """Arrivals leave fewer to wait for."""
        w.counters.mbarrier_arrivals += len(index)
        np.subtract.at(self.pending, index, count)
        if (self.pending[index] < 0).any():
            w.log.add(BAD_STATE, "more arrivals at an mbarrier than its phase expects", w.code[w.pc])
            self.pending[index] = np.maximum(self.pending[index], 0)
        self.advance(w, index)

    def learn(self, index: int, row: Array) -> None:
        """An arrival (or the issuer of a copy) that knows `row` takes part in the running phase."""
        old = self.arriving.get(index)
        self.arriving[index] = row if old is None else np.maximum(old, row)

    def expect_tx(self, index: Array, count: Array) -> None:
        """More bytes for the running phase to wait for."""
        np.add.at(self.tx, index, count)

    def complete_tx(self, w: Wave, index: int, count: int, knowledge: Array | None = None) -> None:
        """Bytes have arrived."""
        self.tx[index] -= count
        if knowledge is not None:
            self.learn(index, knowledge)
        self.advance(w, np.array([index]))

    def advance(self, w: Wave, index: Array) -> None:
        """Complete the phases that have nothing left to wait for."""
        index = np.unique(index)
        over = index[(self.pending[index] == 0) & (self.tx[index] == 0) & self.exists[index]]
        if len(over):
            w.progress += 1
            self.phase[over] += 1
            self.pending[over] = self.expected[over]
            for k in over:
                row = self.arriving.pop(int(k), None)
                if row is not None:
                    old = self.published.get(int(k))
                    self.published[int(k)] = row if old is None else np.maximum(old, row)
                self.met.setdefault(int(k), {}).update(self.together.pop(int(k), {}))

    def ready(self, w: Wave, index: Array, parity: Array | None, token: Array | None) -> Array:
        """test_wait and try_wait, per executing lane; lanes that pass learn what the arrivals knew."""
        w.counters.mbarrier_polls += w.active_warps()
        if parity is not None:
            done = (self.phase[index] & 1) != (parity & 1)
        else:
            done = self.phase[index] > (token if token is not None else 0)
        if self.launch.detect and done.any():
            self.launch.asynchronous.seen(index[done])
            lanes = w.lanes[done]
            for k in np.unique(index[done]):
                row = self.published.get(int(k))
                if row is not None:
                    warps = np.unique(lanes[index[done] == k] >> 5)
                    self.launch.races.acquire(warps, row[None])
                    met = self.met.get(int(k), {})
                    for warp in warps.tolist() if met else ():
                        if warp in met:
                            self.launch.races.meet(warp, met[warp])
        if not done.all():
            self.failed[w.pc] = np.unique(index[~done])
        return done

    def describe(self, pc: int) -> str:
        """What the mbarriers that the instruction at `pc` waits for still lack."""
        parts = []
        for k in self.failed.get(pc, np.zeros(0, np.int64))[:2]:
            offset = int(k) * 8 % self.launch.shared_stride
            parts.append(f"mbarrier at shared offset {offset}: phase {int(self.phase[k])}, {int(self.pending[k])} "
                         f"arrivals and {int(self.tx[k])} bytes outstanding")  # fmt: skip
        return "; ".join(parts)
