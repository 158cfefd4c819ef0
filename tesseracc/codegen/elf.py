"""Linking relocatable objects into one CPU code image.

An image is an ELF shared object in which file offset equals virtual address, so that it can be loaded in two ways: by
`dlopen`, or by copying the file to fresh memory and making that readable and executable. It needs nothing from anybody:
no relocations, no imports, no writable data. Its parts, each starting on a page of the machine's largest size:

    ELF header, program headers, .dynsym, .dynstr, .hash     R
    .text, .rodata                                           R X     read-only data is beside the code that refers to it
    .dynamic, then section names and headers                 R W     only dlopen writes here

A library for `dlopen` alone may ask for more (`Wants`): functions of another, whose addresses the loader stores in
slots that the code reads (one GLOB_DAT relocation each), and writable memory that begins as zeros.

Reading objects is in `objects.py`, resolving references in `relocations.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from typing import NamedTuple

from tessera_runtime.core.errors import TesseraError
from tesseracc.codegen.objects import MACHINES, Object, Section, Symbol, parse_object
from tesseracc.codegen.relocations import apply

__all__ = ["Wants", "link_image", "read_image"]

# Largest page size of a Linux kernel on the machine: segments must not share a page.
PAGE = {"x86-64": 0x1000, "aarch64": 0x10000}
# What fills the gaps between functions: int3, and for aarch64 zero words, which are undefined instructions.
FILL = {"x86-64": b"\xcc", "aarch64": b"\x00"}
SECTION_ALIGN = 64  # of every section: cache lines, and the widest constant

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_IDENT = b"\x7fELF\x02\x01\x01" + bytes(9)

_ET_DYN, _PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 3, 1, 2, 0x6474E551
_R, _RX, _RW = 4, 5, 6
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT = 4, 5, 6, 10, 11
_DT_NEEDED, _DT_RELA, _DT_RELASZ, _DT_RELAENT = 1, 7, 8, 9
_GLOB_DAT = {"x86-64": 6, "aarch64": 1025}
_DYNAMIC, _MORE = 6, 4  # entries of the dynamic section, and those of a library that imports
_RELA = struct.Struct("<QQq")
_SECTIONS = ("", ".dynsym", ".dynstr", ".hash", ".text", ".rodata", ".dynamic")
_RELOCATIONS = ".rela.dyn"  # of libraries that import; found by the dynamic section alone
_SHN = {name: index for index, name in enumerate(_SECTIONS)}


class Wants(NamedTuple):
    """What a library asks of its loader: the library `needed`, `imports` of it, and a writable block of `nbytes` zeros.

    The code refers to the slot that holds the address of an import f as `slot.f`, to the block as `block`.
    """

    needed: str = ""
    imports: tuple[str, ...] = ()
    slot: str = "tessera.slot"
    block: str = "tessera.block"
    nbytes: int = 0


_NOTHING = Wants()


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def link_image(
    objects: Sequence[bytes], machine: str, *, data: Sequence[Object] = (), exports: Collection[str] | None = None,
    wants: Wants = _NOTHING,
) -> bytes:  # fmt: skip
    """The image of relocatable objects for `machine` (`x86-64` or `aarch64`), and of `data`, objects made here.

    All global functions are exported, or those in `exports`. With `wants` only `dlopen` loads it.
    Raises E520 (not an object), E521 (external symbol), E522 (writable data), E523 (relocation), E524 (symbol twice).
    """
    parsed = [*(parse_object(item, machine, f"object {index}") for index, item in enumerate(objects)), *data]
    globals_ = _resolve_globals(parsed)
    functions = sorted(name for name, (_, symbol) in globals_.items() if symbol.exported)
    exported = [name for name in functions if exports is None or name in exports]

    page = PAGE[machine]
    tables_end, tables = _tables(exported, {}, {}, wants)
    text_start = _aligned(tables_end, page)
    blob, places, rodata = _lay_out(parsed, text_start, FILL[machine])

    given = _slots(wants, _aligned(text_start + len(blob), page))

    def address(owner: Object, symbol: Symbol) -> int:
        if symbol.is_global:
            if symbol.name in given:
                return given[symbol.name]
            if symbol.name not in globals_:
                raise _external(symbol.name)
            owner, symbol = globals_[symbol.name]
        if (id(owner), symbol.section) not in places:
            raise TesseraError("E523", f"a reference to {symbol.name or 'a section'} that the image does not hold")
        return places[id(owner), symbol.section] + symbol.value

    for item in parsed:
        for section in item.sections:
            start = places.get((id(item), section.index))
            if start is None:
                continue
            code = bytearray(section.data)
            for relocation in section.relocations:
                symbol = item.symbols[relocation.symbol]
                apply(machine, code, relocation, start, address(item, symbol), symbol.name)
            blob[start - text_start : start - text_start + len(code)] = code

    addresses = {name: address(*globals_[name]) for name in exported}
    sizes = {name: globals_[name][1].size for name in exported}
    tables_end, tables = _tables(exported, addresses, sizes, wants)
    return _write(machine, tables, tables_end, text_start, bytes(blob), rodata, wants)


def _slots(wants: Wants, dynamic: int) -> dict[str, int]:
    """The addresses of the slots and of the block, behind the dynamic section."""
    if wants == _NOTHING:
        return {}
    start = dynamic + 16 * (_DYNAMIC + _MORE)
    slots = {f"{wants.slot}.{name}": start + 8 * number for number, name in enumerate(wants.imports)}
    return slots | {wants.block: _aligned(start + 8 * len(slots), SECTION_ALIGN)}


def _external(name: str) -> TesseraError:
    return TesseraError(
        "E521",
        f"the code calls {name}, which no image can import",
        help="the compiler must expand an operation that this CPU level has no instruction for before LLVM sees it",
    )


def _resolve_globals(parsed: Sequence[Object]) -> dict[str, tuple[Object, Symbol]]:
    """The one definition of every global name; the first weak one where there is no other. Drops repeated COMDATs."""
    taken: set[str] = set()
    for item in parsed:
        for signature, members in item.groups:
            if signature in taken:
                item.dropped.update(members)
            taken.add(signature)
    found: dict[str, tuple[Object, Symbol]] = {}
    for item in parsed:
        for symbol in item.symbols:
            if not symbol.is_global or symbol.section == 0 or symbol.section in item.dropped:
                continue
            old = found.get(symbol.name)
            if old is None or (old[1].weak and not symbol.weak):
                found[symbol.name] = (item, symbol)
            elif not symbol.weak and not old[1].weak:
                raise TesseraError("E524", f"{symbol.name} is defined in {old[0].label} and in {item.label}")
    return found


def _lay_out(parsed: Sequence[Object], start: int, fill: bytes) -> tuple[bytearray, dict[tuple[int, int], int], int]:
    """All code, then all read-only data: the bytes, the address of each (object, section), the address of the data."""
    blob = bytearray()
    places: dict[tuple[int, int], int] = {}
    rodata = start
    for wants_code in (True, False):
        blob += (fill if wants_code else b"\0") * (-len(blob) % SECTION_ALIGN)
        rodata = start + len(blob)
        for item in parsed:
            for section in item.sections:
                if section.is_code is not wants_code or section.index in item.dropped or not _kept(section):
                    continue
                blob += (fill if wants_code else b"\0") * (-len(blob) % max(section.alignment, SECTION_ALIGN))
                places[id(item), section.index] = start + len(blob)
                blob += section.data
    return blob, places, rodata


def _kept(section: Section) -> bool:
    if section.is_writable and section.size:
        raise TesseraError("E522", f"section {section.name} of {section.size} bytes is writable data")
    return not section.is_writable


def _hash(name: str) -> int:
    """The hash function of the System V ABI."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value


def _tables(
    names: Sequence[str], addresses: dict[str, int], sizes: dict[str, int], wants: Wants = _NOTHING
) -> tuple[int, dict[str, tuple[int, bytes]]]:
    """Where the symbol tables end, and (offset, bytes) by section name. Offsets do not depend on the addresses."""
    strings = b"\0"
    symbols = _SYM.pack(0, 0, 0, 0, 0, 0)
    for name in names:
        # 0x12: global function.
        symbols += _SYM.pack(len(strings), 0x12, 0, _SHN[".text"], addresses.get(name, 0), sizes.get(name, 0))
        strings += name.encode() + b"\0"
    for name in wants.imports:  # global functions that are not here
        symbols += _SYM.pack(len(strings), 0x12, 0, 0, 0, 0)
        strings += name.encode() + b"\0"
    if wants.needed:
        strings += wants.needed.encode() + b"\0"
    buckets, chains = [0] * max(1, len(names)), [0] * (1 + len(names) + len(wants.imports))
    for index, name in enumerate(names, 1):
        bucket = _hash(name) % len(buckets)
        chains[index], buckets[bucket] = buckets[bucket], index
    numbers = [len(buckets), len(chains), *buckets, *chains]
    offset = _EHDR.size + 5 * _PHDR.size
    result: dict[str, tuple[int, bytes]] = {}
    hashes = struct.pack(f"<{len(numbers)}I", *numbers)
    for section, data in ((".dynsym", symbols), (".dynstr", strings), (".hash", hashes)):
        offset = _aligned(offset, 8)
        result[section] = (offset, data)
        offset += len(data)
    if wants.imports:
        offset = _aligned(offset, 8)
        result[_RELOCATIONS] = (offset, bytes(_RELA.size * len(wants.imports)))  # filled when the slots have addresses
        offset += len(result[_RELOCATIONS][1])
    return offset, result


def _write(
    machine: str, tables: dict[str, tuple[int, bytes]], tables_end: int, text: int, code: bytes, rodata: int,
    wants: Wants = _NOTHING,
) -> bytes:  # fmt: skip
    page = PAGE[machine]
    dynamic = _aligned(text + len(code), page)
    entries: tuple[tuple[int, int], ...] = (
        (_DT_HASH, tables[".hash"][0]),
        (_DT_STRTAB, tables[".dynstr"][0]),
        (_DT_SYMTAB, tables[".dynsym"][0]),
        (_DT_STRSZ, len(tables[".dynstr"][1])),
        (_DT_SYMENT, _SYM.size),
        (0, 0),
    )
    parts = {name: (offset, data) for name, (offset, data) in tables.items()}
    given = _slots(wants, dynamic)
    if wants.imports:
        at, relocations = tables[_RELOCATIONS]
        needed = len(tables[".dynstr"][1]) - len(wants.needed.encode()) - 1
        more = ((_DT_NEEDED, needed), (_DT_RELA, at), (_DT_RELASZ, len(relocations)), (_DT_RELAENT, _RELA.size))
        entries = more + entries
        first = len(tables[".dynsym"][1]) // _SYM.size - len(wants.imports)
        parts[_RELOCATIONS] = (at, b"".join(
            _RELA.pack(given[f"{wants.slot}.{name}"], (first + number) << 32 | _GLOB_DAT[machine], 0)
            for number, name in enumerate(wants.imports)
        ))  # fmt: skip
    dynamic_data = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    dynamic_end = dynamic + len(dynamic_data)
    if given:  # the file holds the slots, and the loader gives the block
        dynamic_end = given[wants.block]
    memory = dynamic_end + wants.nbytes - dynamic
    parts[".text"] = (text, code)
    parts[".dynamic"] = (dynamic, dynamic_data)
    # name: type, flags (2 loaded, 4 code, 1 writable), offset, size, link, info, alignment, entry size
    sections: dict[str, tuple[int, int, int, int, int, int, int, int]] = {
        ".dynsym": (11, 2, tables[".dynsym"][0], len(tables[".dynsym"][1]), _SHN[".dynstr"], 1, 8, _SYM.size),
        ".dynstr": (3, 2, tables[".dynstr"][0], len(tables[".dynstr"][1]), 0, 0, 1, 0),
        ".hash": (5, 2, tables[".hash"][0], len(tables[".hash"][1]), _SHN[".dynsym"], 0, 8, 4),
        ".text": (1, 6, text, rodata - text, 0, 0, SECTION_ALIGN, 0),
        ".rodata": (1, 2, rodata, text + len(code) - rodata, 0, 0, SECTION_ALIGN, 0),
        ".dynamic": (6, 3, dynamic, len(dynamic_data), _SHN[".dynstr"], 0, 8, 16),
    }
    names = b"\0"
    headers = [_SHDR.pack(*(0,) * 10)]
    for name, (kind, flags, offset, size, link, info, alignment, entry) in sections.items():
        headers.append(_SHDR.pack(len(names), kind, flags, offset, offset, size, link, info, alignment, entry))
        names += name.encode() + b"\0"
    names_at = len(names)
    names += b".shstrtab\0"
    headers.append(_SHDR.pack(names_at, 3, 0, 0, dynamic_end, len(names), 0, 0, 1, 0))
    table = _aligned(dynamic_end + len(names), 8)

    image = bytearray(table + len(headers) * _SHDR.size)
    ident = (_IDENT, _ET_DYN, MACHINES[machine], 1, 0, _EHDR.size, table, 0)
    _EHDR.pack_into(image, 0, *ident, _EHDR.size, _PHDR.size, 5, _SHDR.size, len(headers), len(headers) - 1)
    segments = (
        (_PT_LOAD, _R, 0, tables_end, tables_end, page),
        (_PT_LOAD, _RX, text, len(code), len(code), page),
        (_PT_LOAD, _RW, dynamic, dynamic_end - dynamic, memory, page),
        (_PT_DYNAMIC, _RW, dynamic, len(dynamic_data), len(dynamic_data), 8),
        (_PT_GNU_STACK, _RW, 0, 0, 0, 16),  # without it the loader asks for an executable stack
    )
    for index, (kind, flags, offset, size, extent, alignment) in enumerate(segments):
        header = (kind, flags, offset, offset, offset, size, extent, alignment)
        _PHDR.pack_into(image, _EHDR.size + index * _PHDR.size, *header)
    for offset, data in parts.values():
        image[offset : offset + len(data)] = data
    image[dynamic_end : dynamic_end + len(names)] = names
    image[table:] = b"".join(headers)
    return bytes(image)


def read_image(image: bytes) -> dict[str, int]:
    """The exported functions of an image and their offsets. Raises E525 for anything that `link_image` does not write.

    What an image holds is its code, where its read-only data begins, and its symbols. These are read first, and then
    written again: an image is well formed if that gives the same bytes.
    """
    try:
        machine_number, code_segment, symbol_header, string_header, rodata_header = _landmarks(image)
        machine = {number: name for name, number in MACHINES.items()}[machine_number]
        text, size = code_segment[2], code_segment[5]
        addresses: dict[str, int] = {}
        sizes: dict[str, int] = {}
        strings = image[string_header[4] : string_header[4] + string_header[5]]
        symbols = image[symbol_header[4] : symbol_header[4] + symbol_header[5]]
        for name_at, _, _, _, value, extent in list(_SYM.iter_unpack(symbols))[1:]:
            name = strings[name_at : strings.index(b"\0", name_at)].decode("ascii")
            addresses[name], sizes[name] = value, extent
    except (struct.error, LookupError, ValueError) as error:
        raise TesseraError("E525", f"not a code image: {error}") from error
    for name, value in addresses.items():
        if not text <= value <= value + sizes[name] <= text + size:
            raise TesseraError("E525", f"{name} lies outside the code")
    tables_end, tables = _tables(list(addresses), addresses, sizes)
    if text != _aligned(tables_end, PAGE[machine]) or not text <= rodata_header[4] <= text + size <= len(image):
        raise TesseraError("E525", "the code is not where it belongs")
    again = _write(machine, tables, tables_end, text, image[text : text + size], rodata_header[4])
    if list(addresses) != sorted(addresses) or again != image:
        raise TesseraError("E525", "the image differs from what its code and symbols make")
    return addresses


def _landmarks(image: bytes) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The machine, the program header of the code, and the section headers of symbols, strings and read-only data."""
    header = _EHDR.unpack_from(image)
    sections = header[6]
    found = [_SHDR.unpack_from(image, sections + _SHN[name] * _SHDR.size) for name in (".dynsym", ".dynstr", ".rodata")]
    return header[2], _PHDR.unpack_from(image, _EHDR.size + _PHDR.size), found[0], found[1], found[2]
