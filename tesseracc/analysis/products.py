"""What a product of tiles multiplies."""

from __future__ import annotations

from tesseracc.ir.types import TileType
from tesseracc.ir.value import Op


def multiplied(op: Op) -> tuple[TileType, TileType, TileType]:
    """a, b and the accumulator of a `tile.mma`, with the element types that a matrix unit is to multiply."""
    a, b, acc = (op[name].type for name in ("a", "b", "acc"))
    assert isinstance(a, TileType) and isinstance(b, TileType) and isinstance(acc, TileType)
    units = op.attrs["units"]
    return (TileType(a.shape, units), TileType(b.shape, units), acc) if units else (a, b, acc)
