"""Strategy `mma`: a contraction sum_k A[.., m, k] * B[.., k, n] by tiles, its epilogue on the finished tile.

    for each tile (m0, n0) of each batch point, one group:    (tiles share the rows evenly, see `_rows`)
        acc = 0
        for k0 in 0, tile_k, ..: acc = mma(map A elements, map B elements, acc)
        map acc: epilogue and stores

Where there may be few rows, the same groups can do without tiles: which it is, the group asks when it runs.

The element expressions of A and B (casts, scalings, transposed or gathered reads) are evaluated where the operand tiles
are filled, so a fused prologue costs nothing extra in the product. They keep their element type: the product widens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tessera.shapes import Dim, ceildiv, dim_max, dim_min, product
from tesseracc.analysis.access import Contraction, is_contraction
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import LanesType, TileType, element
from tesseracc.ir.value import Op, Value
from tesseracc.passes.schedule.elements import Emitter, Env, delinearize
from tesseracc.passes.schedule.to_tile_columns import column_reduction, few_rows
from tesseracc.passes.schedule.tuning import Tuning

#: how many groups a product should at least have on a CPU, for its threads, if each has as many steps of rows
SHARES, LEAST_STEPS = 32, 5


def _used(group: Op, reduce: Op) -> bool:
    """Whether more is done with the sums than to round and to store them."""
    behind = {reduce.result}
    for op in group.regions[0].ops:
        if not behind.isdisjoint(op.operands):
            behind.update(op.results)
            if op.results and op.name != "arith.cast":
                return True
    return False


class _Lowering:
    def __init__(self, group: Op, found: Contraction, emitter: Emitter, tuning: Tuning) -> None:
        self.group = group
        self.found = found
        self.emitter = emitter
        self.b = emitter.b
        self.domain: tuple[Dim, ...] = group.attrs["domain"]
        a, b, acc = (element(v.type) for v in (found.a, found.b, found.reduce.result))
        copied = all(op.result is not v or op.name == "schedule.read" for v in (found.a, found.b)
                     for op in found.operand_ops(v))  # fmt: skip
        extents = (self.m_size, self.n_size, self.k_size)
        used = _used(group, found.reduce)
        tuning = tuning.for_product((a, b, acc), extents, product(self._batch()), copied=copied, used=used)
        emitter.lanes = tuning.lanes
        self.in_axes = tuning.arch.kind == "cuda"  # neighbours along an axis of the launch share what they read
        self.tuning = tuning
        self.step = tuning.step_m
        sizes = (tuning.tile_m, self.m_size), (tuning.tile_n, self.n_size), (tuning.tile_k, self.k_size)
        self.tile = tuple(tile if tuning.whole else fit(tile, size) for tile, size in sizes)

    @property
    def m_size(self) -> Dim:
        return product(self.domain[axis] for axis in self.found.m)

    @property
    def n_size(self) -> Dim:
        return product(self.domain[axis] for axis in self.found.n)

    @property
    def k_size(self) -> Dim:
        size: Dim = self.found.reduce.attrs["sizes"][0]
        return size

    def _batch(self) -> list[Dim]:
        return [self.domain[axis] for axis in self.found.batch]

    def _axes(self, b: Builder, index: Value, axes: Sequence[int]) -> list[Value]:
        """Coordinates along several domain axes from one linear lane index."""
        if len(axes) == 1:
            return [index]
        inside = self.emitter.at(b)
        return delinearize(b, index, [inside.splat(inside.dim(self.domain[axis])) for axis in axes])

    def run(self) -> tuple[Dim, ...]:
        b, emitter = self.b, self.emitter
        (tile_m, tile_n, _), tuning = self.tile, self.tuning
        m, n, k = (emitter.dim(size) for size in (self.m_size, self.n_size, self.k_size))
        few = self._few()
        # the columns of a group: more groups where one has all rows, longer pieces of rows where nothing is packed
        narrow = min(tile_n, tuning.narrow or tile_n)
        width = narrow + (tile_n - narrow) * dim_min(1, self.m_size // (tile_m + 1)) + (tuning.strip - narrow) * few
        batch, blocks_m, blocks_n = self._batch(), ceildiv(self.m_size, tile_m), ceildiv(self.n_size, width)
        if self.step and not batch:
            least = dim_min(self.m_size // (LEAST_STEPS * self.step), dim_max(1, SHARES + 1 - blocks_n))
            blocks_m = dim_max(blocks_m, least)
        if self.in_axes:
            sizes = [emitter.dim(size) for size in (*batch, blocks_m, blocks_n)]
            block_n, block_m = (b.op("tile.group_id", axis=axis) for axis in range(2))
            batch_point = delinearize(b, b.op("tile.group_id", axis=2), sizes[:-2]) if batch else []
            grid: tuple[Dim, ...] = (blocks_n, blocks_m, *([product(batch)] if batch else []))
        else:
            sizes = [emitter.dim(size) for size in (*batch, blocks_n, blocks_m)]
            *batch_point, block_n, block_m = delinearize(b, b.op("tile.group_id"), sizes)
            grid = (product(batch) * blocks_n * blocks_m,)
        m0, extent_m = self._rows(block_m, blocks_m)
        n0 = b.op("arith.mul", block_n, emitter.dim(width))
        extent_n = b.op("arith.sub", n, n0)
        if narrow < tile_n:
            extent_n = b.op("arith.min", extent_n, emitter.dim(width))
        point: dict[int, Value] = dict(zip(self.found.batch, batch_point, strict=True))

        def by_rows(inner: Builder) -> Sequence[Value]:
            strip = (n0, inner.op("arith.min", extent_n, inner.const(tuning.strip)), m)
            few_rows(self.found, emitter.at(inner), tuning, point, strip)
            return ()

        def tiled(inner: Builder) -> Sequence[Value]:
            self._tiled(inner, k, (extent_m, extent_n), (m0, n0), point)
            return ()

        if isinstance(few, int):
            (by_rows if few else tiled)(b)
        else:
            b.if_(b.op("arith.cmp", m, b.const(tuning.few), pred="le"), by_rows, tiled)
        return grid

    def _rows(self, block: Value, blocks: Dim) -> tuple[Value, Value]:
        """The first row of a block, and how many follow: at most those of a tile.

        On a CPU blocks share the rows evenly, in steps: block i begins at step * (steps * i / blocks), rounded down. A
        block takes with it those below it that the same thread would take next, as far as a tile has room: there are
        blocks for many threads, and the right operand is brought into place once for all that one thread has.
        """
        b, emitter, tile = self.b, self.emitter, self.tile[0]
        m = emitter.dim(self.m_size)
        if not self.step or blocks == 1:
            m0 = b.op("arith.mul", block, b.const(tile))
            return m0, b.op("arith.sub", m, m0)
        steps, count = emitter.dim(dim_max(1, ceildiv(self.m_size, self.step))), emitter.dim(blocks)

        def row(block: Value) -> Value:
            step = b.op("arith.floordiv", b.op("arith.mul", steps, block), count)
            return b.op("arith.mul", step, b.const(self.step))

        room = b.op("arith.floordiv", b.op("arith.mul", b.const(self.tuning.tile_m // self.step), count), steps)
        span = b.op("tile.group_span", b.op("arith.min", room, b.op("arith.sub", count, block)))
        m0 = row(block)
        return m0, b.op("arith.sub", b.op("arith.min", m, row(b.op("arith.add", block, span))), m0)

    def _few(self) -> Dim:
        """1 where there are so few rows that they are taken without packing the right operand, else 0."""
        one_axis = len(self.found.m) == len(self.found.n) == 1
        if not self.tuning.few or not one_axis or column_reduction(self.group) is not self.found.reduce:
            return 0
        return dim_max(0, 1 - self.m_size // (self.tuning.few + 1))

    def _tiled(
        self, b: Builder, k: Value, extents: tuple[Value, Value], origin: tuple[Value, Value], point: dict[int, Value]
    ) -> None:
        """Steps of matrix products of packed operands, then the epilogue."""
        tile_m, tile_n, tile_k = self.tile
        (extent_m, extent_n), (m0, n0) = extents, origin
        acc_type = TileType((tile_m, tile_n), element(self.found.reduce.result.type))

        def step(inner: Builder, k0: Value, carried: list[Value]) -> Sequence[Value]:
            inner.loc = b.loc
            extent_k = inner.op("arith.sub", k, k0)
            a, b_ = self.found.a, self.found.b
            left = self._operand(inner, a, (extent_m, extent_k), (tile_m, tile_k), (m0, k0), point, m_first=True)
            right = self._operand(inner, b_, (extent_k, extent_n), (tile_k, tile_n), (k0, n0), point, m_first=False)
            return [inner.op("tile.mma", left, right, carried[0], [extent_m, extent_n, extent_k])]

        zeros = b.op("tile.zeros", types=acc_type)
        (acc,) = b.for_(b.const(0), k, b.const(tile_k), [zeros], step, hint="k0")
        self._epilogue(b, acc, extents, origin, point)

    def _operand(
        self,
        b: Builder,
        value: Value,
        extents: tuple[Value, Value],
        shape: tuple[int, int],
        origin: tuple[Value, Value],
        point: dict[int, Value],
        *,
        m_first: bool,
    ) -> Value:
        """The tile of one operand: the element expression of `value` at every coordinate."""
        reduce = self.found.reduce

        def body(inner: Builder, args: list[Value]) -> Sequence[Value]:
            inner.loc = b.loc
            rows, cols = (
                inner.op("arith.add", inner.op("tile.splat", base), arg) for base, arg in zip(origin, args, strict=True)
            )
            env: Env = {arg: point[axis] for axis, arg in enumerate(self.group.regions[0].args) if axis in point}
            axes, index, k_index = (self.found.m, rows, cols) if m_first else (self.found.n, cols, rows)
            for axis, coordinate in zip(axes, self._axes(inner, index, axes), strict=True):
                env[self.group.regions[0].args[axis]] = coordinate
            env[reduce.regions[0].args[0]] = k_index
            inside = self.emitter.in_lanes(inner)
            for op in self.found.operand_ops(value):
                inside.op(op, env)
            return [inside.splat(env[value])]

        return self._map(b, extents, (), shape, body, [TileType(shape, element(value.type))])[0]

    def _map(
        self,
        b: Builder,
        extents: Sequence[Value],
        tiles: Sequence[Value],
        shape: tuple[int, int],
        body: Callable[[Builder, list[Value]], Sequence[Value]],
        types: list[TileType],
    ) -> tuple[Value, ...]:
        index = LanesType("i64")
        region = b.nested([index, index, *(LanesType(element(t.type)) for t in tiles)], body, ("i", "j"))
        return b.emit("tile.map", list(extents), list(tiles), types=types, regions=[region], shape=shape).results

    def _epilogue(
        self, b: Builder, acc: Value, extents: tuple[Value, Value], origin: tuple[Value, Value], point: dict[int, Value]
    ) -> None:
        args = self.group.regions[0].args

        def body(inner: Builder, given: list[Value]) -> Sequence[Value]:
            inner.loc = self.b.loc
            rows, cols = (inner.op("arith.add", inner.op("tile.splat", at), i) for at, i in zip(origin, given[:2]))
            env: Env = {args[axis]: value for axis, value in point.items()}
            for axes, index in ((self.found.m, rows), (self.found.n, cols)):
                env.update(zip((args[axis] for axis in axes), self._axes(inner, index, axes), strict=True))
            env[self.found.reduce.result] = given[2]
            inside = self.emitter.in_lanes(inner)
            for op in self.group.regions[0].ops:
                if op is not self.found.reduce:
                    inside.op(op, env)
            return ()

        self._map(b, extents, [acc], (self.tile[0], self.tile[1]), body, [])


def fit(tile: int, size: Dim) -> int:
    """A tile no larger than a static extent needs, in steps of 16."""
    return min(tile, -(-max(size, 1) // 16) * 16) if isinstance(size, int) else tile


def lower_mma(group: Op, emitter: Emitter, tuning: Tuning) -> tuple[Dim, ...]:
    """Emits the tiled contraction; the grid has one group per tile of every batch point."""
    found = is_contraction(group)
    assert found is not None, "the strategy mma is chosen for contractions only"
    return _Lowering(group, found, emitter, tuning).run()
