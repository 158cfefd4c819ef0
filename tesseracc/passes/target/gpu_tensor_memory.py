"""Products in tensor memory (tcgen05): one thread issues them, the group loads the sums when a loop is over.

    all:       a warp allocates columns; mbarriers
    issuer:    for k: wait until full[s]; issue the products of slot s; their end is an arrival at empty[s]
               the end of all products is an arrival at done
    the group: wait until done; load the sums, each warp the lanes of its window; add what there was before the loop

The first product of a sum overwrites what is in its columns. A loop without iterations issues nothing, and nothing is
loaded behind it. Columns are given back when all warps have loaded; no two sums have a column in common. In a loop the
issuer waits until the group has loaded the sums of the iteration before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tesseracc.ir.dialects.target_tensor_memory import LOADS
from tesseracc.ir.types import I32, I64, ScalarType, TileType
from tesseracc.ir.value import Op, Value
from tesseracc.layout.descriptor import Descriptor, instruction_descriptor
from tesseracc.layout.select import Choice
from tesseracc.passes.target.gpu_fragments import pair
from tesseracc.passes.target.gpu_reduce import warp_uniform
from tesseracc.passes.target.gpu_rings import advance, arrive_once, mbarrier, wide
from tesseracc.passes.target.gpu_spread import Spread, registers
from tesseracc.passes.target.gpu_tensor_sums import WINDOWS, Sum, columns_of, load_layout
from tesseracc.passes.target.gpu_warpgroup import Operand

if TYPE_CHECKING:
    from tesseracc.passes.target.gpu_roles import Roles
    from tesseracc.passes.target.lower_gpu import Lowering

MOST_LOADED = 64  # registers of a thread by one load
LANE_SHIFT = 16  # of an address


class TensorMemory:
    """The tensor memory of one kernel."""

    def __init__(self, low: Lowering) -> None:
        self.sums = low.layouts.sums
        self.columns = columns_of(self.sums)
        self.done: dict[Op, Value] = {}
        self.loaded: dict[Op, Value] = {}  # of pipelines in loops
        self.base: Value | None = None

    # -- columns -----------------------------------------------------------------------------------------------------

    def allocate(self, low: Lowering, warp: Value) -> Value:
        """Columns and mbarriers, before a barrier of all threads. Gives where their address will be."""
        b = low.b
        place = b.op("target.shared", offset=low.shared.take(4))
        self.done = {pipeline: b.op("target.shared", offset=low.shared.take(8)) for pipeline in self.sums}
        again = [pipeline for pipeline in self.sums if pipeline not in low.kernel.body.ops]
        self.loaded = {pipeline: b.op("target.shared", offset=low.shared.take(8)) for pipeline in again}

        def start(inner: Lowering) -> list[Value]:
            inner.b.emit("target.tensor_alloc", place, columns=self.columns)
            inner.b.emit("target.tensor_relinquish")
            return []

        low.branch(b.op("arith.cmp", warp, b.const(0), pred="eq"), start, lambda _: [], [])
        return place

    def initialise(self, low: Lowering) -> None:
        """The mbarriers, by one thread."""
        for done in self.done.values():
            low.b.emit("target.mbarrier_init", done, count=1)
        for loaded in self.loaded.values():
            low.b.emit("target.mbarrier_init", loaded, count=low.warps)

    def publish(self, low: Lowering, place: Value) -> None:
        """Behind the barrier: what all threads know."""
        self.base = low.b.op("target.load", place, types=I32, align=4)

    def free(self, low: Lowering, warp: Value) -> None:
        """When all loads are over."""
        assert self.base is not None
        base = self.base
        if low.state.sums:
            low.barrier()

        def end(inner: Lowering) -> list[Value]:
            inner.b.emit("target.tensor_fence", before=False)
            inner.b.emit("target.tensor_free", base, columns=self.columns)
            return []

        low.branch(low.b.op("arith.cmp", warp, low.b.const(0), pred="eq"), end, lambda _: [], [])

    def _at(self, low: Lowering, lane: int, column: int) -> Value:
        assert self.base is not None
        start = lane << LANE_SHIFT | column
        return low.b.op("arith.add", self.base, low.b.const(start, "i32")) if start else self.base

    # -- the issuer --------------------------------------------------------------------------------------------------

    def issue_all(self, low: Lowering, roles: Roles) -> list[Value]:
        """The products of all pipelines, by one lane."""

        def act(inner: Lowering, op: Op) -> None:
            if op in self.sums:
                self._issue(inner, op, self.sums[op], roles)

        def work(inner: Lowering) -> list[Value]:
            roles.follow(inner, act)
            return []

        low.branch(low.b.op("target.elect"), work, lambda _: [], [])
        return []

    def _issue(self, low: Lowering, op: Op, sums: tuple[Sum, ...], roles: Roles) -> None:
        (ring,), position, stages = roles.parts[op], roles.position[op], op.attrs["stages"]
        lo, hi, step = (low.get(v) for v in op.operands[:3])
        if op in self.loaded:
            other = low.b.op("arith.xor", position[2], low.b.const(1, "i32"))
            low.b.emit("target.mbarrier_wait", self.loaded[op], other)
            low.b.emit("target.tensor_fence", before=False)

        def body(inner: Lowering, args: list[Value]) -> list[Value]:
            k, at, phase, add = args
            b, slot = inner.b, wide(inner.b, at)
            b.emit("target.mbarrier_wait", mbarrier(inner, ring.full, slot), phase)
            self.products(inner, op, sums, k, slot, add)
            b.emit("target.tensor_commit", mbarrier(inner, ring.empty, slot), blocks=ring.blocks)
            return [*advance(b, at, phase, stages), b.const(1, "i32")]

        region = low.nested([I64, I32, I32, I32], body)
        inits = [*position[:2], low.b.const(0, "i32")]
        loop = low.b.emit("scf.for", lo, hi, step, inits, types=[I32] * 3, regions=[region])
        low.b.emit("target.tensor_commit", self.done[op])
        position[:] = [*loop.results[:2], low.b.op("arith.xor", position[2], low.b.const(1, "i32"))]

    def products(self, low: Lowering, op: Op, sums: tuple[Sum, ...], k: Value, slot: Value, add: Value) -> None:
        """Those of one iteration; `add` is 0 in the first."""
        use = op.regions[1]
        low.bind(use.args[:2], [k, slot])
        issued = {product: (part, choice) for part in sums for product, choice in zip(part.products, part.choices)}
        for inside in use.ops:
            if inside not in issued:
                low.op(inside)
                continue
            part, choice = issued[inside]
            self._product(low, inside, part, choice, add if inside is part.products[0] else low.b.const(1, "i32"))

    def _product(self, low: Lowering, op: Op, part: Sum, choice: Choice, add: Value) -> None:
        row, zero = choice.row, low.b.const(0)
        (m, n), depth = pair(op.result.type.shape), pair(op["a"].type.shape)[1]  # type: ignore[union-attr]
        left, right = (Operand(low, choice, side, op[side], zero, 1, form=Descriptor.tcgen05) for side in "ab")
        kind, word = instruction_descriptor(choice, left.found.major, right.found.major)
        instruction = f"tcgen05.mma.cta_group::1.kind::{kind}"
        for i in range(m // row.m):
            for j in range(n // choice.n):
                lane, column = part.place.at(dim0=i * row.m, dim1=j * choice.n)
                to = self._at(low, lane, part.column + column)
                more = add
                for k in range(depth // row.k):
                    a, b = left.block(i, k), right.block(j, k)
                    low.b.emit("target.tensor_mma", to, a, b, more, instruction=instruction, descriptor=word)
                    more = low.b.const(1, "i32")

    # -- the group ---------------------------------------------------------------------------------------------------

    def collect(self, low: Lowering, op: Op, position: list[Value]) -> None:
        """The results of a pipeline, in registers."""
        b = low.b
        lo, hi = (low.get(v) for v in op.operands[:2])
        b.emit("target.mbarrier_wait", self.done[op], position[2])
        b.emit("target.tensor_fence", before=False)
        inits = [low.flat_like([init], [result]) for init, result in zip(op.group("inits"), op.results, strict=True)]

        def some(inner: Lowering) -> list[Value]:
            found: list[Value] = []
            for part in self.sums[op]:
                loaded, given = self._loaded(inner, op, part), inits[part.number]
                if not _is_zero(inner, op.group("inits")[part.number]):
                    loaded = [inner.b.op("arith.add", old, value) for old, value in zip(given, loaded, strict=True)]
                found += loaded
            return found

        def none(inner: Lowering) -> list[Value]:
            return [value for given in inits for value in given]

        found = low.branch(b.op("arith.cmp", lo, hi, pred="lt"), some, none, low.flat_types(op.results))
        low.bind(op.results, found)
        position[2] = b.op("arith.xor", position[2], b.const(1, "i32"))
        b.emit("target.tensor_fence", before=True)
        low.state = replace(low.state, sums=True)
        if op in self.loaded:
            arrive_once(low, self.loaded[op])  # a warp loads, and waits for it, as one

    def _loaded(self, low: Lowering, op: Op, part: Sum) -> list[Value]:
        """A sum in the layout that its class has."""
        b, type_ = low.b, op.results[part.number].type
        assert isinstance(type_, TileType)
        layout = load_layout(part.place, part.shape, low.warps)
        assert layout is not None
        warp = b.op("arith.cast", warp_uniform(low, b.op("arith.shr", low.thread(), b.const(5))), to="i32")
        window = b.op("arith.and", warp, b.const(WINDOWS - 1, "i32"))
        own = part.columns // (low.warps // WINDOWS)
        first = b.op("arith.shl", window, b.const(LANE_SHIFT + 5, "i32"))
        if low.warps > WINDOWS:
            unit = b.op("arith.shr", warp, b.const(WINDOWS.bit_length() - 1, "i32"))
            first = b.op("arith.add", first, b.op("arith.mul", unit, b.const(own, "i32")))
        first = b.op("arith.add", self._at(low, 0, part.column), first)
        count = registers(layout)
        size = min(count, MOST_LOADED)
        per = LOADS[part.shape]
        loaded: list[Value] = []
        for start in range(0, count, size):
            at = b.op("arith.add", first, b.const(start * own // count, "i32")) if start else first
            types = [ScalarType(type_.dtype)] * size
            loaded += b.emit("target.tensor_load", at, types=types, shape=part.shape, repeat=size // per).results
        ready = b.emit("target.tensor_wait_loads", loaded, types=[v.type for v in loaded]).results
        value = Spread(layout, type_.shape, type_.dtype, elements=list(ready))
        return low.converted(value, low.layouts.of(op.results[part.number])).as_elements(b)


def _is_zero(low: Lowering, value: Value) -> bool:
    """Whether a tile is known to be 0."""
    op = low.layouts.makers.get(value)
    if op is not None and op.name == "tile.full":
        op = low.layouts.makers.get(op["a"])
    return op is not None and (op.name == "tile.zeros" or (op.name == "arith.constant" and op.attrs["value"] == 0))
