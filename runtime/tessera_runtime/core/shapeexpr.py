"""Shape expressions in their serialised form: postfix programs such as `["N", 128, "ceildiv"]`.

A program is a sequence of integers, symbol names and operator names. Evaluation is iterative over a stack, in
checked signed 64-bit arithmetic. Division floors, as in Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from tessera_runtime.core.errors import TesseraError

__all__ = [
    "I64_MAX",
    "MAX_LENGTH",
    "OPERATORS",
    "Postfix",
    "evaluate",
    "is_symbol",
    "symbols_of",
    "to_infix",
    "validate",
]

Postfix = Sequence["int | str"]

MAX_LENGTH = 512
I64_MAX = (1 << 63) - 1
_I64_MIN = -(1 << 63)
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)


def _divide(a: int, b: int) -> int:
    if b == 0:
        raise TesseraError("E710", f"shape expression divides {a} by zero")
    return a // b


def _modulo(a: int, b: int) -> int:
    if b == 0:
        raise TesseraError("E710", f"shape expression takes {a} modulo zero")
    return a % b


OPERATORS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": _divide,
    "ceildiv": lambda a, b: -_divide(-a, b),
    "mod": _modulo,
    "min": min,
    "max": max,
}

# operator -> (infix spelling, precedence); the other operators print as function calls
_INFIX = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "floordiv": ("//", 2), "mod": ("%", 2)}


def is_symbol(name: str) -> bool:
    """Whether `name` can name a symbolic extent: an ASCII identifier of at most 64 letters that is no operator."""
    return _SYMBOL.fullmatch(name) is not None and name not in OPERATORS


def evaluate(postfix: Postfix, env: Mapping[str, int]) -> int:
    """The value of a valid program under `env`. E710 on an unbound symbol, a zero divisor or 64-bit overflow."""
    stack: list[int] = []
    for item in postfix:
        if isinstance(item, int):
            value = item
        elif (function := OPERATORS.get(item)) is not None:
            if len(stack) < 2:
                raise TesseraError("E710", f"shape expression is malformed at '{item}'")
            right = stack.pop()
            value = function(stack.pop(), right)
        else:
            if item not in env:
                raise TesseraError("E710", f"shape expression uses the unknown symbol '{item}'")
            value = env[item]
        if not _I64_MIN <= value <= I64_MAX:
            raise TesseraError("E710", "shape expression overflows 64 bits")
        stack.append(value)
    if len(stack) != 1:
        raise TesseraError("E710", "shape expression is malformed")
    return stack[0]


def symbols_of(postfix: Postfix) -> list[str]:
    """The symbols of a program, each once, in order of appearance."""
    return list(dict.fromkeys(item for item in postfix if isinstance(item, str) and item not in OPERATORS))


def validate(postfix: Postfix, symbols: Collection[str]) -> None:
    """Check that a program is well formed, within the length cap, and uses only `symbols`; E624 otherwise."""
    if not 0 < len(postfix) <= MAX_LENGTH:
        raise TesseraError("E624", f"shape expression has {len(postfix)} items; between 1 and {MAX_LENGTH} are allowed")
    depth = 0
    for item in postfix:
        if isinstance(item, bool) or not isinstance(item, (int, str)):
            raise TesseraError("E624", f"shape expression holds a {type(item).__name__}")
        if isinstance(item, int):
            if not _I64_MIN <= item <= I64_MAX:
                raise TesseraError("E624", "shape expression holds an integer beyond 64 bits")
            depth += 1
        elif item in OPERATORS:
            if depth < 2:
                raise TesseraError("E624", f"shape expression lacks an operand of '{item}'")
            depth -= 1
        elif item in symbols:
            depth += 1
        else:
            raise TesseraError("E624", f"shape expression uses the unknown symbol {item[:80]!r}")
    if depth != 1:
        raise TesseraError("E624", f"shape expression leaves {depth} values")


def to_infix(postfix: Postfix) -> str:
    """The program as text that a person reads and `parse_dim` parses: `2*N + 1`, `ceildiv(N, 128)`."""
    stack: list[tuple[str, int]] = []
    for item in postfix:
        if isinstance(item, int):
            stack.append((str(item), 3 if item >= 0 else 0))
            continue
        if item not in OPERATORS:
            stack.append((item, 3))
            continue
        right, left = stack.pop(), stack.pop()
        if item not in _INFIX:
            stack.append((f"{item}({left[0]}, {right[0]})", 3))
            continue
        sign, level = _INFIX[item]
        # Operators of one level associate to the left, and only + is safe to regroup.
        lhs = left[0] if left[1] >= level else f"({left[0]})"
        rhs = right[0] if right[1] > level or (item == "add" and right[1] == level) else f"({right[0]})"
        stack.append((f"{lhs} {sign} {rhs}" if level == 1 else f"{lhs}{sign}{rhs}", level))
    return stack[-1][0]
