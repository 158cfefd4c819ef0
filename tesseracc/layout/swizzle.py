"""Choosing the shared layout for accesses that are known: conflict-free and with wide vectors where that is possible.

Let X be the coordinates that lanes of one wavefront touch (a subspace). Offsets in one bank differ by multiples of 128
bytes, so with S the subspace of coordinates whose offset is such a multiple,

    an access is free of conflicts  iff  X and S have only words in common that are the same word.

For two accesses a fitting S exists always: two proper subspaces never cover the whole space, so there is a further
vector outside of both X1 + S and X2 + S until one of them is everything. (Zhou et al. 2025 build S in closed form.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from tesseracc.layout.access import shared_access, wavefronts
from tesseracc.layout.gf2 import Span, complement, extend, intersection, log2
from tesseracc.layout.linear import LinearLayout

__all__ = ["Pattern", "matrix_pattern", "pattern_of", "staging", "swizzle_for"]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One access: flat coordinates that a thread's registers span, and those of the lanes' bits in order.

    `vector` fixes the bits of one access; 0 lets the widest one be taken.
    """

    registers: tuple[int, ...]
    lanes: tuple[int, ...]
    vector: int = 0


def pattern_of(layout: LinearLayout) -> Pattern:
    """The access of a register layout by ordinary loads or stores."""
    return Pattern(layout.bases("register"), layout.bases("lane"))


def matrix_pattern(shape: Sequence[int], bits: int, fastest: int = 1) -> Pattern:
    """The access of ldmatrix or stmatrix: 8 rows of 16 bytes along the axis `fastest`."""
    strides = (shape[1], 1)
    chunk = tuple(strides[fastest] << bit for bit in range(log2(128 // bits)))
    rows = tuple(strides[1 - fastest] << bit for bit in range(3))
    return Pattern(chunk, (*rows, 0, 0), 128)


def staging(write: LinearLayout, read: LinearLayout, bits: int) -> LinearLayout:
    """The shared layout through which one register layout becomes another with the fewest wavefronts."""
    return swizzle_for(write.shape, [pattern_of(write), pattern_of(read)], bits)


def swizzle_for(shape: Sequence[int], patterns: Sequence[Pattern], bits: int) -> LinearLayout:
    """The shared layout (offset to coordinates) of a tile with the fewest wavefronts over all patterns.

    Tried are vectors that all patterns share, and those of each one. Deterministic; of equals the first wins.
    """
    width = sum(log2(size) for size in shape)
    limit = log2(128 // bits)
    choices = [_shared_vectors(patterns)[:limit], *(_tidy(p.registers)[:limit] for p in patterns), []]
    best: tuple[int, LinearLayout] | None = None
    for low in choices:
        layout = _layout(shape, _columns(low, patterns, bits, width))
        cost = sum(_cost(pattern, layout, bits) for pattern in patterns)
        if best is None or cost < best[0]:
            best = (cost, layout)
    assert best is not None
    return best[1]


def _tidy(vectors: Sequence[int]) -> list[int]:
    """A basis of the span with distinct leading bits, each absent from the others, smallest first."""
    rows: list[int] = []
    for vector in extend((), sorted(vectors)):
        for row in rows:
            vector = min(vector, vector ^ row)
        lead = vector.bit_length() - 1
        rows = sorted([*(row ^ vector if row >> lead & 1 else row for row in rows), vector])
    return rows


def _shared_vectors(patterns: Sequence[Pattern]) -> list[int]:
    common = list(patterns[0].registers)
    for pattern in patterns[1:]:
        common = intersection(common, list(pattern.registers))
    return _tidy(common)


def _columns(low: list[int], patterns: Sequence[Pattern], bits: int, width: int) -> list[int]:
    """Coordinates of offsets 1, 2, 4, ..: the vector `low`, then the rest of the banks, then S."""
    line = min(width, log2(128 * 8 // bits))  # offsets of one pass over the banks
    word = log2(max(1, 32 // bits))
    touched = [_touched(pattern, low, bits) for pattern in patterns]
    # Elements that share a word should be touched together, else be anything that lanes touch.
    together = touched[0]
    for other in touched[1:]:
        together = intersection(together, other)
    low = [*low, *extend(low, [*together, *touched[0], *complement(low, width)])[: max(0, word - len(low))]]
    words = low[:word]
    rest: list[int] = []
    spans = [Span([*words, *vectors]) for vectors in touched]
    own = Span(low)
    while len(rest) < width - line:
        free = next((x for x in _candidates(width) if x not in own and all(x not in span for span in spans)), None)
        if free is None:  # conflicts cannot be avoided: at least keep the map invertible
            free = min((x for x in complement([*low, *rest], width)), key=lambda x: sum(x in s for s in spans))
        rest.append(free)
        for span in (own, *spans):
            span.add(free)
    banks = complement([*low, *rest], width)
    return [*low, *banks, *rest]


def _touched(pattern: Pattern, low: list[int], bits: int) -> list[int]:
    """What one wavefront of the pattern touches when offsets 1, 2, .. are `low`."""
    mine = Span(pattern.registers)
    count = 0
    while count < len(low) and low[count] in mine:
        count += 1
    parts = max(1, (bits << count) // 32)
    lanes = pattern.lanes[: len(pattern.lanes) - log2(parts)]
    return [*low[:count], *lanes]


def _candidates(width: int) -> Iterator[int]:
    """All vectors, those of few coordinates first: they make the cheapest addresses."""
    for count in range(1, width + 1):
        for bits in combinations(range(width), count):
            yield sum(1 << bit for bit in bits)


def _layout(shape: Sequence[int], columns: list[int]) -> LinearLayout:
    outs = tuple((f"dim{axis}", log2(size)) for axis, size in enumerate(shape))
    return LinearLayout((("offset", len(columns)),), outs, columns)


def _cost(pattern: Pattern, layout: LinearLayout, bits: int) -> int:
    """Wavefronts of a warp."""
    if pattern.vector:
        inverse = layout.inverse()
        places = [inverse.flat(vector) for vector in pattern.lanes]
        chunk = {inverse.flat(vector) for vector in pattern.registers}
        if chunk != {1 << bit for bit in range(log2(pattern.vector // bits))}:
            return 1 << 20  # the instruction cannot be used
        return wavefronts([place * bits // 8 for place in places], pattern.vector // 8)
    registers = LinearLayout(
        (("register", len(pattern.registers)), ("lane", len(pattern.lanes))), layout.outs,
        (*pattern.registers, *pattern.lanes),
    )  # fmt: skip
    return shared_access(registers, layout, bits).total
