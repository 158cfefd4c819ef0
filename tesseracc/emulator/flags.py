"""Synchronisation through memory inside a cluster: flags, tickets and locks (PTX ISA, memory consistency model).

A thread *publishes* by a fence (or .release) followed by a strong write to a location; a thread that reads that
location by a strong read followed by a fence (or .acquire) *learns* what was published. An atomic keeps what its
location already carries, a store replaces it. Knowledge is kept per warp, as everywhere in the race detector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.races import RaceDetector
    from tesseracc.emulator.wave import Wave

__all__ = ["Flags", "order"]


class Flags:
    """What strong writes have published, per location; what warps have read and not yet acquired."""

    def __init__(self, races: RaceDetector) -> None:
        self.races = races
        self.fenced: dict[int, tuple[Array, bool]] = {}  # warp -> (its knowledge at its last fence, beyond its CTA)
        self.fenced_inits: dict[int, Array] = {}  # warp -> its knowledge at its last fence.mbarrier_init
        self.published: dict[int, dict[int, tuple[Array, bool]]] = {}  # address -> warp that published -> the same
        self.pending: dict[int, Array] = {}  # warp -> knowledge that it has read

    def fence(self, warps: Array, wide: bool) -> None:
        """A fence by `warps`; `wide`: of a scope beyond the CTA."""
        for warp in warps.tolist():
            heard = self.pending.pop(warp, None)
            if heard is not None:
                self.races.learn(warp, heard)
        rows = self.races.release(warps)
        for warp, row in zip(warps.tolist(), rows):
            self.fenced[warp] = (row, wide)

    def fence_inits(self, warps: Array) -> None:
        """fence.mbarrier_init by `warps`: a relaxed arrival at the cluster's barrier publishes their mbarriers."""
        self.fenced_inits.update(zip(warps.tolist(), self.races.release(warps)))

    def access(self, kind: str, base: int, offset: Array, lanes: Array) -> None:
        """A strong access (kind: read, write, both) by `lanes` [n] at `base + offset` [n]."""
        if not self.fenced and not self.published:
            return
        pairs = np.unique(np.stack([offset, lanes >> 5]), axis=1)
        if kind == "write":
            for address in np.unique(offset).tolist():
                self.published.pop(base + address, None)
        for address, warp in pairs.T.tolist():  # lanes whose atomics collide go in this order too
            at = base + address
            if kind != "write":
                for writer, (row, wide) in self.published.get(at, {}).items():
                    if self._hears(warp, writer, wide):
                        old = self.pending.get(warp)
                        self.pending[warp] = row if old is None else np.maximum(old, row)
            if kind != "read" and warp in self.fenced:
                self.published.setdefault(at, {})[warp] = self.fenced[warp]

    def _hears(self, warp: int, writer: int, wide: bool) -> bool:
        """Whether what `writer` published reaches `warp`: within a cluster, or a CTA for fences of that scope."""
        size = self.races.warps_per_cluster if wide else self.races.warps_per_cta
        return warp // size == writer // size


def order(w: Wave, wide: bool) -> None:
    """A fence, or the release or acquire half of an access, by the executing warps; `wide`: beyond the CTA."""
    if w.launch.detect:
        warps = w.warps
        w.launch.flags.fence(warps, wide)
        if wide:
            w.launch.races.fence(warps)
