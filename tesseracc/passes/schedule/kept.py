"""Values that several loops over a row compute: the first loop keeps them in memory of the group, the others load.

softmax computes exp(x - m) for the sum and again for the result; the row fits the cache, where loading is several times
cheaper than an elementary function. Two values are the same when the same operations compute them from the same tensors
at the same loop index.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tessera.shapes import Dim, known_equal
from tesseracc.ir.dialects.arith import TRANSCENDENTAL
from tesseracc.ir.types import element
from tesseracc.ir.value import Op, Value


@dataclass(frozen=True, slots=True)
class Kept:
    """A value that is kept: its occurrences with the index of the loop of each; the first one computes it."""

    dtype: str
    uses: tuple[tuple[Value, Value], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """The values that loops of the extent `size` share."""

    size: Dim
    values: tuple[Kept, ...]


class _Numbers:
    """Value numbers: equal for values of different loops that are computed alike."""

    def __init__(self) -> None:
        self._table: dict[Hashable, int] = {}

    def of(self, loop: Op) -> dict[Value, tuple[int, tuple[int, ...]]]:
        """The number of every result in a loop's body, and those of its operands."""
        (index,) = loop.regions[0].args
        found: dict[Value, int] = {index: self._number("index")}
        inputs: dict[Value, tuple[int, tuple[int, ...]]] = {}
        for op in loop.regions[0].ops:
            if len(op.results) == 1 and not op.regions:
                attrs = tuple((name, str(value)) for name, value in op.attrs.items())
                operands = tuple(found[v] if v in found else self._number(v) for v in op.operands)
                found[op.result] = self._number((op.name, attrs, operands, op.segments, op.result.type))
                inputs[op.result] = found[op.result], operands
        return inputs

    def _number(self, key: Hashable) -> int:
        return self._table.setdefault(key, len(self._table))


def _costly(loop: Op) -> set[Value]:
    """The values of a loop's body that depend on its index through an elementary function."""
    found: set[Value] = set()
    varying: set[Value] = set(loop.regions[0].args)
    for op in loop.regions[0].ops:
        if varying.isdisjoint(op.operands):
            continue
        varying.update(op.results)
        if op.name.removeprefix("arith.") in TRANSCENDENTAL or not found.isdisjoint(op.operands):
            found.update(op.results)
    return found


def shared_row(loops: Sequence[Op]) -> Row | None:
    """The costly values that more than one of a group's loops computes; of nested ones only the outermost."""
    numbers = _Numbers()
    places: dict[int, list[tuple[Value, Op]]] = {}
    operands: dict[int, tuple[int, ...]] = {}
    for loop in loops:
        if len(loop.attrs["sizes"]) != 1:
            continue
        costly = _costly(loop)
        for value, (number, inputs) in numbers.of(loop).items():
            operands[number] = inputs
            known = places.setdefault(number, [])
            if value in costly and all(other is not loop for _, other in known):
                known.append((value, loop))
    shared = {number: found for number, found in places.items() if len(found) > 1}
    if not shared:
        return None
    size: Dim = next(iter(shared.values()))[0][1].attrs["sizes"][0]
    inside = {number for outer in shared for number in operands[outer]}
    values = [
        Kept(element(found[0][0].type), tuple((value, loop.regions[0].args[0]) for value, loop in found))
        for number, found in shared.items()
        if number not in inside and all(known_equal(loop.attrs["sizes"][0], size) for _, loop in found)
    ]
    return Row(size, tuple(values)) if values else None
