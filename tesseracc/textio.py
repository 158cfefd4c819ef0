"""Files of the compiler: text in and out, arrays beside IR text. Writing is atomic: a temporary file, then a rename."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tessera_runtime.core.errors import TesseraError, UsageError
from tessera_runtime.core.files import read_bytes, write_atomic

CONSTANTS_LIMIT = 1 << 40  # bytes
Array = np.ndarray[Any, Any]


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a whole file or nothing. Raises E803."""
    write_atomic(os.fspath(path), data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a whole text file or nothing; what UTF-8 has no code for (bytes of a file's name) is escaped. E803."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def load_constants(path: str) -> dict[str, Array]:
    """The named arrays of a module, from a safetensors file. Raises E802."""
    return parse_constants(read_bytes(path, CONSTANTS_LIMIT, regular=True), path)


def parse_constants(data: bytes, path: str) -> dict[str, Array]:
    """The arrays in the bytes of a safetensors file. Raises E802."""
    from tessera_runtime.core.safetensors import load

    try:
        return dict(load(data))
    except TesseraError as error:
        raise UsageError("E802", f"'{path}' is no safetensors file: {error.message}") from None


def constants_bytes(constants: Mapping[str, Array]) -> bytes:
    """A safetensors file of the named arrays."""
    from tessera_runtime.core.safetensors import save

    return save(constants)
