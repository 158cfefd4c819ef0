"""Matrix descriptors and tensor copies: shared layouts that hardware walks by itself.

wgmma and tcgen05 read operands from shared memory through descriptors that know only a start, two strides and a
swizzle; bulk tensor copies write boxes with the same swizzles. Both are recognised from the layout alone.

Addresses below are *plain*: before the swizzle, which xors chunk bits 4.. of the final address with its bits 7.. .
With T bytes an element, s bytes of swizzle, r counting rows of the operand (m of A, n of B) and c its k (PTX ISA,
Matrix Descriptor; the tests run every form on the emulator):

    k-major,  swizzle   r mod 8 * s  + r / 8 * SBO + c T
    k-major,  none      r mod 8 * 16 + r / 8 * SBO + c T mod 16 + c T / 16 * LBO
    mn-major, swizzle   r T mod s    + r T / s * LBO + c mod 8 * s + c / 8 * SBO
    mn-major, none      r T mod 16   + r T / 16 * SBO + c mod 8 * 16 + c / 8 * LBO
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tesseracc.layout.gf2 import log2
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.select import Choice
from tesseracc.layout.shared import SWIZZLES, swizzled

__all__ = ["Descriptor", "TensorBoxes", "instruction_descriptor", "matrix_descriptor", "tensor_boxes"]

Major = Literal["k", "mn"]

_WGMMA_SWIZZLE = {0: 0, 128: 1, 64: 2, 32: 3}
_TCGEN05_SWIZZLE = {0: 0, 128: 2, 64: 4, 32: 6}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """How an instruction reads blocks of `rows` x `k` of an operand that lies in shared memory.

    `start` maps (row block, k block) to the plain byte offset of a block from the operand's start. The operand must be
    aligned to `alignment` bytes.
    """

    major: Major
    swizzle: int  # bytes
    leading: int  # LBO, bytes
    stride: int  # SBO, bytes
    rows: int
    k: int
    start: LinearLayout

    @property
    def alignment(self) -> int:
        """Bytes: the pattern of a swizzle repeats after eight spans, counted from address 0."""
        return max(16, 8 * self.swizzle)

    def wgmma(self) -> int:
        """The descriptor's bits for wgmma, to which (address + start) >> 4 is added."""
        return self.leading >> 4 << 16 | self.stride >> 4 << 32 | _WGMMA_SWIZZLE[self.swizzle] << 62

    def tcgen05(self) -> int:
        """The descriptor's bits for tcgen05.mma, to which (address + start) >> 4 is added; version 1 in bits 46..48."""
        return self.leading >> 4 << 16 | self.stride >> 4 << 32 | 1 << 46 | _TCGEN05_SWIZZLE[self.swizzle] << 61


# Codes of the instruction descriptor of tcgen05.mma, per kind (PTX ISA, Instruction descriptor).
_KINDS = {
    "f16": {"f16": 0, "bf16": 1},
    "tf32": {"tf32": 2},
    "f8f6f4": {"fp8_e4m3": 0, "fp8_e5m2": 1},
    "i8": {"u8": 0, "i8": 1},
}
_SUMS = {"f16": 0, "f32": 1, "i32": 2}


def instruction_descriptor(choice: Choice, a: Major, b: Major) -> tuple[str, int]:
    """(kind, the 32-bit instruction descriptor) of tcgen05.mma for operands that are k- or mn-major.

    Bits: 4 type of D, 7 of A, 10 of B, 15 and 16 set where A and B are mn-major, 17 n / 8, 24 m / 16.
    """
    row = choice.row
    kind, codes = next((kind, codes) for kind, codes in _KINDS.items() if row.a in codes)
    word = _SUMS[row.acc] << 4 | codes[row.a] << 7 | codes[row.b] << 10
    word |= (a == "mn") << 15 | (b == "mn") << 16 | choice.n >> 3 << 17 | row.m >> 4 << 24
    return kind, word


def matrix_descriptor(memory: LinearLayout, bits: int, rows: int, k: int, row_axis: int = 0) -> Descriptor | None:
    """The descriptor for blocks of `rows` x `k` of a matrix in a shared layout; None where there is none.

    `row_axis` is the axis that counts rows of A or columns of B; the other one is k. `rows` need not be a power of two;
    then `start` counts blocks of the next one, and only the first block is meant.
    """
    if not memory.is_bijective() or len(memory.outs) != 2:
        return None
    places = memory.inverse()
    size = bits // 8
    row = [place * size for place in places.bases(f"dim{row_axis}")]
    depth = [place * size for place in places.bases(f"dim{1 - row_axis}")]
    block_rows = log2(1 << (rows - 1).bit_length())
    if len(row) < block_rows or len(depth) < log2(k):
        return None
    for span in reversed(SWIZZLES):
        plain = [[_plain(address, span) for address in axis] for axis in (row, depth)]
        inside = (plain[0][:block_rows], plain[1][: log2(k)])
        majors: tuple[Major, ...] = ("k", "mn")
        for major in majors:
            strides = _match(major, span, size, *inside)
            if strides is not None:
                outer = [*plain[1][log2(k) :], *plain[0][block_rows:]]
                ins = (("k", len(depth) - log2(k)), ("rows", len(row) - block_rows))
                width = len(row) + len(depth) + log2(size)
                start = LinearLayout(ins, (("start", width),), outer)
                if all(address & 15 == 0 for address in outer) and not _overlap([*inside[0], *inside[1], *outer]):
                    return Descriptor(major, span, *strides, rows, k, start)
    return None


def _plain(address: int, span: int) -> int:
    """The address before the swizzle, which is its own inverse."""
    return address ^ (address >> 7 & max(1, span // 16) - 1) << 4 if span else address


def _overlap(addresses: Sequence[int]) -> bool:
    """Whether sums of addresses differ from their xor."""
    seen = 0
    for address in addresses:
        if seen & address:
            return True
        seen |= address
    return False


def _match(major: Major, span: int, size: int, row: Sequence[int], depth: Sequence[int]) -> tuple[int, int] | None:
    """(LBO, SBO) if bits of rows and k lie as the form demands; a stride that does not occur has any value."""
    line = span or 16
    unit, eight = (row, depth) if major == "mn" else (depth, row)
    within = log2(line // size)  # elements of one line along the contiguous axis
    if any(address != size << bit for bit, address in enumerate(unit[:within])):
        return None
    if any(address != line << bit for bit, address in enumerate(eight[:3])):
        return None
    lines, groups = _stride(unit[within:]), _stride(eight[3:])
    if lines is None or groups is None:
        return None
    lines, groups = lines or 16, groups or 8 * line
    if major == "k" and span and len(unit) > within:
        return None  # a block of k is longer than a line
    return (groups, lines) if major == "mn" and not span else (lines, groups)


def _stride(addresses: Sequence[int]) -> int | None:
    """s of addresses s, 2 s, 4 s, ..; 0 for none at all, None for others."""
    if not addresses:
        return 0
    first = addresses[0]
    return first if all(address == first << bit for bit, address in enumerate(addresses)) else None


@dataclass(frozen=True, slots=True)
class TensorBoxes:
    """A matrix written or read by tensor copies: boxes of `box` elements (dim0, dim1), one copy each.

    `copies` lists (coordinate of the box, byte offset in shared memory); `fast` is the axis that is contiguous in
    global memory too. The tile must be aligned as the swizzle demands.
    """

    box: tuple[int, int]
    swizzle: int  # bytes
    fast: int
    copies: tuple[tuple[tuple[int, int], int], ...]


MOST = 256  # extent of a box along an axis


def tensor_boxes(memory: LinearLayout, bits: int, fast: int = 1) -> TensorBoxes | None:
    """The tensor copies that fill a tile in this layout from a matrix contiguous along `fast`; None where none do.

    A box must be at least 16 bytes wide, and as wide as the swizzle's span where there is one.
    """
    if len(memory.outs) != 2 or not memory.is_bijective():
        return None
    shape = memory.shape
    slow = 1 - fast
    for span in reversed(SWIZZLES):
        width = span * 8 // bits if span else min(shape[fast], MOST)
        if width > shape[fast] or width * bits < 128 or memory != swizzled(shape, bits, span, (fast, slow)):
            continue
        if not span and width < shape[fast]:
            continue  # dense rows longer than a box
        height = min(shape[slow], MOST)
        copies = []
        for x in range(shape[fast] // width):
            for y in range(shape[slow] // height):
                at = (x * width, y * height) if fast == 0 else (y * height, x * width)
                copies.append((at, (x * shape[slow] + y * height) * width * bits // 8))
        box = (width, height) if fast == 0 else (height, width)
        return TensorBoxes(box, span, fast, tuple(copies))
    return None
