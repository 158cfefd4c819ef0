"""How many blocks of a kernel a multiprocessor holds at once, before registers are allocated.

    blocks = min(shared memory of the chip's unit / (buffers + what the system takes), threads / (group + producers),
                 registers / ((largest tile of a thread + others) * threads), limit)

The buffers are those that the kernel allocates. Where tiles pass through shared memory on their way out, they do in
parts that leave these blocks their room (`room_of_block`), as long as there are parts of a useful size.
"""

from __future__ import annotations

from tesseracc.arch.arch import Arch
from tesseracc.ir.types import TileType, shared_bytes
from tesseracc.ir.value import Func

__all__ = ["blocks_at_once", "room_of_block"]

#: registers of a thread beside its largest tile, and threads that a block has beside the kernel's: the producers
OTHER_REGISTERS, PRODUCERS = 48, 128


def blocks_at_once(kernel: Func, arch: Arch) -> int:
    """Blocks that a multiprocessor holds, by its shared memory, its threads and its largest tile; at least 1."""
    limits, threads = arch.limits, int(kernel.attrs["group"]) + PRODUCERS
    types = [value.type for op in kernel.walk() for value in op.results]
    shared = sum(map(shared_bytes, types))
    tile = max((type_.nbytes for type_ in types if isinstance(type_, TileType)), default=0)
    registers = min(OTHER_REGISTERS + tile // (4 * int(kernel.attrs["group"])), limits.registers_per_thread)
    return max(1, min(
        limits.shared_per_sm // (shared + limits.shared_reserved + 1), limits.threads_per_sm // threads,
        limits.registers_per_sm // (registers * threads), limits.blocks_per_sm,
    ))  # fmt: skip


def room_of_block(kernel: Func, arch: Arch) -> int:
    """Bytes of shared memory with which a block leaves the others of `blocks_at_once` theirs."""
    limits = arch.limits
    share = limits.shared_per_sm // blocks_at_once(kernel, arch) - limits.shared_reserved
    return min(limits.shared_per_block, share)
