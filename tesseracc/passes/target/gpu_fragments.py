"""Fragments of matrix instructions: which registers of a spread tile an instruction takes, and how PTX names types."""

from __future__ import annotations

from collections.abc import Sequence

from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_spread import registers

PTX_TYPES = {
    "f16": "f16", "bf16": "bf16", "tf32": "tf32", "f32": "f32", "f64": "f64", "i8": "s8", "u8": "u8", "i32": "s32",
    "fp8_e4m3": "e4m3", "fp8_e5m2": "e5m2",
}  # fmt: skip


def pair(shape: Sequence[int]) -> tuple[int, int]:
    """The extents of a matrix."""
    return shape[0], shape[1]


def by_place(layout: LinearLayout) -> dict[tuple[int, ...], int]:
    """Which register of thread 0 holds a coordinate: the first of equals."""
    found: dict[tuple[int, ...], int] = {}
    for register in range(registers(layout)):
        found.setdefault(layout.at(register=register), register)
    return found


def pick(
    fragment: LinearLayout | None, where: dict[tuple[int, ...], int], origin: tuple[int, int], shape: tuple[int, int]
) -> list[int]:
    """The tile's registers that an instruction at `origin` takes, in the fragment's order."""
    assert fragment is not None
    found = []
    for register in range(registers(fragment)):
        row, column = fragment.at(register=register)
        found.append(where[(origin[0] + row) % shape[0], (origin[1] + column) % shape[1]])
    return found
