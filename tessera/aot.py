"""`ts.aot`: compiling ahead of time from Python.

    ts.aot.compile(model, example_inputs=[x, w], output_path="deployment/", target_archs=["sm_80", "sm_90", "cpu"])
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tessera.errors import SourceError

__all__ = ["compile"]


def compile(
    fn: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any],
    output_path: str | os.PathLike[str],
    target_archs: str | Sequence[str] | None = None,
    *,
    embed_tests: bool = False,
) -> str:
    """Compile a function, a kernel, or either in `ts.jit`, to a bundle for all of `target_archs`; returns its path.

    `output_path` is the bundle's file, or a folder when it ends in `/`: the bundle there has the function's name and
    the suffix .tsb. `example_inputs`, in order or by name, give the types of parameters without annotation, with their
    sizes, and the values of parameters that are not tensors; declared dims stay symbolic. One target may be a string;
    the default targets are those of `tesseracc build`, whose bytes these are for the same file, entry and input specs.
    No GPU is needed. Its warnings (W2xx, W5xx, W807) are Python's, of the category `ts.TesseraWarning`, at the user's
    line.

    Raises SourceError for the function (E1xx to E4xx; E318 without the compiler), TesseraError E5xx of the toolchain,
    E803, E805.
    """
    try:
        from tesseracc import aot
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("tesseracc"):
            raise
        raise SourceError(
            "E318", "aot.compile needs the compiler, which is not installed", help="install the package tesseracc"
        ) from None
    return aot.compile(fn, example_inputs, output_path, target_archs, embed_tests=embed_tests)
