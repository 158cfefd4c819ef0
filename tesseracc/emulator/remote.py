"""Accesses to the shared memory of other CTAs of a cluster, which must not have exited by then.

PTX leaves a read or write of a CTA's shared memory undefined once the CTA has exited. An access is safe if the CTA
knew of it when its last thread left: a barrier of the cluster or an mbarrier of its own told it. Found by the clocks of
the race detector, so that it does not matter who happened to run first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.findings import BAD_STATE
from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.launch import Launch
    from tesseracc.emulator.wave import Wave

__all__ = ["RemoteAccesses"]


class RemoteAccesses:
    """The latest access by each warp to each CTA of its cluster."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.latest: dict[int, dict[int, tuple[int, int]]] = {}  # CTA of the batch -> warp -> (clock, pc)
        self.left: dict[int, int] = {}  # CTA -> pc of its last exit

    def note(self, w: Wave, ctas: Array, lanes: Array) -> None:
        """`lanes` [n] reach into `ctas` [n] of the batch, which are not their own."""
        if not self.launch.detect:
            return
        for cta, warp in np.unique(np.stack([ctas, lanes >> 5]), axis=1).T.tolist():
            if cta in self.left:
                self._report(w, cta, w.pc)
            else:
                self.latest.setdefault(cta, {})[warp] = (int(self.launch.races.clock[warp]), w.pc)

    def lanes_left(self, w: Wave, lanes: Array) -> None:
        """Threads have exited, perhaps the last ones of their CTAs."""
        if self.launch.cluster_size == 1:
            return
        for cta in np.unique(w.cta[lanes]).tolist():
            if not w.alive_in_cta[cta]:
                self.left[cta] = w.pc
                known = self.launch.races.known_to(np.arange(cta * w.warps_per_cta, (cta + 1) * w.warps_per_cta))
                for warp, (clock, pc) in self.latest.pop(cta, {}).items():
                    if known[warp % self.launch.races.warps_per_cluster] < clock:
                        self._report(w, cta, pc)

    def _report(self, w: Wave, cta: int, pc: int) -> None:
        number = int(w.cta_number[cta])
        w.log.add(BAD_STATE, f"access to the shared memory of CTA {number}, which may have exited by then", w.code[pc],
                  w.code[self.left[cta]])  # fmt: skip
