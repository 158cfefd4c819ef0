"""Weights outside: a bundle without its weights, and the files that hold them, which several bundles may share.

The manifest stays as it is, and with it the content digest and what signatures are of. `strip` makes it whole again.
"""

from __future__ import annotations

import os
from pathlib import Path

from tessera_runtime.bundle import BundleFile, weights_file
from tessera_runtime.core import container
from tessera_runtime.core.errors import UsageError
from tessera_runtime.core.files import is_file_name, write_atomic
from tesseracc.bundle.pack import pack

__all__ = ["detached", "write_detached"]


def detached(file: BundleFile) -> tuple[bytes, dict[str, memoryview]]:
    """The bundle without its weights, and these by the name of their file. Signatures stay."""
    entries = file.manifest.entries
    inside = (container.MANIFEST_NAME, *(entry.name for entry in entries if entry.kind != "weights"))
    outside = {weights_file(entry): file.raw(entry.name) for entry in entries if entry.kind == "weights"}
    signatures = b"".join(key + value for key, value in file.signatures)
    names = [target.name for target in file.manifest.targets]
    data = b"".join(pack({name: file.raw(name) for name in inside}, names, signatures, bool(outside)))
    return data, outside


def write_detached(path: str | os.PathLike[str], file: BundleFile) -> list[str]:
    """Writes both beside each other, the weights first, unless they are there already; returns their names. E803."""
    if not is_file_name(os.fspath(path)):
        raise UsageError("E803", f"cannot write '{os.fspath(path)}': weights go beside a file")
    data, outside = detached(file)
    for name, weights in outside.items():
        target = Path(os.path.realpath(path)).parent / name
        if not (target.is_file() and target.stat().st_size == len(weights) and target.read_bytes() == weights):
            write_atomic(str(target), [weights])
    write_atomic(os.fspath(path), data)
    return sorted(outside)
