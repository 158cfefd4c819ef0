"""`keep-operands`: an operand of products that a loop does not change waits in shared memory, not in registers.

    q = read Q[m, 0]                copy Q[m, 0] to S
    for k:                     =>   for k:
        s = mma(q, b, ..)               s = mma(read S, b, ..)

Warp groups multiply what lies there without loading it; other products load it again in every iteration, where the
registers that it takes would not do. A block moves when it is read outside of loops, all that uses it are such products
in loops, and shared memory has room for it beside the rings that those loops get.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.arch.arch import Arch
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, map_ops, users_of
from tesseracc.ir.types import BufType, TileType
from tesseracc.ir.value import Func, Module, Op, Value
from tesseracc.layout.select import choose_mma
from tesseracc.passes.target.gpu_buffers import Swizzle

#: a block may take this part of a group's shared memory: the rings of the loop want the rest
SHARE = 2
#: registers of a thread for operands on their way, addresses and work on elements
OTHER = 128


def kept(kernel: Func, arch: Arch) -> Func:
    """One kernel."""
    top = kernel.body.ops
    users = users_of(kernel)
    warps, most = int(kernel.attrs["group"]) // arch.lanes, arch.limits.registers_per_thread
    inside = [inner for op in top if op.name == "scf.for" for inner in op.regions[0].ops]
    rooms: dict[Value, Value] = {}  # what is moved: where to
    for op in top:
        after = users.get(op.result, []) if op.name == "tile.read" and op.results else []
        if after and all(user in inside and _takes(user, op.result) for user in after) and _fits(op, arch):
            if not all(_by_warpgroups(user, arch, warps) for user in after) and _registers(op, inside, warps) <= most:
                continue
            type_ = op.result.type
            assert isinstance(type_, TileType)
            rooms[op.result] = Value(BufType(type_.shape, type_.dtype, "shared"), op.result.name)
    if not rooms:
        return kernel

    def visit(op: Op) -> list[Op] | None:
        b = Builder(op.loc)
        if op.name == "tile.read" and op.result in rooms:
            type_, room, zeros = op.result.type, rooms[op.result], [b.const(0), b.const(0)]
            assert isinstance(type_, TileType)
            alloc = b.emit("tile.alloc", types=[room.type])
            axes = tuple(op.attrs["axes"])
            b.emit("tile.copy_async", op["buf"], room, list(op.group("indices")), zeros, shape=tuple(type_.shape),
                   src_axes=axes, dst_axes=(0, 1))  # fmt: skip
            b.emit("tile.barrier")  # it completes the copy
            return [replace(alloc, results=(room,)), *(o for o in b.ops if o is not alloc)]
        if op.name == "tile.mma" and any(op[side] in rooms for side in "ab"):
            operands = list(op.operands)
            for number in range(2):
                if operands[number] in rooms:
                    zeros = [b.const(0), b.const(0)]
                    type_, room = operands[number].type, rooms[operands[number]]
                    operands[number] = b.op("tile.read", room, zeros, types=type_, axes=(0, 1))
            return [*b.ops, replace(op, operands=tuple(operands))]
        return None

    return replace(kernel, body=map_ops(kernel.body, visit))


def _takes(op: Op, value: Value) -> bool:
    """Whether a product has a value as an operand, and as nothing else."""
    return op.name == "tile.mma" and op["acc"] is not value


def _by_warpgroups(op: Op, arch: Arch, warps: int) -> bool:
    a, b, acc = (op[name].type for name in ("a", "b", "acc"))
    assert isinstance(a, TileType) and isinstance(b, TileType) and isinstance(acc, TileType)
    shape = (acc.shape[0], acc.shape[1], a.shape[1])
    choice = choose_mma(arch, a.dtype, b.dtype, acc.dtype, shape, warps=warps)
    return choice is not None and choice.row.op == "wgmma"


def _registers(read: Op, inside: list[Op], warps: int) -> int:
    """Of a thread: the operand, the results of the products in loops, and others."""
    tiles = [read.result.type, *(op.result.type for op in inside if op.name == "tile.mma")]
    return sum(t.nbytes for t in tiles if isinstance(t, TileType)) // (4 * 32 * max(1, warps)) + OTHER


def _fits(read: Op, arch: Arch) -> bool:
    buf, type_ = read["buf"].type, read.result.type
    assert isinstance(buf, BufType) and isinstance(type_, TileType)
    if buf.space != "global" or len(type_.shape) != 2 or Swizzle.of(type_.shape[1], type_.dtype) is None:
        return False
    return type_.nbytes * SHARE <= arch.limits.shared_per_block


@register("keep-operands", level="tile")
def run(module: Module, context: Context) -> Module:
    """Keeps operands that loops do not change in shared memory, where warp groups read them there."""
    arch = context.need_arch()
    if not arch.has("cp_async"):
        return module
    return module.with_(funcs=map_funcs(module.funcs, "tile.kernel", lambda kernel: kept(kernel, arch)))
