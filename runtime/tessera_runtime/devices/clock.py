"""How fast this CPU's clock runs: a loop of one cycle per iteration, timed.

On every CPU that the runtime knows, the loop's two instructions depend on each other in a chain of one cycle, and its
branch is taken at most once per cycle.
"""

from __future__ import annotations

import ctypes
import time

from tessera_runtime.core.errors import DeviceError
from tessera_runtime.devices.elf import Executable

__all__ = ["cycles_per_second"]

_LOOPS = {
    "x86-64": bytes.fromhex("48ffcf75fbc3"),  # dec rdi; jnz -5; ret
    "aarch64": bytes.fromhex("000400f1e1ffff54c0035fd6"),  # subs x0, x0, 1; b.ne -4; ret
}
_ITERATIONS = 1 << 20  # a third of a millisecond


def cycles_per_second(machine: str) -> float | None:
    """The clock of the core that this thread is on, in Hz; None where it cannot be measured."""
    if machine not in _LOOPS:
        return None
    try:
        memory = Executable(_LOOPS[machine], machine)
    except DeviceError:
        return None
    loop = ctypes.CFUNCTYPE(None, ctypes.c_int64)(memory.base)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        loop(_ITERATIONS)
        best = min(best, time.perf_counter() - start)
    return _ITERATIONS / best
