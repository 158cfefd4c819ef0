"""One bundle for eight GPUs and two CPU levels: every image runs, and all agree with a reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tessera_runtime
from tessera_runtime.bundle import BundleFile
from tessera_runtime.devices.cpu import CpuDevice, machine
from tesseracc.arch.arch import resolve
from tesseracc.driver import Build, front
from tesseracc.emulator_device import EmulatorDevice
from tesseracc.frontend import source

GPUS = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
CPUS = ("x86-64-v2", "x86-64-v3") if machine() == "x86-64" else ("aarch64",)
MODEL = """
import tessera as ts

w = ts.randn(40, 24, seed=11)

@ts.function
def block(x: ts.Tensor["N", 40, ts.f32], h: ts.Tensor["M", "K", ts.f16], g: ts.Tensor["K", "L", ts.f16]):
    return {"y": ts.softmax(x @ w, axis=-1), "p": h @ g, "s": ts.sum(x * x, axis=0)}

@ts.kernel
def scale(x: ts.Tensor["N", ts.f32], factor: ts.f32):
    i = ts.tile.linear_id()
    if i < N:
        x[i] = factor * x[i]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = tmp_path_factory.mktemp("many") / "model.py"
    path.write_text(MODEL)
    return Build(front(source.load(path).entries), resolve((*CPUS, *GPUS))).bundle()


def _close(actual: object, expected: np.ndarray, bound: np.ndarray | float) -> None:
    error = np.abs(np.asarray(actual).astype(np.float64) - expected)
    assert error.shape == expected.shape and bool((error <= bound).all()), float(error.max())


def _check(bundle: tessera_runtime.Bundle, seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, k, n = (int(v) for v in rng.integers(17, 75, 3))
    x = rng.standard_normal((m, 40)).astype(np.float32)
    h = rng.standard_normal((m + 1, k)).astype(np.float16)
    g = rng.standard_normal((k, n)).astype(np.float16)
    found = dict(zip((o.name for o in bundle["block"].function.outputs), bundle["block"](x, h, g), strict=True))
    weights = _weights(bundle)
    logits = x.astype(np.float64) @ weights
    power = np.exp(logits - logits.max(-1, keepdims=True))
    eps = 2.0**-24
    # a sum of 40 products is wrong by 40 eps of the sum of their magnitudes, twice that in an exponent; exp by 2 ulp
    spread = 2 * 40 * eps * (np.abs(x).astype(np.float64) @ np.abs(weights)).max() + 32 * eps
    _close(found["y"], power / power.sum(-1, keepdims=True), 2 * spread)
    _close(found["s"], (x.astype(np.float64) ** 2).sum(0), (m + 2) * eps * (x.astype(np.float64) ** 2).sum(0))
    wide = h.astype(np.float64) @ g.astype(np.float64)
    magnitude = np.abs(h).astype(np.float64) @ np.abs(g).astype(np.float64)
    _close(found["p"], wide, np.abs(wide) * 2.0**-11 + (k + 2) * eps * magnitude + 2.0**-24)
    v = rng.standard_normal(n).astype(np.float32)
    expected = v * np.float32(0.75)
    bundle["scale"](v, 0.75)
    np.testing.assert_array_equal(v, expected)


def _weights(bundle: tessera_runtime.Bundle) -> np.ndarray:
    """The module's constant, from the bundle."""
    (constant,) = bundle.file.manifest.constants
    raw = bundle.file.entry(constant.entry)[constant.offset : constant.offset + constant.size]
    return np.frombuffer(raw, np.float32).reshape(40, 24).astype(np.float64)


def test_the_bundle(data: bytes) -> None:
    """Code of its own for each target, one set of weights, and a GPU takes the image that is exactly its."""
    targets = BundleFile(data).manifest.targets
    assert [t.name for t in targets] == [*CPUS, *GPUS]
    assert len({t.image for t in targets}) == len(targets) and all(t.format == "cubin" for t in targets[-len(GPUS) :])
    assert len([e for e in BundleFile(data).manifest.entries if e.kind == "weights"]) == 1


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_on_the_emulator(data: bytes, name: str) -> None:
    bundle = tessera_runtime.load(data, device=EmulatorDevice(name))
    assert bundle.target.name == name
    _check(bundle, sum(name.encode()))


@pytest.mark.parametrize("name", CPUS)
def test_every_cpu_level(data: bytes, name: str) -> None:
    bundle = tessera_runtime.load(data, device=CpuDevice(target=name))
    assert bundle.target.name == name
    _check(bundle, sum(name.encode()))
