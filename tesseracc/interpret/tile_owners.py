"""Which groups of a launch touched each element of a buffer: nothing orders the groups of a launch.

Two groups race on an element if one of them stores to it and the other loads it, stores to it or updates it, or if both
update it in different ways. Values do not matter: stores of equal ones are a race too, here as in the evaluator. Loads,
and updates of one kind, share an element.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tesseracc.ir.value import Op

__all__ = ["Conflict", "Owners"]

Array = np.ndarray[Any, Any]

_PLACES = 1 << 24  # more than a kernel has operations


@dataclass(frozen=True)
class Conflict:
    """Element `at` was touched by an earlier group, number `group`, in the way `how`, by `op`."""

    at: int
    group: int
    how: str
    op: Op


@dataclass
class Owners:
    """The accesses of one launch to a buffer of `size` elements, by kind: "load", "store", or the kind of update.

    An entry is 0, or 1 + place + number of the group * _PLACES. Groups run one after the other, in the order of their
    numbers, so the first one of each kind is enough: if it is the present group, no other was there.
    """

    size: int
    first: dict[str, Array] = field(default_factory=dict)
    places: dict[Op, int] = field(default_factory=dict)

    def touch(self, op: Op, at: Array, group: int, how: str) -> Conflict | None:
        """Notes an access of the elements `at`. The conflict with a group before, if there is one."""
        for other, entries in self.first.items():
            if other == how != "store":
                continue
            found = entries[at]
            clash = (found > 0) & (found <= group * _PLACES)
            if clash.any():
                which = int(np.argmax(clash))
                owner, place = divmod(int(found[which]) - 1, _PLACES)
                return Conflict(int(at[which]), owner, other, list(self.places)[place])
        entries = self.first.setdefault(how, np.zeros(self.size, np.int64))
        entry = 1 + self.places.setdefault(op, len(self.places)) + group * _PLACES
        entries[at] = np.where(entries[at] > 0, entries[at], entry)
        return None
