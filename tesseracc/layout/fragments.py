"""Fragments of matrix instructions as layouts (PTX ISA, Matrix fragments of mma, wgmma, ldmatrix, tcgen05.ld).

dim0 and dim1 are the matrix's own axes: A is m x k, B is k x n, C and D are m x n. A width that is not a power of two
(wgmma with n = 96) has the layout of the next one: the registers from m n / threads on hold nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from tesseracc.layout.gf2 import log2
from tesseracc.layout.linear import LinearLayout

__all__ = [
    "LDMATRIX_COUNTS", "TMEM_SHAPES", "ldmatrix", "mma_a", "mma_b", "mma_c", "next_power", "quad_a", "quad_b", "quad_c",
    "tmem_accumulator", "tmem_fragment", "tmem_load", "tmem_registers", "wgmma_a", "wgmma_c",
]  # fmt: skip

Vectors = Sequence[Sequence[int]]

LDMATRIX_COUNTS = (1, 2, 4)
TMEM_SHAPES = ("32x32b", "16x64b", "16x128b", "16x256b")


def next_power(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _steps(first: int, end: int, axis: int) -> list[list[int]]:
    """Unit vectors first, 2 first, ... below `end` along an axis of two."""
    found = []
    while first < end:
        found.append([first, 0] if axis == 0 else [0, first])
        first *= 2
    return found


def _layout(register: Vectors, lane: Vectors, warp: Vectors, shape: Sequence[int]) -> LinearLayout:
    return LinearLayout.make({"register": register, "lane": lane, "warp": warp}, shape)


def _swapped(layout: LinearLayout) -> LinearLayout:
    moved = layout.transpose_outs(("dim1", "dim0"))
    return moved.rename(outs={"dim1": "dim0", "dim0": "dim1"})


def mma_a(m: int, k: int, bits: int) -> LinearLayout:
    """A of mma.sync with m = 8 or 16 rows: pairs of registers hold rows 8 apart, lanes of a quad share a row."""
    per = max(1, 32 // bits)  # elements of one register, consecutive in k
    register = _steps(1, per, 1) + _steps(8, m, 0) + _steps(4 * per, k, 1)
    return _layout(register, _steps(per, 4 * per, 1) + _steps(1, 8, 0), [], (m, k))


def mma_b(k: int, bits: int) -> LinearLayout:
    """B of mma.sync with n = 8: the transpose of an A of 8 rows."""
    return _swapped(mma_a(8, k, bits))


def mma_c(m: int, n: int = 8) -> LinearLayout:
    """C and D of mma.sync: pairs of columns, then rows 8 apart, then further blocks of 8 columns."""
    register = [[0, 1], *_steps(8, m, 0), *_steps(8, next_power(n), 1)]
    return _layout(register, [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], [], (m, next_power(n)))


def _four_warps(layout: LinearLayout) -> LinearLayout:
    return layout * LinearLayout.identity(4, "warp", "dim0")


def wgmma_a(k: int, bits: int) -> LinearLayout:
    """A of wgmma in registers: each warp of the group has the mma fragment of its 16 rows."""
    return _four_warps(mma_a(16, k, bits))


def wgmma_c(n: int) -> LinearLayout:
    """C and D of wgmma: 64 rows, 16 a warp."""
    return _four_warps(mma_c(16, n))


# mma.sync.m8n8k4 of f16 is four products, one for each quad pair (lanes l with equal l / 4 mod 4). Here they make one
# product of 16 x 16 x 4: lane bit 2 chooses the rows and bit 3 the columns, so two quad pairs hold the same part of A
# and two the same part of B. A is row-major, B column-major.


def quad_a() -> LinearLayout:
    """A of m8n8k4 (.row) for all quad pairs."""
    return _layout([[0, 1], [0, 2]], [[1, 0], [2, 0], [8, 0], [0, 0], [4, 0]], [], (16, 4))


def quad_b() -> LinearLayout:
    """B of m8n8k4 (.col) for all quad pairs."""
    return _layout([[1, 0], [2, 0]], [[0, 1], [0, 2], [0, 0], [0, 8], [0, 4]], [], (4, 16))


def quad_c(bits: int) -> LinearLayout:
    """C and D of m8n8k4 for all quad pairs, with elements of 16 or 32 bits."""
    if bits == 16:
        return _layout([[0, 1], [0, 2], [0, 4]], [[1, 0], [2, 0], [8, 0], [0, 8], [4, 0]], [], (16, 16))
    return _layout([[0, 1], [2, 0], [0, 4]], [[1, 0], [0, 2], [8, 0], [0, 8], [4, 0]], [], (16, 16))


def ldmatrix(count: int, trans: bool = False) -> LinearLayout:
    """What ldmatrix delivers and stmatrix takes: 8x8 matrices of 16-bit elements, stacked along dim0.

    Row r of matrix q (16 bytes of shared memory, at the address that lane 8 q + r gives) is row 8 q + r here. Registers
    count 16-bit elements.
    """
    across, along = ([[1, 0]], [[0, 1]])
    word = across if trans else along
    lane = (_steps(2, 8, 0) + _steps(1, 8, 1)) if trans else (_steps(2, 8, 1) + _steps(1, 8, 0))
    return _layout(word + _steps(8, 8 * count, 0), lane, [], (8 * count, 8))


def tmem_load(shape: str, repeat: int) -> LinearLayout:
    """tcgen05.ld and st of four warps: dim0 is the lane of tensor memory (32 to a warp), dim1 its 32-bit column.

    Shapes of 16 lanes reach lanes 0..15 of each warp's 32; another address reaches the others.
    """
    rows = _steps(1, 8, 0)
    register: list[list[int]] = []
    if shape == "32x32b":
        lane, width = _steps(1, 32, 0), 1
    elif shape == "16x64b":
        lane, width = [[8, 0], [0, 1], *rows], 2
    elif shape == "16x128b":
        register, lane, width = [[8, 0]], [[0, 1], [0, 2], *rows], 4
    elif shape == "16x256b":
        register, lane, width = [[0, 1], [8, 0]], [[0, 2], [0, 4], *rows], 8
    else:
        raise ValueError(f"no tensor memory shape is called {shape}")
    log2(repeat)
    return _layout(register + _steps(width, width * repeat, 1), lane, _steps(32, 128, 0), (128, width * repeat))


def tmem_accumulator(m: int, n: int) -> LinearLayout:
    """Where tcgen05.mma (one CTA) puts D[dim0, dim1]: lane and 32-bit column of tensor memory.

    128 rows fill the lanes; of 64 rows each warp's window of 32 lanes takes 16.
    """
    places = [[1 << bit, 0] for bit in range(7)] if m == 128 else [[1, 0], [2, 0], [4, 0], [8, 0], [32, 0], [64, 0]]
    width = next_power(n)
    return LinearLayout.make({"dim1": _steps(1, width, 1), "dim0": places}, {"lane": 128, "column": width})


def tmem_fragment(m: int, n: int, shape: str = "32x32b") -> LinearLayout:
    """The accumulator D of one tcgen05.mma in the registers of four warps, as tcgen05.ld of that shape delivers it."""
    return tmem_registers(tmem_accumulator(m, n), shape)


def tmem_registers(place: LinearLayout, shape: str = "32x32b") -> LinearLayout:
    """A matrix that lies in tensor memory by `place` ((dim1, dim0) to lane and column), loaded by four warps.

    Where all lanes are in use, shapes of 16 lanes need a second load for lanes 16..31 of each warp's window: the
    highest bit of the register. Where these lanes are empty, only shapes of 16 lanes load nothing foreign.
    """
    width = {"32x32b": 1, "16x64b": 2, "16x128b": 4, "16x256b": 8}[shape]
    high = 16 * place.out_size("column")  # lane 16
    full = any(column & high for column in place.columns)
    if not full and shape == "32x32b":
        raise ValueError("half of the lanes of this shape would be empty")
    loaded = tmem_load(shape, max(1, place.out_size("column") // width))
    if full and shape != "32x32b":
        register = [*loaded.vectors("register"), (16, 0)]
        rest = {name: loaded.vectors(name) for name in ("lane", "warp")}
        loaded = LinearLayout.make({"register": register, **rest}, loaded.shape)
    return loaded.rename(outs={"dim0": "lane", "dim1": "column"}).then(place.pseudo_inverse())
