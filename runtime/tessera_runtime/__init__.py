"""Loads, verifies and runs Tessera bundles. Needs NumPy; no compiler, no LLVM.

import tessera_runtime
bundle = tessera_runtime.load("m.tsb", device="cpu")
y = bundle["f"](x)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tessera_runtime.core.errors import BundleError, DeviceError, InputError, TesseraError, UsageError

if TYPE_CHECKING:
    from tessera_runtime.api import Bundle, BundleFunction, load
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
    """What needs NumPy is imported when first used, so that `tessera_runtime.core` alone stays cheap to import."""
    if name in ("Bundle", "BundleFunction", "load"):
        from tessera_runtime import api

        return getattr(api, name)
    if name in ("Exported", "from_dlpack"):
        from tessera_runtime import dlpack

        return getattr(dlpack, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
