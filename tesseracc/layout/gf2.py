"""Linear algebra over GF(2): vectors are ints, one bit a coordinate, and addition is XOR.

Vectors v0, v1, ... are a sequence of ints. A combination of them is again an int: bit i says that vi takes part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Span", "combine", "complement", "extend", "intersection", "kernel", "log2", "rank"]


class Span:
    """The subspace that vectors span, grown one vector after the other.

    `_rows` are vectors of different leading bits, the largest first, each with the combination of added vectors that
    gives it. A vector that depends on earlier ones adds nothing, so combinations use the earliest vectors that suffice.
    """

    __slots__ = ("_count", "_rows")

    def __init__(self, vectors: Iterable[int] = ()) -> None:
        self._rows: list[tuple[int, int]] = []
        self._count = 0
        for vector in vectors:
            self.add(vector)

    def add(self, vector: int) -> bool:
        """Add a vector; whether the subspace grew."""
        rest, used = self._reduce(vector)
        index, self._count = self._count, self._count + 1
        if not rest:
            return False
        self._rows.append((rest, used | 1 << index))
        self._rows.sort(reverse=True)
        return True

    def _reduce(self, vector: int) -> tuple[int, int]:
        used = 0
        for row, combination in self._rows:
            if vector ^ row < vector:  # it has the row's leading bit
                vector ^= row
                used ^= combination
        return vector, used

    def solve(self, vector: int) -> int | None:
        """The combination of added vectors that equals `vector`; None where there is none."""
        rest, used = self._reduce(vector)
        return None if rest else used

    def __contains__(self, vector: int) -> bool:
        return not self._reduce(vector)[0]

    def residue(self, vector: int) -> int:
        """The same vector for all vectors that differ by a member of the subspace; 0 for members."""
        return self._reduce(vector)[0]

    @property
    def rank(self) -> int:
        """The dimension of the subspace."""
        return len(self._rows)

    def copy(self) -> Span:
        """An independent copy."""
        other = Span()
        other._rows, other._count = list(self._rows), self._count
        return other


def log2(size: int) -> int:
    """The exponent of a power of two; ValueError for other numbers."""
    if size <= 0 or size & (size - 1):
        raise ValueError(f"{size} is not a power of two")
    return size.bit_length() - 1


def rank(vectors: Iterable[int]) -> int:
    """The dimension of the span."""
    return Span(vectors).rank


def combine(vectors: Sequence[int], combination: int) -> int:
    """The XOR of the vectors that take part in the combination."""
    total = 0
    while combination:
        total ^= vectors[(combination & -combination).bit_length() - 1]
        combination &= combination - 1
    return total


def kernel(vectors: Sequence[int]) -> list[int]:
    """A basis of the combinations that give 0: one for each vector that depends on earlier ones."""
    span, found = Span(), []
    for index, vector in enumerate(vectors):
        used = span.solve(vector)
        if used is not None:
            found.append(used | 1 << index)
        span.add(vector)
    return found


def extend(base: Iterable[int], vectors: Iterable[int]) -> list[int]:
    """Those of `vectors` that enlarge the span of `base` and of the ones taken before."""
    span = Span(base)
    return [vector for vector in vectors if span.add(vector)]


def complement(base: Iterable[int], bits: int) -> list[int]:
    """Unit vectors, lowest first, that together with `base` span all vectors of `bits` coordinates."""
    return extend(base, (1 << bit for bit in range(bits)))


def intersection(left: Sequence[int], right: Sequence[int]) -> list[int]:
    """A basis of the intersection of two spans.

    A dependency among independent vectors of both sides, XOR(left part) = XOR(right part), is one common vector.
    """
    left, right = extend((), left), extend((), right)
    mask = (1 << len(left)) - 1
    return [combine(left, combination & mask) for combination in kernel([*left, *right])]
