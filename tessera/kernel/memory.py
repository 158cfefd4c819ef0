"""Memory of the evaluator: bounds, unwritten shared memory, and races.

A race is two accesses of one element, at least one a store, by different agents with no barrier between them. An
agent is a lane, or a group as a whole for accesses outside of varying control flow whose operands are uniform
(these follow program order among themselves). Nothing orders the accesses of different groups.

Loads share an element, and so do atomic updates of one kind; an atomic update conflicts with all else as a store does.
Per element the shadow keeps the last store, and of the others what `Sharers` does. That suffices, because any race with
an earlier access has been reported when the access in between was made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tessera.errors import Span
from tessera.kernel.report import fail
from tessera.kernel.sharers import NONE, Sharers, runs
from tessera.kernel.tree import Buffer
from tessera.kernel.values import Array

__all__ = ["Access", "Memory"]

#: the kinds of atomic updates
_ATOMICS = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}  # fmt: skip


@dataclass
class Access:
    """Which elements one statement touches: flat element numbers with the agent, group and barrier interval of each.

    `whole`: by a group as a whole, in program order (a tile), so that only other groups can conflict with it.
    """

    at: Array
    agent: Array
    group: Array
    interval: Array
    span: Span
    whole: bool = False

    def clash(self, others: Sharers) -> Array:
        """Where it conflicts with loads or updates that were made."""
        if self.whole:
            return others.clash_groups(self.at, self.group)
        return others.clash(self.at, self.agent, self.group, self.interval)

    @property
    def when(self) -> Array:
        """The interval to remember: none, where what lanes of the group do cannot conflict."""
        return np.full_like(self.interval, NONE) if self.whole else self.interval


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
                np.full(size, NONE, np.int64) for _ in range(4)
            )
            self.loads = Sharers(size)
            self.updates: dict[str, Sharers] = {}  # by kind
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

    def combine(self, at: Array, raw: Array, op: str) -> None:
        """Changes elements at flat places, which may be equal, one after the other: op(old, raw)."""
        if self.array.flags.c_contiguous:
            _ATOMICS[op].at(self.array.reshape(-1), at, raw)
        else:
            _ATOMICS[op].at(self.array, np.unravel_index(at, self.array.shape), raw)

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

    # -- accesses ----------------------------------------------------------------------------------------------------

    def _defined(self, at: Array, span: Span) -> None:
        self._landed(at, span, "read")
        if self.written is not None and not self.written[at].all():
            raise fail("E217", f"`{self.buffer.name}` is read before it is written", span,
                       "shared memory has no defined contents at first")  # fmt: skip

    def _is_free(self, access: Access) -> bool:
        """Whether nothing can conflict with an access: what a group does to its own memory is in program order."""
        return not self.tracked or (access.whole and self.buffer.space == "shared")

    def _line(self, span: Span) -> int:
        """A number for a place in the source."""
        if span not in self.spans:
            self.spans.append(span)
        return self.spans.index(span)

    def load(self, access: Access) -> None:
        """Checks and records a load. Raises SourceError E215, E217, E225."""
        self._defined(access.at, access.span)
        if self._is_free(access):
            return
        self._check_stores(access, "this load")
        self._check_updates(access, "this load", None)
        self.loads.record(access.at, access.agent, access.group, access.when, self._line(access.span))

    def store(self, access: Access) -> None:
        """Checks and records a store. Raises SourceError E215, E225."""
        at = access.at
        self._landed(at, access.span, "stored to")
        if self.written is not None:
            self.written[at] = True
        if self._is_free(access):
            return
        order, first, last = runs(at)
        if order is not None and (first != last).any():
            where = self._index(int(at[order[first[int(np.argmax(first != last))]]]))
            if access.whole:
                raise fail("E215", f"several groups store to `{self.buffer.name}`{where}", access.span,
                           "let each element belong to one group")  # fmt: skip
            raise fail("E215", f"several lanes or groups store to `{self.buffer.name}`{where} at once", access.span,
                       "give each lane its own element, or let one lane store")  # fmt: skip
        self._check_stores(access, "this store")
        self._check_loads(access, "this store")
        self._check_updates(access, "this store", None)
        self.store_agent[at], self.store_group[at], self.store_interval[at] = access.agent, access.group, access.when
        self.store_line[at] = self._line(access.span)

    def update(self, access: Access, kind: str) -> None:
        """Checks and records an atomic update. Raises SourceError E215, E217, E225."""
        self._defined(access.at, access.span)
        if self._is_free(access):
            return
        self._check_stores(access, "this update")
        self._check_loads(access, "this update")
        self._check_updates(access, "this update", kind)
        made = self.updates.setdefault(kind, Sharers(self.array.size))
        made.record(access.at, access.agent, access.group, access.when, self._line(access.span))

    # -- races -------------------------------------------------------------------------------------------------------

    def _check_stores(self, access: Access, this: str) -> None:
        at = access.at
        same = self.store_group[at] == access.group
        clash = ~same
        if not access.whole:
            clash |= (self.store_interval[at] == access.interval) & (self.store_agent[at] != access.agent)
        clash &= self.store_agent[at] != NONE
        if clash.any():
            first = int(np.argmax(clash))
            self._race(access, first, int(self.store_line[at[first]]), "a store", this, not same[first])

    def _check_loads(self, access: Access, this: str) -> None:
        self._check(access, self.loads, "a load", this)

    def _check_updates(self, access: Access, this: str, kind: str | None) -> None:
        for other, made in self.updates.items():
            if other != kind:
                self._check(access, made, f"an atomic {other}", this)

    def _check(self, access: Access, others: Sharers, what: str, this: str) -> None:
        clash = access.clash(others)
        if clash.any():
            first = int(np.argmax(clash))
            at = access.at[first]
            crossed = bool(others.crossed[at]) or others.group[at] != access.group[first]
            self._race(access, first, int(others.line[at]), what, this, crossed)

    def _index(self, flat: int) -> str:
        shared = self.buffer.space == "shared"
        shape = tuple(d for d in self.buffer.dims if isinstance(d, int)) if shared else self.array.shape
        index = np.unravel_index(flat % math.prod(shape), shape) if shape else ()
        return "[" + ", ".join(str(int(i)) for i in index) + "]"

    def _race(self, access: Access, at: int, line: int, what: str, this: str, crossed: bool) -> None:
        other = self.spans[line]
        where = "the same line" if other.line == access.span.line else f"line {other.line}"
        if crossed:
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
