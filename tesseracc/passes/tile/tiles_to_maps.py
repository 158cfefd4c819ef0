"""`tiles-to-maps`: operations on whole tiles become loops over elements (`tile.map`), for targets without registers
that a group spreads a tile over.

Elementwise operations, reads, broadcasts and transposes whose result has one use in the same region are computed
where that use needs them; a tile that has several uses, that a loop carries, or that a product or a fold takes, is
stored. What reads memory is never moved over an operation that may change memory. A write is a map without results.
Copies happen at once where they are started: nobody may look at their destination before they are waited for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import captured, has_effect, remove_dead, uses
from tesseracc.ir.types import BufType, LanesType, TileType, element
from tesseracc.ir.value import Func, Module, Op, Region, Value

LANES = LanesType("i64")
#: recomputed wherever they are used
_CHEAP = frozenset({"tile.full", "tile.coordinate", "arith.constant"})
_LAZY = _CHEAP | {"tile.read", "tile.broadcast", "tile.transpose"}


def _is_lazy(op: Op) -> bool:
    whole = len(op.results) == 1 and isinstance(op.results[0].type, TileType)
    return whole and (op.name in _LAZY or op.defn.dialect == "arith")


class _Elements:
    """The body of one map: elements of tiles at coordinates, each computed once."""

    def __init__(self, outer: _Rewriter, shape: tuple[int, ...], b: Builder) -> None:
        self.outer = outer
        self.shape = shape
        self.b = b
        self.coordinates = [Value(LANES, f"i{axis}") for axis in range(len(shape))]
        self.tiles: dict[Value, Value] = {}  # tiles that the map takes element by element
        self.done: dict[tuple[Value, tuple[Value, ...]], Value] = {}

    def splat(self, value: Value) -> Value:
        return value if isinstance(value.type, LanesType) else self.b.op("tile.splat", value)

    def at(self, tile: Value, coordinates: Sequence[Value]) -> Value:
        key = tile, tuple(coordinates)
        if key not in self.done:
            self.done[key] = self._compute(tile, coordinates)
        return self.done[key]

    def _compute(self, tile: Value, at: Sequence[Value]) -> Value:
        op = self.outer.lazy.get(tile)
        if op is not None:
            self.b.loc = op.loc
            return self._lazy(op, at)
        stored = self.outer.stored.get(tile, tile)
        type_ = stored.type
        assert isinstance(type_, TileType)
        if type_.shape == self.shape and list(at) == self.coordinates:
            if stored not in self.tiles:
                self.tiles[stored] = Value(LanesType(type_.dtype))
            return self.tiles[stored]
        return self.b.op("tile.element", stored, list(at))

    def _lazy(self, op: Op, at: Sequence[Value]) -> Value:
        b = self.b
        match op.name:
            case "tile.full":
                return b.op("tile.splat", op["a"])
            case "arith.constant":
                return b.const(op.attrs["value"], LanesType(element(op.result.type)))
            case "tile.coordinate":
                index, dtype = self.splat(at[op.attrs["axis"]]), element(op.result.type)
                return index if dtype == "i64" else b.op("arith.cast", index, to=dtype)
            case "tile.broadcast":
                source = op["a"].type
                assert isinstance(source, TileType)
                zero = [b.const(0) if n == 1 else None for n in source.shape]
                return self.at(op["a"], [z or at[axis] for z, axis in zip(zero, op.attrs["axes"], strict=True)])
            case "tile.transpose":
                perm = list(op.attrs["perm"])
                return self.at(op["a"], [at[perm.index(axis)] for axis in range(len(perm))])
            case "tile.read":
                places, inside = self.places(op["buf"], op.group("indices"), op.attrs["axes"], at)
                return b.op("tile.load", op["buf"], places, inside)
        return b.op(op.name, *(self.at(v, at) for v in op.operands), **op.attrs)

    def places(
        self, buf: Value, indices: Sequence[Value], axes: Sequence[int], at: Sequence[Value]
    ) -> tuple[list[Value], Value | None]:
        """Indices of the elements of a block, and which lie in the buffer (None: all)."""
        b, type_ = self.b, buf.type
        assert isinstance(type_, BufType)
        places: list[Value] = []
        inside: Value | None = None
        for axis, (size, start) in enumerate(zip(type_.dims, indices, strict=True)):
            place = start
            if axis in axes:
                place = b.op("arith.add", self.splat(start), self.splat(at[list(axes).index(axis)]))
            places.append(place)
            if self.outer.within(start, size, self.shape[list(axes).index(axis)] if axis in axes else 1):
                continue
            limit = b.op("tile.dim", expr=size)
            for bound, pred in ((b.const(0), "ge"), (limit, "lt")):
                if pred == "ge" and self.outer.positive(start):
                    continue
                bound = self.splat(bound) if isinstance(place.type, LanesType) else bound
                part = self.splat(b.op("arith.cmp", place, bound, pred=pred))
                inside = part if inside is None else b.op("arith.and", inside, part)
        if not any(isinstance(p.type, LanesType) for p in places):
            places[-1:] = [self.splat(p) for p in places[-1:]]
        return places, inside


class _Rewriter:
    """One kernel. `lazy` are operations not yet emitted, `stored` the tiles that maps made of them."""

    def __init__(self, kernel: Func) -> None:
        self.counts: Counter[Value] = uses(kernel.body)
        self.lazy: dict[Value, Op] = {}
        self.stored: dict[Value, Value] = {}
        self.makers: dict[Value, Op] = {r: op for op in kernel.walk() for r in op.results}
        self.starts: dict[Value, Value] = {
            op.regions[0].args[0]: op.operands[0] for op in kernel.walk() if op.name == "scf.for"
        }

    # -- what is known of indices ------------------------------------------------------------------------------------

    def positive(self, value: Value) -> bool:
        """Whether an index is known not to be negative: made of group ids, sizes and loops that begin so."""
        if value in self.starts:
            return self.positive(self.starts[value])
        op = self.makers.get(value)
        if op is None:
            return False
        if op.name in ("tile.group_id", "tile.dim"):
            return True
        if op.name == "arith.constant":
            return bool(op.attrs["value"] >= 0)
        return op.name in ("arith.add", "arith.mul", "arith.floordiv", "arith.mod", "arith.min", "arith.max") and all(
            self.positive(v) for v in op.operands
        )

    def within(self, start: Value, size: object, count: int) -> bool:
        """Whether `count` elements from a constant start are known to lie in an axis of known size."""
        op = self.makers.get(start)
        if op is None or op.name != "arith.constant" or not isinstance(size, int):
            return False
        first: int = op.attrs["value"]
        return first >= 0 and first + count <= size

    # -- maps --------------------------------------------------------------------------------------------------------

    def map(self, b: Builder, tile: Value, shape: tuple[int, ...], target: Op | None = None) -> Value | None:
        """Emits the map that stores a tile as a value, or (with `target`, a write, update or copy) in memory."""
        inner = Builder(b.loc)
        body = _Elements(self, shape, inner)
        if target is None:
            type_ = tile.type
            assert isinstance(type_, TileType)
            yields, types = [body.splat(body.at(tile, body.coordinates))], [type_]
        else:
            yields, types = [], []
            self._store(body, tile, target)
        region = Region((*body.coordinates, *body.tiles.values()), tuple(inner.ops), tuple(yields))
        extents = [b.const(n) for n in shape]
        op = b.emit("tile.map", extents, list(body.tiles), types=types, regions=[region], shape=shape)
        return op.results[0] if op.results else None

    @staticmethod
    def _store(body: _Elements, tile: Value, target: Op) -> None:
        if target.name == "tile.copy_async":
            here, there = target.group("src_at"), target.group("dst_at")
            places, inside = body.places(target["src"], here, target.attrs["src_axes"], body.coordinates)
            value, buf = body.b.op("tile.load", target["src"], places, inside), target["dst"]
            axes = target.attrs["dst_axes"]
        else:
            value, buf, there, axes = body.at(tile, body.coordinates), target["buf"], target.group("indices"), (
                target.attrs["axes"]
            )  # fmt: skip
        places, inside = body.places(buf, there, axes, body.coordinates)
        if target.name != "tile.copy_async":
            for coordinate, count in zip(body.coordinates, target.group("counts")):
                part = body.b.op("arith.cmp", coordinate, body.splat(count), pred="lt")
                inside = part if inside is None else body.b.op("arith.and", inside, part)
        if target.name == "tile.update_block":
            body.b.emit("tile.update", body.splat(value), buf, places, inside, kind=target.attrs["kind"])
        else:
            body.b.emit("tile.store", body.splat(value), buf, places, inside)

    def need(self, b: Builder, value: Value) -> Value:
        """The value, a tile in memory if it is a tile."""
        if value in self.lazy:
            type_ = value.type
            assert isinstance(type_, TileType)
            found = self.map(b, value, type_.shape)
            assert found is not None
            found.name = value.name
            del self.lazy[value]
            self.stored[value] = found
        return self.stored.get(value, value)

    def flush(self, b: Builder, *, only_reads: bool) -> None:
        """Stores what waits to be computed: all of it, or what depends on memory."""
        for value, op in list(self.lazy.items()):
            if op.name not in _CHEAP and (not only_reads or self._reads(value)):
                self.need(b, value)

    def _reads(self, value: Value) -> bool:
        op = self.lazy.get(value)
        return op is not None and (op.name == "tile.read" or any(self._reads(v) for v in op.operands))

    # -- regions -----------------------------------------------------------------------------------------------------

    def region(self, region: Region) -> Region:
        b = Builder()
        here = Counter(v for op in region.ops for v in op.operands)
        for op in region.ops:
            b.loc = op.loc
            if _is_lazy(op):
                self.lazy[op.result] = op
                alone = self.counts[op.result] == 1 and here[op.result] == 1
                if op.name not in _CHEAP and not alone:
                    self.need(b, op.result)
                continue
            self.operation(b, op)
        yields = [self.need(b, v) for v in region.yields]
        return Region(region.args, tuple(b.ops), tuple(yields))

    def operation(self, b: Builder, op: Op) -> None:
        if op.name in ("tile.write", "tile.update_block", "tile.copy_async"):
            self.flush_others(b, op)
            first = op.operands[0]
            shape = op.attrs["shape"] if op.name == "tile.copy_async" else first.type.shape  # type: ignore[union-attr]
            self.map(b, first, tuple(shape), op)
            self.lazy.pop(first, None) if first in self.lazy and self.lazy[first].name not in _CHEAP else None
        elif op.name in ("tile.commit", "tile.wait"):
            return
        else:
            if op.regions:
                for value in (v for r in op.regions for v in captured(r)):
                    if value in self.lazy and self.lazy[value].name not in _CHEAP:
                        self.need(b, value)
            if has_effect(op):
                self.flush(b, only_reads=True)
            operands = tuple(self.need(b, v) for v in op.operands)
            regions = tuple(self.region(r) for r in op.regions)
            b.append(replace(op, operands=operands, regions=regions))

    def flush_others(self, b: Builder, op: Op) -> None:
        """What reads memory is stored before a write; what the write itself stores may be read on the way."""
        own: set[Value] = set()
        todo = [v for v in op.operands if v in self.lazy]
        while todo:
            value = todo.pop()
            own.add(value)
            todo += [v for v in self.lazy[value].operands if v in self.lazy]
        buf = op["dst"] if op.name == "tile.copy_async" else op["buf"]
        reads_target = any(self.lazy[v].name == "tile.read" and self.lazy[v]["buf"] is buf for v in own)
        for value in list(self.lazy):
            if value in self.lazy and self._reads(value) and (value not in own or reads_target):
                self.need(b, value)


def to_maps(kernel: Func) -> Func:
    """One kernel."""
    return replace(kernel, body=remove_dead(_Rewriter(kernel).region(kernel.body)))


@register("tiles-to-maps", level="tile")
def run(module: Module, context: Context) -> Module:
    """Rewrites every kernel that has whole tiles."""
    return module.with_(funcs=tuple(to_maps(f) if f.kind == "tile.kernel" else f for f in module.funcs))

