"""Reads the text form of layouts, as in IR attributes and on the command line; `str(layout)` writes it.

    #layout<register=[[0,1],[8,0]], lane=[[0,2],[0,4],[1,0],[2,0],[4,0]], warp=[]>
    #layout<offset=[[0,1],[0,2]] -> [4, 4]>            sizes that the vectors alone do not tell
    #layout<lane=[[1]] -> (offset=64)>                 outputs that are not called dim0, dim1, ...
    #mma.m16n8k16.c                                    a well-known name, see names.py
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NoReturn

from tessera_runtime.core.errors import TesseraError
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.names import named

__all__ = ["parse_layout"]

_TOKEN = re.compile(r"\s*(?:(->)|([A-Za-z_]\w*)|(\d+)|([][(),=<>]))")
_BITS = 62  # flat coordinates fit the integers of NumPy


@lru_cache(maxsize=1024)
def parse_layout(text: str) -> LinearLayout:
    """The layout that a text form or a well-known name means. Raises E403."""
    stripped = text.strip()
    if stripped.startswith("#layout<"):
        return _Parser(stripped).layout()
    if stripped.startswith("#"):
        found = named(stripped[1:])
        if found is not None:
            return found
    forms = "a layout is `#layout<register=[[0,1]], lane=[...]>` or a name such as `#mma.m16n8k16.c`"
    raise TesseraError("E403", f"no layout is called `{stripped}`", help=forms)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = len("#layout<")

    def fail(self, what: str) -> NoReturn:
        raise TesseraError("E403", f"layout text: {what} at column {self.at + 1} of `{self.text}`")

    def peek(self) -> str:
        match = _TOKEN.match(self.text, self.at)
        return "" if match is None else match.group().strip()

    def take(self, wanted: str | None = None) -> str:
        match = _TOKEN.match(self.text, self.at)
        if match is None or (wanted is not None and match.group().strip() != wanted):
            self.fail(f"`{wanted}` expected" if wanted else "more expected")
        self.at = match.end()
        return match.group().strip()

    def name(self) -> str:
        word = self.peek()
        if not re.fullmatch(r"[A-Za-z_]\w*", word):
            self.fail("a name expected")
        return self.take()

    def number(self) -> int:
        word = self.peek()
        if not word.isdecimal() or len(word) > 18:
            self.fail("a number expected")
        return int(self.take())

    def numbers(self) -> list[int]:
        self.take("[")
        values = []
        while self.peek() != "]":
            values.append(self.number())
            if self.peek() != "]":
                self.take(",")
        self.take("]")
        return values

    def layout(self) -> LinearLayout:
        bases: dict[str, list[list[int]]] = {}
        shape: dict[str, int] | list[int] | None = None
        while self.peek() not in (">", "->"):
            name = self.name()
            if name in bases:
                self.fail(f"input {name} twice")
            self.take("=")
            self.take("[")
            rows: list[list[int]] = []
            while self.peek() != "]":
                rows.append(self.numbers())
                if self.peek() != "]":
                    self.take(",")
            self.take("]")
            bases[name] = rows
            if self.peek() not in (">", "->"):
                self.take(",")
        if self.peek() == "->":
            self.take()
            shape = self.numbers() if self.peek() == "[" else self.sizes()
        self.take(">")
        if self.text[self.at :].strip():
            self.fail("nothing more expected")
        widths = {len(row) for rows in bases.values() for row in rows}
        if len(widths) > 1:
            self.fail("vectors of one length expected")
        try:
            layout = LinearLayout.make(bases, shape)
        except ValueError as error:
            raise TesseraError("E403", f"layout text `{self.text}`: {error}") from None
        if max(layout.out_bits, layout.in_bits) > _BITS:
            self.fail(f"at most {_BITS} bits expected")
        return layout

    def sizes(self) -> dict[str, int]:
        self.take("(")
        sizes: dict[str, int] = {}
        while self.peek() != ")":
            name = self.name()
            if name in sizes:
                self.fail(f"output {name} twice")
            self.take("=")
            sizes[name] = self.number()
            if self.peek() != ")":
                self.take(",")
        self.take(")")
        return sizes
