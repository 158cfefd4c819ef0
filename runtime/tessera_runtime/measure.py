"""What `--benchmark` and `--profile` of `tessera-run` measure, after a first call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tessera_runtime.api import BundleFunction

__all__ = ["benchmark", "profiled"]

_PROFILED = 10  # calls of a profile where no number is given


def benchmark(
    function: BundleFunction, arguments: Mapping[str, Any], count: int, say: Callable[[str], object]
) -> dict[str, Any]:
    """Times in ms of `count` calls, or of those of about a second for 0."""
    times: list[float] = []
    limit = time.perf_counter() + 1.0
    while len(times) < (count or 3) or (not count and time.perf_counter() < limit and len(times) < 100_000):
        start = time.perf_counter()
        function(**arguments)
        times.append((time.perf_counter() - start) * 1e3)
    result = {
        "calls": len(times), "median_ms": round(statistics.median(times), 6), "min_ms": round(min(times), 6),
        "mean_ms": round(statistics.fmean(times), 6), "max_ms": round(max(times), 6),
    }  # fmt: skip
    say(
        f"benchmark: {result['calls']} calls, median {result['median_ms']:.4f} ms, min {result['min_ms']:.4f} ms, "
        f"mean {result['mean_ms']:.4f} ms, max {result['max_ms']:.4f} ms"
    )
    return result


def profiled(
    function: BundleFunction, arguments: Mapping[str, Any], path: str, count: int | None, say: Callable[[str], object]
) -> list[dict[str, Any]]:
    """Rows for --json; the trace goes to `path`, the table to `say`."""
    from tessera_runtime.profile import profile

    with profile() as found:
        for _ in range(count or _PROFILED):
            function(**arguments)
    found.export_chrome_trace(path)
    say(found.table())
    say(f"trace: {path}")
    return found.to_json()
