"""How much memory is held: elements of live arrays, temporaries between calls, and memory of devices.

Mapped bundles do not count: their pages belong to the file.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from tessera_runtime.core.locks import rlock

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["add", "current", "peak", "reset_peak", "track"]

KINDS = ("arrays", "temporaries", "device")

_LOCK = rlock()  # a collection while it is held may release an array
_HELD = dict.fromkeys(KINDS, 0)
_PEAK = [0]
_LIVE: dict[int, tuple[weakref.ref[Any], int]] = {}


def add(kind: str, nbytes: int) -> None:
    """Note memory taken, or given back if `nbytes` is negative."""
    with _LOCK:
        _HELD[kind] += nbytes
        _PEAK[0] = max(_PEAK[0], sum(_HELD.values()))


def track(array: NDArray[Any]) -> NDArray[Any]:
    """Count the memory behind an array, once, until its last view is gone. Memory that NumPy does not own is not."""
    owner: Any = array
    while type(owner.base) is type(array):
        owner = owner.base
    if not owner.flags.owndata:
        return array
    key, nbytes = id(owner), owner.nbytes

    def gone(_: object) -> None:
        with _LOCK:
            if _LIVE.pop(key, None) is not None:
                _HELD["arrays"] -= nbytes

    with _LOCK:
        if key not in _LIVE:
            _LIVE[key] = weakref.ref(owner, gone), nbytes
            add("arrays", nbytes)
    return array


def current() -> dict[str, int]:
    """Bytes held now, by kind."""
    with _LOCK:
        return dict(_HELD)


def peak() -> int:
    """The most bytes that were held at one time since the start or `reset_peak`."""
    with _LOCK:
        return _PEAK[0]


def reset_peak() -> None:
    """Begin again with what is held now."""
    with _LOCK:
        _PEAK[0] = sum(_HELD.values())
