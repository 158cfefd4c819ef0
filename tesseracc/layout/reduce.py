"""Reducing a tile along an axis: what each thread adds, which lanes exchange, which warps meet in shared memory.

With L the layout and P the layout without the axis, elements of one result are cosets of ker P. Of these, ker L are
copies of one element, which count once. So the steps are a basis of ker P over ker L, taken from registers first, then
from lanes, then from warps; each step combines a value with that of the place which differs by the basis vector.
"""

from __future__ import annotations

from dataclasses import dataclass

from tesseracc.layout.build import drop_axis
from tesseracc.layout.gf2 import Span, combine, extend, kernel, log2
from tesseracc.layout.linear import LinearLayout

__all__ = ["Exchange", "Reduction", "fold_steps", "reduction"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """Every partial result r of lane l (and warp w) meets partial r ^ register of lane l ^ lane (warp w ^ warp)."""

    register: int
    lane: int
    warp: int


@dataclass(frozen=True, slots=True)
class Reduction:
    """First in each thread: partial result i combines `groups[i]`. Then exchanges, each doubling what it covers.

    Registers that hold copies are in no group. Afterwards all places that `result` maps to one coordinate hold its
    value; `result` has a register for every group.
    """

    groups: tuple[tuple[int, ...], ...]
    lanes: tuple[Exchange, ...]
    warps: tuple[Exchange, ...]
    result: LinearLayout


def reduction(layout: LinearLayout, axis: int) -> Reduction:
    """The steps for a reduction of `layout` along an axis. Inputs are register, lane, warp, in this order."""
    if [name for name, _ in layout.ins] != ["register", "lane", "warp"]:
        raise ValueError("a register layout has the inputs register, lane and warp")
    dropped = drop_axis(layout, axis)
    count = len(layout.bases("register"))
    width = count + len(layout.bases("lane"))
    # Registers: copies leave, then cosets of what differs along the axis alone.
    copies = kernel(layout.bases("register"))
    inside = extend(copies, kernel(dropped.bases("register")))
    inside.sort(key=lambda step: layout.flat(step))
    apart = extend([*copies, *inside], (1 << bit for bit in range(count)))
    groups = tuple(
        tuple(combine(apart, index) ^ combine(inside, member) for member in range(1 << len(inside)))
        for index in range(1 << len(apart))
    )
    partial = Span([*apart, *copies, *inside])

    def index(register: int) -> int:
        """The number of the partial result that a register belongs to."""
        return (partial.solve(register) or 0) & ((1 << len(apart)) - 1)

    steps: list[list[Exchange]] = [[], []]
    done = [*copies, *inside]
    for level, columns in enumerate((layout.columns[:width], layout.columns)):
        same = kernel(columns)
        found = extend([*done, *same], kernel(dropped.columns[: len(columns)]))
        for vector in found:
            lane = vector >> count & ((1 << width - count) - 1)
            steps[level].append(Exchange(index(vector & ((1 << count) - 1)), lane, vector >> width))
        done = [*done, *same, *found]
    bases = [dropped.flat(register) for register in apart]
    ins = (("register", len(apart)), *dropped.ins[1:])
    result = LinearLayout(ins, dropped.outs, [*bases, *dropped.columns[count:]])
    return Reduction(groups, tuple(steps[0]), tuple(steps[1]), result)


def fold_steps(layout: LinearLayout, axis: int) -> tuple[Exchange, ...]:
    """The steps of a fold in a fixed order: coordinate bits of the axis from the highest to the lowest.

    Step i joins every element with the one whose coordinate along the axis differs in bit n - 1 - i alone: an exchange
    between registers where lane and warp are 0, else between lanes, else between warps. The result is that of halving
    the axis again and again, x[j] + x[j + n / 2], on every layout, and each place of a row ends with the row's value.
    ValueError where the layout lacks elements.
    """
    name = f"dim{axis}"
    shift = 0
    for dim, bits in reversed(layout.outs):
        if dim == name:
            break
        shift += bits
    count = len(layout.bases("register"))
    width = count + len(layout.bases("lane"))
    span = Span(layout.columns)  # registers come first, so they are preferred to lanes, and lanes to warps
    steps = []
    for bit in reversed(range(log2(layout.out_size(name)))):
        place = span.solve(1 << shift + bit)
        if place is None:
            raise ValueError(f"the layout does not hold all elements along axis {axis}")
        lane = place >> count & (1 << width - count) - 1
        steps.append(Exchange(place & (1 << count) - 1, lane, place >> width))
    return tuple(steps)
