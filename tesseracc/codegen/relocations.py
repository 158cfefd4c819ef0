"""Resolving references inside an image, where every address is known relative to every other.

Notation of the two processor supplements: S symbol, A addend, P place; Page(x) = x with its low 12 bits cleared.
References through a global offset table are rewritten to take the address directly, as linkers do, since an image has
no table: a load of the address becomes its computation.
"""

from __future__ import annotations

import struct

from tessera_runtime.core.errors import TesseraError
from tesseracc.codegen.objects import Relocation

__all__ = ["apply"]


def apply(machine: str, code: bytearray, relocation: Relocation, start: int, target: int, name: str) -> None:
    """Point one reference of the section `code`, which is at address `start`, to address `target`. Raises E523."""
    at = relocation.offset
    handler = {"x86-64": _x86, "aarch64": _aarch64}[machine]
    # Every kind writes at least four bytes; the one that writes eight checks for itself.
    if at + 4 > len(code) or not handler(code, at, relocation.kind, target + relocation.addend, start + at):
        raise TesseraError(
            "E523",
            f"{machine} relocation {relocation.kind} to {name or 'a section'} cannot be resolved in an image",
            help="constants must not hold addresses, and functions and data must be `dso_local`",
        )


def _signed(code: bytearray, at: int, size: int, value: int) -> bool:
    """Store a signed little-endian number; whether it fits."""
    if at + size > len(code) or not -(1 << (8 * size - 1)) <= value < 1 << (8 * size - 1):
        return False
    code[at : at + size] = value.to_bytes(size, "little", signed=True)
    return True


# --- x86-64: S + A - P in a field of 32 or 64 bits ---------------------------------------------------------------

_PC32, _PLT32, _PC64 = 2, 4, 24
_GOTPCREL, _GOTPCRELX, _REX_GOTPCRELX = 9, 41, 42


def _x86(code: bytearray, at: int, kind: int, value: int, place: int) -> bool:
    if kind in (_PC32, _PLT32):
        return _signed(code, at, 4, value - place)
    if kind == _PC64:
        return _signed(code, at, 8, value - place)
    if kind in (_GOTPCREL, _GOTPCRELX, _REX_GOTPCRELX) and at >= 2:
        if code[at - 2] == 0x8B:  # mov reg, [rip + got] -> lea reg, [rip + symbol]
            code[at - 2] = 0x8D
            return _signed(code, at, 4, value - place)
        if kind == _GOTPCRELX and code[at - 2 : at] == b"\xff\x15":  # call [rip + got] -> addr32 call symbol
            code[at - 2 : at] = b"\x67\xe8"
            return _signed(code, at, 4, value - place)
        if kind == _GOTPCRELX and code[at - 2 : at] == b"\xff\x25":  # jmp [rip + got] -> jmp symbol; int3
            # The field moves one byte forward, so its distance to the target grows by one.
            code[at - 2] = 0xE9
            code[at + 3] = 0xCC
            return _signed(code, at - 1, 4, value - place + 1)
    return False


# --- aarch64: fields of 32-bit instructions ----------------------------------------------------------------------

_PREL64, _PREL32, _PLT_REL32 = 260, 261, 314
_LD_PREL_LO19, _ADR_PREL_LO21, _ADR_PREL_PG_HI21, _ADR_PREL_PG_HI21_NC = 273, 274, 275, 276
_ADD_ABS_LO12_NC = 277
_CONDBR19, _JUMP26, _CALL26 = 280, 282, 283
# Relocation of a load or store with a scaled 12-bit offset: log2 of its access size.
_LDST_LO12 = {278: 0, 284: 1, 285: 2, 286: 3, 299: 4}
_ADR_GOT_PAGE, _LD64_GOT_LO12_NC = 311, 312


def _field(code: bytearray, at: int, value: int, low: int, width: int) -> bool:
    """Put `value` into bits low .. low + width - 1 of the instruction."""
    (word,) = struct.unpack_from("<I", code, at)
    mask = (1 << width) - 1
    struct.pack_into("<I", code, at, (word & ~(mask << low)) | ((value & mask) << low))
    return True


def _fits(value: int, bits: int) -> bool:
    return -(1 << (bits - 1)) <= value < 1 << (bits - 1)


def _branch(code: bytearray, at: int, distance: int, low: int, width: int) -> bool:
    return distance % 4 == 0 and _fits(distance >> 2, width) and _field(code, at, distance >> 2, low, width)


def _adr(code: bytearray, at: int, value: int) -> bool:
    """The 21-bit immediate of adr and adrp: its low two bits are apart."""
    return _fits(value, 21) and _field(code, at, value, 29, 2) and _field(code, at, value >> 2, 5, 19)


def _aarch64(code: bytearray, at: int, kind: int, value: int, place: int) -> bool:
    if kind in (_PREL32, _PLT_REL32):
        return _signed(code, at, 4, value - place)
    if kind == _PREL64:
        return _signed(code, at, 8, value - place)
    if kind in (_ADR_PREL_PG_HI21, _ADR_PREL_PG_HI21_NC, _ADR_GOT_PAGE):  # (Page(S + A) - Page(P)) >> 12
        return _adr(code, at, (value >> 12) - (place >> 12))
    if kind == _ADR_PREL_LO21:
        return _adr(code, at, value - place)
    if kind == _ADD_ABS_LO12_NC:
        return _field(code, at, value & 0xFFF, 10, 12)
    if kind in _LDST_LO12:
        scale = _LDST_LO12[kind]
        return value % (1 << scale) == 0 and _field(code, at, (value & 0xFFF) >> scale, 10, 12)
    if kind == _LD64_GOT_LO12_NC:  # ldr x, [x, got] -> add x, x, low bits of the symbol's address
        (word,) = struct.unpack_from("<I", code, at)
        if word >> 22 != 0b1111100101:
            return False
        struct.pack_into("<I", code, at, 0x91000000 | (word & 0x3FF))
        return _field(code, at, value & 0xFFF, 10, 12)
    if kind in (_CALL26, _JUMP26):
        return _branch(code, at, value - place, 0, 26)
    if kind in (_CONDBR19, _LD_PREL_LO19):
        return _branch(code, at, value - place, 5, 19)
    return False
