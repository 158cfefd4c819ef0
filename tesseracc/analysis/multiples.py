"""Which powers of two divide sizes and indices, in a kernel that may count on some sizes.

    a = 2^i x, b = 2^j y    =>    2^(i + j) divides a b,    2^min(i, j) divides a + b, a - b, min(a, b), max(a, b)

Powers of two stay right where numbers wrap. A kernel's attribute `multiples` says what holds of the sizes of its calls,
as (size, number) pairs; `ragged` is such a pair of which it is known that the number does not divide the size.
"""

from __future__ import annotations

from collections.abc import Iterable

from tessera.polynomials import Mono
from tessera.shapes import Dim
from tesseracc.ir.rewrite import makers_of
from tesseracc.ir.value import Func, Op, Value

__all__ = ["ALL", "Facts", "Multiples", "is_ragged", "of_size", "times"]

ALL = 1 << 62  # what divides 0
Facts = Iterable[tuple[Dim, int]]

_LEAST = frozenset({"arith.add", "arith.sub", "arith.min", "arith.max"})


def _power(number: int) -> int:
    """The greatest power of two that divides a number."""
    return min(number & -number, ALL) if number else ALL


def times(size: Dim, unit: Dim) -> int | None:
    """The integer k with size = k unit; None where the two are not known to be such."""
    if isinstance(size, int) and isinstance(unit, int):
        return size // unit if unit and size % unit == 0 else None
    if isinstance(size, int) or isinstance(unit, int):
        return None
    if [mono for mono, _ in size.terms] != [mono for mono, _ in unit.terms]:
        return None
    factors = {divmod(a, b) for (_, a), (_, b) in zip(size.terms, unit.terms, strict=True)}
    (factor, rest), *others = factors
    return factor if not others and rest == 0 else None


def of_size(size: Dim, facts: Facts = ()) -> int:
    """The greatest power of two that is known to divide a size."""
    if isinstance(size, int):
        return _power(size)
    known = 1
    for dim, number in facts:
        factor = times(size, dim)
        if factor is not None:
            known = max(known, _power(number) * _power(factor))
    return min(max(known, min(_of_term(mono, c, facts) for mono, c in size.terms)), ALL)


def _of_term(mono: Mono, coefficient: int, facts: Facts) -> int:
    found = _power(coefficient)
    for key, power in mono:
        found *= max((_power(number) for dim, number in facts if str(dim) == key), default=1) ** power
    return min(found, ALL)


def is_ragged(size: Dim, vector: int, ragged: tuple[Dim, int] | None) -> bool:
    """Whether it is known that a vector's length does not divide a size: no odd multiple of a ragged size is even."""
    if ragged is None:
        return False
    dim, number = ragged
    factor = times(size, dim)
    return factor is not None and factor % 2 == 1 and number == _power(number) and vector % number == 0


class Multiples:
    """What divides the integers of a kernel, each of them a value that all threads agree on."""

    def __init__(self, kernel: Func) -> None:
        self.facts: tuple[tuple[Dim, int], ...] = kernel.attrs.get("multiples", ())
        self.makers = makers_of(kernel)
        self.ragged: tuple[Dim, int] | None = kernel.attrs.get("ragged")
        loops = (op for op in kernel.walk() if op.name in ("scf.for", "tile.pipeline"))
        self.loops = {region.args[0]: op for op in loops for region in op.regions}  # by their index
        self.known: dict[Value, int] = {}

    def of(self, value: Value) -> int:
        """The greatest power of two that is known to divide a number."""
        if value not in self.known:
            self.known[value] = self._of(value)
        return self.known[value]

    def _of(self, value: Value) -> int:
        loop, op = self.loops.get(value), self.makers.get(value)
        if loop is not None:  # lo, lo + step, ..
            return min(self.of(loop.operands[0]), self.of(loop.operands[2]))
        return self._made(op) if op is not None else 1

    def _made(self, op: Op) -> int:
        if op.name == "arith.constant":
            return _power(op.attrs["value"]) if isinstance(op.attrs["value"], int) else 1
        if op.name == "tile.dim":
            return of_size(op.attrs["expr"], self.facts)
        if op.name == "arith.mul":
            return min(self.of(op.operands[0]) * self.of(op.operands[1]), ALL)
        if op.name in _LEAST:
            return min(self.of(v) for v in op.operands)
        if op.name == "arith.select":
            return min(self.of(op["a"]), self.of(op["b"]))
        return self.of(op.operands[0]) if op.name in ("arith.cast", "arith.neg") else 1
