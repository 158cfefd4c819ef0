"""Which axes of the launch decide what a group reads: neighbours along any other axis read the same.

    traffic(kernel)   per read of a global buffer: bytes that a group reads, and the axes that its place depends on
    axes_of(kernel)   the axes that each value depends on

A read in a loop whose bounds alone depend on an axis counts as shared along it: neighbours read mostly the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from tesseracc.ir.types import BufType, size_of
from tesseracc.ir.value import Func, Op, Region, Value

Axes = frozenset[int]
NONE: Axes = frozenset()
#: loops, whose operands begin with lo, hi, step; how many arguments of their regions follow from these alone
LOOPS = {"scf.for": 1, "tile.for": 1, "tile.pipeline": 2}
#: iterations of a loop whose bounds are not known
TRIPS = 16


@dataclass(frozen=True, slots=True)
class Traffic:
    """`bytes` that one group reads through one operation, at a place that depends on `axes` of the launch."""

    bytes: int
    axes: Axes


def axes_of(kernel: Func, *, bounds: bool = True) -> dict[Value, Axes]:
    """The axes of the launch that values depend on; through the bounds of loops only where `bounds` says so."""
    found: dict[Value, Axes] = {}
    changed = True

    def note(value: Value, axes: Axes) -> None:
        nonlocal changed
        old = found.get(value)
        if old is None or not axes <= old:
            found[value] = axes if old is None else axes | old
            changed = True

    def of(values: tuple[Value, ...]) -> Axes:
        return NONE.union(*(found.get(v, NONE) for v in values))

    def visit(region: Region) -> None:
        for op in region.ops:
            if op.name == "tile.group_id":
                note(op.result, frozenset({op.attrs["axis"]}))
                continue
            counts = LOOPS.get(op.name, 0)
            limits = of(op.operands[:3]) if counts and bounds else NONE
            seen = of(op.operands[3:]) | limits if counts else of(op.operands)
            for inner in op.regions:
                visit(inner)
                seen |= of(inner.yields)
                for number, arg in enumerate(inner.args):
                    note(arg, limits if number < counts else seen)
            for result in op.results:
                note(result, seen)

    while changed:
        changed = False
        visit(kernel.body)
    return found


def traffic(kernel: Func) -> list[Traffic]:
    """What a group reads of global memory."""
    axes = axes_of(kernel, bounds=False)
    found: list[Traffic] = []
    for op, times in _with_trips(kernel.body, 1):
        if op.name in ("tile.read", "tile.copy_async"):
            buf = op["buf" if op.name == "tile.read" else "src"]
            at = op.group("indices" if op.name == "tile.read" else "src_at")
            shape = op.result.type.shape if op.name == "tile.read" else op.attrs["shape"]  # type: ignore[union-attr]
            if isinstance(buf.type, BufType) and buf.type.space == "global":
                bytes_ = times * prod(shape) * size_of(buf.type.dtype)
                found.append(Traffic(bytes_, NONE.union(*(axes.get(v, NONE) for v in at))))
    return found


def _with_trips(region: Region, times: int) -> Iterator[tuple[Op, int]]:
    for op in region.ops:
        yield op, times
        inside = times * TRIPS if op.name in LOOPS or op.name == "scf.while" else times
        for inner in op.regions:
            yield from _with_trips(inner, inside)
