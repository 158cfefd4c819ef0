"""Named dimensions of power-of-two sizes, packed into one int: the last dimension of an output is the lowest bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Dims", "axis_names", "pack", "pick", "place", "shift_of", "union", "unpack"]

Dims = tuple[tuple[str, int], ...]  # (name, bits) of each dimension


def axis_names(rank: int) -> tuple[str, ...]:
    """The names of a tile's axes: dim0, dim1, ..."""
    return tuple(f"dim{axis}" for axis in range(rank))



def shift_of(ins: Dims, name: str) -> int:
    """The lowest bit of an input in the flat input."""
    start = 0
    for dim, bits in ins:
        if dim == name:
            return start
        start += bits
    raise ValueError(f"no dimension is called {name}")


def pack(values: Sequence[int], outs: Dims) -> int:
    """A coordinate as a flat output."""
    flat = 0
    for value, (_, bits) in zip(values, outs):
        flat = flat << bits | value
    return flat


def place(values: Mapping[str, int], outs: Dims) -> int:
    """Like pack, by name; what is missing is 0."""
    return pack([values.get(name, 0) for name, _ in outs], outs)


def unpack(flat: Any, outs: Dims) -> dict[str, Any]:
    """The outputs of a flat output, by name."""
    parts = {}
    shift = sum(bits for _, bits in outs)
    for name, bits in outs:
        shift -= bits
        parts[name] = flat >> shift & ((1 << bits) - 1)
    return parts


def pick(flat: int, outs: Dims, kept: Dims) -> int:
    """A flat output with other or reordered dimensions."""
    return place(unpack(flat, outs), kept)


def union(left: Dims, right: Dims) -> list[str]:
    """Names of both, the left ones first."""
    names = [name for name, _ in left]
    return names + [name for name, _ in right if name not in names]
