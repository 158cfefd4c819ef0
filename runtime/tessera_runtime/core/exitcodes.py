"""Exit codes of every command of the project (specs/errors.md)."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Exit"]


class Exit(IntEnum):
    """What a process tells its caller."""

    OK = 0
    MISMATCH = 1
    USAGE = 2
    SOURCE = 3
    TOOLCHAIN = 4
    BUNDLE = 5
    DEVICE = 6
    INPUT = 7
    INTERNAL = 70
