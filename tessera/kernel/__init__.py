"""The kernel language: Python functions that describe what the lanes of a group do.

`parse` reads a function's source into a typed tree (`tree.KernelDef`); `evaluate` runs the tree with NumPy, which is
the meaning of the language. specs/kernel.md is the language's definition.
"""

from __future__ import annotations

from tessera.kernel.evaluate import evaluate
from tessera.kernel.parse import parse
from tessera.kernel.report import KernelErrors
from tessera.kernel.tree import KernelDef, Note

__all__ = ["KernelDef", "KernelErrors", "Note", "evaluate", "parse"]
