"""Warnings of a compilation from Python (`ts.jit`, `ts.aot.compile`): Python's warnings, at the user's line.

Filters of the module `warnings` apply: by default each is shown once for a place, `error` makes it an exception that
ends the compilation before anything is written or kept.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tessera.errors import TesseraWarning

if TYPE_CHECKING:
    from tessera.decorators import Function, Kernel
    from tesseracc.driver import Log
    from tesseracc.ir.pipeline import Note

__all__ = ["Warnings"]

_Said = tuple[str, str, int]  # text, file and line


class Warnings:
    """The warnings of one function or kernel, each given once, however often it is compiled."""

    def __init__(self, entry: Function | Kernel) -> None:
        self.entry = entry
        self.given: set[_Said] = set()

    def of_program(self, notes: Iterable[Note]) -> None:
        """W2xx: what the language says of the program."""
        root = os.path.dirname(self.entry.file)
        self._give(
            (f"{n.code}: {n.message}", os.path.join(root, n.loc.file) if n.loc else self.entry.file,
             n.loc.line if n.loc else self.entry.line)
            for n in notes
            if n.code
        )  # fmt: skip

    def of_code(self, log: Log) -> None:
        """What was found in the code of targets, and W807 for what has no test vectors."""
        self._give((text, self.entry.file, self.entry.line) for text in _remarks(log.findings, log.untested))

    def _give(self, found: Iterator[_Said]) -> None:
        scope = getattr(self.entry.python, "__globals__", {})
        for text, file, line in found:
            if (text, file, line) not in self.given:
                seen: Any = scope.setdefault("__warningregistry__", {})
                warnings.warn_explicit(text, TesseraWarning, file, line, scope.get("__name__"), seen)
                self.given.add((text, file, line))


def _remarks(findings: Sequence[Any], untested: Sequence[tuple[str, str]]) -> Iterator[str]:
    for found in findings:
        yield f"{found.code}: {found.subject}: {found.text}"
    for name, why in untested:
        yield f"W807: {name}: {why}"
