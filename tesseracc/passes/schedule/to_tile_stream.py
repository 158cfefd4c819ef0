"""Strategy `stream`: sums weighted by exp(x - max x), in one pass over blocks of t (stream_weights has the algebra).

    for each tile (m0, n0) of each batch point, one group:
        M = -inf, L = 0, O = 0
        for t0 in 0, block, ..:
            X = map(mma(A, B[t0 ..]), f)                      -inf beyond the end of t
            M' = max(M, row maxima of X),  r = exp(c(M) - c(M')), 1 where M is -inf: the sums are 0 there
            P = exp(X - c(M')), 0 where X is -inf       (as it comes where c is finite)
            L = r L + row sums of P,  O = mma(P, V[t0 ..], r O),  M = M'
        map O: epilogue and stores

Where O's weights are rounded with the finished L in them, O is added up in a second loop, from the scores again.

Memory is that of a tile, whatever the extent of t. Where f gives -inf for all t behind some t(i), as causal masks do,
the loop ends with the last block that any row of the tile needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tessera.shapes import Dim, ceildiv, product
from tesseracc.analysis.access import dependence, unwidened
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import LanesType, TileType, element
from tesseracc.ir.value import Op, Value
from tesseracc.passes.schedule.elements import Emitter, Env, delinearize
from tesseracc.passes.schedule.seen import finite_shift, highest, seen
from tesseracc.passes.schedule.stream_tiles import StreamTile, stream_tiles
from tesseracc.passes.schedule.streams import Stream, stream_of
from tesseracc.passes.schedule.tuning import Tuning

#: operations on a row's number that are as well done again for every block
PLAIN = ("arith.add", "arith.sub", "arith.mul", "arith.constant", "schedule.dim")
Body = Callable[[Emitter, Env, list[Value], list[Value]], Sequence[Value]]


class _Lowering:
    def __init__(self, found: Stream, emitter: Emitter, tile: StreamTile) -> None:
        self.found = found
        self.emitter = emitter
        self.b = emitter.b
        self.domain: tuple[Dim, ...] = found.group.attrs["domain"]
        self.args = found.group.regions[0].args
        self.m_size, self.n_size = (product(self.domain[axis] for axis in axes) for axes in (found.m, found.n))
        self.t_size: Dim = found.maximum.attrs["sizes"][0]
        self.d_size: Dim = found.score[found.maximum].attrs["sizes"][0]
        self.seen, self.finite = seen(found), finite_shift(found)
        self.tile = tile
        self.whole, self.step = tile.whole, tile.step
        self.height, self.width, self.block, self.depth = tile.m, tile.n, tile.block, tile.depth
        emitter.lanes = tile.lanes

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
        height = _even_height(emitter, self.m_size, self.height, self.step)
        self.m0, self.n0 = b.op("arith.mul", block_m, height), b.op("arith.mul", block_n, b.const(self.width))
        rest = b.op("arith.sub", emitter.dim(self.m_size), self.m0)
        self.rows = b.op("arith.min", rest, height)
        self.em = rest if self.whole else self.rows
        self.en = b.op("arith.sub", emitter.dim(self.n_size), self.n0)
        self.t, self.d = emitter.dim(self.t_size), emitter.dim(self.d_size)
        self.of_rows = self._of_rows()
        self.limited = self.seen is not None and self.seen.bound in self.of_rows
        left = self._left(b, b.const(0)) if self.tile.once else None
        (least,) = self._map(b, [self.em], (self.height,), [], ["f32"], lambda inside, *_: [self._lowest(inside)])
        sums = [b.op("tile.zeros", types=TileType((self.height,), "f32")) for _ in found.sums]
        total = b.op("tile.zeros", types=TileType((self.height, self.width), "f32"))

        once = [] if found.twice else [total]

        def step(inner: Builder, t0: Value, carried: list[Value]) -> Sequence[Value]:
            inner.loc = b.loc
            count = 1 + len(sums)
            return self._block(inner, t0, left, carried[0], carried[1:count], carried[count:])

        end = self._end()
        least, *sums = b.for_(b.const(0), end, b.const(self.block), [least, *sums, *once], step, hint="t0")
        total = self._again(end, left, least, sums, total) if found.twice else sums.pop()
        self._finish(least, sums, total)
        return (product(batch) * blocks[0] * blocks[1],)

    @staticmethod
    def _lowest(inside: Emitter) -> Value:
        return inside.b.op("arith.constant", types=LanesType("f32"), value=-math.inf)

    def _end(self) -> Value:
        """Behind the last t at which x may be more than -inf for a row of the tile."""
        b, found = self.b, self.found
        if self.seen is None or len(found.m) != 1:
            return self.t
        last = b.op("arith.sub", b.op("arith.add", self.m0, self.rows), b.const(1))
        end = highest(b, self.seen.bound, self.args[found.m[0]], (self.m0, last), found)
        if end is None:
            return self.t
        end = b.op("arith.add", end, b.const(self.seen.more))
        return b.op("arith.min", b.op("arith.max", end, b.const(0)), self.t)

    def _of_rows(self) -> dict[Value, Value]:
        """What x takes of a row beside its number and sizes, as tiles: made once for all blocks."""
        found = self.found
        known = [found.score[found.maximum].result, found.maximum.regions[0].args[0]]
        needed = self._needed(found.maximum.regions[0].yields[0], known)
        own = {id(op) for op in found.group.regions[0].ops}
        rows = {self.args[axis] for axis in found.m}
        depends = dependence(found.group)
        taken = {v for op in needed if id(op) not in own for v in op.operands}
        values = [
            op.result for op in needed
            if id(op) in own and op.result in taken and not rows.isdisjoint(depends[op.result])
            and any(part.name not in PLAIN for part in self._needed(op.result, known))
        ]  # fmt: skip
        if not values:
            return {}

        def body(inside: Emitter, env: Env, at: list[Value], _: list[Value]) -> Sequence[Value]:
            self._bind(inside, env, found.m, self.m0, at[0])
            return [self._value(inside, dict(env), value) for value in values]

        results = [element(value.type) for value in values]
        return dict(zip(values, self._map(self.b, [self.em], (self.height,), [], results, body), strict=True))

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
        self, b: Builder, t0: Value, left: Value | None, least: Value, sums: Sequence[Value], totals: Sequence[Value]
    ) -> list[Value]:
        """M, L and, where it is summed up at once, O behind a block."""
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
            if self.finite:
                return [weight]
            zero = inside.b.op("arith.constant", types=LanesType("f32"), value=0.0)
            return [inside.b.op("arith.select", self._equal(inside, given[0], self._lowest(inside)), zero, weight)]

        def round_(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
            return [inside.b.op("arith.cast", given[0], to=found.rounded)]

        (p,) = self._map(b, [self.em, et], shape, [x], ["f32"], weigh)
        row_sums = b.op("tile.fold", p, axis=1, kind="add")

        def add(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
            return [inside.b.op("arith.add", inside.b.op("arith.mul", given[0], given[1]), given[2])]

        sums = [self._map(b, [self.em], (self.height,), [old, ratio, row_sums], ["f32"], add)[0] for old in sums]

        if not totals:
            return [new, *sums]

        def scale(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
            return [inside.b.op("arith.mul", given[0], inside.b.op("tile.element", ratio, [at[0]]))]

        (scaled,) = self._map(b, [self.em, self.en], (self.height, self.width), totals, ["f32"], scale)
        if found.rounded != "f32":
            (p,) = self._map(b, [self.em, et], shape, [p], [found.rounded], round_)
        total = b.op("tile.mma", p, self._v(b, t0, et), scaled, [self.em, self.en, et])
        return [new, *sums, total]

    def _again(self, end: Value, left: Value | None, least: Value, sums: Sequence[Value], total: Value) -> Value:
        """O in a loop of its own, from factors that need M and L."""
        found, b = self.found, self.b
        results = {found.maximum.result: least, **dict(zip((op.result for op in found.sums), sums, strict=True))}
        own = {id(op) for op in found.group.regions[0].ops}
        needed = self._needed(found.factor, [found.x, *results])
        taken = {v for op in needed if id(op) not in own for v in op.operands}
        values = [op.result for op in needed if id(op) in own and op.result in taken and op.operands]
        values += [value for value in results if value in taken]

        def of_row(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
            self._bind(inside, env, found.m, self.m0, at[0])
            env.update(zip(results, given, strict=True))
            return [self._value(inside, dict(env), value, list(results)) for value in values]

        types = [element(value.type) for value in values]
        of_rows = dict(zip(values, self._map(b, [self.em], (self.height,), list(results.values()), types, of_row)))

        def step(inner: Builder, t0: Value, carried: list[Value]) -> Sequence[Value]:
            inner.loc = b.loc
            et = self._rest(inner, self.t, t0)
            x = self._x(inner, t0, et, self._scores(inner, t0, et, left))

            def factor(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
                env.update((value, inside.b.op("tile.element", tile, [at[0]])) for value, tile in of_rows.items())
                env[found.x] = given[0]
                return [self._value(inside, env, found.factor, [found.x, *of_rows])]

            (p,) = self._map(inner, [self.em, et], (self.height, self.block), [x], [found.rounded], factor)
            return [inner.op("tile.mma", p, self._v(inner, t0, et), carried[0], [self.em, self.en, et])]

        return b.for_(b.const(0), end, b.const(self.block), [total], step, hint="t0")[0]

    @staticmethod
    def _equal(inside: Emitter, a: Value, b: Value) -> Value:
        return inside.b.op("arith.cmp", a, b, pred="eq")

    def _x(self, b: Builder, t0: Value, et: Value, scores: Value) -> Value:
        """x from the scores; -inf beyond what a row sees and beyond the end of t, where the row maxima look too."""
        found = self.found
        body = found.maximum.regions[0]
        score = found.score[found.maximum].result
        known = [score, *self.of_rows]
        limits = self._limits(b, t0, et) if self.limited else None
        seen = self.seen.x if self.seen is not None and limits is not None else body.yields[0]
        reads = any(op.name == "schedule.read" and op.group("indices") for op in self._needed(seen, known))

        def x(inside: Emitter, env: Env, at: list[Value], given: list[Value]) -> Sequence[Value]:
            self._bind(inside, env, found.m, self.m0, at[0])
            self._rows_known(inside, env, at[0])
            env[body.args[0]] = inside.b.op("arith.add", inside.splat(t0), at[1])
            env[score] = given[0]
            return [self._value(inside, env, seen, known)]

        def bounded(inside: Emitter, at: list[Value], value: Value) -> Sequence[Value]:
            own = inside.splat(et) if limits is None else inside.b.op("tile.element", limits, [at[0]])
            place = at[1] if limits is None else inside.b.op("arith.cast", at[1], to="i32")
            sees = inside.b.op("arith.cmp", place, own, pred="lt")
            return [inside.b.op("arith.select", sees, value, self._lowest(inside))]

        shape, all_columns = (self.height, self.block), [self.em, b.const(self.block)]
        if reads:  # they must not leave their tensors
            (scores,) = self._map(b, [self.em, et], shape, [scores], ["f32"], x)
        return self._map(
            b, all_columns, shape, [scores], ["f32"],
            lambda inside, env, at, given: bounded(inside, at, (given if reads else x(inside, env, at, given))[0]),
        )[0]  # fmt: skip

    def _limits(self, b: Builder, t0: Value, et: Value) -> Value:
        """How many columns of a block each row sees."""
        assert self.seen is not None
        most, bound, more = b.op("arith.min", et, b.const(self.block)), self.seen.bound, self.seen.more

        def limit(inside: Emitter, env: Env, at: list[Value], _: list[Value]) -> Sequence[Value]:
            self._bind(inside, env, self.found.m, self.m0, at[0])
            self._rows_known(inside, env, at[0])
            end = self._value(inside, env, bound, list(self.of_rows))
            left = inside.b.op("arith.sub", end, inside.splat(b.op("arith.sub", t0, b.const(more))))
            left = inside.b.op("arith.min", left, inside.splat(most))
            left = inside.b.op("arith.max", left, inside.splat(b.const(0)))
            return [inside.b.op("arith.cast", left, to="i32")]

        return self._map(b, [self.em], (self.height,), [], ["i32"], limit)[0]

    def _rows_known(self, inside: Emitter, env: Env, row: Value) -> None:
        env.update((value, inside.b.op("tile.element", tile, [row])) for value, tile in self.of_rows.items())

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


def lower_stream(group: Op, emitter: Emitter, tuning: Tuning, tile: StreamTile) -> tuple[Dim, ...]:
    """Emits the streamed sums by such tiles; the grid has one group per tile of every batch point."""
    return _Lowering(_found(group, tuning), emitter, tile).run()


def tiles_of(group: Op, tuning: Tuning) -> tuple[StreamTile, ...]:
    """The tiles by which a group streams, one version each."""
    return stream_tiles(tuning, *_found(group, tuning).products)


def _found(group: Op, tuning: Tuning) -> Stream:
    found = stream_of(group, one_axis=tuning.arch.kind == "cuda")
    assert found is not None, "the strategy stream is chosen for groups of its form"
    return found


def _even_height(emitter: Emitter, size: Dim, tile: int, step: int) -> Value:
    """Rows of a tile of at most `tile`: size / tiles in whole steps, so that no tile is left with a few rows, and
    groups take equal time."""
    b, blocks = emitter.b, ceildiv(size, tile)
    if not step or blocks == 1:
        return b.const(tile)
    per_block = b.op("arith.floordiv", emitter.dim(size), emitter.dim(blocks * step))
    whole = b.op("arith.mul", per_block, emitter.dim(blocks * step))
    rest = b.op("arith.cmp", whole, emitter.dim(size), pred="lt")
    steps = b.op("arith.add", per_block, b.op("arith.cast", rest, to="i64"))
    return b.op("arith.mul", steps, b.const(step))
