"""A bundle's constants as one safetensors entry in which every tensor begins on a multiple of 64 bytes.

safetensors allows no gaps, so the space between tensors is filled by tensors of its own, named `~N`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.dtypes import DTYPES, accepts, dtype_of, storage_dtype
from tessera_runtime.core.errors import BundleError
from tessera_runtime.core.manifest import Constant

__all__ = ["ALIGN", "SOURCES", "SOURCE_PREFIX", "WEIGHTS", "pack_sources", "pack_weights", "sources_of"]

WEIGHTS = "weights.safetensors"
SOURCES = "sources.safetensors"  # the texts that a bundle was built from, where it carries them
SOURCE_PREFIX = "source:"  # of their names as constants
ALIGN = 64


def pack_weights(
    arrays: Mapping[str, NDArray[Any]], dtypes: Mapping[str, str], entry: str = WEIGHTS
) -> tuple[bytes, tuple[Constant, ...]]:
    """The bytes of an entry and where each constant lies in it, both in order of name."""
    header: dict[str, dict[str, object]] = {}
    parts: list[bytes] = []
    spans: list[tuple[str, str, tuple[int, ...], int, int]] = []
    offset = 0
    for name in sorted(arrays):
        array = arrays[name]
        kind = dtypes.get(name) or dtype_of(array.dtype)
        if name.startswith("~") or not (accepts(kind, array.dtype) or array.dtype == storage_dtype(kind)):
            raise BundleError("E640", f"constant {name!r} of {array.dtype} cannot be stored as {kind}")
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": DTYPES[kind].safetensors,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        spans.append((name, kind, tuple(int(n) for n in array.shape), offset, len(data)))
        parts.append(data)
        offset += len(data)
        if gap := -offset % ALIGN:
            header[f"~{len(header)}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [offset, offset + gap]}
            parts.append(bytes(gap))
            offset += gap
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-(8 + len(text)) % ALIGN)
    base = 8 + len(text)
    constants = tuple(
        Constant(name, kind, shape, entry, base + start, size) for name, kind, shape, start, size in spans
    )
    return struct.pack("<Q", len(text)) + text + b"".join(parts), constants


def pack_sources(files: Mapping[str, bytes]) -> tuple[bytes, tuple[Constant, ...]]:
    """Files as an entry of bytes: constants of type u8 that no plan uses."""
    arrays = {SOURCE_PREFIX + name: np.frombuffer(data, np.uint8) for name, data in files.items()}
    return pack_weights(arrays, {}, SOURCES)


def sources_of(file: BundleFile) -> dict[str, bytes]:
    """The files that a bundle carries, by name."""
    return {
        c.name[len(SOURCE_PREFIX) :]: bytes(file.constant(c))
        for c in file.manifest.constants
        if c.entry == SOURCES and c.name.startswith(SOURCE_PREFIX)
    }
