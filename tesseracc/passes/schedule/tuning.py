"""Numbers that the lowering to tiles takes from the target: group sizes and tile shapes. Data, no decisions."""

from __future__ import annotations

from dataclasses import dataclass

from tesseracc.arch.arch import Arch
from tesseracc.ir.types import size_of


@dataclass(frozen=True, slots=True)
class Tuning:
    """lanes: lanes of a group; chunk: elements of an innermost axis per group; tile_*: shape of a matrix tile."""

    lanes: int
    chunk: int
    tile_m: int
    tile_n: int
    tile_k: int


def tuning_for(arch: Arch, dtype: str) -> Tuning:
    """The numbers for kernels whose widest common element type is `dtype` (a name)."""
    data = arch.schedule
    lanes = data.lanes if arch.kind == "cuda" else max(8, data.lanes * 4 // size_of(dtype))
    return Tuning(lanes, max(lanes, data.chunk), data.tile_m, data.tile_n, data.tile_k)
