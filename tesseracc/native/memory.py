"""Where temporaries live when sizes are known only at run time: places shared by those whose lifetimes are apart."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Lifetime", "share"]

Lifetime = tuple[int, int]  # first and last step that uses a temporary


def share(lifetimes: Sequence[Lifetime], sizes: Sequence[object]) -> list[int]:
    """A place for each temporary; two in one place are never alive at one time. As few places as there can be.

    A place must be as large as its largest temporary, so one that already holds a temporary of an equal size expression
    is preferred: then nothing is wasted, whatever the sizes are.
    """
    ends: list[int] = []  # of each place: the last step that uses it so far
    held: list[list[object]] = []
    result = [0] * len(lifetimes)
    for index in sorted(range(len(lifetimes)), key=lambda i: (lifetimes[i], i)):
        first, last = lifetimes[index]
        free = [place for place, end in enumerate(ends) if end < first]
        same = [place for place in free if sizes[index] in held[place]]
        place = (same or free or [len(ends)])[0]
        if place == len(ends):
            ends.append(last)
            held.append([])
        ends[place] = last
        held[place].append(sizes[index])
        result[index] = place
    return result
