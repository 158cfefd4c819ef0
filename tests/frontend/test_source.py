"""Loading a module: what is built, what ran meanwhile, and what tracing assumed becomes a guard of the bundle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tessera.errors import SourceError
from tessera_runtime import load as load_bundle
from tessera_runtime.core.errors import TesseraError
from tesseracc import descriptors
from tesseracc.driver import Build, front, host_level
from tesseracc.frontend import source

MODULE = """
import tessera as ts

@ts.function
def heads(x: ts.Tensor["B", "D", ts.f32]):
    B, D = x.shape
    return ts.reshape(x, (B, 16, D // 16))

@ts.function
def plus(x: ts.Tensor["N", ts.f32]):
    return x + 1

@ts.function
def _private(x: ts.Tensor["N", ts.f32]):
    return x

once = plus(ts.ones(3))
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "model.py"
    path.write_text(text)
    return path


def test_entries_and_calls(tmp_path: Path) -> None:
    path = list(sys.path)
    loaded = source.load(write(tmp_path, MODULE))
    assert list(loaded.entries) == ["heads", "plus"]
    ((name, span),) = loaded.calls
    assert name == "plus" and span is not None and MODULE.splitlines()[span.line - 1].startswith("once")
    assert sys.path == path and "model" not in sys.modules
    assert [p.name for p in tmp_path.iterdir()] == ["model.py"]  # no byte code is left behind


def test_an_assumption_of_a_reshape_is_a_guard(tmp_path: Path) -> None:
    loaded = source.load(write(tmp_path, MODULE))
    bundle = load_bundle(Build(front(source.choose(loaded, ("heads",))), [host_level()]).bundle())
    x = np.random.default_rng(0).standard_normal((3, 48)).astype(np.float32)
    np.testing.assert_array_equal(bundle["heads"](x), x.reshape(3, 16, 3))
    with pytest.raises(TesseraError, match="D to be a multiple of 16; D = 33") as caught:
        bundle["heads"](np.zeros((2, 33), np.float32))
    assert caught.value.code == "E707"


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("x = (1,\n", "E101", 1),
        ("import numpy\nimport no_such_module_anywhere\n", "E102", 2),
        ("def f():\n    return undefined_name\n\nf()\n", "E103", 2),
        ("import sys\nsys.exit(3)\n", "E103", 2),
    ],
)
def test_what_goes_wrong_has_a_line(tmp_path: Path, text: str, code: str, line: int) -> None:
    with pytest.raises(SourceError) as caught:
        source.load(write(tmp_path, text))
    assert caught.value.code == code and caught.value.span is not None and caught.value.span.line == line


def test_nothing_to_build(tmp_path: Path) -> None:
    loaded = source.load(write(tmp_path, "x = 1\n"))
    with pytest.raises(SourceError, match="defines no function") as caught:
        source.choose(loaded, ())
    assert caught.value.code == "E104"


CLOSES = """
import os
import numpy as np
import tessera as ts

@ts.jit
def f(x: ts.Tensor["N", ts.f32]):
    return x + 1

f(np.ones(3, np.float32))
os.closerange({first}, 256)
"""


@pytest.mark.parametrize(("first", "closed"), [(0, "0, 1, 2, "), (3, "")])
def test_a_module_that_closes_descriptors_of_the_compiler(tmp_path: Path, first: int, closed: str) -> None:
    """Also those of a worker that a compiled call had started, and the streams that tell of it."""
    path = write(tmp_path, CLOSES.format(first=first))
    done = subprocess.run(
        [sys.executable, "-m", "tesseracc", "build", path.name, "--arch=x86-64-v2", "-o", "m.tsb"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 3 and not (tmp_path / "m.tsb").exists(), done
    first_line = done.stderr.splitlines()[0]
    assert first_line.startswith(f"error[E103]: the module closes file descriptors that it did not open: {closed}")
    assert first_line[-1].isdigit() and int(first_line.split()[-1]) >= 3 and "Traceback" not in done.stderr


def test_a_number_on_another_file_is_not_the_descriptor_that_was_kept() -> None:
    a, b = os.pipe()
    descriptors.keep(a)
    assert descriptors.holds(a) and a not in descriptors.lost()
    os.close(a)
    assert not descriptors.holds(a) and a in descriptors.lost()
    other = os.open(os.devnull, os.O_RDONLY)
    os.dup2(other, a)
    assert not descriptors.holds(a) and a in descriptors.lost() and not descriptors.release(a)
    assert a not in descriptors.lost()
    for number in {a, b, other}:
        os.close(number)
