"""Shared memory of one kernel: offsets in the order of allocation, and what was done to it since the last barrier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tesseracc.ir.dialects.tile_values import WRITERS
from tesseracc.ir.types import BufType
from tesseracc.ir.value import Func, Op, Value

ALIGNMENT = 16
#: bytes that a room for results may take for itself: what rings leave, and what several blocks can have at once
RESERVE = 32 << 10
BUFFER_ALIGNMENT = 128  # of what vectors, swizzled rows and matrix loads access


@dataclass(slots=True)
class Shared:
    """`size` bytes are taken, of which those in `free` (offset to count) are not used any more.

    Regions in `named` are used again and again by all who ask for the same name: {name: [(offset, count)]}.
    """

    size: int = 0
    named: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    free: dict[int, int] = field(default_factory=dict)

    def copy(self) -> Shared:
        return Shared(self.size, {name: list(regions) for name, regions in self.named.items()}, dict(self.free))

    def take(self, count: int, alignment: int = ALIGNMENT) -> int:
        """The offset of `count` bytes that nobody uses."""
        count = -(-count // ALIGNMENT) * ALIGNMENT
        for start, room in sorted(self.free.items()):
            offset = -(-start // alignment) * alignment
            if offset + count <= start + room:
                del self.free[start]
                self.release(start, offset - start)
                self.release(offset + count, start + room - offset - count)
                return offset
        offset = -(-self.size // alignment) * alignment
        self.size = offset + count
        return offset

    def release(self, offset: int, count: int) -> None:
        """Nobody will use these bytes again but who takes them."""
        for start, room in list(self.free.items()):
            if start in (offset + count, offset - room):  # neighbours become one
                del self.free[start]
                offset, count = min(start, offset), count + room
        if count > 0:
            self.free[offset] = count

    def fits(self, name: str, count: int, alignment: int, limit: int) -> bool:
        """Whether a region for results can be had where no more than `limit` bytes may be taken."""
        return self.with_all({name: count}, alignment) <= min(limit, self.size + RESERVE + alignment)

    def with_all(self, counts: Mapping[str, int], alignment: int = BUFFER_ALIGNMENT) -> int:
        """How many bytes are taken when there are regions of these sizes, too."""
        trial = self.copy()
        for name, count in counts.items():
            trial.scratch(name, count, alignment)
        return trial.size

    def scratch(self, name: str, count: int, alignment: int = BUFFER_ALIGNMENT) -> int:
        """The offset of a region that is used again and again under one name."""
        regions = self.named.setdefault(name, [])
        fitting = [(room, offset) for offset, room in regions if room >= count and offset % alignment == 0]
        if not fitting:
            regions.append((self.take(count, alignment), count))
            return regions[-1][0]
        return min(fitting)[1]


Span = tuple[int, int]  # bytes from the first up to, not with, the second
EVERYWHERE: Span = (0, 1 << 62)


def overlap(spans: Iterable[Span], span: Span) -> bool:
    """Whether any of some spans has a byte of another."""
    return any(start < span[1] and span[0] < end for start, end in spans)


@dataclass(frozen=True, slots=True)
class Outside:
    """An access of a global buffer: of a tile or of single elements. `at` and `how` are the place and layout of a tile
    of which one thread accesses each element: an equal one is by the same threads. Without `how` it may be by any."""

    buf: Value
    tile: bool
    write: bool
    at: tuple[object, ...] = ()
    how: object = None

    def conflicts(self, later: Outside) -> bool:
        """Whether a later access needs a barrier. Those of elements are the program's to order."""
        same = self.how is not None and (self.at, self.how) == (later.at, later.how)
        return self.buf is later.buf and (self.write or later.write) and (self.tile or later.tile) and not same

    def passed(self, made: set[Value]) -> Outside:
        """The same behind an iteration that made some values: in the next one these are others."""
        return replace(self, at=(), how=None) if made & set(self.at) else self


@dataclass(frozen=True, slots=True)
class State:
    """What threads did to shared memory since the last barrier, as spans of it.

    `written`: a read needs a barrier behind that. `used`: a write does; what was read, and what was written before
    something was read. Writes that follow each other are to places of their own. `tiles`: an operation on tiles wrote.
    Copies under way are not counted as writes: nobody may look at their destination before a `tile.wait`, which is one.
    `stores`: copies to tensors may be reading their boxes, whatever barriers there were.
    `sums`: warps have loaded sums from tensor memory, which may not be freed before a barrier.
    `hidden`: no fence has shown what threads wrote to products that read it in place, whatever barriers there were.
    `outside`: accesses of global buffers that the kernel both reads and writes.
    """

    written: frozenset[Span] = frozenset()
    used: frozenset[Span] = frozenset()
    tiles: bool = False
    copies: bool = False
    stores: bool = False
    sums: bool = False
    hidden: bool = False
    outside: frozenset[Outside] = frozenset()

    def wrote(self, span: Span = EVERYWHERE, *, tiles: bool = True) -> State:
        """Behind a write, by an operation on tiles or on elements."""
        return replace(self, written=self.written | {span}, tiles=self.tiles or tiles, hidden=True)

    def read(self, span: Span = EVERYWHERE) -> State:
        """Behind a read."""
        return replace(self, used=self.used | self.written | {span})

    def passed(self, made: set[Value]) -> State:
        """What the end of an iteration, which made some values, leaves to the next."""
        return replace(self, outside=frozenset(access.passed(made) for access in self.outside))

    def joined(self, other: State) -> State:
        """What may have happened on either of two paths."""
        return State(
            self.written | other.written, self.used | other.used, self.tiles or other.tiles,
            self.copies or other.copies, self.stores or other.stores, self.sums or other.sums,
            self.hidden or other.hidden, self.outside | other.outside,
        )  # fmt: skip


def changed_outside(ops: Iterable[Op]) -> frozenset[Value]:
    """The global buffers that tiles are written to, and that other operations read or write."""
    written: set[Value] = set()
    touched: dict[Value, int] = {}
    for op in ops:
        for value in {v for v in op.operands if isinstance(v.type, BufType) and v.type.space == "global"}:
            touched[value] = touched.get(value, 0) + 1
            if op.name in WRITERS and op.operands[1] is value:
                written.add(value)
    return frozenset(value for value in written if touched[value] > 1)


def last_uses(kernel: Func, stays: Iterable[Value]) -> dict[Op, list[Value]]:
    """Buffers of the group, those of loops too, that nobody uses behind an operation of the kernel's body.

    `stays`: tiles that are read where they lie in shared memory, so who uses them uses the buffer.
    """
    homes = {op.result: op.result for op in kernel.walk() if op.name == "tile.alloc"}
    kept = set(stays)
    found: dict[Value, Op] = {}
    if any(isinstance(r.type, BufType) for op in kernel.walk() if op.name != "tile.alloc" for r in op.results):
        return {}  # buffers that are chosen while running
    for op in kernel.body.ops:
        for inner in op.walk():
            used = [homes[v] for v in inner.operands if v in homes]
            if inner.results and inner.results[0] in kept and used:
                homes[inner.results[0]] = used[0]
            found.update(dict.fromkeys(used, op))
        for region in op.regions:
            found.update({homes[v]: op for v in region.yields if v in homes})
    ends: dict[Op, list[Value]] = {}
    for buf, op in found.items():
        ends.setdefault(op, []).append(buf)
    return ends
