"""Memory accesses of register layouts: vectors, bank conflicts, sectors.

Everything follows from the map from places (register, lane, warp) to offsets, which is linear: the offsets that a
warp touches in one instruction are a coset of a subspace, and all cosets of a subspace have the same conflicts.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from tesseracc.layout.gf2 import Span, combine, log2, rank
from tesseracc.layout.linear import LinearLayout

__all__ = [
    "BANKS", "SharedAccess", "Vectors", "aligned_limit", "global_offsets", "joint_vectors", "offsets", "sectors",
    "shared_access", "vectors", "wavefronts",
]  # fmt: skip

BANKS = 32  # of 4 bytes each
SECTOR = 32  # bytes


def offsets(registers: LinearLayout, memory: LinearLayout) -> LinearLayout:
    """Places of `registers` to offsets of `memory` (input `offset`): where each element lies."""
    return memory.solve(registers)


def global_offsets(registers: LinearLayout, fastest: int) -> LinearLayout:
    """Places to offsets in a dense tile whose axis `fastest` is contiguous.

    Whatever the real pitches of the other axes are, contiguity is the same, and so are sectors when pitches are
    multiples of a sector.
    """
    names = [name for name, _ in registers.outs]
    order = [name for axis, name in enumerate(names) if axis != fastest] + [names[fastest]]
    return registers.transpose_outs(order).reshape_outs({"offset": 1 << registers.out_bits})


@dataclass(frozen=True, slots=True)
class Vectors:
    """Registers taken together: `groups[i]` lists those of instruction i in memory order.

    Registers that hold what another of the same thread holds are in no group.
    """

    width: int  # elements
    groups: tuple[tuple[int, ...], ...]
    bits: int = 0  # of the register's number, a mask: those without which vectors would be shorter


def aligned_limit(most: int, *multiples: int) -> int:
    """Bits of the widest aligned access, at most `most`, when addresses are sums of multiples of these byte counts.

    These are the base's alignment, the pitches of axes, the starts of tiles; 0 is no obstacle.
    """
    common = math.gcd(*multiples) or most
    return min(most, 8 * (common & -common))


def vectors(places: LinearLayout, bits: int, limit: int = 128) -> Vectors:
    """The widest vectors of at most `limit` bits in which every thread can move its registers.

    A vector of 2^v elements needs registers that differ by the offsets 1, 2, .. 2^(v-1), and the others, like lanes and
    warps, must not touch these low bits: then each vector is aligned and in the same order in all lanes.
    """
    return joint_vectors([places], bits, limit)


def joint_vectors(maps: Sequence[LinearLayout], bits: int, limit: int = 128) -> Vectors:
    """The widest vectors in several memories at once: from one to the other without a change of registers (cp.async).

    Each of `maps` is from the same places to offsets of a memory.
    """
    shift = max(places.out_bits for places in maps)
    registers = [_joined(columns, shift) for columns in zip(*(places.bases("register") for places in maps))]
    others = [c for places in maps for name, _ in places.ins if name != "register" for c in places.bases(name)]
    span = Span(registers)

    def aligned(width: int) -> bool:
        low = (1 << width) - 1
        same = all(len({r >> i * shift & low for i in range(len(maps))}) == 1 for r in registers)
        return same and not any(column & low for column in others)

    width = 0
    while bits << width + 1 <= limit and _joined([1 << width] * len(maps), shift) in span and aligned(width + 1):
        width += 1
    low = [span.solve(_joined([1 << bit] * len(maps), shift)) or 0 for bit in range(width)]
    # The other independent registers, freed from low bits by the registers of the vector.
    fresh = Span(combine(registers, combination) for combination in low)
    mask = (1 << width) - 1
    steps = [1 << bit ^ combine(low, r & mask) for bit, r in enumerate(registers) if fresh.add(r)]
    groups = tuple(
        tuple(combine(steps, index) ^ combine(low, element) for element in range(1 << width))
        for index in range(1 << len(steps))
    )
    touching = sum(1 << bit for bit, r in enumerate(registers) if r & mask)
    return Vectors(1 << width, groups, functools.reduce(operator.or_, low, touching))


def _joined(columns: Sequence[int], shift: int) -> int:
    return sum(column << i * shift for i, column in enumerate(columns))


def wavefronts(lanes: list[int], size: int) -> int:
    """Wavefronts of one instruction of a warp: `lanes` are the byte offsets of the lanes' bits, `size` bytes a lane.

    Accesses of 4 bytes go together for all lanes, of 8 by half warps, of 16 by quarters. The distinct words of such
    a part are a coset of a subspace W; each bank in use has as many of them as W has words of bank 0:
    2^(rank W - rank (W mod 32)).
    """
    parts = max(1, size // 4)
    taken = [lane >> 2 for lane in lanes[: len(lanes) - log2(parts)]]
    words = taken + [1 << bit for bit in range(log2(parts))]
    return parts << rank(words) - rank(word % BANKS for word in words)


@dataclass(frozen=True, slots=True)
class SharedAccess:
    """All registers of a warp to or from shared memory."""

    vectors: Vectors
    bytes: int  # of one vector
    wavefronts: int  # of one instruction
    ideal: int  # of one instruction without conflicts

    @property
    def conflicts(self) -> int:
        """Extra wavefronts of all instructions of one warp."""
        return (self.wavefronts - self.ideal) * len(self.vectors.groups)

    @property
    def total(self) -> int:
        """Wavefronts of all instructions of one warp."""
        return self.wavefronts * len(self.vectors.groups)


def shared_access(registers: LinearLayout, memory: LinearLayout, bits: int, limit: int = 128) -> SharedAccess:
    """How a warp with this register layout loads or stores a tile in this shared layout.

    Of the possible vectors up to `limit` bits those with the fewest wavefronts are taken, of equals the widest.
    """
    places = offsets(registers, memory)
    lanes = [column * bits // 8 for column in places.bases("lane")]
    best: SharedAccess | None = None
    while best is None or limit >= bits:
        found = vectors(places, bits, max(limit, bits))
        size = found.width * bits // 8
        access = SharedAccess(found, size, wavefronts(lanes, size), max(1, size // 4))
        if best is None or access.total < best.total:
            best = access
        limit = size * 8 // 2
    return best


def sectors(places: LinearLayout, bits: int, width: int, size: int = SECTOR) -> tuple[int, int]:
    """(sectors, sectors that the same bytes would fill) of one instruction with vectors of `width` elements.

    A sector has `size` bytes.
    """
    unit = log2(size * 8 // bits)
    lanes = list(places.bases("lane"))
    inside = [1 << bit for bit in range(log2(width))]
    touched = 1 << rank(column >> unit for column in [*lanes, *inside])
    return touched, max(1, (bits // 8 << rank([*lanes, *inside])) // size)
