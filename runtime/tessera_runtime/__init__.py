"""Loads, verifies and runs Tessera bundles. Needs NumPy; no compiler, no LLVM.

import tessera_runtime
bundle = tessera_runtime.load("m.tsb", device="cpu")
y = bundle["f"](x)
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it: the entry point imports this, and as little as can be with it

if TYPE_CHECKING:
    from typing import Any

    from tessera_runtime.api import Bundle, BundleFunction, load
    from tessera_runtime.core.errors import BundleError, DeviceError, InputError, TesseraError, UsageError
    from tessera_runtime.dlpack import Exported, from_dlpack

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "BundleFunction",
    "DeviceError",
    "Exported",
    "InputError",
    "TesseraError",
    "UsageError",
    "__version__",
    "from_dlpack",
    "load",
]


def __getattr__(name: str) -> Any:
    """All is imported when first used: `tessera_runtime.core` alone stays cheap to import, and needs no NumPy."""
    if name in ("Bundle", "BundleFunction", "load"):
        from tessera_runtime import api

        return getattr(api, name)
    if name in ("Exported", "from_dlpack"):
        from tessera_runtime import dlpack

        return getattr(dlpack, name)
    if name in ("BundleError", "DeviceError", "InputError", "TesseraError", "UsageError"):
        from tessera_runtime.core import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
