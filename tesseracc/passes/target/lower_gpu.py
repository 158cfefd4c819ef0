"""`tile-to-gpu`: a `tile.kernel` becomes one function per thread.

A uniform value is computed by every thread, a lanes value is the thread's own element: both are scalars here. Control
flow with varying conditions is ordinary control flow of the thread. What a group does together is in the `gpu_*.py`
beside this: reductions, and tiles, which are spread over the threads' registers (gpu_spread.py, gpu_layouts.py).

Memory order inside a group is program order (dialects/tile.py). Element accesses that would need a barrier for
that are errors in the program, so barriers are added only around what operations on tiles and the lowering itself share
between threads, and behind a uniform store to a buffer that the kernel also reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tessera.shapes import Dim
from tessera_runtime.core.errors import TesseraError
from tesseracc.analysis.multiples import Multiples
from tesseracc.analysis.occupancy import room_of_block
from tesseracc.arch.arch import Arch
from tesseracc.ir.builder import Numbering
from tesseracc.ir.dialects.tile_values import ELEMENTS
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import uses
from tesseracc.ir.types import I64, BufType, LanesType, PtrType, ScalarType, TileType, element, size_of
from tesseracc.ir.value import Attr, Func, Loc, Module, Op, Region, Value
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.dims import emit_dim
from tesseracc.passes.target.gpu_blocks import lower_copy
from tesseracc.passes.target.gpu_buffers import memory_of, swizzles
from tesseracc.passes.target.gpu_convert import convert, lower_broadcast, lower_fold, lower_transpose
from tesseracc.passes.target.gpu_elements import constant_tile, coordinate_tile, lower_map, tile_arith
from tesseracc.passes.target.gpu_flow import Held
from tesseracc.passes.target.gpu_global import lower_read, lower_update, lower_write
from tesseracc.passes.target.gpu_layouts import Layouts
from tesseracc.passes.target.gpu_masks import Mask
from tesseracc.passes.target.gpu_matrix import lower_mma
from tesseracc.passes.target.gpu_memory import BUFFER_ALIGNMENT, Shared, Span, State, changed_outside, last_uses
from tesseracc.passes.target.gpu_notes import product_notes
from tesseracc.passes.target.gpu_order import Order
from tesseracc.passes.target.gpu_pipeline import lower_pipeline
from tesseracc.passes.target.gpu_placed import Located
from tesseracc.passes.target.gpu_products import Flight, Products
from tesseracc.passes.target.gpu_reduce import group_reduce
from tesseracc.passes.target.gpu_roles import CONSUMER_BARRIER, Roles
from tesseracc.passes.target.gpu_slots import fewer_slots
from tesseracc.passes.target.gpu_spread import Free, Spread
from tesseracc.passes.target.gpu_tensor_memory import TensorMemory
from tesseracc.passes.target.gpu_tensor_sums import left_to_others
from tesseracc.passes.target.interface import interface


class Lowering(Order):
    """One kernel."""

    def __init__(self, kernel: Func, arch: Arch) -> None:
        self.kernel = kernel
        self.arch = arch
        self.group = int(kernel.attrs["group"])
        self.b = Numbering(kernel.loc)
        self.env: dict[Value, Held] = {}
        self.symbols: dict[str, Value] = {}
        self.shared = Shared()
        self.room = room_of_block(kernel, arch)
        self.spans: dict[Value, Span] = {}  # shared memory by its address
        self.state = State()
        self.products = Products(self)
        self.in_map = False
        self.acting: Value | None = None
        self.varying = 0  # regions around that only some threads may be in
        self.lanes = min(self.group, arch.lanes)
        self.warps = max(1, self.group // arch.lanes)
        self.layouts = Layouts(kernel, arch, self.warps, self.lanes)
        self.masks: dict[Value, Mask] = {}
        self.numbers: dict[Value, int] = {}  # values that are known
        self.multiples = Multiples(kernel)
        self.divisors: dict[Value, int] = {}  # of indices: powers of two
        self.taken: dict[Value, tuple[int, int]] = {}  # shared memory of buffers in use: offset and bytes
        self.roles: Roles | None = None
        self.tensor = TensorMemory(self) if self.layouts.sums else None
        ops = list(kernel.walk())
        self.counts = uses(kernel.body)
        self.loaded = {op["buf"] for op in ops if op.name == "tile.load"}
        self.changed = changed_outside(ops)
        self.elements = not ELEMENTS.isdisjoint(op.name for op in ops)
        self.swizzles = swizzles(ops)
        self.told: dict[tuple[str, Loc | None], None] = {}  # notes: what, and where in the program

    # -- the kernel ----------------------------------------------------------------------------------------------

    def run(self) -> Func:
        params: list[Value] = []
        for param in self.kernel.params:
            value = Value(PtrType("global") if isinstance(param.type, BufType) else param.type, param.name)
            params.append(value)
            self.env[param] = value
        for name in self.kernel.attrs["symbols"]:
            value = Value(I64, name)
            params.append(value)
            self.symbols[name] = value
        if self.kernel.attrs.get("tensor_copies"):
            self.roles = Roles(self)
            self.roles.lower(self.kernel.body)
            params += self.roles.maps.values()
        else:
            self.once(self.kernel.body)
        shared, limits = self.shared.size, self.arch.limits
        threads = self.roles.threads if self.roles else self.group
        own: dict[str, Attr] = {"group": threads, "scratch": 0, "shared": shared, "symbol": self.kernel.name}
        if self.roles:
            own["maps"] = tuple(self.roles.maps)
        if "cluster" in self.kernel.attrs:
            own["cluster"] = self.kernel.attrs["cluster"]
        if shared > limits.shared_static:
            own |= {"shared": 0, "dynamic_shared": shared}
        if self.layouts.choices or sum(op.name == "tile.mma" for op in self.layouts.ops) > 1:
            # registers hold what products take and give: the assembler is not to spill for more groups at once
            own["min_blocks"] = 1
        attrs = {**interface(self.kernel), **own}
        return Func("target.func", self.kernel.name, self.b.region(params), attrs, self.kernel.loc)

    def once(self, body: Region) -> None:
        """The kernel's body, run once: shared memory is free again behind the last use of a buffer."""
        ends = last_uses(self.kernel, self.layouts.stays)
        for op in body.ops:
            self.op(op)
            for buf in ends.get(op, ()):
                if buf in self.taken:
                    self.shared.release(*self.taken.pop(buf))

    def ops(self, region: Region) -> None:
        for op in region.ops:
            self.op(op)

    def op(self, op: Op) -> None:
        saved = self.b.loc
        self.b.loc = op.loc or saved
        if op.defn.dialect == "arith":
            self.arith(op)
        else:
            lower = _TILES.get(op.name)
            found = lower(self, op) if lower else getattr(self, "do_" + op.name.replace(".", "_"))(op)
            if found is not None:
                self.env[op.result] = found
        self.b.loc = saved

    def get(self, value: Value) -> Value:
        found = self.env[value]
        assert isinstance(found, Value), "a tile where an element is expected"
        return found

    def tell(self, message: str) -> None:
        """A note at the operation that is lowered."""
        self.told[message, self.b.loc] = None

    def note_constant(self, value: Value, number: int) -> None:
        self.numbers[value] = number

    def known(self, value: Value) -> int | None:
        """The number that a value is known to be."""
        return self.numbers.get(value)

    def index(self, value: Value) -> Value:
        """A number all threads agree on, which says where something is or how much there is of it."""
        found = self.get(value)
        return self.divided(found, self.multiples.of(value))

    def divided(self, value: Value, divisor: int) -> Value:
        """The value, of which it is kept that a power of two divides it."""
        self.divisors[value] = max(divisor, self.divisors.get(value, 1))
        return value

    def divisor(self, value: Value) -> int:
        """A power of two that divides an index."""
        return self.divisors.get(value, 1)

    def arith(self, op: Op) -> None:
        if isinstance(op.result.type, TileType):
            self.env[op.result] = tile_arith(self, op)
        elif op.name == "arith.constant":
            type_ = ScalarType(element(op.result.type))
            self.env[op.result] = found = self.b.op(op.name, types=type_, **op.attrs)
            if isinstance(op.attrs["value"], int):
                self.note_constant(found, op.attrs["value"])
        else:
            self.env[op.result] = self.b.op(op.name, *(self.get(v) for v in op.operands), **op.attrs)

    # -- tiles -----------------------------------------------------------------------------------------------------

    def spread(self, value: Value) -> Spread:
        """A tile in registers, in the layout of its class."""
        return self.tile(value, self.layouts.of(value)) if isinstance(self.env[value], Free) else self._spread(value)

    def _spread(self, value: Value) -> Spread:
        held = self.env[value]
        if isinstance(held, Flight):
            self.env[value] = held = self.products.landed(held)
        assert isinstance(held, Spread), "an element where a tile is expected"
        return held

    def tile(self, value: Value, layout: LinearLayout) -> Spread:
        """A tile in registers, in a given layout."""
        held = self.env[value]
        return held.make(layout) if isinstance(held, Free) else self.converted(self._spread(value), layout)

    def converted(self, value: Spread, layout: LinearLayout) -> Spread:
        return convert(self, value, layout)

    def shared_at(self, offset: int, size: int) -> Value:
        """The address of bytes of shared memory, which are known by it from now on."""
        ptr = self.b.op("target.shared", offset=offset)
        self.spans[ptr] = offset, max(offset + size, self.spans.get(ptr, (0, 0))[1])  # another's too that begins there
        return ptr

    # -- ids and sizes -------------------------------------------------------------------------------------------

    def sreg(self, name: str) -> Value:
        # a cast of its own for every use: LLVM computes in 32 bits what it can, which it does not for shared values
        return self.b.emit("arith.cast", self.b.op("target.sreg", name=name), to="i64").result

    def dim(self, expr: Dim) -> Value:
        return emit_dim(self.b, expr, self.symbols)

    def thread(self) -> Value:
        """The thread's number in the group, or the one it works as."""
        return self.sreg("tid.x") if self.acting is None else self.acting

    @contextmanager
    def working_as(self, thread: Value) -> Iterator[None]:
        """What is lowered here is done by the thread in place of one of another number."""
        saved, self.acting = self.acting, thread
        yield
        self.acting = saved

    def do_tile_group_id(self, op: Op) -> Value:
        return self.sreg("ctaid." + "xyz"[op.attrs["axis"]])

    def do_tile_group_span(self, op: Op) -> Value:
        return self.b.const(1)

    def do_tile_group_count(self, op: Op) -> Value:
        return self.sreg("nctaid." + "xyz"[op.attrs["axis"]])

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
        if self.roles and op.result in self.roles.memory:
            return self.roles.memory[op.result]
        if type_.space == "shared":
            swizzle = self.swizzles.get(op.result)
            alignment = max(BUFFER_ALIGNMENT, swizzle.alignment(type_.dtype) if swizzle else 0)
            self.taken[op.result] = self.shared.take(size, alignment), size
            return self.shared_at(*self.taken[op.result])
        return self.b.emit("target.alloca", bytes=size, align=16).result

    def land(self) -> None:
        """Ends all products that are under way: other control flow does not see any."""
        for value, held in self.env.items():
            if isinstance(held, Flight):
                self.env[value] = self.products.landed(held)

    def stored(self, tiles: Iterable[Value]) -> bool:
        """Whether products read some of these tiles in place where threads wrote them, and not copy engines alone."""
        filled = self.roles.memory if self.roles else {}
        found = (self.layouts.placed[tile].buf for tile in tiles if tile in self.layouts.placed)
        return any(buf in self.taken and buf not in filled for buf in found)

    def show(self) -> None:
        """What threads wrote, before products read it in place."""
        if self.state.hidden:
            self.b.emit("target.fence_async")
            self.state = replace(self.state, hidden=False)

    def before_product(self, op: Op) -> None:
        """Before a product reads operands in place."""
        if self.stored((op["a"], op["b"])):
            self.show()
        held = (self.env[op[side]] for side in "ab")
        self.before_read(*(tile.block.memory.ptr for tile in held if isinstance(tile, Located)))

    def barrier(self) -> None:
        self.products.finish()  # they read shared memory, which what follows may overwrite
        if self.roles:
            self.b.emit("target.barrier", id=CONSUMER_BARRIER, threads=self.group)
        else:
            self.b.emit("target.barrier")
        self.state = State(copies=self.state.copies, stores=self.state.stores, hidden=self.state.hidden)

    def do_tile_barrier(self, op: Op) -> None:
        """Finishes all copies. What else it orders are accesses of elements: tiles are ordered where they are used."""
        if self.state.copies:
            self.b.emit("target.wait_copies", pending=0)
            self.state = replace(self.state.wrote(), copies=False)
        if self.stored(self.layouts.placed):
            self.show()
        if self.elements:
            self.barrier()

    def do_tile_commit(self, op: Op) -> None:
        if self.arch.has("cp_async"):
            self.b.emit("target.commit_copies")

    def do_tile_wait(self, op: Op) -> None:
        if self.state.copies:  # what rings are filled with is not the program's to wait for
            self.b.emit("target.wait_copies", pending=op.attrs["pending"])
            self.state = self.state.wrote()

    def address(self, op: Op) -> Value:
        return memory_of(self, op["buf"]).address(self, [self.get(v) for v in op.group("indices")])

    def zero(self, dtype: str) -> Value:
        value: int | float | bool = False if dtype == "bool" else 0 if dtype[0] in "iu" else 0.0
        return self.b.const(value, dtype)

    def do_tile_load(self, op: Op) -> Value:
        dtype = element(op.result.type)
        where = op.optional("where")
        self.touch(op["buf"], write=False)

        def load(lowering: Lowering) -> list[Value]:
            type_ = ScalarType(dtype)
            return [lowering.b.op("target.load", lowering.address(op), types=type_, align=size_of(dtype))]

        if where is None:
            return load(self)[0]
        return self.branch(self.get(where), load, lambda lowering: [lowering.zero(dtype)], [ScalarType(dtype)])[0]

    def do_tile_update(self, op: Op) -> None:
        self._change(op, lambda low: low.b.emit("target.update", low.get(op["value"]), low.address(op), **op.attrs))

    def do_tile_store(self, op: Op) -> None:
        size = size_of(element(op["buf"].type))
        self._change(op, lambda low: low.b.emit("target.store", low.get(op["value"]), low.address(op), align=size))

    def _change(self, op: Op, change: Callable[[Lowering], object]) -> None:
        """An element changed by each thread, or by one for the group where it is uniform."""
        where = op.optional("where")
        buf = op["buf"].type
        assert isinstance(buf, BufType)
        varying = any(isinstance(v.type, LanesType) for v in op.operands)
        uniform = buf.space != "local" and not self.in_map and not varying
        cond = self.get(where) if where is not None else None
        self.touch(op["buf"], write=True)
        if uniform:
            first = self.b.op("arith.cmp", self.thread(), self.b.const(0), pred="eq")
            cond = first if cond is None else self.b.op("arith.and", cond, first)

        def store(lowering: Lowering) -> list[Value]:
            change(lowering)
            return []

        if cond is None:
            store(self)
        else:
            self.branch(cond, store, lambda _: [], [])
        # where only some threads are, no others wait for the value, and there may be no barrier
        if uniform and op["buf"] in self.loaded and not self.varying:
            self.barrier()

    def do_tile_zeros(self, op: Op) -> Held:
        return constant_tile(self, op.result, self.zero(element(op.result.type)))

    def do_tile_full(self, op: Op) -> Held:
        return constant_tile(self, op.result, self.get(op["a"]))

    def do_tile_reduce(self, op: Op) -> Value:
        return group_reduce(self, self.get(op["a"]), op.attrs["kind"])


#: what the group does together on tiles
_TILES: dict[str, Callable[[Lowering, Op], Held | None]] = {
    "tile.broadcast": lower_broadcast,
    "tile.coordinate": coordinate_tile,
    "tile.copy_async": lower_copy,
    "tile.fold": lower_fold,
    "tile.map": lower_map,
    "tile.mma": lower_mma,
    "tile.pipeline": lower_pipeline,
    "tile.read": lower_read,
    "tile.transpose": lower_transpose,
    "tile.update_block": lower_update,
    "tile.write": lower_write,
}


def fitted(kernel: Func, context: Context) -> tuple[Lowering, Func]:
    """A kernel lowered, with as many slots of its rings as shared memory has room for."""
    arch = context.need_arch()
    limit = arch.limits.shared_per_block
    while True:
        low = Lowering(kernel, arch)
        found = low.run()
        if low.shared.size <= limit:
            return low, found
        needs = f"kernel @{kernel.name} needs {low.shared.size} bytes of shared memory, {arch.name} has {limit}"
        fewer = fewer_slots(kernel, low.shared.size - limit)
        if fewer is None:
            raise TesseraError("E541", needs)
        context.note(f"rings have fewer slots: {needs}", kernel.loc)
        kernel = fewer


@register("tile-to-gpu", level="tile")
def run(module: Module, context: Context) -> Module:
    """Lowers every kernel to one function per thread."""
    arch = context.need_arch()
    names = {f.name for f in module.funcs}
    funcs = []
    for f in module.funcs:
        if f.kind == "tile.kernel":
            low, lowered = fitted(f, context)
            if f"{f.name}__tensor" not in names:  # the version for other sizes has the same loops
                for op, why in left_to_others(f, arch, low.layouts.sums):
                    context.note(f"products not in tensor memory: {why}", op.loc)
            for message, loc in (*product_notes(low), *low.told):
                context.note(f"{arch.name} {f.name}: {message}", loc)
            f = lowered
        funcs.append(f)
    return module.with_(funcs=tuple(funcs))
