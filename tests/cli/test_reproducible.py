"""Equal sources give equal bytes, and a bundle equal bits, whatever else varies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front, host_level
from tesseracc.frontend import source

ROOT = Path(__file__).parents[2]
MODEL = """
import tessera as ts

w = ts.exp(ts.randn(24, 24, seed=5)) / 24

def norm(x):
    return (x
            - ts.max(x, axis=-1,
                     keepdims=True))

@ts.function
def model(x: ts.Tensor["N", 24, ts.f32]):
    x = norm(
        x)
    return {"y": ts.softmax(ts.relu(x @ w), axis=-1), "total": ts.sum(x), "columns": ts.sum(x, axis=0)}

@ts.kernel
def scale(x: ts.Tensor["N", ts.f32], factor: ts.f32):
    i = ts.tile.linear_id()
    if i < N:
        x[i] = factor * x[i]
"""


#: an interpreter that does not know columns, as before 3.11, on one processor
OLDER = """
import os, sys
import numpy, llvmlite
sys.version_info = (3, 10, 0, "final", 0)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
from tesseracc.cli.main import main
main()
"""


def build(folder: Path, *options: str, code: str = "", **environment: str) -> bytes:
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}", **environment}
    command = [sys.executable, *(("-c", code) if code else ("-m", "tesseracc"))]
    command += ["build", "model.py", "--arch", "cpu", "--arch", "sm_90", "--embed-tests", *options]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return (folder / "model.tsb").read_bytes()


def test_same_bytes(tmp_path: Path) -> None:
    first = build(tmp_path / "a", PYTHONHASHSEED="1")
    for i, (options, environment) in enumerate(
        [
            (("--jobs", "1"), {"PYTHONHASHSEED": "4711", "TZ": "Pacific/Auckland", "LC_ALL": "C",
                               "HOME": str(tmp_path / "nowhere"), "USER": "someone"}),
            (("--jobs", "4"), {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "1",
                               "LANG": "tr_TR.UTF-8", "OPENBLAS_CORETYPE": "Nehalem",
                               "NPY_DISABLE_CPU_FEATURES": dispatched()}),
            ((), {"code": OLDER}),
        ]
    ):
        assert build(tmp_path / f"deeper {i}" / "folder", *options, **environment) == first, i


LIBRARY = """
import tessera as ts

def square(x):
    return x * x
"""
USER = """
import tessera as ts
from library_elsewhere import square

@ts.kernel
def k(x: ts.Tensor["n", ts.f32]):
    i = ts.tile.linear_id()
    if i < n:
        x[i] = square(x[i]) + 1.0

@ts.function
def f(x: ts.Tensor["n", ts.f32]):
    return square(x) * 3.0
"""


def test_the_way_to_a_library_elsewhere_is_not_in_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the module uses of an installed package is named, not where that lies from here."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "library_elsewhere.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path / "site")
    found = []
    for folder in (tmp_path / "a", tmp_path / "b" / "c" / "d"):
        folder.mkdir(parents=True)
        (folder / "m.py").write_text(USER)
        found.append(Build(front(source.load(folder / "m.py").entries), [load("ptx_75")]).bundle())
    assert found[0] == found[1]
    assert b'"library_elsewhere.py"' in found[0] and b"../" not in found[0]


def dispatched() -> str:
    """The features of this processor that NumPy uses beyond those that it needs."""
    config: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    return " ".join(config["SIMD Extensions"].get("found", ()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("threads") / "model.py"
    path.write_text(MODEL)
    return Build(front(source.load(path).entries), [host_level()]).bundle()


@pytest.mark.parametrize("n", [1, 130, 5001])
def test_same_bits_for_any_number_of_threads(data: bytes, n: int) -> None:
    x = np.random.default_rng(n).standard_normal((n, 24)).astype(np.float32)
    runs = [load_bundle(data, threads=threads)["model"](x) for threads in (1, 2, 3, 2)]
    for run in runs[1:]:
        for a, b in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
