"""tcgen05.mma, cp and shift: what runs asynchronously on tensor memory (PTX ISA, Instruction descriptor).

Element (i, j) of D lies in column j of lane i for 128 rows; 64 rows take 16 lanes of each window. A row of A in tensor
memory lies in the same lane, its elements packed along the columns. D of f16 takes the low half of its column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator import tensor_cores as tc
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.findings import BAD_STATE, OUT_OF_BOUNDS
from tesseracc.emulator.memory import SHARED_BASE
from tesseracc.emulator.operations.wgmma import descriptor_offsets
from tesseracc.emulator.ptx import Address, Imm, Instruction, Vector
from tesseracc.emulator.table import Step
from tesseracc.emulator.tensor_memory import LANES, WINDOW, Pending
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

__all__ = ["copy", "product", "shift", "write_word"]

_FORMATS = {
    "kind::f16": {0: "f16", 1: "bf16"},
    "kind::tf32": {2: "tf32"},
    "kind::f8f6f4": {0: "e4m3", 1: "e5m2", 3: "e2m3", 4: "e3m2", 5: tc.PADDED},
    "kind::i8": {0: "u8", 1: "s8"},
}
_DEPTH = {"kind::f16": 16, "kind::tf32": 8, "kind::f8f6f4": 32, "kind::i8": 32}
_RESULT = {0: "f16", 1: "f32", 2: "s32"}
#: the swizzle field of a descriptor (bits 61 to 63) as that of sm_90 (bits 62 and 63): none, 128, 64, 32 bytes
_SWIZZLE = {0: 0, 2: 1, 4: 2, 6: 3}
_NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Shape:
    """An instruction descriptor, read."""

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


def _shape(kind: str, bits: int) -> Shape:
    """Raises KeyError for a format that the kind does not have."""
    return Shape(
        m=(bits >> 24 & 31) << 4, n=(bits >> 17 & 63) << 3, k=_DEPTH[kind],
        a=_FORMATS[kind][bits >> 7 & 7], b=_FORMATS[kind][bits >> 10 & 7], d=_RESULT[bits >> 4 & 3],
        negate_a=bool(bits >> 13 & 1), negate_b=bool(bits >> 14 & 1), transposed_a=bool(bits >> 15 & 1),
        transposed_b=bool(bits >> 16 & 1), saturate=bool(bits >> 3 & 1),
    )  # fmt: skip


def rows_of(m: int) -> Array:
    """The lane of every row of D, relative to its address."""
    i = np.arange(m)
    return i if m == LANES else i % 16 + i // 16 * WINDOW


def write_word(w: Wave, lane: int, address: int, value: int) -> None:
    """Stores 32 bits to the shared memory of a lane's CTA, as that lane."""
    launch = w.launch
    address -= SHARED_BASE if address >= SHARED_BASE else 0
    cta, offset = access.resolve_shared(w, np.array([address]), np.array([lane]))
    if cta[0] < 0 or offset[0] + 4 > launch.shared_size or offset[0] % 4:
        w.log.add(OUT_OF_BOUNDS, f"no word can be written at shared address {address:#x}", w.code[w.pc])
        return
    at = int(cta[0]) * launch.shared_stride + int(offset[0])
    launch.shared.data[at : at + 4] = np.array([value], np.uint32).view(np.uint8)
    if launch.detect:
        access.mark_initialised(launch.written["shared"], np.array([at]), 4)
        shadow = access.shadow_of(w, "shared", launch.shared)
        granule = np.array([at // launch.granule["shared"]])
        launch.races.write(shadow, granule, np.array([lane]), w.pc, False, "shared", None)


# -- operands in shared memory ---------------------------------------------------------------------------------------


def _old_form(descriptor: int) -> int:
    """A descriptor of sm_100 with its swizzle where sm_90 has it. Raises KeyError for one that is not modelled."""
    return descriptor & ((1 << 52) - 1) & ~(7 << 46) | _SWIZZLE[descriptor >> 61 & 7] << 62


def _bytes_of(w: Wave, cta: int, descriptor: int, rows: int, k: int, size: int, k_major: bool) -> Array | None:
    """Positions in the shared data of an operand's elements [rows, k]; None (reported) where they are not inside."""
    launch = w.launch
    try:
        at = descriptor_offsets(_old_form(descriptor), rows, k, size, k_major)
    except KeyError:
        w.log.add(BAD_STATE, f"matrix descriptor {descriptor:#x} has a swizzle that is not modelled", w.code[w.pc])
        return None
    if at.max() + size > launch.shared_size:
        w.log.add(OUT_OF_BOUNDS, f"a matrix descriptor reaches beyond shared address {launch.shared_size:#x}, the end "
                  "of the space", w.code[w.pc])  # fmt: skip
        return None
    found: Array = at + cta * launch.shared_stride
    return found


def _values(w: Wave, positions: Array, kind: str) -> Array:
    """The elements at byte positions, as f64."""
    size = max(1, tc.BITS.get(kind, 8) // 8)
    raw = w.launch.shared.data[positions[..., None] + np.arange(size)]
    patterns = np.ascontiguousarray(raw).view({1: np.uint8, 2: np.uint16, 4: np.uint32}[size])[..., 0]
    return tc.element_values(patterns, kind)


# -- products --------------------------------------------------------------------------------------------------------


def product(i: Instruction, d: Decoder) -> Step:
    """tcgen05.mma: D = A B (+ D) for one CTA, A in shared or tensor memory, B in shared memory."""
    if any(word in i.mods for word in ("sp", "ws", "block_scale")) or any(m.startswith("scale_vec") for m in i.mods):
        raise ValueError("sparse, block-scaled or weight-stationary products")
    kind = next(m for m in i.mods if m.startswith("kind::"))
    if kind not in _FORMATS:
        raise ValueError(kind)
    target = d.address(i.operands[0])[1]
    in_tensor_memory = isinstance(i.operands[1], Address)
    left = d.address(i.operands[1])[1] if in_tensor_memory else d.source(i.operands[1], "b64")
    right = d.source(i.operands[2], "b64")
    descriptor = d.source(i.operands[3], "u32")
    rest = list(i.operands[4:])
    masked = d.sources(rest.pop(0), "b32") if rest and isinstance(rest[0], Vector) else []
    use = d.source(rest.pop(0), "pred")
    scale = 2.0 ** -int(rest[0].value) if rest and isinstance(rest[0], Imm) else 1.0

    def run(w: Wave) -> None:
        columns = [w.spread(f(w)).tolist() for f in (target, left, right, descriptor, use)]
        masks = [w.spread(f(w)).tolist() for f in masked]
        for k, lane in enumerate(w.lanes.tolist()):
            where, a, b, bits, add = (column[k] for column in columns)
            off = np.zeros(LANES, np.bool_)
            for word, mask in enumerate(masks):
                off[word * 32 : word * 32 + 32] = [bool(int(mask[k]) >> bit & 1) for bit in range(32)]
            try:
                shape = _shape(kind, int(bits))
            except KeyError:
                w.log.add(BAD_STATE, f"instruction descriptor {int(bits):#x} names no format of {kind}", w.code[w.pc])
                continue
            _issue(w, lane, shape, int(where) & 0xFFFFFFFF, int(a), int(b), bool(add), scale, off)

    def _issue(
        w: Wave, lane: int, s: Shape, where: int, a: int, b: int, add: bool, scale: float, off: Array
    ) -> None:
        memory, launch = w.launch.tensor_memory, w.launch
        cta = int(w.cta[lane])
        if s.m not in (64, 128) or not 8 <= s.n <= 256 or s.n % (8 if s.m == 64 else 16):
            w.log.add(BAD_STATE, f"a product of {s.m} x {s.n} is not one of the instruction's shapes", w.code[w.pc])
            return
        rows = rows_of(s.m)
        at = memory.place(w, cta, None, where, int(rows.max()) + 1, s.n)
        if at is None:
            return
        size = [max(1, tc.BITS.get(t, 8) // 8) for t in (s.a, s.b)]
        places_b = _bytes_of(w, cta, b, s.n, s.k, size[1], not s.transposed_b)
        reads = [places_b]
        places_a: Array | None = None
        held: tuple[int, int] | None = None
        width = s.k * size[0] // 4
        if in_tensor_memory:
            held = memory.place(w, cta, None, a & 0xFFFFFFFF, int(rows.max()) + 1, width)
        else:
            places_a = _bytes_of(w, cta, a, s.m, s.k, size[0], not s.transposed_a)
            reads.append(places_a)
        if any(r is None for r in reads) or (in_tensor_memory and held is None):
            return
        granules = np.unique(np.concatenate([r.reshape(-1) // 4 for r in reads if r is not None]))
        launch.asynchronous.proxy_read(w, granules, lane, True)
        windows, span = range(LANES // WINDOW), slice(at[1], at[1] + s.n)
        memory.check_stores(w, cta, windows, span)
        memory.race(w, cta, windows, span, lane, "write")
        if held is not None:
            memory.check_stores(w, cta, windows, slice(held[1], held[1] + width))
            memory.race(w, cta, windows, slice(held[1], held[1] + width), lane, "read")

        def carry_out() -> None:
            data = memory.data[cta]
            if held is not None:
                cells = np.ascontiguousarray(data[held[0] + rows][:, held[1] : held[1] + width])
                x = tc.element_values(tc.unpack_registers(cells, tc.BITS.get(s.a, 8)).reshape(s.m, s.k), s.a)
            else:
                assert places_a is not None
                x = _values(w, places_a, s.a)
            assert places_b is not None
            y = _values(w, places_b, s.b)
            old = np.ascontiguousarray(data[at[0] + rows][:, span])
            if s.d == "f16":
                start = tc.element_values((old & np.uint32(0xFFFF)).astype(np.uint16), "f16")
            else:
                start = old.view(np.int32 if s.d == "s32" else np.float32).astype(np.float64)
            start = start * scale if add else np.zeros_like(start)
            x, y = -x if s.negate_a else x, -y if s.negate_b else y
            if s.d == "s32":
                total = tc.integer_matmul(x, y.T, start, s.saturate)
            else:
                total = tc.matmul(x, y.T, start, s.d).astype(np.uint32)
            keep = off[at[0] + rows]
            data[(at[0] + rows)[:, None], np.arange(s.n)[None] + at[1]] = np.where(keep[:, None], old, total)

        w.counters.mma[f"tcgen05.m{s.m}n{s.n}k{s.k}.{s.a}"] += 1
        memory.issue(w, cta, Pending(w.pc, carry_out, span, granules))

    return run


# -- copies ----------------------------------------------------------------------------------------------------------

#: rows and bytes of a row, and the lanes that the rows go to
_COPIES: dict[str, tuple[int, int]] = {"128x256b": (128, 32), "4x256b": (4, 32), "128x128b": (128, 16),
                                       "64x128b": (64, 16), "32x128b": (32, 16)}  # fmt: skip


def _lanes(shape: str, mods: tuple[str, ...], rows: int) -> list[Array]:
    """Every place that the rows are written to, as lanes."""
    i = np.arange(rows)
    if shape == "64x128b":
        if "warpx2::02_13" in mods:
            return [i % 32 + i // 32 * 32, i % 32 + i // 32 * 32 + 64]
        if "warpx2::01_23" in mods:
            return [i % 32 + i // 32 * 64, i % 32 + i // 32 * 64 + 32]
        raise ValueError("64x128b goes to pairs of warps")
    return [i + 32 * k for k in range(4)] if shape == "32x128b" else [i]


def copy(i: Instruction, d: Decoder) -> Step:
    """tcgen05.cp: a matrix of shared memory into tensor memory, in the order of products."""
    shape = next(m for m in i.mods if m in _COPIES)
    if any(m in ("b4x16_p64", "b6x16_p32") for m in i.mods):
        raise ValueError("decompression")
    rows, width = _COPIES[shape]
    lanes_of_rows = _lanes(shape, i.mods, rows)
    target = d.address(i.operands[0])[1]
    descriptor = d.source(i.operands[1], "b64")

    def run(w: Wave) -> None:
        memory = w.launch.tensor_memory
        given = w.spread(target(w)).tolist(), w.spread(descriptor(w)).tolist()
        for lane, where, source in zip(w.lanes.tolist(), *given):
            cta = int(w.cta[lane])
            at = memory.place(w, cta, None, int(where) & 0xFFFFFFFF, rows, width // 4)
            places = _bytes_of(w, cta, int(source), rows, width, 1, True)
            if at is None or places is None:
                continue
            granules = np.unique(places // 4)
            w.launch.asynchronous.proxy_read(w, granules, lane, True)
            span = slice(at[1], at[1] + width // 4)
            memory.check_stores(w, cta, range(4), span)
            memory.race(w, cta, range(4), span, lane, "write")

            def carry_out(
                cta: int = cta, at: tuple[int, int] = at, places: Array = places, span: slice = span
            ) -> None:
                words = np.ascontiguousarray(w.launch.shared.data[places]).view(np.uint32)
                for lanes in lanes_of_rows:
                    memory.data[cta, at[0] + lanes, span] = words

            memory.issue(w, cta, Pending(w.pc, carry_out, span, granules))

    return run


def shift(i: Instruction, d: Decoder) -> Step:
    """tcgen05.shift.down: rows move down by one lane, 32 bytes of each; the last keeps what it holds."""
    target = d.address(i.operands[0])[1]

    def run(w: Wave) -> None:
        memory = w.launch.tensor_memory
        for lane, where in zip(w.lanes.tolist(), w.spread(target(w)).tolist()):
            cta = int(w.cta[lane])
            at = memory.place(w, cta, None, int(where) & 0xFFFFFFFF, 1, 8)
            if at is None:
                continue
            span = slice(at[1], at[1] + 8)
            memory.race(w, cta, range(4), span, lane, "write")

            def carry_out(cta: int = cta, span: slice = span, first: int = at[0]) -> None:
                memory.data[cta, first : LANES - 1, span] = memory.data[cta, first + 1 : LANES, span].copy()

            memory.issue(w, cta, Pending(w.pc, carry_out, span, _NOTHING))

    return run
