"""`graph-remove-dead`: operations whose results nobody uses disappear, and constants that nothing names any more."""

from __future__ import annotations

from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, remove_dead
from tesseracc.ir.value import Module


@register("graph-remove-dead", level="graph")
def run(module: Module, context: Context) -> Module:
    """Drops unused operations and constants."""
    module = module.with_(
        funcs=map_funcs(module.funcs, "graph.func", lambda func: func.with_(body=remove_dead(func.body)))
    )
    used = {
        op.attrs["name"]
        for func in module.funcs
        for op in func.walk()
        if op.name in ("graph.constant", "schedule.constant", "tile.constant")
    }
    return module.with_(constants={name: array for name, array in module.constants.items() if name in used})
