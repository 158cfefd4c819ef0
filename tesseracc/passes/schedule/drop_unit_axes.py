"""`drop-unit-axes`: loops of extent 1 disappear; their index is 0.

each over [.., 1, ..]   = each over [.., ..] at index 0
reduce over [1]         = identity (kind) of the term        (for add: 0 + term, which takes -0 to 0)
argmax, argmin over [1] = 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tessera.shapes import Dim
from tesseracc.interpret import scalar
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.types import element
from tesseracc.ir.value import Module, Op, Region, Value
from tesseracc.passes.schedule.fold_elements import number_of
from tesseracc.passes.schedule.groups import map_groups


class _Dropper:
    def __init__(self) -> None:
        self.same: dict[Value, Value] = {}

    def region(self, region: Region, sizes: Sequence[Dim], loc: Op) -> tuple[Region, tuple[Dim, ...]]:
        """The region without arguments of extent 1, and the extents that are left."""
        b = Builder(loc.loc)
        kept = [axis for axis, size in enumerate(sizes) if size != 1]
        if len(kept) < len(sizes):
            zero = b.const(0)
            self.same.update((arg, zero) for axis, arg in enumerate(region.args) if axis not in kept)
        for op in region.ops:
            self._op(op, b)
        yields = tuple(self.same.get(v, v) for v in region.yields)
        return b.region([region.args[axis] for axis in kept], yields), tuple(sizes[axis] for axis in kept)

    def _op(self, op: Op, b: Builder) -> None:
        op = replace(op, operands=tuple(self.same.get(v, v) for v in op.operands))
        if not op.regions:
            b.append(op)
            return
        inner, sizes = self.region(op.regions[0], op.attrs["sizes"], op)
        if sizes:
            b.append(replace(op, regions=(inner,), attrs={**op.attrs, "sizes": sizes}))
            return
        if op.attrs.get("kind", "").startswith("arg"):
            self.same[op.result] = b.const(0)
            return
        for nested in inner.ops:
            b.append(nested)
        if op.name == "schedule.reduce":
            (term,) = inner.yields
            if op.attrs["kind"] == "add":
                dtype = element(term.type)
                term = b.op("arith.add", b.const(number_of(scalar.identity("add", dtype), dtype), term.type), term)
            self.same[op.result] = term


def drop_unit_axes(group: Op) -> Op:
    """The group without loops of extent 1."""
    region, domain = _Dropper().region(group.regions[0], group.attrs["domain"], group)
    return replace(group, regions=(region,), attrs={**group.attrs, "domain": domain})


@register("drop-unit-axes", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Removes loops of extent 1."""
    return map_groups(module, drop_unit_axes)
