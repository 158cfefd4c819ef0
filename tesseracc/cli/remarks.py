"""Warnings and notes of a build, as JSON objects and as text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tesseracc.codegen.findings import Finding
    from tesseracc.ir.pipeline import Note

__all__ = ["finding", "notes", "placeless", "rendered", "warnings"]


def notes(found: Iterable[Note]) -> list[dict[str, Any]]:
    """What was decided, without warnings: `message`, and `file` and `line` where it has a place."""
    return [{"message": n.message, **_place(n)} for n in found if not n.code]


def warnings(found: Iterable[Note]) -> list[dict[str, Any]]:
    """The warnings of the program itself: they have a place and are of no target."""
    return [
        {"target": "", "code": n.code, "subject": "", "message": n.message, **_place(n),
         "column": n.loc.col + 1 if n.loc else 0, "end_column": n.loc.end_col + 1 if n.loc and n.loc.end_col else 0}
        for n in found
        if n.code
    ]  # fmt: skip


def finding(target: str, found: Finding) -> dict[str, Any]:
    """A warning about a kernel of a target or a function of all: it has no place in the program."""
    return {
        "target": target, "code": found.code, "subject": found.subject, "message": found.text,
        "file": "", "line": 0, "column": 0, "end_column": 0,
    }  # fmt: skip


def rendered(w: dict[str, Any], folder: Path) -> str:
    """A warning for a terminal, with a caret at the user's line; its file is relative to `folder`."""
    from tessera.errors import SourceError, Span, render

    if not w["line"]:
        return f"warning[{w['code']}]: {placeless(w)}"
    end = w["end_column"]
    span = Span(str(folder / w["file"]), w["line"], w["column"] - 1, w["line"] if end else 0, max(end - 1, 0))
    return render(SourceError(w["code"], w["message"], span=span), label="warning")


def placeless(w: dict[str, Any]) -> str:
    """The message of a warning, with what it is about where that is no line of the program."""
    if not w["subject"]:
        return str(w["message"])
    return f"{w['subject']}{' for ' + w['target'] if w['target'] else ''}: {w['message']}"


def _place(note: Note) -> dict[str, Any]:
    return {"file": note.loc.file if note.loc else "", "line": note.loc.line if note.loc else 0}
