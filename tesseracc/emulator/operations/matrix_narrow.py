"""ldmatrix and stmatrix of bytes, and loads that widen elements of 4 and 6 bits to bytes (sm_100a, sm_120a)."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.operations.matrix import shared_address, whole_warps
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.14 Warp Level Matrix Instructions"
#: modifier -> bits of an element in shared memory; sixteen of them take 16 bytes, padding at the end
_BITS = {"b8": 8, "b6x16_p32": 6, "b4x16_p64": 4}


def _format(i: Instruction) -> int:
    """Bits of an element in memory."""
    found = [_BITS[word] for word in i.mods if word in _BITS]
    if len(found) != 1 or (found[0] < 8) != ("b8x16" in i.mods):
        raise ValueError("neither .b8 nor .b8x16 with .b6x16_p32 or .b4x16_p64")
    return found[0]


def _count(i: Instruction, most: int) -> int:
    count = next(int(m[1]) for m in i.mods if m in ("x1", "x2", "x4"))
    if count > most:
        raise ValueError(f".x{count} of matrices of sixteen rows")
    return count


def _rows(w: Wave, at: Array, bits: int) -> Array:
    """Rows of sixteen elements at the addresses of the selected lanes, a byte each; padding is not read."""
    words = access.load(w, "shared", at, 4, 2)
    if bits > 4:
        words += access.load(w, "shared", at + np.uint64(8), 4, 1 if bits == 6 else 2)
    raw = np.ascontiguousarray(np.stack([w.spread(word) for word in words], axis=1)).view(np.uint8)
    if bits == 8:
        return raw
    digits = np.unpackbits(raw, axis=1, bitorder="little").reshape(len(raw), 16, bits)
    return (digits << np.arange(bits, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)


def _load(i: Instruction, d: Decoder, height: int, count: int, places: tuple[Array, Array]) -> Step:
    """`places`: (row, column) of each byte of a lane's registers of one matrix [32, bytes]."""
    bits = _format(i)
    sinks = d.sinks(i.operands[0], "b32")
    _, address = d.address(i.operands[1])
    if len(sinks) != count * height // 8:
        raise ValueError(f"{len(sinks)} destinations for {count} matrices")

    def step(w: Wave) -> None:
        at = shared_address(w, address(w)).reshape(-1, 32)[:, : height * count]
        kept = w.sel
        w.select(w.lanes.reshape(-1, 32)[:, : height * count].reshape(-1))
        rows = _rows(w, np.ascontiguousarray(at).reshape(-1), bits).reshape(-1, count, height, 16)
        w.select(kept)
        words = np.ascontiguousarray(rows[:, :, places[0], places[1]]).view(np.uint32)  # [warps, matrices, 32, words]
        per = words.shape[3]
        for q, put in enumerate(sinks):
            put(w, np.ascontiguousarray(words[:, q // per, :, q % per]).reshape(-1))

    return whole_warps(i, d, step)


_LANE = np.arange(32)[:, None]


@instruction("ldmatrix.m8n16", _SECTION + ": ldmatrix", ".m8n16 .x1 .x2 .x4 .b8x16.b6x16_p32 .b8x16.b4x16_p64",
             control=True)  # fmt: skip
def load_wide(i: Instruction, d: Decoder) -> Step:
    """Load 8 rows of 16 elements, each widened to the lower bits of a byte: lane l gets four of row l / 4."""
    if "trans" in i.mods or _format(i) == 8:
        raise ValueError("only .b8x16, not transposed")
    e = np.arange(4)[None]
    return _load(i, d, 8, _count(i, 4), (_LANE // 4 + 0 * e, _LANE % 4 * 4 + e))


@instruction("ldmatrix.m16n16", _SECTION + ": ldmatrix", ".m16n16 .x1 .x2 .trans .b8 .b8x16.b6x16_p32 .b8x16.b4x16_p64",
             control=True)  # fmt: skip
def load_transposed(i: Instruction, d: Decoder) -> Step:
    """Load 16 rows of 16 bytes, transposed: register r of lane 4 g + t has rows 4 t + 2 r and the next one, of columns
    g and g + 8."""
    if "trans" not in i.mods:
        raise ValueError("without .trans")
    e = np.arange(8)[None]
    places = (_LANE % 4 * 4 + e // 4 * 2 + e % 2, _LANE // 4 + e % 4 // 2 * 8)
    return _load(i, d, 16, _count(i, 2), places)


@instruction("stmatrix.m16n8", _SECTION + ": stmatrix", ".m16n8 .x1 .x2 .x4 .trans .b8", control=True)
def store_transposed(i: Instruction, d: Decoder) -> Step:
    """Store 16 x 8 bytes column by column: bytes 0 and 1 of lane 4 g + t are row g, columns 2 t and 2 t + 1; bytes 2
    and 3 row g + 8."""
    if "trans" not in i.mods or _format(i) != 8:
        raise ValueError("only .trans.b8")
    count = _count(i, 4)
    _, address = d.address(i.operands[0])
    sources = d.sources(i.operands[1], "b32")
    if len(sources) != count:
        raise ValueError(f"{len(sources)} sources for {count} matrices")
    e = np.arange(4)[None]
    line, byte = _LANE % 4 * 2 + e % 2, _LANE // 4 + e // 2 * 8

    def step(w: Wave) -> None:
        at = shared_address(w, address(w)).reshape(-1, 32)[:, : 8 * count]
        values = np.stack([w.spread(s(w)).reshape(-1, 32) for s in sources], axis=1)
        raw = np.ascontiguousarray(values).view(np.uint8).reshape(len(at), count, 32, 4)
        lines = np.zeros((len(at), count, 8, 16), np.uint8)
        lines[:, :, line, byte] = raw
        words = lines.reshape(-1, 16).view(np.uint64)
        kept = w.sel
        w.select(w.lanes.reshape(-1, 32)[:, : 8 * count].reshape(-1))
        access.store(w, "shared", np.ascontiguousarray(at).reshape(-1), 8, [words[:, 0].copy(), words[:, 1].copy()])
        w.select(kept)

    return whole_warps(i, d, step)
