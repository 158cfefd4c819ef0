"""Profiles: what ran while one was taken, as a Chrome trace and as a table with the distance from the roofline.

There are two roofs. A kernel cannot be faster than a copy of as many bytes as it must move, and that copy is measured
on the device, with all its threads. Nor can it be faster than its floating-point operations at the rate of the units
that do them: the bundle has both (specs/bundle.md, `flops`), the device its clock. `roofline` is the larger of the two
times over the kernel's, and `bound` says which it is: memory or arithmetic. Kernels that do not say how many operations
they do have the roof of memory alone.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tessera_runtime.core import recording
from tessera_runtime.core.files import write_atomic

__all__ = ["Profile", "Row", "profile"]

_SMALLEST, _LARGEST = 16, 28  # log2 of the bytes of the copies that are measured
_WIDEST = 24  # of what kernels compute, in the table


class Row(NamedTuple):
    """One step of one function, or one eager operator, over all its runs. Times in seconds, of one run.

    `flops` is None where some run does not know; `roofline` and `bound` are None where no roof is known.
    """

    name: str
    function: str
    step: int
    file: str
    line: int
    device: str
    calls: int
    total: float
    p50: float
    p95: float
    bytes: int
    bytes_per_second: float
    flops: int | None
    flops_per_second: float | None
    roofline: float | None
    bound: str | None
    op: str
    source: str


def _source(span: recording.Span) -> str:
    """All lines that something comes from."""
    return span.source or (f"{span.file}:{span.line}" if span.file else "")


class Profile:
    """What ran while it was taken."""

    def __init__(self) -> None:
        self._recorder = recording.Recorder()
        self._measured: dict[tuple[str, int], float] = {}
        self._clocks: dict[str, float | None] = {}

    @property
    def spans(self) -> tuple[recording.Span, ...]:
        """Everything noted, in the order in which it ended."""
        return tuple(self._recorder.spans)

    def rows(self) -> list[Row]:
        """Kernels, copies and eager operators, the longest total time first."""
        groups: dict[tuple[Any, ...], list[recording.Span]] = {}
        for span in self._recorder.spans:
            if span.kind != "call":
                key = (span.device, span.function, span.step, span.name, span.file, span.line)
                groups.setdefault(key, []).append(span)
        return sorted((self._row(group) for group in groups.values()), key=lambda row: (-row.total, row.name, row.line))

    def _row(self, spans: list[recording.Span]) -> Row:
        first = spans[0]
        times = sorted((span.stop - span.start) * 1e-9 for span in spans)
        total, moved = sum(times), sum(span.bytes for span in spans)
        known = [span.flops for span in spans if span.flops is not None]
        flops = sum(known) if len(known) == len(spans) else None
        roofs = {
            "memory": sum(self._copy_time(span) for span in spans),
            "arithmetic": sum(self._arithmetic_time(span) for span in spans),
        }
        bound = max(roofs, key=lambda name: roofs[name])
        roof = roofs[bound] / total if total and roofs[bound] else None
        return Row(
            first.name, first.function, first.step, first.file, first.line, first.device, len(spans), total,
            statistics.median(times), times[int(0.95 * (len(times) - 1) + 0.5)], moved,
            moved / total if total else 0.0, flops, flops / total if flops is not None and total else None,
            roof, bound if roof is not None else None, first.op, _source(first),
        )  # fmt: skip

    def _achieved(self, span: recording.Span) -> dict[str, Any]:
        """Operations and roofline of one run, for the trace."""
        row = self._row([span])
        return {"flops": row.flops, "roofline": row.roofline, "bound": row.bound}

    def _copy_time(self, span: recording.Span) -> float:
        """Seconds of a copy of as many bytes; 0 where that is not known."""
        measure = self._recorder.bandwidths.get(span.device)
        if measure is None or not span.bytes:
            return 0.0
        size = min(max(span.bytes.bit_length(), _SMALLEST), _LARGEST)
        key = span.device, size
        if key not in self._measured:
            self._measured[key] = measure(1 << size)
        return span.bytes / self._measured[key]

    def _arithmetic_time(self, span: recording.Span) -> float:
        """Seconds that all units take for the operations at least; 0 where that is not known."""
        if not span.cycles:
            return 0.0
        if span.device not in self._clocks:
            measure = self._recorder.clocks.get(span.device)
            self._clocks[span.device] = None if measure is None else measure()
        clock = self._clocks[span.device]
        return span.cycles / clock if clock else 0.0

    def total(self) -> float:
        """Seconds in calls of compiled functions and in eager operators; calls at the same time count each."""
        return sum(span.stop - span.start for span in self._recorder.spans if span.kind in ("call", "operator")) * 1e-9

    def table(self) -> str:
        """The rows as text."""
        titles = ("kernel", "op", "source", "calls", "total ms", "p50 us", "p95 us", "share", "MB", "GB/s", "GFLOP/s",
                  "roofline", "bound")
        everything = self.total()
        lines = [titles]
        for row in self.rows():
            lines.append((
                row.name, _short(row.op), row.source or "-", str(row.calls),
                f"{row.total * 1e3:.3f}",
                f"{row.p50 * 1e6:.1f}", f"{row.p95 * 1e6:.1f}",
                f"{row.total / everything:.1%}" if everything else "-", f"{row.bytes / 1e6:.3f}",
                f"{row.bytes_per_second / 1e9:.2f}",
                "-" if row.flops_per_second is None else f"{row.flops_per_second / 1e9:.2f}",
                "-" if row.roofline is None else f"{row.roofline:.1%}", row.bound or "-",
            ))  # fmt: skip
        widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
        text = [
            "  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip()
            for line in lines
        ]
        return "\n".join(text)

    def chrome_trace(self) -> dict[str, Any]:
        """Trace Event Format: complete events in microseconds since the first; open in a trace viewer."""
        spans = self._recorder.spans
        origin = min((span.start for span in spans), default=0)
        devices = {name: index for index, name in enumerate(dict.fromkeys(span.device for span in spans))}
        threads = {ident: index for index, ident in enumerate(dict.fromkeys(span.thread for span in spans))}
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": index, "tid": 0, "args": {"name": name}}
            for name, index in devices.items()
        ]
        for span in sorted(spans, key=lambda span: (span.start, -span.stop)):
            details = {
                "function": span.function, "step": span.step, "bytes": span.bytes, "grid": list(span.grid),
                "source": _source(span), "op": span.op,
            }  # fmt: skip
            if span.kind != "call":
                details |= self._achieved(span)
            events.append({
                "ph": "X", "name": span.name, "cat": span.kind, "pid": devices[span.device],
                "tid": threads[span.thread], "ts": (span.start - origin) / 1e3, "dur": (span.stop - span.start) / 1e3,
                "args": details,
            })  # fmt: skip
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def export_chrome_trace(self, path: str) -> None:
        """Write `chrome_trace` as a JSON file; E803 when that is not possible."""
        write_atomic(str(path), json.dumps(self.chrome_trace(), separators=(",", ":")).encode())

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as objects; seconds and bytes."""
        return [row._asdict() for row in self.rows()]


def _short(op: str) -> str:
    return "-" if not op else op if len(op) <= _WIDEST else f"{op[: _WIDEST - 2]}.."


@contextmanager
def profile() -> Iterator[Profile]:
    """Take a profile of everything that runs in this process until the end of the block."""
    found = Profile()
    with recording.record(found._recorder):
        yield found
