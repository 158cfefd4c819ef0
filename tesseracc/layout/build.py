"""Constructors of register layouts, and what the shape operations of tiles do to them.

Register layouts map (register, lane, warp) to the axes dim0, dim1, ... of a tile. `register` counts elements, not
32-bit registers: consecutive elements of narrow types share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tesseracc.layout.dims import axis_names, pack, unpack
from tesseracc.layout.gf2 import Span, combine, log2
from tesseracc.layout.linear import LinearLayout

__all__ = [
    "PLACES", "add_axis", "blocked", "broadcast", "coalesced", "drop_axis", "fit", "join", "replicated", "reshape",
    "split", "transpose", "unique_registers",
]  # fmt: skip

PLACES = ("register", "lane", "warp")


def blocked(
    shape: Sequence[int], per_thread: Sequence[int], lanes: Sequence[int], warps: Sequence[int],
    order: Sequence[int] | None = None,
) -> LinearLayout:  # fmt: skip
    """Boxes of `per_thread` elements, of which `lanes` make a warp's box and `warps` of those a block's.

    `order` lists the axes, the fastest first (default: the last axis first). A tile larger than the block's box is
    covered by more registers; one smaller holds elements several times.
    """
    rank = len(shape)
    order = tuple(order) if order is not None else tuple(range(rank))[::-1]
    names = axis_names(rank)
    layout = LinearLayout.empty()
    for place, sizes in zip(PLACES, (per_thread, lanes, warps)):
        for axis in order:
            layout = layout * LinearLayout.identity(sizes[axis], place, names[axis])
    return fit(layout.transpose_outs(names), shape, order)


def coalesced(
    shape: Sequence[int], bits: int, warps: int, order: Sequence[int] | None = None, vector_bits: int = 128,
    lanes: int = 32, deep: int = 1,
) -> LinearLayout:  # fmt: skip
    """The layout in which a tile is copied from global memory.

    A thread takes `vector_bits` along the fastest axis, or fewer when the tile would not occupy all threads, of `deep`
    neighbours along the next axis, if there are so many for each thread; lanes and then warps follow the tile's memory
    order.
    """
    rank = len(shape)
    order = tuple(order) if order is not None else tuple(range(rank))[::-1]
    total = prod(shape)
    vector = max(1, min(vector_bits // bits, shape[order[0]], total // (lanes * warps) or 1))
    left = list(shape)
    sizes: dict[str, list[int]] = {}
    for place, count in (("register", vector), ("lane", lanes), ("warp", warps)):
        taken = [1] * rank
        if place == "register" and rank > 1 and total // (lanes * warps) >= vector * deep <= vector * shape[order[1]]:
            taken[order[1]] = deep
            left[order[1]] //= deep
        for axis in order if place != "register" else order[:1]:
            taken[axis] = min(count, left[axis])
            count //= taken[axis]
            left[axis] //= taken[axis]
        taken[order[-1]] *= count if place != "register" else 1  # more threads than elements: held several times
        sizes[place] = taken
    return blocked(shape, sizes["register"], sizes["lane"], sizes["warp"], order)


def replicated(shape: Sequence[int], warps: int, lanes: int = 32) -> LinearLayout:
    """Every thread holds the whole tile."""
    rank = len(shape)
    names = axis_names(rank)
    layout = LinearLayout.empty()
    for axis in reversed(range(rank)):
        layout = layout * LinearLayout.identity(shape[axis], "register", names[axis])
    layout = layout * LinearLayout.zeros(lanes, "lane", names[0]) * LinearLayout.zeros(warps, "warp", names[0])
    return layout.transpose_outs(names)


def fit(layout: LinearLayout, shape: Sequence[int], order: Sequence[int] | None = None) -> LinearLayout:
    """The layout on a tile of another shape.

    A larger tile is covered by repetition in registers, along the axes in `order`. On a smaller tile coordinates are
    taken modulo its extent, so that several places hold the same element.
    """
    rank = len(shape)
    order = tuple(order) if order is not None else tuple(range(rank))[::-1]
    names = axis_names(rank)
    outs = tuple((name, min(log2(size), dict(layout.outs)[name])) for name, size in zip(names, shape))
    columns = []
    for column in layout.columns:
        parts = unpack(column, layout.outs)
        columns.append(pack([parts[name] & ((1 << bits) - 1) for name, bits in outs], outs))
    result = LinearLayout(layout.ins, outs, columns)
    if not result.has_in("register"):
        result = LinearLayout((("register", 0), *result.ins), outs, columns)
    for axis in order:
        more = shape[axis] // result.out_size(names[axis])
        result = result * LinearLayout.identity(more, "register", names[axis])
    return result


# --- shape operations ---------------------------------------------------------------------------------------------


def _renumbered(layout: LinearLayout, names: Sequence[str]) -> LinearLayout:
    order = layout.transpose_outs(names)
    return order.rename(outs=dict(zip(names, axis_names(len(names)))))


def transpose(layout: LinearLayout, axes: Sequence[int]) -> LinearLayout:
    """Axis i of the result is axis axes[i]."""
    return _renumbered(layout, [f"dim{axis}" for axis in axes])


def drop_axis(layout: LinearLayout, axis: int) -> LinearLayout:
    """The layout of a reduced tile: coordinates along `axis` are forgotten, so elements are held several times."""
    names = [name for name, _ in layout.outs if name != f"dim{axis}"]
    return _renumbered(layout.sublayout([name for name, _ in layout.ins], names), names)


def add_axis(layout: LinearLayout, axis: int) -> LinearLayout:
    """A new axis of extent 1 before `axis`."""
    old = list(axis_names(len(layout.outs)))
    wide = LinearLayout(layout.ins, (*layout.outs, ("new", 0)), layout.columns)
    return _renumbered(wide, [*old[:axis], "new", *old[axis:]])


def broadcast(layout: LinearLayout, axis: int, size: int) -> LinearLayout:
    """The axis `axis` of extent 1 repeated `size` times, in registers above the present ones."""
    if layout.out_size(f"dim{axis}") != 1:
        raise ValueError(f"axis {axis} has extent {layout.out_size(f'dim{axis}')}, not 1")
    return layout * LinearLayout.identity(size, "register", f"dim{axis}")


def reshape(layout: LinearLayout, shape: Sequence[int]) -> LinearLayout:
    """The same elements in row-major order under another shape."""
    return layout.reshape_outs(shape)


def join(layout: LinearLayout) -> LinearLayout:
    """Two tiles of this layout as one with a last axis of extent 2, chosen by the lowest bit of the register."""
    rank = len(layout.outs)
    joined = LinearLayout.identity(2, "register", f"dim{rank}") * layout
    return joined.with_ins([name for name, _ in layout.ins]).transpose_outs(axis_names(rank + 1))


def split(layout: LinearLayout) -> tuple[LinearLayout, int]:
    """The inverse of `join`: the layout of both halves along the last axis, and the register bit that tells them apart.

    ValueError when the last axis is not one bit of the register alone.
    """
    last = f"dim{len(layout.outs) - 1}"
    if layout.out_size(last) != 2:
        raise ValueError(f"the last axis has extent {layout.out_size(last)}, not 2")
    rows = [(name, bit, column) for name, bits in layout.ins for bit, column in zip(range(bits), layout.bases(name))]
    telling = [(name, bit) for name, bit, column in rows if column & 1]
    if len(telling) != 1 or telling[0][0] != "register" or layout.bases("register")[telling[0][1]] != 1:
        raise ValueError("the last axis is not one bit of the register")
    bit = telling[0][1]
    columns = list(layout.columns)
    del columns[layout.in_shift("register") + bit]
    ins = tuple((name, bits - (name == "register")) for name, bits in layout.ins)
    return LinearLayout(ins, layout.outs[:-1], [column >> 1 for column in columns]), bit


def unique_registers(layout: LinearLayout) -> tuple[LinearLayout, tuple[int, ...]]:
    """Without registers that hold what a lower one of the same thread holds; and the old number of each kept one."""
    bases, start = layout.bases("register"), layout.in_shift("register")
    span = Span()
    kept = [bit for bit, column in enumerate(bases) if span.add(column)]
    columns = list(layout.columns)
    columns[start : start + len(bases)] = [bases[bit] for bit in kept]
    ins = tuple((name, len(kept) if name == "register" else bits) for name, bits in layout.ins)
    old = tuple(combine([1 << bit for bit in kept], new) for new in range(1 << len(kept)))
    return LinearLayout(ins, layout.outs, columns), old
