"""Buffers on a GPU, and blocks of them: addresses, swizzled rows, what may be out of bounds, what is aligned.

Rows of shared memory that products read are swizzled: with chunks of 16 bytes, chunk c of row r lies at c xor
(r / per_phase mod phases), so that 8 rows of one chunk column meet 8 different groups of banks. Rows of more than 128
bytes are cut into panels of that width, one after the other. So the layout is one that tensor copies write and matrix
descriptors read (layout/shared.py, `swizzled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tessera.shapes import Dim
from tesseracc.analysis.multiples import is_ragged, of_size
from tesseracc.ir.types import BOOL, BufType, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.dims import flat_index
from tesseracc.passes.target.gpu_spread import Places

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering

VECTOR_BYTES = 16
PANEL_BYTES = 128


@dataclass(frozen=True, slots=True)
class Swizzle:
    """Elements of a chunk, rows that share a phase, the number of phases, and elements of a panel's row."""

    chunk: int
    per_phase: int
    phases: int
    panel: int

    @staticmethod
    def of(columns: int, dtype: str) -> Swizzle | None:
        """What spreads 8 rows of a chunk column over all banks; None for rows that do not consist of chunks."""
        chunk = VECTOR_BYTES // size_of(dtype)
        panel = min(columns, PANEL_BYTES // size_of(dtype))
        chunks = panel // chunk
        if columns % max(1, panel) or panel % chunk or chunks & (chunks - 1) or chunks < 2:
            return None
        return Swizzle(chunk, 8 // chunks, chunks, panel)

    def alignment(self, dtype: str) -> int:
        """Bytes: the pattern repeats after 8 rows of a panel."""
        return 8 * self.panel * size_of(dtype)

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
        at, dims = list(at), self.dims
        if self.swizzle is not None:
            panel = self.swizzle.panel
            phase = at[-2]
            if self.swizzle.per_phase > 1:
                phase = b.op("arith.shr", phase, b.const(self.swizzle.per_phase.bit_length() - 1))
            phase = b.op("arith.and", phase, b.const(self.swizzle.phases - 1))
            phase = b.op("arith.mul", phase, b.const(self.swizzle.chunk))
            if dims[-1] == panel:
                at[-1] = b.op("arith.xor", at[-1], phase)
            else:
                number = b.op("arith.shr", at[-1], b.const(panel.bit_length() - 1))
                inside = b.op("arith.xor", b.op("arith.and", at[-1], b.const(panel - 1)), phase)
                at[-2:] = [number, at[-2], inside]
                dims = (*dims[:-2], dims[-1] // panel, dims[-2], panel)
        index = flat_index(b, at, dims, low.symbols)
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
        return _all(low, parts) or b.const(True, BOOL)

    def whole(self, low: Lowering, layout: LinearLayout, extra: Sequence[Value | None]) -> Value | bool:
        """Whether no element needs a check."""
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
        return _all(low, parts) or True

    def aligned(self, low: Lowering, vector: int, extra: Sequence[Value | None]) -> Value | bool:
        """Whether vectors begin at multiples of their size, and are inside or outside as a whole."""
        if vector == 1:
            return True
        facts = low.multiples
        if is_ragged(self.memory.dims[-1], vector, facts.ragged):
            return False
        b, last = low.b, len(self.at) - 1
        axis = self.axes.index(last)
        bounds = [self.at[last], *(() if extra[axis] is None else (extra[axis],))]
        size = self.memory.dims[last]
        parts: list[Value] = []
        for bound in bounds:
            assert bound is not None
            if low.divisor(bound) % vector:
                parts.append(bound)
        if of_size(size, facts.facts) % vector:
            parts.append(low.dim(size))
        if not parts:
            return True
        mixed = parts[0]
        for part in parts[1:]:
            mixed = b.op("arith.or", mixed, part)
        return b.op("arith.cmp", b.op("arith.and", mixed, b.const(vector - 1)), b.const(0), pred="eq")


def _all(low: Lowering, parts: Sequence[Value]) -> Value | None:
    found: Value | None = None
    for part in parts:
        found = part if found is None else low.b.op("arith.and", found, part)
    return found


def swizzles(ops: Sequence[Op]) -> dict[Value, Swizzle]:
    """The swizzled buffers of a kernel: those that products read, directly or transposed, or as the program says."""
    wanted = {v for op in ops if op.name == "tile.mma" for v in (op["a"], op["b"])}
    for op in reversed(ops):
        if op.name in ("tile.transpose", "arith.cast") and op.result in wanted:
            wanted.add(op["a"])
    read = {op["buf"] for op in ops if op.name == "tile.read" and op.result in wanted}
    found: dict[Value, Swizzle] = {}
    for op in ops:
        if op.name != "tile.alloc" or op.attrs["swizzle"] == "none":
            continue
        type_, swizzle = op.result.type, Swizzle.of_buffer(op.result)
        assert isinstance(type_, BufType)
        asked = op.attrs["swizzle"] == "xor" or op.result in read
        if swizzle is not None and type_.space == "shared" and asked:
            found[op.result] = swizzle
    return found


def memory_of(low: Lowering, buf: Value) -> Memory:
    """What a buffer of the kernel is on this target."""
    type_ = buf.type
    assert isinstance(type_, BufType)
    return Memory(low.get(buf), type_.dims, type_.dtype, type_.space, low.swizzles.get(buf))


def block_of(low: Lowering, buf: Value, at: Sequence[Value], shape: Sequence[int], axes: Sequence[int]) -> Block:
    return Block(memory_of(low, buf), tuple(low.index(v) for v in at), tuple(shape), tuple(axes))
