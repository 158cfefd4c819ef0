"""Tiles of products and depths of their pipelines, from the target's description alone.

A step of a tile of m x n x k takes the longer of its products and its operands, which come through the caches:

    step = max(2 m n k / (R / U), (m k + k n) * bytes / (C B / U))

with the rate R of the best unit for the types, U multiprocessors, and memory of bandwidth B before which caches give C
times as much. A ring covers the latency of memory with the steps of its other slots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tessera.shapes import Dim
from tesseracc.arch.arch import Arch
from tesseracc.layout.select import candidates

__all__ = [
    "CACHES", "FEWEST", "LATENCY", "NOMINAL", "Tile", "loop_seconds", "product_seconds", "product_tile", "ring_depth",
    "step_seconds",
]  # fmt: skip

LATENCY = 1e-6  # seconds: a trip to global memory and a barrier
#: what caches give, as a multiple of the memory's bandwidth
CACHES = 2.5
#: slots of a ring: enough to run into the next tile; beyond the last a copy is as far ahead as helps
FEWEST, MOST = 4, 8
#: the size of a dim that has no number: tiles for large products lose less on small ones than the other way round
NOMINAL = 4096
#: bytes of a row of an operand: a row of a swizzle for groups of warps, half of one for single warps
ROW_BYTES = {True: 128, False: 64}
#: accumulators of a thread: what leaves room for the operands of instructions that take them from registers
MOST_SUMS = {True: 128, False: 64}
#: the same where more than rounding follows a product: values on the way need registers too
MOST_SUMS_USED = 64
FEWEST_SUMS = 16  # of a thread: fragments of two instructions and more
SIDES = (16, 32, 64, 128, 256)
MOST_ROWS = 128  # of a tile


@dataclass(frozen=True, slots=True)
class Tile:
    """m x n x k of a step, by so many `warps`."""

    m: int
    n: int
    k: int
    warps: int


def _rate(arch: Arch, types: tuple[str, str, str], tile: Tile) -> tuple[float, bool]:
    """Operations per second of the whole chip, and whether groups of warps multiply; (0, ..) without a matrix unit."""
    found = candidates(arch, *types, (tile.m, tile.n, tile.k), warps=tile.warps)
    return (found[0].tflops * 1e12, found[0].row.warps > 1) if found else (0.0, False)


def _longer(arch: Arch, compute: float, loaded: int) -> float:
    """Of seconds of products at the rate of the whole chip, and bytes of operands: what one multiprocessor takes."""
    bandwidth = CACHES * arch.throughput.dram_gbytes_per_s * 1e9
    return max(compute, loaded / bandwidth if bandwidth else 0.0) * max(1, arch.throughput.units)


def step_seconds(arch: Arch, tile: Tile, rate: float, sizes: tuple[int, int]) -> float:
    """A step of a tile, whose operands have elements of so many bytes; `rate` is that of the whole chip."""
    loaded = (tile.m * sizes[0] + tile.n * sizes[1]) * tile.k
    return _longer(arch, 2 * tile.m * tile.n * tile.k / rate if rate else 0.0, loaded)


def loop_seconds(
    arch: Arch, products: Sequence[tuple[tuple[str, str, str], tuple[int, int, int]]], warps: int, loaded: int
) -> float:
    """An iteration of a loop that makes products (types, extents) by so many warps of so many bytes of operands."""
    compute = 0.0
    for types, (m, n, k) in products:
        rate, _ = _rate(arch, types, Tile(m, n, k, warps))
        compute += 2 * m * n * k / rate if rate else 0.0
    return _longer(arch, compute, loaded)


def ring_depth(step: float) -> int:
    """The slots that cover the latency of memory, for steps of so many seconds."""
    return max(FEWEST, min(MOST, 1 + math.ceil(LATENCY / step))) if step else MOST


def product_tile(
    arch: Arch, types: tuple[str, str, str], sizes: tuple[int, int], extents: tuple[Dim, Dim, Dim], batch: Dim = 1,
    *, copied: bool = True, used: bool = False,
) -> Tile | None:  # fmt: skip
    """The tile of least estimated time for products of these types (a, b, accumulator; bytes of an element of a and b),
    extents m, n, k and so many of them. `copied`: operands are blocks of memory as they are, which groups of warps ask
    for; `used`: sums are computed with before they are stored. None where the target has no matrix unit for them."""
    found = _fastest(arch, types, sizes, extents, batch, copied=copied, used=used)
    return found[1] if found else None


def product_seconds(
    arch: Arch, types: tuple[str, str, str], sizes: tuple[int, int], extents: tuple[Dim, Dim, Dim], batch: Dim = 1
) -> float | None:
    """The time that the model gives such products."""
    found = _fastest(arch, types, sizes, extents, batch, copied=True)
    return found[0] if found else None


def _fastest(
    arch: Arch, types: tuple[str, str, str], sizes: tuple[int, int], extents: tuple[Dim, Dim, Dim], batch: Dim,
    *, copied: bool, used: bool = False,
) -> tuple[float, Tile] | None:  # fmt: skip
    numbers = [size if isinstance(size, int) else NOMINAL for size in extents]
    count = batch if isinstance(batch, int) else 1

    def seconds(tile: Tile) -> float:
        rate, _ = _rate(arch, types, tile)
        units, limits = max(1, arch.throughput.units), arch.limits
        threads = 32 * tile.warps
        registers = min(64 + tile.m * tile.n // threads, limits.registers_per_thread)
        ring = FEWEST * (tile.m * sizes[0] + tile.n * sizes[1]) * tile.k
        tiles = count * math.ceil(numbers[0] / tile.m) * math.ceil(numbers[1] / tile.n)
        held = min(limits.registers_per_sm // (registers * threads), limits.shared_per_sm // ring)
        resident = max(1, min(held, math.ceil(tiles / units)))
        steps = math.ceil(numbers[2] / tile.k)
        each = max(resident * step_seconds(arch, tile, rate, sizes), LATENCY / FEWEST)
        return math.ceil(tiles / (units * resident)) * (steps * each + LATENCY)

    times = ((seconds(tile), tile) for tile in _tiles(arch, types, sizes, copied, used))
    return min(times, key=lambda found: found[0], default=None)


def _tiles(
    arch: Arch, types: tuple[str, str, str], sizes: tuple[int, int], copied: bool, used: bool
) -> Iterator[Tile]:
    """Those that a unit multiplies and whose rings fit, the largest first."""
    for m in reversed(SIDES):
        for n in reversed(SIDES):
            for warps in (8, 4):
                for k_bytes in (ROW_BYTES[True], ROW_BYTES[False]):
                    tile = Tile(m, n, k_bytes // max(sizes), warps)
                    rate, grouped = _rate(arch, types, tile)
                    grouped = grouped and copied
                    ring = FEWEST * (m * sizes[0] + n * sizes[1]) * tile.k
                    parts = m * n // (32 * warps)
                    room = ring <= arch.limits.shared_per_block and m <= MOST_ROWS
                    most = min(MOST_SUMS[grouped], MOST_SUMS_USED) if used else MOST_SUMS[grouped]
                    fits = FEWEST_SUMS <= parts <= most and room
                    if rate and fits and ROW_BYTES[grouped] == k_bytes and (not grouped or m >= 16 * warps):
                        yield tile
