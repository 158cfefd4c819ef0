"""The choice of a point: from a tuning record where there is one, else by the cost model.

A bundle holds one program for all its targets, so the choice is one for all: a point that is legal on each of them.
A record for one of the targets, in the order of `--arch`, decides; without any, the product of the estimates.
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
from tesseracc.tuning.record import Record, find
from tesseracc.tuning.space import Point, points, spell

__all__ = ["Choice", "Tuning", "choose"]


@dataclass(frozen=True)
class Tuning:
    """What choices are made for and from."""

    archs: tuple[Arch, ...]
    records: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The kernel at the point that was chosen, and what `--notes` says of it."""

    kernel: KernelDef
    config: Mapping[str, int]
    notes: list[str] = field(default_factory=list)


def choose(kernel: Kernel, tuning: Tuning, fixed: Mapping[str, int] | None = None) -> Choice:
    """The point for the targets; `fixed` gives dims numbers. Raises E221 where no point is legal, E802 for a record
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
    chosen, why = _recorded(kernel, tuning, legal, fixed or {}) or _modelled(tuning.archs, legal, fixed or {})
    notes.append(f"autotune: {spell(chosen.config)} of {len(tables[0])} points, {len(legal)} legal: {why}")
    assert chosen.kernel is not None
    return Choice(chosen.kernel, chosen.config, notes)


def _recorded(
    kernel: Kernel, tuning: Tuning, legal: Sequence[tuple[Point, ...]], sizes: Mapping[str, int]
) -> tuple[Point, str] | None:
    from tessera_runtime.core.errors import UsageError

    for arch in tuning.archs:
        record = find(tuning.records, kernel, arch, sizes)
        if record is None:
            continue
        for row in legal:
            if row[0].config == record.config:
                return row[0], f"by the tuning record for {record.arch} ({spell(record.sizes) or 'all sizes'})"
        raise UsageError(
            "E802", f"the tuning record of `{kernel.name}` for {record.arch} has {spell(record.config)}, illegal here",
            help="`tesseracc build --notes` without the record says why; measure again with `tesseracc tune`",
        )  # fmt: skip
    return None


def _modelled(
    archs: Sequence[Arch], legal: Sequence[tuple[Point, ...]], sizes: Mapping[str, int]
) -> tuple[Point, str]:
    def cost(row: tuple[Point, ...]) -> float:
        found = [estimate(p.kernel, arch, sizes) for p, arch in zip(row, archs, strict=True) if p.kernel is not None]
        return math.fsum(math.log(max(seconds, 1e-30)) for seconds in found)

    return min(legal, key=cost)[0], f"by the cost model for {', '.join(a.name for a in archs)}"
