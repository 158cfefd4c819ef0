"""Numbers as a command line spells them: one reading of integers and reals for every option, ASCII digits only.

Python's own `int` and `float` take the digits of every script, underscores and blanks, and refuse long integers.
"""

from __future__ import annotations

import math
import re

__all__ = ["integer", "number", "real", "short"]

_DECIMAL = re.compile(r"[+-]?[0-9]+", re.ASCII)
_PREFIXED = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+)", re.ASCII)
_REAL = re.compile(r"[+-]?(?:inf|nan|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)", re.ASCII | re.IGNORECASE)
_LONGEST = 4000  # digits, fewer than Python reads


def short(text: str, length: int = 80) -> str:
    """A text as a message quotes it."""
    return text if len(text) <= length else text[: length - 3] + "..."


def integer(text: str, low: int | None = None, high: int | None = None, *, prefixed: bool = False) -> int:
    """An integer of low..high; with `prefixed` also as `0x1f`. ValueError, with a sentence, for anything else."""
    shown = repr(short(text, 40))
    if not _DECIMAL.fullmatch(text) and not (prefixed and _PREFIXED.fullmatch(text)):
        raise ValueError(f"{shown} is not an integer")
    value = int(text, 10 if _DECIMAL.fullmatch(text) else 0) if len(text) <= _LONGEST else None
    if value is None or (low is not None and value < low) or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"at most {high}" if low is None else f"from {low} to {high}"
        raise ValueError(f"{shown} is too long" if low is None and high is None else f"{shown} is not {span}")
    return value


def real(text: str) -> float:
    """A float64; `inf` and `nan` are spelled so. ValueError for what is none, or rounds to infinity."""
    if not _REAL.fullmatch(text):
        raise ValueError(f"{short(text, 40)!r} is not a number")
    value = float(text)
    if math.isinf(value) and "inf" not in text.lower():
        raise ValueError(f"{short(text, 40)!r} is beyond the range of f64")
    return value


def number(text: str) -> bool | int | float:
    """`true` or `false`, an integer, or a float64. ValueError for anything else."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return integer(text) if _DECIMAL.fullmatch(text) and len(text) <= _LONGEST else real(text)
