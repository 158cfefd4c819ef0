"""Tiles of streamed sums (stream_weights): functions of (target, types, extents) alone.

A tile holds rows of the result and a block of weights. On a GPU it holds whole rows of all operands where these have at
most `WIDEST` elements, and on matrix units up to twice as many, if registers hold the sums and shared memory the rows
and two blocks of keys and values. Longer rows are taken in pieces of the scores' sum and of the result, whose weights
are then made once for each piece. An extent without a number gets bounds: a version for each of `BOUNDS`, masked to the
true extent, of which a call takes the first that holds it, and one in pieces for what is longer.
"""

from __future__ import annotations

from dataclasses import dataclass

from tessera.shapes import Dim, dim_max
from tesseracc.ir.types import size_of
from tesseracc.layout.select import candidates
from tesseracc.passes.schedule.to_tile_mma import fit
from tesseracc.passes.schedule.tuning import STREAM, STREAM_STEPS, Tuning, micro_rows
from tesseracc.tuning.space import OTHER

__all__ = ["StreamTile", "stream_tiles"]

Types = tuple[str, str, str]

#: elements of a row of queries, keys or values that a GPU's group holds
WIDEST = 128
#: bounds of rows whose length is no number
BOUNDS = (64, 128)
#: elements of a piece of the scores' sum
PIECE = 64
#: (blocks of weights by the tuning's, groups of lanes by its own): the first with few enough sums in a lane is taken
SHAPES = ((1, 1), (2, 1), (2, 2))
#: the same for rows of more than `WIDEST` elements, with rows of a tile by its own: the first that has the room
WIDE_SHAPES = ((1, 2, 2), (2, 2, 2), (2, 1, 1))
#: sums in a lane at most: of matrix units that copies feed by themselves, with rows whole and in pieces, and of others,
#: whose operands pass through registers
SUMS, SUMS_IN_PIECES, SUMS_THROUGH_REGISTERS = 96, 80, 48
#: the largest extent of the score's sum for which a CPU makes the left operand once for all blocks
DEPTH = 256


@dataclass(frozen=True, slots=True)
class StreamTile:
    """`m` x `n` of the result by `lanes`; `block` columns of weights at a time, from steps of `depth` elements of the
    scores' sum, or `once` for the whole of it; `step`: rows that tiles share evenly. `whole`: tiles are not cut.
    `unless`: 0 for the extents that it is for."""

    lanes: int
    m: int
    n: int
    block: int
    depth: int
    once: bool
    step: int = 0
    whole: bool = True
    unless: Dim = 0


def stream_tiles(
    tuning: Tuning, scores: Types, mixed: Types, extents: tuple[Dim, Dim, Dim, Dim], plain: bool
) -> tuple[StreamTile, ...]:
    """The tiles for products of these types and extents (m, n, t, d); `plain`: m and n are one axis each.

    A call takes the first that its extents allow; the last is for all. Empty where groups apart are better.
    """
    if not tuning.stream:
        return ()
    if tuning.arch.kind != "cuda":
        return (_on_cpu(tuning, scores, extents),)
    m, n, _, d = extents
    if not plain or (isinstance(m, int) and m <= tuning.tile_m // 2):  # few rows: apart they run in parallel along t
        return ()
    types = scores, mixed
    if not isinstance(n, int) or not isinstance(d, int):
        return (*(_whole(tuning, types, n, d, bound) for bound in BOUNDS), _in_pieces(tuning, types, n, d))
    if max(n, d) <= WIDEST:
        return (_whole(tuning, types, n, d, 0),)
    wide = _wide(tuning, types, _power(n), _power(d)) if max(n, d) <= 2 * WIDEST else None
    return (wide or _in_pieces(tuning, types, n, d),)


def _whole(tuning: Tuning, types: tuple[Types, Types], n: Dim, d: Dim, bound: int) -> StreamTile:
    width, depth = (_power(size) if isinstance(size, int) else bound for size in (n, d))
    unless = dim_max(n - width, 0)
    if d != n:
        unless = unless + dim_max(d - depth, 0)
    return _tile(tuning, types, width, depth, True, unless)


def _in_pieces(tuning: Tuning, types: tuple[Types, Types], n: Dim, d: Dim) -> StreamTile:
    width = min(_power(n), WIDEST) if isinstance(n, int) else WIDEST
    once = isinstance(d, int) and d <= WIDEST
    return _tile(tuning, types, width, _power(d) if once and isinstance(d, int) else PIECE, once)


def _tile(
    tuning: Tuning, types: tuple[Types, Types], n: int, depth: int, once: bool, unless: Dim = 0
) -> StreamTile:
    arch, m = tuning.arch, tuning.tile_m
    shapes = (m, tuning.stream, depth), (m, n, tuning.stream)
    units = all(candidates(arch, *of, shape, warps=tuning.lanes // arch.lanes) for of, shape in zip(types, shapes))
    most = SUMS_THROUGH_REGISTERS
    if units and arch.has("cp_async"):
        most = SUMS if once else SUMS_IN_PIECES
    for parts, groups in SHAPES:
        lanes, block = groups * tuning.lanes, tuning.stream // parts
        if m * (n + block) <= most * lanes:
            break
    return StreamTile(lanes, m, n, block, depth, once, unless=unless)


def _wide(tuning: Tuning, types: tuple[Types, Types], n: int, d: int) -> StreamTile | None:
    """The tile of whole long rows; None where it has no room."""
    arch = tuning.arch
    if not arch.has("cp_async"):
        return None
    sizes = [size_of(type_) for type_ in (*types[0][:2], types[1][1])]  # of queries, keys and values
    for parts, groups, rows in WIDE_SHAPES:
        lanes, m, block = groups * tuning.lanes, rows * tuning.tile_m, tuning.stream // parts
        shapes = (m, block, d), (m, n, block)
        if not all(candidates(arch, *of, shape, warps=lanes // arch.lanes) for of, shape in zip(types, shapes)):
            continue
        registers = (m * n + 5 * m * block // 2) // lanes + OTHER[arch.has("wgmma")]
        shared = m * d * sizes[0] + 2 * block * (d * sizes[1] + n * sizes[2])
        if registers <= arch.limits.registers_per_thread and shared <= arch.limits.shared_per_block:
            return StreamTile(lanes, m, n, block, d, True)
    return None


def _power(size: int) -> int:
    """The power of two that holds a row, and is enough for an instruction."""
    return max(16, 1 << (size - 1).bit_length())


def _on_cpu(tuning: Tuning, scores: Types, extents: tuple[Dim, Dim, Dim, Dim]) -> StreamTile:
    m, n, t, d = extents
    tuning = tuning.for_product(scores, (m, t, d), 1, copied=True, used=True)
    once = isinstance(d, int) and d <= min(tuning.tile_k, DEPTH)
    rows = STREAM_STEPS * micro_rows(tuning.arch) // tuning.step_m * tuning.step_m
    return StreamTile(
        tuning.lanes, fit(rows, m), fit(STREAM, n), fit(tuning.stream, t),
        fit(min(tuning.tile_k, DEPTH), d), once, step=tuning.step_m, whole=False,
    )  # fmt: skip
