"""Places of the user's source, as IR and bundles name them."""

from __future__ import annotations

import os
from dataclasses import replace

from tessera.errors import Span
from tesseracc.ir.value import Loc

__all__ = ["location", "near"]


def location(span: Span, root: str | None) -> Loc:
    """The place with its file relative to the module's folder `root`; only the name of one that lies elsewhere.

    So a bundle does not tell where its source lay, and is the same wherever it lies.
    """
    place = near(span, root)
    outside = root is None or place.file.startswith("../")
    return replace(place, file=os.path.basename(span.file)) if outside else place


def near(span: Span, root: str | None) -> Loc:
    """The place for messages: its file relative to the module's folder, wherever it lies."""
    file = os.path.relpath(span.file, root or None) if root is not None else os.path.basename(span.file)
    same_line = span.end_line == span.line
    return Loc(file.replace(os.sep, "/"), span.line, span.col, span.end_col if same_line else 0)
