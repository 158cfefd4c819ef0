"""The three standard streams of a command, whatever the caller has made of them.

A stream that was closed before the process began is opened on the null device, so that no file of ours takes its
number; what is read from or written to it then fails as it must. Failures of stdout are told from those of files by
their type. What stderr cannot take is dropped: the exit code still tells.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any

from tessera_runtime.core.errors import UsageError

__all__ = ["STDOUT", "OutputError", "Unread", "binary", "flush", "give_up_stdout", "prepare"]

STDOUT = 1


class OutputError(UsageError):
    """E803 of stdout: nothing more can be told there."""


class Unread(BaseException):
    """Nobody reads stdout any more (`| head`): the process ends early, and no `except Exception` holds it up."""


class _Descriptor(io.FileIO):
    """An open descriptor that stays open; after a failure it takes everything and keeps nothing."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self.failed = False

    def write(self, data: Any) -> int:
        if self.failed:
            return len(data)
        try:
            while (count := super().write(data)) is None:  # a non-blocking pipe that is full
                select.select([], [self], [])
            return count
        except OSError as error:
            self.failed = True
            self.lost(error)
            return len(data)

    def lost(self, error: OSError) -> None:
        """What is done about a failure: nothing."""


class _Stdout(_Descriptor):
    def lost(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise Unread from None
        reason = "it is closed" if error.errno == 9 else error.strerror
        raise OutputError("E803", f"cannot write to the standard output: {reason}") from None


def _text(raw: _Descriptor, like: Any, *, by_line: bool) -> io.TextIOWrapper:
    """A text stream that can write every string: names of files need not be UTF-8, nor need the terminal."""
    encoding = getattr(like, "encoding", None) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=by_line)


def prepare() -> None:
    """Make the streams of this process usable; those that a caller in Python has put in their place stay."""
    for number, mode in ((0, os.O_WRONLY), (STDOUT, os.O_RDONLY), (2, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # takes the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.stdout = _text(_Stdout(STDOUT), sys.stdout, by_line=os.isatty(STDOUT))
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Descriptor(2), sys.stderr, by_line=True)


def flush() -> None:
    """What was said so far reaches its reader. Raises OutputError, Unread."""
    sys.stdout.flush()
    sys.stderr.flush()


def binary(number: int) -> io.BufferedWriter:
    """An open descriptor, for the bytes of a file. It stays open. Stdout raises OutputError and Unread."""
    return io.BufferedWriter(_Stdout(number) if number == STDOUT else io.FileIO(number, "wb", closefd=False))


def give_up_stdout() -> None:
    """Stdout is for the bytes of a file: what is said from now on goes to stderr."""
    sys.stdout.flush()
    sys.stdout = sys.stderr
