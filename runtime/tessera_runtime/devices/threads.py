"""A pool of threads that share out ranges of independent groups. Native code releases the interpreter's lock.

A range is a part of what is left, so that ranges become shorter towards the end: few of them for little time between,
and short ones last for equal ends. Where the system tells on which processor the caller runs, the others are kept off
it: a scheduler that sees a busy neighbour, such as a library's thread that waits in a loop, else wakes them behind the
caller, and moves them away only milliseconds later.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from math import ceil
from time import perf_counter
from typing import TYPE_CHECKING

from tessera_runtime.core.locks import lock

if TYPE_CHECKING:
    from queue import SimpleQueue

__all__ = ["Pool", "available_threads"]

_FIRST = 64  # of groups that nothing is known about, one in so many is measured first
_PART = 0.75  # of a thread's equal share of what is left, a range is so much
_GRAIN = 50e-6  # seconds that a range takes at least, beside which handing it out is little
_WORTH = 60e-6  # seconds of work left for which waking other threads pays

Work = Callable[[int, int, int], None]


def available_threads() -> int:
    """How many threads this process may run at once."""
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, len(affinity(0)) if affinity is not None else os.cpu_count() or 1)


@cache
def _processor() -> Callable[[], int] | None:
    """The system's call for the number of the processor that runs the caller."""
    return getattr(ctypes.CDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None


class _Job:
    """Groups start .. count - 1 to work off: participants take ranges of `least` or more until none is left."""

    def __init__(self, work: Work, start: int, count: int, least: int, threads: int) -> None:
        self.work, self.count, self.least = work, count, least
        self._part = _PART / threads
        self._next = start
        self._slots = 1  # the caller's is 0
        self._helping = 0  # threads that have joined the caller and not left
        self._lock = threading.Lock()
        self._left = threading.Event()  # the last of them has, and none can join
        self._error: BaseException | None = None

    def work_off(self, slot: int) -> None:
        """Take ranges until none is left."""
        while True:
            with self._lock:
                begin = self._next
                if begin >= self.count:
                    return
                left = self.count - begin
                self._next = end = begin + min(left, max(self.least, ceil(left * self._part)))
            self.work(begin, end, slot)

    def help(self) -> None:
        """What the pool's threads do, if there is something left to do when they come."""
        with self._lock:
            if self._next >= self.count:
                return
            slot, self._slots = self._slots, self._slots + 1
            self._helping += 1
        try:
            self.work_off(slot)
        except BaseException as error:
            self._error = error
        with self._lock:
            self._next = self.count  # after a fault nobody goes on
            self._helping -= 1
            if not self._helping:
                self._left.set()

    def finish(self) -> None:
        """Nothing more is taken, and nobody works when this returns or raises: then the memory may be used again.

        A signal's handler may raise anything here or before, as Ctrl-C does. Kernels end, so they are waited for first.
        """
        interrupted: BaseException | None = None
        while True:
            try:
                with self._lock:
                    self._next = self.count
                    if not self._helping:
                        break
                self._left.wait()
            except BaseException as error:
                interrupted = error
        fault = interrupted or self._error
        if fault is not None:
            raise fault


class Pool:
    """`threads` participants, one of which is the caller; the others are started when first needed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._queue: SimpleQueue[_Job] | None = None
        self._lock = lock()
        self._process = 0
        self._others: list[int] = []  # the system's numbers of the other threads
        self._processors: set[int] = set()
        self._avoided: int | None = None  # the processor that they keep off

    def _started(self) -> SimpleQueue[_Job]:
        """The queue that threads serve; they are started if this process has none. A forked child has none."""
        with self._lock:
            if self._queue is not None and self._process == os.getpid():
                return self._queue
            from queue import SimpleQueue  # slow to import, and small launches need no other thread

            self._queue = SimpleQueue()
            self._others, self._avoided = [], None
            for index in range(self.threads - 1):
                worker = threading.Thread(target=_serve, args=(self._queue,), name=f"tessera-{index}", daemon=True)
                try:
                    worker.start()
                except RuntimeError:  # the system gives no more: those that there are do it
                    break
                self._others.append(worker.native_id or 0)
            if available_threads() >= self.threads and _processor() is not None:
                self._processors = os.sched_getaffinity(0)
            self._process = os.getpid()
            return self._queue

    def _make_way(self) -> None:
        """Keep the other threads off the caller's processor, if there are processors for all of them."""
        where = _processor()
        here = where() if where is not None and self._processors else None
        if here == self._avoided or here is None:
            return
        self._avoided = here
        try:
            for thread in self._others:
                os.sched_setaffinity(thread, self._processors - {here})
        except OSError:  # other processors than before, or none of our business: threads stay where they are
            self._processors = set()

    def run(self, work: Work, count: int, group_seconds: float = 0.0) -> float:
        """Call `work(begin, end, slot)` for ranges that cover 0..count; `slot` < threads tells participants apart.

        Groups are independent, so no result depends on how they are shared out. `group_seconds` is what a group is
        known to take, as an earlier call returned it; where nothing is known (0) the caller runs the first range alone
        and from its time decides whether the others are worth waking anybody.
        """
        start, begin = perf_counter(), 0
        if self.threads == 1 or count <= 1 or 0 < group_seconds * count < _WORTH:
            work(0, count, 0)
            return (perf_counter() - start) / max(count, 1)
        if not group_seconds:
            begin = -(-count // _FIRST)
            work(0, begin, 0)
            group_seconds = (perf_counter() - start) / begin
            if group_seconds * (count - begin) < _WORTH:
                work(begin, count, 0)
                return group_seconds
        queue = self._started()
        self._make_way()
        least = max(1, round(_GRAIN / group_seconds))
        helpers = min(len(self._others), -(-(count - begin) // least) - 1)
        job = _Job(work, begin, count, least, helpers + 1)
        try:
            for _ in range(helpers):
                queue.put(job)
            job.work_off(0)
        finally:
            job.finish()
        return group_seconds if begin else (perf_counter() - start) * (helpers + 1) / count


def _serve(queue: SimpleQueue[_Job]) -> None:
    while True:
        queue.get().help()
