"""tcgen05.cp and shift: matrices of shared memory into tensor memory, rows of it moved (PTX ISA, tcgen05.cp, shift)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.findings import OUT_OF_BOUNDS
from tesseracc.emulator.memory import SHARED_BASE
from tesseracc.emulator.operations.tcgen05_operands import Packing, byte_places, pair_of
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.tensor_memory import LANES, Pending
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

__all__ = ["copy", "shift", "write_word"]

_SECTION = "9.7.16 TensorCore 5th Generation"
_NOTHING = np.zeros(0, np.int64)
#: format of elements in shared memory -> how they lie there, and how far each is shifted in its byte
_PACKED = {
    "": (Packing("u8", 8, 1, 1), 0), "b4x16_p64": (Packing("e2m1", 4, 16, 16), 2),
    "b6x16_p32": (Packing("e2m3", 6, 16, 16), 0),
}  # fmt: skip


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


@instruction("tcgen05.cp", _SECTION + ": tcgen05.cp", ".128x256b .4x256b .128x128b .64x128b .32x128b "
             ".b8x16.b4x16_p64 .b8x16.b6x16_p32")  # fmt: skip
def copy(i: Instruction, d: Decoder) -> Step:
    """tcgen05.cp: shared memory into tensor memory, in the order of products; of a pair each CTA its own."""
    shape = next(m for m in i.mods if m in _COPIES)
    source_format = next((m for m in i.mods if m in _PACKED), "")
    if ("b8x16" in i.mods) != bool(source_format):
        raise ValueError("a format of elements without that of the other side")
    pack, shift = _PACKED[source_format]
    rows, width = _COPIES[shape]
    lanes_of_rows = _lanes(shape, i.mods, rows)
    target = d.address(i.operands[0])[1]
    descriptor = d.source(i.operands[1], "b64")

    pair = "cta_group::2" in i.mods

    def run(w: Wave) -> None:
        given = w.spread(target(w)).tolist(), w.spread(descriptor(w)).tolist()
        for lane, where, source in zip(w.lanes.tolist(), *given):
            moves: list[_Move] = []
            for cta in pair_of(w, lane) if pair else (int(w.cta[lane]),):
                at = w.launch.tensor_memory.place(w, cta, None, int(where) & 0xFFFFFFFF, rows, width // 4)
                places = byte_places(w, cta, int(source), rows, width, pack, False, "")
                if at is not None and places is not None:
                    moves.append(_Move(cta, at, places, pack, shift, [at[0] + lanes for lanes in lanes_of_rows]))
            if moves:
                _issue(w, lane, moves, width // 4)

    return run


@dataclass(frozen=True, slots=True)
class _Move:
    """The copy of one CTA: rows of elements at `places`, shifted within a byte each, go to each of `lanes`."""

    cta: int
    at: tuple[int, int]
    places: Array
    pack: Packing
    shift: int
    lanes: list[Array]


def _issue(w: Wave, lane: int, moves: list[_Move], width: int) -> None:
    memory, first = w.launch.tensor_memory, moves[0].at[1]
    span = slice(first, first + width)
    granules = np.unique(np.concatenate([move.places.reshape(-1) // 4 for move in moves]))
    w.launch.asynchronous.proxy_read(w, granules, lane, True)
    for move in moves:
        memory.check_stores(w, move.cta, range(4), span)
        memory.race(w, move.cta, range(4), span, lane, "write")

    def carry_out() -> None:
        for move in moves:
            elements = move.pack.patterns(w.launch.shared.data[move.places]) << np.uint8(move.shift)
            for lanes in move.lanes:
                memory.data[move.cta, lanes, span] = np.ascontiguousarray(elements).view(np.uint32)

    ctas = tuple(move.cta for move in moves)
    memory.issue(w, int(w.cta[lane]), Pending(w.pc, carry_out, span, granules, ctas=ctas))


@instruction("tcgen05.shift", _SECTION + ": tcgen05.shift", ".down")
def shift(i: Instruction, d: Decoder) -> Step:
    """tcgen05.shift.down: rows move down by one lane, 32 bytes of each; the last keeps what it holds."""
    target = d.address(i.operands[0])[1]
    pair = "cta_group::2" in i.mods

    def run(w: Wave) -> None:
        memory = w.launch.tensor_memory
        for lane, where in zip(w.lanes.tolist(), w.spread(target(w)).tolist()):
            ctas = pair_of(w, lane) if pair else (int(w.cta[lane]),)
            placed = [memory.place(w, cta, None, int(where) & 0xFFFFFFFF, 1, 8) for cta in ctas]
            at = placed[0] if placed else None
            if at is None or None in placed:
                continue
            span, first = slice(at[1], at[1] + 8), at[0]
            for cta in ctas:
                memory.race(w, cta, range(4), span, lane, "write")

            def carry_out(ctas: tuple[int, ...] = ctas, span: slice = span, first: int = first) -> None:
                for cta in ctas:
                    memory.data[cta, first : LANES - 1, span] = memory.data[cta, first + 1 : LANES, span].copy()

            memory.issue(w, int(w.cta[lane]), Pending(w.pc, carry_out, span, _NOTHING, ctas=ctas))

    return run
