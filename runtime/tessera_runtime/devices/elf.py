"""The strict form of a CPU code image, and loading it without the system's loader.

An image is an ELF64 shared object in which file offset equals virtual address, without relocations, imports,
constructors or writable data that code would use. Loading copies it to fresh memory and makes that readable and
executable; no file is written, no `dlopen` runs code. Everything read from the image is bounds-checked (E630).
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import struct
from collections.abc import Mapping, Sequence

from tessera_runtime.core.errors import BundleError, DeviceError
from tessera_runtime.core.manifest import Kernel
from tessera_runtime.core.schema import canonical

__all__ = ["Executable", "LoadedImage", "check_description", "describe", "read_symbols"]

MACHINES = {"x86-64": 62, "aarch64": 183}
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SYM = struct.Struct("<IBBHQQ")
_IDENT = b"\x7fELF\x02\x01\x01" + bytes(9)
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK, _PT_NULL = 1, 2, 0x6474E551, 0
_PF_X, _PF_W, _PF_R = 1, 2, 4
_HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _SONAME = 4, 5, 6, 10, 11, 14
_MAX_SYMBOLS = 1 << 18
_MAX_NAME = 1024


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BundleError("E630", f"code image: {message}")


def read_symbols(image: bytes, machine: str) -> dict[str, int]:
    """The exported functions of an image and their offsets; E630 when it is not in the strict form."""
    size = len(image)
    _require(size >= _EHDR.size, "shorter than an ELF header")
    ident, kind, number, version, _, phoff, _, _, ehsize, phentsize, phnum, *_ = _EHDR.unpack_from(image)
    _require(ident == _IDENT and kind == 3 and version == 1 and ehsize == _EHDR.size, "not an ELF64 shared object")
    _require(number == MACHINES[machine], f"made for machine {number}, not for {machine}")
    _require(
        phentsize == _PHDR.size and 0 < phnum <= 16 and phoff + phnum * _PHDR.size <= size,
        "program headers lie outside",
    )
    executable: list[tuple[int, int]] = []
    dynamic: tuple[int, int] | None = None
    loaded = 0
    for index in range(phnum):
        segment, flags, offset, address, _, filesz, memsz, _ = _PHDR.unpack_from(image, phoff + index * _PHDR.size)
        if segment in (_PT_NULL, _PT_GNU_STACK):
            continue
        _require(segment in (_PT_LOAD, _PT_DYNAMIC), f"program header of kind {segment:#x}")
        _require(
            offset == address and filesz == memsz and offset + filesz <= size,
            "a segment's address is not its file offset",
        )
        if segment == _PT_DYNAMIC:
            _require(dynamic is None, "two dynamic segments")
            dynamic = (offset, filesz)
            continue
        _require(offset >= loaded and flags & _PF_R != 0, "segments overlap or cannot be read")
        loaded = offset + filesz
        if flags & _PF_X:
            _require(not flags & _PF_W, "a segment is both writable and executable")
            executable.append((offset, offset + filesz))
    _require(dynamic is not None, "no dynamic segment")
    assert dynamic is not None
    return _read_dynamic(image, *dynamic, executable)


def _read_dynamic(image: bytes, offset: int, size: int, executable: list[tuple[int, int]]) -> dict[str, int]:
    _require(size % 16 == 0 and size <= 16 * 64, "dynamic section of an odd size")
    tags: dict[int, int] = {}
    for tag, value in struct.iter_unpack("<qQ", image[offset : offset + size]):
        if tag == 0:
            break
        # Whatever would ask the loader for more: relocations, needed libraries, constructors, text relocations.
        _require(tag in (_HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _SONAME), f"dynamic entry {tag:#x}")
        _require(tag not in tags, f"dynamic entry {tag:#x} twice")
        tags[tag] = value
    _require(
        {_HASH, _STRTAB, _SYMTAB, _STRSZ} <= tags.keys() and tags.get(_SYMENT, 24) == 24, "dynamic entries missing"
    )
    hashes, strings, symbols, length = tags[_HASH], tags[_STRTAB], tags[_SYMTAB], tags[_STRSZ]
    _require(hashes + 8 <= len(image) and strings + length <= len(image), "dynamic tables lie outside")
    (count,) = struct.unpack_from("<I", image, hashes + 4)
    _require(0 < count <= _MAX_SYMBOLS and symbols + count * _SYM.size <= len(image), "symbol table lies outside")
    table = image[strings : strings + length]
    found: dict[str, int] = {}
    for index in range(1, count):
        name_at, info, _, section, value, extent = _SYM.unpack_from(image, symbols + index * _SYM.size)
        _require(name_at < length and section != 0, "an imported or nameless symbol")
        end = table.find(b"\0", name_at, name_at + _MAX_NAME + 1)
        _require(end >= 0, "a symbol's name is not terminated or too long")
        name = table[name_at:end].decode("ascii", "replace")
        _require(info & 15 in (0, 2), f"symbol {name[:80]!r} is not a function")
        inside = any(start <= value and value + max(extent, 1) <= stop for start, stop in executable)
        _require(inside, f"symbol {name[:80]!r} lies outside the executable segment")
        _require(name not in found, f"symbol {name[:80]!r} twice")
        found[name] = value
    return found


_DESCRIPTION = b"TSBKERN\0"


def describe(kernels: Sequence[Kernel]) -> bytes:
    """What the writer puts behind an image: a digest of what the manifest says of its kernels."""
    return _DESCRIPTION + hashlib.sha256(canonical([kernel.encode() for kernel in kernels])).digest()


def check_description(image: bytes, kernels: Sequence[Kernel]) -> None:
    """Check that the kernels are described as the image says, if it says so: sizes of scratch memory and buffers, the
    grid and the parameters are part of the code; E633."""
    if image[-40:-32] == _DESCRIPTION and image[-40:] != describe(kernels):
        raise BundleError("E633", "the manifest describes the kernels of a code image otherwise than the image")


class Executable:
    """Machine code at `base`, readable and executable. The memory lives as long as this object; E908."""

    def __init__(self, code: bytes, machine: str) -> None:
        try:
            self._memory = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError) as error:
            raise DeviceError("E908", f"no memory for a code image of {len(code)} bytes") from error
        self._memory[:] = code
        anchor = ctypes.c_char.from_buffer(self._memory)
        self.base = ctypes.addressof(anchor)
        self._anchor = anchor  # keeps the mapping exported, so that it cannot be closed or resized
        libc = ctypes.CDLL(None, use_errno=True)
        pages = -(-len(code) // mmap.PAGESIZE) * mmap.PAGESIZE
        protect = libc.mprotect
        protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        if protect(self.base, pages, mmap.PROT_READ | mmap.PROT_EXEC) != 0:
            raise DeviceError(
                "E908",
                "the operating system refuses executable memory",
                help="allow it for this process, or use another device",
            )
        if machine == "aarch64":
            _flush_instruction_cache(libc, self.base, len(code))


class LoadedImage:
    """An image in executable memory. The memory lives as long as this object."""

    def __init__(self, image: bytes, machine: str) -> None:
        self.symbols: Mapping[str, int] = read_symbols(image, machine)
        self._code = Executable(image, machine)
        self.base = self._code.base

    def address(self, symbol: str) -> int:
        """The address of an exported function; E631."""
        offset = self.symbols.get(symbol)
        if offset is None:
            raise BundleError("E631", f"the code image has no function '{symbol}'")
        return self.base + offset


def _flush_instruction_cache(libc: ctypes.CDLL, base: int, size: int) -> None:
    """Make freshly written code visible to instruction fetch. Arm needs it; libgcc has the function."""
    try:
        clear = ctypes.CDLL("libgcc_s.so.1").__clear_cache
    except (OSError, AttributeError):
        return
    clear.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    clear.restype = None
    clear(base, base + size)
