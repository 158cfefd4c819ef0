"""Measuring the legal points of a kernel on a device of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.decorators import Kernel
from tessera.kernel import KernelDef
from tessera.shapes import substitute
from tessera_runtime.core.errors import UsageError
from tesseracc.arch.arch import Arch
from tesseracc.tuning.record import Record
from tesseracc.tuning.space import Point, points

__all__ = ["Measured", "measure"]

_REPEATS = 5


@dataclass(frozen=True)
class Measured:
    """Points with their seconds (None: illegal), and the record of the fastest."""

    rows: tuple[tuple[Point, float | None], ...]
    record: Record


def measure(kernel: Kernel, arch: Arch, sizes: Mapping[str, int], run: Callable[[KernelDef], Callable[..., Any]],
            tell: Callable[[str], None] = lambda _: None) -> Measured:
    """Times every legal point at `sizes`, the best of some calls with the same random inputs; `run` compiles a kernel
    to a callable. Raises E801 for a dim without size and a space without a legal point."""
    missing = [name for name in kernel.definition.symbols if name not in sizes]
    if missing:
        raise UsageError("E801", f"`{kernel.name}` needs a size for `{missing[0]}`", help="give --sizes M=512,N=512")
    rows: list[tuple[Point, float | None]] = []
    for point in points(kernel, arch, {name: sizes[name] for name in kernel.definition.open}):
        seconds = None
        if point.kernel is not None:
            tell(str(dict(point.config)))
            seconds = _time(run(point.kernel), _inputs(point.kernel, sizes))
        rows.append((point, seconds))
    timed = [(seconds, point) for point, seconds in rows if seconds is not None]
    if not timed:
        raise UsageError("E801", f"no point of the space of `{kernel.name}` is legal on {arch.name}",
                         help=rows[0][0].reason if rows else "it has no space")  # fmt: skip
    best, point = min(timed, key=lambda item: item[0])
    own = {name: sizes[name] for name in kernel.definition.symbols}
    return Measured(tuple(rows), Record(kernel.name, arch.name, own, dict(point.config), best))


def _inputs(kernel: KernelDef, sizes: Mapping[str, int]) -> list[Any]:
    rng = np.random.default_rng(0)
    found: list[Any] = []
    for param in kernel.params:
        if param.buffer is not None:
            shape = [d if isinstance(d, int) else substitute(d, dict(sizes)) for d in param.buffer.dims]
            numbers = rng.standard_normal([int(str(extent)) for extent in shape])
            dtype = param.buffer.dtype
            found.append(numbers.astype(dtype.numpy) if dtype.is_float else np.abs(numbers * 4).astype(dtype.numpy))
        elif param.var is not None:
            found.append(1)
    return found


def _time(call: Callable[..., Any], inputs: list[Any]) -> float:
    call(*inputs)  # loads the code, and warms the caches
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call(*inputs)
        best = min(best, time.perf_counter() - start)
    return best
