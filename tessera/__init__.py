"""Tessera: a tile-first language. Importing it needs NumPy only; functions run eagerly until they are compiled."""

from __future__ import annotations

__version__ = "0.1.0"
