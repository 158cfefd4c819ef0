"""The build cache: bundles by the content that they are made from, shared by all builds of a user.

The key covers what the bytes depend on: the program after the front end (its IR and constants, so that what a module
reads or computes while it loads counts), the options, the compiler's own files, the versions of LLVM and the assembler.
A hit gives exactly the bytes that the build would. Entries carry their own digest: a damaged one is built again. Builds
of one key wait for each other (flock, released by the system when a process dies), but not for ever: one that hangs
holds up nobody for more than `PATIENCE`. Entries appear by renaming, so that a lock saves work and protects nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tessera_runtime.core.errors import UsageError
from tessera_runtime.core.files import read_bytes, write_atomic
from tesseracc.ir.printer import module_text
from tesseracc.recipe import Loaded, Recipe

__all__ = ["Cache", "Record", "default_folder", "key_of"]

LIMIT = 2 << 30  # bytes of all entries; beyond, those unused for longest go
NOTICE = 1.0  # seconds of waiting for another build, after which it is told
PATIENCE = 120.0  # seconds, after which the program is built beside it
_MAGIC = b"TSBCACH1"
_HEAD = struct.Struct("<8s32sI")  # magic, SHA-256 of the rest, length of the JSON before the bundle


@dataclass(frozen=True)
class Record:
    """A bundle and what its build had to tell."""

    data: bytes
    warnings: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)

    def pack(self) -> bytes:
        """The bytes of an entry."""
        text = json.dumps({"warnings": self.warnings, "notes": self.notes}, sort_keys=True).encode()
        body = text + self.data
        digest = hashlib.sha256(struct.pack("<I", len(text)) + body).digest()
        return _HEAD.pack(_MAGIC, digest, len(text)) + body

    @staticmethod
    def unpack(entry: bytes) -> Record | None:
        """The record, or None for anything but what `pack` made."""
        if len(entry) < _HEAD.size:
            return None
        magic, digest, length = _HEAD.unpack_from(entry)
        body = entry[_HEAD.size :]
        if magic != _MAGIC or hashlib.sha256(struct.pack("<I", length) + body).digest() != digest:
            return None
        try:
            told = json.loads(body[:length])
            return Record(body[length:], told["warnings"], told["notes"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return None


def default_folder() -> Path | None:
    """`$TESSERA_CACHE_DIR`, else `$XDG_CACHE_HOME/tessera`, else `~/.cache/tessera`.

    None where the first is set and empty: no cache.
    """
    given = os.environ.get("TESSERA_CACHE_DIR")
    if given is not None:
        return Path(given) if given else None
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "tessera"


def key_of(loaded: Loaded, recipe: Recipe) -> str:
    """The key of a build, as hexadecimal digits."""
    provenance = loaded.provenance(recipe)
    digest = hashlib.sha256()
    parts = [
        _compiler(),
        json.dumps(provenance.encode(), sort_keys=True),
        module_text(loaded.module, locations=True),
    ]
    for name, array in sorted(loaded.module.constants.items()):
        data = hashlib.sha256(
            memoryview(array.copy(order="C").view("u1").reshape(-1) if array.ndim else array.tobytes())
        )
        parts.append(f"{name} {array.dtype} {array.shape} {data.hexdigest()}")
    for part in parts:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()


@cache
def _compiler() -> str:
    """The digest of the compiler's own files: two compilers of one version may differ while one is being changed."""
    import tessera
    import tessera_runtime
    import tesseracc

    digest = hashlib.sha256()
    for package in (tessera, tesseracc, tessera_runtime):
        folder = Path(str(package.__file__)).parent
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(f"{package.__name__}/{path.relative_to(folder).as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class Cache:
    """A folder of entries. Whatever goes wrong with it costs time, never a build."""

    def __init__(self, folder: Path) -> None:
        """The cache in `folder`, which is made if it can be. Raises E803 where `folder` is a file."""
        if folder.exists() and not folder.is_dir():
            raise UsageError("E803", f"cannot use {folder} as a cache: it is no folder")
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    @contextmanager
    def locked(self, key: str, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Only one process at a time builds what `key` stands for (or, rarely, another key of the same lock).

        `say` is told for whom one waits, and that one does no longer.
        """
        descriptor = None
        try:
            import fcntl

            path = self.folder / f"{key[:2]}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            # through a link it would be another file that is cut to nothing below
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            start, told = time.monotonic(), False
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, b"%d" % os.getpid(), 0)
                    break
                except BlockingIOError:
                    waited = time.monotonic() - start
                    holder = os.pread(descriptor, 20, 0).decode("ascii", "replace") or "another"
                    if waited >= PATIENCE:
                        say(f"process {holder} has held the lock {path} for {waited:.0f} s: building beside it")
                        break
                    if waited >= NOTICE and not told:
                        told = True
                        say(f"waiting for process {holder}, which holds the lock {path} of the build cache")
                    time.sleep(min(0.01 + waited / 10, 0.1))
        except (OSError, ImportError):  # a read-only folder, a file system without locks
            pass
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def get(self, key: str) -> Record | None:
        """The record, or None: nothing there, or something else than an entry, and then removed."""
        path = self._path(key)
        with suppress(OSError, UsageError):
            record = None if path.is_symlink() else Record.unpack(read_bytes(path, LIMIT, regular=True))
            if record is not None:
                os.utime(path)
                return record
        with suppress(OSError):
            path.unlink()
        return None

    def put(self, key: str, record: Record) -> None:
        """Keep a record, all or nothing, and make room."""
        path = self._path(key)
        with suppress(OSError, UsageError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(str(path), record.pack())
            self._trim()

    def _trim(self) -> None:
        found = []
        for path in self.folder.glob("??/*"):
            with suppress(OSError):
                state = path.stat()
                found.append((state.st_mtime_ns, path, state.st_size))
        total = sum(size for _, _, size in found)
        for _, path, size in sorted(found):
            if total <= LIMIT:
                break
            with suppress(OSError):
                path.unlink()
                total -= size
