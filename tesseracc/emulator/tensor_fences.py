"""tcgen05.fence: whether accesses to tensor memory are ordered with a synchronisation of threads between them.

A barrier orders two warps' accesses to tensor memory only where the first has executed fence::before_thread_sync behind
its access and before the barrier, and the second fence::after_thread_sync behind the barrier and before its access (PTX
ISA, tcgen05 memory consistency model). A commit is a fence of the first kind.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.races import RaceDetector

__all__ = ["TensorFences"]


class TensorFences:
    """The fences of a batch: clocks of the first kind by warp; what a warp knew at its last one of the second."""

    def __init__(self, races: RaceDetector) -> None:
        self.races = races
        self.known = np.zeros_like(races.known)
        self.clocks: dict[int, list[int]] = {}

    def before(self, warps: Array) -> None:
        """fence::before_thread_sync; what `warps` access from here on is behind it."""
        for warp in warps.tolist():
            self.clocks.setdefault(warp, []).append(int(self.races.clock[warp]))
        self.races.step(warps)

    def after(self, warps: Array) -> None:
        """fence::after_thread_sync."""
        c, w = warps // self.races.warps_per_cluster, warps % self.races.warps_per_cluster
        self.known[c, w] = self.races.known[c, w]

    def ordered(self, theirs: Array, clocks: Array, mine: Array) -> Array:
        """Whether accesses by warps `theirs` [n] at `clocks` [n] are ordered before those of warps `mine` [n]."""
        size = self.races.warps_per_cluster
        out = theirs == mine
        for at in np.flatnonzero(~out).tolist():
            known = int(self.known[mine[at] // size, mine[at] % size, theirs[at] % size])
            fences = self.clocks.get(int(theirs[at]), [])
            last = bisect_right(fences, known)
            out[at] = last > 0 and clocks[at] <= fences[last - 1]
        return out
