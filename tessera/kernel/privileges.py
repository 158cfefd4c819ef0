"""What a kernel may do with a parameter that only atomic updates of one kind change: Region[reduce_sum] and its kin.

Such a region is accumulated into, by overlapping writers in any order. So its elements are not to be seen before all
updates are done, and a store has no place among them.
"""

from __future__ import annotations

from collections.abc import Mapping

from tessera.errors import Span
from tessera.kernel.report import Report, fail
from tessera.kernel.tree import (
    Atomic,
    AtomicTile,
    Buffer,
    Copy,
    Load,
    LoadTile,
    Stmt,
    Store,
    StoreTile,
    walk,
    walk_exprs,
)

__all__ = ["check_updates", "declared", "updates"]


def declared(kind: str) -> str:
    """The declaration of a parameter that takes one kind of update, as the program writes it."""
    return f"Region[reduce_{'sum' if kind == 'add' else kind}]"


def check_updates(body: tuple[Stmt, ...], reduced: Mapping[str, str], report: Report) -> None:
    """Reports E208 where a parameter in `reduced`, which maps it to its kind of update, is stored to or loaded: once
    for each line."""
    found: dict[tuple[str, int], tuple[str, Span]] = {}

    def note(buffer: Buffer, what: str, span: Span) -> None:
        if buffer.name in reduced and buffer.space == "global":
            found.setdefault((buffer.name, span.line), (what, span))

    for stmt in walk(body):
        match stmt:
            case Store(buffer):
                note(buffer, "stored to", stmt.span)
            case StoreTile(window):
                note(window.buffer, "stored to", stmt.span)
            case Copy(dst, src):
                note(dst.buffer, "stored to", stmt.span)
                note(src.buffer, "loaded", stmt.span)
    for expr in walk_exprs(body):
        match expr:
            case Load(buffer):
                note(buffer, "loaded", expr.span)
            case LoadTile(window):
                note(window.buffer, "loaded", expr.span)
    for (name, _), (what, span) in found.items():
        kind = reduced[name]
        report.error(fail(
            "E208", f"`{name}` is declared {declared(kind)}, and is {what} here", span,
            f"only ts.tile.atomic_{kind}({name}[..], value) may touch it",
        ))  # fmt: skip


def updates(body: tuple[Stmt, ...]) -> tuple[str, ...]:
    """The atomic updates of parameters, as "atomic_add of `counts`", in order."""
    found: dict[str, None] = {}
    for stmt in walk(body):
        if isinstance(stmt, (Atomic, AtomicTile)):
            buffer = stmt.buffer if isinstance(stmt, Atomic) else stmt.window.buffer
            if buffer.space == "global":
                found[f"atomic_{stmt.op} of `{buffer.name}`"] = None
    return tuple(found)
