"""The choice of a point: from a tuning record where there is one, else by the cost model.

A bundle holds one program for all its targets, so the choice is one for all: points that are legal on each of them.
The records for one of the targets, the first in the order of `--arch` that has some, decide; without any, the product
of the estimates. Records for different classes of sizes that have no number yet make variants: the program takes the
first whose classes a call's sizes are in, else the general point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tessera.decorators import Kernel
from tessera.errors import SourceError, Span
from tessera.kernel import KernelDef
from tesseracc.arch.arch import Arch
from tesseracc.tuning.model import estimate
from tesseracc.tuning.record import Record, fitting, size_class
from tesseracc.tuning.space import Point, points, spell
from tesseracc.tuning.split import Box

__all__ = ["Choice", "Tuning", "Variant", "choose"]


@dataclass(frozen=True)
class Tuning:
    """What choices are made for and from."""

    archs: tuple[Arch, ...]
    records: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Variant:
    """The kernel at the point for sizes of some classes (by dim, the largest size of each)."""

    kernel: KernelDef
    config: Mapping[str, int]
    classes: Mapping[str, int]

    @property
    def box(self) -> Box:
        """The sizes of these classes."""
        return {name: (largest // 2 if largest > 1 else -1, largest) for name, largest in self.classes.items()}


@dataclass(frozen=True)
class Choice:
    """The kernel at the general point, the variants, in their order, and what `--notes` says of them."""

    kernel: KernelDef
    config: Mapping[str, int]
    notes: list[str] = field(default_factory=list)
    variants: tuple[Variant, ...] = ()


def choose(kernel: Kernel, tuning: Tuning, fixed: Mapping[str, int] | None = None) -> Choice:
    """The points for the targets; `fixed` gives dims numbers. Raises E221 where no point is legal, E802 for a record
    with a point that is not in the space, or not legal."""
    tables = [points(kernel, arch, fixed) for arch in tuning.archs]
    illegal = (p for table in tables for p in table if p.kernel is None)
    notes = list(dict.fromkeys(f"autotune: {spell(p.config)} is illegal: {p.reason}" for p in illegal))
    legal = [row for row in zip(*tables, strict=True) if all(p.kernel is not None for p in row)]
    if not legal:
        raise SourceError(
            "E221", f"no point of the space of `{kernel.name}` is legal: {tables[0][0].reason or 'see --notes'}",
            span=Span(kernel.file, kernel.line), help="add smaller tiles or fewer lanes to the space",
        )  # fmt: skip
    for_each = (fitting(tuning.records, kernel, arch, fixed or {}) for arch in tuning.archs)
    records = next((found for found in for_each if found), [])
    count = f"of {len(tables[0])} points, {len(legal)} legal"
    if not records:
        point, why = _modelled(tuning.archs, legal, fixed or {})
        return Choice(_kernel(point), point.config, [*notes, f"autotune: {spell(point.config)} {count}: {why}"])
    points_of = {id(record): _legal(kernel, record, legal) for record in records}
    general = next((record for record in records if set(record.sizes) <= set(fixed or {})), records[0])
    point = points_of[id(general)]
    notes.append(f"autotune: {spell(point.config)} {count}: by the {_place(general)}")
    variants = _variants(records, points_of, fixed or {})
    for variant in variants if any(v.config != point.config for v in variants) else ():
        sizes = " and ".join(f"{n} of {_range(largest)}" for n, largest in sorted(variant.classes.items()))
        notes.append(f"autotune: {spell(variant.config)} for {sizes}, by its tuning record")
    return Choice(_kernel(point), point.config, notes, variants)


def _kernel(point: Point) -> KernelDef:
    assert point.kernel is not None
    return point.kernel


def _place(record: Record) -> str:
    return f"tuning record for {record.arch} ({spell(record.sizes) or 'all sizes'})"


def _range(largest: int) -> str:
    return f"{largest // 2 + 1} to {largest}" if largest > 2 else {1: "at most 1"}.get(largest, str(largest))


def _variants(
    records: Sequence[Record], points_of: Mapping[int, Point], fixed: Mapping[str, int]
) -> tuple[Variant, ...]:
    """One for each record that names sizes without number, first those that name most."""
    found: dict[tuple[tuple[str, int], ...], Variant] = {}
    for record in records:
        classes = {name: size_class(size) for name, size in record.sizes.items() if name not in fixed}
        point = points_of[id(record)]
        if classes:
            found.setdefault(tuple(sorted(classes.items())), Variant(_kernel(point), point.config, classes))
    return tuple(sorted(found.values(), key=lambda v: (-len(v.classes), sorted(v.classes.items()))))


def _legal(kernel: Kernel, record: Record, legal: Sequence[tuple[Point, ...]]) -> Point:
    """The point of a record. Raises E802 where it is not legal on all targets."""
    from tessera_runtime.core.errors import UsageError

    for row in legal:
        if row[0].config == record.config:
            return row[0]
    raise UsageError(
        "E802", f"the tuning record of `{kernel.name}` for {record.arch} has {spell(record.config)}, illegal here",
        help="`tesseracc build --notes` without the record says why; measure again with `tesseracc tune`",
    )  # fmt: skip


def _modelled(
    archs: Sequence[Arch], legal: Sequence[tuple[Point, ...]], sizes: Mapping[str, int]
) -> tuple[Point, str]:
    def cost(row: tuple[Point, ...]) -> float:
        found = [estimate(p.kernel, arch, sizes) for p, arch in zip(row, archs, strict=True) if p.kernel is not None]
        return math.fsum(math.log(max(seconds, 1e-30)) for seconds in found)

    return min(legal, key=cost)[0], f"by the cost model for {', '.join(a.name for a in archs)}"
