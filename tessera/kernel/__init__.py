"""The kernel language: Python functions that describe what the lanes of a group do.

`parse` reads a function's source into a typed tree (`tree.KernelDef`); `evaluate` runs the tree with NumPy, which is
the meaning of the language. specs/kernel.md is the language's definition.

`ts.kernel` is both the decorator and this package: importing a package binds its name in the parent, over the
decorator. So the package can be called, as the decorator.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from tessera.kernel.evaluate import evaluate
from tessera.kernel.parse import parse, specialise
from tessera.kernel.report import KernelErrors
from tessera.kernel.tree import KernelDef, Note

__all__ = ["KernelDef", "KernelErrors", "Note", "evaluate", "parse", "specialise"]


class _Decorator(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from tessera import decorators

        return decorators.kernel(*args, **kwargs)

    @property
    def autotune(self) -> Any:
        from tessera import decorators

        return decorators.kernel.autotune


sys.modules[__name__].__class__ = _Decorator
