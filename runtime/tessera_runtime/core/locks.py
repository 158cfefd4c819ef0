"""Locks that a forked child finds open.

A child has one thread, the one that forked. What the others held then nobody there would release, and the first call
would wait for ever. What our locks guard is whole at every moment or made anew by a child, so it may just go on.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

__all__ = ["lock", "rlock"]

_MADE: weakref.WeakSet[Any] = weakref.WeakSet()


def lock() -> threading.Lock:
    """A lock of `threading`, open in a forked child."""
    made = threading.Lock()
    _MADE.add(made)
    return made


def rlock() -> Any:
    """One that the thread that holds it may take again."""
    made = threading.RLock()
    _MADE.add(made)
    return made


def _open() -> None:
    for made in list(_MADE):
        made._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open)
