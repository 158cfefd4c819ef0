"""CTA barriers: sixteen per CTA, with thread counts, arrive, and reductions (PTX ISA, Parallel Synchronization)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.findings import BAD_STATE, DEADLOCK, DIVERGENT_BARRIER
from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.decode import Sink
    from tesseracc.emulator.launch import Launch
    from tesseracc.emulator.wave import Wave

__all__ = ["Barriers"]


@dataclass(slots=True)
class _Use:
    """One barrier between its first arrival and its completion. `expected` None: every live thread of the CTA."""

    expected: int | None
    arrived: int = 0
    pcs: dict[int, list[Array]] = field(default_factory=dict)  # waiting lanes by the place they resume after
    warps: list[Array] = field(default_factory=list)
    votes: list[tuple[Array, Array]] = field(default_factory=list)


class Barriers:
    """The barriers of one batch, keyed by CTA * 16 + barrier number."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.uses: dict[int, _Use] = {}
        self.results: dict[int, tuple[str, Sink]] = {}

    def arrive(self, w: Wave, number: Array, count: Array | None, wait: bool, vote: Array | None = None) -> bool:
        """The executing lanes arrive at barrier `number`. True if they (all or some) were sent to wait."""
        launch = self.launch
        if number.max() > 15:
            w.log.add(BAD_STATE, f"barrier {int(number.max())}: a CTA has barriers 0 to 15", w.code[w.pc])
            number = number % number.dtype.type(16)
        if count is None and launch.threads > int(w.alive_in_cta.min()):
            stopped = w.alive_in_cta[w.cta[w.lanes]] < launch.threads
            if stopped.any():
                w.log.add(DIVERGENT_BARRIER, f"{launch.who(w, int(w.lanes[np.flatnonzero(stopped)[0]]))} is at a "
                          "barrier for the whole CTA after other threads of the CTA have exited",
                          w.code[w.pc])  # fmt: skip
        if self._everybody(w, number, count) and wait and vote is None and not self.uses:
            if launch.detect:
                launch.races.join_all(w.warps_per_cta)
            w.counters.barriers += int(np.count_nonzero(w.alive_in_cta))
            w.counters.barrier_waits += int(np.count_nonzero(w.alive_in_warp))
            w.progress += 1
            return False
        lanes = w.lanes
        keys = w.cta[lanes] * 16 + w.spread(number).astype(np.int64)
        done: list[int] = []
        if wait and vote is None and self._all_here(w, keys, count):
            return False
        for key in np.unique(keys):
            mine = np.flatnonzero(keys == key)
            expected = None if count is None else int(w.spread(count)[mine[0]])
            use = self.uses.setdefault(int(key), _Use(expected))
            if use.expected != expected:
                w.log.add(BAD_STATE, f"barrier {key % 16} is used with {use.expected} and {expected} threads at once",
                          w.code[w.pc])  # fmt: skip
            use.arrived += len(mine)
            use.warps.append(lanes[mine] >> 5)
            if vote is not None:
                use.votes.append((lanes[mine], w.spread(vote)[mine]))
            if wait:
                use.pcs.setdefault(w.pc, []).append(lanes[mine])
            done.append(int(key))
        for key in done:
            self._complete(w, key)
        w.progress += 1
        return wait

    def _all_here(self, w: Wave, keys: Array, count: Array | None) -> bool:
        """Whether every barrier that lanes arrive at is complete with them; then they go on together."""
        used, arrived = np.unique(keys, return_counts=True)
        expected = w.alive_in_cta[used // 16] if count is None else count
        if (expected.ndim and count is not None) or not (arrived == expected).all():
            return False
        if self.uses and not self.uses.keys().isdisjoint(used.tolist()):
            return False
        warps = w.warps
        if self.launch.detect:
            self.launch.races.join_groups(warps, keys[np.searchsorted(w.lanes >> 5, warps)])
        w.counters.barriers += len(used)
        w.counters.barrier_waits += len(warps)
        w.progress += 1
        return True

    def _everybody(self, w: Wave, number: Array, count: Array | None) -> bool:
        if number.ndim or w.n != int(w.alive_in_cta.sum()):
            return False
        return count is None or (count.ndim == 0 and bool((w.alive_in_cta == int(count)).all()))

    def _complete(self, w: Wave, key: int) -> None:
        use = self.uses[key]
        alive = int(w.alive_in_cta[key // 16])
        expected = alive if use.expected is None else use.expected
        if use.arrived < expected:
            return
        if use.arrived > expected:
            w.log.add(BAD_STATE, f"{use.arrived} threads arrived at barrier {key % 16} of {expected}", w.code[w.pc])
        del self.uses[key]
        if self.launch.detect:
            warps = np.unique(np.concatenate(use.warps))
            self.launch.races.join_groups(warps, np.zeros(len(warps), np.int64))
        self._reduce(w, use)
        w.counters.barriers += 1
        for pc, groups in use.pcs.items():
            from_wave = np.sort(np.concatenate(groups))
            w.counters.barrier_waits += len(np.unique(from_wave >> 5))
            w.queue(pc + 1, from_wave)

    def _reduce(self, w: Wave, use: _Use) -> None:
        if not use.votes:
            return
        votes = np.concatenate([v for _, v in use.votes])
        kept = w.sel
        for pc, groups in use.pcs.items():
            kind, sink = self.results[pc]
            value = {"popc": np.uint32(votes.sum()), "and": np.bool_(votes.all()), "or": np.bool_(votes.any())}[kind]
            w.select(np.sort(np.concatenate(groups)))
            sink(w, value)
        w.select(kept)

    def lanes_left(self, w: Wave, lanes: Array) -> None:
        """Threads have exited: a barrier for the whole CTA may be complete without them."""
        if self.uses:
            for cta in np.unique(w.cta[lanes]):
                for key in [k for k in self.uses if k // 16 == cta and self.uses[k].expected is None]:
                    if w.alive_in_cta[cta]:
                        self._complete(w, key)

    def waiting(self) -> bool:
        """Whether any thread waits in a barrier."""
        return any(use.pcs for use in self.uses.values())

    def report_stuck(self, w: Wave) -> None:
        """Findings for barriers that cannot complete any more."""
        for key, use in sorted(self.uses.items()):
            for pc in sorted(use.pcs):
                expected = int(w.alive_in_cta[key // 16]) if use.expected is None else use.expected
                same = {k % 16 for k in self.uses if k // 16 == key // 16}
                code = DIVERGENT_BARRIER if use.expected is None and len(same) == 1 else DEADLOCK
                w.log.add(code, f"barrier {key % 16} of CTA {int(w.cta_number[key // 16])} awaits {expected} threads; "
                          f"only {use.arrived} arrive", w.code[pc])  # fmt: skip
