"""`tesseracc emulate` on PTX of our own: a barrier taken out, a buffer that is too short, wrong command lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.run import Runner

MODEL = """import tessera as ts


@ts.function
def f(x: ts.Tensor[8, 4096, ts.f32]):
    return ts.softmax(x)
"""


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.fixture
def ptx(tesseracc: Runner, tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    path = tmp_path / "f.ptx"
    path.write_text(tesseracc("build", tmp_path / "model.py", "--arch", "sm_80", "--emit", "ptx").out)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(8, 4096)).astype(np.float32))
    np.save(tmp_path / "y.npy", np.zeros((8, 4096), np.float32))
    np.save(tmp_path / "short.npy", np.zeros((7, 4096), np.float32))
    return path


def launch(path: Path, result: str = "y.npy") -> tuple[object, ...]:
    return ("emulate", path, "--grid", "8", "--block", "128", "--arg", f"@{path.parent / 'x.npy'}",
            "--arg", f"@{path.parent / result}")  # fmt: skip


def test_both_accesses_of_a_race_have_python_lines(tesseracc: Runner, ptx: Path) -> None:
    out = ptx.parent / "out.npy"
    assert tesseracc(*launch(ptx), "--output", f"1=@{out}").code == 0
    x = np.load(ptx.parent / "x.npy").astype(np.float64)
    e = np.exp(x - x.max(axis=1, keepdims=True))
    np.testing.assert_allclose(np.load(out), e / e.sum(axis=1, keepdims=True), rtol=1e-5)
    lines = ptx.read_text().split("\n")
    barrier = next(k for k, line in enumerate(lines) if "bar.sync" in line)
    lines[barrier] = ""
    ptx.write_text("\n".join(lines))
    said = tesseracc(*launch(ptx))
    assert said.code == 6 and said.out.startswith("E955: ")
    first, second = said.out.split("\n")[:2]
    assert "model.py:6)" in first and second.startswith("  other access: PTX line") and second.endswith("model.py:6")
    said = tesseracc(*launch(ptx), "--json")
    found = json.loads(said.out)["findings"]
    assert said.code == 6 and found[0]["code"] == "E955"
    assert found[0]["source"] == found[0]["other_source"] == "model.py:6"
    assert found[0]["other_line"] < barrier + 1 < found[0]["ptx_line"]
    assert "shared" in lines[found[0]["ptx_line"] - 1] and "shared" in lines[found[0]["other_line"] - 1]


def test_a_buffer_that_is_too_short(tesseracc: Runner, ptx: Path) -> None:
    said = tesseracc(*launch(ptx, "short.npy"))
    assert said.code == 6 and "E951" in said.out and "model.py:6" in said.out
    assert f"into an allocation of {7 * 4096 * 4} bytes" in said.out


@pytest.mark.parametrize(
    ("change", "code", "exit_code"),
    [
        (("--kernel", "g"), "E942", 2),
        (("--grid", "0"), "E942", 2),
        (("--block", "129"), "E942", 2),  # the kernel requires 128
        (("--arg", "i32=1"), "E942", 2),
        (("--output", "0=@no/such/folder/y.npy"), "E803", 2),
        (("--output", "5=@y.npy"), "E942", 2),
        (("--arg", "@none.npy"), "E802", 2),
        (("--dynamic-shared", "1000000"), "E942", 2),
        (("--cluster", "3"), "E942", 2),
    ],
)
def test_wrong_command_lines(tesseracc: Runner, ptx: Path, change: tuple[str, str], code: str, exit_code: int) -> None:
    said = tesseracc(*launch(ptx), *change)
    assert (said.code, said.out) == (exit_code, "") and said.err.startswith(f"error[{code}]"), said.err
    said = tesseracc(*launch(ptx), *change, "--json")
    assert said.code == exit_code and code in said.out


def test_an_unknown_instruction(tesseracc: Runner, ptx: Path) -> None:
    lines = ptx.read_text().split("\n")
    at = next(k for k, line in enumerate(lines) if "bar.sync" in line)
    lines[at] = "\tfrobnicate.sync.b32 \t%r1, 0;"
    ptx.write_text("\n".join(lines))
    said = tesseracc(*launch(ptx))
    assert (said.code, said.out) == (6, "")
    assert said.err.startswith(f"error[E941]: PTX line {at + 1}: unknown instruction `frobnicate.sync.b32`")
