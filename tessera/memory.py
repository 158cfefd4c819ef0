"""`ts.memory`: how much memory tensors, results of compiled functions, their temporaries and devices hold."""

from __future__ import annotations

from tessera_runtime.core import usage
from tessera_runtime.core.usage import reset_peak as reset_peak

__all__ = ["get_memory_usage", "get_peak_memory_usage", "memory_stats", "reset_peak"]

_GB = 1e9


def get_memory_usage() -> float:
    """GB (1e9 bytes) held now: storage of live tensors and results, each once, temporaries kept for later calls, and
    memory on devices. Weights of mapped bundles belong to the file and do not count."""
    return sum(usage.current().values()) / _GB


def get_peak_memory_usage() -> float:
    """The most GB held at one time since the start or `reset_peak()`."""
    return usage.peak() / _GB


def memory_stats() -> dict[str, int]:
    """Bytes held now by kind (arrays, temporaries, device), in all, and at the peak."""
    held = usage.current()
    return {**held, "total": sum(held.values()), "peak": usage.peak()}
