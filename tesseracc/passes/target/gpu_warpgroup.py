"""Products by warp groups (wgmma): b, and a where it lies there too, are read in shared memory through descriptors.

Four warps multiply 64 x k by k x n. The groups of warps are spread over the result as a grid, rows first; each adds up
its own blocks. An accumulator belongs to the matrix unit from the fence in front of the first instruction to the wait
behind the last one, so results are values only behind the wait, which gpu_products.py puts where they are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tesseracc.ir.types import BufType, ScalarType, TileType, bits_of, kind_of, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.layout.build import fit
from tesseracc.layout.descriptor import Descriptor, matrix_descriptor
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.select import Choice, candidates
from tesseracc.layout.shared import swizzled
from tesseracc.passes.target.gpu_buffers import Swizzle
from tesseracc.passes.target.gpu_fragments import PTX_TYPES, by_place, pair, pick
from tesseracc.passes.target.gpu_placed import Located, Placed
from tesseracc.passes.target.gpu_products import Flight
from tesseracc.passes.target.gpu_reduce import warp_uniform
from tesseracc.passes.target.gpu_spread import Spread, pack, padded, per_word, unpack, xor_of_bits

if TYPE_CHECKING:
    from tesseracc.arch.arch import Arch
    from tesseracc.passes.target.lower_gpu import Lowering

#: registers for accumulators that leave room for everything else
MOST_REGISTERS = 192


# -- choosing ----------------------------------------------------------------------------------------------------------


def choose_for_warpgroups(
    arch: Arch, a: TileType, b: TileType, acc: TileType, warps: int, placed: tuple[Placed | None, Placed | None]
) -> Choice | None:
    """The instruction for a product whose operands lie as `placed` says (None: in registers)."""
    if placed[1] is None or any(padded(t.shape) != tuple(t.shape) for t in (a, b, acc)):
        return None
    (m, k), n = a.shape, b.shape[1]
    for choice in candidates(arch, a.dtype, b.dtype, acc.dtype, (m, n, k), warps=warps):
        row = choice.row
        if row.warps == 1 or (choice.a_type, choice.b_type) != (a.dtype, b.dtype) or warps % row.warps:
            continue
        sums = choice.layout("c")
        if sums is None or set(dict(sums.outs)) != {"dim0", "dim1"}:  # none, or in tensor memory: not by this lowering
            continue
        if placed[0] is None and not choice.layout("a"):
            continue
        grid = unit_grid(choice, (m, n), warps)
        if grid is None or m * n // (32 * warps) > MOST_REGISTERS:
            continue
        found = [descriptor_of(choice, side, p) for side, p in zip("ab", placed, strict=True) if p is not None]
        if all(d is not None and d.major in row.majors for d in found):
            return choice
    return None


def unit_grid(choice: Choice, shape: tuple[int, int], warps: int) -> tuple[int, int] | None:
    """Groups of warps along m and n, as many as possible along m; None where they do not divide the result."""
    units = warps // choice.row.warps
    grids = [(units // across, across) for across in (1, 2, 4, 8, 16) if units % across == 0]
    fitting = [g for g in grids if shape[0] % (choice.row.m * g[0]) == 0 and shape[1] % (choice.n * g[1]) == 0]
    return fitting[0] if fitting else None


def descriptor_of(choice: Choice, side: str, placed: Placed) -> Descriptor | None:
    """How the instruction finds blocks of an operand in its buffer; None where it cannot."""
    type_ = placed.buf.type
    assert isinstance(type_, BufType)
    rows, columns = type_.dims[-2:]
    swizzle = Swizzle.of_buffer(placed.buf)
    if not (isinstance(rows, int) and isinstance(columns, int)) or rows & (rows - 1) or columns & (columns - 1):
        return None
    assert swizzle is not None
    bits = bits_of(type_.dtype)
    memory = swizzled((rows, columns), bits, swizzle.panel * bits // 8)
    # the operand's axis of rows (of a) or columns (of b) that blocks are counted along
    along = 0 if side == "a" else 1
    block = choice.row.m if side == "a" else choice.n
    if placed.start[along] % block or placed.start[1 - along] % choice.row.k:
        return None
    row_axis = placed.axes[along] - (len(type_.dims) - 2)
    return matrix_descriptor(memory, bits, block, choice.row.k, row_axis)


def unit_layout(choice: Choice, operand: str, shape: tuple[int, int], grid: tuple[int, int]) -> LinearLayout:
    """How the accumulator (`c`), or operand a in registers, is spread over the groups of warps."""
    layout = choice.layout(operand)
    assert layout is not None
    layout = layout * LinearLayout.identity(grid[0], "warp", "dim0")
    if operand == "c":
        layout = layout * LinearLayout.identity(grid[1], "warp", "dim1")
    else:
        layout = layout * LinearLayout.zeros(grid[1], "warp", "dim0")
    return fit(layout.transpose_outs(("dim0", "dim1")), shape)


# -- the product -------------------------------------------------------------------------------------------------------


class Operand:
    """An operand in shared memory: the descriptor of each block for the group of warps that asks.

    `form` gives the bits of a descriptor for the instruction.
    """

    def __init__(
        self, low: Lowering, choice: Choice, side: str, value: Value, unit: Value, units: int,
        form: Callable[[Descriptor], int] = Descriptor.wgmma,
    ) -> None:  # fmt: skip
        held, placed = low.env[value], low.layouts.placed[value]
        found = descriptor_of(choice, side, placed)
        assert isinstance(held, Located) and found is not None
        self.low, self.found = low, found
        b, zero = low.b, low.b.const(0)
        at = [zero if target in held.block.axes else start for target, start in enumerate(held.block.at)]
        address = b.op("target.shared_address", held.block.memory.address(low, at))
        # an address has 18 bits, of which the lowest 4 are 0; arithmetic stays in the lower half of a descriptor
        word = b.op("arith.and", b.op("arith.cast", address, to="i32"), b.const(0x3FFFF, "i32"))
        bits = form(found)
        self.high = (bits >> 32) - (1 << 32 if bits >> 63 else 0) << 32
        own = b.op("arith.or", b.op("arith.shr", word, b.const(4, "i32")), b.const(bits & 0xFFFFFFFF, "i32"))
        columns = [column[0] >> 4 for column in found.start.vectors("rows")[: units.bit_length() - 1]]
        offset = b.op("arith.cast", xor_of_bits(b, unit, columns), to="i32")
        self.base = b.op("arith.add", own, offset) if any(columns) else own
        along = 0 if side == "a" else 1
        self.row, self.k = placed.start[along] // found.rows, placed.start[1 - along] // found.k

    def block(self, row: int, k: int) -> Value:
        """The descriptor of the block at a row block and a block of k."""
        b = self.low.b
        start = self.found.start.at(rows=self.row + row, k=self.k + k)[0] >> 4
        word = b.op("arith.add", self.base, b.const(start, "i32")) if start else self.base
        wide = b.op("arith.cast", b.op("arith.bitcast", word, to="u32"), to="i64")
        return b.op("arith.or", wide, b.const(self.high))

    @property
    def turned(self) -> int:
        return int(self.found.major == "mn")


class _Fragments:
    """Operand a in registers."""

    turned = None

    def __init__(self, low: Lowering, choice: Choice, op: Op, grid: tuple[int, int]) -> None:
        value = op["a"]
        assert isinstance(value.type, TileType)
        self.shape = pair(value.type.shape)
        self.choice, self.grid = choice, grid
        tile = low.tile(value, unit_layout(choice, "a", self.shape, grid))
        low.products.finish(low.products.fragments.get(op.result, 0))  # it may hold the registers of these words
        self.words, self.per_word = tile.as_words(low.b), per_word(tile.dtype)
        self.places = by_place(tile.layout)

    def words_of(self, i: int, k: int) -> list[Value]:
        """The words of the i-th block of rows of this unit."""
        row = self.choice.row
        found = pick(self.choice.layout("a"), self.places, (i * row.m * self.grid[0], k * row.k), self.shape)
        return [self.words[r // self.per_word] for r in found[:: self.per_word]]


def runs_beside(choice: Choice | None) -> bool:
    """Whether a product goes on while its threads do other work: longer sums of narrow types are added up by them."""
    return choice is not None and choice.row.warps > 1 and not choice.row.full_k


def prepare_fragments(low: Lowering, op: Op) -> None:
    """Makes the words of a product's operand a ahead of the product."""
    choice = low.layouts.choices[op.result]
    assert isinstance(op["a"].type, TileType)
    layout = unit_layout(choice, "a", pair(op["a"].type.shape), low.layouts.grids[op.result])
    low.env[op["a"]] = tile = low.tile(op["a"], layout)
    tile.as_words(low.b)


def warpgroup_product(low: Lowering, op: Op, layout: LinearLayout, choice: Choice) -> Spread | Flight:
    """acc + a b in `layout`, which is that of `unit_layout`."""
    b, row, grid = low.b, choice.row, low.layouts.grids[op.result]
    held = low.env[op["acc"]]
    chained = isinstance(held, Flight) and held.sums.layout == layout and low.counts[op["acc"]] == 1
    if isinstance(held, Flight) and chained:
        acc = held.sums
        del low.env[op["acc"]]
    else:
        acc = low.tile(op["acc"], layout)
    (m, n), depth = pair(acc.shape), pair(op["a"].type.shape)[1]  # type: ignore[union-attr]
    unit_m, unit_n = _unit(low, row.warps, grid)
    left: Operand | _Fragments
    if op["a"] in low.layouts.placed:
        left = Operand(low, choice, "a", op["a"], unit_m, grid[0])
    else:
        left = _Fragments(low, choice, op, grid)
    low.before_product(op)
    right = Operand(low, choice, "b", op["b"], unit_n, grid[1])
    form = _Form(choice, acc.dtype, left.turned, right.turned)
    found = list(acc.as_elements(b))
    places, fragment = by_place(acc.layout), choice.layout("c")
    blocks = [(i, j) for i in range(m // (row.m * grid[0])) for j in range(n // (choice.n * grid[1]))]
    own = {(i, j): pick(fragment, places, (i * row.m * grid[0], j * choice.n * grid[1]), (m, n)) for i, j in blocks}
    registers = [r for block in blocks for r in own[block]]
    step = min(depth, row.full_k or depth)  # longer sums lose too much: they are added in the accumulator's own type
    for k0 in range(0, depth, step):
        sums: list[list[Value]] = []
        b.emit("target.wgmma_fence")
        for i, j in blocks:
            total = [] if row.full_k else pack(b, [found[r] for r in own[i, j]], acc.dtype)
            for k in range(k0 // row.k, (k0 + step) // row.k):
                a = left.words_of(i, k) if isinstance(left, _Fragments) else [left.block(i * grid[0], k)]
                total = form.emit(low, a, right.block(j * grid[1], k), total, len(own[i, j]))
            sums.append(total)
        group = low.products.start()
        if isinstance(left, _Fragments):
            low.products.fragments[op.result] = group
        flat = [value for total in sums for value in total]
        if runs_beside(choice) and per_word(acc.dtype) == 1:
            for r, value in zip(registers, flat, strict=True):
                found[r] = value
            return Flight(Spread(acc.layout, acc.shape, acc.dtype, elements=found), group)
        values = unpack(b, low.products.wait(group, flat), acc.dtype)
        for r, value in zip(registers, values, strict=True):
            found[r] = b.op("arith.add", found[r], value) if row.full_k else value
    return Spread(acc.layout, acc.shape, acc.dtype, elements=found)


def _unit(low: Lowering, warps: int, grid: tuple[int, int]) -> tuple[Value, Value]:
    """Where this thread's group of warps is in the grid, known to be the same in all lanes: addresses are uniform."""
    b = low.b
    if grid == (1, 1):
        return b.const(0), b.const(0)
    unit = warp_uniform(low, b.op("arith.shr", low.thread(), b.const((32 * warps).bit_length() - 1)))
    low_bits = grid[0].bit_length() - 1
    return b.op("arith.and", unit, b.const(grid[0] - 1)), b.op("arith.shr", unit, b.const(low_bits))


class _Form:
    """The spelling of an instruction for where its operands are."""

    def __init__(self, choice: Choice, dtype: str, a_turned: int | None, b_turned: int) -> None:
        kinds = [PTX_TYPES[t] for t in (choice.row.acc, choice.a_type, choice.b_type)]
        self.instruction = f"wgmma.mma_async.sync.aligned.{choice.spelling}.{'.'.join(kinds)}"
        self.kind = dtype if size_of(dtype) >= 4 else "u32"
        # signs of a and b; only 16-bit types may be turned
        flags = [1, 1] if kind_of(dtype) == "f" else []
        if "mn" in choice.row.majors:
            flags += [b_turned] if a_turned is None else [a_turned, b_turned]
        self.flags = tuple(flags)

    def emit(self, low: Lowering, a: list[Value], b: Value, acc: list[Value], count: int) -> list[Value]:
        """acc + a b; without an accumulator a b, in `count` words."""
        types = [ScalarType(self.kind)] * (len(acc) or count)
        found = low.b.emit("target.wgmma", a, b, acc, types=types, instruction=self.instruction, flags=self.flags)
        return list(found.results)
