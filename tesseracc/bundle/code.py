"""What code a bundle's images hold for each kernel: the bytes of one function of an ELF file, the text of one of PTX.

CPU images and cubins are both ELF64 with section headers. In a cubin every kernel has a section `.text.SYMBOL`, and
`.nv.info` lists attributes of kernels: records of a format byte, an attribute byte and a 16-bit size or value, then
the payload; REGCOUNT (0x2f) and FRAME_SIZE (0x11) hold a symbol number and a value.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import BundleError
from tessera_runtime.core.manifest import Target

__all__ = ["Resources", "kernel_code", "ptx_kernels", "resources"]

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNSYM, _SYMTAB = 11, 2  # types of sections
_REGCOUNT, _FRAME_SIZE = 0x2F, 0x11
_ENTRY = re.compile(r"^(?:\.visible )?\.entry ([\w.$]+)\(", re.MULTILINE)


class Resources(NamedTuple):
    """What a cubin says of a kernel: registers per thread and bytes of its stack frame (spills and local arrays)."""

    registers: int
    frame_bytes: int


class _Section(NamedTuple):
    name: str
    kind: int
    data: bytes
    link: int
    address: int


def _sections(image: bytes) -> list[_Section]:
    """The sections of an ELF64 file."""
    try:
        start, size, count, names = (*struct.unpack_from("<Q", image, 40), *struct.unpack_from("<HHH", image, 58))
        if size != _SECTION.size:
            raise ValueError(f"section headers of {size} bytes")
        raw = [_SECTION.unpack_from(image, start + index * size) for index in range(count)]
        table = image[raw[names][4] : raw[names][4] + raw[names][5]]
        return [
            _Section(
                table[r[0] : table.index(b"\0", r[0])].decode("ascii"), r[1], image[r[4] : r[4] + r[5]], r[6], r[3]
            )
            for r in raw
        ]
    except (struct.error, ValueError, LookupError) as error:
        raise BundleError("E630", f"the image is not an ELF file with sections: {error}") from None


def _symbols(sections: list[_Section]) -> Iterator[tuple[int, str, int, int]]:
    """Number, name, value and size of the symbols."""
    for section in sections:
        if section.kind in (_DYNSYM, _SYMTAB):
            strings = sections[section.link].data
            whole = section.data[: len(section.data) // _SYMBOL.size * _SYMBOL.size]
            for number, (name, _, _, _, value, size) in enumerate(_SYMBOL.iter_unpack(whole)):
                yield number, strings[name : strings.index(b"\0", name)].decode("ascii", "replace"), value, size


def kernel_code(file: BundleFile, target: Target) -> dict[str, bytes]:
    """The code of each kernel of a target, by symbol: machine code, or the text of an entry of PTX."""
    image = file.entry(target.image)
    wanted = {kernel.symbol for kernel in target.kernels}
    if target.format == "ptx":
        return {name: text.encode() for name, text in ptx_kernels(image.decode("ascii")).items() if name in wanted}
    sections = _sections(image)
    if target.format == "cubin":
        return {s.name[6:]: s.data for s in sections if s.name.startswith(".text.") and s.name[6:] in wanted}
    return {name: image[value : value + size] for _, name, value, size in _symbols(sections) if name in wanted}


def resources(cubin: bytes) -> dict[str, Resources]:
    """Registers and stack of every kernel of a cubin, by symbol."""
    sections = _sections(cubin)
    names = {number: name for number, name, _, _ in _symbols(sections)}
    found: dict[int, dict[int, int]] = {_REGCOUNT: {}, _FRAME_SIZE: {}}
    for section in sections:
        if section.name != ".nv.info":
            continue
        at = 0
        while at + 4 <= len(section.data):
            form, attribute, size = struct.unpack_from("<BBH", section.data, at)
            at += 4
            if form == 4:  # the other forms carry their value in the size
                if attribute in found and size == 8 and at + 8 <= len(section.data):
                    symbol, value = struct.unpack_from("<II", section.data, at)
                    found[attribute][symbol] = value
                at += size
    return {
        names.get(symbol, ""): Resources(registers, found[_FRAME_SIZE].get(symbol, 0))
        for symbol, registers in found[_REGCOUNT].items()
    }


def ptx_kernels(text: str) -> dict[str, str]:
    """The text of each entry of a PTX module: from its `.entry` to the brace that closes it."""
    found = {}
    for match in _ENTRY.finditer(text):
        end = text.find("\n}", match.start())
        found[match.group(1)] = text[match.start() : end + 2 if end >= 0 else len(text)] + "\n"
    return found
