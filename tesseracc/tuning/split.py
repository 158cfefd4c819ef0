"""Which form of a kernel the sizes of a call take, as a tree of comparisons.

    decide([({"M": (32, 64)}, a), ({"M": (64, 128)}, b)], c)     a for 32 < M <= 64, b for 64 < M <= 128, else c

The tree has about log2 of the number of bounds comparisons on each path, and none that makes no difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Box", "Split", "decide", "numbered"]

T = TypeVar("T")
#: of each dim the size below the first and the last one
Box = Mapping[str, tuple[float, float]]
_ALL = (-math.inf, math.inf)


@dataclass(frozen=True)
class Split(Generic[T]):
    """Sizes of a dim up to `limit` take `below`, others `above`."""

    name: str
    limit: int
    below: Split[T] | T
    above: Split[T] | T


def decide(cases: Sequence[tuple[Box, T]], otherwise: T) -> Split[T] | T:
    """For sizes in a box its form, of several the first one's; `otherwise` for all others."""
    return _within(cases, otherwise, {})


def numbered(tree: Split[T] | T, first: T) -> tuple[Split[int] | int, list[T]]:
    """The tree with numbers for what it gives, and what these stand for; `first` is 0."""
    found = [first]

    def number(tree: Split[T] | T) -> Split[int] | int:
        if isinstance(tree, Split):
            return Split(tree.name, tree.limit, number(tree.below), number(tree.above))
        if tree not in found:
            found.append(tree)
        return found.index(tree)

    return number(tree), found


def _within(cases: Sequence[tuple[Box, T]], otherwise: T, here: Box) -> Split[T] | T:
    """The decision where the sizes are known to be in `here`."""
    cases = [(box, form) for box, form in cases if all(_overlap(box[n], here.get(n, _ALL)) for n in box)]
    if not cases:
        return otherwise
    first, form = cases[0]
    open_ = [n for n in sorted(first) if not (first[n][0] <= (own := here.get(n, _ALL))[0] and own[1] <= first[n][1])]
    if not open_:
        return form
    name = open_[0]
    low, high = here.get(name, _ALL)
    bounds = sorted({b for box, _ in cases for b in box.get(name, ()) if low < b < high})
    limit = bounds[len(bounds) // 2]
    below = _within(cases, otherwise, {**here, name: (low, limit)})
    above = _within(cases, otherwise, {**here, name: (limit, high)})
    return below if below == above else Split(name, int(limit), below, above)


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return max(a[0], b[0]) < min(a[1], b[1])
