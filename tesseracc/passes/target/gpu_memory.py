"""Shared memory of one kernel: offsets in the order of allocation, and what was done to it since the last barrier."""

from __future__ import annotations

from dataclasses import dataclass, field

ALIGNMENT = 16
BUFFER_ALIGNMENT = 128  # of what vectors, swizzled rows and matrix loads access


@dataclass(slots=True)
class Shared:
    """`size` bytes are taken; a `named` region is shared by all who ask for the same name and size."""

    size: int = 0
    named: dict[str, tuple[int, int]] = field(default_factory=dict)

    def copy(self) -> Shared:
        return Shared(self.size, dict(self.named))

    def take(self, count: int, alignment: int = ALIGNMENT) -> int:
        """The offset of `count` fresh bytes."""
        offset = -(-self.size // alignment) * alignment
        self.size = offset + -(-count // ALIGNMENT) * ALIGNMENT
        return offset

    def scratch(self, name: str, count: int) -> int:
        """The offset of a region that is used again and again under one name and size."""
        key = f"{name}:{count}"
        if key not in self.named:
            self.named[key] = (self.take(count, BUFFER_ALIGNMENT), count)
        return self.named[key][0]


@dataclass(frozen=True, slots=True)
class State:
    """What threads did to shared memory since the last barrier. `tiles`: it was written by an operation on tiles.

    Copies under way are not counted as writes: nobody may look at their destination before a `tile.wait`, which is one.
    """

    written: bool = False
    read: bool = False
    tiles: bool = False
    copies: bool = False

    def joined(self, other: State) -> State:
        """What may have happened on either of two paths."""
        return State(
            self.written or other.written, self.read or other.read, self.tiles or other.tiles,
            self.copies or other.copies,
        )  # fmt: skip
