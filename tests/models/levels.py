"""Runs functions eagerly and at every level of the compiler, and compares with a reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

import tessera as ts
from tessera.arrays import widen
from tessera.decorators import Function
from tessera.pytree import flatten
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front, host_level
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.interpret import graph, schedule, tile
from tests.guarded import guarded

Array = np.ndarray[Any, Any]


class Compiled:
    """Functions as one module for this CPU and some GPUs; each level and the bundle are made once."""

    def __init__(self, *functions: Callable[..., Any], gpus: Sequence[str] = ("sm_90",)) -> None:
        entries = {f.__name__: ts.function(f) for f in functions}
        self.entries: Mapping[str, Function] = entries
        self.module = front(entries)
        self.gpus = tuple(gpus)
        self.build = Build(self.module, [host_level(), *map(load, gpus)])

    @cached_property
    def bundle(self) -> bytes:
        return self.build.bundle()

    @cached_property
    def native(self) -> Any:
        return self.on_threads(2)

    def on_threads(self, threads: int) -> Any:
        """The bundle on this CPU."""
        return load_bundle(self.bundle, device="cpu", threads=threads)

    @cached_property
    def emulated(self) -> Mapping[str, Any]:
        """The bundle on each GPU, emulated, by its name."""
        return {gpu: load_bundle(self.bundle, device=EmulatorDevice(gpu)) for gpu in self.gpus}

    def results(self, name: str, args: Sequence[Any], *, interpreted: bool = True) -> dict[str, list[Array]]:
        """The results of a function by level."""
        leaves = [np.asarray(x) for x in flatten(list(args))[0]]
        found = {"eager": [np.asarray(x) for x in flatten(self.entries[name](*args))[0]]}
        if interpreted:
            found["graph"] = graph.run(self.build.graph, name, leaves)
            found["schedule"] = schedule.run(self.build.schedule, name, leaves)
            for arch in self.build.archs[:2]:
                found[f"tile {arch.kind}"] = tile.run(self.build.tile(arch), name, leaves)
        found["native"] = each(self.native[name](*guarded(leaves, "above")))
        for gpu, bundle in self.emulated.items():
            found[f"emulated {gpu}"] = each(bundle[name](*leaves))
        return found

    def check(self, name: str, args: Sequence[Any], want: Any, tolerance: float = 2e-5, **options: Any) -> None:
        """Every level gives `want` up to `tolerance` of each result's largest element; ints and bools exactly."""
        for level, got in self.results(name, args, **options).items():
            compare(got, flatten(want)[0], f"{name} {level}", tolerance)


def each(results: Any) -> list[Array]:
    return list(results) if isinstance(results, tuple) else [results]


def compare(got: Sequence[Array], want: Sequence[Array], what: str, tolerance: float) -> None:
    assert len(got) == len(want), what
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        b = np.asarray(b)
        assert a.shape == b.shape, f"{what}, result {i}: {a.shape}, expected {b.shape}"
        if a.dtype.kind in "iub":
            np.testing.assert_array_equal(a, b, err_msg=f"{what}, result {i}")
            continue
        scale = max(1e-3, float(np.max(np.abs(b), initial=0.0)))
        wide = widen(a).astype(np.float64)
        np.testing.assert_allclose(wide, b, rtol=0, atol=tolerance * scale, err_msg=f"{what}, result {i}")


def numeric_gradient(f: Callable[[Array], float], x: Array, step: float = 1e-5) -> Array:
    """Central differences of a scalar function of a float64 array."""
    found = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        old = x[at]
        x[at] = old + step
        high = f(x)
        x[at] = old - step
        low = f(x)
        x[at] = old
        found[at] = (high - low) / (2 * step)
    return found
