"""Accesses of memory that do not race with each other: loads, or atomic updates of one kind.

Per element: who made the last one, and whether several agents of its group (in its barrier interval), or several groups
(at any time), made some. With those, any later access knows whether one of them conflicts with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tessera.kernel.values import Array

__all__ = ["NONE", "Sharers", "runs"]

NONE = -1


class Sharers:
    """What is remembered of the elements of one memory."""

    def __init__(self, size: int) -> None:
        self.agent, self.group, self.interval, self.line = (np.full(size, NONE, np.int64) for _ in range(4))
        self.several = np.zeros(size, bool)  # agents of `group` in `interval`
        self.crossed = np.zeros(size, bool)  # groups

    def clash(self, at: Array, agent: Array, group: Array, interval: Array) -> Array:
        """Where another kind of access by that agent conflicts with one of these."""
        same = self.group[at] == group
        now = same & (self.interval[at] == interval) & (self.several[at] | (self.agent[at] != agent))
        found: Array = (self.agent[at] != NONE) & (~same | self.crossed[at] | now)
        return found

    def clash_groups(self, at: Array, group: Array) -> Array:
        """Where an access by a group as a whole conflicts with one of these: only other groups' do."""
        found: Array = (self.agent[at] != NONE) & ((self.group[at] != group) | self.crossed[at])
        return found

    def record(self, at: Array, agent: Array, group: Array, interval: Array, line: int) -> None:
        """These accesses were made."""
        made = self.agent[at] != NONE
        other = made & (self.group[at] != group)
        now = made & ~other & (self.interval[at] == interval)
        several = now & (self.several[at] | (self.agent[at] != agent))
        order, first, last = runs(at)
        keep: Any = slice(None)
        if order is None:
            self.crossed[at] |= other
            self.several[at] = several
        else:  # one statement, several agents on one element
            keep, position = order[last], at[order][first]
            agents, groups = agent[order], group[order]
            mixed = (agents[first] != agents[last]) & (groups[first] == groups[last])
            self.crossed[position] |= np.logical_or.reduceat(other[order], first) | (groups[first] != groups[last])
            self.several[position] = np.logical_or.reduceat(several[order], first) | mixed
        kept = at[keep]
        self.agent[kept], self.group[kept], self.interval[kept] = agent[keep], group[keep], interval[keep]
        self.line[kept] = line


def runs(at: Array) -> tuple[Array | None, Array, Array]:
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
