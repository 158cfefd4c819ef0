"""What a launch may ask for: blocks, grids, clusters, memory. Chips differ only in their shared memory."""

from __future__ import annotations

import math

from tessera_runtime.core.errors import TesseraError
from tesseracc.emulator.findings import EmulatorError
from tesseracc.emulator.ptx import Function

__all__ = ["check_memory", "check_shape"]

Dims = tuple[int, int, int]

_GRID: Dims = (2**31 - 1, 65535, 65535)
_BLOCK: Dims = (1024, 1024, 64)
_THREADS = 1024
_CLUSTER = 16
_WARPS = 1 << 24  # of a whole grid: more would run for days, and what is kept for each of them fill the memory
_SHARED_EVERYWHERE = 48 << 10  # every chip has this much for a block
_LOCAL = 512 << 10  # bytes of a thread


def check_shape(kernel: Function, grid: Dims, block: Dims, cluster: Dims) -> None:
    """E942 for dimensions beyond the hardware's or the kernel's own limits."""
    threads = math.prod(block)
    for what, given, most in (("grid", grid, _GRID), ("block", block, _BLOCK)):
        if any(n > limit for n, limit in zip(given, most)):
            raise EmulatorError("E942", f"{what} {given}: at most {most}")
    if threads > _THREADS:
        raise EmulatorError("E942", f"a block of {threads} threads: at most {_THREADS}")
    if kernel.reqntid is not None and kernel.reqntid != block:
        raise EmulatorError("E942", f"`{kernel.name}` requires blocks of {kernel.reqntid}, got {block}")
    if kernel.maxntid is not None and threads > math.prod(kernel.maxntid):
        raise EmulatorError("E942", f"`{kernel.name}` allows {math.prod(kernel.maxntid)} threads, got {threads}")
    if math.prod(cluster) > _CLUSTER:
        raise EmulatorError("E942", f"a cluster of {math.prod(cluster)} CTAs: at most {_CLUSTER}")
    if math.prod(grid) * -(-threads // 32) > _WARPS:
        raise EmulatorError("E942", f"grid {grid} of {threads} threads each: the emulator runs at most {_WARPS} warps")
    for extent, unit in zip(grid, cluster):
        if extent % unit:
            raise EmulatorError("E942", f"grid {grid} is not a multiple of the cluster {cluster}")


def check_memory(target: str, shared: int, local: int) -> None:
    """E942 for more shared memory than a block of the PTX target has, or more local memory than a thread."""
    if local > _LOCAL:
        raise EmulatorError("E942", f"{local} bytes of local memory for each thread: at most {_LOCAL}")
    if shared > _SHARED_EVERYWHERE:
        most = _shared_of(target.split(",")[0])
        if shared > most:
            raise EmulatorError("E942", f"{shared} bytes of shared memory for each block: {target} has {most}")


def _shared_of(target: str) -> int:
    """Bytes of shared memory that a block of a chip can have; the most of all for one that is not described."""
    from tesseracc.arch import load, names

    try:
        return load(target).limits.shared_per_block
    except TesseraError:
        return max(load(name).limits.shared_per_block for name in names())
