"""ldmatrix and stmatrix: whether they fit a register and a shared layout, and with which addresses.

Both move 8x8 matrices of 16-bit elements between rows of 16 bytes and registers. Lane t holds bytes 4 (t mod 4) .. of
row t / 4, or with .trans the elements 2 (t mod 4) and 2 (t mod 4) + 1 of column t / 4. Elements of 8 and 32 bits fit as
well when nothing is transposed.
"""

from __future__ import annotations

from dataclasses import dataclass

from tesseracc.layout.access import offsets, wavefronts
from tesseracc.layout.gf2 import Span, combine, log2
from tesseracc.layout.linear import LinearLayout

__all__ = ["MatrixMove", "matrix_move"]


@dataclass(frozen=True, slots=True)
class MatrixMove:
    """A tile moved by `steps` instructions of `count` matrices.

    `address` maps (lane, step, warp) to the offset, in elements, of the row that a lane names. `registers[step]` lists
    the registers of one instruction: `count` words of 32 bits, each of its elements from the lowest bits up.
    """

    count: int
    trans: bool
    address: LinearLayout
    registers: tuple[tuple[tuple[int, ...], ...], ...]
    wavefronts: int  # of one instruction
    ideal: int

    @property
    def steps(self) -> int:
        """Number of instructions."""
        return len(self.registers)


def matrix_move(registers: LinearLayout, memory: LinearLayout, bits: int, count: int = 4) -> MatrixMove | None:
    """The move of a register layout by ldmatrix or stmatrix, with up to `count` matrices each; None where none fits.

    With 2^c elements in 16 bytes, without .trans: registers span the offsets of one word, lane bits 0 and 1 are the
    next two offset bits, and all else leaves the lowest c bits alone. With .trans: lane bits 2, 3, 4 are offsets 1, 2,
    4; register bit 0 and lane bits 0 and 1 number the rows.
    """
    if bits not in (8, 16, 32) or registers.in_size("lane") != 32:
        return None
    places = offsets(registers, memory)
    lanes, columns = places.bases("lane"), places.bases("register")
    chunk = log2(128 // bits)
    word = log2(32 // bits)
    span = Span(columns)
    others = [c for name, _ in places.ins if name not in ("register", "lane") for c in places.bases(name)]
    inside = [span.solve(1 << bit) for bit in range(word)]
    if None not in inside and lanes[:2] == (1 << word, 2 << word):
        pair = [mask or 0 for mask in inside]
        rows = list(lanes[2:])
        fresh = Span(1 << bit for bit in range(word))
        trans = False
    elif bits == 16 and lanes[2:] == (1, 2, 4) and columns:
        pair, rows = [1], [columns[0], lanes[0], lanes[1]]
        fresh = Span([columns[0]])
        trans = True
    else:
        return None
    steps = []  # (register mask, offset) of further matrices
    for bit, column in enumerate(columns):
        if fresh.add(column):
            mask = 1 << bit if trans else 1 << bit ^ combine(pair, column & ((1 << word) - 1))
            steps.append((mask, places.flat(mask)))
    if any(offset & ((1 << chunk) - 1) for offset in (*rows, *others, *(offset for _, offset in steps))):
        return None
    inner = min(log2(count), len(steps))
    matrices, outer = steps[:inner], steps[inner:]
    bases = {"lane": [*rows, *(offset for _, offset in matrices)], "step": [offset for _, offset in outer]}
    bases["lane"] += [0] * (5 - len(bases["lane"]))
    ins = [("lane", 5), ("step", len(outer))]
    ins += [(name, n) for name, n in places.ins if name not in ("register", "lane")]
    address = LinearLayout(tuple(ins), places.outs, [*bases["lane"], *bases["step"], *others])
    masks = [*pair, *(mask for mask, _ in (*matrices, *outer))]
    word_of = [tuple(combine(masks, q << len(pair) | e) for e in range(1 << len(pair))) for q in range(1 << len(steps))]
    found = tuple(tuple(word_of[step << inner : step + 1 << inner]) for step in range(1 << len(outer)))
    one = wavefronts([row * bits // 8 for row in rows] + [0, 0], 16) // 4  # of the eight lanes of a matrix
    return MatrixMove(1 << inner, trans, address, found, one << inner, 1 << inner)
