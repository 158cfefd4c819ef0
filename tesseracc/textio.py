"""Files of the compiler: text in and out, arrays beside IR text. Writing is atomic: a temporary file, then a rename."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tessera_runtime.core.errors import TesseraError, UsageError
from tessera_runtime.core.files import read_bytes, write_atomic
from tesseracc.ir.types import BufType, TensorType
from tesseracc.ir.value import Module

CONSTANTS_LIMIT = 1 << 40  # bytes
Array = np.ndarray[Any, Any]
_NAMED = ("graph.constant", "schedule.constant", "tile.constant")


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


def with_types(module: Module, *, whole: bool = True) -> Module:
    """The module of a text, its named arrays of the types that the text gives them.

    Raises E802 for an array of another type, and for one that is missing, unless not all are asked for.
    """
    from tessera_runtime.core.dtypes import accepts, from_file

    found = dict(module.constants)
    for op in (op for func in module.funcs for op in func.walk() if op.name in _NAMED):
        name, type_ = op.attrs["name"], op.result.type
        if name not in found:
            if not whole:
                continue
            raise UsageError(
                "E802", f"the text names the array `{name}`, which is in no file",
                help="give it with --constants FILE; --dump-dir writes constants.safetensors beside the text",
            )  # fmt: skip
        if not isinstance(type_, (TensorType, BufType)):
            raise UsageError("E802", f"the array `{name}` cannot be a {type_}, as the text says")
        array = found[name] = from_file(found[name], type_.dtype)
        if array.shape != tuple(type_.dims) or not accepts(type_.dtype, array.dtype):
            given = f"{array.dtype}{list(array.shape)}"
            raise UsageError("E802", f"the array `{name}` is {given}, the text says {type_}")
    return module.with_(constants=found)


def constants_bytes(constants: Mapping[str, Array]) -> bytes:
    """A safetensors file of the named arrays."""
    from tessera_runtime.core.safetensors import save

    return save(constants)
