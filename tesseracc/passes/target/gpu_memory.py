"""Static shared memory of one kernel: offsets in the order of allocation."""

from __future__ import annotations

from dataclasses import dataclass, field

ALIGNMENT = 16


@dataclass(slots=True)
class Shared:
    """`size` bytes are taken; a `named` region is shared by all who ask for the same name and size."""

    size: int = 0
    named: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, count: int) -> int:
        """The offset of `count` fresh bytes."""
        offset = self.size
        self.size += -(-count // ALIGNMENT) * ALIGNMENT
        return offset

    def scratch(self, name: str, count: int) -> int:
        """The offset of a region that is used again and again under one name and size."""
        key = f"{name}:{count}"
        if key not in self.named:
            self.named[key] = (self.take(count), count)
        return self.named[key][0]
