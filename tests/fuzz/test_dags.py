"""Random functions mean the same at every level: eager, Schedule after fusion, Tile, native code, emulated PTX."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tessera.arrays import convert, widen
from tessera.decorators import Function
from tessera.errors import SourceError
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.driver import Build, host_level
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend.merge import merge
from tesseracc.frontend.trace import trace
from tesseracc.interpret import schedule, tile
from tesseracc.ir.value import Module
from tests.fuzz.dags import SIZES, Program
from tests.fuzz.dags import program as new_program

Array = np.ndarray[Any, Any]
COUNT = 60
EMULATED = 20


program = cache(new_program)


def traced(p: Program) -> Module:
    names = [f"x{i}" for i in range(len(p.types))]
    space: dict[str, Any] = {"body": p.body}
    exec(f"def p{p.seed}({', '.join(names)}):\n    return body({', '.join(names)})", space)
    function = Function(space[f"p{p.seed}"])
    return trace(function, dict(zip(names, p.types, strict=True)), "").module


@cache
def built() -> tuple[Build, Any, Any]:
    """All programs in one module: its levels, its native bundle, and a bundle of some on the emulator."""
    parts = {}
    for seed in range(COUNT):
        parts[seed] = traced(program(seed))
    build = Build(merge(list(parts.values())), [host_level()])
    native = load_bundle(build.bundle(), threads=2)
    some = Build(merge([parts[seed] for seed in range(EMULATED)]), [load("sm_90")])
    return build, native, load_bundle(some.bundle(), device=EmulatorDevice())


def inputs(p: Program, rng: np.random.Generator) -> list[Array]:
    env = {"N": int(rng.choice(SIZES)), "D": int(rng.choice(SIZES))}
    found = []
    for t in p.types:
        shape = tuple(int(d) for d in t.substitute(env).dims)
        if t.dtype.is_int:
            found.append(rng.integers(-3, 4, shape).astype(np.int32))
        else:
            found.append(convert(rng.standard_normal(shape), t.dtype))
    return found


def close(got: Any, want: Array, level: str) -> None:
    """Steps keep elements near 2^6 at most, sums have at most 2 * 129^2 terms up to 1; narrow types round each step."""
    got = np.asarray(got)
    assert got.shape == want.shape and got.dtype == want.dtype, level
    a, b = widen(got).astype(np.float64), widen(want).astype(np.float64)
    if want.dtype.kind in "iub":
        np.testing.assert_array_equal(a, b, err_msg=level)
        return
    unit = {2: 2.0**-7, 4: 2.0**-17, 8: 2.0**-17}[want.dtype.itemsize]
    scale = max(1.0, float(np.abs(np.nan_to_num(b)).max(initial=0)))
    np.testing.assert_allclose(a, b, rtol=8 * unit, atol=8 * unit * scale, err_msg=level)


@pytest.mark.parametrize("seed", range(COUNT))
def test_levels_agree(seed: int) -> None:
    build, native, emulated = built()
    p = program(seed)
    name = f"p{seed}"
    rng = np.random.default_rng([seed, 5])
    for _ in range(3):
        args = inputs(p, rng)
        try:
            with np.errstate(all="ignore"):
                expected = [x.numpy() for x in Function(p.body)(*args)]
        except SourceError as error:
            assert error.code == "E302", error  # sizes that do not fit, such as a maximum over nothing
            continue
        for got, want in zip(schedule.run(build.schedule, name, args), expected, strict=True):
            close(got, want, "schedule")
        if max(a.size for a in args) < 2000:
            for got, want in zip(tile.run(build.tile(host_level()), name, args), expected, strict=True):
                close(got, want, "tile")
        for got, want in zip(native[name](*args), expected, strict=True):
            close(got, want, "native")
        if seed < EMULATED:
            for got, want in zip(emulated[name](*args), expected, strict=True):
                close(got, want, "emulated")
