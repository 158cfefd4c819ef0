"""A pool of threads that share out ranges of independent groups. Native code releases the interpreter's lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queue import SimpleQueue

__all__ = ["Pool", "available_threads"]

_CHUNKS = 64  # a launch is cut into at most so many ranges, whatever the number of threads
_WORTH = 60e-6  # seconds of work left for which waking other threads pays

Work = Callable[[int, int, int], None]


def available_threads() -> int:
    """How many threads this process may run at once."""
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, len(affinity(0)) if affinity is not None else os.cpu_count() or 1)


class _Job:
    """One range to work off: participants take chunks until none is left."""

    def __init__(self, work: Work, start: int, count: int, chunk: int) -> None:
        self.work, self.count, self.chunk = work, count, chunk
        self._next = start
        self._slots = 0
        self._running = 0
        self._lock = threading.Lock()
        self.done = threading.Event()
        self.error: BaseException | None = None

    def participate(self) -> None:
        with self._lock:
            slot = self._slots
            self._slots += 1
        while True:
            with self._lock:
                begin = self._next
                if begin >= self.count:
                    return
                self._next = end = min(begin + self.chunk, self.count)
                self._running += 1
            try:
                self.work(begin, end, slot)
            except BaseException as error:
                self.error = self.error or error
            with self._lock:
                self._running -= 1
                if self._next >= self.count and not self._running:
                    self.done.set()


class Pool:
    """`threads` participants, one of which is the caller; the others are started when first needed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._queue: SimpleQueue[_Job] | None = None
        self._lock = threading.Lock()
        self._process = 0

    def _started(self) -> SimpleQueue[_Job]:
        """The queue that threads serve; they are started if this process has none. A forked child has none."""
        with self._lock:
            if self._queue is not None and self._process == os.getpid():
                return self._queue
            from queue import SimpleQueue  # slow to import, and small launches need no other thread

            self._queue = SimpleQueue()
            for index in range(self.threads - 1):
                worker = threading.Thread(target=_serve, args=(self._queue,), name=f"tessera-{index}", daemon=True)
                worker.start()
            self._process = os.getpid()
            return self._queue

    def run(self, work: Work, count: int, group_seconds: float = 0.0) -> float:
        """Call `work(begin, end, slot)` for ranges that cover 0..count; `slot` < threads tells participants apart.

        Groups are independent, so no result depends on how they are shared out. `group_seconds` is what a group is
        known to take, as an earlier call returned it; where nothing is known (0) the caller runs the first range alone
        and from its time decides whether the others are worth waking anybody.
        """
        start, begin = perf_counter(), 0
        chunk = -(-count // _CHUNKS)
        if self.threads == 1 or count <= 1:
            chunk = count
        if chunk == count or 0 < group_seconds * count < _WORTH:
            work(0, count, 0)
            return (perf_counter() - start) / max(count, 1)
        if not group_seconds:
            work(0, chunk, 0)
            group_seconds, begin = (perf_counter() - start) / chunk, chunk
            if group_seconds * (count - begin) < _WORTH:
                work(begin, count, 0)
                return group_seconds
        queue = self._started()
        job = _Job(work, begin, count, chunk)
        helpers = min(self.threads, -(-(count - begin) // chunk)) - 1
        for _ in range(helpers):
            queue.put(job)
        job.participate()
        job.done.wait()
        if job.error is not None:
            raise job.error
        return group_seconds if begin else (perf_counter() - start) * (helpers + 1) / count


def _serve(queue: SimpleQueue[_Job]) -> None:
    while True:
        queue.get().participate()
