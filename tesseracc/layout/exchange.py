"""A tile's way through shared memory: where it lies there, and by which instructions threads write and read it.

Each side is an ordinary access or, where the target has them and layouts fit, moves of 8x8 matrices (stmatrix and
ldmatrix): whichever takes fewer issue slots, a wavefront and an instruction being one each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tesseracc.layout.access import SharedAccess, sectors, shared_access, vectors
from tesseracc.layout.build import unique_registers
from tesseracc.layout.gf2 import rank
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.matrix_load import MatrixMove, matrix_move
from tesseracc.layout.shared import SWIZZLES, swizzled
from tesseracc.layout.swizzle import first_least, least_access, matrix_pattern, pattern_of, swizzle_for

__all__ = ["LINE", "GlobalAccess", "Side", "box_layout", "global_access", "least_slots", "room", "side"]

LINE = 128  # bytes


@dataclass(frozen=True, slots=True)
class Side:
    """One side of an exchange. `slots`: issue slots of a warp; `conflicts`: its wavefronts beyond the ideal."""

    access: SharedAccess
    move: MatrixMove | None
    slots: int
    conflicts: int


@lru_cache(maxsize=4096)
def side(registers: LinearLayout, memory: LinearLayout, bits: int, matrices: bool) -> Side:
    """How threads write or read a tile; `matrices`: the target has the instruction that moves matrices this way."""
    matrices = matrices and not registers.free_variables().get("lane", 0)  # every lane has words of its own
    access = shared_access(registers, memory, bits)
    plain = Side(access, None, access.total + len(access.vectors.groups), access.conflicts)
    move = matrix_move(registers, memory, bits) if matrices else None
    if move is None:
        return plain
    slots, conflicts = (move.wavefronts + 1) * move.steps, (move.wavefronts - move.ideal) * move.steps
    return Side(access, move, slots, conflicts) if slots <= plain.slots else plain


@lru_cache(maxsize=1024)
def room(
    source: LinearLayout, target: LinearLayout, bits: int, stores: bool, loads: bool
) -> tuple[LinearLayout, Side, Side]:
    """Where a tile lies between two register layouts, and both sides; `stores`, `loads`: by matrices, if they fit."""
    source, target = unique_registers(source)[0], unique_registers(target)[0]

    def ways(memory: LinearLayout) -> tuple[LinearLayout, Side, Side]:
        return memory, side(source, memory, bits, stores), side(target, memory, bits, loads)

    return first_least(
        map(ways, _memories(source, target, bits, stores, loads)),
        lambda way: (way[1].slots + way[2].slots, way[1].conflicts + way[2].conflicts),
        (least_slots(source, bits) + least_slots(target, bits), 0),
    )


def least_slots(registers: LinearLayout, bits: int) -> int:
    """Issue slots of a warp that no side of an exchange gets along with."""
    return sum(least_access(1 << rank(registers.bases("register")), bits))


def _memories(
    source: LinearLayout, target: LinearLayout, bits: int, stores: bool, loads: bool
) -> Iterator[LinearLayout]:
    shape, patterns = source.shape, [pattern_of(source), pattern_of(target)]
    yield swizzle_for(shape, patterns, bits)
    if len(shape) != 2 or bits > 32:
        return
    for fastest in (1, 0):
        if shape[fastest] * bits < 128 or shape[1 - fastest] < 8:
            continue
        matrix = matrix_pattern(shape, bits, fastest)
        if stores:
            yield swizzle_for(shape, [matrix, patterns[1]], bits)
        if loads:
            yield swizzle_for(shape, [patterns[0], matrix], bits)


def box_layout(shape: tuple[int, int], bits: int) -> LinearLayout | None:
    """Where a tensor copy takes a tile from: rows of at most 128 bytes, swizzled; None for rows that fill no span."""
    span = min(shape[1] * bits // 8, max(SWIZZLES))
    return swizzled(shape, bits, span) if span in SWIZZLES and span else None


@dataclass(frozen=True, slots=True)
class GlobalAccess:
    """All registers of a warp to or from global memory: instructions, and the sectors and lines that they touch."""

    width: int  # elements of a vector
    count: int
    sectors: int
    lines: int
    ideal: int  # sectors that the bytes fill


@lru_cache(maxsize=1024)
def global_access(registers: LinearLayout, fastest: int, bits: int, limit: int = 128) -> GlobalAccess:
    """How a warp moves a tile to or from global memory, `fastest` being contiguous and rows in lines of their own."""
    lean = unique_registers(registers)[0]
    names = [name for name, _ in lean.outs]
    order = [name for axis, name in enumerate(names) if axis != fastest] + [names[fastest]]
    moved = lean.transpose_outs(order)
    # rows lie at least two lines apart
    inner = dict(moved.outs)[names[fastest]]
    gap = max(0, (2 * LINE * 8 // bits).bit_length() - 1 - inner)
    low = (1 << inner) - 1
    columns = [(column & ~low) << gap | column & low for column in moved.columns]
    places = LinearLayout(moved.ins, (("offset", moved.out_bits + gap),), columns)
    found = vectors(places, bits, max(bits, limit))
    one, ideal = sectors(places, bits, found.width)
    lines, _ = sectors(places, bits, found.width, LINE)
    count = len(found.groups)
    return GlobalAccess(found.width, count, one * count, lines * count, ideal * count)

