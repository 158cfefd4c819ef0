"""Who watches what runs: one recorder for the process, which devices and eager execution report to while it is set.

Times are `time.perf_counter_ns`. Without a recorder a step costs one comparison more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tessera_runtime.core.locks import lock

__all__ = ["Recorder", "Span", "active", "record"]


class Span(NamedTuple):
    """Something that ran from `start` to `stop` on `device`, as the host's thread `thread` asked for.

    `kind` is call (a whole call of a function), launch, copy, or operator (eager execution). `bytes` is the least
    traffic: each buffer read once and written once. `flops` are floating-point operations, None where that is not
    known, and `cycles` what they take at least, of all units together: one unit with nothing else to do takes so many.
    `step` counts the steps of `function` that run, -1 without one. `op` says what a kernel computes: `matmul add max`;
    `source` all lines that it comes from, of which `file` and `line` are the first.
    """

    kind: str
    name: str
    start: int
    stop: int
    device: str
    thread: int
    function: str = ""
    step: int = -1
    bytes: int = 0
    file: str = ""
    line: int = 0
    grid: tuple[int, ...] = ()
    flops: int | None = None
    cycles: float = 0.0
    op: str = ""
    source: str = ""


class Recorder:
    """A list of spans; any thread may append. By device, `bandwidths` measures the bytes per second of a copy, `clocks`
    the cycles per second of all units together, None where that is not known."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.bandwidths: dict[str, Callable[[int], float]] = {}
        self.clocks: dict[str, Callable[[], float | None]] = {}

    def add(self, span: Span) -> None:
        """Note a span."""
        self.spans.append(span)


_ACTIVE: list[Recorder] = []
_LOCK = lock()


def active() -> Recorder | None:
    """The recorder that was set last, or None."""
    return _ACTIVE[-1] if _ACTIVE else None


@contextmanager
def record(recorder: Recorder) -> Iterator[None]:
    """Report to `recorder` for a while, from every thread."""
    with _LOCK:
        _ACTIVE.append(recorder)
    try:
        yield
    finally:
        with _LOCK:
            _ACTIVE.remove(recorder)
