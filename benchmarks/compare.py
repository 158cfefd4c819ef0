"""Our code beside NumPy on every workload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tessera_runtime
from benchmarks import programs
from benchmarks.timing import interleaved
from benchmarks.workloads import Array, Workload, empty, sized
from tesseracc.driver import Build, front, host_level


def load(entries: Sequence[str]) -> tessera_runtime.Bundle:
    """The programs compiled for this machine, on one thread."""
    module = front({name: getattr(programs, name) for name in entries})
    return tessera_runtime.load(Build(module, (host_level(),)).bundle(), threads=1)


def contenders(
    workload: Workload, function: tessera_runtime.BundleFunction, sizes: tuple[int, ...]
) -> tuple[Callable[[], object], Callable[[], object], Array, Array]:
    """Calls of our code and of NumPy on the same arguments, and where each leaves its result."""
    args, ours, spare = sized(workload, sizes)
    theirs = empty(ours.shape)
    for memory in (ours, theirs, spare):
        memory[...] = 0
    if workload.inplace is None:
        result = function.outputs[0]
        return (
            lambda: function.into({result: ours}, *args),
            lambda: workload.reference(*args, out=theirs, spare=spare),
            ours,
            theirs,
        )
    mine, other = list(args), list(args)
    mine[workload.inplace], other[workload.inplace] = ours, theirs
    for memory in (ours, theirs):
        memory[...] = args[workload.inplace]
    return lambda: function(*mine), lambda: workload.reference(*other, out=theirs, spare=spare), ours, theirs


def difference(ours: Array, theirs: Array) -> float:
    """The largest difference, in parts of the largest value."""
    scale = float(np.max(np.abs(theirs), initial=0.0)) or 1.0
    return float(np.max(np.abs(ours - theirs), initial=0.0)) / scale


def measure(workload: Workload, bundle: tessera_runtime.Bundle, rounds: int) -> dict[str, Any]:
    """Times and ratios; the worst ratio pairs runs of the same round."""
    ours, theirs, mine, other = contenders(workload, bundle[workload.entry], workload.sizes)
    times = interleaved({"tessera": ours, "numpy": theirs}, rounds)
    a, b = times["tessera"], times["numpy"]
    ratios = [y / x for x, y in zip(a.rounds, b.rounds)]
    if workload.inplace is None:
        error = difference(mine, other)
        if not error < 1e-3:
            raise RuntimeError(f"{workload.name}: the results differ by {error:.1e}")
    return {
        "name": workload.name,
        "tessera_ms": 1e3 * a.median,
        "numpy_ms": 1e3 * b.median,
        "ratio": b.median / a.median,
        "worst_ratio": min(ratios),
        "target": workload.target,
        "gflops": 1e-9 * workload.flops / a.median if workload.flops else None,
        "gbytes": 1e-9 * workload.bytes / a.median if workload.bytes else None,
        "rounds_ms": {"tessera": [1e3 * t for t in a.rounds], "numpy": [1e3 * t for t in b.rounds]},
    }
