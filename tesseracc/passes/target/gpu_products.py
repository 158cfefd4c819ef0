"""Products of warp groups that are under way: what waits for them, and when.

A product is a *group* of matrix instructions. Groups finish in the order in which they were started, and a wait names
how many of the last may remain. Until then nothing may touch the accumulator's registers, write those of an operand,
or overwrite the shared memory that is read. So a product's result is a `Flight`; its first use, other than as the
accumulator of one more product, waits, for no more groups than it has to. What has to happen behind a product
(handing a slot of a ring on) is kept with its number until some wait covers it.

A loop may carry flights. Its head then counts the groups of the iteration before as the last that were started; where
there was none a wait for them returns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tesseracc.ir.value import Value
from tesseracc.passes.target.gpu_spread import Spread

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering

MOST_TIED = 128  # values that one wait hands on


@dataclass(frozen=True, slots=True)
class Flight:
    """The sums of group number `group`, in registers that nobody may touch yet."""

    sums: Spread
    group: int


@dataclass(slots=True)
class Products:
    """Groups started so far, and those known to have finished."""

    low: Lowering
    started: int = 0
    finished: int = 0
    behind: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    #: by a product's result the last group of it that has an operand in registers
    fragments: dict[Value, int] = field(default_factory=dict)

    def start(self) -> int:
        """Closes a group; gives its number."""
        self.low.b.emit("target.wgmma_commit")
        self.started += 1
        return self.started

    def wait(self, group: int, values: Sequence[Value]) -> list[Value]:
        """Values as they are behind a group: none of them is touched, or computed, before."""
        b = self.low.b
        parts = [list(values[at : at + MOST_TIED]) for at in range(0, len(values), MOST_TIED)]
        found: list[Value] = []
        if group > self.finished:
            first, pending = parts.pop(0) if parts else [], self.started - group
            found += b.emit("target.wgmma_wait", first, types=[v.type for v in first], pending=pending).results
        for part in parts:
            found += b.emit("target.tie", part, types=[v.type for v in part]).results
        self.finished = max(self.finished, group)
        due = [act for number, act in self.behind if number <= self.finished]
        self.behind = [(number, act) for number, act in self.behind if number > self.finished]
        for act in due:
            act()
        return found

    def finish(self, group: int | None = None) -> None:
        """Waits for a group, and so for those before it, unless that has happened; without a number for all."""
        group = self.started if group is None else group
        if group > self.finished:
            self.wait(group, [])

    def then(self, act: Callable[[], None], group: int) -> None:
        """Does something behind a group: now, or at the wait that covers it."""
        if group <= self.finished:
            act()
        else:
            self.behind.append((group, act))

    def landed(self, flight: Flight) -> Spread:
        """The sums as values."""
        sums = flight.sums
        words = sums.elements is None
        values = self.wait(flight.group, (sums.words if words else sums.elements) or [])
        return Spread(sums.layout, sums.shape, sums.dtype, **{"words" if words else "elements": values})

    # -- loops -------------------------------------------------------------------------------------------------------

    def at_head(self, ages: Iterable[int]) -> None:
        """At the head of an iteration, or behind a loop, where groups with so many behind each may not have ended."""
        self.finished = min([self.started, *(self.started - age - 1 for age in ages)])
