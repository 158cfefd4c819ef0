"""Products of tiles on a GPU: matrix instructions where the target has one for the types, else fused multiply-add.

Fragments are layouts: an instruction's fragment is repeated over the warps and then over registers until it covers the
tile, and each instruction takes the registers whose coordinates are those of its fragment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tesseracc.ir.types import ScalarType, TileType, size_of
from tesseracc.ir.value import Op, Value
from tesseracc.layout.build import blocked, fit
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.select import Choice, candidates
from tesseracc.passes.target.gpu_buffers import VECTOR_BYTES
from tesseracc.passes.target.gpu_convert import clean
from tesseracc.passes.target.gpu_fma import by_fma
from tesseracc.passes.target.gpu_fragments import PTX_TYPES, by_place, pair, pick
from tesseracc.passes.target.gpu_products import Flight
from tesseracc.passes.target.gpu_spread import Spread, pack, padded, per_word, unpack
from tesseracc.passes.target.gpu_warpgroup import unit_layout, warpgroup_product

if TYPE_CHECKING:
    from tesseracc.arch.arch import Arch
    from tesseracc.passes.target.lower_gpu import Lowering


# -- layouts -----------------------------------------------------------------------------------------------------------


def choose(arch: Arch, a: TileType, b: TileType, acc: TileType, warps: int) -> Choice | None:
    """The matrix instruction for a product, or None: then it is made of fused multiply-adds."""
    if warps < 1:
        return None
    (m, k), n = padded(a.shape), padded(b.shape)[1]
    found = candidates(arch, a.dtype, b.dtype, acc.dtype, (max(m, 16), max(n, 16), k), warps=1)
    for choice in found:
        same = (choice.a_type, choice.b_type) == (a.dtype, b.dtype)
        if choice.row.op == "mma.sync" and same and all(choice.layout(name) for name in "abc"):
            return choice
    return None


def warp_grid(choice: Choice | None, shape: tuple[int, int], warps: int, *, rows_only: bool) -> tuple[int, int]:
    """Warps along m and n. `rows_only` keeps a row within a warp as far as there are rows, for folds along it."""
    high, wide = (choice.row.m, choice.n) if choice else (4, 8)
    along_m, along_n = 1, 1
    while along_m * along_n < warps:
        room_m, room_n = shape[0] // (high * along_m), shape[1] // (wide * along_n)
        if room_m > 1 and (rows_only or room_m * high >= room_n * wide or room_n <= 1):
            along_m *= 2
        else:
            along_n *= 2
    return along_m, along_n


def accumulator_layout(
    choice: Choice | None, shape: tuple[int, int], grid: tuple[int, int], lanes: int,
    operand: str | None = None,
) -> LinearLayout:  # fmt: skip
    """How an accumulator is spread over the warps.

    Without an instruction, lanes are 8 side by side. Where they are stored to be an `operand`, of this type, these are
    some chunks of a swizzled row (gpu_buffers), and the lanes below them as many rows apart, if there are rows enough:
    chunk j of row r lies at j xor r, so the lanes of a warp meet different banks.
    """
    if choice is None:
        wide = min(8, lanes)
        chunks = max(1, wide * size_of(operand) // VECTOR_BYTES) if operand else 1
        apart = min(chunks, max(1, shape[0] // (lanes // wide * grid[0])))
        return blocked(shape, (apart, 1), (lanes // wide, wide), grid)
    fragment = choice.layout("c")
    assert fragment is not None
    return _covered(fragment, shape, grid, ("dim0", "dim1"))


def operand_layout(choice: Choice, side: str, shape: tuple[int, int], grid: tuple[int, int]) -> LinearLayout:
    """How operand a (m x k) or b (k x n) is spread: warps along the other matrix axis hold the same elements."""
    fragment = choice.layout(side)
    assert fragment is not None
    return _covered(fragment, shape, grid, ("dim0", None) if side == "a" else (None, "dim1"))


def _covered(
    fragment: LinearLayout, shape: tuple[int, int], grid: tuple[int, int], axes: tuple[str | None, str | None]
) -> LinearLayout:
    layout = fragment.with_ins(("register", "lane"))
    for count, axis in zip(grid, axes, strict=True):
        spread = LinearLayout.identity(count, "warp", axis) if axis else LinearLayout.zeros(count, "warp", "dim0")
        layout = layout * spread
    return fit(layout.transpose_outs(("dim0", "dim1")), shape)


# -- products ----------------------------------------------------------------------------------------------------------


def lower_mma(low: Lowering, op: Op) -> Spread | Flight:
    """acc + a b in the layout of the accumulator's class; under way, where warp groups make it.

    Products by different instructions may share a class, which has the layout of the first: the others convert.
    """
    shared = low.layouts.of(op.result)
    choice = low.layouts.choices.get(op.result)
    if choice is None:
        return by_fma(low, op, low.tile(op["acc"], shared))
    if choice.row.warps > 1:
        layout = unit_layout(choice, "c", pair(op["acc"].type.shape), low.layouts.grids[op.result])  # type: ignore[union-attr]
        found = warpgroup_product(low, op, layout, choice)
        if isinstance(found, Flight):
            return found if layout == shared else low.converted(low.products.landed(found), shared)
        return low.converted(found, shared)
    high, wide = padded(op["acc"].type.shape)  # type: ignore[union-attr]
    layout = accumulator_layout(choice, (high, wide), low.layouts.grids[op.result], low.layouts.lanes)
    return low.converted(_by_instructions(low, op, low.tile(op["acc"], layout), choice), shared)


def _by_instructions(low: Lowering, op: Op, acc: Spread, choice: Choice) -> Spread:
    grid = low.layouts.grids[op.result]
    tiles = []
    for side in "ab":
        value = low.spread(op[side])
        layout = operand_layout(choice, side, pair(padded(value.shape)), grid)
        tiles.append(low.converted(clean(low, value), layout))
    words = [tile.as_words(low.b) for tile in tiles]
    found = list(acc.as_elements(low.b))
    where = [by_place(tile.layout) for tile in (*tiles, acc)]
    fragments = [choice.layout(name) for name in "abc"]
    m, n, k = choice.row.m, choice.n, choice.row.k
    rows, depth = tiles[0].layout.shape
    columns = tiles[1].layout.shape[1]
    step_m, step_n = min(rows, m * grid[0]), min(columns, n * grid[1])
    for k0 in range(0, depth, k):
        for m0 in range(0, rows, step_m):
            for n0 in range(0, columns, step_n):
                picked = [
                    pick(fragment, places, origin, shape)
                    for fragment, places, origin, shape in zip(
                        fragments, where, ((m0, k0), (k0, n0), (m0, n0)),
                        ((rows, depth), (depth, columns), (rows, columns)), strict=True,
                    )
                ]  # fmt: skip
                left, right = (
                    [words[i][r // per_word(tiles[i].dtype)] for r in picked[i][:: per_word(tiles[i].dtype)]]
                    for i in range(2)
                )
                totals = _instruction(low, choice, left, right, [found[r] for r in picked[2]], acc.dtype)
                for register, total in zip(picked[2], totals, strict=True):
                    found[register] = total
    return Spread(acc.layout, acc.shape, acc.dtype, elements=found)


def _instruction(
    low: Lowering, choice: Choice, a: Sequence[Value], b: Sequence[Value], acc: Sequence[Value], dtype: str
) -> list[Value]:
    kinds = [PTX_TYPES[t] for t in (choice.row.acc, choice.a_type, choice.b_type, choice.row.acc)]
    spelled = f"mma.sync.aligned.{choice.spelling}.row.col.{'.'.join(kinds)}"
    if size_of(dtype) >= 4:
        types = [ScalarType(dtype)] * len(acc)
        return list(low.b.emit("target.mma", list(a), list(b), list(acc), types=types, instruction=spelled).results)
    words = pack(low.b, acc, dtype)
    types = [ScalarType("u32")] * len(words)
    found = low.b.emit("target.mma", list(a), list(b), words, types=types, instruction=spelled).results
    return unpack(low.b, found, dtype)
