"""Each kind of reference, resolved and then read back by decoding the instruction as its manual defines it."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch import load
from tesseracc.codegen.elf import link_image, read_image
from tesseracc.codegen.host import compile_cpu
from tesseracc.codegen.objects import Relocation, parse_object
from tesseracc.codegen.relocations import apply
from tests.codegen.codegen_samples import micro_kernel, polynomial


def _apply(machine: str, code: bytes, kind: int, place: int, target: int, offset: int = 0, addend: int = 0) -> bytes:
    blob = bytearray(code)
    apply(machine, blob, Relocation(offset, kind, 0, addend), place - offset, target, "symbol")
    return bytes(blob)


def _word(code: bytes) -> int:
    return int(struct.unpack("<I", code)[0])


def _bits(value: int, low: int, width: int) -> int:
    return (value >> low) & ((1 << width) - 1)


def _signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> (width - 1) else value


def _immediate21(word: int) -> int:
    return _signed(_bits(word, 5, 19) << 2 | _bits(word, 29, 2), 21)


ADRP, ADR, ADD, BL, B, B_EQ, LDR_LITERAL = (
    0x90000003,
    0x10000003,
    0x91000063,
    0x94000000,
    0x14000000,
    0x54000000,
    0x58000005,
)
LDR_BY_SIZE = {278: 0x39400064, 284: 0x79400064, 285: 0xB9400064, 286: 0xF9400064, 299: 0x3DC00064}
SCALE = {278: 0, 284: 1, 285: 2, 286: 3, 299: 4}


def _place_and_target(seed: int) -> list[tuple[int, int]]:
    random = np.random.default_rng(seed)
    return [(4 * int(random.integers(0, 1 << 20)), 16 * int(random.integers(0, 1 << 18))) for _ in range(50)]


def test_aarch64_pages_and_offsets() -> None:
    for place, target in _place_and_target(1):
        for kind in (275, 276, 311):
            word = _word(_apply("aarch64", struct.pack("<I", ADRP), kind, place, target))
            assert word & 0x9F00001F == ADRP
            page = (place & ~0xFFF) + (_immediate21(word) << 12)
            assert page == target & ~0xFFF
        word = _word(_apply("aarch64", struct.pack("<I", ADD), 277, place, target + 4))
        assert word & ~(0xFFF << 10) == ADD and page + _bits(word, 10, 12) == target + 4
        for kind, code in LDR_BY_SIZE.items():
            word = _word(_apply("aarch64", struct.pack("<I", code), kind, place, target))
            assert word & ~(0xFFF << 10) == code and page + (_bits(word, 10, 12) << SCALE[kind]) == target
        # A load from the offset table becomes an addition with the same registers.
        word = _word(_apply("aarch64", struct.pack("<I", 0xF9400064), 312, place, target))
        assert word >> 22 == 0x91000000 >> 22 and word & 0x3FF == 0x64 and page + _bits(word, 10, 12) == target


def test_aarch64_distances() -> None:
    for place, target in _place_and_target(2):
        word = _word(_apply("aarch64", struct.pack("<I", ADR), 274, place, place + (target % 8000) - 4000))
        assert place + _immediate21(word) == place + (target % 8000) - 4000
        for kind, code in ((283, BL), (282, B)):
            word = _word(_apply("aarch64", struct.pack("<I", code), kind, place, target))
            assert word >> 26 == code >> 26 and place + 4 * _signed(_bits(word, 0, 26), 26) == target
        near = place + (target % 0x8000 - 0x4000) // 4 * 4
        for kind, code in ((280, B_EQ), (273, LDR_LITERAL)):
            word = _word(_apply("aarch64", struct.pack("<I", code), kind, place, near))
            assert word & ~(0x7FFFF << 5) == code and place + 4 * _signed(_bits(word, 5, 19), 19) == near
        for kind in (261, 314):
            (distance,) = struct.unpack("<i", _apply("aarch64", bytes(4), kind, place, target, addend=3))
            assert place + distance == target + 3
        (distance,) = struct.unpack("<q", _apply("aarch64", bytes(8), 260, place, target))
        assert place + distance == target


def test_x86_distances() -> None:
    for place, target in _place_and_target(3):
        for kind in (2, 4):
            (distance,) = struct.unpack("<i", _apply("x86-64", bytes(4), kind, place, target, addend=-4))
            assert place + 4 + distance == target
        (distance,) = struct.unpack("<q", _apply("x86-64", bytes(8), 24, place, target))
        assert place + distance == target


def test_x86_offset_table_is_bypassed() -> None:
    # Each: instruction, offset of its field, what it becomes. The field counts from the end of the instruction.
    cases = [
        (9, "48 8b 05 00000000", 3, "48 8d 05"),
        (42, "4c 8b 3d 00000000", 3, "4c 8d 3d"),
        (41, "ff 15 00000000", 2, "67 e8"),
    ]
    for kind, before, field, after in cases:
        code = _apply("x86-64", bytes.fromhex(before), kind, 0x1000 + field, 0x2340, offset=field, addend=-4)
        assert code[:field] == bytes.fromhex(after)
        assert 0x1000 + field + 4 + struct.unpack_from("<i", code, field)[0] == 0x2340
    code = _apply("x86-64", bytes.fromhex("ff25 00000000"), 41, 0x1002, 0x2340, offset=2, addend=-4)
    assert code[0] == 0xE9 and code[5] == 0xCC and 0x1000 + 5 + struct.unpack_from("<i", code, 1)[0] == 0x2340


@pytest.mark.parametrize(
    ("machine", "code", "kind", "target"),
    [
        ("x86-64", bytes(4), 1, 0),  # an absolute address
        ("x86-64", bytes(4), 2, 1 << 33),  # too far
        ("x86-64", bytes.fromhex("8b0500000000"), 37, 0),  # thread-local
        ("x86-64", bytes(2), 2, 0),  # beyond the section
        ("aarch64", struct.pack("<I", BL), 283, 1 << 30),
        ("aarch64", struct.pack("<I", BL), 283, 2),
        ("aarch64", struct.pack("<I", 0xF9400064), 286, 4),  # a misaligned load of eight bytes
        ("aarch64", struct.pack("<I", ADD), 312, 0),
        ("aarch64", bytes(8), 257, 0),
    ],
)
def test_what_cannot_be_resolved(machine: str, code: bytes, kind: int, target: int) -> None:
    with pytest.raises(TesseraError) as caught:
        _apply(machine, code, kind, 0, target)
    assert caught.value.code == "E523" and "symbol" in caught.value.message


def test_aarch64_image_refers_to_its_constants() -> None:
    """Every page-and-offset pair of a linked image leads to the bytes that the object holds for that constant."""
    arch = load("aarch64")
    data = compile_cpu(polynomial(4) + micro_kernel(3, 4), arch)
    image = link_image([data], "aarch64")
    item = parse_object(data, "aarch64", "test")
    functions = {symbol.name: symbol for symbol in item.symbols if symbol.exported}
    start = {symbol.section: read_image(image)[name] - symbol.value for name, symbol in functions.items()}
    seen = 0
    for section in (section for section in item.sections if section.is_code):
        pages: dict[int, int] = {}
        for relocation in section.relocations:
            place = start[section.index] + relocation.offset
            word = _word(image[place : place + 4])
            symbol = item.symbols[relocation.symbol]
            if relocation.kind == 275:
                pages[_bits(word, 0, 5)] = (place & ~0xFFF) + (_immediate21(word) << 12)
            elif relocation.kind == 299:
                address = pages[_bits(word, 5, 5)] + 16 * _bits(word, 10, 12)
                held = next(other for other in item.sections if other.index == symbol.section)
                offset = symbol.value + relocation.addend
                assert image[address : address + 16] == held.data[offset : offset + 16]
                seen += 1
    assert seen >= 4
