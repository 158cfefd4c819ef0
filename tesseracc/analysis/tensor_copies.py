"""Which copies to shared memory a tensor copy engine can make, and what it asks of the sizes.

The engine moves a box of a row-major tensor to a swizzled tile, and fills with zeros what lies outside of the tensor.
It demands that rows are multiples of 16 bytes apart and that no extent is 0; both are questions about sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tessera.shapes import Dim
from tesseracc.analysis.multiples import times
from tesseracc.ir.types import BufType, TileType, size_of
from tesseracc.ir.value import Func, Op, Region, Value

LINE = 16  # bytes of which addresses and distances are multiples
MOST = 256  # extent of a box along an axis
MOST_AXES = 5
SPANS = (32, 64, 128)  # bytes of a swizzled row


@dataclass(frozen=True, slots=True)
class TensorCopy:
    """A copy of a block by boxes, one after the other in the slot. `box` has an extent per axis of the buffer.

    Of the boxes of a copy that several blocks of a cluster share, each block brings an equal part.
    """

    op: Op
    param: int
    box: tuple[int, ...]
    span: int  # bytes of a box's row
    starts: tuple[tuple[int, int], ...]  # row and column of each box in the block

    @property
    def bytes(self) -> int:
        """All that the copy writes, what lies outside of the tensor included."""
        rows, columns = self.op.attrs["shape"]
        type_ = self.op["dst"].type
        assert isinstance(type_, BufType)
        return int(rows * columns * size_of(type_.dtype))


def tensor_copy(op: Op, params: tuple[Value, ...]) -> TensorCopy | None:
    """A `tile.copy_async` of a parameter's block to the slot of a ring as a tensor copy."""
    src, dst = op["src"].type, op["dst"].type
    shape, axes = op.attrs["shape"], op.attrs["src_axes"]
    assert isinstance(src, BufType) and isinstance(dst, BufType)
    rank, size = len(src.dims), size_of(src.dtype)
    if op["src"] not in params or len(shape) != 2 or not 2 <= rank <= MOST_AXES or axes[1] != rank - 1:
        return None
    rows, columns = shape
    span = min(columns * size, SPANS[-1])
    if tuple(dst.dims[1:]) != tuple(shape) or span not in SPANS or columns * size % span or rows % 8:
        return None
    height = min(rows, MOST)
    blocks = op.attrs["blocks"]
    if rows % height:
        return None
    if columns * size // span * (rows // height) % blocks:
        height //= blocks
        if height % 8:  # rows of the swizzle's pattern
            return None
    box = [1] * rank
    box[axes[0]], box[axes[1]] = height, span // size
    starts = tuple((r, c) for c in range(0, columns, span // size) for r in range(0, rows, height))
    return TensorCopy(op, params.index(op["src"]), tuple(box), span, starts)


@dataclass(frozen=True, slots=True)
class TensorStore:
    """A tile that leaves shared memory by boxes of `height` rows and `width` columns."""

    param: int
    dtype: str
    box: tuple[int, ...]
    span: int
    height: int
    width: int

    def starts(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """Row and column of each box of a tile, or of a part of it."""
        return [(r, c) for c in range(0, shape[1], self.width) for r in range(0, shape[0], self.height)]


def tensor_store(op: Op, params: tuple[Value, ...]) -> TensorStore | None:
    """A `tile.write` of a whole matrix to a parameter as tensor copies."""
    buf, value, axes = op["buf"].type, op["value"].type, tuple(op.attrs["axes"])
    assert isinstance(buf, BufType) and isinstance(value, TileType)
    rank, size = len(buf.dims), size_of(buf.dtype)
    if op["buf"] not in params or op.group("counts") or not 2 <= rank <= MOST_AXES:
        return None
    if len(axes) != 2 or axes[1] != rank - 1 or value.dtype == "bool":
        return None
    rows, columns = value.shape
    span = min(columns * size, SPANS[-1])
    height = min(rows & -rows, MOST)
    if span not in SPANS or columns * size % span or height < 8:
        return None
    box = [1] * rank
    box[axes[0]], box[axes[1]] = height, span // size
    return TensorStore(params.index(op["buf"]), buf.dtype, tuple(box), span, height, span // size)


def tensor_stores(kernel: Func, copies: list[TensorCopy]) -> dict[Op, TensorStore]:
    """What tensor copies can store where sizes suit the `copies`: other rows may be ragged."""
    known = _distances(kernel, [copy.param for copy in copies])
    found: dict[Op, TensorStore] = {}
    for op in kernel.walk():
        store = tensor_store(op, kernel.params) if op.name == "tile.write" else None
        if store and all(_implied(size, known) for size in _distances(kernel, [store.param])):
            found[op] = store
    return found


def _implied(size: tuple[Dim, int], known: list[tuple[Dim, int]]) -> bool:
    dim, multiple = size
    if isinstance(dim, int):
        return dim > 0 and dim % multiple == 0
    return multiple == 1 or any(_follows(size, other) or size == other for other in known)


def pipelines(region: Region) -> list[Op]:
    """The pipelines of a region and of the loops in it, in order; not those in other control flow."""
    found: list[Op] = []
    for op in region.ops:
        if op.name == "tile.pipeline":
            found.append(op)
        elif op.name == "scf.for":
            found += pipelines(op.regions[0])
    return found


def tensor_copies(kernel: Func) -> list[TensorCopy] | None:
    """The copies of all pipelines, if every one is a tensor copy and runs whatever else the kernel does; else None."""
    found: list[TensorCopy] = []
    known = pipelines(kernel.body)
    if not known or sum(op.name == "tile.pipeline" for op in kernel.walk()) != len(known):
        return None
    for pipeline in known:
        for op in pipeline.regions[0].ops:
            if op.name == "tile.copy_async":
                copy = tensor_copy(op, kernel.params)
                if copy is None:
                    return None
                found.append(copy)
    return found if producer_ops(kernel) is not None else None


def producer_ops(kernel: Func) -> set[Op] | None:
    """What computes the bounds and places of all copies, and the bounds of loops around their pipelines; None if that
    takes more than arithmetic on parameters, sizes, indices of the block and indices of those loops."""
    makers = {result: op for op in kernel.walk() for result in op.results}
    needed: set[Op] = set()
    known = set(kernel.params)

    def visit(value: Value) -> bool:
        if value in known:
            return True
        op = makers.get(value)
        if op is None or op.regions or (op.defn.effect != "pure" and op.name != "tile.alloc"):
            return False
        if op.name != "tile.alloc":
            needed.add(op)
        return all(visit(v) for v in op.operands)

    def cover(region: Region) -> bool:
        for op in region.ops:
            if op.name == "tile.pipeline":
                wanted = [*op.operands[:3], *_outside(op.regions[0])]
            elif op.name == "scf.for" and pipelines(op.regions[0]):
                known.add(op.regions[0].args[0])
                wanted = list(op.operands[:3])
            else:
                continue
            if not all(visit(value) for value in wanted) or (op.name == "scf.for" and not cover(op.regions[0])):
                return False
        return True

    return needed if cover(kernel.body) else None


def _outside(region: Region) -> Iterator[Value]:
    inside = set(region.args)
    for op in region.ops:
        yield from (v for v in op.operands if v not in inside)
        inside.update(op.results)


def distances(kernel: Func, copies: list[TensorCopy]) -> list[tuple[Dim, int]]:
    """(extent, what it must be a positive multiple of) for each buffer that is copied from or stored to."""
    stores = tensor_stores(kernel, copies)
    return _distances(kernel, [*(copy.param for copy in copies), *(store.param for store in stores.values())])


def _distances(kernel: Func, params: Sequence[int]) -> list[tuple[Dim, int]]:
    found: dict[tuple[str, int], tuple[Dim, int]] = {}
    for param in dict.fromkeys(params):
        type_ = kernel.params[param].type
        assert isinstance(type_, BufType)
        for axis, dim in enumerate(type_.dims):
            multiple = LINE // size_of(type_.dtype) if axis == len(type_.dims) - 1 else 1
            found.setdefault((str(dim), multiple), (dim, multiple))
    sizes = list(dict.fromkeys(_stronger(kernel, size) for size in found.values()))
    return [size for size in sizes if not any(_follows(size, other) for other in sizes if other != size)]


def _stronger(kernel: Func, size: tuple[Dim, int]) -> tuple[Dim, int]:
    """Where a row is several times one of another buffer, what both are asked for: such sizes rarely differ in it."""
    last = [p.type.dims[-1] for p in kernel.params if isinstance(p.type, BufType) and p.type.dims]
    rows = [dim for dim in last if size[1] > 1 and (times(size[0], dim) or 0) > 1]
    return (rows[0], size[1]) if rows and not isinstance(size[0], int) else size


def _follows(size: tuple[Dim, int], other: tuple[Dim, int]) -> bool:
    """Whether a size is a positive multiple of its number where another one is of its own."""
    factor = times(size[0], other[0])
    return factor is not None and factor > 0 and factor * other[1] % size[1] == 0
