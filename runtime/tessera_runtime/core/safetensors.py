"""A strict reader and a deterministic writer of the safetensors format.

Layout: u64 little-endian header length, that many bytes of JSON, then the tensors' bytes. Strictness beyond syntax:
no duplicate keys, the tensors tile the data area exactly in some order, sizes equal shape times item size.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tessera_runtime.core.dtypes import DTYPES, accepts, dtype_of, np_dtype, storage_dtype
from tessera_runtime.core.errors import BundleError
from tessera_runtime.core.schema import is_bounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_HEADER", "TensorEntry", "load", "parse_header", "save"]

MAX_HEADER = 100 << 20
_MAX_RANK = 32
_BY_CODE = {entry.safetensors: name for name, entry in DTYPES.items()}


class TensorEntry(NamedTuple):
    """One tensor of a file: element type, shape, and its byte range from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def _bad(message: str) -> BundleError:
    return BundleError("E640", f"safetensors: {message}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _bad("duplicate key in the header")
    return result


def parse_header(data: bytes | memoryview, total: int | None = None) -> dict[str, TensorEntry]:
    """The tensors of a file, in the order of their bytes. `data` is the whole file, or its beginning with the header if
    `total` tells the file's bytes. E640 on any defect."""
    total = len(data) if total is None else total
    if min(total, len(data)) < 8:
        raise _bad("file shorter than its length field")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(MAX_HEADER, total - 8):
        raise _bad(f"header of {length} bytes does not fit the file")
    raw = bytes(data[8 : 8 + length])
    if len(raw) != length:
        raise _bad("file ends within its header")
    if not raw.startswith(b"{"):
        raise _bad("header does not start with '{'")
    if not is_bounded(raw):
        raise _bad("header is too deep, has too many values, or a number that is too long")
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _bad("header is not JSON") from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _bad("__metadata__ is not a table of strings")
    base = 8 + length
    entries = {name: _entry(name, value, base) for name, value in header.items()}
    ordered = sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop, item[0]))
    position = base
    for name, entry in ordered:
        if entry.start != position:
            raise _bad(f"tensor {name!r} leaves a gap or overlaps another")
        position = entry.stop
    if position != total:
        raise _bad(f"tensors end at byte {position} of {total}")
    return dict(ordered)


def _entry(name: str, value: object, base: int) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _bad(f"tensor {name!r} does not have exactly dtype, shape, data_offsets")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _BY_CODE:
        raise _bad(f"tensor {name!r} has the unknown dtype {code!r}")
    if not _is_sizes(shape) or len(shape) > _MAX_RANK or not _is_sizes(offsets) or len(offsets) != 2:
        raise _bad(f"tensor {name!r} has a malformed shape or range")
    size = DTYPES[_BY_CODE[code]].itemsize
    for extent in shape:
        size *= extent
        if size >= 1 << 63:
            raise _bad(f"tensor {name!r} is too large")
    start, stop = offsets
    if stop - start != size:
        raise _bad(f"tensor {name!r} has {stop - start} bytes where its shape needs {size}")
    return TensorEntry(_BY_CODE[code], tuple(shape), base + start, base + stop)


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def load(data: bytes | memoryview) -> dict[str, NDArray[Any]]:
    """The tensors of a file as arrays that share its memory (read-only for bytes)."""
    import numpy as np

    result: dict[str, NDArray[Any]] = {}
    for name, entry in parse_header(data).items():
        raw = np.frombuffer(data, dtype=np.uint8, count=entry.stop - entry.start, offset=entry.start)
        try:
            array = raw.view(np_dtype(entry.dtype))
        except ValueError:  # not aligned to the item size in the caller's buffer
            array = raw.copy().view(np_dtype(entry.dtype))
        result[name] = array.reshape(entry.shape)
    return result


def save(tensors: Mapping[str, NDArray[Any]], dtypes: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a file holding `tensors`, sorted by falling item size, then name, so that each one is aligned.

    `dtypes` names the element type of arrays held as raw integers (bf16 as uint16).
    """
    import numpy as np

    named = {}
    for name, array in tensors.items():
        kind = dtypes[name] if dtypes is not None and name in dtypes else dtype_of(array.dtype)
        if not (accepts(kind, array.dtype) or array.dtype == storage_dtype(kind)):
            raise BundleError("E640", f"safetensors: tensor {name!r} of {array.dtype} cannot be written as {kind}")
        named[name] = (kind, np.ascontiguousarray(array).reshape(array.shape))
    header: dict[str, object] = {}
    parts: list[bytes] = []
    offset = 0
    for name in sorted(named, key=lambda n: (-DTYPES[named[n][0]].itemsize, n)):
        kind, array = named[name]
        header[name] = {
            "dtype": DTYPES[kind].safetensors,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        parts.append(array.tobytes())
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)
