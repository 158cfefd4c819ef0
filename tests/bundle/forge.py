"""Making bundles that break one rule: with every digest and checksum right, or with single bytes changed."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from typing import Any

from tessera_runtime.api import load
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import container
from tessera_runtime.core.errors import TesseraError
from tests.runtime.support import bundle_bytes

Json = Any


def code_of(data: bytes) -> str:
    """The code with which loading fails, or `ok`."""
    try:
        load(data, threads=1, verify_weights=True)
    except TesseraError as error:
        assert error.exit_code == 5, error
        return error.code
    return "ok"


def places() -> dict[str, container.Place]:
    return BundleFile(bundle_bytes())._places


def entry_data(name: str) -> bytes:
    place = places()[name]
    return bundle_bytes()[place.data : place.data + place.size]


def rebuild(files: dict[str, bytes], text: bytes, targets: tuple[str, ...] | None = None, **header: Any) -> bytes:
    """A container with correct digests and checksums around any manifest: what an attacker would write."""
    files = {**files, "manifest.json": text}
    order = [("tsb.header", container.HEADER_SIZE), *((name, len(files[name])) for name in sorted(files))]
    laid, end = container.lay_out(order)
    where = next(place for place in laid if place.name == "manifest.json")
    size = sum(len(container.central(place, 0)) for place in laid)
    tail = container.end_records(len(laid), end, size)
    fields = {
        "file_size": end + size + len(tail), "manifest_offset": where.data, "manifest_size": where.size,
        "manifest_sha256": hashlib.sha256(text).digest(), "targets": ("cpu-base",) if targets is None else targets,
    }  # fmt: skip
    files["tsb.header"] = container.Header(**{**fields, **header}).pack()
    crc = {name: zlib.crc32(data) for name, data in files.items()}
    parts = [container.padded_local_header(p, crc[p.name]) + files[p.name] for p in laid]
    return b"".join([*parts, *(container.central(p, crc[p.name]) for p in laid), tail])


def files() -> dict[str, bytes]:
    return {name: entry_data(name) for name in places() if name not in ("tsb.header", "manifest.json")}


def value() -> Json:
    return json.loads(entry_data("manifest.json"))


def spell(document: Json) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def with_manifest(change: Callable[[Json], None]) -> bytes:
    document = value()
    change(document)
    return rebuild(files(), spell(document))


def patched(offset: int, new: bytes) -> bytes:
    data = bytearray(bundle_bytes())
    data[offset : offset + len(new)] = new
    return bytes(data)
