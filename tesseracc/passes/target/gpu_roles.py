"""Warp specialisation: one group of warps copies for the others, which multiply.

    all:        mbarriers full[s], empty[s] of every ring slot; then the roles part
    producer:   for k: wait until slot s is empty; expect its bytes at full[s]; start the tensor copies to it
    consumers:  for k: wait until full[s]; use the slot; arrive at empty[s], one lane for each warp

A barrier has a phase bit that flips when all have arrived: a slot is used in phase (iteration / stages) mod 2, and an
empty barrier that was never waited for counts as passed in phase 1. Everything outside of pipelines is done by the
consumers, whose barriers count them alone. The producer needs few registers and leaves the others to the consumers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tesseracc.analysis.overlap import Stages, stages
from tesseracc.analysis.tensor_copies import (
    TensorCopy,
    pipelines,
    producer_ops,
    tensor_copies,
    tensor_stores,
)
from tesseracc.ir.types import I32, I64, PtrType
from tesseracc.ir.value import Op, Region, Value
from tesseracc.passes.target.gpu_buffers import memory_of
from tesseracc.passes.target.gpu_consume import Consumer
from tesseracc.passes.target.gpu_reduce import warp_uniform
from tesseracc.passes.target.gpu_rings import Part, advance, mbarrier, ring_parts, wide
from tesseracc.passes.target.gpu_tensor_store import wait_stores
from tesseracc.passes.target.gpu_warpgroup import runs_beside

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering

PRODUCERS = 128  # threads: registers are handed over by groups of four warps
#: registers a thread of the producers keeps: with two groups of consumers these have as many as a thread can
PRODUCER_REGISTERS = 32
REGISTERS = 65536  # of a multiprocessor
MOST_REGISTERS = 240  # that a thread can ask for, as a multiple of 8
CONSUMER_BARRIER = 1


def consumer_registers(consumers: int) -> int:
    """What each consumer may have of what the producers leave; 0 where all have enough from the start."""
    if REGISTERS // (consumers + PRODUCERS) >= MOST_REGISTERS:
        return 0
    left = (REGISTERS - PRODUCERS * PRODUCER_REGISTERS) // consumers // 8 * 8
    return min(left, MOST_REGISTERS)


class Roles:
    """The roles of one kernel."""

    def __init__(self, low: Lowering) -> None:
        self.low = low
        found = tensor_copies(low.kernel)
        assert found is not None, "the kernel is marked as one whose copies are tensor copies"
        self.copies: dict[Op, TensorCopy] = {copy.op: copy for copy in found}
        self.maps: dict[tuple[int, int, tuple[int, ...]], Value] = {}
        self.stores = tensor_stores(low.kernel, found)
        self.cuts: dict[Op, Stages | None] = {}  # of each pipeline, for the consumers
        self.parts: dict[Op, list[Part]] = {}
        self.memory: dict[Value, Value] = {}  # what both roles know by one address
        self.position: dict[Op, list[Value]] = {}  # of each pipeline, for the role that is lowered: next slot and phase
        self.threads = low.group + PRODUCERS
        self.cluster = int(low.kernel.attrs.get("cluster", (1, 0))[0])

    def map_of(self, param: int, span: int, box: tuple[int, ...]) -> Value:
        """The map of a parameter's boxes, which becomes a parameter of its own."""
        return self.maps.setdefault((param, span, box), Value(PtrType("map"), f"map{len(self.maps)}"))

    def lower(self, body: Region) -> None:
        """The whole kernel."""
        low, b = self.low, self.low.b
        warp = warp_uniform(low, b.op("arith.shr", low.thread(), b.const(5)))
        self._barriers(warp)
        is_consumer = b.op("arith.cmp", warp, b.const(low.warps), pred="lt")
        counts = consumer_registers(low.group)

        def consumers(inner: Lowering) -> list[Value]:
            if counts:
                inner.b.emit("target.set_registers", count=counts, more=True)
            self._start()
            inner.once(body)
            wait_stores(inner)
            if inner.tensor:
                inner.tensor.free(inner, warp)
            return []

        def producers(inner: Lowering) -> list[Value]:
            if counts:
                inner.b.emit("target.set_registers", count=PRODUCER_REGISTERS, more=False)
            first = inner.b.op("arith.cmp", warp, inner.b.const(low.warps), pred="eq")
            inner.branch(first, lambda deep: self._alone(deep), lambda _: [], [])
            if inner.tensor:
                tensor, kept = inner.tensor, dict(inner.env)
                second = inner.b.op("arith.cmp", warp, inner.b.const(low.warps + 1), pred="eq")
                inner.branch(second, lambda deep: tensor.issue_all(deep, self), lambda _: [], [])
                inner.env = kept
            return []

        kept = dict(low.env)
        producing = low.nested([], lambda inner, _: producers(inner))
        low.env = kept
        consuming = low.nested([], lambda inner, _: consumers(inner))
        low.b.emit("scf.if", is_consumer, types=[], regions=[consuming, producing])
        if self.cluster > 1:
            low.b.emit("target.cluster_barrier")  # others write to this block's memory until they are done

    def _barriers(self, warp: Value) -> None:
        low, b = self.low, self.low.b
        for pipeline in pipelines(low.kernel.body):
            size = 8 * pipeline.attrs["stages"]
            self.cuts[pipeline] = cut = self._cut(pipeline)
            copies = [op for op in pipeline.regions[0].ops if op.name == "tile.copy_async"]
            self.parts[pipeline] = []
            for ends, rings in ring_parts(pipeline, cut).items():
                # consumers have less to compute for `empty`, between products, where it comes first
                empty, full = (b.op("target.shared", offset=low.shared.take(size)) for _ in range(2))
                blocks = max(op.attrs["blocks"] for op in copies if op["dst"] in rings)
                self.parts[pipeline].append(Part(tuple(rings), *ends, full, empty, blocks))
            for op in low.kernel.walk():
                if op.name == "tile.alloc" and op.result in pipeline.group("rings"):
                    low.op(op)
                    self.memory[op.result] = low.get(op.result)

        def readers(pipeline: Op, part: Part) -> int:
            """Who says that a slot is free: each warp of the consumers, or who issues products in tensor memory."""
            return part.blocks * (1 if pipeline in low.layouts.sums else low.warps)

        place = low.tensor.allocate(low, warp) if low.tensor else None

        def start(inner: Lowering) -> list[Value]:
            for pipeline, parts in self.parts.items():
                for part, slot in itertools.product(parts, range(pipeline.attrs["stages"])):
                    at = inner.b.const(slot)
                    inner.b.emit("target.mbarrier_init", mbarrier(inner, part.full, at), count=1)
                    inner.b.emit("target.mbarrier_init", mbarrier(inner, part.empty, at), count=readers(pipeline, part))
            if inner.tensor:
                inner.tensor.initialise(inner)
            inner.b.emit("target.mbarrier_ready")
            return []

        first = b.op("arith.cmp", low.thread(), b.const(0), pred="eq")
        low.branch(first, start, lambda _: [], [])
        b.emit("target.cluster_barrier" if self.cluster > 1 else "target.barrier")
        if low.tensor and place is not None:
            low.tensor.publish(low, place)

    def _cut(self, op: Op) -> Stages | None:
        """The stages of a pipeline whose products depend on each other, where warp groups make them."""
        if op in self.low.layouts.sums:
            return None
        choices, stays = self.low.layouts.choices, self.low.layouts.stays

        def starts(inner: Op) -> bool:
            return inner.name == "tile.mma" and runs_beside(choices.get(inner.result))

        return stages(op.regions[1], len(op.results), starts, stays) if op.attrs["stages"] > 1 else None

    # -- producer ----------------------------------------------------------------------------------------------------

    def _alone(self, low: Lowering) -> list[Value]:
        """One lane does it all."""

        def copy(inner: Lowering) -> list[Value]:
            self.follow(inner, self._produce)
            return []

        low.branch(low.b.op("target.elect"), copy, lambda _: [], [])
        return []

    def follow(self, low: Lowering, act: Callable[[Lowering, Op], None]) -> None:
        """Does what a role does at each pipeline, with the loops around pipelines and what places and bounds need."""
        needed = producer_ops(low.kernel) or set()

        def visit(inner: Lowering, region: Region) -> None:
            for op in region.ops:
                if op in needed:
                    inner.op(op)
                elif op.name == "tile.pipeline":
                    act(inner, op)
                elif op.name == "scf.for" and pipelines(op.regions[0]):
                    loop(inner, op)

        def loop(inner: Lowering, op: Op) -> None:
            body, rings = op.regions[0], pipelines(op.regions[0])

            def step(deep: Lowering, args: list[Value]) -> list[Value]:
                deep.bind(body.args[:1], args[:1])
                self.place(rings, args[1:])
                visit(deep, body)
                return self.places(rings)

            places = self.places(rings)
            types = [v.type for v in places]
            region = inner.nested([I64, *types], step)
            bounds = [inner.get(v) for v in op.operands[:3]]
            self.place(rings, inner.b.emit("scf.for", *bounds, places, types=types, regions=[region]).results)

        self._start()
        visit(low, low.kernel.body)

    # -- where a role is in the rings ---------------------------------------------------------------------------------

    def _start(self) -> None:
        """Every role begins with the first slot of every ring, and with the first use of the sums of every pipeline
        (whose parity is the third number); loops around pipelines carry where it is."""
        zero = self.low.b.const(0, "i32")
        self.position = {pipeline: [zero, zero, zero] for pipeline in self.parts}

    def within(self, op: Op) -> list[Op]:
        """The pipelines of a loop's body."""
        return pipelines(op.regions[0])

    def places(self, rings: Sequence[Op]) -> list[Value]:
        """Slot, phase and parity of each pipeline."""
        return [value for ring in rings for value in self.position[ring]]

    def place(self, rings: Sequence[Op], values: Sequence[Value]) -> None:
        """The inverse of `places`."""
        for number, ring in enumerate(rings):
            self.position[ring] = list(values[3 * number : 3 * number + 3])

    def _produce(self, low: Lowering, op: Op) -> None:
        fill, stages = op.regions[0], op.attrs["stages"]
        copies = [inside for inside in fill.ops if inside.name == "tile.copy_async"]
        lo, hi, step = (low.get(v) for v in op.operands[:3])

        def body(inner: Lowering, args: list[Value]) -> list[Value]:
            k, at, phase = args
            b = inner.b
            slot = wide(b, at)
            inner.bind(fill.args, [k, slot])
            for inside in fill.ops:
                if inside.name != "tile.copy_async":
                    inner.op(inside)
            other = b.op("arith.xor", phase, b.const(1, "i32"))
            for part in self.parts[op]:
                own = [self.copies[copy] for copy in copies if copy["dst"] in part.rings]
                full = mbarrier(inner, part.full, slot)
                b.emit("target.mbarrier_wait", mbarrier(inner, part.empty, slot), other, cluster=part.blocks > 1)
                b.emit("target.mbarrier_arrive", full, bytes=sum(copy.bytes for copy in own))
                for copy in own:
                    self._copy(inner, copy, full)
            return advance(b, at, phase, stages)

        region = low.nested([I64, I32, I32], body)
        loop = low.b.emit("scf.for", lo, hi, step, self.position[op][:2], types=[I32, I32], regions=[region])
        self.position[op][:2] = loop.results

    def _copy(self, low: Lowering, copy: TensorCopy, full: Value) -> None:
        op, b = copy.op, low.b
        ring = memory_of(low, op["dst"])
        slot = low.get(op.group("dst_at")[0])
        places = [low.get(v) for v in op.group("src_at")]
        row_axis, column_axis = op.attrs["src_axes"]
        blocks = op.attrs["blocks"]
        part = len(copy.starts) // blocks
        for first, second in zip(copy.starts[:part], copy.starts[part:] or copy.starts, strict=False):
            row, column = (self._by_rank(low, one, two) for one, two in zip(first, second, strict=True))
            at = list(places)
            at[row_axis] = b.op("arith.add", at[row_axis], row) if row else at[row_axis]
            at[column_axis] = b.op("arith.add", at[column_axis], column) if column else at[column_axis]
            words = [b.op("arith.cast", v, to="i32") for v in reversed(at)]
            target = ring.address(low, [slot, row or b.const(0), column or b.const(0)])
            map_ = self.map_of(copy.param, copy.span, copy.box)
            b.emit("target.tensor_copy", target, map_, words, full, blocks=blocks)

    def _by_rank(self, low: Lowering, first: int, second: int) -> Value | None:
        """A number of this block's part: those of the blocks of a cluster are at equal distances; None: 0."""
        b, found = low.b, low.b.const(first) if first else None
        if first == second or self.cluster == 1:
            return found
        rank = b.op("arith.and", low.sreg("ctaid.x"), b.const(self.cluster - 1))
        own = b.op("arith.mul", rank, b.const(second - first))
        return b.op("arith.add", own, found) if found else own

    # -- consumers ---------------------------------------------------------------------------------------------------

    def consume(self, low: Lowering, op: Op) -> None:
        """The pipeline's second region, for slots that the producer fills."""
        if low.tensor and op in low.tensor.sums:
            low.tensor.collect(low, op, self.position[op])
            return
        self.position[op][:2] = Consumer(low, op, self.parts[op], self.cuts[op], self.position[op][:2]).run()
