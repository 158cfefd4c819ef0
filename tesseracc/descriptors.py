"""Descriptors that the compiler holds open while code of the user runs, which may close any of them.

A number alone says nothing: what was closed may be open again on another file. So each is kept with what it is open on.
"""

from __future__ import annotations

import fcntl
import os
import resource

__all__ = ["Streams", "holds", "keep", "lost", "release"]

_Identity = tuple[int, int]  # device and inode

_held: dict[int, _Identity] = {}


def _identity(number: int) -> _Identity | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def keep(number: int) -> None:
    """From now on a descriptor of ours."""
    found = _identity(number)
    assert found is not None
    _held[number] = found


def holds(number: int) -> bool:
    """Whether a descriptor that was kept is open on what it was."""
    return number in _held and _identity(number) == _held[number]


def release(number: int) -> bool:
    """No longer ours; whether it still was, so that it is for us to close."""
    found = holds(number)
    _held.pop(number, None)
    return found


def lost() -> set[int]:
    """Those that were kept and that others have closed."""
    return {number for number in list(_held) if not holds(number)}


class Streams:
    """The standard streams as they are now, to be had back."""

    def __init__(self) -> None:
        self.before = [_identity(number) for number in range(3)]
        self.spare = [_spare(number) for number in range(3)]

    def restore(self) -> list[int]:
        """Opens those again that were closed, on the null device where nothing is left of them; which they were."""
        closed = [n for n, was in enumerate(self.before) if was is not None and _identity(n) is None]
        for number in closed:
            spare, was = self.spare[number], self.before[number]
            source = spare if spare is not None and _identity(spare) == was else os.open(os.devnull, os.O_RDWR)
            if source != number:
                os.dup2(source, number)
                if source != spare:
                    os.close(source)
            os.set_inheritable(number, True)
        for spare, was in zip(self.spare, self.before, strict=True):
            if spare is not None and _identity(spare) == was:
                os.close(spare)
        return closed


def _spare(number: int) -> int | None:
    """A copy with the highest number there is, which code that closes a range is the least likely to reach."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    low = (1 << 16 if limit == resource.RLIM_INFINITY else limit) - 8
    try:
        return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, low)
    except OSError:
        return None
