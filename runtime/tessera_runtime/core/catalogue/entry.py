"""What the catalogue says of one code."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Entry"]


class Entry(NamedTuple):
    """One code: a short title, the exit code it leads to, what it means and how to put it right.

    A warning's exit code is 0: it changes none.
    """

    code: str
    title: str
    exit_code: int
    explanation: str
