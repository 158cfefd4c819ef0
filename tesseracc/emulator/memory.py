"""Device memory between launches, and the address windows of the other state spaces.

Global memory is a set of allocations at distinct aligned addresses with unmapped gaps between them, so that running
over the end of a buffer never lands in the next one. A generic address says its space by its window.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

import numpy as np

from tesseracc.emulator.findings import EmulatorError
from tesseracc.emulator.types import Array

__all__ = ["BASES", "PARAM_BASE", "RANK_SHIFT", "SHARED_BASE", "WINDOW_BITS", "GlobalMemory", "Known", "Segment"]

# Windows of the generic address space: 2^40 bytes each.
WINDOW_BITS = 40
SHARED_BASE = 0x7F << WINDOW_BITS
LOCAL_BASE = 0x7E << WINDOW_BITS
PARAM_BASE = 0x7D << WINDOW_BITS
CONST_BASE = 0x7C << WINDOW_BITS
BASES = {"shared": SHARED_BASE, "local": LOCAL_BASE, "param": PARAM_BASE, "const": CONST_BASE, "global": 0}
# A shared::cluster address of CTA rank r is (r + 1) << RANK_SHIFT | offset; rank field 0 is the executing CTA itself.
RANK_SHIFT = 24

_FIRST = 0x10_0000_0000
_GAP = 4096


@dataclass(slots=True)
class Segment:
    """Bytes at an address range. `size` bytes are mapped; `data` is padded so that wide views exist."""

    base: int
    size: int
    data: Array

    @staticmethod
    def new(base: int, size: int) -> Segment:
        padded = np.zeros(-(-size // 16) * 16 + 16, np.uint8)
        return Segment(base, size, padded)

    def view(self, dtype: Any) -> Array:
        """The bytes as elements of `dtype`."""
        return self.data.view(dtype)


class Known:
    """Address ranges of shared memory that are known to be written in every CTA: nothing in them need be checked."""

    def __init__(self, written: Array, stride: int) -> None:
        self.rows = written[: len(written) // stride * stride].reshape(-1, stride)
        self.ranges: list[tuple[int, int]] = []
        self.patience = 0

    def covers(self, within: tuple[int, int] | None) -> bool:
        """Whether [low, high) is inside a known range."""
        return within is not None and any(a <= within[0] and within[1] <= b for a, b in self.ranges)

    def explore(self, within: tuple[int, int], nbytes: int) -> None:
        """An access of `nbytes` in [low, high) found all that it read written: perhaps everything there is."""
        low, high = within
        self.patience -= 1
        if self.patience > 0 or (high - low) * len(self.rows) > 8 * nbytes:
            return
        if not self.rows[:, low:high].all():
            self.patience = 16
            return
        apart = [(a, b) for a, b in self.ranges if b < low or a > high]
        for a, b in self.ranges:
            if b >= low and a <= high:
                low, high = min(a, low), max(b, high)
        self.ranges = [*apart[-15:], (low, high)]


class GlobalMemory:
    """The global memory of a device: alloc, free, read, write by address. Addresses are never reused."""

    def __init__(self) -> None:
        self._next = _FIRST
        self._bases: list[int] = []
        self._segments: list[Segment] = []

    def alloc(self, nbytes: int, align: int = 256) -> int:
        """Map `nbytes` zeroed bytes; the address is a multiple of `align` (at least 256)."""
        if nbytes < 0:
            raise EmulatorError("E943", f"cannot allocate {nbytes} bytes")
        align = max(align, 256)
        base = -(-self._next // align) * align
        try:
            segment = Segment.new(base, nbytes)
        except (MemoryError, ValueError) as error:
            raise EmulatorError("E943", f"cannot allocate {nbytes} bytes") from error
        self._next = base + nbytes + _GAP
        self._bases.append(base)
        self._segments.append(segment)
        return base

    def free(self, address: int) -> None:
        """Unmap the allocation that starts at `address`."""
        at = bisect.bisect_left(self._bases, address)
        if at == len(self._bases) or self._bases[at] != address:
            raise EmulatorError("E943", f"no allocation starts at {address:#x}")
        del self._bases[at], self._segments[at]

    def find(self, address: int, nbytes: int = 1) -> Segment | None:
        """The allocation that holds all of [address, address + nbytes), or None."""
        at = bisect.bisect_right(self._bases, address) - 1
        if at < 0:
            return None
        segment = self._segments[at]
        return segment if address + nbytes <= segment.base + segment.size else None

    def _range(self, address: int, nbytes: int) -> Array:
        segment = self.find(address, nbytes)
        if segment is None:
            raise EmulatorError("E943", f"[{address:#x}, +{nbytes}) is not inside one allocation")
        return segment.data[address - segment.base : address - segment.base + nbytes]

    def write(self, address: int, data: bytes | bytearray | memoryview | Array) -> None:
        """Copy bytes (or a contiguous array's bytes) to `address`."""
        raw = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else _raw(data)
        if raw.size:
            self._range(address, raw.size)[:] = raw

    def read(self, address: int, nbytes: int) -> bytes:
        """`nbytes` bytes at `address`."""
        return bytes(self._range(address, nbytes).tobytes()) if nbytes else b""

    @property
    def segments(self) -> list[Segment]:
        """Live allocations by ascending address."""
        return self._segments


def _raw(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
