"""What a launch did: instructions, memory traffic, bank conflicts. Meanings follow the usual profiler metrics.

A *request* is one memory instruction of one warp. Global traffic is counted in 32-byte sectors: the distinct sectors
that the active lanes of a request touch. Shared requests are served in *wavefronts*: a 4-byte access takes as many
as the largest number of distinct words in one of the 32 banks; 8-byte accesses go by half warps, 16-byte by quarters.
`barriers` counts completed uses of barriers (of a CTA or a cluster), `barrier_waits` the warps that waited in them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from functools import lru_cache

import numpy as np

from tesseracc.emulator.types import Array

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Sums over a launch. `instructions` and `threads` are warp and thread executions by opcode with modifiers."""

    instructions: Counter[str] = field(default_factory=Counter)
    threads: Counter[str] = field(default_factory=Counter)
    bytes_read: Counter[str] = field(default_factory=Counter)
    bytes_written: Counter[str] = field(default_factory=Counter)
    global_requests: int = 0
    global_sectors: int = 0
    global_ideal_sectors: int = 0
    shared_requests: int = 0
    shared_wavefronts: int = 0
    shared_ideal_wavefronts: int = 0
    barriers: int = 0
    barrier_waits: int = 0
    mma: Counter[str] = field(default_factory=Counter)
    async_copies: Counter[str] = field(default_factory=Counter)
    async_bytes: Counter[str] = field(default_factory=Counter)
    mbarrier_arrivals: int = 0
    mbarrier_polls: int = 0

    @property
    def warp_instructions(self) -> int:
        """Instructions executed, counted once per warp."""
        return sum(self.instructions.values())

    @property
    def coalescing_efficiency(self) -> float:
        """Sectors that the requested bytes would fill when packed, over sectors moved; 1.0 without global traffic."""
        return self.global_ideal_sectors / self.global_sectors if self.global_sectors else 1.0

    @property
    def bank_conflicts(self) -> int:
        """Wavefronts beyond those that a conflict-free access of the same width takes."""
        return self.shared_wavefronts - self.shared_ideal_wavefronts

    def __add__(self, other: Counters) -> Counters:
        """The sums of two launches."""
        return Counters(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def to_json(self) -> dict[str, object]:
        """All counters as a JSON object, keys sorted."""
        return {
            "instructions": dict(sorted(self.instructions.items())),
            "warp_instructions": self.warp_instructions,
            "bytes_read": dict(sorted(self.bytes_read.items())),
            "bytes_written": dict(sorted(self.bytes_written.items())),
            "global_requests": self.global_requests,
            "global_sectors": self.global_sectors,
            "coalescing_efficiency": self.coalescing_efficiency,
            "shared_requests": self.shared_requests,
            "shared_wavefronts": self.shared_wavefronts,
            "bank_conflicts": self.bank_conflicts,
            "barriers": self.barriers,
            "barrier_waits": self.barrier_waits,
            "mma": dict(sorted(self.mma.items())),
            "async_copies": dict(sorted(self.async_copies.items())),
            "async_bytes": dict(sorted(self.async_bytes.items())),
            "mbarrier_arrivals": self.mbarrier_arrivals,
            "mbarrier_polls": self.mbarrier_polls,
        }

    def count_global(self, lanes: Array, address: Array, width: int, dense: bool = False) -> None:
        """One global memory instruction: `address` [n] of accesses of `width` bytes by `lanes` [n].

        `dense`: each lane's access follows the one before it.
        """
        if dense and len(lanes) % 32 == 0 and lanes[0] % 32 == 0 and lanes[-1] - lanes[0] == len(lanes) - 1:
            rows, times = address[None, :32], np.full(1, len(lanes) // 32)
        else:
            rows, times = _patterns(_rows(lanes, address), max(32, width))
        distinct = _distinct(rows >> 5)
        words = _distinct(rows // width)
        self.global_requests += int(times.sum())
        self.global_sectors += int((distinct * times).sum())
        self.global_ideal_sectors += int((np.minimum(-(-words * width // 32), distinct) * times).sum())

    def count_shared(self, lanes: Array, offset: Array, width: int) -> None:
        """One shared memory instruction: byte `offset` [n] of accesses of `width` bytes by `lanes` [n]."""
        parts = max(1, width // 4)  # lanes are served in `parts` groups of 32 / parts
        group = 32 // parts if parts <= 4 else 8
        rows, times = _patterns(_rows(lanes, offset), 4)
        if len(rows) == 1 and rows.min() >= 0:
            waves, served = _one_row((rows - rows[0, 0] // 4 * 4).tobytes(), group, min(parts, 4))
            self.shared_requests += int(times[0])
            self.shared_wavefronts += waves * int(times[0])
            self.shared_ideal_wavefronts += served * int(times[0])
            return
        self.shared_requests += int(times.sum())
        rows = rows.reshape(-1, group) >> 2
        times = np.repeat(times, 32 // group)
        waves = _wavefronts(rows, min(parts, 4))
        self.shared_wavefronts += int((waves * times).sum())
        self.shared_ideal_wavefronts += int(((waves > 0) * times).sum())


@lru_cache(maxsize=1024)
def _one_row(offsets: bytes, group: int, span: int) -> tuple[int, int]:
    """(wavefronts, groups of lanes) of one warp, all lanes active; offsets count from the first lane's word."""
    row = np.frombuffer(offsets, np.int64).reshape(-1, group)
    waves = _wavefronts((row >> 2) - (row.min() >> 2), span)
    return int(waves.sum()), len(waves)


def _rows(lanes: Array, keys: Array) -> Array:
    """Keys as [warps, 32], -1 where a lane is inactive."""
    n = len(lanes)
    if n % 32 == 0 and n and lanes[0] % 32 == 0 and lanes[-1] - lanes[0] == n - 1:
        return keys.reshape(-1, 32)
    warp = lanes >> 5
    row = np.cumsum(np.diff(warp, prepend=warp[:1]) != 0)  # lanes ascend
    out = np.full((int(row[-1]) + 1, 32), -1, np.int64)
    out[row, lanes & 31] = keys
    return out


def _patterns(rows: Array, unit: int) -> tuple[Array, Array]:
    """Rows that differ by more than a shift of all addresses by a multiple of `unit`, and how often each occurs.

    Such a shift moves sectors and banks along, so that one row stands for all of its kind: usually for every warp.
    """
    if len(rows) > 1 and rows[:, 0].min() >= 0:
        shift = (rows[:, :1] - rows[0, 0]) // unit * unit
        if (rows - shift == rows[0]).all():
            return rows[:1], np.full(1, len(rows))
    return rows, np.ones(len(rows), np.int64)


def _distinct(rows: Array) -> Array:
    """Distinct non-negative keys per row."""
    step = rows[:, 1:] != rows[:, :-1]
    if not (rows[:, 1:] >= rows[:, :-1]).all():
        rows = np.sort(rows, axis=1)
        step = rows[:, 1:] != rows[:, :-1]
    return (step & (rows[:, 1:] >= 0)).sum(axis=1) + (rows[:, 0] >= 0)


def _wavefronts(words: Array, span: int) -> Array:
    """Per row of first words [rows, lanes]: the largest number of distinct words in one bank; 0 for an empty row."""
    n = len(words)
    words = np.sort(words, axis=1)
    fresh = words >= 0
    fresh[:, 1:] &= words[:, 1:] != words[:, :-1]
    row = np.broadcast_to(np.arange(n)[:, None] * 32, words.shape)[fresh]
    first = words[fresh]
    count = np.zeros(n * 32, np.int64)
    for k in range(span):
        count += np.bincount(row + ((first + k) & 31), minlength=n * 32)
    return count.reshape(n, 32).max(axis=1)
