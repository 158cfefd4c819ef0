"""Warnings of kernels that are compiled from Python: as `tesseracc build` says them, at the user's line, once."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tesseracc.frontend.source import load as load_module
from tests.cli.run import Runner

SOURCE = """import tessera as ts

@ts.kernel
def k(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32], z: ts.Tensor["N", ts.f32],
      times: int = 2):
    i = ts.tile.linear_id()
    s = ts.tile.alloc_shared((16,), ts.f32)
    if i < N:
        y[i] = x[i] * times
    return z
"""
CALLS = """
import numpy as np
x = np.ones(5, np.float32)
compiled = ts.jit(k)
for n in (5, 6):
    compiled(np.ones(n, np.float32), np.ones(n, np.float32), np.ones(n, np.float32))
for _ in range(2):
    ts.aot.compile(k, [x, x, x], "k.tsb", ["x86-64-v2"])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "k.py").write_text(SOURCE)
    return tmp_path / "k.py"


def said(found: list[warnings.WarningMessage]) -> list[tuple[str, str, int]]:
    assert all(w.category is ts.TesseraWarning for w in found)
    return [(str(w.message), w.filename, w.lineno) for w in found]


def test_the_warnings_of_the_command_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = path.parent / "k.tsb"
    told = json.loads(Runner(capsys)("build", path, "--arch", "x86-64-v2", "--no-cache", "--json", "-o", bundle).out)
    expected = [(f"{w['code']}: {w['message']}", str(path), w["line"]) for w in told["warnings"]]
    assert [text[:4] for text, _, _ in expected] == ["W201", "W202"]
    k: Any = load_module(path).namespace["k"]
    x = np.ones(5, np.float32)
    with pytest.warns(ts.TesseraWarning) as found:
        ts.aot.compile(k, [x, x, x], bundle, ["x86-64-v2"])
    assert said(list(found)) == expected
    compiled = ts.jit(k)
    with warnings.catch_warnings(record=True) as found_once:
        warnings.simplefilter("always")
        for times in (2, 3):  # each is compiled
            y = np.zeros(5, np.float32)
            compiled(x, y, x.copy(), times)
            np.testing.assert_array_equal(y, x * times)
    assert said(found_once) == expected


def test_a_filter_makes_them_errors(path: Path) -> None:
    """Nothing is written and nothing kept: the next call warns again."""
    k: Any = load_module(path).namespace["k"]
    x, bundle = np.ones(5, np.float32), path.parent / "k.tsb"
    compiled = ts.jit(k)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ts.TesseraWarning, match="W201"):
            ts.aot.compile(k, [x, x, x], bundle, ["x86-64-v2"])
        for _ in range(2):
            with pytest.raises(ts.TesseraWarning, match="W201"):
                compiled(x, x.copy(), x.copy())
    assert not bundle.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled(x, x.copy(), x.copy())


def test_a_program_shows_each_once(path: Path) -> None:
    path.write_text(SOURCE + CALLS)
    ended = subprocess.run([sys.executable, path], cwd=path.parent, capture_output=True, text=True, check=True)
    lines = [line for line in ended.stderr.splitlines() if "TesseraWarning" in line]
    assert [line.split("TesseraWarning: ")[1][:4] for line in lines] == ["W201", "W202"], ended.stderr
    assert lines[0].startswith(f"{path}:4: ") and "def k(" in ended.stderr
