"""Layouts of tiles in shared memory: the input `offset` counts elements from the tile's start.

Swizzles permute 16-byte chunks by XOR, so rows of one chunk column lie in different banks:

    span s (32, 64 or 128 bytes):  byte offset bits 4.. ^= bits 7..   (1, 2 or 3 of them)

which is what TMA writes and what the descriptors of wgmma and tcgen05 read.
"""

from __future__ import annotations

from collections.abc import Sequence

from tesseracc.layout.dims import axis_names
from tesseracc.layout.gf2 import log2
from tesseracc.layout.linear import LinearLayout

__all__ = ["SWIZZLES", "core_matrices", "linear", "swizzled", "xor_swizzle"]

SWIZZLES = (0, 32, 64, 128)  # bytes


def linear(shape: Sequence[int], order: Sequence[int] | None = None) -> LinearLayout:
    """A dense tile; `order` lists the axes, the fastest first (default: row-major)."""
    rank = len(shape)
    names = axis_names(rank)
    layout = LinearLayout.empty()
    for axis in order if order is not None else reversed(range(rank)):
        layout = layout * LinearLayout.identity(shape[axis], "offset", names[axis])
    return layout.transpose_outs(names)


def swizzled(shape: Sequence[int], bits: int, span: int, order: Sequence[int] = (1, 0)) -> LinearLayout:
    """A matrix in boxes of `span` bytes along its fastest axis, box after box, each swizzled; 0: dense.

    A box is what one tensor copy writes: all of the slow axis, `span` bytes of the fast one.
    """
    if span == 0:
        return linear(shape, order)
    fast, slow = order
    names = axis_names(2)
    inner = min(span * 8 // bits, shape[fast])
    if inner * bits != span * 8:
        raise ValueError(f"rows of {shape[fast]} elements of {bits} bits do not fill a swizzle of {span} bytes")
    box = LinearLayout.identity(inner, "offset", names[fast])
    box = box * LinearLayout.identity(shape[slow], "offset", names[slow])
    tile = box * LinearLayout.identity(shape[fast] // inner, "offset", names[fast])
    return _permuted(tile.transpose_outs(names), span, bits)


def _permuted(layout: LinearLayout, span: int, bits: int) -> LinearLayout:
    """Where memory offset o holds what `layout` has at o with chunk bits ^= line bits (an involution)."""
    unit = log2(8 * 16 // bits)  # elements of a chunk
    columns = list(layout.columns)
    for bit in range(log2(span // 16)):
        line = unit + 3 + bit  # byte bit 7 + bit
        if line < len(columns):
            columns[line] ^= layout.columns[unit + bit]
    return LinearLayout(layout.ins, layout.outs, columns)


def xor_swizzle(
    shape: Sequence[int], vec: int, per_phase: int, max_phase: int, order: Sequence[int] = (1, 0)
) -> LinearLayout:
    """Element (r, c) of a matrix lies in row r at c xor vec * (r / per_phase mod max_phase)."""
    fast, slow = order
    layout = linear(shape, order)
    columns = list(layout.columns)
    start = log2(shape[fast])
    names = axis_names(2)
    for bit in range(log2(max_phase)):
        row = start + log2(per_phase) + bit
        if row < len(columns):
            moved = (vec << bit) % shape[fast]
            parts = {names[fast]: moved, names[slow]: 0}
            columns[row] ^= parts[names[0]] * shape[1] + parts[names[1]]
    return LinearLayout(layout.ins, layout.outs, columns)


def core_matrices(shape: Sequence[int], bits: int, order: Sequence[int] = (1, 0)) -> LinearLayout:
    """Descriptors without swizzle: cores of 8 rows of 16 bytes, those of one row group one after the other."""
    fast, slow = order
    names = axis_names(2)
    inner = 128 // bits
    core = LinearLayout.identity(inner, "offset", names[fast]) * LinearLayout.identity(8, "offset", names[slow])
    tile = core * LinearLayout.identity(shape[fast] // inner, "offset", names[fast])
    return (tile * LinearLayout.identity(shape[slow] // 8, "offset", names[slow])).transpose_outs(names)
