"""`maps-to-tiles`: a `tile.map` of plain blocks becomes operations on whole tiles, which move memory in vectors.

The inverse of `tiles-to-maps`, for targets that spread tiles over registers. In the region of a map

    load buf[s + i, t + j]      is a block that begins at (s, t)             tile.read
    load buf[t + j]             is a row that all rows share                 tile.read, tile.broadcast
    arithmetic                  is arithmetic on tiles
    store buf[s + i, t + j]     is a block, cut off at the extents           tile.write with counts

A map with anything else in it stays as it is. Outside of the extents a map's results are 0: so are the elements of a
block where its buffer ends; any other result is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import clone_op, remove_dead
from tesseracc.ir.types import BufType, LanesType, TileType, Type, element
from tesseracc.ir.value import Func, Module, Op, Region, Value


@dataclass(frozen=True, slots=True)
class Index:
    """An i64 per element: a uniform start, plus the coordinate along an axis of the map."""

    start: Value | None
    axis: int | None


@dataclass(frozen=True, slots=True)
class Uniform:
    """The same scalar for every element."""

    value: Value


@dataclass(frozen=True, slots=True)
class Part:
    """A tile over some of the map's axes, which rise. `edge`: it is 0 outside of the map's extents."""

    tile: Value
    axes: tuple[int, ...]
    edge: bool = False


Form = Index | Uniform | Part


class _NoTiles(Exception):
    """The map does something that operations on tiles cannot say."""


class _Map:
    """The translation of one map, into a builder of its own."""

    def __init__(self, op: Op, makers: dict[Value, Op], loops: dict[Value, Op]) -> None:
        self.op = op
        self.makers = makers
        self.loops = loops  # by their index
        self.b = Builder(op.loc)
        self.shape: tuple[int, ...] = tuple(op.attrs["shape"])
        self.everything = tuple(range(len(self.shape)))
        self.forms: dict[Value, Form] = {}

    def run(self) -> tuple[list[Op], list[Value]]:
        region = self.op.regions[0]
        self._check_memory(region)
        rank = len(self.shape)
        for axis, arg in enumerate(region.args[:rank]):
            self.forms[arg] = Index(None, axis)
        for arg, tile in zip(region.args[rank:], self.op.group("tiles"), strict=True):
            self.forms[arg] = Part(tile, self.everything)
        for op in region.ops:
            self.b.loc = op.loc
            found = self.operation(op)
            if found is not None:
                self.forms[op.result] = found
        return self.b.ops, [self.result(v) for v in region.yields]

    @staticmethod
    def _check_memory(region: Region) -> None:
        """Whole tiles are read before any is written: no buffer may be both."""
        loaded = {op["buf"] for op in region.ops if op.name == "tile.load"}
        if any(op.name == "tile.store" and op["buf"] in loaded for op in region.ops):
            raise _NoTiles

    # -- operations --------------------------------------------------------------------------------------------------

    def operation(self, op: Op) -> Form | None:
        if op.name == "tile.splat":
            return self.forms.get(op["a"], Uniform(op["a"]))
        if op.name == "arith.constant":
            if not isinstance(op.result.type, LanesType):
                return Uniform(self.b.append(clone_op(op, {}))[0])
            return Uniform(self.b.const(op.attrs["value"], element(op.result.type)))
        if op.name in ("tile.dim", "tile.group_id"):
            return Uniform(self.b.append(clone_op(op, {}))[0])
        if op.name == "tile.load":
            return self.load(op)
        if op.name == "tile.element":
            return self.element(op)
        if op.name == "tile.store":
            self.store(op)
            return None
        if op.defn.dialect != "arith":
            raise _NoTiles
        forms = [self.forms.get(v, Uniform(v)) for v in op.operands]
        if all(isinstance(form, Uniform) for form in forms):
            return Uniform(self.b.op(op.name, *(form.value for form in forms if isinstance(form, Uniform)), **op.attrs))
        found = self.index_sum(forms) if op.name == "arith.add" else None
        return found or self.elementwise(op, forms)

    def element(self, op: Op) -> Form:
        """The elements of a tile that lies along axes of the map."""
        axes: list[int] = []
        for value in op.group("indices"):
            form = self.forms.get(value)
            if not isinstance(form, Index) or form.start is not None or form.axis is None:
                raise _NoTiles
            axes.append(form.axis)
        type_ = op["tile"].type
        assert isinstance(type_, TileType)
        if sorted(set(axes)) != axes or tuple(self.shape[axis] for axis in axes) != type_.shape:
            raise _NoTiles
        return Part(op["tile"], tuple(axes))

    def index_sum(self, forms: Sequence[Form]) -> Form | None:
        """A coordinate plus a uniform number."""
        match forms:
            case [Index(start, axis), Uniform(value)] | [Uniform(value), Index(start, axis)]:
                return Index(value if start is None else self.b.op("arith.add", start, value), axis)
        return None

    def elementwise(self, op: Op, forms: Sequence[Form]) -> Form:
        parts = [self.part(form) if isinstance(form, Index) else form for form in forms]
        axes = tuple(sorted({axis for part in parts if isinstance(part, Part) for axis in part.axes}))
        tiles = [self.over(part, axes) for part in parts]
        return Part(self.b.op(op.name, *tiles, **op.attrs), axes)

    def part(self, index: Index) -> Part | Uniform:
        """An index as a tile of rank 1."""
        if index.axis is None:
            assert index.start is not None
            return Uniform(index.start)
        type_ = TileType((self.shape[index.axis],), "i64")
        tile = self.b.op("tile.coordinate", types=type_, axis=0)
        if index.start is not None:
            tile = self.b.op("arith.add", tile, self.b.op("tile.full", index.start, types=type_))
        return Part(tile, (index.axis,))

    def over(self, part: Form, axes: tuple[int, ...]) -> Value:
        """A tile over these axes of the map."""
        shape = tuple(self.shape[axis] for axis in axes)
        if isinstance(part, Uniform):
            return self.b.op("tile.full", part.value, types=TileType(shape, element(part.value.type)))
        assert isinstance(part, Part)
        if part.axes == axes:
            return part.tile
        type_: Type = TileType(shape, element(part.tile.type))
        return self.b.op("tile.broadcast", part.tile, types=type_, axes=tuple(axes.index(axis) for axis in part.axes))

    # -- memory ------------------------------------------------------------------------------------------------------

    def block(self, op: Op) -> tuple[list[Value], dict[int, int]]:
        """Where the block of an access begins, and the buffer's axis that each axis of the map runs along."""
        type_ = op["buf"].type
        if op.optional("where") is not None or not isinstance(type_, BufType) or type_.space == "local":
            raise _NoTiles
        starts: list[Value] = []
        axes: dict[int, int] = {}
        for target, value in enumerate(op.group("indices")):
            form = self.forms.get(value, Uniform(value))
            if isinstance(form, Part) or (isinstance(form, Index) and form.axis in axes):
                raise _NoTiles
            start = form.value if isinstance(form, Uniform) else form.start
            starts.append(self.b.const(0) if start is None else start)
            if isinstance(form, Index) and form.axis is not None:
                axes[form.axis] = target
        return starts, dict(sorted(axes.items()))

    def load(self, op: Op) -> Form:
        starts, axes = self.block(op)
        buf = op["buf"]
        assert isinstance(buf.type, BufType)
        if not axes:
            return Uniform(self.b.op("tile.load", buf, starts))
        type_ = TileType(tuple(self.shape[axis] for axis in axes), buf.type.dtype)
        tile = self.b.op("tile.read", buf, starts, types=type_, axes=tuple(axes.values()))
        edge = all(
            self.ends(axis, starts[target], buf.type.dims[target]) or self.covers(axis) for axis, target in axes.items()
        )
        return Part(tile, tuple(axes), edge and len(axes) == len(self.shape))

    def ends(self, axis: int, start: Value, size: object) -> bool:
        """Whether the extent of an axis is where the buffer ends: size - start."""
        made = self.makers.get(self.op.group("extents")[axis])
        if made is None or made.name != "arith.sub" or made.operands[1] is not start:
            return False
        whole = self.makers.get(made.operands[0])
        found = whole.attrs.get("expr", whole.attrs.get("value")) if whole is not None else None
        return whole is not None and whole.name in ("tile.dim", "arith.constant") and bool(found == size)

    def covers(self, axis: int) -> bool:
        """Whether the extent of an axis never cuts the map: size - index of a loop whose steps divide the size."""
        made = self.makers.get(self.op.group("extents")[axis])
        loop = self.loops.get(made.operands[1]) if made is not None and made.name == "arith.sub" else None
        if made is None or loop is None:
            return False
        size, lo, step = (self.number(v) for v in (made.operands[0], loop.operands[0], loop.operands[2]))
        return size is not None and lo == 0 and step == self.shape[axis] and size % step == 0

    def whole(self, axis: int) -> bool:
        """Whether the extent of an axis is a number that does not cut the map."""
        found = self.number(self.op.group("extents")[axis])
        return found is not None and found >= self.shape[axis]

    def number(self, value: Value) -> int | None:
        made = self.makers.get(value)
        found = made.attrs["value"] if made is not None and made.name == "arith.constant" else None
        return found if isinstance(found, int) else None

    def store(self, op: Op) -> None:
        starts, axes = self.block(op)
        if tuple(axes) != self.everything:
            raise _NoTiles
        form = self.forms.get(op["value"], Uniform(op["value"]))
        value = self.over(self.part(form) if isinstance(form, Index) else form, self.everything)
        self.b.emit("tile.write", value, op["buf"], starts, list(self.op.group("extents")), axes=tuple(axes.values()))

    def result(self, value: Value) -> Value:
        """A result of the map: 0 outside of the extents."""
        form = self.forms.get(value, Uniform(value))
        form = self.part(form) if isinstance(form, Index) else form
        tile = self.over(form, self.everything)
        cut = [axis for axis in self.everything if not self.whole(axis)]
        if not cut or (isinstance(form, Part) and form.edge):
            return tile
        b, type_ = self.b, TileType(self.shape, "i64")
        inside: Value | None = None
        for axis in cut:
            extent = self.op.group("extents")[axis]
            at = b.op("tile.coordinate", types=type_, axis=axis)
            part = b.op("arith.cmp", at, b.op("tile.full", extent, types=type_), pred="lt")
            inside = part if inside is None else b.op("arith.and", inside, part)
        assert inside is not None
        zeros = b.op("tile.zeros", types=tile.type)
        return b.op("arith.select", inside, tile, zeros)


def to_tiles(kernel: Func) -> Func:
    """One kernel."""
    makers = {result: op for op in kernel.walk() for result in op.results}
    loops = {op.regions[0].args[0]: op for op in kernel.walk() if op.name == "scf.for"}
    subst: dict[Value, Value] = {}

    def region(old: Region) -> Region:
        ops: list[Op] = []
        for op in old.ops:
            op = replace(
                op, operands=tuple(subst.get(v, v) for v in op.operands), regions=tuple(region(r) for r in op.regions)
            )
            if op.name != "tile.map":
                ops.append(op)
                continue
            try:
                made, results = _Map(op, makers, loops).run()
            except _NoTiles:
                ops.append(op)
                continue
            ops += made
            subst.update(zip(op.results, results, strict=True))
        return Region(old.args, tuple(ops), tuple(subst.get(v, v) for v in old.yields))

    return replace(kernel, body=remove_dead(region(kernel.body)))


@register("maps-to-tiles", level="tile")
def run(module: Module, context: Context) -> Module:
    """Rewrites the maps of every kernel that operations on tiles can express."""
    return module.with_(funcs=tuple(to_tiles(f) if f.kind == "tile.kernel" else f for f in module.funcs))
