"""In which order blocks of the launch are given to the chip, so that those that run at the same time read the same.

An order is a sequence of axes, the fastest first, whose first axis may be cut into panels:

    axes (p, q, ..), panel W:   for the other axes: for panels of W along p: for q: for p in the panel

What runs at once is a wave of as many blocks as the chip has multiprocessors. It spans extents e along the axes, and
reads sum of bytes * product of e over the axes that the bytes depend on. The order that reads least per block is best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import prod

from tessera.shapes import Dim
from tesseracc.analysis.group_axes import Traffic, traffic
from tesseracc.arch.arch import Arch
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import BufType, size_of
from tesseracc.ir.value import Func, Value

PANELS = (2, 4, 8, 16, 32)
#: the part of what the given order reads that another one must not exceed: divisions are not free
GAIN = 0.9
#: the part of the second level cache that a panel's operands may take: they stay there while q runs
CACHE_PART = 2


@dataclass(frozen=True, slots=True)
class Order:
    """`axes` from fast to slow; `panel` cuts the first (0: it is whole)."""

    axes: tuple[int, ...]
    panel: int = 0

    def extents(self, grid: Sequence[Dim], units: int) -> list[float]:
        """What a wave of `units` blocks spans along each axis."""
        found = [1.0] * len(grid)
        left = float(units)
        for number, axis in enumerate(self.axes):
            size = grid[axis]
            most = min(left, size) if isinstance(size, int) else left
            found[axis] = max(1.0, min(most, self.panel) if self.panel and number == 0 else most)
            left = max(1.0, left / found[axis])
        return found

    def __str__(self) -> str:
        names = [("x", "y", "z")[axis] for axis in self.axes]
        if self.panel:
            return f"panels of {self.panel} along {names[0]}, then {', '.join(names[1:])}"
        return f"{', '.join(names)}, the fastest first"


def choose_order(kernel: Func, arch: Arch) -> Order:
    """The best order for the target; that of the grid where no other is better by enough."""
    grid: tuple[Dim, ...] = kernel.attrs["grid"]
    plain = Order(tuple(range(len(grid))))
    reads = [read for read in traffic(kernel) if read.axes]
    cache = arch.memory("l2").bytes // CACHE_PART
    if len(grid) < 2 or not reads or _all_bytes(kernel) <= cache:
        return plain
    units = arch.throughput.units

    def cost(order: Order) -> float:
        extents = order.extents(grid, units)
        bytes_ = sum(read.bytes * prod(extents[axis] for axis in read.axes) for read in reads)
        return bytes_ / prod(extents)

    best = min(_candidates(grid, reads, cache), key=cost)
    return best if cost(best) <= GAIN * cost(plain) else plain


def _candidates(grid: Sequence[Dim], reads: list[Traffic], cache: int) -> list[Order]:
    found = [Order(axes) for axes in permutations(range(len(grid)))]
    for p, q in permutations(range(len(grid)), 2):
        rest = tuple(axis for axis in range(len(grid)) if axis not in (p, q))
        kept = sum(read.bytes for read in reads if p in read.axes and q not in read.axes)
        found += [Order((p, q, *rest), panel) for panel in PANELS if panel * kept <= cache]
    return found


def _all_bytes(kernel: Func) -> float:
    """What the kernel's buffers take; infinite where a size has no number."""
    total = 0.0
    for param in kernel.params:
        if isinstance(param.type, BufType):
            dims = [dim for dim in param.type.dims if isinstance(dim, int)]
            total += prod(dims) * size_of(param.type.dtype) if len(dims) == len(param.type.dims) else float("inf")
    return total


def decode(b: Builder, number: Value, grid: Sequence[Dim], order: Order) -> list[Value]:
    """The index along every axis of the block with a number (u32) in an order: a bijection on any grid.

    The last panel may be narrower: it is then as wide as what is left. A grid has fewer than 2^31 blocks.
    """
    found: dict[int, Value] = {}
    axes = list(order.axes)
    if order.panel:
        p, q, *axes = axes
        number, slow = _split(b, number, grid[p] * grid[q]) if axes else (number, number)
        inside, panel = _split(b, number, grid[q] * order.panel)
        start = b.op("arith.mul", panel, b.const(order.panel, "u32"))
        size = grid[p]
        if isinstance(size, int) and size % order.panel == 0:
            width = b.const(order.panel, "u32")
        else:
            left = b.op("arith.sub", _size(b, size), start)
            width = b.op("arith.min", left, b.const(order.panel, "u32"))
        found[q] = b.op("arith.floordiv", inside, width)
        found[p] = b.op("arith.add", start, b.op("arith.sub", inside, b.op("arith.mul", found[q], width)))
        number = slow
    for axis in axes[:-1]:
        found[axis], number = _split(b, number, grid[axis])
    if axes:
        found[axes[-1]] = number
    return [b.op("arith.cast", found[axis], to="i64") for axis in range(len(grid))]


def _size(b: Builder, dim: Dim) -> Value:
    if isinstance(dim, int):
        return b.const(dim, "u32")
    return b.op("arith.cast", b.op("tile.dim", expr=dim), to="u32")


def _split(b: Builder, number: Value, size: Dim) -> tuple[Value, Value]:
    """Remainder and quotient."""
    divisor = _size(b, size)
    quotient = b.op("arith.floordiv", number, divisor)
    return b.op("arith.sub", number, b.op("arith.mul", quotient, divisor)), quotient
