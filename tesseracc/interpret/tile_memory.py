"""Buffers of the Tile interpreter, and who touched each element: what the race check remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tesseracc.interpret.tile_owners import Owners

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class Shadow:
    """Who touched each element last, for the race check: epoch and lane of the last write and the last read."""

    write_epoch: Array
    write_lane: Array
    read_epoch: Array
    read_lane: Array  # MANY when several lanes read in that epoch
    initialised: Array
    update_epoch: Array  # of the last atomic update, by whom (MANY: several lanes in that epoch), and of what kind
    update_lane: Array
    update_kind: Array
    pending: Array | None = None  # how many copies under way write an element
    owners: Owners | None = None  # of a buffer of the launch: which groups touched an element

    @classmethod
    def of(cls, count: int, initialised: bool) -> Shadow:
        def fill(value: int) -> Array:
            return np.full(count, value, np.int64)

        return cls(fill(-1), fill(-1), fill(-1), fill(-1), np.full(count, initialised), fill(-1), fill(-1), fill(-1))


MANY = -2

#: kinds of atomic updates
ATOMICS = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}  # fmt: skip


@dataclass(slots=True)
class Memory:
    """A buffer: its array (any shape, C order) and its shadow (None for what only the program touches)."""

    array: Array
    shadow: Shadow | None
    per_lane: bool = False
