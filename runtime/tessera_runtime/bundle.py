"""Reading and verifying a bundle. Nothing of it is used before its bytes have been checked.

The reader trusts one number at a time: the header's manifest digest, then the manifest, which gives the name, size and
digests of every entry; from these it builds every other byte of the file and compares (`core.container`).
"""

from __future__ import annotations

import hashlib
import mmap
import operator
import os
import stat
import zlib
from typing import TYPE_CHECKING, Any

from tessera_runtime.core import container
from tessera_runtime.core.check import check
from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.errors import BundleError, UsageError, about
from tessera_runtime.core.locks import lock
from tessera_runtime.core.manifest import CHUNK, MAX_MANIFEST, Constant, Entry, Manifest, from_json
from tessera_runtime.core.safetensors import parse_header

if TYPE_CHECKING:
    from tessera_runtime.signature import Signature

__all__ = ["BundleFile", "Source", "weights_file"]

Source = "str | os.PathLike[str] | bytes | bytearray | memoryview | int"

_READ_LIMIT = 16 << 20  # smaller files are read, which shields them from later changes on disk; larger ones are mapped


def weights_file(entry: Entry) -> str:
    """The name of the file with an entry of weights where the bundle does not hold it: a digest of its digests."""
    return hashlib.sha256(bytes.fromhex("".join(entry.sha256))).hexdigest() + ".safetensors"


class BundleFile:
    """A verified bundle: its header, its manifest, and access to its entries.

    Opening verifies the container and the manifest. `entry` verifies an entry's digest before returning it;
    `constant` verifies the 4 MiB chunks that the constant touches, each once.
    """

    def __init__(
        self, source: Any, *, verify_weights: bool = False, require_signature: Any = (), weights: Any = None
    ) -> None:
        """Open a path, bytes, or an open file descriptor (which stays the caller's). E6xx, or E802 for the file itself.

        `verify_weights` verifies every chunk of the weights now instead of when they are first used. `weights` is the
        folder with the weights of a bundle that does not hold them (E614), by default that of a bundle given by path.
        `require_signature` is what `signature.requirements` takes; checked before the manifest is parsed. E651, E652.
        """
        self.path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        with about(self.path):
            self._open(source, verify_weights, require_signature, weights)

    def _open(self, source: Any, verify_weights: bool, require_signature: Any, weights: Any) -> None:
        self._memory = _open(source)
        self._view = memoryview(self._memory)
        self.header = self._read_header()
        self.signatures = self._read_signatures(require_signature)
        self.manifest = self._read_manifest()
        self._places = self._check_container()
        self._entries: dict[str, Entry] = {entry.name: entry for entry in self.manifest.entries}
        self._outside_files: dict[str, str] = {}
        self._outside = self._find_weights(source, weights)
        self._verified: set[tuple[str, int]] = set()
        self._lock = lock()
        for entry in self.manifest.entries:
            if entry.kind != "weights" or verify_weights:
                self._verify(entry, 0, entry.size)
                self._verify_checksum(entry)
        texts = {t.ptx for t in self.manifest.targets if t.ptx}
        for name in sorted(texts | {t.image for t in self.manifest.targets if t.format == "ptx"}):
            if not bytes(self.raw(name)).isascii():
                raise BundleError("E632", f"'{name}' is not ASCII text")
        self._check_weights()

    @property
    def inside(self) -> tuple[str, ...]:
        """The names of the manifest and of the entries that the file holds."""
        return tuple(name for name in self._places if name not in (container.HEADER_NAME, container.SIGNATURES_NAME))

    @property
    def digest(self) -> str:
        """The content digest: SHA-256 of the manifest, which holds the digests of everything else."""
        return self.header.manifest_sha256.hex()

    def _read_header(self) -> container.Header:
        start = container.HEADER_OFFSET
        if len(self._view) < start + container.HEADER_SIZE:
            short = "the file is too short to be a Tessera bundle"
            raise BundleError("E601", short, help="bundles are made by `tesseracc build`")
        header = container.Header.unpack(bytes(self._view[start : start + container.HEADER_SIZE]))
        if header.file_size != len(self._view):
            raise BundleError("E602", f"the bundle should have {header.file_size} bytes and has {len(self._view)}")
        return header

    def _read_signatures(self, required: Any) -> tuple[Signature, ...]:
        count = self.header.signatures
        if not count and required == ():
            return ()
        from tessera_runtime import signature

        start = container.SIGNATURES_OFFSET
        stop = start + count * container.SIGNATURE_RECORD
        if stop > len(self._view):
            raise BundleError("E604", "tsb.header tells of more signatures than the file holds")
        found = signature.unpack(bytes(self._view[start:stop]))
        signature.require(found, self.digest, signature.requirements(required))
        return found

    def _read_manifest(self) -> Manifest:
        header = self.header
        end = header.manifest_offset + header.manifest_size
        if header.manifest_size > MAX_MANIFEST or end > len(self._view):
            raise BundleError("E604", "tsb.header places the manifest outside the file")
        data = bytes(self._view[header.manifest_offset : end])
        if hashlib.sha256(data).digest() != header.manifest_sha256:
            raise BundleError("E605", "the manifest was altered: its digest is not the one in tsb.header")
        manifest = from_json(data)
        check(manifest)
        if header.targets != tuple(target.name for target in manifest.targets):
            raise BundleError("E604", "tsb.header lists other targets than the manifest")
        return manifest

    def _check_container(self) -> dict[str, container.Place]:
        """Every byte outside the entries' data is the one that the manifest implies."""
        header, total = self.header, len(self._view)
        outside = "weights" if header.detached else None
        sizes = {entry.name: entry.size for entry in self.manifest.entries if entry.kind != outside}
        if header.detached and len(sizes) == len(self.manifest.entries):
            raise BundleError("E604", "tsb.header tells of weights outside the file, and there are none")
        sizes[container.MANIFEST_NAME] = header.manifest_size
        places, end = container.lay_out(container.in_order(sizes, header.signatures))
        if end > total:
            raise BundleError("E602", f"the bundle's entries need {end} bytes of {total}")
        where = next(place for place in places if place.name == container.MANIFEST_NAME)
        if where.data != header.manifest_offset:
            raise BundleError("E604", "tsb.header places the manifest elsewhere than its entries do")
        position = end
        for place in places:
            at = place.header + container.CRC_OFFSET
            crc = int.from_bytes(self._view[at : at + 4], "little")
            self._expect_local(place, crc)
            record = container.central(place, crc)
            if self._view[position : position + len(record)] != record:
                raise BundleError("E607", f"the central directory record of '{place.name}' differs from its entry")
            position += len(record)
        if self._view[position:] != container.end_records(len(places), end, position - end):
            raise BundleError("E608", "the ZIP end records are not the ones that the entries imply")
        found = {place.name: place for place in places}
        for name in container.RESERVED:
            if name in found:
                self._crc(found[name])
        return found

    def _expect_local(self, place: container.Place, crc: int) -> None:
        expected = container.padded_local_header(place, crc)
        actual = bytes(self._view[place.header : place.data])
        if actual == expected:
            return
        at = next(i for i, (a, b) in enumerate(zip(actual, expected, strict=True)) if a != b)
        name_end = 30 + len(place.name)
        if 30 <= at < name_end:
            raise BundleError("E609", f"an entry is not named '{place.name}' as the manifest says")
        if at >= name_end:
            raise BundleError("E610", f"the padding before '{place.name}' is not the one that its alignment needs")
        raise BundleError("E606", f"the local header of '{place.name}' is outside the strict profile (byte {at})")

    def _crc(self, place: container.Place) -> None:
        at = place.header + container.CRC_OFFSET
        data = self._view[place.data : place.data + place.size]
        if zlib.crc32(data) != int.from_bytes(self._view[at : at + 4], "little"):
            raise BundleError("E613", f"the CRC-32 of '{place.name}' is wrong")

    def _find_weights(self, source: Any, folder: Any) -> dict[str, memoryview]:
        """The contents of entries that the file does not hold, mapped, not yet verified."""
        entries = [entry for entry in self.manifest.entries if entry.name not in self._places]
        if folder is None and isinstance(source, (str, os.PathLike)):
            folder = os.path.dirname(os.path.realpath(os.fspath(source)))
        found = {}
        for entry in entries:
            name = weights_file(entry)
            path = os.path.join(os.fspath(folder), name) if folder is not None else name
            if folder is None or not os.path.exists(path):
                raise BundleError(
                    "E614", f"the bundle's weights are in the file '{path}', which is not there",
                    help="put it there, or say where it is: --weights FOLDER, load(.., weights=FOLDER)",
                )  # fmt: skip
            try:
                data = memoryview(_open(path))
            except BundleError:
                data = memoryview(b"")
            if len(data) != entry.size:
                raise BundleError("E611", f"'{path}' was altered: it has {len(data)} bytes of {entry.size}")
            found[entry.name], self._outside_files[entry.name] = data, path
        return found

    def _data(self, name: str) -> memoryview:
        """The bytes of the manifest or an entry, wherever they lie."""
        if name in self._outside:
            return self._outside[name]
        place = self._places[name]
        return self._view[place.data : place.data + place.size]

    def _verify_checksum(self, entry: Entry) -> None:
        if entry.name in self._places:
            self._crc(self._places[entry.name])

    def _verify(self, entry: Entry, start: int, stop: int) -> None:
        """Check the digests of the chunks that hold bytes start..stop of an entry, each once."""
        content = self._data(entry.name)
        for index in range(start // CHUNK, -(-stop // CHUNK)):
            key = (entry.name, index)
            if key in self._verified:
                continue
            if hashlib.sha256(content[index * CHUNK : (index + 1) * CHUNK]).hexdigest() != entry.sha256[index]:
                what = self._outside_files.get(entry.name, entry.name)
                raise BundleError(
                    "E611", f"'{what}' was altered: bytes from {index * CHUNK} on do not have their digest"
                )
            with self._lock:
                self._verified.add(key)

    def _check_weights(self) -> None:
        """The weights' own headers, which other tools read, say the same as the manifest."""
        tables: dict[str, dict[str, Any]] = {}
        for constant in self.manifest.constants:
            if constant.entry not in tables:
                entry = self._entries[constant.entry]
                data = self._data(entry.name)
                length = 8 + int.from_bytes(data[:8], "little")
                self._verify(entry, 0, min(max(length, 8), entry.size))
                tables[entry.name] = parse_header(data)
            found = tables[constant.entry].get(constant.name)
            # types that the format lacks stand there as bytes
            code = DTYPES[constant.dtype].safetensors
            wanted = (code, constant.shape, constant.offset, constant.offset + constant.size)
            if found is None or (DTYPES[found.dtype].safetensors, *found[1:]) != wanted:
                raise BundleError("E640", f"the weights file says otherwise about '{constant.name}' than the manifest")

    def entry(self, name: str) -> bytes:
        """A verified copy of an entry's bytes: the copy is what was hashed, whatever happens to the file."""
        entry = self._entries.get(name)
        if entry is None:
            raise BundleError("E612", f"the bundle has no entry '{name}'")
        data = bytes(self._data(name))
        with about(self.path):
            for index, digest in enumerate(entry.sha256):
                if hashlib.sha256(data[index * CHUNK : (index + 1) * CHUNK]).hexdigest() != digest:
                    raise BundleError("E611", f"'{name}' was altered: its digest is not the one in the manifest")
        return data

    def raw(self, name: str) -> memoryview:
        """The bytes of `manifest.json` or an entry, without a copy, as they lie in their file: not verified."""
        return self._data(name).toreadonly()

    def constant(self, constant: Constant) -> memoryview:
        """The verified bytes of a constant, without a copy, 64-byte aligned, read-only."""
        entry = self._entries[constant.entry]
        if constant.size:
            with about(self.path):
                self._verify(entry, constant.offset, constant.offset + constant.size)
        return self._data(entry.name)[constant.offset : constant.offset + constant.size].toreadonly()


def _open(source: Any) -> mmap.mmap:
    """The file's bytes in page-aligned memory."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        if not data:
            raise BundleError("E601", "the bundle is empty")
        memory = mmap.mmap(-1, len(data))
        memory[:] = data
        return memory
    if hasattr(source, "__index__"):
        return _map(operator.index(source), f"file descriptor {source}")
    path = os.fspath(source)
    try:
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError("E802", f"cannot read '{path}': {reason}") from error
    try:
        return _map(descriptor, f"'{path}'")
    finally:
        os.close(descriptor)


def _map(descriptor: int, shown: str) -> mmap.mmap:
    try:
        state = os.fstat(descriptor)
        size = state.st_size
        if not stat.S_ISREG(state.st_mode):
            raise UsageError("E802", f"cannot read {shown}: it is not a regular file")
        if size == 0:
            raise BundleError("E601", "the bundle is empty")
        if size > _READ_LIMIT:
            return mmap.mmap(descriptor, size, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
        memory = mmap.mmap(-1, size)
        position = 0
        while position < size and (part := os.pread(descriptor, size - position, position)):
            memory[position : position + len(part)] = part
            position += len(part)
        return memory
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError("E802", f"cannot read {shown}: {getattr(error, 'strerror', None) or error}") from error
