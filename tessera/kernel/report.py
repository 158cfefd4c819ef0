"""Errors, warnings and notes of one kernel: collected, so that one run shows several."""

from __future__ import annotations

from tessera.errors import SourceError, SourceErrors, Span
from tessera.kernel.tree import Note

__all__ = ["Already", "KernelErrors", "Report", "fail"]


class KernelErrors(SourceErrors):
    """All errors of a kernel, in source order."""


class Already(Exception):
    """An expression depends on something whose error has been reported."""


def fail(code: str, message: str, span: Span, help: str | None = None) -> SourceError:
    """An error of the user's kernel, to be raised."""
    return SourceError(code, message, help=help, span=span)


class Report:
    """What was found so far. Loops are read more than once until types settle, hence `mark` and `back`."""

    def __init__(self) -> None:
        self.errors: list[SourceError] = []
        self.notes: list[Note] = []
        self.left_out = 0  # statements that could not be read for an error reported before

    def mark(self) -> tuple[int, int, int]:
        return len(self.errors), len(self.notes), self.left_out

    def back(self, mark: tuple[int, int, int]) -> None:
        del self.errors[mark[0] :]
        del self.notes[mark[1] :]
        self.left_out = mark[2]

    def error(self, error: SourceError) -> None:
        """Adds an error once per place and code."""
        if not any(e.code == error.code and e.span == error.span for e in self.errors):
            self.errors.append(error)

    def note(self, message: str, span: Span) -> None:
        self._add(Note(message, span))

    def warn(self, code: str, message: str, span: Span) -> None:
        self._add(Note(message, span, code))

    def once(self, message: str, span: Span, code: str | None = None) -> None:
        """A note or warning at its first place only."""
        if not any(n.message == message and n.code == code for n in self.notes):
            self._add(Note(message, span, code))

    def _add(self, note: Note) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def finish(self) -> None:
        """Raises the errors, if any."""
        assert self.errors or not self.left_out, "a statement is left out, and no error says so"
        if self.errors:
            raise KernelErrors(sorted(self.errors, key=lambda e: (e.span.line, e.span.col) if e.span else (0, 0)))
