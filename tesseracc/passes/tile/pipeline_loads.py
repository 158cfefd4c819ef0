"""`pipeline-loads`: loops of products get their operands through rings in shared memory, copied ahead of their use.

    for k:                               pipeline k, slot: copy A[m, k] to R[slot], copy B[k, n] to S[slot]
        a = read A[m, k]                     then: a = read R[slot]
        b = read B[k, n]          =>               b = read S[slot]
        acc = mma(a, b, acc)                       acc = mma(a, b, acc)

A read goes through a ring when a product on matrix units uses it (cast or transposed on the way; other products stage
operands in a form of their own), when its place follows from the index and the outside by arithmetic, and when nothing
in the loop writes to its buffer. The ring has as many slots as the kernel says (attribute `stages`, 1: no ring), else
as cover the latency of memory, and as fit into the target's shared memory. What the lowering needs there it knows
itself, and takes slots away for it (gpu_slots.py): two are tried where the estimate has room for one, but where blocks
may share copies, which cannot do with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tesseracc.analysis.products import multiplied
from tesseracc.arch.arch import Arch
from tesseracc.ir.builder import Builder
from tesseracc.ir.dialects.tile_values import WRITERS
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import clone_op, map_funcs, map_ops, remove_dead, substitute
from tesseracc.ir.types import I64, BufType, TileType, shared_bytes
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.layout.fragments import next_power
from tesseracc.layout.select import choose_mma
from tesseracc.tuning.products import FEWEST, loop_seconds, ring_depth

#: bytes of shared memory left for what the lowering needs, at least
RESERVE = 32 << 10
_ON_THE_WAY = frozenset({"tile.transpose", "arith.cast"})


def pipelined(kernel: Func, context: Context) -> Func:
    """One kernel."""
    arch = context.need_arch()
    own = {op.result for op in kernel.walk() if op.name == "tile.alloc"}
    room = arch.limits.shared_per_block - sum(shared_bytes(buf.type) for buf in own)

    def visit(op: Op) -> list[Op] | None:
        rings = [inner.result for inner in op.walk() if inner.name == "tile.alloc" and inner.result not in own]
        found = _loop(op, room - sum(shared_bytes(ring.type) for ring in rings), kernel, context)
        if found is not None and (wanted := kernel.attrs.get("stages", 0)) > (had := found[-1].attrs["stages"]):
            context.note(f"@{kernel.name}: {had} stages fit into shared memory, not {wanted}", op.loc)
        return found

    return replace(kernel, body=remove_dead(map_ops(kernel.body, visit)))


def _loop(op: Op, room: int, kernel: Func, context: Context) -> list[Op] | None:
    """The loop as a pipeline, after the allocation of its rings; None where it has no operands to bring."""
    arch = context.need_arch()
    if op.name != "scf.for" or op.operands[0].type != I64:
        return None
    body = op.regions[0]
    makers = {result: inner for inner in body.ops for result in inner.results}
    wanted = _operands(body, arch)
    loads = [load for load in _loads(body, wanted) if _slice(load, body, makers) is not None]
    size = sum(_tile_bytes(load.result) for load in loads)
    own = set(makers) | set(body.args)  # the other operands lie in shared memory all the time
    rest = max(RESERVE, sum(_tile_bytes(value) for value in wanted if value not in own))
    depth = kernel.attrs.get("stages") or (_depth(body, size, kernel, arch) if size else 0)
    stages = min(depth, (room - rest) // size) if size else 0
    if size and stages < 2 <= depth and 2 * size <= room and not arch.has("tma_multicast"):
        stages = 2
    if stages < 2:
        return None
    b = Builder(op.loc)
    rings = [b.op("tile.alloc", types=_ring(load, stages)) for load in loads]
    fill = _fill(loads, rings, body, makers)
    use = _use(loads, rings, body)
    types = [r.type for r in op.results]
    bounds, inits = op.operands[:3], list(op.group("inits"))
    made = b.emit("tile.pipeline", *bounds, rings, inits, types=types, regions=[fill, use], stages=stages)
    return [*b.ops[:-1], replace(made, results=op.results)]


def _depth(body: Region, size: int, kernel: Func, arch: Arch) -> int:
    """The slots that cover the latency of memory; as many as leave room for a second block, if not the fewest."""
    warps = max(1, int(kernel.attrs["group"]) // arch.lanes)
    shapes: list[tuple[tuple[str, str, str], tuple[int, int, int]]] = []
    for op in body.ops:
        if _on_matrix_units(op, arch):
            a, b, acc = multiplied(op)
            m, n, k = (max(16, next_power(extent)) for extent in (*acc.shape, a.shape[1]))
            shapes.append(((a.dtype, b.dtype, acc.dtype), (m, n, k)))
    depth = ring_depth(loop_seconds(arch, shapes, warps, size))
    return max(min(depth, arch.limits.shared_per_sm // 2 // size), FEWEST)


def _operands(body: Region, arch: Arch) -> set[Value]:
    """What products of the body on matrix units take, and what that is made of by casts and transposition."""
    wanted: set[Value] = {v for op in body.ops if _on_matrix_units(op, arch) for v in (op["a"], op["b"])}
    for op in reversed(body.ops):
        if op.name in _ON_THE_WAY and op.result in wanted:
            wanted.add(op.operands[0])
    return wanted


def _loads(body: Region, wanted: set[Value]) -> list[Op]:
    """Reads of global memory that are operands, in program order."""
    written = {inner.operands[1] for op in body.ops for inner in op.walk() if inner.name in WRITERS}
    return [op for op in body.ops if op.name == "tile.read" and op.result in wanted and _is_matrix(op, written)]


def _on_matrix_units(op: Op, arch: Arch) -> bool:
    if op.name != "tile.mma":
        return False
    a, b, acc = multiplied(op)
    m, n, k = (max(16, next_power(extent)) for extent in (*acc.shape, a.shape[1]))
    return choose_mma(arch, a.dtype, b.dtype, acc.dtype, (m, n, k), warps=1) is not None


def _is_matrix(op: Op, written: set[Value]) -> bool:
    buf, type_ = op["buf"].type, op.result.type
    assert isinstance(buf, BufType) and isinstance(type_, TileType)
    return buf.space == "global" and op["buf"] not in written and len(type_.shape) == 2


def _tile_bytes(tile: Value) -> int:
    type_ = tile.type
    assert isinstance(type_, TileType)
    return type_.nbytes


def _memory_order(load: Op) -> tuple[int, ...]:
    """The tile's axes in the order of memory."""
    axes = load.attrs["axes"]
    return tuple(sorted(range(len(axes)), key=lambda axis: axes[axis]))


def _ring(load: Op, stages: int) -> BufType:
    type_ = load.result.type
    assert isinstance(type_, TileType)
    return BufType((stages, *(type_.shape[axis] for axis in _memory_order(load))), type_.dtype, "shared")


def _slice(load: Op, body: Region, makers: dict[Value, Op]) -> list[Op] | None:
    """What computes where a read begins, in order; None where that takes more than arithmetic on the index."""
    needed: dict[Op, None] = {}
    carried = set(body.args[1:])

    def visit(value: Value) -> bool:
        if value in carried:
            return False
        op = makers.get(value)
        if op is None:
            return True
        if op.defn.effect != "pure" or op.regions:
            return False
        needed.setdefault(op)
        return all(visit(v) for v in op.operands)

    return [op for op in body.ops if op in needed] if all(visit(v) for v in load.group("indices")) else None


def _fill(loads: Sequence[Op], rings: Sequence[Value], body: Region, makers: dict[Value, Op]) -> Region:
    b = Builder(loads[0].loc)
    index, slot = Value(I64, body.args[0].name), Value(I64, "slot")
    subst: dict[Value, Value] = {body.args[0]: index}
    done: set[Op] = set()
    for load, ring in zip(loads, rings, strict=True):
        for op in _slice(load, body, makers) or ():
            if op not in done:
                done.add(op)
                b.append(clone_op(op, subst))
        order = _memory_order(load)
        zero = b.const(0)
        b.loc = load.loc
        type_, axes = load.result.type, load.attrs["axes"]
        assert isinstance(type_, TileType)
        b.emit(
            "tile.copy_async", load["buf"], ring, [subst.get(v, v) for v in load.group("indices")], [slot, zero, zero],
            shape=tuple(type_.shape[axis] for axis in order), src_axes=tuple(axes[axis] for axis in order),
            dst_axes=(1, 2),
        )  # fmt: skip
    return b.region([index, slot])


def _use(loads: Sequence[Op], rings: Sequence[Value], body: Region) -> Region:
    slot = Value(I64, "slot")
    ops: list[Op] = []
    subst: dict[Value, Value] = {}
    places = dict(zip(loads, rings, strict=True))
    for op in body.ops:
        if op not in places:
            ops.append(op)
            continue
        b = Builder(op.loc)
        zero = b.const(0)
        order = _memory_order(op)
        axes = tuple(1 + order.index(axis) for axis in range(2))
        subst[op.result] = b.op("tile.read", places[op], [slot, zero, zero], types=op.result.type, axes=axes)
        ops += b.ops
    return substitute(Region((body.args[0], slot, *body.args[1:]), tuple(ops), body.yields), subst)


@register("pipeline-loads", level="tile")
def run(module: Module, context: Context) -> Module:
    """Brings operands of products through rings in shared memory, ahead of their use."""
    if not context.need_arch().has("cp_async"):
        return module
    return module.with_(funcs=map_funcs(module.funcs, "tile.kernel", lambda kernel: pipelined(kernel, context)))
