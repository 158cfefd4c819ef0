"""Narrow types in bundles: as constants, inputs, scalars and results; both readers; test vectors."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tessera_runtime import load
from tessera_runtime.compare import compare
from tests.bundle.second_reader import read

MODULE = """
import numpy as np
import tessera as ts

W = ts.tensor(np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)).astype(ts.fp4_e2m1)
EVERY = ts.tensor(np.arange(-8, 8)).astype(ts.i4)

@ts.function
def f(x: ts.Tensor["B", 64, ts.f32], e: ts.Tensor["N", ts.fp6_e3m2], i: ts.Tensor["N", ts.i4], s: ts.u4):
    return x @ W, e + e, i + i, EVERY, e.astype(ts.f32) + s.astype(ts.f32)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("narrow")
    (folder / "m.py").write_text(MODULE)
    args = ("build", str(folder / "m.py"), "--arch", "cpu", "--embed-tests", "--no-cache", "-o", str(folder / "m.tsb"))
    done = subprocess.run([sys.executable, "-m", "tesseracc", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "m.tsb"


def tessera_run(*args: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from tessera_runtime.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)


def test_both_readers_accept_it_and_its_vectors_hold(bundle: Path) -> None:
    assert read(bundle.read_bytes(), None) == "ok"
    done = tessera_run(str(bundle), "--validate")
    assert done.returncode == 0, done.stdout + done.stderr


def test_values_go_in_and_out(bundle: Path) -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    e = rng.standard_normal(9).astype(ml_dtypes.float6_e3m2fn)
    i = rng.integers(-8, 8, 9).astype(ml_dtypes.int4)
    w = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32).astype(ml_dtypes.float4_e2m1fn)
    product, doubled, wrapped, every, shifted = load(str(bundle))["f"](x, e, i, 13)
    np.testing.assert_allclose(product, x.astype(np.float64) @ w.astype(np.float64), rtol=1e-5, atol=1e-4)
    twice = np.clip(2 * e.astype(np.float32), -28, 28).astype(ml_dtypes.float6_e3m2fn)
    np.testing.assert_array_equal(doubled.astype(np.float32), twice.astype(np.float32))
    np.testing.assert_array_equal(wrapped.astype(np.int32), (2 * i.astype(np.int32) + 8) % 16 - 8)
    np.testing.assert_array_equal(every.astype(np.int32), np.arange(-8, 8))
    np.testing.assert_array_equal(shifted, e.astype(np.float32) + 13)


def test_the_command_line_reads_and_shows_them(bundle: Path) -> None:
    values = ("x=1x64xf32=1", "e=2xfp6_e3m2=[1.5 -28]", "i=2xi4=[7 -8]", "s=15")
    given = tuple(word for value in values for word in ("--input", value))
    done = tessera_run(str(bundle), *given)
    assert done.returncode == 0, done.stderr
    assert "[  3. -28.]" in done.stdout and "[-2  0]" in done.stdout and "[ 16.5 -13. ]" in done.stdout
    for bad in ("i=2xi4=8", "i=2xi4=-9"):
        done = tessera_run(str(bundle), *given[:4], "--input", bad, *given[6:])
        assert done.returncode == 7 and "not a value of i4" in done.stderr
    done = tessera_run(str(bundle), *given[:6], "--input", "s=16")
    assert done.returncode == 7 and "0..15" in done.stderr


def test_comparison_is_exact_for_ints_of_4_bits() -> None:
    a, b = np.array([-8, 3]).astype(ml_dtypes.int4), np.array([-8, 4]).astype(ml_dtypes.int4)
    assert compare(a, a, "i4", 0, 0) is None
    found = compare(a, b, "i4", 0, 0)
    assert found is not None and "expected 4, actual 3" in str(found.text if hasattr(found, "text") else found)
