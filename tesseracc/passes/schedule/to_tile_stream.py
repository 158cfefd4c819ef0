"""Strategy `stream`: sums weighted by exp(x - max x), in one pass over blocks of t (stream_weights has the algebra).

    for each tile (m0, n0) of each batch point, one group:
        M = -inf, L = 0, O = 0
        for t0 in 0, block, ..:
            X = map(mma(A, B[t0 ..]), f)                      -inf beyond the end of t
            M' = max(M, row maxima of X),  r = exp(c(M) - c(M')), 1 where M is -inf: the sums are 0 there
            P = exp(X - c(M')), 0 where X is -inf
            L = r L + row sums of P,  O = mma(P, V[t0 ..], r O),  M = M'
        map O: epilogue and stores

Memory is that of a tile, whatever the extent of t. Where f gives -inf for all t behind some t(i), as causal masks do,
the loop ends with the last block that any row of the tile needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tessera.shapes import Dim, ceildiv, product
from tesseracc.analysis.access import unwidened
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import LanesType, TileType, element
from tesseracc.ir.value import Op, Value
from tesseracc.passes.schedule.elements import Emitter, Env, delinearize
from tesseracc.passes.schedule.streams import Stream, stream_of
from tesseracc.passes.schedule.to_tile_mma import even_height, fit
from tesseracc.passes.schedule.tuning import Tuning

#: the largest static extent of the score's sum for which the left operand is made once for all blocks
DEPTH = 256
Body = Callable[[Emitter, Env, list[Value], list[Value]], Sequence[Value]]


class _Lowering:
    def __init__(self, found: Stream, emitter: Emitter, tuning: Tuning) -> None:
        self.found = found
        self.emitter = emitter
        self.b = emitter.b
        self.domain: tuple[Dim, ...] = found.group.attrs["domain"]
        self.args = found.group.regions[0].args
        score = found.score[found.maximum]
        self.m_size, self.n_size = (product(self.domain[axis] for axis in axes) for axes in (found.m, found.n))
        self.t_size: Dim = found.maximum.attrs["sizes"][0]
        self.d_size: Dim = score.attrs["sizes"][0]
        streamed = tuning.for_stream(*found.products)
        assert streamed is not None, "groups stream where the target wants it"
        self.whole = streamed.whole
        if self.whole:
            emitter.lanes, self.step = streamed.lanes, 0
            self.height, self.width, self.block = streamed.tile_m, streamed.tile_n, streamed.stream
            self.depth = streamed.tile_k
            return
        a, b, acc = (element(v.type) for v in (found.a, found.b, score.result))
        tuning = tuning.for_product((a, b, acc), (self.m_size, self.t_size, self.d_size), 1, copied=True, used=True)
        self.step = tuning.step_m
        self.height, self.width = fit(tuning.tile_m // 2, self.m_size), fit(tuning.tile_n // 2, self.n_size)
        self.block = fit(tuning.stream, self.t_size)
        self.depth = fit(min(tuning.tile_k, DEPTH), self.d_size)

    # -- elements ------------------------------------------------------------------------------------------------------

    def _needed(self, value: Value, known: Sequence[Value]) -> list[Op]:
        """The operations, in order, that give a value from those known and from indices."""
        ops: list[Op] = []
        for outer in self.found.group.regions[0].ops:
            for inside in (op for region in outer.regions for op in region.ops):
                ops += [*(op for region in inside.regions for op in region.ops), inside]
            ops.append(outer)
        made = {result: op for op in ops for result in op.results}
        wanted: set[int] = set()
        todo = [value]
        while todo:
            current = todo.pop()
            maker = made.get(current)
            if maker is not None and current not in known and id(maker) not in wanted:
                assert not maker.regions, "a sum is known"
                wanted.add(id(maker))
                todo += maker.operands
        return [op for op in ops if id(op) in wanted]

    def _value(self, inside: Emitter, env: Env, value: Value, known: Sequence[Value] = ()) -> Value:
        for op in self._needed(value, known):
            inside.op(op, env)
        return inside.splat(env[value])

    def _bind(self, inside: Emitter, env: Env, axes: Sequence[int], origin: Value, index: Value) -> None:
        """Coordinates along domain axes from a tile's origin and an index in it."""
        b = inside.b
        place = b.op("arith.add", inside.splat(origin), index)
        found = [place]
        if len(axes) > 1:
            found = delinearize(b, place, [inside.splat(inside.dim(self.domain[axis])) for axis in axes])
        env.update(zip((self.args[axis] for axis in axes), found, strict=True))

    def _map(
        self,
        b: Builder,
        extents: Sequence[Value],
        shape: tuple[int, ...],
        tiles: Sequence[Value],
        results: Sequence[str],
        body: Body,
    ) -> tuple[Value, ...]:
        """A map whose body gets an emitter for lanes, the batch point, coordinates and elements."""
        rank = len(shape)

        def region(inner: Builder, given: list[Value]) -> Sequence[Value]:
            inner.loc = self.b.loc
            return body(self.emitter.in_lanes(inner), dict(self.point), given[:rank], given[rank:])

        args = [LanesType("i64")] * rank + [LanesType(element(tile.type)) for tile in tiles]
        nested = b.nested(args, region, tuple("ij"[:rank]))
        types = [TileType(shape, dtype) for dtype in results]
        moves = any(op.name in ("tile.load", "tile.store") and op.group("indices") for op in nested.ops)
        if self.whole and not moves:  # beyond the extents are zeros and what comes of them, which nobody stores
            extents = [b.const(size) for size in shape]
        return b.emit("tile.map", list(extents), list(tiles), types=types, regions=[nested], shape=shape).results

    # -- the kernel ----------------------------------------------------------------------------------------------------

    def run(self) -> tuple[Dim, ...]:
        b, emitter, found = self.b, self.emitter, self.found
        blocks = ceildiv(self.m_size, self.height), ceildiv(self.n_size, self.width)
        batch = [self.domain[axis] for axis in found.batch]
        sizes = [emitter.dim(size) for size in (*batch, *blocks)]
        *place, block_m, block_n = delinearize(b, b.op("tile.group_id"), sizes)
        self.point: Env = dict(zip((self.args[axis] for axis in found.batch), place, strict=True))
        height = even_height(emitter, self.m_size, self.height, self.step)
        self.m0, self.n0 = b.op("arith.mul", block_m, height), b.op("arith.mul", block_n, b.const(self.width))
        rest = b.op("arith.sub", emitter.dim(self.m_size), self.m0)
        self.rows = b.op("arith.min", rest, height)
        self.em = rest if self.whole else self.rows
        self.en = b.op("arith.sub", emitter.dim(self.n_size), self.n0)
        self.t, self.d = emitter.dim(self.t_size), emitter.dim(self.d_size)
        once = isinstance(self.d_size, int) and self.d_size <= self.depth
        left = self._left(b, b.const(0)) if once else None
        (least,) = self._map(b, [self.em], (self.height,), [], ["f32"], lambda inside, *_: [self._lowest(inside)])
        sums = [b.op("tile.zeros", types=TileType((self.height,), "f32")) for _ in found.sums]
        total = b.op("tile.zeros", types=TileType((self.height, self.width), "f32"))

        def step(inner: Builder, t0: Value, carried: list[Value]) -> Sequence[Value]:
            inner.loc = b.loc
            return self._block(inner, t0, left, carried[0], carried[1:-1], carried[-1])

        results = b.for_(b.const(0), self._end(), b.const(self.block), [least, *sums, total], step, hint="t0")
        self._finish(results[0], results[1:-1], results[-1])
        return (product(batch) * blocks[0] * blocks[1],)

    @staticmethod
    def _lowest(inside: Emitter) -> Value:
        return inside.b.op("arith.constant", types=LanesType("f32"), value=-math.inf)

    def _end(self) -> Value:
        """Behind the last t at which x may be more than -inf for a row of the tile."""
        found, b = self.found, self.b
        body = found.maximum.regions[0]
        made = {result: op for op in (*found.group.regions[0].ops, *body.ops) for result in op.results}
        select = made.get(body.yields[0])
        if select is None or select.name != "arith.select" or len(found.m) != 1:
            return self.t
        cond, other = made.get(select["cond"]), made.get(select["b"])
        is_lowest = other is not None and other.name == "arith.constant" and other.attrs["value"] == -math.inf
        if not is_lowest or cond is None or cond.name != "arith.cmp" or cond.attrs["pred"] not in ("le", "lt"):
            return self.t
        index, bound = cond.operands
        row = self.args[found.m[0]]
        added = made.get(bound)
        rises = bound is row or (
            added is not None and added.name == "arith.add" and row in added.operands
            and all(v is row or self._is_size(made.get(v)) for v in added.operands)
        )  # fmt: skip
        if index is not body.args[0] or not rises:
            return self.t
        env = dict(self.point)
        env[row] = b.op("arith.sub", b.op("arith.add", self.m0, self.rows), b.const(1))
        for op in self._needed(bound, [row]):
            self.emitter.op(op, env)
        end = env[bound]
        end = b.op("arith.add", end, b.const(1)) if cond.attrs["pred"] == "le" else end
        return b.op("arith.min", b.op("arith.max", end, b.const(0)), self.t)

    @staticmethod
    def _is_size(op: Op | None) -> bool:
        return op is not None and op.name in ("arith.constant", "schedule.dim")

    # -- one block -----------------------------------------------------------------------------------------------------

    def _left(self, b: Builder, d0: Value) -> Value:
        score = self.found.score[self.found.maximum]
        value = self._narrow(self.found.a)

        def body(inside: Emitter, env: Env, at: list[Value], _: list[Value]) -> Sequence[Value]:
            self._bind(inside, env, self.found.m, self.m0, at[0])
            env[score.regions[0].args[0]] = inside.b.op("arith.add", inside.splat(d0), at[1])
            return [self._value(inside, env, value)]

        extents = [self.em, self._rest(b, self.d, d0)]
        return self._map(b, extents, (self.height, self.depth), [], [element(value.type)], body)[0]

    def _right(self, b: Builder, d0: Value, t0: Value) -> Value:
        score, t = self.found.score[self.found.maximum], self.found.maximum.regions[0].args[0]
        value = self._narrow(self.found.b)

        def body(inside: Emitter, env: Env, at: list[Value], _: list[Value]) -> Sequence[Value]:
            env[score.regions[0].args[0]] = inside.b.op("arith.add", inside.splat(d0), at[0])
            env[t] = inside.b.op("arith.add", inside.splat(t0), at[1])
            return [self._value(inside, env, value)]

        extents = [self._rest(b, self.d, d0), self._rest(b, self.t, t0)]
        return self._map(b, extents, (self.depth, self.block), [], [element(value.type)], body)[0]

    def _narrow(self, value: Value) -> Value:
        body = self.found.score[self.found.maximum].regions[0]
        return unwidened(value, {result: op for op in body.ops for result in op.results})

    @staticmethod
    def _rest(b: Builder, size: Value, start: Value) -> Value:
        return b.op("arith.sub", size, start)

    def _scores(self, b: Builder, t0: Value, et: Value, left: Value | None) -> Value:
        zeros = b.op("tile.zeros", types=TileType((self.height, self.block), "f32"))
        if left is not None:
            right = self._right(b, b.const(0), t0)
            return b.op("tile.mma", left, right, zeros, [self.em, et, self.d])

        def step(inner: Builder, d0: Value, carried: list[Value]) -> Sequence[Value]:
            inner.loc = b.loc
            tiles = self._left(inner, d0), self._right(inner, d0, t0)
            return [inner.op("tile.mma", *tiles, carried[0], [self.em, et, self._rest(inner, self.d, d0)])]

        return b.for_(b.const(0), self.d, b.const(self.depth), [zeros], step, hint="d0")[0]

    def _block(
        self, b: Builder, t0: Value, left: Value | None, least: Value, sums: Sequence[Value], total: Value
    ) -> list[Value]:
        found = self.found
        et = self._rest(b, self.t, t0)
        x = self._x(b, t0, et, self._scores(b, t0, et, left))
        shape, rows = (self.height, self.block), b.op("tile.fold", x, axis=1, kind="max")

        def raise_(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
            old, lowest = given[0], self._lowest(inside)
            new = inside.b.op("arith.max", old, given[1])
            shifts = []
            for value in (old, new):
                known: Env = {found.maximum.result: value}
                shifts.append(self._value(inside, known, found.shift, [found.maximum.result]))
            ratio = inside.b.op("arith.exp", inside.b.op("arith.sub", *shifts))
            one = inside.b.op("arith.constant", types=LanesType("f32"), value=1.0)
            return [new, shifts[1], inside.b.op("arith.select", self._equal(inside, old, lowest), one, ratio)]

        new, shift, ratio = self._map(b, [self.em], (self.height,), [least, rows], ["f32"] * 3, raise_)

        def weigh(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
            by = inside.b.op("tile.element", shift, [at[0]])
            weight = inside.b.op("arith.exp", inside.b.op("arith.sub", given[0], by))
            zero = inside.b.op("arith.constant", types=LanesType("f32"), value=0.0)
            return [inside.b.op("arith.select", self._equal(inside, given[0], self._lowest(inside)), zero, weight)]

        def round_(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
            return [inside.b.op("arith.cast", given[0], to=found.rounded)]

        (p,) = self._map(b, [self.em, et], shape, [x], ["f32"], weigh)
        row_sums = b.op("tile.fold", p, axis=1, kind="add")

        def add(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
            return [inside.b.op("arith.add", inside.b.op("arith.mul", given[0], given[1]), given[2])]

        sums = [self._map(b, [self.em], (self.height,), [old, ratio, row_sums], ["f32"], add)[0] for old in sums]

        def scale(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
            return [inside.b.op("arith.mul", given[0], inside.b.op("tile.element", ratio, [at[0]]))]

        (scaled,) = self._map(b, [self.em, self.en], (self.height, self.width), [total], ["f32"], scale)
        if found.rounded != "f32":
            (p,) = self._map(b, [self.em, et], shape, [p], [found.rounded], round_)
        total = b.op("tile.mma", p, self._v(b, t0, et), scaled, [self.em, self.en, et])
        return [new, *sums, total]

    @staticmethod
    def _equal(inside: Emitter, a: Value, b: Value) -> Value:
        return inside.b.op("arith.cmp", a, b, pred="eq")

    def _x(self, b: Builder, t0: Value, et: Value, scores: Value) -> Value:
        """x from the scores; -inf beyond the end of t, where the row maxima look too."""
        found = self.found
        body = found.maximum.regions[0]
        score = found.score[found.maximum].result
        reads = any(op.name == "schedule.read" and op.group("indices") for op in self._needed(body.yields[0], [score]))

        def x(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Value:
            self._bind(inside, env, found.m, self.m0, at[0])
            env[body.args[0]] = inside.b.op("arith.add", inside.splat(t0), at[1])
            env[score] = given[0]
            return self._value(inside, env, body.yields[0], [score])

        def bounded(inside: Emitter, at: list[Value], value: Value) -> Value:
            inner = inside.b.op("arith.cmp", at[1], inside.splat(et), pred="lt")
            return inside.b.op("arith.select", inner, value, self._lowest(inside))

        shape, all_columns = (self.height, self.block), [self.em, b.const(self.block)]
        if reads:  # they must not leave their tensors
            (scores,) = self._map(
                b, [self.em, et], shape, [scores], ["f32"], lambda inside, env, at, given: [x(inside, env, at, given)]
            )
            return self._map(
                b, all_columns, shape, [scores], ["f32"],
                lambda inside, env, at, given: [bounded(inside, at, given[0])],
            )[0]  # fmt: skip
        return self._map(
            b, all_columns, shape, [scores], ["f32"],
            lambda inside, env, at, given: [bounded(inside, at, x(inside, env, at, given))],
        )[0]  # fmt: skip

    def _v(self, b: Builder, t0: Value, et: Value) -> Value:
        found = self.found
        body = found.total.regions[0]
        value = unwidened(found.v, {result: op for op in body.ops for result in op.results})

        def elements(inside: Emitter, env: Env, at: list[Value], _: list[Value]) -> Sequence[Value]:
            env[body.args[0]] = inside.b.op("arith.add", inside.splat(t0), at[0])
            self._bind(inside, env, found.n, self.n0, at[1])
            return [self._value(inside, env, value)]

        return self._map(b, [et, self.en], (self.block, self.width), [], [element(value.type)], elements)[0]

    def _finish(self, least: Value, sums: Sequence[Value], total: Value) -> None:
        found = self.found

        def body(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
            self._bind(inside, env, found.m, self.m0, at[0])
            self._bind(inside, env, found.n, self.n0, at[1])
            env[found.maximum.result] = inside.b.op("tile.element", least, [at[0]])
            env.update(
                (op.result, inside.b.op("tile.element", tile, [at[0]]))
                for op, tile in zip(found.sums, sums, strict=True)
            )
            env[found.total.result] = given[0]
            for op in found.group.regions[0].ops:
                if not op.regions:
                    inside.op(op, env)
            return ()

        self._map(self.b, [self.em, self.en], (self.height, self.width), [total], [], body)


def lower_stream(group: Op, emitter: Emitter, tuning: Tuning) -> tuple[Dim, ...]:
    """Emits the streamed sums; the grid has one group per tile of every batch point."""
    found = stream_of(group)
    assert found is not None, "the strategy stream is chosen for groups of its form"
    return _Lowering(found, emitter, tuning).run()
