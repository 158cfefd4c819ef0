"""`evaluate` of the tile language, and the same kernel at every level below: all must agree.

The Tile interpreter, native code of this machine and the emulated PTX of two kinds of matrix units get copies of the
arguments. Products may be summed in another order than NumPy's, and elementary functions differ by an ulp: what they
compute may differ by some units of the result's type, relative to the largest element.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tessera.kernel import KernelDef, evaluate, specialise
from tessera.kernel.evaluate import bind
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.driver import Build, host_level
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend.kernel import lower
from tesseracc.interpret import tile

ARCHS = ("sm_75", "sm_90")
UNITS = {"float32": 2.0**-17, "float64": 2.0**-40, "float16": 2.0**-9, "bfloat16": 2.0**-6}

#: lines of PTX that name the target
HEADER = re.compile(r"^(\.version|\.target|//).*$", re.MULTILINE)

_compiled: dict[Any, dict[str, Callable[..., Any]]] = {}


def levels(kernel: KernelDef, archs: Sequence[str] = ARCHS) -> dict[str, Callable[..., Any]]:
    """The kernel as a function at each level below the language; one function for targets with the same PTX."""
    key = (*archs, kernel.function, kernel.constants, kernel.config, kernel.fixed, kernel.group, kernel.grid)
    if key not in _compiled:
        module, name = lower(kernel), kernel.name
        found: dict[str, Callable[..., Any]] = {"interpreter": lambda *args: tile.run(module, name, args)}
        found["native"] = load_bundle(Build(module, [host_level()]).bundle(), threads=2)[name]
        by_code: dict[str, Callable[..., Any]] = {}
        for arch in archs:
            build = Build(module, [load(arch)])
            bundle, code = build.bundle(), HEADER.sub("", build.text("ptx"))
            if code not in by_code:
                by_code[code] = load_bundle(bundle, device=EmulatorDevice())[name]
            found[arch] = by_code[code]
        _compiled[key] = found
    return _compiled[key]


def everywhere(kernel: KernelDef, args: Sequence[Any], kwargs: Any = None, *, archs: Sequence[str] = ARCHS) -> Any:
    """What `evaluate` gives; compares it with the levels below first."""
    arrays, _, env, constants = bind(kernel, args, kwargs or {})
    fixed = specialise(kernel, constants, dims={name: int(str(env[name])) for name in kernel.open})
    given = [p for p in fixed.params if not p.constant]
    values = dict(zip([p.name for p in kernel.params], args, strict=False)) | dict(kwargs or {})
    before = [np.copy(arrays[p.name]) if p.buffer is not None else values.get(p.name, p.default) for p in given]
    result = evaluate(kernel, args, kwargs or {})
    after = [arrays[p.name] if p.buffer is not None else None for p in given]
    expected = [] if result is None else list(result) if isinstance(result, tuple) else [result]
    for name, run in levels(fixed, archs).items():
        mine = [np.copy(a) if isinstance(a, np.ndarray) else a for a in before]
        found = run(*mine)
        outs = [] if found is None else list(found) if isinstance(found, (tuple, list)) else [found]
        pairs = [(a, b) for a, b in zip(mine, after, strict=True) if b is not None]
        for a, b in [*pairs, *zip(outs, expected, strict=False)]:
            close(name, np.asarray(a), np.asarray(b))
    return result


def close(level: str, found: Any, expected: Any) -> None:
    assert found.shape == expected.shape, level
    unit = UNITS.get(expected.dtype.name)
    if unit is None:
        np.testing.assert_array_equal(found, expected, err_msg=level)
        return
    wide = expected.astype(np.float64)
    scale = np.abs(wide[np.isfinite(wide)]).max(initial=0)
    np.testing.assert_allclose(found.astype(np.float64), wide, rtol=unit, atol=unit * scale, err_msg=level)
