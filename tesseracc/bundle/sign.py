"""Adding signatures to a bundle. The manifest and all it covers, and so the content digest, stay as they are."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import ed25519
from tessera_runtime.core.errors import TesseraError, UsageError
from tessera_runtime.core.files import is_file_name
from tessera_runtime.signature import Signature, message
from tesseracc.bundle.pack import Data, pack

__all__ = ["attach", "check_kept", "make"]


def make(digest: str, seed: bytes) -> Signature:
    """The signature of a content digest (hexadecimal) under a private key (32 bytes)."""
    return Signature(ed25519.public_key(seed), ed25519.sign(seed, message(digest)))


def check_kept(path: str, digest: str, keys: Collection[bytes]) -> None:
    """E803 where the file at `path` is the bundle of that digest, signed by somebody else than `keys` as well."""
    try:
        if not os.path.isfile(path) or not is_file_name(path):
            return
        there = BundleFile(path)
    except TesseraError:  # no bundle, which has nothing to lose
        return
    lost = sorted({signature.key for signature in there.signatures} - {*keys}) if there.digest == digest else []
    if lost:
        raise UsageError(
            "E803", f"cannot write '{path}': it is this bundle, and its signature by {lost[0].hex()} would be lost",
            help=f"add signatures to it in place, without -o: tesseracc sign --key .. {path}",
        )  # fmt: skip


def attach(file: BundleFile, signatures: Sequence[Signature]) -> list[Data]:
    """The bundle with exactly these signatures, in pieces that share the file's memory. Detached weights stay so."""
    data = b"".join(key + value for key, value in sorted(signatures))
    names = [target.name for target in file.manifest.targets]
    return pack({name: file.raw(name) for name in file.inside}, names, data, file.header.detached)
