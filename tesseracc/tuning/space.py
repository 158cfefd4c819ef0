"""The points of an autotune space, and why some of them are illegal for a target.

A point is illegal where the kernel cannot be read with it (the message says why: a group that is no power of two, tiles
that do not fit together), or where what it asks for in its source exceeds a limit of the target: threads of a block,
shared memory of a block (what it allocates, and room for its largest tile to change its layout), registers of a thread
for the largest tile that it keeps, or for a loop of products. Ragged tiles are legal: they are
masked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from tessera.decorators import Kernel
from tessera.errors import SourceError
from tessera.kernel import KernelDef, specialise
from tessera.kernel.tree import Alloc, Assign, For, Mma, TileType, Var, walk, walk_exprs
from tesseracc.arch.arch import Arch

__all__ = ["Point", "points", "spell"]

Config = Mapping[str, int]
#: registers of a loop beside its tiles: addresses, counters, operands on their way; fewer where these stay in place
OTHER = {False: 56, True: 40}


@dataclass(frozen=True)
class Point:
    """A configuration; the kernel as read with it, or the reason why it is illegal."""

    config: Config
    kernel: KernelDef | None
    reason: str = ""


def spell(config: Config) -> str:
    """`BM=64, BN=128`."""
    return ", ".join(f"{name}={value}" for name, value in config.items())


def points(kernel: Kernel, arch: Arch, fixed: Mapping[str, int] | None = None) -> list[Point]:
    """All points in the order in which the space lists them; `fixed` gives dims numbers."""
    definition = kernel.definition  # what is wrong with the kernel for every point is an error, not a reason
    dims = {name: size for name, size in (fixed or {}).items() if name in definition.symbols}
    found = []
    for values in itertools.product(*kernel.space.values()):
        config = dict(zip(kernel.space, values, strict=True))
        wrong = [name for name, v in config.items() if isinstance(v, bool) or not isinstance(v, int) or v < 1]
        if wrong:
            found.append(Point(config, None, f"{wrong[0]} is not a positive integer"))
            continue
        try:
            read = specialise(definition, config=config, dims=dims)
        except SourceError as error:
            found.append(Point(config, None, error.message))
            continue
        reason = _excess(read, arch)
        found.append(Point(config, None if reason else read, reason))
    return found


def elements(type_: TileType) -> int | None:
    """Elements of a tile; None where an extent has no number."""
    return math.prod(e for e in type_.shape if isinstance(e, int)) if _known(type_.shape) else None


def shared_bytes(kernel: KernelDef) -> int:
    """What the kernel's source allocates of shared memory, as far as extents are numbers."""
    buffers = [stmt.buffer for stmt in walk(kernel.body) if isinstance(stmt, Alloc)]
    return sum(math.prod(b.dims) * b.dtype.itemsize for b in buffers if _known(b.dims))  # type: ignore[misc]


def tile_registers(kernel: KernelDef) -> int:
    """Registers of 32 bits, per lane, of the largest tile that the kernel keeps in a variable."""
    return -(-_largest_tile(kernel) // (4 * kernel.group))


def loop_registers(kernel: KernelDef, arch: Arch) -> int:
    """Registers, per lane, of a loop with products: what it carries, and others; 0 where there is none.

    Of several products one takes what is made of another's result: the largest tile that an iteration makes is there
    twice while it is worked on, and once more in half the size as an operand.
    """
    most = 0
    outside: set[Var] = set()
    for stmt in walk(kernel.body):
        if isinstance(stmt, Assign):
            outside.add(stmt.var)
        if not isinstance(stmt, For):
            continue
        products = sum(isinstance(expr, Mma) for expr in walk_exprs(stmt.body))
        made = {inner.var for inner in walk(stmt.body) if isinstance(inner, Assign)}
        carried = sum(_bytes(var) for var in made & outside)
        worked_on = max((_bytes(var) for var in made - outside), default=0) if products > 1 else 0
        if products:
            most = max(most, (carried + 5 * worked_on // 2) // (4 * kernel.group) + OTHER[arch.has("wgmma")])
    return most


def _bytes(var: Var) -> int:
    type_ = var.type
    return (elements(type_) or 0) * type_.dtype.itemsize if isinstance(type_, TileType) else 0


def _largest_tile(kernel: KernelDef) -> int:
    """Bytes of the largest tile in a variable. Shared memory has to have room for it where its layout changes."""
    types = {stmt.var.type for stmt in walk(kernel.body) if isinstance(stmt, Assign)}
    sizes = [n * t.dtype.itemsize for t in types if isinstance(t, TileType) and (n := elements(t)) is not None]
    return max(sizes, default=0)


def _known(extents: tuple[object, ...]) -> bool:
    return all(isinstance(e, int) for e in extents)


def _excess(kernel: KernelDef, arch: Arch) -> str:
    limits = arch.limits
    if kernel.group > limits.threads_per_block:
        return f"{kernel.group} threads in a group, {arch.name} has {limits.threads_per_block}"
    if (shared := shared_bytes(kernel) + _largest_tile(kernel)) > limits.shared_per_block:
        return f"{shared} bytes of shared memory with its largest tile, {arch.name} has {limits.shared_per_block}"
    if arch.kind == "cuda" and (registers := tile_registers(kernel)) > limits.registers_per_thread:
        return f"a tile takes {registers} registers of each thread, {arch.name} has {limits.registers_per_thread}"
    if arch.kind == "cuda" and (registers := loop_registers(kernel, arch)) > limits.registers_per_thread:
        return f"a loop takes about {registers} registers of each thread, {arch.name} has {limits.registers_per_thread}"
    return ""
