"""A product of tiles cut into matrix instructions: layouts of whole operands, and each instruction's registers.

Each warp (or warp group) owns a box of the result; its instructions cover the box, first along n, then along m. Warps
that differ in n only need the same part of A, and hold it alike: their bits of the layout are 0; likewise for B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tesseracc.layout.fragments import next_power
from tesseracc.layout.gf2 import log2
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.select import Choice

__all__ = ["MmaTiling", "tile_product", "warp_grid"]

Operand = Literal["a", "b", "c"]


@dataclass(frozen=True, slots=True)
class MmaTiling:
    """`steps` instructions along m, n and k in each warp. A layout is None where the operand is not in registers.

    An accumulator in tensor memory has the layout from (dim1, dim0) to lane and column: block (i, j) of it starts at
    the column of its first element.
    """

    choice: Choice
    shape: tuple[int, int, int]
    grid: tuple[int, int]  # warps, or warp groups, along m and n
    steps: tuple[int, int, int]
    a: LinearLayout | None
    b: LinearLayout | None
    c: LinearLayout | None

    def registers(self, operand: Operand, row: int, column: int) -> tuple[int, ...]:
        """Registers of the tile that are the fragment of the operand's instruction block (row, column).

        Blocks of A are counted along m and k, of B along k and n, of C along m and n.
        """
        layout = self.choice.layout(operand)
        if layout is None or not layout.has_in("register"):
            raise ValueError(f"operand {operand} is not in registers")
        m, n, k = self.steps
        fast, slow = {"a": (k, m), "b": (k, n), "c": (n, m)}[operand]
        x, y = (row, column) if operand == "b" else (column, row)
        if not (0 <= x < fast and 0 <= y < slow):
            raise ValueError(f"block ({row}, {column}) of operand {operand} is outside of {self.steps}")
        block = layout.in_size("register")
        count = self.choice.registers if operand == "c" else block
        first = (x + y * next_power(fast)) * block
        return tuple(range(first, first + count))


def warp_grid(choice: Choice, shape: tuple[int, int, int], warps: int) -> tuple[int, int]:
    """How `warps` warps divide the result: so that they read least, which is m / grid_m + n / grid_n; of equals the
    one with more along m, whose rows stay together."""
    units = warps // choice.row.warps
    m, n, _ = shape
    best: tuple[int, int, int] | None = None
    for along_n in (1 << bit for bit in range(log2(units) + 1)):
        along_m = units // along_n
        if m % (choice.row.m * along_m) or n % (choice.n * along_n):
            continue
        cost = m // along_m + n // along_n
        if best is None or cost < best[0]:
            best = (cost, along_m, along_n)
    if best is None:
        raise ValueError(f"{warps} warps do not divide a result of {m} x {n} by {choice.spelling}")
    return best[1:]


def tile_product(choice: Choice, shape: tuple[int, int, int], grid: tuple[int, int]) -> MmaTiling:
    """The tiling of an m x n x k product, of which m and k are powers of two.

    The bits of the warp are those of the fragment (a warp group), then its place along m, then along n. Where n is not
    a power of two, the layouts are those of the next one, and the registers of columns beyond n are not used; warps
    along n then take turns, so that all have the same number of columns, and their bits come before those along m.
    """
    m, n, k = shape
    along_m, along_n = grid
    row = choice.row
    steps = (m // (row.m * along_m), n // (choice.n * along_n), k // row.k)
    if min(steps) < 1 or (steps[0] * row.m * along_m, steps[1] * choice.n * along_n, steps[2] * row.k) != shape:
        raise ValueError(f"{choice.spelling} on {along_m} x {along_n} warps does not divide {shape}")
    padded = next_power(n)
    if choice.n != next_power(choice.n) and n != choice.n:
        raise ValueError(f"{n} columns are not a row of blocks of {choice.n} in a linear layout")
    log2(m), log2(k)

    def one(name: str, size: int) -> LinearLayout:
        return LinearLayout.identity(size, "register", name)

    def warps(name: str, size: int) -> LinearLayout:
        return LinearLayout.identity(size, "warp", name)

    def same(size: int) -> LinearLayout:
        return LinearLayout.zeros(size, "warp", "dim0")

    repeat = one("dim1", padded // (next_power(choice.n) * along_n))
    turns = padded != n
    a, b, c = choice.layout("a"), choice.layout("b"), choice.layout("c")
    if a is not None:
        a = a * one("dim1", steps[2]) * one("dim0", steps[0])
        a = a * same(along_n) * warps("dim0", along_m) if turns else a * warps("dim0", along_m) * same(along_n)
    if b is not None:
        b = b * one("dim0", steps[2])
        b = b * warps("dim1", along_n) * repeat * same(along_m) if turns else (
            b * repeat * same(along_m) * warps("dim1", along_n)
        )
    if c is not None and not c.has_in("register"):  # tensor memory: further blocks in further columns
        c = c * LinearLayout.identity(steps[1], "dim1", "column") * LinearLayout.identity(steps[0], "dim0", "column")
    elif c is not None:
        if turns:
            c = c * warps("dim1", along_n) * repeat * one("dim0", steps[0]) * warps("dim0", along_m)
        else:
            c = c * repeat * one("dim0", steps[0]) * warps("dim0", along_m) * warps("dim1", along_n)
    return MmaTiling(choice, shape, grid, steps, a, b, c)
