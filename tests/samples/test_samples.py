"""Every sample module builds, and its functions and kernels give eager's results natively and on the emulated GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.arrays import convert, widen
from tessera.decorators import Kernel
from tessera.dtypes import DType
from tessera.shapes import substitute, symbols_of
from tessera.types import RegionSpec
from tessera_runtime import load as load_bundle
from tessera_runtime.core.dtypes import np_dtype
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front, host_level
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend import source

SAMPLES = Path(__file__).parents[2] / "samples"
SCRIPTS = {"demo.py", "digits_data.py", "train_digits.py", "train.py", "loss_curve.py", "char_gpt_sample.py"}
#: modules that train, tested in test_training.py
TRAINING = {"digits_training.py", "char_gpt.py"}
OTHERS = {"transformer_layer.py"}  # tests/models compares it with a reference that rounds where it does
LEFT_OUT = SCRIPTS | OTHERS | TRAINING
MODULES = sorted(p for p in [*SAMPLES.glob("*.py"), *SAMPLES.glob("seeds/*.py")] if p.name not in LEFT_OUT)
#: the extent of a tile, where a module leaves it open
HEAD = 64
#: sizes that a symbol takes in turn: ragged, tiny, several groups
SIZES = ((1, 1, 1, 1), (3, 37, 5, 8), (130, 129, 2, 33))


def arguments(entry: Any, sizes: tuple[int, ...], rng: np.random.Generator) -> list[Any]:
    given = [p.spec for p in entry.parameters if not isinstance(p.default, bool)]
    specs = [spec.inner if isinstance(spec, RegionSpec) else spec for spec in given]
    symbols = sorted({s for spec in specs if hasattr(spec, "dims") for d in spec.dims for s in symbols_of(d)} - {"D"})
    env = {"D": HEAD, **dict(zip(symbols, sizes, strict=False))}
    env.update({name: min(env[name], 2) for name in ("B", "H", "B_H") if name in env})  # batches cost time only
    args: list[Any] = []
    for spec in specs:
        if isinstance(spec, DType) or spec is float:
            args.append(float(np.float32(rng.standard_normal())))
            continue
        shape = tuple(int(substitute(d, env)) for d in spec.dims)
        if spec.dtype.is_int:
            args.append(rng.integers(0, 17, shape).astype(np_dtype(spec.dtype.name)))
        else:
            args.append(convert(rng.standard_normal(shape), spec.dtype))
    return args


def flat(result: Any) -> list[np.ndarray[Any, Any]]:
    if isinstance(result, dict):
        return [x for key in sorted(result) for x in flat(result[key])]
    if isinstance(result, (tuple, list)):
        return [x for item in result for x in flat(item)]
    return [] if result is None else [widen(np.asarray(result)).astype(np.float64)]


def close(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], narrow: bool) -> None:
    """Sums of at most 130 products of standard normal numbers in f32; one unit of bf16 where the result is bf16."""
    tolerance = 2.0**-7 if narrow else 2.0**-18
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=2.0**-17)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_sample(path: Path) -> None:
    loaded = source.load(path)
    module = front(loaded.entries, fixed={"D": HEAD})
    native = load_bundle(Build(module, [host_level()]).bundle(), threads=2)
    emulated = load_bundle(Build(module, [load("sm_90")]).bundle(), device=EmulatorDevice())
    rng = np.random.default_rng(len(path.stem))
    for name, entry in loaded.entries.items():
        narrow = any("bf16" in str(p.spec) for p in entry.parameters)
        for sizes in SIZES:
            args = arguments(entry, sizes, rng)
            expected_args = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
            expected = flat(entry(*expected_args))
            for bundle in (native, emulated):
                given = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
                for a, b in zip(flat(bundle[name](*given)), expected, strict=False):
                    close(a, b, narrow)
                if isinstance(entry, Kernel):
                    for a, b in zip(flat(given), flat(expected_args), strict=True):
                        close(a, b, narrow)
