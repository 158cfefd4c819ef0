"""Adding signatures to a bundle. The manifest and all it covers, and so the content digest, stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import ed25519
from tessera_runtime.signature import Signature, message
from tesseracc.bundle.pack import Data, pack

__all__ = ["attach", "make"]


def make(digest: str, seed: bytes) -> Signature:
    """The signature of a content digest (hexadecimal) under a private key (32 bytes)."""
    return Signature(ed25519.public_key(seed), ed25519.sign(seed, message(digest)))


def attach(file: BundleFile, signatures: Sequence[Signature]) -> list[Data]:
    """The bundle with exactly these signatures, in pieces that share the file's memory. Detached weights stay so."""
    data = b"".join(key + value for key, value in sorted(signatures))
    names = [target.name for target in file.manifest.targets]
    return pack({name: file.raw(name) for name in file.inside}, names, data, file.header.detached)
