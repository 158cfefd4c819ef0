"""Choosing the shared layout for accesses that are known: conflict-free and with wide vectors where that is possible.

Let X be the coordinates that lanes of one wavefront touch (a subspace). Offsets in one bank differ by multiples of 128
bytes, so with S the subspace of coordinates whose offset is such a multiple,

    an access is free of conflicts  iff  X and S have only words in common that are the same word.

For two accesses a fitting S exists always: two proper subspaces never cover the whole space, so there is a further
vector outside of both X1 + S and X2 + S until one of them is everything. (Zhou et al. 2025 build S in closed form.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from tesseracc.layout.access import shared_access, wavefronts
from tesseracc.layout.gf2 import Span, combine, complement, extend, intersection, log2, rank
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.shared import SWIZZLES, swizzled

__all__ = [
    "Pattern", "first_least", "hardware_swizzle", "least_access", "matrix_pattern", "pattern_of", "staging",
    "swizzle_for",
]  # fmt: skip

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One access: flat coordinates of the registers' bits, of the lanes' in order, and of the warps'.

    `vector` fixes the bits of one access; 0 lets the best one be taken.
    """

    registers: tuple[int, ...]
    lanes: tuple[int, ...]
    warps: tuple[int, ...] = ()
    vector: int = 0


def pattern_of(layout: LinearLayout) -> Pattern:
    """The access of a register layout by ordinary loads or stores."""
    warps = [c for name, _ in layout.ins if name not in ("register", "lane") for c in layout.bases(name)]
    return Pattern(layout.bases("register"), layout.bases("lane"), tuple(warps))


def matrix_pattern(shape: Sequence[int], bits: int, fastest: int = 1) -> Pattern:
    """The access of ldmatrix or stmatrix: 8 rows of 16 bytes along the axis `fastest`."""
    strides = (shape[1], 1)
    chunk = tuple(strides[fastest] << bit for bit in range(log2(128 // bits)))
    rows = tuple(strides[1 - fastest] << bit for bit in range(3))
    return Pattern(chunk, (*rows, 0, 0), vector=128)


def staging(write: LinearLayout, read: LinearLayout, bits: int) -> LinearLayout:
    """The shared layout through which one register layout becomes another with the fewest wavefronts."""
    return swizzle_for(write.shape, [pattern_of(write), pattern_of(read)], bits)


def swizzle_for(shape: Sequence[int], patterns: Sequence[Pattern], bits: int) -> LinearLayout:
    """The shared layout (offset to coordinates) of a tile with the fewest wavefronts over all patterns.

    Tried are vectors that all patterns share, and those of each one, whole and in part (lanes or warps that touch the
    inside of a wide vector leave only narrower ones); of equal wavefronts fewer instructions win, then the first.
    """
    width = sum(log2(size) for size in shape)
    limit = log2(128 // bits)
    whole = [_shared_vectors(patterns), *(_tidy(p.registers) for p in patterns)]
    choices = dict.fromkeys(tuple(vectors[:count]) for count in range(limit, -1, -1) for vectors in whole)
    layouts = (_layout(shape, _columns(list(low), patterns, bits, width)) for low in choices)
    return first_least(layouts, lambda layout: _total(patterns, layout, bits), _least(patterns, bits))


def hardware_swizzle(
    shape: Sequence[int], patterns: Sequence[Pattern], bits: int, orders: Sequence[Sequence[int]] = ((1, 0), (0, 1))
) -> LinearLayout:
    """The best of the layouts that tensor copies write and matrix descriptors read; `orders` limits the fast axis."""
    layouts = [
        swizzled(shape, bits, span, order)
        for order in orders
        for span in reversed(SWIZZLES)
        if span == 0 or shape[order[0]] * bits >= span * 8
    ]
    return min(layouts, key=lambda layout: _total(patterns, layout, bits))


def first_least(
    items: Iterable[Item], cost: Callable[[Item], tuple[int, int]], bound: tuple[int, int]
) -> Item:
    """The first item of least cost; with one at the bound, which no cost is below, none is looked at any more."""
    best: tuple[tuple[int, int], Item] | None = None
    for item in items:
        found = cost(item)
        if best is None or found < best[0]:
            best = found, item
        if found <= bound:
            break
    assert best is not None, "there is an item"
    return best[1]


def least_access(registers: int, bits: int) -> tuple[int, int]:
    """Wavefronts and instructions that no access of so many different registers gets along with: a wavefront has 32
    bits of every lane, an instruction 128."""
    size = registers * bits
    return max(1, size // 32), max(1, size // 128)


def _least(patterns: Sequence[Pattern], bits: int) -> tuple[int, int]:
    counts = [
        (max(1, p.vector // 32), 1) if p.vector else least_access(1 << rank(p.registers), bits) for p in patterns
    ]  # fmt: skip
    return sum(waves for waves, _ in counts), sum(count for _, count in counts)


def _total(patterns: Sequence[Pattern], layout: LinearLayout, bits: int) -> tuple[int, int]:
    costs = [_cost(pattern, layout, bits) for pattern in patterns]
    return sum(waves for waves, _ in costs), sum(count for _, count in costs)


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
    # Lanes and warps of accesses with vectors must not touch the offsets inside of a vector: all other offsets get
    # coordinates from a complement of `low` that contains what these lanes and warps span.
    still = [c for p, seen in zip(patterns, touched) if low and low[0] in Span(seen) for c in (*p.lanes, *p.warps)]
    axes = extend(low, [*still, *complement(low, width)])
    basis = Span([*low, *axes])

    def apart(vector: int) -> int:
        """The vector without its part along `low`."""
        return combine(axes, (basis.solve(vector) or 0) >> len(low))

    rest: list[int] = []
    spans = [Span([*words, *vectors]) for vectors in touched]
    own = Span(low)
    while len(rest) < width - line:
        # What covers all axes cannot be avoided any more; of up to two others there is always a vector outside.
        open_ = [span for span in spans if any(axis not in span for axis in axes)]
        tried = map(apart, _candidates(width if len(open_) <= 2 else 3, width))
        free = next((x for x in tried if x not in own and all(x not in span for span in open_)), None)
        if free is None:
            free = min(map(apart, complement([*low, *rest], width)), key=lambda x: sum(x in s for s in open_))
        rest.append(free)
        for span in (own, *spans):
            span.add(free)
    banks = [apart(vector) for vector in complement([*low, *rest], width)]
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


def _candidates(most: int, width: int) -> Iterator[int]:
    """All vectors of up to `most` coordinates, those of few first: they make the cheapest addresses."""
    for count in range(1, most + 1):
        for bits in combinations(range(width), count):
            yield sum(1 << bit for bit in bits)


def _layout(shape: Sequence[int], columns: list[int]) -> LinearLayout:
    outs = tuple((f"dim{axis}", log2(size)) for axis, size in enumerate(shape))
    return LinearLayout((("offset", len(columns)),), outs, columns)


def _cost(pattern: Pattern, layout: LinearLayout, bits: int) -> tuple[int, int]:
    """(wavefronts, instructions) of a warp."""
    if pattern.vector:
        inverse = layout.inverse()
        places = [inverse.flat(vector) for vector in pattern.lanes]
        chunk = {inverse.flat(vector) for vector in pattern.registers}
        if chunk != {1 << bit for bit in range(log2(pattern.vector // bits))}:
            return 1 << 20, 1  # the instruction cannot be used
        return wavefronts([place * bits // 8 for place in places], pattern.vector // 8), 1
    ins = (("register", len(pattern.registers)), ("lane", len(pattern.lanes)), ("warp", len(pattern.warps)))
    registers = LinearLayout(ins, layout.outs, (*pattern.registers, *pattern.lanes, *pattern.warps))
    access = shared_access(registers, layout, bits)
    return access.total, len(access.vectors.groups)
