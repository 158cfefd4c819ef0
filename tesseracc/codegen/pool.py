"""The compiler's side of the LLVM workers: starts them, hands out modules, and turns their deaths into diagnostics.

Workers are started on first use, or by `prestart` while the front end is still busy, are kept for the life of the
process, and are replaced when they die. A thread waits for whichever of its workers is done; several threads may.
"""

from __future__ import annotations

import atexit
import os
import re
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO, Literal

from tessera_runtime.core.errors import TesseraError
from tesseracc import descriptors
from tesseracc.codegen.findings import Finding
from tesseracc.codegen.worker import read_message, write_message

__all__ = ["Request", "Response", "compile_many", "compile_outcomes", "llvm_version", "prestart", "shutdown"]

TIME_LIMIT = 120.0  # seconds for one module; the largest of ours takes a few
START_LIMIT = 60.0  # seconds for the worker to load LLVM, on a busy machine with a cold disk
LAST_WORDS = 2000  # characters of LLVM's output that a diagnostic shows

_WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker.py")


@dataclass(frozen=True, slots=True)
class Request:
    """One module to compile. `label` names it in diagnostics; `opt` is described in `worker.py`."""

    ir: str
    triple: str
    cpu: str
    features: str
    emit: Literal["object", "assembly", "llvm"]
    opt: int = 1
    label: str = "module"
    only: str | None = None

    def header(self) -> dict[str, object]:
        """What the worker is told beside the IR."""
        return {
            "triple": self.triple, "cpu": self.cpu, "features": self.features,
            "emit": self.emit, "opt": self.opt, "only": self.only,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Response:
    """What LLVM made of a module, and the warnings (W511) that it printed."""

    data: bytes
    findings: tuple[Finding, ...] = ()


class _Died(Exception):
    """The worker ended or hung without an answer; `words` is what LLVM printed."""

    def __init__(self, words: str, timed_out: bool) -> None:
        super().__init__(words)
        self.words = words
        self.timed_out = timed_out


class _Worker:
    """One worker process. `send` and then `receive`; after _Died it is of no more use."""

    def __init__(self) -> None:
        self.log: IO[bytes] = tempfile.TemporaryFile("w+b", buffering=0)  # noqa: SIM115 - lives as long as the worker
        # -I -S: neither the user's directory nor the environment may put modules before ours; the path is given.
        path = [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", _WORKER, *path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0, close_fds=True,
        )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.files = (self.input, self.output, self.log)
        for file in self.files:
            descriptors.keep(file.fileno())
        self.version = ""
        self.read_from = 0
        self.deadline = 0.0
        self.abandoned = False

    def greet(self) -> None:
        """Wait until LLVM is loaded."""
        if self.version:
            return
        self.deadline = time.monotonic() + START_LIMIT
        try:
            header, _ = self._read()
        except _Died as death:
            what = f"the LLVM worker did not start: {_tail(death.words) or 'no message'}"
            raise TesseraError("E510", what, help="is llvmlite installed?") from None
        self.version = str(header["llvm"])

    def send(self, request: Request, limit: float) -> None:
        self.greet()
        self.read_from = os.fstat(self.log.fileno()).st_size
        self.deadline = time.monotonic() + limit
        with suppress(BrokenPipeError):  # it died on the way; `receive` finds out
            write_message(_Whole(self.input), request.header(), request.ir.encode())

    def receive(self) -> tuple[dict[str, object], bytes, str]:
        """Reply header, body, and what LLVM printed meanwhile."""
        header, body = self._read()
        return header, body, self._words()

    def _read(self) -> tuple[dict[str, object], bytes]:
        message = read_message(_Timed(self.output, self))
        if message is None:
            self.process.wait()
            raise _Died(self._words(), timed_out=False)
        return message

    def _words(self) -> str:
        self.log.seek(self.read_from)
        return self.log.read().decode(errors="replace").strip()

    def intact(self) -> bool:
        """Whether nobody has closed the ways to it."""
        return all(descriptors.holds(file.fileno()) for file in self.files)

    def close(self) -> None:
        for file in self.files:
            if file.closed:
                continue
            if descriptors.release(file.fileno()):
                file.close()
            else:
                _adrift.append(file)
        self.process.kill()
        self.process.wait()


class _Whole:
    """A raw pipe whose write writes everything."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.raw.fileno(), view) :]

    def flush(self) -> None:
        """Nothing is held back."""


class _Timed:
    """A raw pipe whose read reads all that is asked for, or what is left at the end, or raises at the deadline."""

    def __init__(self, raw: IO[bytes], worker: _Worker) -> None:
        self.raw, self.worker = raw, worker

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        with selectors.DefaultSelector() as selector:
            selector.register(self.raw, selectors.EVENT_READ)
            while size:
                if not selector.select(max(0.0, self.worker.deadline - time.monotonic())):
                    raise _Died(self.worker._words(), timed_out=True)
                part = os.read(self.raw.fileno(), min(size, 1 << 20))
                if not part:
                    break
                parts.append(part)
                size -= len(part)
        return b"".join(parts)


_idle: list[_Worker] = []
_busy: list[_Worker] = []
_lock = threading.RLock()  # of both lists
_adrift: list[IO[bytes]] = []  # their numbers are of other files now, which they must not close when they go
_owner = os.getpid()


def _workers() -> list[_Worker]:
    """The idle workers of this process; a forked child must not talk to its parent's."""
    global _owner
    if _owner != os.getpid():
        _owner = os.getpid()
        _idle.clear()
        _busy.clear()
    return _idle


def prestart(count: int = 1) -> None:
    """Start workers without waiting for them, so that LLVM loads while the front end works."""
    with _lock:
        while len(_workers()) + len(_busy) < count:
            _idle.append(_Worker())


def _take() -> _Worker:
    """An idle worker, started if there is none. One killed while idle (a full machine) or cut off is passed over."""
    with _lock:
        while _workers():
            worker = _idle.pop()
            if worker.intact() and (not worker.version or worker.process.poll() is None):
                break
            worker.close()
        else:
            worker = _Worker()
        _busy.append(worker)
        return worker


def _give_back(worker: _Worker, *, alive: bool) -> None:
    with _lock:
        if worker in _busy:
            _busy.remove(worker)
            if alive:
                _idle.append(worker)
    if not alive:
        worker.close()


def abandon() -> None:
    """End the workers that other threads wait for: they find them dead."""
    with _lock:
        for worker in _busy:
            worker.abandoned = True
            worker.process.kill()


@atexit.register
def shutdown() -> None:
    """End all workers. They start again when needed."""
    for worker in _workers():
        worker.close()
    _idle.clear()


def llvm_version() -> str:
    """The version of LLVM, for provenance records."""
    worker = _take()
    worker.greet()
    _give_back(worker, alive=True)
    return worker.version


def compile_many(requests: Sequence[Request], *, jobs: int = 1, limit: float = TIME_LIMIT) -> list[Response]:
    """Compile modules, at most `jobs` at once. Results are in order; the first failure in order is raised."""
    responses: list[Response] = []
    for outcome in compile_outcomes(requests, jobs=jobs, limit=limit):
        if isinstance(outcome, TesseraError):
            raise outcome
        responses.append(outcome)
    return responses


def compile_outcomes(
    requests: Sequence[Request], *, jobs: int = 1, limit: float = TIME_LIMIT
) -> list[Response | TesseraError]:
    """As `compile_many`, with a response or an error for every request."""
    outcomes: dict[int, Response | TesseraError] = {}
    waiting = list(enumerate(requests))[::-1]
    prestart(min(jobs, len(requests)))
    with selectors.DefaultSelector() as selector:
        busy: dict[int, _Worker] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < max(jobs, 1):
                    index, request = waiting.pop()
                    worker = _take()
                    busy[index] = worker
                    worker.send(request, limit)
                    selector.register(worker.output, selectors.EVENT_READ, index)
                pause = max(0.0, min(worker.deadline for worker in busy.values()) - time.monotonic())
                ready = [int(key.data) for key, _ in selector.select(pause)]
                ready = ready or [index for index, worker in busy.items() if worker.deadline <= time.monotonic()]
                for index in ready:
                    worker = busy.pop(index)
                    selector.unregister(worker.output)
                    outcomes[index] = _finish(worker, requests[index], limit)
        finally:
            for worker in busy.values():  # an interrupt or a failed start; an answer may be under way
                _give_back(worker, alive=False)
    return [outcomes[index] for index in range(len(requests))]


def _finish(worker: _Worker, request: Request, limit: float) -> Response | TesseraError:
    try:
        header, body, words = worker.receive()
    except _Died as death:
        _give_back(worker, alive=False)
        if worker.abandoned:
            return TesseraError("E512", f"LLVM was stopped while it worked on {request.label}")
        return _death(request, death, limit)
    _give_back(worker, alive=True)
    if header["ok"]:
        warnings = dict.fromkeys(line for line in words.splitlines() if line)  # LLVM repeats itself
        return Response(body, tuple(Finding("W511", request.label, line) for line in warnings))
    message = str(header["message"]).strip()
    return TesseraError(
        "E511",
        f"LLVM refused {request.label} for {request.cpu} ({header['stage']}): {message}",
        help="the compiler produced wrong LLVM IR; look at it with --emit llvm",
    )


def _death(request: Request, death: _Died, limit: float) -> TesseraError:
    """Describe a worker's death, after finding the function that caused it."""
    if death.timed_out:
        return TesseraError(
            "E513", f"LLVM worked on {request.label} for {request.cpu} for more than {limit:g} s and was stopped",
            help="split the kernel, or use smaller tiles",
        )  # fmt: skip
    said = re.search(r"In function: (\S+)", death.words)
    culprit = said.group(1) if said else _culprit(request, limit)
    where = f"kernel {culprit} of {request.label}" if culprit else request.label
    return TesseraError(
        "E512",
        f"LLVM gave up on {where} for {request.cpu}: {_tail(death.words) or 'it ended without a word'}",
        help="the target cannot do an operation of this kernel; look at it with --emit llvm",
    )


def _culprit(request: Request, limit: float) -> str | None:
    """The first function that LLVM dies on when it makes code for that one alone."""
    functions: list[str] = re.findall(r'^define\b[^@\n]*@"?([-\w.$]+)"?\(', request.ir, re.MULTILINE)
    if request.only is not None or len(functions) == 1:
        return request.only or functions[0]
    for function in functions:
        worker = _take()
        try:
            worker.send(replace(request, only=function), limit)
            worker.receive()
        except _Died:
            _give_back(worker, alive=False)
            return function
        _give_back(worker, alive=True)
    return None


def _tail(words: str) -> str:
    """LLVM's last words, at most a screenful."""
    return words if len(words) <= LAST_WORDS else "... " + words[-LAST_WORDS:]
