"""Random layouts for property tests, and the interpretation of plans lane by lane on arrays."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tesseracc.layout import LinearLayout
from tesseracc.layout.gf2 import Span

PLACES = ("register", "lane", "warp")


@st.composite
def layouts(draw: Any, ins: tuple[str, ...] = ("x", "y"), outs: tuple[str, ...] = ("p", "q"), most: int = 4) -> Any:
    """Any layout between the named dimensions."""
    in_dims = tuple((name, draw(st.integers(0, most))) for name in ins)
    out_dims = tuple((name, draw(st.integers(0, most))) for name in outs)
    width = sum(bits for _, bits in out_dims)
    column = st.integers(0, (1 << width) - 1)
    return LinearLayout(in_dims, out_dims, [draw(column) for _ in range(sum(bits for _, bits in in_dims))])


def invertible(draw: Any, bits: int) -> list[int]:
    """A random basis of all vectors."""
    span, found = Span(), []
    while len(found) < bits:
        vector = draw(st.integers(1, (1 << bits) - 1))
        while not span.add(vector):
            vector = vector % ((1 << bits) - 1) + 1
        found.append(vector)
    return found


@st.composite
def register_layouts(draw: Any, shape: tuple[int, int], registers: int, warps: int = 1, copies: bool = False) -> Any:
    """Layouts of a tile in 2^registers registers of 32 lanes of 2^warps warps that hold every element; with `copies`,
    some bits may repeat what others hold."""
    bits = (shape[0] * shape[1]).bit_length() - 1
    total = registers + 5 + warps
    columns = invertible(draw, bits)
    extra = total - bits
    assert extra >= 0
    more = [draw(st.sampled_from([0, draw(st.sampled_from(columns))])) if copies else 0 for _ in range(extra)]
    order = draw(st.permutations(range(total)))
    mixed = [([*columns, *more])[i] for i in order]
    outs = tuple((f"dim{a}", size.bit_length() - 1) for a, size in enumerate(shape))
    return LinearLayout((("register", registers), ("lane", 5), ("warp", warps)), outs, mixed)


def hold(values: Any, layout: LinearLayout) -> Any:
    """[warps, lanes, registers] of a flat tile."""
    table = layout.table().reshape(layout.in_size("warp"), layout.in_size("lane"), layout.in_size("register"))
    return values[table]
