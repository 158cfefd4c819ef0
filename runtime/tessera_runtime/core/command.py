"""How every command of the project ends: its streams, its errors as text or JSON, its exit code."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from tessera_runtime.core import streams
from tessera_runtime.core.errors import TesseraError, UsageError
from tessera_runtime.core.exitcodes import Exit

__all__ = ["INTERRUPTED", "end_at_next", "run"]

INTERRUPTED = 130

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_EXHAUSTED = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)

Parts = Callable[[TesseraError], Sequence[TesseraError]]


def run(work: Callable[[], int], *, as_json: bool, whose: str, parts: Parts = lambda error: (error,),
        render: Callable[[TesseraError], str] = TesseraError.render) -> int:  # fmt: skip
    """Runs a command on usable streams; the exit code. Nothing gets out: a first Ctrl-C unwinds the work, the next ones
    (while that cleans up) too, and one that comes when it is told ends the process at once, with the same exit code.

    `parts` are the errors that one stands for, `render` is its text for people; a fault of the project is told to be of
    `whose` making. Errors are JSON on stdout where `as_json`, unless stdout is what failed.
    """
    try:
        return _run(work, as_json, whose, parts, render)
    except KeyboardInterrupt:
        end_at_next()
        if as_json:
            _tell([{"code": "interrupted", "message": "interrupted", "exit_code": INTERRUPTED}], INTERRUPTED)
        else:
            _say("interrupted")
        return INTERRUPTED


def end_at_next(word: bytes = b"") -> None:
    """From now on Ctrl-C ends the process at once, with a word on stderr: while it tells why it ends, or is taken
    apart."""

    def end(*_: object) -> None:
        with suppress(OSError):
            os.write(2, word)
        os._exit(INTERRUPTED)

    with suppress(ValueError):  # signals are the main thread's
        signal.signal(signal.SIGINT, end)


def _run(
    work: Callable[[], int], as_json: bool, whose: str, parts: Parts, render: Callable[[TesseraError], str]
) -> int:
    streams.prepare()
    try:
        code = work()
        streams.flush()
        return code
    except streams.Unread:
        return int(Exit.OK)
    except streams.OutputError as error:
        _say(error.render())
        return error.exit_code
    except Exception as error:
        known = _known(error)
        if known is None:
            return _fault(error, as_json=as_json, whose=whose)
        if as_json:
            _tell([part.to_json() for part in parts(known)], known.exit_code)
        else:
            _say("\n".join(render(part) for part in parts(known)))
        return known.exit_code


def _known(error: Exception) -> TesseraError | None:
    """The error that a user can act on: what the system refuses is one too."""
    if isinstance(error, TesseraError):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, ImportError) and "failed to map" in str(error)):
        return UsageError("E809", "there is not enough memory")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return UsageError("E809", "the system gives no more threads")
    if not isinstance(error, OSError):
        return None
    name = error.filename
    if name is None and error.errno == errno.ENOENT:  # of os.getcwd
        return UsageError("E802", "cannot read the working directory: it was removed")
    shown = "a temporary file" if name is None else f"'{os.fsdecode(name) if isinstance(name, bytes) else name}'"
    if error.errno in _EXHAUSTED:
        return UsageError("E809", f"the system refuses: {error.strerror}")
    if error.errno in _FULL:
        return UsageError("E803", f"cannot write {shown}: {error.strerror}")
    return None if name is None else UsageError("E802", f"cannot use {shown}: {error.strerror}")


def _fault(error: Exception, *, as_json: bool, whose: str) -> int:
    """A fault of ours. With TESSERA_DEBUG its traceback."""
    if os.environ.get("TESSERA_DEBUG"):
        import traceback

        traceback.print_exception(error)
    text, code = f"{type(error).__name__}: {error}", int(Exit.INTERNAL)
    if as_json:
        _tell([{"code": "internal", "message": text, "exit_code": code}], code)
    else:
        _say(f"internal error: {text}\n  help: this is a fault of the {whose}; TESSERA_DEBUG=1 shows where")
    return code


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _tell(errors: list[dict[str, object]], code: int) -> None:
    with suppress(streams.OutputError, streams.Unread):  # nobody reads it; the exit code still tells
        print(json.dumps({"errors": errors, "exit_code": code}, sort_keys=True), flush=True)
