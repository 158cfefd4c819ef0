"""What code a bundle's images hold for each kernel: the bytes of one function of an ELF file, the text of one of PTX.

CPU images and cubins are both ELF64 with section headers. In a cubin every kernel has a section `.text.SYMBOL`, and
`.nv.info` lists attributes of kernels: records of a format byte, an attribute byte and a 16-bit size or value, then
the payload; REGCOUNT (0x2f) and FRAME_SIZE (0x11) hold a symbol number and a value.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import BundleError
from tessera_runtime.core.manifest import Target

__all__ = ["Code", "Resources", "kernel_code", "ptx_kernels", "read_code", "resources"]

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNSYM, _SYMTAB = 11, 2  # types of sections
_REGCOUNT, _FRAME_SIZE = 0x2F, 0x11
_ENTRY = re.compile(r"^(?:\.visible )?\.entry ([\w.$]+)\(", re.MULTILINE)


class Resources(NamedTuple):
    """What a cubin says of a kernel: registers per thread and bytes of its stack frame (spills and local arrays)."""

    registers: int
    frame_bytes: int


@dataclass(frozen=True, eq=False)
class Code:
    """The code of one kernel. Equal code may lie elsewhere: `data` is how far away the image's read-only data begins.

    Instructions of x86-64 refer to it by 32-bit distances, which change with the size of other kernels. So two codes of
    one length are equal too if they differ only in 32-bit fields, each by the difference of the two distances.
    """

    bytes: bytes
    data: int | None = None  # None where nothing refers to data by distance

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Code):
            return NotImplemented
        if self.bytes == other.bytes:
            return True
        if len(self.bytes) != len(other.bytes) or self.data is None or other.data is None or self.data == other.data:
            return False
        moved, at = (other.data - self.data) & 0xFFFFFFFF, 0
        a, b = self.bytes, other.bytes
        while (at := next((i for i in range(at, len(a)) if a[i] != b[i]), len(a))) < len(a):
            for start in range(max(0, at - 3), at + 1):  # the field may begin before the first byte that differs
                old, new = (int.from_bytes(code[start : start + 4], "little") for code in (a, b))
                if start + 4 <= len(a) and (new - old) & 0xFFFFFFFF == moved:
                    at = start + 4
                    break
            else:
                return False
        return True

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"{len(self.bytes)} bytes, sha256 {hashlib.sha256(self.bytes).hexdigest()[:16]}"


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


def read_code(file: BundleFile, target: Target) -> tuple[dict[str, Code], bytes]:
    """The code of each kernel of a target, by symbol, and the read-only data that the kernels share."""
    found = kernel_code(file, target)
    if target.format == "ptx":
        return {name: Code(data) for name, data in found.items()}, b""
    sections = _sections(file.entry(target.image))
    if target.format == "cubin":  # what is no code of one kernel: constants and variables of the module
        kinds = (".nv.constant2", ".nv.constant3", ".nv.constant4", ".nv.global")
        shared = b"".join(s.data for s in sections if s.name.startswith(kinds))
        return {name: Code(data) for name, data in found.items()}, shared
    (rodata,) = [s for s in sections if s.name == ".rodata"] or [_Section("", 0, b"", 0, 0)]
    places = {name: value for _, name, value, _ in _symbols(sections)}
    far = target.machine == "x86-64"
    codes = {name: Code(data, rodata.address - places[name] if far else None) for name, data in found.items()}
    return codes, rodata.data


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
