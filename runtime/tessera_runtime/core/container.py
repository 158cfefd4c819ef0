"""The container: a ZIP file, stored, in the one spelling that its entries imply.

Given the entries' names and sizes, every other byte of the file except the CRC-32 fields is determined: local headers,
padding, central directory, end records. So the writer emits that skeleton, and the reader builds the same one and
compares. specs/bundle.md gives the layout in words.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tessera_runtime.core.errors import BundleError
from tessera_runtime.core.manifest import CONTAINER_VERSION

__all__ = [
    "CRC_OFFSET", "HEADER_NAME", "HEADER_OFFSET", "HEADER_SIZE", "LARGE", "MANIFEST_NAME", "MAX_SIGNATURES",
    "RESERVED", "SIGNATURES_NAME", "SIGNATURES_OFFSET", "SIGNATURE_RECORD", "Header", "Place", "central", "end_records",
    "in_order", "lay_out", "local_header", "padded_local_header",
]  # fmt: skip

HEADER_NAME = "tsb.header"
MANIFEST_NAME = "manifest.json"
SIGNATURES_NAME = "tsb.signatures"
RESERVED = (HEADER_NAME, MANIFEST_NAME, SIGNATURES_NAME)  # names that no entry of the manifest has
HEADER_OFFSET = 64  # of the header's data in the file
SIGNATURES_OFFSET = 2240  # of the signatures' data in a file that has any
SIGNATURE_RECORD = 96  # bytes: a public key and its signature
MAX_SIGNATURES = 64
LARGE = 64 << 10  # entries from this size on begin on a page
CRC_OFFSET = 14  # of the CRC-32 in a local header

_MAGIC = b"\x89TSB\r\n\x1a\n"
_HEADER = struct.Struct("<8sHHHHQQQ32sII")
_TARGETS = 64
_TARGET_SIZE = 32
HEADER_SIZE = _HEADER.size + _TARGETS * _TARGET_SIZE

_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END = struct.Struct("<IHHHHIIH")
_END64 = struct.Struct("<IQHHIIQQQQ")
_LOCATOR = struct.Struct("<IIQI")
_PAD_ID, _ZIP64_ID = 0x5354, 0x0001  # "TS"; ZIP64 extended information
_UTF8, _DATE = 0x0800, 0x0021  # name encoding flag; 1980-01-01
_LIMIT32, _LIMIT16 = 0xFFFFFFFF, 0xFFFF


class Place(NamedTuple):
    """Where an entry lies: its name, the offset of its local header, the offset and size of its data."""

    name: str
    header: int
    data: int
    size: int


class Header(NamedTuple):
    """`tsb.header`: enough to check a bundle for a machine from the first bytes of the file.

    `signatures` is how many the entry `tsb.signatures` holds; without any there is no such entry. `detached` tells that
    the weights are not in the file.
    """

    file_size: int
    manifest_offset: int
    manifest_size: int
    manifest_sha256: bytes
    targets: tuple[str, ...]
    version: int = CONTAINER_VERSION
    signatures: int = 0
    detached: bool = False

    def pack(self) -> bytes:
        """The header's bytes; targets are 32 bytes each, zero padded."""
        fixed = _HEADER.pack(
            _MAGIC, self.version, 0, self.version, self.detached, self.file_size, self.manifest_offset,
            self.manifest_size, self.manifest_sha256, len(self.targets), self.signatures,
        )  # fmt: skip
        names = b"".join(name.encode("ascii")[:_TARGET_SIZE].ljust(_TARGET_SIZE, b"\0") for name in self.targets)
        return (fixed + names).ljust(HEADER_SIZE, b"\0")

    @staticmethod
    def unpack(data: bytes) -> Header:
        """The header that `pack` made; E601 no bundle, E603 another version, E604 a field is wrong."""
        if len(data) < HEADER_SIZE or data[:8] != _MAGIC:
            raise BundleError("E601", "the file is not a Tessera bundle", help="bundles are made by `tesseracc build`")
        _, version, minor, least, detached, size, offset, length, digest, count, signed = _HEADER.unpack_from(data)
        if least > CONTAINER_VERSION or version != CONTAINER_VERSION:
            raise BundleError(
                "E603",
                f"the bundle has container version {version}.{minor}; this runtime reads version {CONTAINER_VERSION}.0",
                help="build the bundle again with the compiler of this version, or update the runtime",
            )
        if minor or detached > 1 or least != version or count > _TARGETS or signed > MAX_SIGNATURES:
            raise BundleError("E604", "a field of tsb.header is out of range")
        raw = [data[_HEADER.size + i * _TARGET_SIZE : _HEADER.size + (i + 1) * _TARGET_SIZE] for i in range(count)]
        try:
            names = tuple(item.rstrip(b"\0").decode("ascii") for item in raw)
        except UnicodeDecodeError as error:
            raise BundleError("E604", "a target name in tsb.header is not ASCII") from error
        header = Header(size, offset, length, digest, names, version, signed, bool(detached))
        if header.pack() != data[:HEADER_SIZE]:
            raise BundleError("E604", "tsb.header is not in its canonical form")
        return header


def alignment(name: str, size: int) -> int:
    """Of an entry's data in the file: a page for large entries and for code that may be mapped, else a cache line."""
    return 4096 if size >= LARGE else 64


def in_order(sizes: Mapping[str, int], signatures: int = 0) -> list[tuple[str, int]]:
    """Names and sizes of all entries in the order of the file; `sizes` are those of the manifest and what it lists."""
    first = [(HEADER_NAME, HEADER_SIZE)]
    if signatures:
        first.append((SIGNATURES_NAME, signatures * SIGNATURE_RECORD))
    return first + [(name, sizes[name]) for name in sorted(sizes)]


def lay_out(entries: Sequence[tuple[str, int]]) -> tuple[list[Place], int]:
    """Places of the entries, given as (name, size) in order of the file, and the offset where the last one ends."""
    places: list[Place] = []
    position = 0
    for name, size in entries:
        data = position + len(local_header(name, size, 0, 4))
        data += -data % alignment(name, size)
        places.append(Place(name, position, data, size))
        position = data + size
    return places, position


def _zip64(*values: int) -> bytes:
    wide = [value for value in values if value >= _LIMIT32]
    return struct.pack(f"<HH{len(wide)}Q", _ZIP64_ID, 8 * len(wide), *wide) if wide else b""


def local_header(name: str, size: int, crc: int, padding: int) -> bytes:
    """A local header with an extra field of `padding` bytes (4 or more, zeros after its own 4-byte head)."""
    extra = _zip64(size, size) + struct.pack("<HH", _PAD_ID, padding - 4) + bytes(padding - 4)
    narrow = min(size, _LIMIT32)
    fixed = _LOCAL.pack(
        0x04034B50, 45 if size >= _LIMIT32 else 20, _UTF8, 0, 0, _DATE, crc, narrow, narrow, len(name), len(extra)
    )
    return fixed + name.encode("ascii") + extra


def padded_local_header(place: Place, crc: int) -> bytes:
    """The local header whose padding makes the data begin where `place` says."""
    shortest = len(local_header(place.name, place.size, 0, 4))
    return local_header(place.name, place.size, crc, 4 + place.data - place.header - shortest)


def central(place: Place, crc: int) -> bytes:
    """The central directory record of an entry."""
    extra = _zip64(place.size, place.size, place.header)
    narrow = min(place.size, _LIMIT32)
    fixed = _CENTRAL.pack(
        0x02014B50,
        20,
        45 if extra else 20,
        _UTF8,
        0,
        0,
        _DATE,
        crc,
        narrow,
        narrow,
        len(place.name),
        len(extra),
        0,
        0,
        0,
        0,
        min(place.header, _LIMIT32),
    )
    return fixed + place.name.encode("ascii") + extra


def end_records(count: int, start: int, size: int) -> bytes:
    """What follows a central directory of `count` records and `size` bytes at offset `start`."""
    wide = b""
    if count >= _LIMIT16 or start >= _LIMIT32 or size >= _LIMIT32:
        wide = _END64.pack(0x06064B50, _END64.size - 12, 45, 45, 0, 0, count, count, size, start)
        wide += _LOCATOR.pack(0x07064B50, 0, start + size, 1)
    narrow = min(count, _LIMIT16)
    return wide + _END.pack(0x06054B50, 0, 0, narrow, narrow, min(size, _LIMIT32), min(start, _LIMIT32), 0)
