"""Linear layouts over GF(2): where elements of a tile lie in registers and shared memory. See specs/layouts.md."""

from __future__ import annotations

from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.text import parse_layout

__all__ = ["LinearLayout", "parse_layout"]
