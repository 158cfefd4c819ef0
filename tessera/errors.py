"""Where in the user's source something went wrong, and how it is shown.

A `Span` is a piece of a source file, a `SourceError` is a TesseraError with a span and the chain of user functions that
led to it. `render` draws it with a caret:

    error[E302]: matmul contracts 64 with 32
      --> model.py:14:12  in `mlp`, called from `step` (model.py:22)
       14 |     return x @ w
          |            ^^^^^
      help: w is Tensor["D", "K"]; did you mean w.T?
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from types import CodeType, FrameType

import tessera_runtime
from tessera_runtime.core.errors import TesseraError

__all__ = [
    "Call", "SourceError", "SourceErrors", "Span", "TesseraError", "TesseraWarning", "characters", "did_you_mean",
    "each_error", "origin", "render", "user_calls", "user_span",
]

#: so many places of a chain of calls are shown
MAX_CHAIN = 8
#: characters of a source line that are shown
MAX_LINE = 160

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_OURS = (
    os.path.join(os.path.dirname(_PACKAGE[:-1]), "tesseracc", ""),
    os.path.join(os.path.dirname(os.path.abspath(tessera_runtime.__file__)), ""),
)


@dataclass(frozen=True)
class Span:
    """Lines are counted from 1, columns from 0 as Python's ast does; an unknown end is 0."""

    file: str
    line: int
    col: int = 0
    end_line: int = 0
    end_col: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col + 1}"


@dataclass(frozen=True)
class Call:
    """One frame of user code: the function's name and the place in it."""

    function: str
    span: Span


class TesseraWarning(UserWarning):
    """The category of Python warnings about programs that are compiled: `W201: ..`, at the user's line."""


class SourceError(TesseraError):
    """An error in the user's program. `calls` is innermost first; its first entry is at `span`.

    Without a span it takes the place of the user's code that is running, unless the compiler called in between; `at`
    then still replaces it.
    """

    def __init__(
        self, code: str, message: str, *, help: str | None = None, span: Span | None = None,
        calls: tuple[Call, ...] = (),
    ) -> None:
        super().__init__(code, message, help=help)
        self._placed = span is not None
        if span is None:
            calls = origin()
            span = calls[0].span if calls else None
        self.span = span
        self.calls = calls

    def at(self, span: Span | None, calls: tuple[Call, ...] = ()) -> SourceError:
        """This error, given a place unless it was made with one."""
        if not self._placed and span is not None:
            self.span, self.calls, self._placed = span, calls, True
        return self

    def to_json(self) -> dict[str, object]:
        """The fields of TesseraError.to_json, plus file, line and column (both counted from 1)."""
        fields: dict[str, object] = dict(super().to_json())
        if self.span is not None:
            fields |= {"file": self.span.file, "line": self.span.line, "column": self.span.col + 1}
        return fields

    def __str__(self) -> str:
        place = f" ({os.path.basename(self.span.file)}:{self.span.line})" if self.span else ""
        return f"{self.code}: {self.message}{place}" + (f"; {self.help}" if self.help else "")


class SourceErrors(SourceError):
    """Several errors found in one run. It stands for the first one; `errors` has them all, in order."""

    def __init__(self, errors: list[SourceError]) -> None:
        first = errors[0]
        super().__init__(first.code, first.message, help=first.help, span=first.span, calls=first.calls)
        self.errors = tuple(errors)


def each_error(error: TesseraError) -> tuple[TesseraError, ...]:
    """The errors that an exception stands for."""
    return error.errors if isinstance(error, SourceErrors) else (error,)


def render(error: TesseraError, *, source: str | None = None, label: str = "error") -> str:
    """The error as text for a terminal. `source` replaces the file's content (for text that is not on disk)."""
    lines = [f"{label}[{error.code}]: {error.message}"]
    span = getattr(error, "span", None)
    if span is not None:
        lines.append(f"  --> {_shown(span.file)}:{span.line}:{span.col + 1}{_chain(getattr(error, 'calls', ()))}")
        text = _source_line(span, source)
        if text is not None:
            end = span.end_col if span.end_line == span.line and span.end_col > span.col else 0
            width = (end or len(text.rstrip())) - span.col if span.end_line else 1
            gutter = " " * max(0, 5 - len(str(span.line))) + str(span.line)
            shown, col, width = _window(text.rstrip(), span.col, max(1, width))
            lines.append(f"{gutter} | {shown}")
            # Tabs stay tabs, so that the caret stands under its text however wide they are shown.
            pad = "".join("\t" if c == "\t" else " " for c in shown[:col])
            lines.append(f"{' ' * len(gutter)} | {pad}{'^' * width}")
    if error.help:
        lines.append(f"  help: {error.help}")
    return "\n".join(lines)


def _window(text: str, col: int, width: int) -> tuple[str, int, int]:
    """The part of a line that is shown, and where the caret stands in it and how wide it is."""
    start = max(0, min(col - MAX_LINE // 3, len(text) - MAX_LINE)) if len(text) > MAX_LINE else 0
    before, after = "..." if start else "", "..." if start + MAX_LINE < len(text) else ""
    col += len(before) - start
    shown = "".join(c if c.isprintable() or c == "\t" else " " for c in text[start : start + MAX_LINE])
    return before + shown + after, col, min(width, max(1, len(before + shown) - col))


def _source_line(span: Span, source: str | None) -> str | None:
    if source is not None:
        lines = source.splitlines()
        return lines[span.line - 1] if 0 < span.line <= len(lines) else None
    return linecache.getline(span.file, span.line) or None


def _shown(path: str) -> str:
    """The path as a user would type it: relative when the file is below the working directory."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive
        return path
    return path if relative.startswith("..") else relative


def _chain(calls: tuple[Call, ...]) -> str:
    named = [c for c in calls if c.function != "<module>"]
    if not named:
        return ""
    places = [(call.function, call.span.file, call.span.line) for call in named[1:]]
    out = f"  in `{named[0].function}`"
    at = shown = 0
    while at < len(places) and shown < MAX_CHAIN:
        times = 1  # a recursion is one place, many times
        while at + times < len(places) and places[at + times] == places[at]:
            times += 1
        function, file, line = places[at]
        out += f", called from `{function}` ({_shown(file)}:{line}{f', {times} times' if times > 1 else ''})"
        at += times
        shown += 1
    return out + (f", and {len(places) - at} more" if at < len(places) else "")


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """'did you mean `x`?' for the known name nearest to `name`, or None when none is near."""
    import difflib  # a slow import, needed for errors only

    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else None


def dim_is_symbolic(dim: str, use: str) -> SourceError:
    """The error for a symbolic dim used where Python needs a number."""
    return SourceError(
        "E308", f"the size `{dim}` is symbolic and cannot {use} while tracing",
        help=f"one compiled function serves every `{dim}`; write a number in the annotation to fix the size",
    )


# The user's place on the Python stack -----------------------------------------------------------------------------

# Code objects that mark the entry of a @function; frames outside the outermost one belong to no call chain.
_ENTRIES: set[CodeType] = set()


def marks_entry(code: CodeType) -> None:
    """Declare that a frame running `code` enters a user's Tessera function."""
    _ENTRIES.add(code)


@lru_cache(maxsize=4096)
def _is_internal(filename: str) -> bool:
    return os.path.abspath(filename).startswith(_PACKAGE)


@lru_cache(maxsize=4096)
def _is_ours(filename: str) -> bool:
    return os.path.abspath(filename).startswith(_OURS)


def _frame_span(frame: FrameType) -> Span:
    code, line = frame.f_code, frame.f_lineno
    if sys.version_info >= (3, 11):
        place = next(islice(code.co_positions(), frame.f_lasti // 2, None), None)
        if place is not None and place[0] is not None and place[2] is not None:
            start, end, col, end_col = place
            return Span(code.co_filename, start, characters(code.co_filename, start, col), end or start,
                        characters(code.co_filename, end or start, end_col or 0))
    text = linecache.getline(code.co_filename, line)
    return Span(code.co_filename, line, len(text) - len(text.lstrip()), line, len(text.rstrip()))


def characters(filename: str, line: int, col: int) -> int:
    """Byte offset in a line of a file to character offset (Python counts UTF-8 bytes)."""
    text = linecache.getline(filename, line)
    return col if text.isascii() else len(text.encode()[:col].decode(errors="replace"))


def user_calls(limit: int = 64) -> tuple[Call, ...]:
    """The user's frames from the innermost outwards, up to the function that was called first."""
    frame: FrameType | None = sys._getframe(1)
    calls: list[Call] = []
    inside = 0
    while frame is not None and len(calls) < limit:
        if frame.f_code in _ENTRIES:
            inside = len(calls)
        if not _is_internal(frame.f_code.co_filename):
            name = frame.f_code.co_name
            calls.append(Call(name, _frame_span(frame)))
        frame = frame.f_back
    return tuple(calls[: max(inside, 1)])


def origin() -> tuple[Call, ...]:
    """The user's frames; none where the innermost frame outside of this package is the compiler's or the runtime's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_internal(frame.f_code.co_filename):
        frame = frame.f_back
    return () if frame is None or _is_ours(frame.f_code.co_filename) else user_calls()


def user_span() -> Span | None:
    """The innermost place in user code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not _is_internal(frame.f_code.co_filename):
            return _frame_span(frame)
        frame = frame.f_back
    return None
