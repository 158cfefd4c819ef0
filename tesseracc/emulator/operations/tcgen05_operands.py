"""Operands of tcgen05.mma: the instruction descriptor, and how elements, scales and metadata lie in memory.

PTX ISA, TensorCore 5th Generation: Instruction descriptor, Packing formats, Block Scaling, Sparse Matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tesseracc.emulator import numeric as nm
from tesseracc.emulator import tensor_cores as tc
from tesseracc.emulator.block_scaling import Scaling, scaling_of
from tesseracc.emulator.findings import BAD_STATE, OUT_OF_BOUNDS
from tesseracc.emulator.operations.wgmma import descriptor_offsets
from tesseracc.emulator.sparsity import Granularity, granularity
from tesseracc.emulator.tensor_memory import LANES, WINDOW
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

__all__ = ["KINDS", "Metadata", "Packing", "Shape", "Share", "byte_places", "packing", "pair_of", "read_scales",
           "scaling", "shape_of_descriptor"]  # fmt: skip

_NARROW = {0: "e4m3", 1: "e5m2", 3: "e2m3", 4: "e3m2", 5: "e2m1"}
#: kind -> element types by their code in the descriptor, columns of A in a dense product
KINDS: dict[str, tuple[dict[int, str], int]] = {
    "f16": ({0: "f16", 1: "bf16"}, 16), "tf32": ({2: "tf32"}, 8), "i8": ({0: "u8", 1: "s8"}, 32),
    "f8f6f4": (_NARROW, 32), "mxf8f6f4": (_NARROW, 32), "mxf4": ({1: "e2m1"}, 64), "mxf4nvf4": ({1: "e2m1"}, 64),
}  # fmt: skip
_RESULT = {0: "f16", 1: "f32", 2: "s32"}
#: the swizzle field of a descriptor (bits 61 to 63) as that of sm_90 (bits 62 and 63): none, 128, 64, 32 bytes
_SWIZZLE = {0: 0, 2: 1, 4: 2, 6: 3}


@dataclass(frozen=True, slots=True)
class Shape:
    """An instruction descriptor, read. `selector`: of sparsity metadata; `scales`: places of A's and B's scales in
    their words, and their type (empty without)."""

    m: int
    n: int
    k: int
    a: str
    b: str
    d: str
    negate_a: bool
    negate_b: bool
    transposed_a: bool
    transposed_b: bool
    saturate: bool
    sparse: bool
    selector: int
    scales: tuple[int, int]
    scale_type: str


def shape_of_descriptor(kind: str, bits: int, sparse: bool) -> Shape:
    """Raises KeyError for a format that the kind does not have."""
    types, depth = KINDS[kind]
    scaled = kind.startswith("mx")
    return Shape(
        m=(bits >> 24 & 31) << 4, n=(bits >> 17 & 63) << 3, k=depth * (2 if sparse else 1),
        a=types[bits >> 7 & 7], b=types[bits >> 10 & 7], d="f32" if scaled else _RESULT[bits >> 4 & 3],
        negate_a=bool(bits >> 13 & 1), negate_b=bool(bits >> 14 & 1), transposed_a=bool(bits >> 15 & 1),
        transposed_b=bool(bits >> 16 & 1), saturate=bool(bits >> 3 & 1), sparse=bool(bits >> 2 & 1),
        selector=bits & 3, scales=(bits >> 29 & 3, bits >> 4 & 3),
        scale_type=("ue8m0" if bits >> 23 & 1 else "ue4m3") if scaled else "",
    )  # fmt: skip


class Share:
    """What one CTA computes of D: `m` rows, `n` columns (PTX ISA, Data Path Layout Organization).

    128 rows lie in the 128 lanes; 64 in sixteen lanes of every window of 32, or, `split`, in 64 lanes, the second half
    of the columns in the other 64, which then have a copy of A of their own.

    `lanes`, `columns` [m, n or 1]: where an element lies; `height`, `width`: lanes and columns that D spans.
    """

    def __init__(self, m: int, n: int, split: bool) -> None:
        self.m, self.n, self.split = m, n, split
        i, j = np.arange(m)[:, None], np.arange(n)[None]
        self.width = n // 2 if split else n
        self.halves = [slice(0, self.width), slice(self.width, n)] if split else [slice(0, n)]
        self.lanes = i + 64 * (j // self.width) if split else i if m == LANES else i % 16 + i // 16 * WINDOW
        self.columns = j % self.width
        self.height = LANES if split else int(self.lanes.max()) + 1
        self.copies = [self.lanes[:, half.start % self.lanes.shape[1]] for half in self.halves]

    def windows(self, half: int) -> list[tuple[slice, int]]:
        """(rows, window of 32 lanes) that make up a half of the columns; for products with scales."""
        count = self.m // WINDOW
        return [(slice(k * WINDOW, k * WINDOW + WINDOW), half * count + k) for k in range(count)]


def pair_of(w: Wave, lane: int) -> tuple[int, int] | tuple[()]:
    """The CTAs of a pair, the one of even rank first; empty (reported) where the cluster has none."""
    cta, size = int(w.cta[lane]), w.launch.cluster_size
    if size % 2:
        w.log.add(BAD_STATE, f".cta_group::2 in clusters of {size}: pairs need an even number of CTAs", w.code[w.pc])
        return ()
    even = cta - cta % size % 2
    return even, even + 1


# -- elements --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Packing:
    """A row of elements as bytes: units of `elements` of `bits` each, one after the other from the lowest bit on, that
    take `bytes`. `kind`: the type in `tensor_cores`."""

    kind: str
    bits: int
    elements: int
    bytes: int

    def width(self, k: int) -> int:
        """Bytes of k elements."""
        return k // self.elements * self.bytes

    @property
    def used(self) -> int:
        """Bytes of a unit without the padding at its end."""
        return self.elements * self.bits // 8

    def patterns(self, rows: Array) -> Array:
        """The elements [rows, k] in rows of bytes [rows, width], padding left out."""
        if self.bits >= 8:
            return np.ascontiguousarray(rows).view({8: np.uint8, 16: np.uint16, 32: np.uint32}[self.bits])
        digits = np.unpackbits(rows, axis=1, bitorder="little").reshape(len(rows), -1, self.bits)
        return (digits << np.arange(self.bits, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)

    def values(self, rows: Array) -> Array:
        """The same as f64."""
        return tc.element_values(self.patterns(rows), self.kind)


def packing(kind: str, element: str, in_tensor_memory: bool) -> Packing:
    """How `element` of a product of `kind` lies. Sixteen elements of 4 or 6 bits take 16 bytes of shared memory for
    f8f6f4, and each of them a byte of tensor memory; for mxf4 they are packed in both."""
    if kind in ("mxf4", "mxf4nvf4"):
        return Packing("e2m1", 4, 2, 1)
    if element == "e2m1":
        return Packing(tc.PADDED, 8, 1, 1) if in_tensor_memory else Packing("e2m1", 4, 16, 16)
    if element in ("e2m3", "e3m2") and not in_tensor_memory:
        return Packing(element, 6, 16, 16)
    bits = tc.BITS[element]
    return Packing(element, bits, 1, bits // 8)


def byte_places(
    w: Wave, cta: int, descriptor: int, rows: int, k: int, p: Packing, transposed: bool, kind: str
) -> Array | None:
    """Positions in the shared data of an operand's bytes [rows, width], padding left out; None (reported) where the
    descriptor is wrong."""
    launch, code = w.launch, w.code[w.pc]
    try:
        old = descriptor & ((1 << 52) - 1) & ~(7 << 46) | _SWIZZLE[descriptor >> 61 & 7] << 62
    except KeyError:
        w.log.add(BAD_STATE, f"matrix descriptor {descriptor:#x} has a swizzle that is not modelled", code)
        return None
    if transposed:
        if p.bits < 8 or kind in ("mxf4", "mxf4nvf4"):
            w.log.add(BAD_STATE, f"elements of {p.bits} bits cannot be transposed", code)
            return None
        at = descriptor_offsets(old, rows, k, p.bytes, False)[..., None] + np.arange(p.bytes)
    else:
        width = p.width(k)
        if old >> 62 == 3 and width > 32:
            w.log.add(BAD_STATE, f"a swizzle of 32 bytes does not reach over the {width} bytes of a row", code)
            return None
        at = descriptor_offsets(old, rows, width, 1, True).reshape(rows, -1, p.bytes)[..., : p.used]
    at = at.reshape(rows, -1)
    if at.max() >= launch.shared_size:
        w.log.add(OUT_OF_BOUNDS, f"a matrix descriptor reaches beyond shared address {launch.shared_size:#x}, the end "
                  "of the space", code)  # fmt: skip
        return None
    found: Array = at + cta * launch.shared_stride
    return found


# -- scales ----------------------------------------------------------------------------------------------------------


def scaling(kind: str, mods: tuple[str, ...], scale_type: str) -> Scaling:
    """How many scales a row has. Raises ValueError for a combination that does not exist."""
    aliases = {"block16": "scale_vec::4X", "block32": "scale_vec::1X" if kind == "mxf8f6f4" else "scale_vec::2X"}
    words = tuple(aliases.get(word, word) for word in mods)
    return scaling_of(kind, (*words, scale_type))


def read_scales(cells: Array, rows: int, place: int, s: Scaling) -> Array:
    """Scales [4 windows, rows, count] from the cells [128 lanes, columns] of tensor memory.

    Row r has its scales in lane r mod 32 of column r / 32, scale j in byte `place` + j. Every window of 32 lanes has
    all of them, and its part of D is scaled by its own.
    """
    r = np.arange(rows)
    lane = r % WINDOW + np.arange(LANES // WINDOW)[:, None] * WINDOW
    words = cells[lane, r // WINDOW]
    shift = ((place + np.arange(s.count)) * 8).astype(np.uint32)
    return nm.decode((words[..., None] >> shift & np.uint32(255)).astype(np.uint8), s.kind)


# -- metadata --------------------------------------------------------------------------------------------------------


class Metadata:
    """Where tensor memory holds the metadata of a CTA's part of a sparse A [m, k]; `bits`: of what holds an element.

    With elements of 16 and 32 bits one of two columns, which the selector names: lane 8 h + r of sixteen has four
    entries of row r in its lower half and of row r + 8 in its upper, of the columns from h k / 2 on. With 8 and 4 bits
    two columns: eight entries of the lane's row in each.

    `selectors`: how many there are.
    """

    def __init__(self, s: Shape, bits: int, own: Share) -> None:
        self.grain: Granularity = granularity(s.a, bits)
        chunk, row = np.arange(s.k // self.grain.chunk)[None], np.arange(own.m)[:, None]
        if bits >= 16:
            self.selectors = 2
            self.lane = own.lanes[row // 16 * 16, 0] + row % 8 + chunk // 4 * 8
            self.column, self.bit = s.selector + 0 * chunk, row // 8 % 2 * 16 + chunk % 4 * 4
        else:
            self.selectors = 1
            self.lane = own.lanes[row, 0] + 0 * chunk
            self.column, self.bit = chunk // 8, chunk % 8 * 4
        self.legal = self.grain.legal(ordered=True)
        if not self.grain.halves:
            self.legal[0b0110] = True

    def entries(self, cells: Array) -> Array:
        """[m, chunks] from the cells [128 lanes, columns] behind the address."""
        return cells[self.lane, self.column] >> self.bit.astype(np.uint32) & np.uint32(15)
