"""Exceptions of the user's own code, as errors at the user's line."""

from __future__ import annotations

import traceback
from pathlib import Path

from tessera.errors import Call, SourceError, Span, did_you_mean


def user_error(error: Exception, file: Path, code: str) -> SourceError:
    """An error with the code, at the innermost line that stands in the folder of `file`; E102 for a failed import."""
    inside = str(file.absolute().parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(inside)]
    calls = [Call(frame.name, _span_of(frame)) for frame in frames]
    calls.reverse()
    span = calls[0].span if calls else Span(str(file), 1)
    if isinstance(error, ImportError):
        return SourceError("E102", f"an import fails: {error}", span=span, calls=tuple(calls))
    known: list[str] = []
    name = getattr(error, "name", None)
    if isinstance(error, AttributeError) and name and error.obj is not None:
        known = dir(error.obj)
    elif isinstance(error, NameError) and name and error.__traceback__ is not None:
        last = error.__traceback__
        while last.tb_next is not None:
            last = last.tb_next
        known = [*last.tb_frame.f_locals, *last.tb_frame.f_globals]
    help = did_you_mean(str(name), known) if known else None
    return SourceError(code, f"{type(error).__name__}: {error}", span=span, calls=tuple(calls), help=help)


def _span_of(frame: traceback.FrameSummary) -> Span:
    """The place of a frame; Python 3.10 knows the line only."""
    col, end_line, end_col = (getattr(frame, name, None) or 0 for name in ("colno", "end_lineno", "end_colno"))
    return Span(frame.filename, frame.lineno or 1, col, end_line, end_col)
