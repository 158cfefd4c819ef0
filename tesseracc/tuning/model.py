"""The time that a point takes, estimated: what decides where nothing was measured.

With g groups, and for one group F operations at rate R (of the matrix unit for products, else of f32), W bytes to and
from global memory, and N iterations of its loops, on a chip of U units with bandwidth B:

    o = min(blocks_per_sm, threads_per_sm / lanes, shared_per_sm / shared, registers_per_sm / registers)   (1 on a CPU)
    compute = o sum(F / R) U,   memory = o W U / (2.5 B),   latency = N * 1 us, a quarter with asynchronous copies
    t = ceil(g / (U o)) * (max(compute, memory, latency) + waits)

Copies run ahead of a loop where shared memory has room for what two of its iterations read, beside what the kernel
allocates. Where it has not, a group waits for the whole latency of each iteration besides, 1 us / o: others compute.

Rates are those of the target's description, R and B of the whole chip. On a CPU groups run one after the other on a
core, and compute is multiplied by 1, 2 or 4 as the tiles of a group fit into L1, into L2, or into neither. A dim
without number counts as 4096. Only the order of estimates counts; equal ones keep the order of the space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tessera.dtypes import DType
from tessera.kernel import KernelDef
from tessera.kernel.tree import (
    Assign,
    AtomicTile,
    Const,
    Copy,
    DimValue,
    Expr,
    For,
    LoadTile,
    Mma,
    Stmt,
    StoreTile,
    TileType,
    Window,
    walk,
    walk_exprs,
)
from tessera.shapes import Dim, substitute
from tesseracc.arch.arch import Arch
from tesseracc.tuning.products import CACHES, FEWEST, LATENCY, NOMINAL
from tesseracc.tuning.space import shared_bytes

__all__ = ["NOMINAL", "estimate"]

_BASE_REGISTERS = 32  # addresses, counters and operands of a thread


@dataclass
class _Cost:
    """Of one group."""

    seconds: float = 0.0  # of compute, at the rate of the whole chip
    bytes: float = 0.0
    iterations: float = 0.0
    waits: float = 0.0  # of these, without copies ahead


def estimate(kernel: KernelDef, arch: Arch, sizes: Mapping[str, int] | None = None) -> float:
    """Seconds; `sizes` gives dims numbers."""
    env: dict[str, Dim] = dict.fromkeys(kernel.symbols, NOMINAL)
    env.update(dict(kernel.fixed) | dict(sizes or {}))
    cost = _Cost()
    _add(kernel.body, 1.0, cost, kernel, arch, env)
    groups = math.prod(_number(extent, env) for extent in kernel.grid)
    rates = arch.throughput
    bandwidth = rates.dram_gbytes_per_s * 1e9
    if arch.kind == "cpu":
        memory = cost.bytes / bandwidth if bandwidth else 0.0
        return groups * max(cost.seconds * _cache_factor(kernel, arch), memory)
    resident = occupancy(kernel, arch)
    units = max(1, rates.units)
    compute = resident * cost.seconds * units
    memory = resident * cost.bytes * units / (CACHES * bandwidth) if bandwidth else 0.0
    ahead = arch.has("cp_async")
    waits = cost.waits * LATENCY / resident if ahead else 0.0
    latency = cost.iterations * LATENCY / (FEWEST if ahead else 1)
    return math.ceil(groups / (units * resident)) * (max(compute, memory, latency) + waits)


def occupancy(kernel: KernelDef, arch: Arch) -> int:
    """Groups that a multiprocessor holds at once."""
    limits = arch.limits
    registers = min(_BASE_REGISTERS + _tile_bytes(kernel) // (4 * kernel.group), limits.registers_per_thread)
    shared = shared_bytes(kernel) + limits.shared_reserved
    found = [limits.blocks_per_sm, limits.threads_per_sm // kernel.group]
    if shared:
        found.append(limits.shared_per_sm // shared)
    if limits.registers_per_sm:
        found.append(limits.registers_per_sm // (registers * kernel.group))
    return max(1, min(found))


def _tile_bytes(kernel: KernelDef) -> int:
    """Bytes of the tiles that a group keeps in variables."""
    kept = {stmt.var for stmt in walk(kernel.body) if isinstance(stmt, Assign)}
    types = [var.type for var in kept if isinstance(var.type, TileType)]
    return sum(math.prod(_number(e, {}) for e in t.shape) * t.dtype.itemsize for t in types)


def _cache_factor(kernel: KernelDef, arch: Arch) -> int:
    size = _tile_bytes(kernel) + shared_bytes(kernel)
    return 1 if size <= arch.memory("l1").bytes else 2 if size <= arch.memory("l2").bytes else 4


def _number(dim: Dim, env: Mapping[str, Dim]) -> int:
    value = substitute(dim, env) if not isinstance(dim, int) else dim
    return value if isinstance(value, int) else NOMINAL


def _add(body: tuple[Stmt, ...], times: float, cost: _Cost, kernel: KernelDef, arch: Arch,
         env: Mapping[str, Dim]) -> None:
    for stmt in body:
        if isinstance(stmt, For):
            trips = _trips(stmt, env) * times
            cost.iterations += trips
            if not _runs_ahead(stmt, kernel, arch, env):
                cost.waits += trips
            _add(stmt.body, trips, cost, kernel, arch, env)
            continue
        for expr in walk_exprs((stmt,)):
            cost.seconds += times * _seconds(expr, arch, env)
        cost.bytes += times * sum(_bytes(w, env) for w in _windows(stmt))


def _runs_ahead(loop: For, kernel: KernelDef, arch: Arch, env: Mapping[str, Dim]) -> bool:
    """Whether two iterations of what a loop reads fit into shared memory; of loops in it, it is they that run ahead."""
    reads = (window for stmt in loop.body if not isinstance(stmt, For) for window in _reads(stmt))
    ring = 2 * sum(_bytes(window, env) for window in reads)
    return shared_bytes(kernel) + ring <= arch.limits.shared_per_block


def _trips(loop: For, env: Mapping[str, Dim]) -> float:
    """Iterations; a bound that no number is known of counts as the nominal size."""
    lo, hi, step = (_value(e, env) for e in (loop.lo, loop.hi, loop.step))
    return max(0, -(-((NOMINAL if hi is None else hi) - (lo or 0)) // max(1, step or 1)))


def _value(expr: Expr, env: Mapping[str, Dim]) -> int | None:
    match expr:
        case Const(value):
            return int(value)
        case DimValue(dim):
            return _number(dim, env)
    return None


def _windows(stmt: Stmt) -> Iterator[Window]:
    yield from _reads(stmt)
    if isinstance(stmt, (StoreTile, AtomicTile)):
        yield stmt.window


def _reads(stmt: Stmt) -> Iterator[Window]:
    if isinstance(stmt, Copy):
        yield stmt.src
    for expr in walk_exprs((stmt,)):
        if isinstance(expr, LoadTile):
            yield expr.window


def _bytes(window: Window, env: Mapping[str, Dim]) -> float:
    if window.buffer.space != "global":
        return 0.0
    return math.prod(_number(e, env) for e in window.shape) * window.buffer.dtype.itemsize


def _seconds(expr: Expr, arch: Arch, env: Mapping[str, Dim]) -> float:
    """Of one operation on tiles at the rate of the whole chip."""
    if isinstance(expr, Mma):
        a, b = (tuple(_number(e, env) for e in operand.type.shape) for operand in (expr.a, expr.b))  # type: ignore[union-attr]
        return 2 * math.prod(a) * b[-1] / _rate(arch, expr.a.type.dtype, True)
    if isinstance(expr.type, TileType) and not isinstance(expr, LoadTile):
        return math.prod(_number(e, env) for e in expr.type.shape) / _rate(arch, expr.type.dtype, False)
    return 0.0


def _rate(arch: Arch, dtype: DType, product: bool) -> float:
    """Operations per second: of the matrix unit for products where the type has one, else of the type, else of f32."""
    known = arch.throughput.tflops
    names = ([f"mma.{dtype.name}"] if product else []) + [dtype.name, "f32"]
    return 1e12 * next((known[name] for name in names if name in known), 1.0)
