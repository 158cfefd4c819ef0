"""Conflicts in the Tile interpreter: of different lanes in one barrier interval, of different groups of a launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera_runtime.core.errors import TesseraError
from tesseracc.interpret.tile_memory import ATOMICS, MANY, Memory, Shadow
from tesseracc.ir.types import BufType
from tesseracc.ir.value import Func, Op

Array = np.ndarray[Any, Any]


def place(op: Op) -> str:
    """Where an operation stands in the program, for messages."""
    return f" ({op.loc.file}:{op.loc.line})" if op.loc else ""


def _does(how: str) -> str:
    return {"load": "loads", "store": "stores to"}.get(how, f"updates by {how}")


_APART = "nothing orders the groups of a launch: let each element belong to one group, or update it atomically"


class Finding(TesseraError):
    """What an operation of a kernel does wrong to memory: `what` it is, and `op`, where it is."""

    def __init__(self, code: str, kernel: Func, op: Op, what: str, help: str | None = None) -> None:
        super().__init__(code, f"@{kernel.name}{place(op)}: {what}", help=help)
        self.kernel, self.op, self.what = kernel, op, what


class Races:
    """The checks of one group. They raise E922 for memory that nobody wrote, E923 for conflicts."""

    kernel: Func
    group_ids: tuple[int, ...]
    grid: Sequence[int]
    epoch: int
    in_map: bool

    def is_uniform(self, op: Op) -> bool:
        raise AssertionError("given by the subclass")

    def check_groups(self, op: Op, memory: Memory, at: Array, how: str) -> None:
        """Raises E923 where an earlier group of the launch touched an element in a way that conflicts."""
        if memory.shadow is None or memory.shadow.owners is None:
            return
        x, y, z = self.group_ids
        group = x + self.grid[0] * (y + self.grid[1] * z)
        other = memory.shadow.owners.touch(op, at, group, how)
        if other is not None:
            name = next(v.name for v in op.operands if isinstance(v.type, BufType) and v.type.space == "global")
            element = f"`{name}`[{', '.join(str(i) for i in np.unravel_index(other.at, memory.array.shape))}]"
            what = f"group {group} {_does(how)} {element}, which group {other.group} {_does(other.how)}"
            raise Finding("E923", self.kernel, op, what + place(other.op), _APART)

    def check_update(self, op: Op, memory: Memory, flat: Array, active: Array) -> None:
        """Updates of one kind do not race with each other; with all else they do."""
        shadow = memory.shadow
        if shadow is None or not active.any():
            return
        at, lanes, kind = flat[active], np.flatnonzero(active), list(ATOMICS).index(op.attrs["kind"])
        self.check_groups(op, memory, at, op.attrs["kind"])
        if not shadow.initialised[at].all():
            raise Finding("E922", self.kernel, op, "reads memory of the group that nobody wrote")
        if self.in_map or memory.per_lane:
            return
        if not self.is_uniform(op):
            other = (shadow.update_lane[at] != lanes) & (shadow.update_kind[at] != kind)
            for epoch, by, clash in (
                (shadow.write_epoch, shadow.write_lane, shadow.write_lane[at] != lanes),
                (shadow.read_epoch, shadow.read_lane, shadow.read_lane[at] != lanes),
                (shadow.update_epoch, shadow.update_lane, other),
            ):
                found = (epoch[at] == self.epoch) & clash
                if found.any():
                    self._race(op, int(lanes[np.argmax(found)]), int(by[at][np.argmax(found)]))
        same = shadow.update_epoch[at] == self.epoch
        shadow.update_lane[at] = np.where(same & (shadow.update_lane[at] != lanes), MANY, lanes)
        order = np.argsort(at, kind="stable")
        shadow.update_lane[at[order][1:][at[order][1:] == at[order][:-1]]] = MANY
        shadow.update_epoch[at], shadow.update_kind[at] = self.epoch, kind

    def _check_updated(self, op: Op, shadow: Shadow, at: Array, lanes: Array) -> None:
        """A plain access of what other lanes update."""
        clash = (shadow.update_epoch[at] == self.epoch) & (shadow.update_lane[at] != lanes)
        if clash.any() and not self.is_uniform(op):
            self._race(op, int(lanes[np.argmax(clash)]), int(shadow.update_lane[at][np.argmax(clash)]))

    def check_read(self, op: Op, memory: Memory, flat: Array, active: Array) -> None:
        shadow = memory.shadow
        if shadow is None or not active.any():
            return
        at = flat[active]
        self.check_groups(op, memory, at, "load")
        if not shadow.initialised[at].all():
            raise Finding("E922", self.kernel, op, "reads memory of the group that nobody wrote")
        if self.in_map or memory.per_lane:
            return
        lanes = np.flatnonzero(active)
        clash = (shadow.write_epoch[at] == self.epoch) & (shadow.write_lane[at] != lanes)
        if clash.any() and not self.is_uniform(op):
            self._race(op, int(lanes[np.argmax(clash)]), int(shadow.write_lane[at][np.argmax(clash)]))
        self._check_updated(op, shadow, at, lanes)
        same = shadow.read_epoch[at] == self.epoch
        shadow.read_lane[at] = np.where(same & (shadow.read_lane[at] != lanes), MANY, lanes)
        order = np.argsort(at, kind="stable")
        repeated = at[order][1:][at[order][1:] == at[order][:-1]]
        shadow.read_lane[repeated] = MANY
        shadow.read_epoch[at] = self.epoch

    def check_write(self, op: Op, memory: Memory, flat: Array, active: Array) -> None:
        shadow = memory.shadow
        if shadow is None or not active.any():
            return
        at = flat[active]
        self.check_groups(op, memory, at, "store")
        shadow.initialised[at] = True
        if self.in_map or memory.per_lane:
            return
        lanes = np.flatnonzero(active)
        order = np.argsort(at, kind="stable")
        twice = at[order][1:] == at[order][:-1]
        if twice.any():
            first = int(np.argmax(twice))
            self._race(op, int(lanes[order[first + 1]]), int(lanes[order[first]]))
        uniform = self.is_uniform(op)
        clash = (shadow.write_epoch[at] == self.epoch) & (shadow.write_lane[at] != lanes)
        clash |= (shadow.read_epoch[at] == self.epoch) & (shadow.read_lane[at] != lanes)
        if clash.any() and not uniform:
            self._race(op, int(lanes[np.argmax(clash)]), int(shadow.write_lane[at][np.argmax(clash)]))
        self._check_updated(op, shadow, at, lanes)
        shadow.write_epoch[at] = self.epoch
        shadow.write_lane[at] = lanes

    def _race(self, op: Op, lane: int, other: int) -> None:
        whom = f"lane {other}" if other >= 0 else "another lane"
        what = f"lane {lane} and {whom} touch one element without a barrier between"
        raise Finding("E923", self.kernel, op, what)
