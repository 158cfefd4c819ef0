"""Loads, verifies and runs Tessera bundles. Needs NumPy; no compiler, no LLVM."""

from __future__ import annotations

from tessera_runtime.core.errors import BundleError, DeviceError, InputError, TesseraError, UsageError

__version__ = "0.1.0"

__all__ = ["BundleError", "DeviceError", "InputError", "TesseraError", "UsageError", "__version__"]
