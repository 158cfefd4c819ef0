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


SAXPY = """import tessera as ts

@ts.kernel
def saxpy(a: ts.f32, x: ts.Tensor["M", "N", ts.f32], y: ts.Tensor["M", "N", ts.f32]):
    for i in ts.tile.range(0, M, 16):
        y[i : i + 16, 0:32] = a * x[i : i + 16, 0:32] + y[i : i + 16, 0:32]
"""


@pytest.fixture(scope="module")
def saxpy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tesseracc.arch.arch import load
    from tesseracc.driver import Build, front
    from tesseracc.frontend.source import load as load_module

    folder = tmp_path_factory.mktemp("saxpy")
    (folder / "s.py").write_text(SAXPY)
    archs = [load("sm_80")]
    path = folder / "s.ptx"
    path.write_text(Build(front(load_module(folder / "s.py").entries), archs).text("ptx"))
    rng = np.random.default_rng(8)
    for name in "xy":
        np.save(folder / f"{name}.npy", rng.standard_normal((20, 30)).astype(np.float32))
    return path


@pytest.mark.parametrize("arguments", [
    ["f32=1.5", "@x.npy", "@y.npy", "i64=20", "i64=30"],
    ["f32=1.5", "@x.npy", "@y.npy", "N=30", "M=20"],
    ["N=0x1e", "M=i64=20", "a=1.5", "y=@y.npy", "x=@x.npy"],
    ["a=hex=0000c03f", "saxpy__0_param_4=30", "@x.npy", "y=@y.npy", "u64=20"],  # others take what is left, in order
])  # fmt: skip
def test_arguments_by_name(
    tesseracc: Runner, saxpy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(saxpy.parent)
    given = [word for text in arguments for word in ("--arg", text)]
    for output in ("y", "2"):
        out = tmp_path / f"{output}.npy"
        said = tesseracc("emulate", saxpy, "--grid", "2", "--block", "128", *given, "--output", f"{output}=@{out}")
        assert said.code == 0, said.err
        x, y = np.load("x.npy"), np.load("y.npy")
        np.testing.assert_array_equal(np.load(out), np.float32(1.5) * x + y)


@pytest.mark.parametrize(("arguments", "words"), [
    (["m=20", "a=1", "x=@x.npy", "y=@y.npy", "N=30"], "`saxpy__0` has no parameter `m`"),
    (["N=30", "N=30", "a=1", "x=@x.npy", "y=@y.npy"], "`N` is given twice"),
    (["N=30", "saxpy__0_param_4=30", "a=1", "x=@x.npy", "y=@y.npy"], "`N` is given twice"),
    (["a=1", "x=@x.npy", "y=@y.npy", "N=30"], "takes 5 arguments, got 4: M missing"),
    (["f32=1", "@x.npy", "@y.npy", "M=20", "N=30", "i64=1"], "takes 5 arguments, got 6"),
    (["a=1", "x=@x.npy", "y=@y.npy", "M=20", "N=30.0"], "`N` is .u64, and `30.0` is not an integer"),
    (["a=one", "x=@x.npy", "y=@y.npy", "M=20", "N=30"], "`a` is .f32, and `one` is not a number"),
    (["a=1", "x=@x.npy", "y=@y.npy", "M=20", "N="], "`` is not an integer"),
    (["a=1", "x=@x.npy", "y=@y.npy", "M=20", "N=f32=30"], "is .u64, the argument float32"),
    (["a=1", "x=@none.npy", "y=@y.npy", "M=20", "N=30"], "cannot read 'none.npy'"),
])  # fmt: skip
def test_wrong_arguments_by_name(
    tesseracc: Runner, saxpy: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(saxpy.parent)
    given = [word for text in arguments for word in ("--arg", text)]
    said = tesseracc("emulate", saxpy, "--grid", "2", "--block", "128", *given)
    assert (said.code, said.out) == (2, "") and words in said.err, said.err
    assert "help: " in said.err or "E802" in said.err or "the argument float32" in said.err


def test_without_the_comment_ptx_has_the_names(tesseracc: Runner, saxpy: Path, tmp_path: Path) -> None:
    """A comment that does not fit the kernel, or none: only the names that PTX declares are known."""
    text = saxpy.read_text()
    line = "// saxpy__0(a, x, y, M, N)\n"
    assert line in text
    for other in ("", "// saxpy__0(a, x, y)\n", "// saxpy__0(a, x, y, N, N)\n"):
        (tmp_path / "k.ptx").write_text(text.replace(line, other))
        said = tesseracc("emulate", tmp_path / "k.ptx", "--arg", "M=20")
        assert said.code == 2 and "has no parameter `M`" in said.err and "saxpy__0_param_3 .u64" in said.err
