"""`forward-shared`: a block that goes through shared memory as it is becomes a value.

    copy_async A[m, k], S          a = read A[m, k]
    barrier                  =>
    s = read S                     (uses of s) = a

How a tile gets from memory to where it is used is the compiler's choice: later passes bring operands of products to
shared memory again, in the shape, the depth and by the copies that suit the target. A buffer is forwarded when one
operation fills it as a whole and every read of the whole follows in the same region, hence in the same iteration.
Waits and barriers that then have nothing to order go too.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.ir.builder import Builder
from tesseracc.ir.dialects.tile_values import ELEMENTS
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import makers_of, map_funcs, remove_dead, users_of
from tesseracc.ir.types import BufType, TileType
from tesseracc.ir.value import Func, Module, Op, Region, Value

_ORDER = frozenset({"tile.commit", "tile.wait"})


def forward(kernel: Func) -> Func:
    """One kernel."""
    buffers = {
        op.result
        for op in kernel.walk()
        if op.name == "tile.alloc" and isinstance(op.result.type, BufType) and op.result.type.space == "shared"
    }
    chosen: set[Value] = set()
    _find(kernel.body, buffers, makers_of(kernel), users_of(kernel), chosen)
    if not chosen:
        return kernel
    body = remove_dead(_Forwarding(chosen).region(kernel.body))
    return replace(kernel, body=_without_idle_order(body))


def _find(
    region: Region, buffers: set[Value], makers: dict[Value, Op], users: dict[Value, list[Op]], chosen: set[Value]
) -> None:
    """Adds the buffers that this region, or one inside, fills and reads as a whole, in this order."""
    index = {op: number for number, op in enumerate(region.ops)}
    for op in region.ops:
        for inner in op.regions:
            _find(inner, buffers, makers, users, chosen)
    for buf in buffers:
        ops = users.get(buf, [])
        if not ops or not all(op in index for op in ops):
            continue
        first, *rest = sorted(ops, key=lambda op: index[op])
        if _fills(first, buf, makers) and rest and all(_takes(op, buf, makers) for op in rest):
            chosen.add(buf)


def _whole(
    buf: Value, shape: tuple[int, ...], axes: tuple[int, ...], at: tuple[Value, ...], makers: dict[Value, Op]
) -> bool:
    """Whether a block is its whole buffer."""
    type_ = buf.type
    assert isinstance(type_, BufType)
    zero = all((m := makers.get(v)) is not None and m.name == "arith.constant" and m.attrs["value"] == 0 for v in at)
    return tuple(type_.dims) == tuple(shape) and tuple(axes) == tuple(range(len(shape))) and zero


def _fills(op: Op, buf: Value, makers: dict[Value, Op]) -> bool:
    if op.name == "tile.copy_async":
        return op["dst"] is buf and _whole(buf, op.attrs["shape"], op.attrs["dst_axes"], op.group("dst_at"), makers)
    if op.name == "tile.write" and op["buf"] is buf and not op.group("counts"):
        type_ = op["value"].type
        return isinstance(type_, TileType) and _whole(buf, type_.shape, op.attrs["axes"], op.group("indices"), makers)
    return False


def _takes(op: Op, buf: Value, makers: dict[Value, Op]) -> bool:
    if op.name != "tile.read":
        return False
    type_ = op.result.type
    assert isinstance(type_, TileType)
    return _whole(buf, type_.shape, op.attrs["axes"], op.group("indices"), makers)


class _Forwarding:
    def __init__(self, chosen: set[Value]) -> None:
        self.chosen = chosen
        self.held: dict[Value, Value] = {}  # what a buffer holds
        self.subst: dict[Value, Value] = {}

    def region(self, old: Region) -> Region:
        ops: list[Op] = []
        for op in old.ops:
            operands = tuple(self.subst.get(v, v) for v in op.operands)
            op = replace(op, operands=operands, regions=tuple(self.region(r) for r in op.regions))
            if op.name == "tile.copy_async" and op["dst"] in self.chosen:
                b = Builder(op.loc)
                src = op["src"].type
                assert isinstance(src, BufType)
                type_ = TileType(tuple(op.attrs["shape"]), src.dtype)
                at = op.group("src_at")
                self.held[op["dst"]] = b.op("tile.read", op["src"], at, types=type_, axes=tuple(op.attrs["src_axes"]))
                ops += b.ops
            elif op.name == "tile.write" and op["buf"] in self.chosen:
                self.held[op["buf"]] = op["value"]
            elif op.name == "tile.read" and op["buf"] in self.chosen:
                self.subst[op.result] = self.held[op["buf"]]
            elif not (op.name == "tile.alloc" and op.result in self.chosen):
                ops.append(op)
        return Region(old.args, tuple(ops), tuple(self.subst.get(v, v) for v in old.yields))


def _without_idle_order(body: Region) -> Region:
    """Without waits if no copies are left, and without barriers if there is nothing that lanes share."""
    ops = [op for top in body.ops for op in top.walk()]
    names = {op.name for op in ops}
    shared = any(isinstance(r.type, BufType) for op in ops if op.name == "tile.alloc" for r in op.results)
    idle = set(_ORDER) if "tile.copy_async" not in names else set()
    if idle and not shared and not names & ELEMENTS:
        idle.add("tile.barrier")

    def region(old: Region) -> Region:
        kept = (replace(op, regions=tuple(region(r) for r in op.regions)) for op in old.ops if op.name not in idle)
        return Region(old.args, tuple(kept), old.yields)

    return region(body) if idle else body


@register("forward-shared", level="tile")
def run(module: Module, context: Context) -> Module:
    """Turns blocks that only pass through shared memory into values."""
    if not context.need_arch().has("cp_async"):
        return module
    found = map_funcs(module.funcs, "tile.kernel", forward)
    kept = {op.result for func in found for op in func.walk() if op.name == "tile.alloc"}
    for op in (op for func in module.funcs for op in func.walk() if op.name == "tile.alloc"):
        if op.result not in kept and op.attrs["swizzle"]:
            wish = f'swizzle="{op.attrs["swizzle"]}"'
            context.note(f"{wish} is not used: the block lies where the loop's copies put it", op.loc)
    return module.with_(funcs=found)
