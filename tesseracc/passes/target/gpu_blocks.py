"""Blocks of buffers as spread tiles, and back: `tile.read`, `tile.write`, `tile.copy_async` on a GPU.

Consecutive registers that lie side by side in memory move together, up to 16 bytes. In global memory that needs
addresses that are multiples of the vector, which a ragged row length may deny: a uniform branch takes vectors without
bounds checks where the block is inside of the buffer and aligned, and checked single elements elsewhere.

Rows of shared memory that products read are swizzled: with chunks of 16 bytes, chunk c of row r lies at c xor
(r / per_phase mod phases), so that 8 rows of one chunk column meet 8 different groups of banks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from tessera.shapes import Dim
from tesseracc.ir.types import BOOL, BufType, ScalarType, TileType, Type, VecType, bits_of, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.layout.build import coalesced
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.dims import flat_index
from tesseracc.passes.target.gpu_matrix_load import matrix_load
from tesseracc.passes.target.gpu_spread import (
    Places,
    Spread,
    constant_part,
    pack,
    padded,
    per_word,
    registers,
    unpack,
)

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering

VECTOR_BYTES = 16


@dataclass(frozen=True, slots=True)
class Swizzle:
    """Elements of a chunk, rows that share a phase, and the number of phases."""

    chunk: int
    per_phase: int
    phases: int

    @staticmethod
    def of(columns: int, dtype: str) -> Swizzle | None:
        """What spreads 8 rows of a chunk column over all banks; None for rows that do not consist of chunks."""
        chunk = VECTOR_BYTES // size_of(dtype)
        chunks = columns // chunk
        if columns % chunk or chunks & (chunks - 1) or chunks < 2:
            return None
        per_phase = max(1, 8 // chunks)
        return Swizzle(chunk, per_phase, min(8, chunks) if per_phase == 1 else 8 // per_phase)

    @staticmethod
    def of_buffer(buf: Value) -> Swizzle | None:
        """The swizzle of a buffer's rows."""
        type_ = buf.type
        assert isinstance(type_, BufType)
        columns = type_.dims[-1]
        return Swizzle.of(columns, type_.dtype) if isinstance(columns, int) and len(type_.dims) > 1 else None


@dataclass(frozen=True, slots=True)
class Memory:
    """A buffer that blocks are taken from: its address, dims, element type, space, and how its rows are swizzled."""

    ptr: Value
    dims: tuple[Dim, ...]
    dtype: str
    space: str
    swizzle: Swizzle | None = None

    def address(self, low: Lowering, at: Sequence[Value]) -> Value:
        """The address of an element."""
        b = low.b
        at = list(at)
        if self.swizzle is not None:
            phase = at[-2]
            if self.swizzle.per_phase > 1:
                phase = b.op("arith.shr", phase, b.const(self.swizzle.per_phase.bit_length() - 1))
            phase = b.op("arith.and", phase, b.const(self.swizzle.phases - 1))
            at[-1] = b.op("arith.xor", at[-1], b.op("arith.mul", phase, b.const(self.swizzle.chunk)))
        index = flat_index(b, at, self.dims, low.symbols)
        return b.op("target.offset", self.ptr, index, dtype=self.dtype)


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle of a buffer: where it begins, its shape, and the buffer's axis of each of its own."""

    memory: Memory
    at: tuple[Value, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def vector(self, layout: LinearLayout) -> int:
        """Consecutive registers that are consecutive in memory, at most 16 bytes of them."""
        last = len(self.memory.dims) - 1
        if last not in self.axes:
            return 1
        axis = self.axes.index(last)
        most = VECTOR_BYTES // size_of(self.memory.dtype)
        size = 1
        for column in layout.vectors("register"):
            if size >= most or any(c for a, c in enumerate(column) if a != axis) or column[axis] != size:
                break
            size *= 2
        while size > 1 and self.shape[axis] % size:
            size //= 2
        if self.memory.space == "shared":
            columns = self.memory.dims[last]
            while size > 1 and (not isinstance(columns, int) or columns % size):
                size //= 2
        return size

    def indices(self, low: Lowering, places: Places, register: int) -> list[Value]:
        """The buffer's indices of a register's element."""
        found = list(self.at)
        for axis, target in enumerate(self.axes):
            found[target] = low.b.op("arith.add", found[target], places.at(axis, register))
        return found

    def inside(self, low: Lowering, places: Places, register: int, extra: Sequence[Value | None]) -> Value:
        """Whether an element is in the buffer, in the block (which may be padded), and below further bounds."""
        b = low.b
        parts: list[Value] = []
        for target, start in enumerate(self.at):
            if target not in self.axes:
                index = start
            else:
                axis = self.axes.index(target)
                local = places.at(axis, register)
                index = b.op("arith.add", start, local)
                bound = extra[axis]
                if places.layout.out_size(f"dim{axis}") > self.shape[axis]:
                    parts.append(b.op("arith.cmp", local, b.const(self.shape[axis]), pred="lt"))
                if bound is not None:
                    parts.append(b.op("arith.cmp", local, bound, pred="lt"))
            # as an unsigned number a negative index is beyond every size
            size = b.op("arith.bitcast", low.dim(self.memory.dims[target]), to="u64")
            parts.append(b.op("arith.cmp", b.op("arith.bitcast", index, to="u64"), size, pred="lt"))
        found = parts[0] if parts else b.const(True, BOOL)
        for part in parts[1:]:
            found = b.op("arith.and", found, part)
        return found

    def whole(self, low: Lowering, layout: LinearLayout, vector: int, extra: Sequence[Value | None]) -> Value | None:
        """Whether no element needs a check and vectors are aligned; None where that is known to hold."""
        b = low.b
        parts: list[Value] = []
        for target, start in enumerate(self.at):
            size = low.dim(self.memory.dims[target])
            axis = self.axes.index(target) if target in self.axes else None
            extent = 1 if axis is None else layout.out_size(f"dim{axis}")
            known = low.known(start), self.memory.dims[target]
            if not (known[0] is not None and isinstance(known[1], int) and 0 <= known[0] <= known[1] - extent):
                end = b.op("arith.add", start, b.const(extent))
                parts += [b.op("arith.cmp", start, b.const(0), pred="ge"), b.op("arith.cmp", end, size, pred="le")]
            if axis is not None and extra[axis] is not None:
                bound = extra[axis]
                assert bound is not None
                parts.append(b.op("arith.cmp", bound, b.const(extent), pred="ge"))
        if vector > 1:
            last = len(self.at) - 1
            start, width = self.at[last], self.memory.dims[last]
            mask = b.const(vector - 1)
            number = low.known(start)
            if number is None or number % vector:
                parts.append(b.op("arith.cmp", b.op("arith.and", start, mask), b.const(0), pred="eq"))
            if not isinstance(width, int) or width % vector:
                rest = b.op("arith.and", low.dim(width), mask)
                parts.append(b.op("arith.cmp", rest, b.const(0), pred="eq"))
        found: Value | None = None
        for part in parts:
            found = part if found is None else b.op("arith.and", found, part)
        return found


# -- reading -----------------------------------------------------------------------------------------------------------


def read_block(low: Lowering, block: Block, layout: LinearLayout) -> Spread:
    """The block in a layout; 0 outside of the buffer."""
    dtype = block.memory.dtype
    if block.memory.space == "shared":
        found = matrix_load(low, block, layout)
        if found is not None:
            return Spread(layout, block.shape, dtype, words=found)
    vector = block.vector(layout)
    words = vector * bits_of(dtype) >= 32 and bits_of(dtype) < 32
    places = Places(low.b, low.thread(), layout)
    count = registers(layout)
    for axis in range(len(block.axes)):
        for register in range(count):
            places.at(axis, register)
    none: list[Value | None] = [None] * len(block.axes)

    def fast(inner: Lowering) -> list[Value]:
        found: list[Value] = []
        for register in range(0, count, vector):
            ptr = block.memory.address(inner, block.indices(inner, places, register))
            found += _load(inner, ptr, dtype, vector, words)
        return found

    def slow(inner: Lowering) -> list[Value]:
        found: list[Value] = []
        for register in range(count):

            def load(deep: Lowering, register: int = register) -> list[Value]:
                ptr = block.memory.address(deep, block.indices(deep, places, register))
                return [deep.b.op("target.load", ptr, types=ScalarType(dtype), align=size_of(dtype))]

            inside = block.inside(inner, places, register, none)
            found += inner.branch(inside, load, lambda deep: [deep.zero(dtype)], [ScalarType(dtype)])
        return pack(inner.b, found, dtype) if words else found

    whole = block.whole(low, layout, vector, none)
    types: list[Type] = [ScalarType("u32" if words else dtype)] * (count // (per_word(dtype) if words else 1))
    values = fast(low) if whole is None else list(low.branch(whole, fast, slow, types))
    return Spread(layout, block.shape, dtype, **{"words" if words else "elements": values})


def _load(low: Lowering, ptr: Value, dtype: str, vector: int, words: bool) -> list[Value]:
    """`vector` elements, as words or one by one."""
    b = low.b
    kind, count = ("u32", vector // per_word(dtype)) if words else (dtype, vector)
    align = vector * size_of(dtype)
    if count == 1:
        return [b.op("target.load", ptr, types=ScalarType(kind), align=align)]
    vec = b.op("target.load", ptr, types=VecType(count, kind), align=align)
    return [b.op("target.extract", vec, lane=lane) for lane in range(count)]


# -- writing -----------------------------------------------------------------------------------------------------------


def write_block(low: Lowering, block: Block, value: Spread, counts: Sequence[Value | None] = ()) -> None:
    """Stores a tile; what lies outside of the buffer, or behind a count, is dropped."""
    dtype, layout = block.memory.dtype, value.layout
    vector = block.vector(layout)
    words = vector * bits_of(dtype) >= 32 and bits_of(dtype) < 32
    places = Places(low.b, low.thread(), layout)
    count = registers(layout)
    for axis in range(len(block.axes)):
        for register in range(count):
            places.at(axis, register)
    extra: list[Value | None] = list(counts) or [None] * len(block.axes)
    pieces = value.as_words(low.b) if words else value.as_elements(low.b)
    fresh = sorted({constant_part(layout, r): r for r in reversed(range(count))}.values())

    def fast(inner: Lowering) -> list[Value]:
        step = vector // (per_word(dtype) if words else 1)
        for number, register in enumerate(range(0, count, vector)):
            if register in fresh:
                ptr = block.memory.address(inner, block.indices(inner, places, register))
                _store(inner, pieces[number * step : (number + 1) * step], ptr, vector * size_of(dtype))
        return []

    def slow(inner: Lowering) -> list[Value]:
        elements = unpack(inner.b, pieces, dtype) if words else pieces
        for register in fresh:

            def store(deep: Lowering, register: int = register) -> list[Value]:
                ptr = block.memory.address(deep, block.indices(deep, places, register))
                deep.b.emit("target.store", elements[register], ptr, align=size_of(dtype))
                return []

            inner.branch(block.inside(inner, places, register, extra), store, lambda _: [], [])
        return []

    def both(inner: Lowering) -> list[Value]:
        if layout.shape != block.shape:  # padding is not written
            slow(inner)
            return []
        whole = block.whole(inner, layout, vector, extra)
        if whole is None:
            fast(inner)
        else:
            inner.branch(whole, fast, slow, [])
        return []

    first = places.first_copy()
    if first is None:
        both(low)
    else:
        low.branch(first, both, lambda _: [], [])


def _store(low: Lowering, pieces: Sequence[Value], ptr: Value, align: int) -> None:
    b = low.b
    if len(pieces) == 1:
        b.emit("target.store", pieces[0], ptr, align=align)
        return
    type_ = pieces[0].type
    assert isinstance(type_, ScalarType)
    vec = b.op("arith.constant", types=VecType(len(pieces), type_.dtype), value=_zero(type_.dtype))
    for lane, piece in enumerate(pieces):
        vec = b.op("target.insert", vec, piece, lane=lane)
    b.emit("target.store", vec, ptr, align=align)


def _zero(dtype: str) -> int | float | bool:
    return False if dtype == "bool" else 0 if dtype[0] in "iu" else 0.0


def operand_buffers(ops: Sequence[Op], products: set[Value]) -> list[Value]:
    """Buffers of the group that products read, directly or transposed."""
    wanted = set(products)
    for op in reversed(ops):
        if op.name in ("tile.transpose", "arith.cast") and op.result in wanted:
            wanted.add(op["a"])
    found: dict[Value, None] = {}
    for op in ops:
        if op.name == "tile.read" and op.result in wanted:
            found.setdefault(op["buf"])
    return [buf for buf in found if isinstance(buf.type, BufType) and buf.type.space == "shared"]


# -- operations --------------------------------------------------------------------------------------------------------


def memory_of(low: Lowering, buf: Value) -> Memory:
    """What a buffer of the kernel is on this target."""
    type_ = buf.type
    assert isinstance(type_, BufType)
    return Memory(low.get(buf), type_.dims, type_.dtype, type_.space, low.swizzles.get(buf))


def block_of(low: Lowering, buf: Value, at: Sequence[Value], shape: Sequence[int], axes: Sequence[int]) -> Block:
    return Block(memory_of(low, buf), tuple(low.get(v) for v in at), tuple(shape), tuple(axes))


def lower_read(low: Lowering, op: Op) -> Spread:
    type_ = op.result.type
    assert isinstance(type_, TileType)
    block = block_of(low, op["buf"], op.group("indices"), type_.shape, op.attrs["axes"])
    if block.memory.space == "shared":
        low.before_read()
    return read_block(low, block, low.layouts.of(op.result))


def lower_write(low: Lowering, op: Op) -> None:
    value = low.spread(op["value"])
    block = block_of(low, op["buf"], op.group("indices"), value.shape, op.attrs["axes"])
    if block.memory.space == "shared":
        low.before_write()
    counts = [low.get(v) for v in op.group("counts")]
    write_block(low, block, value, counts)


def lower_copy(low: Lowering, op: Op) -> None:
    """Asynchronous where vectors of 4 bytes and more are aligned; elsewhere through registers."""
    shape = tuple(op.attrs["shape"])
    source = block_of(low, op["src"], op.group("src_at"), shape, op.attrs["src_axes"])
    target = block_of(low, op["dst"], op.group("dst_at"), shape, op.attrs["dst_axes"])
    dtype = source.memory.dtype
    layout = coalesced(padded(shape), bits_of(dtype), low.warps, lanes=low.lanes)
    low.before_write()
    vector = min(source.vector(layout), target.vector(layout))
    size = vector * size_of(dtype)
    exact = prod(layout.shape) == prod(shape)

    def through_registers(inner: Lowering) -> list[Value]:
        write_block(inner, target, read_block(inner, source, layout))
        return []

    if not low.arch.has("cp_async") or size < 4 or not exact:
        through_registers(low)
        return
    low.state = replace(low.state, copies=True)
    places = Places(low.b, low.thread(), layout)
    for axis in range(len(shape)):
        for register in range(0, registers(layout), vector):
            places.at(axis, register)

    def asynchronous(inner: Lowering) -> list[Value]:
        for register in range(0, registers(layout), vector):
            inside = source.inside(inner, places, register, [None] * len(shape))
            count = inner.b.op("arith.select", inside, inner.b.const(size, "i32"), inner.b.const(0, "i32"))
            at = source.indices(inner, places, register)
            at = [inner.b.op("arith.select", inside, index, inner.b.const(0)) for index in at]
            from_ = source.memory.address(inner, at)
            to = target.memory.address(inner, target.indices(inner, places, register))
            inner.b.emit("target.copy_async", to, from_, count, bytes=size)
        return []

    aligned = _aligned(low, source, vector)
    first = places.first_copy()
    if first is not None:
        body: Callable[[Lowering], list[Value]] = lambda inner: (  # noqa: E731 - one expression, used once
            list(inner.branch(first, asynchronous, lambda _: [], []))
        )
    else:
        body = asynchronous
    if aligned is None:
        body(low)
    else:
        low.branch(aligned, body, through_registers, [])


def _aligned(low: Lowering, block: Block, vector: int) -> Value | None:
    """Whether vectors begin at multiples of their size, and lie in the buffer with all or none of their elements."""
    b, last = low.b, len(block.at) - 1
    size = block.memory.dims[last]
    if isinstance(size, int) and size % vector == 0 and low.known(block.at[last]) is not None:
        return None
    both = b.op("arith.or", block.at[last], low.dim(size))
    return b.op("arith.cmp", b.op("arith.and", both, b.const(vector - 1)), b.const(0), pred="eq")
