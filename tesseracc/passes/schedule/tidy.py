"""`tidy`: the four clean-ups of a group, in the order in which each helps the next."""

from __future__ import annotations

from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.value import Module, Op
from tesseracc.passes.schedule.fold_elements import fold_elements
from tesseracc.passes.schedule.groups import map_groups
from tesseracc.passes.schedule.hoist import hoist
from tesseracc.passes.schedule.share_elements import share_elements
from tesseracc.passes.schedule.simplify_indices import simplify_indices


def tidy(group: Op) -> Op:
    """Canonical indices (which decide conditions), folded constants, then invariants out of loops, and equal
    ones once."""
    return share_elements(hoist(share_elements(fold_elements(simplify_indices(group)))))


@register("tidy", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Canonical indices, folded constants, invariants out of loops, equal elements once."""
    return map_groups(module, tidy)
