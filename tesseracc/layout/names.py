"""Names of well-known layouts, as the tables of matrix instructions and the command line use them.

    mma.m16n8k16.a16   mma.m16n8k16.b16   mma.m16n8k16.c     operand, and bits of A's or B's elements
    mma.quad.a16  mma.quad.b16  mma.quad.c32                 m8n8k4 of all four quad pairs
    wgmma.m64n128.c    wgmma.m64k16.a16
    ldmatrix.x4        ldmatrix.x2.trans                     stmatrix has the same ones
    tcgen05.32x32b.x8  tcgen05.16x256b.x4
    tmem.m128n256                                            where tcgen05.mma puts D in tensor memory
    shared.128b.16.64x64                                     offset of an element in a swizzled tile (rows x columns)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from tesseracc.layout import fragments as fr
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.shared import SWIZZLES, swizzled

__all__ = ["EXAMPLES", "named"]

EXAMPLES = (
    "mma.m16n8k16.a16", "mma.m16n8k16.b16", "mma.m16n8k16.c", "mma.quad.a16", "mma.quad.c32", "wgmma.m64n128.c",
    "wgmma.m64k16.a16", "ldmatrix.x4", "ldmatrix.x2.trans", "tcgen05.32x32b.x8", "tmem.m128n64",
    "shared.128b.16.64x64",
)  # fmt: skip

_WIDTHS = (4, 8, 16, 32, 64)


def _power(*values: int) -> bool:
    return all(0 < value <= 1 << 16 and value & (value - 1) == 0 for value in values)


def _mma(m: str, n: str, k: str, operand: str, width: str) -> LinearLayout | None:
    rows, columns, depth, bits = int(m), int(n), int(k), int(width or 0)
    if rows not in (8, 16) or columns != 8 or not _power(depth):
        return None
    if operand == "c":
        return None if width else fr.mma_c(rows)
    if bits not in _WIDTHS or depth < 4 * max(1, 32 // bits):
        return None
    return fr.mma_a(rows, depth, bits) if operand == "a" else fr.mma_b(depth, bits)


def _quad(operand: str, width: str) -> LinearLayout | None:
    if operand == "c":
        return fr.quad_c(int(width)) if width in ("16", "32") else None
    return None if width != "16" else fr.quad_a() if operand == "a" else fr.quad_b()


def _wgmma_c(n: str) -> LinearLayout | None:
    return fr.wgmma_c(int(n)) if int(n) % 8 == 0 and 8 <= int(n) <= 256 else None


def _wgmma_a(k: str, width: str) -> LinearLayout | None:
    depth, bits = int(k), int(width)
    return fr.wgmma_a(depth, bits) if bits in (8, 16, 32) and depth * bits == 256 else None


def _ldmatrix(count: str, trans: str) -> LinearLayout | None:
    return fr.ldmatrix(int(count), bool(trans)) if int(count) in fr.LDMATRIX_COUNTS else None


def _tmem(shape: str, repeat: str) -> LinearLayout | None:
    return fr.tmem_load(shape, int(repeat)) if shape in fr.TMEM_SHAPES and _power(int(repeat)) else None


def _shared(swizzle: str, width: str, rows: str, columns: str) -> LinearLayout | None:
    span, bits = int(swizzle), int(width)
    if span not in SWIZZLES or bits not in (8, 16, 32, 64) or not _power(int(rows), int(columns)):
        return None
    return swizzled((int(rows), int(columns)), bits, span)


_PATTERNS: tuple[tuple[str, Callable[..., LinearLayout | None]], ...] = (
    (r"mma\.m(\d{1,2})n(\d{1,2})k(\d{1,3})\.([abc])(\d{0,2})", _mma),
    (r"mma\.quad\.([abc])(\d{2})", _quad),
    (r"wgmma\.m64n(\d{1,3})\.c", _wgmma_c),
    (r"wgmma\.m64k(\d{1,2})\.a(\d{1,2})", _wgmma_a),
    (r"(?:ld|st)matrix\.x(\d)(\.trans)?", _ldmatrix),
    (r"tcgen05\.(\w+)\.x(\d{1,3})", _tmem),
    (r"tmem\.m(64|128)n(\d{1,3})", lambda m, n: fr.tmem_accumulator(int(m), int(n)) if 8 <= int(n) <= 256 else None),
    (r"shared\.(\d{1,3})b\.(\d{1,2})\.(\d{1,5})x(\d{1,5})", _shared),
)


@cache
def named(name: str) -> LinearLayout | None:
    """The layout of that name (without `#`); None where there is none."""
    for pattern, make in _PATTERNS:
        match = re.fullmatch(pattern, name)
        if match:
            return make(*(group or "" for group in match.groups()))
    return None
