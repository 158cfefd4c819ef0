"""Group sizes and tile shapes, derived from what the target's description says. Functions of (arch, dtype) alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tessera.shapes import Dim
from tesseracc.arch.arch import Arch
from tesseracc.ir.types import size_of
from tesseracc.tuning.products import product_tile


@dataclass(frozen=True, slots=True)
class Tuning:
    """lanes: lanes of a group; chunk: elements of an innermost axis per group; tile_*: shape of a matrix tile, of which
    each takes as many steps of step_m rows as the others;
    keep: bytes of a row's values that a group may keep from one loop to the next; turn: side of the tiles in which
    operands that lie along another axis are turned; strip: columns whose results a group holds while it reduces them,
    rows: how many rows it then takes at a time; few: rows of a product that do without packed operands; stream:
    columns of a block of weights that are made where they are used; narrow: columns of a tile where one has all rows.
    0: the target does not. `arch` is the target. whole: tiles are made for the extents, and are not cut."""

    arch: Arch

    lanes: int
    chunk: int
    tile_m: int
    tile_n: int
    tile_k: int
    step_m: int
    keep: int
    turn: int
    strip: int
    rows: int
    few: int
    stream: int
    whole: bool = False
    narrow: int = 0

    def for_product(
        self, types: tuple[str, str, str], extents: tuple[Dim, Dim, Dim], batch: Dim, *, copied: bool,
        used: bool,
    ) -> Tuning:
        """The same for a product of these types and extents (m, n, k), `batch` times.

        `copied`: its operands are blocks of memory; `used`: more follows than rounding. Where a CPU multiplies narrow
        operands as they are, as many bytes of them along k as else of sums; on its tile registers whole blocks of them;
        on a GPU's matrix units what the cost model chooses."""
        a, b, acc = types
        if self.arch.kind == "cuda":
            tile = product_tile(self.arch, types, (size_of(a), size_of(b)), extents, batch, copied=copied,
                                used=used)
            if tile is None:
                return self
            lanes = tile.warps * self.arch.lanes
            return replace(self, tile_m=tile.m, tile_n=tile.n, tile_k=tile.k, lanes=lanes, whole=True)
        unit = self.arch.tile_product(a, b, acc)
        deeper = replace(self, tile_k=self.tile_k * size_of(acc) // size_of(b))
        if unit is None:
            return deeper if types == PAIRS and self.arch.has("bf16_dot") else self
        step = REGISTERS_DOWN * unit.m
        return replace(deeper, step_m=step, tile_m=self.tile_m // step * step)


#: operands that a CPU's vectors multiply as they are stored, two along k at a time
PAIRS = ("bf16", "bf16", "f32")
#: tile registers of a CPU that a block of sums has along m
REGISTERS_DOWN = 2
#: native vectors that one lanes value of a compiler-made kernel takes: enough to hide the latency of an fma chain
VECTORS_PER_VALUE = 4
#: side of the tiles in which a CPU turns operands: a few cache lines per row; the best of 8 .. 256 on every CPU level
TURN = 32
#: columns of a tile, and where there is one row of tiles, which then has more tiles to run in parallel: so many that to
#: bring an operand's elements into place takes little beside their products
TILE_N, NARROW = 1024, 512
#: the part of the first level cache that the micro-kernel's operands take: a panel of the right one stays there for all
#: rows of the left. The part of the second level cache that a tile of the left one takes: it stays there for all panels
L1_PART, A_PART = 2, 5
#: the part of the second level cache that a row's kept values may take
KEEP_PART = 8
#: columns of a strip: pieces of rows long enough for the memory, results few enough for the nearest cache
STRIP = 2048
#: rows that are added to a strip at a time: the results then move from and to the nearest cache once for so many
ROWS = 4
#: rows of a product up to which bringing the right operand into place takes longer than the product without
FEW = 4
#: columns of a block of streamed weights, and blocks of the micro-kernel in its height: what the second level cache
#: holds beside operands
STREAM, STREAM_STEPS = 256, 16


def micro_rows(arch: Arch) -> int:
    """Rows of the CPU's matrix micro-kernel: accumulators of rows x 2 vectors, two vectors of b, some to spare."""
    return (arch.vector_registers - 4) // 2


def tuning_for(arch: Arch, dtype: str) -> Tuning:
    """The numbers for kernels that compute mostly with `dtype` (a name)."""
    if arch.kind == "cuda":
        return Tuning(arch, arch.group, 4 * arch.group, 64, 64, 16, 0, 0, 0, 0, 0, 0, 64)
    size, step = size_of(dtype), micro_rows(arch)
    native, l1, l2 = arch.vector_bits // (8 * size), arch.memory("l1").bytes, arch.memory("l2").bytes
    tile_k = max(64, l1 // L1_PART // ((2 * native + step) * size) // 64 * 64)
    tile_m = l2 // A_PART // (tile_k * size) // step * step
    return Tuning(
        arch, VECTORS_PER_VALUE * native, 2048, tile_m, TILE_N, tile_k, step, l2 // KEEP_PART, TURN, STRIP, ROWS, FEW,
        STREAM, narrow=NARROW,
    )  # fmt: skip
