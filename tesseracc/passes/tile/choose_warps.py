"""`choose-warps`: a group whose threads could not hold the tiles of its loops gets more warps.

A kernel that computes with whole tiles alone cannot tell how many lanes its group has, so the number asked for is the
least. It is doubled while a loop of products takes more registers of each thread than there are, and more lanes come
nearer to what there is: what the loop carries, and where one product needs what another gave, the largest result of a
product twice while it is worked on and once more in half the size as an operand (the measure of tuning/space.py).
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs
from tesseracc.ir.types import LanesType, TileType
from tesseracc.ir.value import Func, Module, Op, Value
from tesseracc.tuning.space import OTHER

#: what depends on the number of lanes
_OF_LANES = frozenset(
    {"tile.reduce", "tile.linear_id", "tile.local_id", "tile.lane_id", "tile.store", "tile.update", "tile.map"}
)


def chosen(kernel: Func, context: Context) -> Func:
    """One kernel."""
    arch = context.need_arch()
    ops = list(kernel.walk())
    lanes = any(isinstance(v.type, LanesType) for op in ops for v in (*op.operands, *op.results))
    if lanes or any(op.name in _OF_LANES for op in ops):
        return kernel
    sizes = [_loop_bytes(op) for op in ops if op.name == "scf.for"]
    most = max(sizes, default=0)
    limits, other = arch.limits, OTHER[arch.has("wgmma")]

    def spare(group: int) -> int:
        """Registers that a thread has left."""
        have = min(limits.registers_per_thread, limits.registers_per_sm // group)
        return have - most // (4 * group) - other

    group = asked = int(kernel.attrs["group"])
    while most and spare(group) < 0 and 2 * group <= limits.threads_per_block and spare(2 * group) > spare(group):
        group *= 2
    if group == asked:
        return kernel
    warps = f"{group // arch.lanes} warps in place of {asked // arch.lanes}"
    context.note(f"@{kernel.name}: {warps}: its tiles need the registers", kernel.loc)
    return replace(kernel, attrs={**kernel.attrs, "group": group})


def _loop_bytes(loop: Op) -> int:
    """Of tiles that a loop with products keeps in registers; 0 for other loops."""
    body = loop.regions[0]
    products = [op for op in body.ops if op.name == "tile.mma"]
    if not products:
        return 0
    carried = sum(_bytes(arg) for arg in body.args)
    inner = [op.result for op in products if op.result not in body.yields]
    worked_on = max((_bytes(v) for v in inner), default=0) if len(products) > 1 else 0
    return carried + 5 * worked_on // 2


def _bytes(value: Value) -> int:
    return value.type.nbytes if isinstance(value.type, TileType) else 0


@register("choose-warps", level="tile")
def run(module: Module, context: Context) -> Module:
    """Gives groups as many warps as the registers of their loops need."""
    context.need_arch()
    return module.with_(funcs=map_funcs(module.funcs, "tile.kernel", lambda kernel: chosen(kernel, context)))
