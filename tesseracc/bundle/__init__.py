"""Writing bundles: the container, its manifest and its weights, the same bytes for the same contents."""

from __future__ import annotations

from tesseracc.bundle.pack import pack
from tesseracc.bundle.write import Contents, TestCase, image_entry, write

__all__ = ["Contents", "TestCase", "image_entry", "pack", "write"]
