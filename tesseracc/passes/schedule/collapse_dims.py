"""`collapse-dims`: adjacent loops of one nest become one where every access goes through them contiguously.

    for a in A, b in B: y[a, b] = x[a, b] + s   ->   for c in A*B: y'[c] = x'[c] + s     (x', y' views of A*B elements)

Holds for the domain and for the boxes of reductions (row-major order is kept) and inner loops. A loop index that is
itself a value, or part of a condition, stays.
"""

from __future__ import annotations

from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.value import Module
from tesseracc.passes.schedule.merge_axes import Merger, map_merged


def collapse(merger: Merger) -> None:
    """Merges what can be merged, innermost pairs first."""
    merger.merge_unit_axes()
    fixed = merger.used_as_values()
    group = merger.group
    for nest in [group, *(op for op in group.walk() if op.regions and op is not group)]:
        args = list(nest.regions[0].args)
        for outer, inner in reversed(list(zip(args, args[1:], strict=False))):
            if outer in fixed or inner in fixed:
                continue
            target = inner
            while target in merger.dropped:  # merged into its own right neighbour already
                target = args[args.index(target) + 1]
            merger.try_merge_loops(outer, target)


@register("collapse-dims", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Merges adjacent loops that every access goes through contiguously."""
    return map_merged(module, collapse)
