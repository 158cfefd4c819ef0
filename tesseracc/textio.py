"""Files of the compiler: text in and out, arrays beside IR text. Writing is atomic: a temporary file, then a rename."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tessera_runtime.core.errors import UsageError
from tessera_runtime.core.files import write_atomic

Array = np.ndarray[Any, Any]


def read_text(path: str) -> str:
    """The text of a file, or of stdin for `-`. Raises E802."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError("E802", f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError("E802", f"{path} is not UTF-8 text") from None


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a whole file or nothing. Raises E803."""
    write_atomic(os.fspath(path), data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a whole text file or nothing. Raises E803."""
    write_bytes(path, text.encode())


def load_constants(path: Path) -> dict[str, Array]:
    """The named arrays of a module, from a safetensors file. Raises E802, E640."""
    from tessera_runtime.core.safetensors import load

    try:
        return dict(load(path.read_bytes()))
    except OSError as error:
        raise UsageError("E802", f"cannot read {path}: {error.strerror or error}") from None


def constants_bytes(constants: Mapping[str, Array]) -> bytes:
    """A safetensors file of the named arrays."""
    from tessera_runtime.core.safetensors import save

    return save(constants)
