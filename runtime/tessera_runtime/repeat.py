"""Calling a function many times on its state: what training with `tessera-run` does.

An interrupt (SIGINT, SIGTERM) lets the call under way finish, writes the state, and ends with exit code 130. What is
written is always the state after a whole call, so that a run that is continued gives the bits of one that was not.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tessera_runtime.compare import number
from tessera_runtime.core.files import write_atomic
from tessera_runtime.state import write_state

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tessera_runtime.api import BundleFunction

__all__ = ["INTERRUPTED", "Repeated", "repeat"]

INTERRUPTED = 130
_LINES = 20  # of progress, at least: every (calls / 20)-th call says something


class Repeated:
    """What happened: `results` of the last call by name, and the scalar results of each call."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.rows: list[list[Any]] = []
        self.results: dict[str, NDArray[Any]] = {}
        self.seconds = 0.0
        self.interrupted = False

    def csv(self) -> str:
        """`call,loss` and a line for each call."""
        lines = [",".join(["call", *self.names])]
        lines += [",".join([str(i), *(repr(v) for v in row)]) for i, row in enumerate(self.rows, start=1)]
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """For --json: the number of calls, seconds, and the last scalars."""
        last = dict(zip(self.names, map(str, self.rows[-1]), strict=True)) if self.rows else {}
        return {"calls": len(self.rows), "seconds": round(self.seconds, 6), "last": last,
                "interrupted": self.interrupted}  # fmt: skip


@contextlib.contextmanager
def _waiting() -> Iterator[Callable[[], bool]]:
    """Signals that end a process only set a mark here."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {s: signal.signal(s, lambda number, frame: caught.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number_, handler in before.items():
            signal.signal(number_, handler)


def repeat(
    function: BundleFunction, arguments: Mapping[str, Any], state: Mapping[str, NDArray[Any]], calls: int, *,
    path: str | None = None, every: int = 0, log: str | None = None, say: Callable[[str], None] = print,
) -> Repeated:
    """Call the function `calls` times; `state` is updated in place. With `path` the state is written there at the end
    and after every `every` calls, with `log` the scalar results of all calls as CSV."""
    scalars = [o.name for o in function.function.outputs if not o.shape and o.alias is None]
    done = Repeated(scalars)
    start = time.perf_counter()
    with _waiting() as interrupted:
        for call in range(1, calls + 1):
            values = function(**arguments, **state)
            results = dict(zip(function.outputs, values if isinstance(values, tuple) else (values,), strict=True))
            done.results = {} if values is None else results
            done.rows.append([number(results[name][()]) for name in scalars])
            done.seconds = time.perf_counter() - start
            if call == 1 or call == calls or call % max(1, calls // _LINES) == 0:
                say(_progress(done, calls))
            if interrupted():
                done.interrupted = True
                break
            if path is not None and every and call % every == 0 and call < calls:
                write_state(function, path, state)
        if path is not None:
            write_state(function, path, state)
        if log is not None:
            write_atomic(log, done.csv().encode())
    if done.interrupted:
        print(f"interrupted after {len(done.rows)} calls{'' if path is None else f'; state: {path}'}", file=sys.stderr)
    return done


def _progress(done: Repeated, calls: int) -> str:
    shown = "  ".join(f"{n} {v:.6g}" if isinstance(v, float) else f"{n} {v}"
                      for n, v in zip(done.names, done.rows[-1], strict=True))  # fmt: skip
    count = len(done.rows)
    return f"{count:>{len(str(calls))}}/{calls}  {shown}  {count / max(done.seconds, 1e-9):.1f}/s".replace("    ", "  ")
