"""Tile IR kernels as Target IR for a CPU: a loop over groups, the lanes of a group in step as machine vectors.

    void symbol(void **args, int64 begin, int64 end, void *scratch)

runs the groups begin .. end of the grid, counted with x fastest. `args` holds 8-byte slots: per parameter a pointer or
the bits of a scalar, then the kernel's symbols. `scratch` is memory of the calling thread, aligned to 64 bytes, of as
many bytes as the function's `scratch` attribute says. Groups share nothing, so a range may be cut anywhere.

A kernel whose lanes are independent (no barrier, no reduction, no memory of the group) is run in chunks of a few native
vectors; else a lanes value is one vector of `group` elements, which LLVM spreads over registers.
"""

from __future__ import annotations

from collections.abc import Callable

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch.arch import Arch
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import remove_dead
from tesseracc.ir.types import I64, BufType, LanesType, PtrType, ScalarType, TileType, size_of
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.passes.target.interface import interface
from tesseracc.passes.target.lower_cpu_arith import lower_arith
from tesseracc.passes.target.lower_cpu_flow import (
    lower_scf_for,
    lower_scf_if,
    lower_scf_while,
    lower_tile_for,
    lower_tile_if,
    lower_tile_while,
)
from tesseracc.passes.target.lower_cpu_fold import lower_element, lower_fold
from tesseracc.passes.target.lower_cpu_groups import group_loop, group_span
from tesseracc.passes.target.lower_cpu_map import lower_map
from tesseracc.passes.target.lower_cpu_memory import lower_alloc, lower_load, lower_store, lower_update
from tesseracc.passes.target.lower_cpu_mma import lower_mma
from tesseracc.passes.target.lower_cpu_tiles import lower_zeros
from tesseracc.passes.target.lower_cpu_values import Affine, Buf, Int, Kernel, Rep, Stream, Vec

#: a result of at least this many bytes does not stay in the caches until it is read: it is stored past them
BYPASS_BYTES = 1 << 24
CHUNK_VECTORS = 4  # native vectors of 32-bit elements in a chunk of independent lanes


@register("tile-to-cpu", level="tile")
def run(module: Module, context: Context) -> Module:
    """Turns every tile.kernel into a target.func for a CPU."""
    arch = context.need_arch()
    if arch.kind != "cpu":
        raise TesseraError("E406", f"tile-to-cpu makes code for CPUs, not for {arch.name}", help="use tile-to-gpu")
    return module.with_(funcs=tuple(lower_kernel(f, arch) if f.kind == "tile.kernel" else f for f in module.funcs))


def lower_kernel(func: Func, arch: Arch) -> Func:
    """One kernel for one CPU level."""
    group = int(func.attrs["group"])
    width = CHUNK_VECTORS * arch.vector_bits // 32
    chunked = group > width and group % width == 0 and lanes_independent(func)
    k = Kernel(func, arch, width if chunked else group)
    args, begin, end = Value(PtrType("global"), "args"), Value(I64, "begin"), Value(I64, "end")
    _bind_arguments(k, args)
    grid = tuple(func.attrs["grid"])

    def one_group(ids: list[Int]) -> None:
        k.group_ids = ids
        if not chunked:
            lower_region(k, func.body)
            return

        def chunk(first: Value, _: list[Value]) -> list[Value]:
            k.lane_base = first
            lower_region(k, func.body)
            return []

        k.loop(0, group, width, (), chunk)

    group_loop(k, [k.dim(size) for size in grid], begin, end, one_group)
    if k.bypasses:
        k.b.emit("target.fence")
    if k.uses_tile_registers:
        k.prologue.emit("target.amx_config")
        k.b.emit("target.amx_release")
    body = Region((args, begin, end, k.scratch), (*k.prologue.ops, *k.b.ops))
    attrs = {**interface(func), "group": group, "scratch": k.scratch_bytes, "shared": 0, "symbol": func.name}
    return Func("target.func", func.name, remove_dead(body), attrs, func.loc)


def _bind_arguments(k: Kernel, args: Value) -> None:
    """Loads the argument slots: parameters, then symbols."""
    b = k.b = k.prologue
    k.symbols = {}

    def slot(at: int, type_: PtrType | ScalarType) -> Value:
        return b.op("target.load", k.offset(args, at, "i64"), types=type_, align=8)

    params = k.func.params
    for at, name in enumerate(k.func.attrs.get("symbols", ())):
        k.symbols[name] = slot(len(params) + at, ScalarType("i64"))
    access = k.func.attrs.get("access", ())
    for at, param in enumerate(params):
        if isinstance(param.type, BufType):
            address, large = None, None
            if at < len(access) and access[at] == "write" and param.type.dims:
                address = slot(at, ScalarType("i64"))
                count: Int = 1
                for dim in param.type.dims:
                    count = k.mul(count, k.dim(dim))
                least = -(-BYPASS_BYTES // size_of(param.type.dtype))
                large = k.known(k.less(least - 1, count))
            k.env[param] = Buf(slot(at, PtrType("global")), param.type, address, large)
        else:
            assert isinstance(param.type, ScalarType)
            k.env[param] = k.wrap_scalar(slot(at, param.type))
    k.b = Builder(k.func.loc)


def lanes_independent(func: Func) -> bool:
    """Whether the lanes of a group may run at different times.

    They may when nothing is shared by the group, nothing is stored once for all lanes, and every buffer that is written
    is accessed at one index only, which each lane then has for itself.
    """
    places: dict[Value, set[tuple[Value, ...]]] = {}
    written: set[Value] = set()
    for op in func.walk():
        if op.defn.effect == "sync" or any(isinstance(v.type, TileType) for v in (*op.operands, *op.results)):
            return False
        if op.name == "tile.map":
            return False
        if op.name == "tile.alloc":
            type_ = op.result.type
            if isinstance(type_, BufType) and type_.space != "local":
                return False
        if op.name in ("tile.load", "tile.store", "tile.update"):
            type_ = op["buf"].type
            if isinstance(type_, BufType) and type_.space == "local":
                continue
            places.setdefault(op["buf"], set()).add(op.group("indices"))
            if op.name != "tile.load":
                written.add(op["buf"])
                if not any(isinstance(v.type, LanesType) for v in op.group("indices")):
                    return False
    return all(len(places[buf]) == 1 for buf in written)


# -- operations --------------------------------------------------------------------------------------------------------


def _local_id(k: Kernel) -> Affine:
    return Affine(k.lane_base, 1)


def _linear_id(k: Kernel) -> Affine:
    return Affine(k.add(k.mul(k.group_ids[0], k.group), k.lane_base), 1)


def _linear(k: Kernel, op: Op) -> list[Rep]:
    # groups, and chunks of a group, follow each other: a stream without a loop of its own
    k.stream = k.stream or Stream(op.result, k.width, op)
    return [_linear_id(k)]


def _reduce(k: Kernel, op: Op) -> Rep:
    """The tree of the dialect: lane l with lane l + half, halving."""
    if k.width & (k.width - 1):
        raise TesseraError(
            "E404", f"@{k.func.name}: a reduction over {k.width} lanes is no balanced tree", help="use a power of two"
        )
    vec = k.vector(k.env[op["a"]], op.result.type.dtype)  # type: ignore[union-attr]
    count = k.width
    while count > 1:
        half = count // 2
        low = k.b.op("target.shuffle", vec, vec, lanes=tuple(range(half)))
        high = k.b.op("target.shuffle", vec, vec, lanes=tuple(range(half, count)))
        vec = k.b.op(f"arith.{op.attrs['kind']}", low, high)
        count = half
    return k.wrap_scalar(k.b.op("target.extract", vec, lane=0))


def lower_region(k: Kernel, region: Region) -> list[Rep]:
    """Lowers the operations of a region whose arguments are bound; returns what it yields."""
    for op in region.ops:
        k.b.loc = op.loc or k.b.loc
        if op.defn.dialect == "arith":
            k.env[op.result] = lower_arith(k, op)
            continue
        handler = _TABLE.get(op.name)
        if handler is None:
            raise TesseraError("E404", f"@{k.func.name}: `{op.name}` cannot be lowered for a CPU")
        found = handler(k, op)
        k.env.update(zip(op.results, found, strict=True))
    return [k.env[v] for v in region.yields]


def _store(k: Kernel, op: Op) -> list[Rep]:
    lower_store(k, op)
    return []


def _update(k: Kernel, op: Op) -> list[Rep]:
    lower_update(k, op)
    return []


_TABLE: dict[str, Callable[[Kernel, Op], list[Rep]]] = {
    "tile.group_id": lambda k, op: [Affine(k.group_ids[op.attrs["axis"]])],
    "tile.group_span": lambda k, op: [group_span(k, op)],
    "tile.local_id": lambda k, op: [_local_id(k)],
    "tile.linear_id": _linear,
    "tile.lane_id": lambda k, op: [Vec(k.b.op("arith.mod", k.vector(_local_id(k), "i64"), k.constant(32, "i64")))],
    "tile.dim": lambda k, op: [Affine(k.dim(op.attrs["expr"]))],
    "tile.splat": lambda k, op: [k.env[op["a"]]],
    "tile.load": lambda k, op: [lower_load(k, op)],
    "tile.store": _store,
    "tile.update": _update,
    "tile.alloc": lambda k, op: [lower_alloc(k, op)],
    "tile.barrier": lambda k, op: [],  # all lanes run in step
    "tile.reduce": lambda k, op: [_reduce(k, op)],
    "tile.if": lambda k, op: lower_tile_if(k, op, lower_region),
    "tile.for": lambda k, op: lower_tile_for(k, op, lower_region),
    "tile.while": lambda k, op: lower_tile_while(k, op, lower_region),
    "tile.zeros": lambda k, op: [lower_zeros(k, op)],
    "tile.map": lambda k, op: lower_map(k, op, lower_region),
    "tile.fold": lambda k, op: [lower_fold(k, op)],
    "tile.element": lambda k, op: [lower_element(k, op)],
    "tile.mma": lambda k, op: [lower_mma(k, op)],
    "scf.for": lambda k, op: lower_scf_for(k, op, lower_region),
    "scf.if": lambda k, op: lower_scf_if(k, op, lower_region),
    "scf.while": lambda k, op: lower_scf_while(k, op, lower_region),
}
