"""Pictures of layouts as text: for every element of a tile the place that holds it, or its offset.

    picture(parse_layout("#mma.m16n8k16.c"))

            0       1       2       3     ...
     0    0:0     0:1     1:0     1:1     lane:register
     1    4:0     4:1     5:0     5:1
"""

from __future__ import annotations

from collections.abc import Sequence

from tesseracc.layout.gf2 import kernel
from tesseracc.layout.linear import LinearLayout

__all__ = ["picture"]

MOST_CELLS = 1 << 16
WIDEST = 160  # characters of a line; wider tiles are drawn in strips


def picture(layout: LinearLayout) -> str:
    """The grid of a layout with up to two outputs, row by row; further outputs become further grids.

    A cell names the place with the smallest numbers; `+3` after it says that three more places hold the element.
    Elements without a place are `.`.
    """
    if layout.out_bits > MOST_CELLS.bit_length() - 1 or layout.in_bits > 20:
        return f"{layout}\n{_summary(layout)}\nA tile of {1 << layout.out_bits} elements is too large to be drawn.\n"
    shown = [name for name, bits in layout.ins if bits] or [name for name, _ in layout.ins][:1]
    usual = [name for name in ("warp", "lane", "register") if name in shown]
    order = usual + [name for name in shown if name not in usual]
    cells = _cells(layout, order)
    rows, columns = _grid(layout.shape)
    text = [f"{layout}", _summary(layout), ""]
    outer = len(cells) // (rows * columns)
    for index in range(outer):
        if outer > 1:
            leading = LinearLayout((), layout.outs[:-2], ()).coordinate(index)
            text.append(f"[{', '.join(map(str, leading))}, :, :]")
        block = cells[index * rows * columns : (index + 1) * rows * columns]
        text += _draw([block[row * columns : (row + 1) * columns] for row in range(rows)])
        text.append("")
    text.append("cell = " + ":".join(order) if order else "cell = the only place")
    return "\n".join(line.rstrip() for line in text) + "\n"


def _grid(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) >= 2:
        return shape[-2], shape[-1]
    return 1, shape[0] if shape else 1


def _summary(layout: LinearLayout) -> str:
    sources = " x ".join(f"{1 << bits} {name}{'s' if bits else ''}" for name, bits in layout.ins)
    copies = 1 << len(kernel(layout.columns))
    held = "every element once" if copies == 1 else f"every element {copies} times"
    if not layout.is_surjective():
        held += f", {(1 << layout.rank)} of {1 << layout.out_bits} elements"
    return f"{sources or 'one place'} -> {' x '.join(map(str, layout.shape)) or 'one element'}: {held}"


def _cells(layout: LinearLayout, order: Sequence[str]) -> list[str]:
    holders: dict[int, list[tuple[int, ...]]] = {}
    for flat, place in zip(layout.table().tolist(), layout.places()):
        holders.setdefault(flat, []).append(tuple(place[name] for name in order))
    cells = []
    for flat in range(1 << layout.out_bits):
        found = sorted(holders.get(flat, []))
        more = f"+{len(found) - 1}" if len(found) > 1 else ""
        cells.append(":".join(map(str, found[0])) + more if found else ".")
    return cells


def _draw(rows: list[list[str]]) -> list[str]:
    """Rows of cells with numbers of rows and columns, in strips."""
    width = max(len(cell) for row in rows for cell in row)
    width = max(width, len(str(len(rows[0]) - 1)))
    margin = len(str(len(rows) - 1))
    per = max(1, (WIDEST - margin - 2) // (width + 2))
    lines = []
    for first in range(0, len(rows[0]), per):
        numbers = range(first, min(first + per, len(rows[0])))
        if first:
            lines.append("")
        lines.append(" " * margin + "  " + "  ".join(str(number).rjust(width) for number in numbers))
        for index, row in enumerate(rows):
            lines.append(str(index).rjust(margin) + "  " + "  ".join(row[number].rjust(width) for number in numbers))
    return lines
