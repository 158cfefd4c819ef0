"""The container around given entries: header, local headers, padding, directory."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from tessera_runtime.core import container

__all__ = ["Data", "pack"]

Data: TypeAlias = "bytes | memoryview"


def pack(
    files: Mapping[str, Data], targets: Sequence[str], signatures: bytes = b"", detached: bool = False
) -> list[Data]:
    """The file in pieces: `manifest.json` and what it lists, under their names, and the data of `tsb.signatures`.

    `detached`: `files` lacks the weights that the manifest lists. Large entries are not copied: join the pieces, or
    write them one after the other.
    """
    count = len(signatures) // container.SIGNATURE_RECORD
    places, end = container.lay_out(container.in_order({name: len(data) for name, data in files.items()}, count))
    where = {place.name: place for place in places}[container.MANIFEST_NAME]
    # The central directory's size does not depend on the checksums, so the file's size is known before the header.
    directory = sum(len(container.central(place, 0)) for place in places)
    tail = container.end_records(len(places), end, directory)
    digest = hashlib.sha256(files[container.MANIFEST_NAME]).digest()
    header = container.Header(
        end + directory + len(tail), where.data, where.size, digest, tuple(targets), signatures=count, detached=detached
    )
    everything = {**files, container.HEADER_NAME: header.pack(), container.SIGNATURES_NAME: signatures}
    checksums = {place.name: zlib.crc32(everything[place.name]) for place in places}
    parts: list[Data] = []
    for place in places:
        parts.append(container.padded_local_header(place, checksums[place.name]))
        parts.append(everything[place.name])
    parts.extend(container.central(place, checksums[place.name]) for place in places)
    return [*parts, tail]
