"""PTX text to tokens with line numbers. Comments vanish; dotted suffixes stay separate tokens (`.global`, `.v2`)."""

from __future__ import annotations

import re
from typing import NamedTuple

from tesseracc.emulator.findings import EmulatorError

__all__ = ["Token", "tokenize"]


class Token(NamedTuple):
    """kind: id, dot, num, float, hexfloat, string, op, end."""

    kind: str
    text: str
    line: int


_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\f\v]+)
  | (?P<newline>\n)
  | (?P<comment>//[^\n]*)
  | (?P<block>/\*.*?\*/)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<hexfloat>0[fF][0-9a-fA-F]{8}(?![0-9a-fA-F])|0[dD][0-9a-fA-F]{16}(?![0-9a-fA-F]))
  | (?P<float>\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)
  | (?P<num>0[xX][0-9a-fA-F]+U?|0[bB][01]+U?|\d+U?)
  | (?P<dot>\.[A-Za-z0-9_]\w*(?:::\w+)*)
  | (?P<id>[A-Za-z_$%][\w$]*)
  | (?P<op>::|[@!{}()\[\]<>,;:=|+\-*/%~&^?#])
    """,
    re.VERBOSE | re.DOTALL,
)


def tokenize(text: str) -> list[Token]:
    """The tokens of `text`, ending in an `end` token. E940 on a character that PTX does not know."""
    out: list[Token] = []
    line, position, size = 1, 0, len(text)
    while position < size:
        m = _TOKEN.match(text, position)
        if m is None:
            raise EmulatorError("E940", f"unexpected character {text[position]!r}", line=line)
        kind = m.lastgroup or ""
        value = m.group()
        position = m.end()
        if kind == "newline":
            line += 1
        elif kind == "block":
            line += value.count("\n")
        elif kind not in ("space", "comment"):
            out.append(Token(kind, value, line))
    out.append(Token("end", "", line))
    return out
