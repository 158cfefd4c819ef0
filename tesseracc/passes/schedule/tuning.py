"""Group sizes and tile shapes, derived from what the target's description says. Functions of (arch, dtype) alone."""

from __future__ import annotations

from dataclasses import dataclass

from tesseracc.arch.arch import Arch
from tesseracc.ir.types import size_of


@dataclass(frozen=True, slots=True)
class Tuning:
    """lanes: lanes of a group; chunk: elements of an innermost axis per group; tile_*: shape of a matrix tile;
    keep: bytes of a row's values that a group may keep from one loop to the next; turn: side of the tiles in which
    operands that lie along another axis are turned; strip: columns whose results a group holds while it reduces them,
    rows: how many rows it then takes at a time. 0: the target does not."""

    lanes: int
    chunk: int
    tile_m: int
    tile_n: int
    tile_k: int
    keep: int
    turn: int
    strip: int
    rows: int


#: native vectors that one lanes value of a compiler-made kernel takes: enough to hide the latency of an fma chain
VECTORS_PER_VALUE = 4
#: side of the tiles in which a CPU turns operands: a few cache lines per row; the best of 8 .. 256 on every CPU level
TURN = 32
#: columns of a strip: pieces of rows long enough for the memory, results few enough for the nearest cache
STRIP = 2048
#: rows that are added to a strip at a time: the results then move from and to the nearest cache once for so many
ROWS = 4


def micro_rows(arch: Arch) -> int:
    """Rows of the CPU's matrix micro-kernel: accumulators of rows x 2 vectors, two vectors of b, some to spare."""
    return (arch.vector_registers - 4) // 2


def tuning_for(arch: Arch, dtype: str) -> Tuning:
    """The numbers for kernels that compute mostly with `dtype` (a name)."""
    if arch.kind == "cuda":
        return Tuning(arch.group, 4 * arch.group, 64, 64, 16, 0, 0, 0, 0)
    native = arch.vector_bits // (8 * size_of(dtype))
    keep = arch.memory("l2").bytes // 8
    return Tuning(VECTORS_PER_VALUE * native, 2048, 16 * micro_rows(arch), 256, 256, keep, TURN, STRIP, ROWS)
