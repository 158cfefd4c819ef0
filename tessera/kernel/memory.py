"""Memory of the evaluator: bounds, unwritten shared memory, and races.

A race is two accesses of one element, at least one a store, by different agents with no barrier between them. An
agent is a lane, or a group as a whole for accesses outside of varying control flow whose operands are uniform
(these follow program order among themselves). Nothing orders the accesses of different groups.

Per element the shadow keeps the last store and the last load since; of loads it also keeps whether several agents
of the group, or several groups, have read. That suffices, because any race with an earlier access has been reported
when the access in between was made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.errors import Span
from tessera.kernel.report import fail
from tessera.kernel.tree import Buffer
from tessera.kernel.values import Array

__all__ = ["Access", "Memory"]

_NONE = -1


@dataclass
class Access:
    """Which elements one statement touches: flat element numbers with the agent, group and barrier interval of each."""

    at: Array
    agent: Array
    group: Array
    interval: Array
    span: Span


class Memory:
    """A buffer's elements, flat. Shared memory has one stretch of elements per group."""

    def __init__(self, buffer: Buffer, array: Array, *, tracked: bool, written: bool) -> None:
        self.buffer = buffer
        self.array = array
        self.written: Array | None = None if written else np.zeros(array.size, bool)
        self.tracked = tracked
        if tracked:
            size = array.size
            self.store_agent, self.store_group, self.store_interval, self.store_line = (
                np.full(size, _NONE, np.int64) for _ in range(4)
            )
            self.load_agent, self.load_group, self.load_interval, self.load_line = (
                np.full(size, _NONE, np.int64) for _ in range(4)
            )
            self.shared_load = np.zeros(size, bool)  # several agents of `load_group` in `load_interval`
            self.crossed_load = np.zeros(size, bool)  # several groups, at any time
        self.spans: list[Span] = []  # the places that the shadow refers to by number
        self.in_flight: Array | None = None  # shared: elements that a copy will change

    # -- elements ----------------------------------------------------------------------------------------------------

    def elements(self, at: Array) -> Array:
        """The raw elements at flat places."""
        if self.array.flags.c_contiguous:
            found: Array = self.array.reshape(-1)[at]
            return found
        return self.array[np.unravel_index(at, self.array.shape)]

    def put(self, at: Array, raw: Array) -> None:
        """Changes the raw elements at flat places."""
        if self.array.flags.c_contiguous:
            self.array.reshape(-1)[at] = raw
        else:
            self.array[np.unravel_index(at, self.array.shape)] = raw

    # -- copies in flight --------------------------------------------------------------------------------------------

    def start_copy(self, at: Array, span: Span) -> None:
        """A copy into these elements begins. Raises SourceError E225."""
        self._landed(at, span, "the target of another copy")
        if self.in_flight is None:
            self.in_flight = np.zeros(self.array.size, bool)
        self.in_flight[at] = True

    def finish_copy(self, at: Array) -> None:
        assert self.in_flight is not None
        self.in_flight[at] = False
        if self.written is not None:
            self.written[at] = True

    def _landed(self, at: Array, span: Span, what: str) -> None:
        if self.in_flight is not None and self.in_flight[at].any():
            where = self._index(int(at[int(np.argmax(self.in_flight[at]))]))
            raise fail("E225", f"`{self.buffer.name}`{where} is {what} while a copy into it is in flight", span,
                       "complete it with cp_wait_group (behind cp_commit_group), or with barrier")  # fmt: skip

    # -- accesses of the group as a whole, in program order ----------------------------------------------------------

    def load_tile(self, access: Access) -> None:
        """Checks and records a load. Raises SourceError E215 (another group stores), E217, E225."""
        at = access.at
        self._defined(at, access.span)
        if not self.tracked or self.buffer.space == "shared":
            return
        clash = (self.store_agent[at] != _NONE) & (self.store_group[at] != access.group)
        if clash.any():
            self._race(access, int(np.argmax(clash)), self.store_line, "a store", "this load")
        self.crossed_load[at] |= (self.load_agent[at] != _NONE) & (self.load_group[at] != access.group)
        order, first, last = _runs(at)
        if order is not None:
            self.crossed_load[at[order][first]] |= access.group[order][first] != access.group[order][last]
        self.load_agent[at], self.load_group[at], self.load_interval[at] = access.agent, access.group, _NONE
        self.load_line[at] = self._line(access.span)

    def store_tile(self, access: Access) -> None:
        """Checks and records a store. Raises SourceError E215 (another group), E225."""
        at = access.at
        self._landed(at, access.span, "stored to")
        if self.written is not None:
            self.written[at] = True
        if not self.tracked or self.buffer.space == "shared":
            return
        order, first, last = _runs(at)
        if order is not None:
            double = first != last
            where = self._index(int(at[order[first[int(np.argmax(double))]]]))
            raise fail("E215", f"several groups store to `{self.buffer.name}`{where}", access.span,
                       "let each element belong to one group")  # fmt: skip
        clash = (self.store_agent[at] != _NONE) & (self.store_group[at] != access.group)
        if clash.any():
            self._race(access, int(np.argmax(clash)), self.store_line, "a store", "this store")
        read = self.load_agent[at] != _NONE
        clash = read & ((self.load_group[at] != access.group) | self.crossed_load[at])
        if clash.any():
            self._race(access, int(np.argmax(clash)), self.load_line, "a load", "this store")
        self.store_agent[at], self.store_group[at], self.store_interval[at] = access.agent, access.group, _NONE
        self.store_line[at] = self._line(access.span)

    def _defined(self, at: Array, span: Span) -> None:
        self._landed(at, span, "read")
        if self.written is not None and not self.written[at].all():
            raise fail("E217", f"`{self.buffer.name}` is read before it is written", span,
                       "shared memory has no defined contents at first")  # fmt: skip

    # -- accesses of lanes -------------------------------------------------------------------------------------------

    def _line(self, span: Span) -> int:
        """A number for a place in the source."""
        if span not in self.spans:
            self.spans.append(span)
        return self.spans.index(span)

    def load(self, access: Access) -> None:
        """Checks and records a load. Raises SourceError E215, E217."""
        at = access.at
        self._defined(at, access.span)
        if not self.tracked:
            return
        stored = self.store_agent[at] != _NONE
        same_group = self.store_group[at] == access.group
        clash = stored & ~same_group
        clash |= (
            stored & same_group & (self.store_interval[at] == access.interval) & (self.store_agent[at] != access.agent)
        )
        if clash.any():
            self._race(access, int(np.argmax(clash)), self.store_line, "a store", "this load")
        read = self.load_agent[at] != _NONE
        other = read & (self.load_group[at] != access.group)
        now = read & ~other & (self.load_interval[at] == access.interval)
        several = now & (self.shared_load[at] | (self.load_agent[at] != access.agent))
        order, first, last = _runs(at)
        if order is not None:  # one statement, several lanes on one element
            several = several[order]
            group, agent = access.group[order], access.agent[order]
            mixed = (agent[first] != agent[last]) & (group[first] == group[last])
            crossed = group[first] != group[last]
            position = at[order][first]
            self.crossed_load[position] |= np.logical_or.reduceat(other[order], first) | crossed
            self.shared_load[position] = np.logical_or.reduceat(several, first) | mixed
            self._remember_load(access, order[last])
        else:
            self.crossed_load[at] |= other
            self.shared_load[at] = several
            self._remember_load(access, slice(None))

    def _remember_load(self, access: Access, keep: Any) -> None:
        at = access.at[keep]
        self.load_agent[at], self.load_group[at], self.load_interval[at] = (
            access.agent[keep],
            access.group[keep],
            access.interval[keep],
        )
        self.load_line[at] = self._line(access.span)

    def store(self, access: Access) -> None:
        """Checks and records a store. Raises SourceError E215, E225."""
        at = access.at
        self._landed(at, access.span, "stored to")
        if self.written is not None:
            self.written[at] = True
        if not self.tracked:
            return
        order, first, last = _runs(at)
        if order is not None:
            double = first != last
            if double.any():
                where = self._index(int(at[order[first[int(np.argmax(double))]]]))
                raise fail(
                    "E215",
                    f"several lanes or groups store to `{self.buffer.name}`{where} at once",
                    access.span,
                    "give each lane its own element, or let one lane store",
                )
        clash = self._conflicts(access, at)
        if clash.any():
            self._race(access, int(np.argmax(clash)), self.store_line, "a store", "this store")
        read = self.load_agent[at] != _NONE
        same = self.load_group[at] == access.group
        clash = read & (~same | self.crossed_load[at])
        clash |= (
            read
            & same
            & (self.load_interval[at] == access.interval)
            & (self.shared_load[at] | (self.load_agent[at] != access.agent))
        )
        if clash.any():
            self._race(access, int(np.argmax(clash)), self.load_line, "a load", "this store")
        self.store_agent[at], self.store_group[at], self.store_interval[at] = (
            access.agent,
            access.group,
            access.interval,
        )
        self.store_line[at] = self._line(access.span)

    def _conflicts(self, access: Access, at: Array) -> Array:
        stored = self.store_agent[at] != _NONE
        same = self.store_group[at] == access.group
        found: Array = stored & (
            ~same | ((self.store_interval[at] == access.interval) & (self.store_agent[at] != access.agent))
        )
        return found

    def _index(self, flat: int) -> str:
        shared = self.buffer.space == "shared"
        shape = tuple(d for d in self.buffer.dims if isinstance(d, int)) if shared else self.array.shape
        index = np.unravel_index(flat % math.prod(shape), shape) if shape else ()
        return "[" + ", ".join(str(int(i)) for i in index) + "]"

    def _race(self, access: Access, at: int, lines: Array, what: str, this: str) -> None:
        other = self.spans[int(lines[access.at[at]])]
        where = "the same line" if other.line == access.span.line else f"line {other.line}"
        cross = self.store_group if what == "a store" else self.load_group
        crossed = what == "a load" and bool(self.crossed_load[access.at[at]])
        if crossed or cross[access.at[at]] != access.group[at]:
            between, help = (
                "by different groups",
                "nothing orders the groups of a launch; let each element belong to one group",
            )
        else:
            between, help = "by different lanes with no barrier between", "put ts.tile.barrier() between them"
        raise fail(
            "E215",
            f"race on `{self.buffer.name}`{self._index(int(access.at[at]))}: "
            f"{this} (line {access.span.line}) and {what} at {where}, {between}",
            access.span,
            help,
        )


def _runs(at: Array) -> tuple[Array | None, Array, Array]:
    """A stable order by element with the first and last position of each run; (None, ..) when all differ."""
    empty = np.zeros(0, np.int64)
    if at.size < 2 or bool((at[1:] > at[:-1]).all()):
        return None, empty, empty
    order = np.argsort(at, kind="stable")
    ordered = at[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    if starts.size == at.size:
        return None, empty, empty
    ends = np.concatenate((starts[1:] - 1, [at.size - 1]))
    return order, starts, ends
