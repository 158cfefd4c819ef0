"""Reading ELF64 relocatable objects as LLVM writes them for x86-64 and aarch64."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tessera_runtime.core.errors import TesseraError

__all__ = ["MACHINES", "Object", "Relocation", "Section", "Symbol", "parse_object"]

MACHINES = {"x86-64": 62, "aarch64": 183}

_PROGBITS, _SYMTAB, _RELA, _NOBITS, _REL, _GROUP = 1, 2, 4, 8, 9, 17
_X86_UNWIND = 0x70000001
_WRITE, _ALLOC, _EXEC = 1, 2, 4
_SHN_ABS, _SHN_COMMON, _SHN_XINDEX = 0xFFF1, 0xFFF2, 0xFFFF


@dataclass(frozen=True, slots=True)
class Relocation:
    """Put the address of symbol number `symbol`, plus `addend`, at `offset` of the section in the way of `kind`."""

    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol; `section` 0 means that the object does not define it."""

    name: str
    section: int
    value: int
    size: int
    is_global: bool  # visible to other objects; weak ones too
    weak: bool
    exported: bool  # a function that the image offers to its loader


@dataclass(frozen=True, slots=True)
class Section:
    """A section that is loaded when its program runs, with the relocations that apply to it."""

    index: int
    name: str
    is_code: bool
    is_writable: bool
    alignment: int
    size: int
    data: bytes
    relocations: tuple[Relocation, ...]


@dataclass(slots=True)
class Object:
    """One relocatable object. `groups` are COMDATs (signature, members); `dropped` sections repeat another object's."""

    label: str
    sections: list[Section]
    symbols: list[Symbol]
    groups: list[tuple[str, tuple[int, ...]]]
    dropped: set[int] = field(default_factory=set)


def parse_object(data: bytes, machine: str, label: str) -> Object:
    """Parse an object for `machine`. Raises E520 naming `label`."""
    try:
        return _parse(data, MACHINES[machine], label)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise TesseraError("E520", f"{label} is not a well-formed object for {machine}: {error}") from error


def _parse(data: bytes, machine: int, label: str) -> Object:
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    kind, found = struct.unpack_from("<HH", data, 16)
    if (kind, found) != (1, machine):
        raise ValueError(f"file type {kind} for machine {found}")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    if entry_size != 64 or count == 0:
        raise ValueError("no section headers")
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + index * entry_size) for index in range(count)]

    def body(index: int) -> bytes:
        _, section_kind, _, _, offset, size, *_ = headers[index]
        if section_kind == _NOBITS:
            return bytes(size)
        if offset + size > len(data):
            raise ValueError(f"section {index} ends beyond the file")
        return data[offset : offset + size]

    def text(table_index: int, offset: int) -> str:
        strings = body(table_index)
        return strings[offset : strings.index(b"\0", offset)].decode()

    symbol_tables = [index for index, header in enumerate(headers) if header[1] == _SYMTAB]
    if len(symbol_tables) > 1:
        raise ValueError("two symbol tables")
    symbols: list[Symbol] = []
    for index in symbol_tables:
        strings = headers[index][6]
        for name_at, info, other, section, value, size in struct.iter_unpack("<IBBHQQ", body(index)):
            symbols.append(_symbol(text(strings, name_at), info, other, section, value, size))

    relocations: dict[int, tuple[Relocation, ...]] = {}
    groups: list[tuple[str, tuple[int, ...]]] = []
    for index, header in enumerate(headers):
        if header[1] == _REL:
            raise ValueError("relocations without addends")
        if header[1] == _RELA:
            items = [
                Relocation(offset, info & 0xFFFFFFFF, info >> 32, addend)
                for offset, info, addend in struct.iter_unpack("<QQq", body(index))
            ]
            if any(item.symbol >= len(symbols) for item in items):
                raise ValueError("a relocation names a symbol that is not there")
            relocations[header[7]] = tuple(items)
        if header[1] == _GROUP:
            words = [word for (word,) in struct.iter_unpack("<I", body(index))]
            if words[0] == 1:  # GRP_COMDAT; other groups do not matter here
                groups.append((symbols[header[7]].name, tuple(words[1:])))

    sections: list[Section] = []
    for index, (name_at, section_kind, flags, _, _, size, _, _, alignment, _) in enumerate(headers):
        name = text(names_index, name_at)
        if not flags & _ALLOC or section_kind not in (_PROGBITS, _NOBITS, _X86_UNWIND) or name == ".eh_frame":
            continue  # symbols, debugging, unwinding, notes
        is_code = bool(flags & _EXEC)
        if section_kind == _X86_UNWIND or not (is_code or flags & _WRITE or name.startswith(".rodata")):
            raise ValueError(f"section {name} is of an unknown kind")
        sections.append(
            Section(
                index, name, is_code, bool(flags & _WRITE), max(alignment, 1), size, body(index),
                relocations.get(index, ()),
            )
        )  # fmt: skip
    return Object(label, sections, symbols, groups)


def _symbol(name: str, info: int, other: int, section: int, value: int, size: int) -> Symbol:
    if section in (_SHN_COMMON, _SHN_XINDEX) or (section == _SHN_ABS and info & 15 != 4):
        raise ValueError(f"symbol {name} is of an unknown kind")
    binding, kind, visibility = info >> 4, info & 15, other & 3
    if kind == 6:
        raise TesseraError("E522", f"{name} is per-thread data")
    if kind == 10:  # indirect function
        raise ValueError(f"symbol {name} is of an unknown kind")
    is_global = binding in (1, 2)
    exported = is_global and kind == 2 and visibility in (0, 3) and section != 0
    return Symbol(name, section, value, size, is_global, binding == 2, exported)
