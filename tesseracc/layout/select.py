"""Choosing the matrix instruction for a product of tiles, from the target's table."""

from __future__ import annotations

from dataclasses import dataclass

from tesseracc.arch import Arch, MmaRow
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.names import named

__all__ = ["Choice", "candidates", "choose_mma"]

# Types whose values another type has exactly, so that operands may be converted before a product.
EXACTLY = {"fp8_e4m3": ("f16",), "fp8_e5m2": ("f16",)}


@dataclass(frozen=True, slots=True)
class Choice:
    """An instruction for A[m, k] B[k, n] of a tile: `row` of the table with its width fixed to `n`.

    `a_type` and `b_type` differ from the operands' where no unit multiplies those and a wider type holds them exactly.
    """

    row: MmaRow
    n: int
    a_type: str
    b_type: str
    tflops: float  # of the reference board, at most

    @property
    def spelling(self) -> str:
        """The shape as the instruction spells it: m16n8k16."""
        return self.row.shape.format(n=self.n)

    def layout(self, operand: str) -> LinearLayout | None:
        """The fragment of operand a, b or c; None where it is not in registers or its layout is not documented."""
        name = {"a": self.row.a_layout, "b": self.row.b_layout, "c": self.row.c_layout}[operand]
        return named(name.format(n=self.n)) if name else None

    @property
    def registers(self) -> int:
        """Elements of the accumulator in each thread."""
        return self.row.m * self.n // (32 * self.row.warps)


def candidates(
    arch: Arch, a: str, b: str, acc: str, shape: tuple[int, int, int], *, warps: int = 4, documented: bool = True
) -> list[Choice]:
    """All instructions of `arch` for a tile product of m x n x k by `warps` warps, best first.

    An instruction fits when its m, n and k divide the tile's and its warps divide `warps`. Of the possible n the
    largest is taken with which every warp has a part of the result and the result a linear layout, if there is one.
    `documented` leaves out those whose accumulators nobody may index. The best has the highest rate, then the most work
    in one instruction.
    """
    m, n, k = shape
    found: list[tuple[tuple[float, int, int], Choice]] = []
    for order, row in enumerate(arch.mma):
        if not arch.features.issuperset(row.needs) or (documented and not row.c_layout):
            continue
        if row.acc != acc or m % row.m or k % row.k or warps % row.warps:
            continue
        if row.a not in (a, *EXACTLY.get(a, ())) or row.b not in (b, *EXACTLY.get(b, ())):
            continue
        widths = [w for w in row.n if n % w == 0]
        if not widths:
            continue
        width = max([w for w in widths if _divides(row, w, shape, warps // row.warps)] or widths)
        peak = arch.throughput.tflops.get(row.rate_key(), 0.0)
        tflops = peak * arch.throughput.efficiency.get(row.op, 1.0) * row.rate
        rank = (-tflops, -row.m * width * row.k, order)
        found.append((rank, Choice(row, width, row.a, row.b, tflops)))
    return [choice for _, choice in sorted(found, key=lambda pair: pair[0])]


def _divides(row: MmaRow, width: int, shape: tuple[int, int, int], units: int) -> bool:
    """Whether some grid of `units` warps, or warp groups, divides the result.

    A width that is not a power of two must be the whole row: blocks of it are in no linear layout.
    """
    m, n, _ = shape
    grids = [(units // across, across) for across in range(1, units + 1) if units % across == 0]
    if width & (width - 1):
        return n == width and m % (row.m * units) == 0
    return any(m % (row.m * down) == 0 and n % (width * across) == 0 for down, across in grids)


def choose_mma(
    arch: Arch, a: str, b: str, acc: str, shape: tuple[int, int, int], *, warps: int = 4, documented: bool = True
) -> Choice | None:
    """The best instruction for a tile product; None: the target multiplies these types with fma alone."""
    found = candidates(arch, a, b, acc, shape, warps=warps, documented=documented)
    return found[0] if found else None
