"""Where temporaries live: one arena per call, its layout from sizes and lifetimes, its memory kept for later calls."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from tessera_runtime.core.errors import InputError
from tessera_runtime.core.locks import lock
from tessera_runtime.core.usage import add, track

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ALIGN", "Arena", "ArenaPool", "Span", "aligned_empty", "assign"]

ALIGN = 64
_MAX_FREE = 1024
_MAX_PAIRS = 512  # spans; the layout by size compares each with each
_WORTH_ALIGNING = 1 << 14  # bytes; below it a call costs more than split cache lines

Span = tuple[int, int, int]  # bytes, first step that uses it, last step that does


def assign(spans: Sequence[Span], align: int = ALIGN) -> tuple[list[int], int]:
    """Offsets such that spans alive in a common step never overlap, and the bytes needed in all.

    The better of two layouts (`_by_steps`, `_by_size`): deterministic, and never larger than the sum of the sizes.
    Zero-size spans lie at offset 0.
    """
    found = _by_steps(spans, align)
    if len(spans) > _MAX_PAIRS or found[1] <= _least(spans, align):
        return found
    return min(found, _by_size(spans, align), key=lambda layout: layout[1])


def _least(spans: Sequence[Span], align: int) -> int:
    """The most bytes that are alive in one step: no layout takes less."""
    changes: dict[int, int] = {}
    for size, first, last in spans:
        size += -size % align
        changes[first] = changes.get(first, 0) + size
        changes[last + 1] = changes.get(last + 1, 0) - size
    alive = most = 0
    for step in sorted(changes):
        alive += changes[step]
        most = max(most, alive)
    return most


def _by_size(spans: Sequence[Span], align: int) -> tuple[list[int], int]:
    """The largest span first, each at the lowest place that is free during all of its steps."""
    offsets = [0] * len(spans)
    placed: list[tuple[int, int, int, int]] = []  # (start, stop, first step, last step)
    total = 0
    for index in sorted((i for i, span in enumerate(spans) if span[0]), key=lambda i: (-spans[i][0], spans[i][1], i)):
        size, first, last = spans[index]
        size += -size % align
        start = 0
        for low, high, begin, end in sorted(placed):
            if begin <= last and first <= end and low < start + size:
                start = max(start, high)
        offsets[index] = start
        placed.append((start, start + size, first, last))
        total = max(total, start + size)
    return offsets, total


def _by_steps(spans: Sequence[Span], align: int) -> tuple[list[int], int]:
    """One sweep over the steps with a list of free ranges, best fit, neighbours joined."""
    offsets = [0] * len(spans)
    order = sorted((i for i, span in enumerate(spans) if span[0]), key=lambda i: (spans[i][1], -spans[i][0], i))
    ending: list[tuple[int, int, int]] = []  # heap of (last step, start, stop)
    free: list[tuple[int, int]] = []  # (start, stop), sorted, none touching the next
    total = 0
    for index in order:
        size, first, last = spans[index]
        size += -size % align
        while ending and ending[0][0] < first:
            _, start, stop = heappop(ending)
            _release(free, start, stop)
        fits = [(stop - start, at) for at, (start, stop) in enumerate(free) if stop - start >= size]
        if fits:
            at = min(fits)[1]
            start, stop = free[at]
            free[at : at + 1] = [(start + size, stop)] if start + size < stop else []
        else:
            # Grow the arena, beginning with the free range at its end if there is one.
            start = free.pop()[0] if free and free[-1][1] == total else total
            total = start + size
        offsets[index] = start
        heappush(ending, (last, start, start + size))
    return offsets, total


def _release(free: list[tuple[int, int]], start: int, stop: int) -> None:
    """Put a range back, joined with its neighbours. The list is bounded: beyond, the smallest range is given up."""
    at = bisect(free, (start, stop))
    if at < len(free) and free[at][0] == stop:
        stop = free.pop(at)[1]
    if at and free[at - 1][1] == start:
        at -= 1
        start = free.pop(at)[0]
    free.insert(at, (start, stop))
    if len(free) > _MAX_FREE:
        free.remove(min(free, key=lambda item: item[1] - item[0]))


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of undefined contents at a 64-byte boundary, where vector stores do not straddle cache lines.

    Raises MemoryError or ValueError where NumPy does.
    """
    import numpy as np

    size = math.prod(shape) * dtype.itemsize
    if size < _WORTH_ALIGNING:
        return track(np.empty(shape, dtype))
    raw = track(np.empty(size + ALIGN, np.uint8))
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + size].view(dtype).reshape(shape)


class Arena:
    """Aligned host memory that grows when a call needs more. Contents are undefined."""

    # of the class, so that one whose making was interrupted has them
    _array: NDArray[Any] | None = None
    address = 0
    size = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes; E713 when there is no such memory."""
        if size > self.size or self._array is None:
            import numpy as np

            self._array = None
            add("temporaries", -self.size)
            self.size = 0
            try:
                self._array = np.empty(size + ALIGN, dtype=np.uint8)
            except (MemoryError, ValueError) as error:
                raise InputError("E713", f"{size} bytes of temporary memory are not to be had") from error
            address = self._array.ctypes.data
            self.address = address + -address % ALIGN
            self.size = size
            add("temporaries", size)
        return self.address

    def __del__(self) -> None:
        add("temporaries", -self.size)


class ArenaPool:
    """Arenas that calls borrow; as many exist as there were calls at one time."""

    def __init__(self) -> None:
        self._idle: list[Arena] = []
        self._lock = lock()

    def take(self) -> Arena:
        """An arena for one call."""
        with self._lock:
            return self._idle.pop() if self._idle else Arena()

    def give(self, arena: Arena) -> None:
        """Hand an arena back."""
        with self._lock:
            self._idle.append(arena)
