"""Timing that survives a busy machine: contenders take turns, and only numbers of the same run are compared.

Threads of libraries wait for more work in a loop after a call (OpenBLAS's for 2^26 cycles), and would take a processor
from the contender that comes next. So each has a pause before its turn, and one call to warm up that is not timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Call = Callable[[], object]
#: seconds that one sample should last at least, so that the clock and one interruption weigh little
SAMPLE = 0.02
#: seconds before a turn in which the threads of the contender before it fall asleep
PAUSE = 0.25


@dataclass(frozen=True)
class Times:
    """Seconds per call, one number per round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def best(self) -> float:
        return min(self.rounds)


def seconds(call: Call, repeat: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The mean time of one call among `repeat`."""
    start = clock()
    for _ in range(repeat):
        call()
    return (clock() - start) / repeat


def interleaved(
    calls: Mapping[str, Call], rounds: int, clock: Callable[[], float] = time.perf_counter, pause: float = 0.0
) -> dict[str, Times]:
    """Every contender once per round, in turn: a pause, one call to warm up, and the calls that are timed."""
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, round(SAMPLE / max(seconds(call, 1, clock), 1e-7)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(pause)
            call()
            found[name].append(seconds(call, repeats[name], clock))
    return {name: Times(tuple(times)) for name, times in found.items()}
