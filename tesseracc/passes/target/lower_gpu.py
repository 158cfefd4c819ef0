"""`tile-to-gpu`: a `tile.kernel` becomes one function per thread.

A uniform value is computed by every thread, a lanes value is the thread's own element: both are scalars here. Control
flow with varying conditions is ordinary control flow of the thread. What a group does together (reductions, tiles)
is in `gpu_reduce.py` and `gpu_tiles.py`.

Memory order inside a group is program order (dialects/tile.py). Element accesses that would need a barrier for
that are errors in the program, so barriers are added only around what the lowering itself shares between threads,
and behind a uniform store to a buffer that the kernel also reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tessera.shapes import Dim
from tessera_runtime.core.errors import TesseraError
from tesseracc.arch.arch import Arch
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.types import I64, BufType, LanesType, PtrType, ScalarType, TileType, Type, element, size_of
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.passes.target.dims import emit_dim, flat_index
from tesseracc.passes.target.gpu_memory import Shared
from tesseracc.passes.target.interface import interface


@dataclass(slots=True)
class Registers:
    """A tile held in registers: `pieces` are the thread's elements, in the order of `gpu_tiles.coordinates`."""

    shape: tuple[int, int]
    pieces: list[Value]


@dataclass(slots=True)
class SharedTile:
    """A tile in shared memory, row-major."""

    shape: tuple[int, int]
    ptr: Value
    dtype: str


Held = Value | Registers | SharedTile


@dataclass(slots=True)
class State:
    """What threads did to shared tiles since the last barrier."""

    written: bool = False
    read: bool = False


class Lowering:
    """One kernel. `at(b)` gives the same lowering writing to an inner builder."""

    def __init__(self, kernel: Func, arch: Arch) -> None:
        self.kernel = kernel
        self.arch = arch
        self.group = int(kernel.attrs["group"])
        self.b = Builder(kernel.loc)
        self.env: dict[Value, Held] = {}
        self.symbols: dict[str, Value] = {}
        self.shared = Shared()
        self.state = State()
        self.in_map = False
        ops = list(kernel.walk())
        self.loaded = {op["buf"] for op in ops if op.name == "tile.load"}
        self.operands = {v for op in ops if op.name == "tile.mma" for v in op.operands[:2]}

    # -- the kernel ----------------------------------------------------------------------------------------------

    def run(self) -> Func:
        params: list[Value] = []
        for param in self.kernel.params:
            type_: Type = PtrType("global") if isinstance(param.type, BufType) else param.type
            value = Value(type_, param.name)
            params.append(value)
            self.env[param] = value
        for name in self.kernel.attrs["symbols"]:
            value = Value(I64, name)
            params.append(value)
            self.symbols[name] = value
        self.ops(self.kernel.body)
        shared = self.shared.size
        limit = self.arch.limits.shared_static
        if shared > limit:
            raise TesseraError(
                "E541",
                f"kernel @{self.kernel.name} needs {shared} bytes of shared memory, {self.arch.name} has {limit}",
            )
        own = {"group": self.group, "scratch": 0, "shared": shared, "symbol": self.kernel.name}
        attrs = {**interface(self.kernel), **own}
        return Func("target.func", self.kernel.name, self.b.region(params), attrs, self.kernel.loc)

    def ops(self, region: Region) -> None:
        for op in region.ops:
            self.op(op)

    def op(self, op: Op) -> None:
        saved = self.b.loc
        self.b.loc = op.loc or saved
        if op.defn.dialect == "arith":
            self.arith(op)
        else:
            method: Callable[[Op], Held | None] = getattr(self, "do_" + op.name.replace(".", "_"))
            found = method(op)
            if found is not None:
                self.env[op.result] = found
        self.b.loc = saved

    def get(self, value: Value) -> Value:
        found = self.env[value]
        assert isinstance(found, Value), "a tile where an element is expected"
        return found

    def arith(self, op: Op) -> None:
        if op.name == "arith.constant":
            type_ = ScalarType(element(op.result.type))
            self.env[op.result] = self.b.op(op.name, types=type_, **op.attrs)
        else:
            self.env[op.result] = self.b.op(op.name, *(self.get(v) for v in op.operands), **op.attrs)

    # -- ids and sizes -------------------------------------------------------------------------------------------

    def sreg(self, name: str) -> Value:
        return self.b.op("arith.cast", self.b.op("target.sreg", name=name), to="i64")

    def dim(self, expr: Dim) -> Value:
        return emit_dim(self.b, expr, self.symbols)

    def thread(self) -> Value:
        return self.sreg("tid.x")

    def do_tile_group_id(self, op: Op) -> Value:
        return self.sreg("ctaid." + "xyz"[op.attrs["axis"]])

    def do_tile_local_id(self, op: Op) -> Value:
        return self.thread()

    def do_tile_linear_id(self, op: Op) -> Value:
        first = self.b.op("arith.mul", self.sreg("ctaid.x"), self.b.const(self.group))
        return self.b.op("arith.add", first, self.thread())

    def do_tile_lane_id(self, op: Op) -> Value:
        return self.b.op("arith.and", self.thread(), self.b.const(31))

    def do_tile_dim(self, op: Op) -> Value:
        return self.dim(op.attrs["expr"])

    def do_tile_splat(self, op: Op) -> Value:
        return self.get(op["a"])

    # -- memory --------------------------------------------------------------------------------------------------

    def do_tile_alloc(self, op: Op) -> Value:
        type_ = op.result.type
        assert isinstance(type_, BufType)
        count = 1
        for dim in type_.dims:
            assert isinstance(dim, int), "an allocation has a static shape"
            count *= dim
        size = count * size_of(type_.dtype)
        if type_.space == "shared":
            return self.b.op("target.shared", offset=self.shared.take(size))
        return self.b.op("target.alloca", bytes=size, align=16)

    def barrier(self) -> None:
        self.b.emit("target.barrier")
        self.state = State()

    def do_tile_barrier(self, op: Op) -> None:
        self.barrier()

    def address(self, op: Op) -> Value:
        buf = op["buf"]
        assert isinstance(buf.type, BufType)
        index = flat_index(self.b, [self.get(v) for v in op.group("indices")], buf.type.dims, self.symbols)
        return self.b.op("target.offset", self.get(buf), index, dtype=buf.type.dtype)

    def zero(self, dtype: str) -> Value:
        value: int | float | bool = False if dtype == "bool" else 0 if dtype[0] in "iu" else 0.0
        return self.b.const(value, dtype)

    def do_tile_load(self, op: Op) -> Value:
        dtype = element(op.result.type)
        where = op.optional("where")

        def load(lowering: Lowering) -> list[Value]:
            type_ = ScalarType(dtype)
            return [lowering.b.op("target.load", lowering.address(op), types=type_, align=size_of(dtype))]

        if where is None:
            return load(self)[0]
        return self.branch(self.get(where), load, lambda lowering: [lowering.zero(dtype)], [ScalarType(dtype)])[0]

    def do_tile_store(self, op: Op) -> None:
        where = op.optional("where")
        buf = op["buf"].type
        assert isinstance(buf, BufType)
        varying = any(isinstance(v.type, LanesType) for v in op.operands)
        uniform = buf.space != "local" and not self.in_map and not varying
        cond = self.get(where) if where is not None else None
        if uniform:
            first = self.b.op("arith.cmp", self.thread(), self.b.const(0), pred="eq")
            cond = first if cond is None else self.b.op("arith.and", cond, first)

        def store(lowering: Lowering) -> list[Value]:
            lowering.b.emit("target.store", lowering.get(op["value"]), lowering.address(op), align=size_of(buf.dtype))
            return []

        if cond is None:
            store(self)
        else:
            self.branch(cond, store, lambda _: [], [])
        if uniform and op["buf"] in self.loaded:
            self.barrier()

    # -- control flow --------------------------------------------------------------------------------------------

    def nested(self, args: Sequence[Type], body: Callable[[Lowering, list[Value]], Sequence[Value]]) -> Region:
        """A region filled by this lowering; what it learns about shared tiles stays."""
        outer = self.b
        values = [Value(type_) for type_ in args]
        self.b = Builder(outer.loc)
        yields = body(self, values)
        region = self.b.region(values, yields)
        self.b = outer
        return region

    def branch(
        self,
        cond: Value,
        then: Callable[[Lowering], list[Value]],
        orelse: Callable[[Lowering], list[Value]],
        types: Sequence[Type],
    ) -> tuple[Value, ...]:
        regions = [self.nested([], lambda low, _: then(low)), self.nested([], lambda low, _: orelse(low))]
        return self.b.emit("scf.if", cond, types=list(types), regions=regions).results

    def flat(self, values: Sequence[Value]) -> list[Value]:
        """Values as scalars: a tile in registers gives its pieces."""
        found: list[Value] = []
        for value in values:
            held = self.env[value]
            if isinstance(held, SharedTile):
                raise TesseraError("E542", f"@{self.kernel.name}: control flow carries a tile that feeds a product")
            found += held.pieces if isinstance(held, Registers) else [held]
        return found

    def flat_types(self, values: Sequence[Value]) -> list[Type]:
        from tesseracc.passes.target.gpu_tiles import fragment

        types: list[Type] = []
        for value in values:
            count = fragment(value.type.shape, self.group).count if isinstance(value.type, TileType) else 1
            types += [ScalarType(element(value.type))] * count
        return types

    def bind(self, values: Sequence[Value], flat: Sequence[Value]) -> None:
        """The inverse of `flat`."""
        from tesseracc.passes.target.gpu_tiles import fragment

        at = 0
        for value in values:
            if isinstance(value.type, TileType):
                shape = (value.type.shape[0], value.type.shape[1])
                count = fragment(shape, self.group).count
                self.env[value] = Registers(shape, list(flat[at : at + count]))
                at += count
            else:
                self.env[value] = flat[at]
                at += 1

    def region(self, region: Region, flat_args: Sequence[Value]) -> list[Value]:
        self.bind(region.args, flat_args)
        self.ops(region)
        return self.flat(region.yields)

    def do_scf_if(self, op: Op) -> None:
        regions = [self.nested([], lambda low, _, r=r: low.region(r, [])) for r in op.regions]  # type: ignore[misc]
        found = self.b.emit("scf.if", self.get(op["cond"]), types=self.flat_types(op.results), regions=regions)
        self.bind(op.results, found.results)

    do_tile_if = do_scf_if

    def do_scf_for(self, op: Op) -> None:
        types = self.flat_types(op.results)
        index = ScalarType(element(op.operands[0].type))
        inits = self.flat(op.group("inits"))
        self.state.read = True  # an earlier iteration may have read what this one writes
        region = self.nested([index, *types], lambda low, args: low.region(op.regions[0], args))
        bounds = [self.get(v) for v in op.operands[:3]]
        self.bind(op.results, self.b.emit("scf.for", *bounds, inits, types=types, regions=[region]).results)

    do_tile_for = do_scf_for

    def do_scf_while(self, op: Op) -> None:
        types = self.flat_types(op.results)
        inits = self.flat(op.group("inits"))
        self.state.read = True
        regions = [self.nested(types, lambda low, args, r=r: low.region(r, args)) for r in op.regions]  # type: ignore[misc]
        self.bind(op.results, self.b.emit("scf.while", inits, types=types, regions=regions).results)

    do_tile_while = do_scf_while

    # -- what the group does together ------------------------------------------------------------------------------

    def do_tile_reduce(self, op: Op) -> Value:
        from tesseracc.passes.target.gpu_reduce import group_reduce

        return group_reduce(self, self.get(op["a"]), op.attrs["kind"])

    def do_tile_zeros(self, op: Op) -> Held:
        from tesseracc.passes.target.gpu_tiles import lower_zeros

        return lower_zeros(self, op)

    def do_tile_map(self, op: Op) -> None:
        from tesseracc.passes.target.gpu_tiles import lower_map

        lower_map(self, op)

    def do_tile_mma(self, op: Op) -> Held:
        from tesseracc.passes.target.gpu_tiles import lower_mma

        return lower_mma(self, op)


@register("tile-to-gpu", level="tile")
def run(module: Module, context: Context) -> Module:
    """Lowers every kernel to one function per thread."""
    arch = context.need_arch()
    funcs = [Lowering(f, arch).run() if f.kind == "tile.kernel" else f for f in module.funcs]
    return module.with_(funcs=tuple(funcs))
