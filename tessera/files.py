"""Reading tensors from files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tessera.errors import SourceError, TesseraError, user_span
from tessera.tensor import EagerTensor
from tessera_runtime.core import safetensors
from tessera_runtime.core.dtypes import dtype_of

__all__ = ["load"]


def load(path: str | os.PathLike[str]) -> Any:
    """The tensor in a `.npy` file, or a dict of the tensors in a `.safetensors` or `.npz` file, by name.

    A relative path starts at the calling file's folder, else at the working one. Raises TesseraError E802 when the file
    cannot be read, E640 or E712 when it is malformed.
    """
    file = Path(path)
    caller = user_span()
    if not file.is_absolute() and caller is not None and (Path(caller.file).parent / file).exists():
        file = Path(caller.file).parent / file
    try:
        data = file.read_bytes()
    except OSError as err:
        raise SourceError("E802", f"cannot read {path}: {err.strerror or err}", span=caller,
                          help="a relative path starts at the folder of the file that calls ts.load") from None
    suffix = file.suffix.lower()
    try:
        if suffix == ".safetensors":
            return {name: EagerTensor(array) for name, array in sorted(safetensors.load(data).items())}
        if suffix in (".npy", ".npz"):
            loaded = np.load(file, allow_pickle=False)
            if suffix == ".npy":
                return _tensor(loaded)
            with loaded:
                return {name: _tensor(loaded[name]) for name in sorted(loaded.files)}
    except TesseraError as err:
        raise SourceError(err.code, f"{path}: {err.message}", help=err.help, span=caller) from None
    except (ValueError, OSError, EOFError, KeyError) as err:
        raise SourceError("E712", f"{path} is not a well-formed {suffix} file: {err}", span=caller) from None
    raise SourceError("E712", f"{path} has no known kind of file", help="use .npy, .npz or .safetensors", span=caller)


def _tensor(array: Any) -> EagerTensor:
    dtype_of(array.dtype)
    return EagerTensor(np.ascontiguousarray(array).reshape(array.shape))
