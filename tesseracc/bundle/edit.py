"""Taking bundles apart and putting them together: manifests changed field by field, entries as they are."""

from __future__ import annotations

from typing import TypeVar

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.schema import Record

__all__ = ["changed", "payloads"]

R = TypeVar("R", bound=Record)


def changed(record: R, **fields: object) -> R:
    """The record with other values in some fields."""
    return type(record)(**({name: getattr(record, name) for name in record.codecs()} | fields))


def payloads(file: BundleFile) -> dict[str, tuple[str, bytes]]:
    """Kind and verified bytes of every entry, by name."""
    return {entry.name: (entry.kind, file.entry(entry.name)) for entry in file.manifest.entries}
