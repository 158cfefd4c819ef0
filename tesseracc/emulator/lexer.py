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


# What occurs most comes first where the order is free: comments before `/`, hexfloat before float before num.
_TOKEN = re.compile(
    r"""
    [ \t\r\f\v]*
    (?: (?P<id>[A-Za-z_$%][\w$]*)
      | (?P<op>[,;\[\]{}@!()<>=|+\-*~&^?#]|::|:)
      | (?P<dot>\.[A-Za-z0-9_]\w*(?:::\w+)*)
      | (?P<newline>\n)
      | (?P<hexfloat>0[fF][0-9a-fA-F]{8}(?![0-9a-fA-F])|0[dD][0-9a-fA-F]{16}(?![0-9a-fA-F]))
      | (?P<float>\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)
      | (?P<num>0[xX][0-9a-fA-F]+U?|0[bB][01]+U?|\d+U?)
      | (?P<comment>//[^\n]*)
      | (?P<block>/\*.*?\*/)
      | (?P<slash>/)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<end>\Z)
    )
    """,
    re.VERBOSE | re.DOTALL,
)


def tokenize(text: str) -> list[Token]:
    """The tokens of `text`, ending in two `end` tokens. E940 on a character that PTX does not know."""
    out: list[Token] = []
    line, position = 1, 0
    add, new = out.append, tuple.__new__
    for m in _TOKEN.finditer(text):
        if m.start() != position:
            break
        position = m.end()
        kind: str = m.lastgroup  # type: ignore[assignment]  # some group always matches
        if kind == "newline":
            line += 1
        elif kind == "block":
            line += m.group().count("\n")
        elif kind == "end":
            break
        elif kind != "comment":
            add(new(Token, ("op" if kind == "slash" else kind, m.group(kind), line)))
    if position < len(text):
        position += len(text[position:]) - len(text[position:].lstrip(" \t\r\f\v"))
        raise EmulatorError("E940", f"unexpected character {text[position]!r}", line=line)
    return [*out, Token("end", "", line), Token("end", "", line)]
