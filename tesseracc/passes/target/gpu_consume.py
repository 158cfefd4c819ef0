"""The consumers of a pipeline that others fill: loops in which products are under way from iteration to iteration.

    for j:  wait until slot j is full;  start the product of it
            wait for the product of j - 1;  hand slot j - 1 back

Where one product needs what another gave, the loop is cut in two stages (analysis/overlap.py), and the threads' own
work runs beside the product of the second:

    first(0)
    for j from 1:  start the product of first(j);  start that of second(j - 1);  the rest of first(j)
    second(last)

A ring is handed back by one arrival of each warp, when the wait has come that covers the last product that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tesseracc.analysis.overlap import Stages
from tesseracc.ir.types import I32, TileType, Type
from tesseracc.ir.value import Op, Region, Value
from tesseracc.passes.target.gpu_buffers import memory_of
from tesseracc.passes.target.gpu_memory import overlap
from tesseracc.passes.target.gpu_products import Flight
from tesseracc.passes.target.gpu_rings import (
    FIRST,
    SECOND,
    Part,
    advance,
    arrive_once,
    arrive_warps,
    mbarrier,
    speakers,
    wide,
)
from tesseracc.passes.target.gpu_spread import Spread, registers
from tesseracc.passes.target.gpu_warpgroup import prepare_fragments

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering

#: lowers an iteration: its number, slot and phase, and the slot before
Body = Callable[["Lowering", Value, Value, Value, Value], None]


@dataclass
class Consumer:
    """One pipeline. `start` is the slot and phase of the first iteration."""

    low: Lowering
    op: Op
    parts: Sequence[Part]
    cut: Stages | None
    start: Sequence[Value]
    flying: dict[int, int] = field(default_factory=dict)  # carried values under way at the end: groups behind each
    left: dict[Part, int] = field(default_factory=dict)  # parts that are handed back in the next iteration, likewise
    pending: dict[Part, int] = field(default_factory=dict)  # parts to be handed back, and behind which group
    held: dict[Value, int] = field(default_factory=dict)  # products under way with operands in registers, likewise

    def __post_init__(self) -> None:
        self.use = self.op.regions[1]
        self.stages = int(self.op.attrs["stages"])
        inside = {r for op in self.use.ops for r in op.results}
        self.fresh = {op.result for op in self.use.ops if op.name == "tile.mma" and op["a"] in inside}
        self.crossing = [v for v in self.cut.crossing if v not in self.use.args[:2]] if self.cut else []

    # -- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> list[Value]:
        """The whole loop; the slot and phase behind it."""
        low, op = self.low, self.op
        low.land()
        self.lo, hi, self.step = (low.get(v) for v in op.operands[:3])
        types, inits = low.flat_types(op.results), low.flat_like(op.group("inits"), op.results)
        b, one = low.b, low.b.const(1)
        # counting iterations in 32 bits is all that the loop does besides its body: nobody waits for more of them
        ahead = b.op("arith.sub", b.op("arith.add", b.op("arith.sub", hi, self.lo), self.step), one)
        count = b.op("arith.max", b.op("arith.floordiv", ahead, self.step), b.const(0))
        self.count = b.op("arith.cast", count, to="i32")
        before = low.state
        for part in self.parts:
            speakers(low, part.blocks)
        start = [*self.start, *inits]
        if self.cut is None:
            found = self._whole(types, start)
            del found[2]
        else:
            all_types = [I32, I32, *types]
            found = self._if_any(b.const(0, "i32"), lambda inner: self._stages(inner, inits), start, all_types)
        low.state = replace(low.state, copies=before.copies)
        low.bind(op.results, found[2:])
        return found[:2]

    def _whole(self, types: Sequence[Type], inits: Sequence[Value]) -> list[Value]:
        args = self.use.args[2:]
        carried = list(zip(args, self.use.yields, self.op.results, strict=True))

        def body(low: Lowering, number: Value, slot: Value, phase: Value, before: Value) -> None:
            self._place(number, slot)
            self._wait(FIRST, slot, phase)
            self._ops(self.use.ops, {FIRST: slot})

        b = self.low.b
        return self._loop(b.const(0, "i32"), inits, [b.const(-1, "i32")], types, carried, body)

    def _stages(self, low: Lowering, inits: Sequence[Value]) -> list[Value]:
        cut, use, results = self.cut, self.use, self.op.results
        assert cut is not None
        args = use.args[2:]
        low.bind(args, inits)
        slot, phase = self.start
        zero = low.b.const(0, "i32")
        self._place(zero, slot)
        self._wait(FIRST, slot, phase)
        self._ops(cut.first, {FIRST: slot})
        low.land()
        early = [i for i in range(len(args)) if i not in cut.late]
        carried = [(args[i], use.yields[i], results[i]) for i in early]
        carried += [(v, v, v) for v in self.crossing]
        carried += [(args[i], use.yields[i], results[i]) for i in sorted(cut.late)]
        entering = [use.yields[i] for i in early] + self.crossing + [args[i] for i in sorted(cut.late)]
        likes = [like for _, _, like in carried]
        rings = set(self.op.group("rings"))
        starting = [i for i, op in enumerate(cut.first) if op.name == "tile.mma" or not rings.isdisjoint(op.operands)]
        last = starting[-1] + 1
        computed = {r for op in cut.first for r in op.results} | set(use.args[:2])

        def body(inner: Lowering, number: Value, slot: Value, phase: Value, before: Value) -> None:
            b = inner.b
            self._place(number, slot)
            self._wait(FIRST, slot, phase)
            done = self._release_operands()
            mine = {v for op in cut.second for v in (*op.operands, *op.results)}
            old = {v: held for v, held in inner.env.items() if v in mine}
            self._ops(cut.first[:last], {FIRST: slot})
            kept = dict(inner.env)
            inner.env.update(old)
            self._second(b.op("arith.sub", number, b.const(1, "i32")), before, self._phase_before(slot, phase), done)
            inner.env.update({v: kept[v] for v in computed if v in kept})
            self._ops(cut.first[last:], {})

        following = self._advance(slot, phase)
        flat = low.flat_like(entering, likes)
        types = low.flat_types(likes)
        trail = [slot, low.b.const(-1, "i32")]
        found = self._loop(low.b.const(1, "i32"), [*following, *flat], trail, types, carried, body)
        for (arg, _, _), like in zip(carried, likes, strict=True):
            low.env[arg] = low.env[like]
        number = low.b.op("arith.sub", self.count, low.b.const(1, "i32"))
        self._second(number, found[2], self._phase_before(*found[:2]))
        ends = {i: use.yields[i] for i in cut.late}
        ends |= {i: results[i] for i in early}
        low.land()
        return [*found[:2], *low.flat_like([ends[i] for i in range(len(args))], results)]

    def _second(self, number: Value, slot: Value, phase: Value, done: Container[Op] = ()) -> None:
        assert self.cut is not None
        self._place(number, slot)
        self._wait(SECOND, slot, phase)
        self._ops(self.cut.second, {SECOND: slot}, done)

    def _release_operands(self) -> list[Op]:
        """Lets the second stage's products of the last iteration end, and makes the operands of the next ones.

        Products under way hold their operands' registers, which the new ones get; so all that these are made of is
        behind the wait. They come before the next product starts, for what they are made of takes more registers. Gives
        the operations of the second stage that are done.
        """
        low, products, cut = self.low, self.low.products, self.cut
        assert cut is not None
        group = max((products.fragments.get(r, 0) for r in self.fresh), default=0)
        if group > products.finished:
            for value, held in low.env.items():
                if isinstance(held, Flight) and held.group <= group:
                    low.env[value] = products.landed(held)
            tiles = [v for v in self.crossing if isinstance(v.type, TileType)]
            low.bind(tiles, products.wait(group, low.flat(tiles)))
        casts = [op for op in cut.second if op.name == "arith.cast" and op["a"] in self.crossing]
        made = {op.result for op in casts}
        for op in casts:
            low.op(op)
        for op in cut.second:
            if op.name == "tile.mma" and op["a"] in made:
                prepare_fragments(low, op)
        return casts

    def _loop(
        self, first: Value, inits: Sequence[Value], trail: Sequence[Value], types: Sequence[Type],
        carried: Sequence[tuple[Value, Value, Value]], body: Body,
    ) -> list[Value]:  # fmt: skip
        """Iterations from `first`. `carried`: argument, what the iteration makes for the next, and the result, in whose
        layout both are. `trail`: the slots of the iterations before, the last first, negative where there was none:
        what the first stage hands back in the next iteration is the last slot, what the second does the one before.
        Binds the results; gives the next slot, its phase, the last slot, and the values."""
        low, depth = self.low, len(trail)
        types = [*[I32] * (2 + depth), *types]
        inits = [*inits[:2], *trail, *inits[2:]]

        def iteration(inner: Lowering, args: list[Value]) -> list[Value]:
            number, slot, phase, *flat = args
            slots, flat = flat[:depth], flat[depth:]
            products, b = inner.products, inner.b
            products.behind = []
            products.at_head([*self.flying.values(), *self.left.values(), *self.held.values()])
            products.fragments = {v: products.started - age for v, age in self.held.items()}
            self._bind([arg for arg, _, _ in carried], [like for _, _, like in carried], flat)
            for part, age in self.left.items():
                again = b.op("arith.cmp", slots[part.ends], b.const(0, "i32"), pred="ge")
                self._hand_back_behind(part, slots[part.ends], products.started - age, again)
            due = list(products.behind)
            body(inner, number, slot, phase, slots[0])
            for group, act in due:
                if (group, act) in products.behind:
                    products.finish(group)
            return [*self._advance(slot, phase), slot, *slots[:-1], *self._carry(carried)]

        def build() -> list[Region]:
            """Built again until an iteration begins with what it leaves under way."""
            while True:
                entry, taken, head = low.state, low.shared.copy(), (self.flying, self.left, self.held)
                region = low.nested([I32, *types], iteration)
                if head == (self.flying, self.left, self.held):
                    return [region]
                low.state, low.shared = entry, taken

        def some(inner: Lowering) -> list[Value]:
            regions = inner.around([self.use], build)
            bounds, b = (first, self.count, inner.b.const(1, "i32")), inner.b
            found = b.emit("scf.for", *bounds, list(inits), types=types, regions=regions).results
            products = inner.products
            products.at_head([*self.flying.values(), *self.left.values(), *self.held.values()])
            products.behind, products.fragments = [], {}
            for part, age in self.left.items():
                self._hand_back_behind(part, found[2 + part.ends], products.started - age)
            self._bind(likes, likes, found[2 + depth :])
            inner.land()
            products.finish()
            self.flying = {}
            return [*found[: 2 + depth], *inner.flat(likes)]

        # registers under way must not meet those of a loop without iterations: the last wait is inside of the branch
        likes = [like for _, _, like in carried]
        found = self._if_any(first, some, inits, types)
        self._bind(likes, likes, found[2 + depth :])
        return [*found[:3], *found[2 + depth :]]

    def _if_any(
        self, first: Value, some: Callable[[Lowering], list[Value]], inits: Sequence[Value], types: Sequence[Type]
    ) -> list[Value]:
        """Where there are iterations from `first`, else what they begin with: slot, phase and carried values."""
        low, entry = self.low, self.low.state
        region = low.nested([], lambda inner, _: some(inner))
        low.state = low.state.joined(entry)
        none = low.nested([], lambda *_: list(inits))
        any_ = low.b.op("arith.cmp", self.count, first, pred="gt")
        return list(low.b.emit("scf.if", any_, types=types, regions=[region, none]).results)

    def _bind(self, values: Sequence[Value], likes: Sequence[Value], flat: Sequence[Value]) -> None:
        low, at = self.low, 0
        for i, (value, like) in enumerate(zip(values, likes, strict=True)):
            if not isinstance(like.type, TileType):
                low.env[value] = flat[at]
                at += 1
                continue
            layout = low.layouts.of(like)
            pieces = list(flat[at : at + registers(layout)])
            at += len(pieces)
            tile = Spread(layout, like.type.shape, like.type.dtype, elements=pieces)
            age = self.flying.get(i)
            low.env[value] = tile if age is None else Flight(tile, low.products.started - age)

    def _carry(self, carried: Sequence[tuple[Value, Value, Value]]) -> list[Value]:
        """What an iteration hands on, some of it under way; and what of the next iteration that concerns."""
        low, products = self.low, self.low.products
        flat: list[Value] = []
        flying: dict[int, int] = {}
        for i, (_, value, like) in enumerate(carried):
            held = low.env.get(value)
            if isinstance(held, Flight) and held.sums.layout == low.layouts.of(like) and low.counts[value] == 1:
                del low.env[value]
                flying[i] = products.started - held.group
                flat += held.sums.as_elements(low.b)
            else:
                flat += low.flat_like([value], [like])
        self.flying = flying
        self.left = {p: products.started - g for p, g in self.pending.items() if g > products.finished}
        self.held = {
            v: products.started - g for v, g in products.fragments.items() if g > products.finished and v in self.fresh
        }
        return flat

    # -- rings -------------------------------------------------------------------------------------------------------

    def _place(self, number: Value, slot: Value) -> None:
        """Binds the index and the slot of an iteration."""
        low, b = self.low, self.low.b
        low.env[self.use.args[0]] = b.op("arith.add", self.lo, b.op("arith.mul", wide(b, number), self.step))
        low.env[self.use.args[1]] = wide(b, slot)

    def _wait(self, stage: int, slot: Value, phase: Value) -> None:
        b = self.low.b
        for part in self.parts:
            if part.begins == stage:
                b.emit("target.mbarrier_wait", mbarrier(self.low, part.full, wide(b, slot)), phase)

    def _ops(self, ops: Sequence[Op], slots: dict[int, Value], done: Container[Op] = ()) -> None:
        """Operations of a stage but those done; what ends with it is handed back behind the last that reads it."""
        low = self.low
        readers = {part: self._last_reader(ops, part) for part in self.parts if part.ends in slots}
        for number, op in enumerate(ops):
            if op not in done:
                low.op(op)
            for part, last in readers.items():
                if number == last:
                    self._hand_back_behind(part, slots[part.ends], low.products.started)

    def _last_reader(self, ops: Sequence[Op], part: Part) -> int:
        """The number of the last operation that reads a part's rings where they lie, or into registers."""
        names, last = set(part.rings), -1
        for number, op in enumerate(ops):
            if not names.isdisjoint(op.operands):
                last = number
                names.update(r for r in op.results if r in self.low.layouts.stays)
        return last

    def _hand_back_behind(self, part: Part, slot: Value, group: int, when: Value | None = None) -> None:
        """Hands a part's slot back when a group has finished."""
        self.pending[part] = group
        self.low.products.then(lambda: self._hand_back(part, slot, when), group)

    def _hand_back(self, part: Part, slot: Value, when: Value | None) -> None:
        low, stays = self.low, self.low.layouts.stays
        # products have read a slot for all lanes when the wait for them is over; all have loaded it behind a barrier
        reads = (op for op in self.use.ops if op.name == "tile.read" and op["buf"] in part.rings)
        loaded = {op["buf"] for op in reads if op.result not in stays}
        apart = any(overlap(low.state.used, low.span(memory_of(low, ring).ptr)) for ring in loaded)
        arrive = arrive_warps if apart else arrive_once
        arrive(low, mbarrier(low, part.empty, wide(low.b, slot)), part.blocks, when)

    def _advance(self, slot: Value, phase: Value) -> list[Value]:
        return advance(self.low.b, slot, phase, self.stages)

    def _phase_before(self, slot: Value, phase: Value) -> Value:
        """The phase of the slot before."""
        b = self.low.b
        first = b.op("arith.cmp", slot, b.const(0, "i32"), pred="eq")
        return b.op("arith.select", first, b.op("arith.xor", phase, b.const(1, "i32")), phase)
