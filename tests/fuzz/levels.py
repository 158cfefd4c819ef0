"""Runs one function at every level and compares with its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tessera.errors import SourceError
from tessera.shapes import substitute
from tessera_runtime import load as load_bundle
from tessera_runtime.devices.cpu import cpu_features, machine
from tesseracc.arch.arch import load, resolve
from tesseracc.driver import Build, host_level
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend.merge import merge
from tesseracc.interpret import graph, schedule, tile
from tests.fuzz.oracle import Meaning, TooLarge, check, evaluate
from tests.fuzz.programs import Program, values

Array = np.ndarray[Any, Any]
SIZES = (0, 1, 2, 3, 4, 5, 6, 7, 12, 33, 127, 128, 129)
#: elements of the largest value: natively, and for what is emulated or interpreted
LIMIT, SMALL = 400_000, 4_000


class Levels:
    """Several programs as one module: each level and each bundle is made once."""

    def __init__(self, programs: Sequence[Program], *, emulated: bool = True, every_cpu: bool = True) -> None:
        self.module = merge([p.module for p in programs])
        self.build = Build(self.module, [host_level()])
        self.every_cpu = every_cpu
        self.emulate = emulated

    @cached_property
    def native(self) -> list[tuple[str, Any, Any]]:
        """(CPU level, bundle on one thread, bundle on two) for what this machine runs."""
        mine = [a for a in resolve(["cpu"]) if a.toolchain.machine == machine()]
        fitting = [a for a in mine if set(a.requires) <= cpu_features()]
        found = []
        for arch in fitting if self.every_cpu else [host_level()]:
            data = Build(self.module, [arch]).bundle()
            found.append((arch.name, load_bundle(data, threads=1), load_bundle(data, threads=2)))
        return found

    @cached_property
    def emulated(self) -> Any:
        return load_bundle(Build(self.module, [load("sm_90")]).bundle(), device=EmulatorDevice())

    def compare(self, p: Program, args: Sequence[Array], want: Sequence[Meaning], small: bool) -> None:
        runs: list[tuple[str, Any]] = []
        if small:
            runs.append(("graph", lambda: graph.run(self.build.graph, p.name, list(args))))
            runs.append(("tile", lambda: tile.run(self.build.tile(host_level()), p.name, list(args))))
        runs.append(("schedule", lambda: schedule.run(self.build.schedule, p.name, list(args))))
        for level, run in runs:
            self._check(level, run(), want)
        for name, one, two in self.native:
            first = _each(one[p.name](*args))
            self._check(name, first, want)
            for a, b in zip(first, _each(two[p.name](*args)), strict=True):
                assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), f"{name}: two threads give other bits"
        if small and self.emulate:
            self._check("emulated", _each(self.emulated[p.name](*args)), want)

    @staticmethod
    def _check(level: str, got: Sequence[Any], want: Sequence[Meaning]) -> None:
        assert len(got) == len(want), level
        for i, (a, b) in enumerate(zip(got, want)):
            check(a, b, f"{level}, result {i}")


def _each(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def trials(p: Program, count: int) -> Iterator[tuple[list[Array], list[Meaning], bool]]:
    """Arguments of some sizes with their meaning, and whether they are small."""
    rng = np.random.default_rng([len(p.says), *p.name.encode()])
    func = p.module.func(p.name)
    for number in range(4 * count):
        choices = SIZES if number % 2 else SIZES[: 2 + number]
        env = {s: int(rng.choice(choices)) for s in ("N", "D", "M")}
        if number == 2:  # one long axis: reductions are cut into parts
            env[str(rng.choice(["N", "D", "M"]))] = int(rng.choice([16384, 40961]))
        args = [values(rng, tuple(int(substitute(d, env)) for d in t.dims), t.dtype, p.special) for t in p.types]
        assumed: Any = func.attrs.get("assume", ())
        if any(substitute(value, env) % divisor for value, divisor in assumed):
            continue
        for limit in (SMALL, LIMIT):
            try:
                meaning = evaluate(p.module, p.name, args, env, limit)
            except TooLarge:
                continue
            except SourceError as error:
                assert error.code in ("E302", "E305"), error
                break
            yield args, meaning, limit == SMALL
            count -= 1
            break
        if not count:
            return
