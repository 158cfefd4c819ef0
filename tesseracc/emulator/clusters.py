"""Cluster barriers: barrier.cluster.arrive and .wait (PTX ISA, barrier.cluster)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.findings import BAD_STATE, DEADLOCK
from tesseracc.emulator.types import Array

if TYPE_CHECKING:
    from tesseracc.emulator.launch import Launch
    from tesseracc.emulator.wave import Wave

__all__ = ["ClusterBarriers"]


class ClusterBarriers:
    """One barrier per cluster: a phase completes when every live thread of the cluster has arrived."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.arrived: dict[int, int] = {}  # cluster -> arrivals in this phase
        self.phase: dict[int, int] = {}
        self.waiting: dict[int, list[tuple[int, Array]]] = {}
        self.knowledge: dict[int, Array] = {}
        self.learned: dict[int, Array] = {}
        self.inits: dict[int, Array] = {}  # like `knowledge` and `learned`, of initialised mbarriers
        self.learned_inits: dict[int, Array] = {}
        self.lane_phase: Array | None = None  # the phase that a lane has arrived in, -1: none

    def _cluster(self, w: Wave, lanes: Array) -> Array:
        return w.cta[lanes] // self.launch.cluster_size

    def _alive(self, w: Wave, cluster: int) -> int:
        size = self.launch.cluster_size
        return int(w.alive_in_cta[cluster * size : (cluster + 1) * size].sum())

    def arrive(self, w: Wave, release: bool) -> None:
        """The executing lanes arrive; .relaxed arrivals publish only what a fence has ordered before them."""
        if self.lane_phase is None:
            self.lane_phase = np.full(w.size, -1, np.int64)
        lanes = w.lanes
        if (self.lane_phase[lanes] >= 0).any():
            w.log.add(BAD_STATE, "a thread arrives twice at the cluster barrier without waiting", w.code[w.pc])
        clusters = self._cluster(w, lanes)
        w.progress += 1
        for c in np.unique(clusters):
            mine = lanes[clusters == c]
            key = int(c)
            self.lane_phase[mine] = self.phase.get(key, 0)
            self.arrived[key] = self.arrived.get(key, 0) + len(mine)
            if self.launch.detect and release:
                _join(self.knowledge, key, self.launch.races.release(np.unique(mine >> 5)).max(axis=0))
            elif self.launch.detect:
                flags = self.launch.flags
                for warp in np.unique(mine >> 5).tolist():
                    row, wide = flags.fenced.get(warp, (None, False))
                    _join(self.knowledge, key, row if wide else None)
                    _join(self.inits, key, flags.fenced_inits.get(warp))
            self._complete(w, key)

    def _complete(self, w: Wave, key: int) -> None:
        if self.arrived.get(key, 0) < self._alive(w, key) or not self.arrived.get(key, 0):
            return
        w.counters.barriers += 1
        self.arrived[key] = 0
        self.phase[key] = self.phase.get(key, 0) + 1
        if key in self.knowledge:
            self.learned[key] = self.knowledge.pop(key)
        if key in self.inits:
            self.learned_inits[key] = self.inits.pop(key)
        for pc, lanes in self.waiting.pop(key, []):
            self._pass(w, key, lanes)
            w.queue(pc + 1, lanes)

    def _pass(self, w: Wave, key: int, lanes: Array) -> None:
        if self.lane_phase is not None:
            self.lane_phase[lanes] = -1
        warps = np.unique(lanes >> 5)
        if key in self.learned:
            self.launch.races.acquire(warps, self.learned[key][None])
            self.launch.races.sync_warps(warps)
        if key in self.learned_inits:
            self.launch.races.acquire_inits(warps, self.learned_inits[key])

    def wait(self, w: Wave) -> bool:
        """The executing lanes wait for their phase. True if they were sent away."""
        lanes = w.lanes
        if self.lane_phase is None or (self.lane_phase[lanes] < 0).any():
            w.log.add(BAD_STATE, "barrier.cluster.wait without an arrival", w.code[w.pc])
            return False
        w.counters.barrier_waits += len(w.warps)
        clusters = self._cluster(w, lanes)
        open_ = np.array([self.phase.get(int(c), 0) for c in clusters]) > self.lane_phase[lanes]
        for c in np.unique(clusters):
            mine = clusters == c
            ready, blocked = lanes[mine & open_], lanes[mine & ~open_]
            if len(ready):
                self._pass(w, int(c), ready)
            if len(blocked):
                self.waiting.setdefault(int(c), []).append((w.pc, blocked))
        if open_.all():
            return False
        if open_.any():
            w.narrow(open_)
            w.queue(w.pc + 1, w.sel)
        return True

    def lanes_left(self, w: Wave, lanes: Array) -> None:
        """Threads have exited; the phase may be complete without them."""
        if self.lane_phase is not None:
            self.lane_phase[lanes] = -1
            for key in sorted(self.arrived):
                self._complete(w, key)

    def stuck(self) -> bool:
        """Whether anyone waits."""
        return bool(self.waiting)

    def report_stuck(self, w: Wave) -> None:
        """Findings for phases that cannot complete."""
        for key, groups in sorted(self.waiting.items()):
            for pc in sorted({pc for pc, _ in groups}):
                w.log.add(DEADLOCK, f"the cluster barrier of cluster {key} waits for {self._alive(w, key)} threads; "
                          f"only {self.arrived.get(key, 0)} arrive", w.code[pc])  # fmt: skip


def _join(known: dict[int, Array], key: int, row: Array | None) -> None:
    if row is not None:
        old = known.get(key)
        known[key] = row if old is None else np.maximum(old, row)
