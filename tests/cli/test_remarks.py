"""What a build says of a program beside its bundle: errors at the user's line, warnings that nobody asked for."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.cli.run import Runner

KERNELS = """import tessera as ts

@ts.kernel(group=32)
def turned(x: ts.Tensor["n", ts.f32], y: ts.Tensor["n", ts.f32]):
    s = ts.tile.alloc_shared((n,), ts.f32)
    for i in range(n):
        s[i] = x[i]
    ts.tile.barrier()
    for i in range(n):
        y[i] = s[n - 1 - i]
"""


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.mark.parametrize("arch", ["sm_90", "cpu"])
def test_shared_memory_of_a_size_that_nothing_says(tesseracc: Runner, tmp_path: Path, arch: str) -> None:
    path = tmp_path / "k.py"
    path.write_text(KERNELS)
    said = tesseracc("build", path, "--arch", arch, "--check-only")
    assert said.code == 3 and "error[E221]: the extent `n` of the shared memory `s`" in said.err
    assert "k.py:5:9" in said.err and said.err.rstrip().endswith("--specialize n=128")
    assert tesseracc("build", path, "--arch", arch, "--check-only", "--specialize", "n=100").code == 0


UNUSED = """import tessera as ts


@ts.kernel
def twice(
    x: ts.Tensor["N", ts.f32],
    forgotten: ts.Tensor["N", ts.f32],
):
    s = ts.tile.alloc_shared((8,), ts.f32)
    x[i : i + 64] = x[i : i + 64] * 2.0
"""
WARNINGS = [("W202", 9), ("W207", 7)]


@pytest.mark.parametrize("more", [["--check-only"], ["--emit", "tile"], ["--cache-dir", "c"]], ids=" ".join)
def test_warnings_of_kernels_are_seen_without_asking(tesseracc: Runner, tmp_path: Path, more: list[str]) -> None:
    path = tmp_path / "k.py"
    path.write_text(UNUSED)
    more = [str(tmp_path / m) if m == "c" else m for m in more]
    for _ in range(2):  # the second finds the first in the cache
        said = tesseracc("build", path, "--arch", "x86-64-v2", *more)
        assert said.code == 0 and "warning[W207]: `forgotten` is neither read nor written" in said.err
        assert "k.py:7:5" in said.err and '    forgotten: ts.Tensor["N", ts.f32],' in said.err
        assert said.err.count("warning[W") == len(WARNINGS)
    if "--emit" not in more:
        told = json.loads(tesseracc("build", path, "--arch", "x86-64-v2", "--json", *more).out)
        assert sorted((w["code"], w["line"]) for w in told["warnings"]) == WARNINGS
        assert not any("forgotten" in note for note in told["notes"])
        report = tesseracc("build", path, "--arch", "x86-64-v2", "--diagnostics-format", "json", *more)
        found = json.loads(report.out)["modules"][0]["diagnostics"]
        assert sorted((d["code"], d["line"]) for d in found if d["level"] == "warning") == WARNINGS


def test_warnings_are_shown_in_documents_as_on_a_terminal(tesseracc: Runner, tmp_path: Path) -> None:
    path = tmp_path / "k.py"
    path.write_text(UNUSED)
    options = ("build", path, "--arch", "x86-64-v2", "--check-only")
    shown = tesseracc(*options).err
    (module,) = json.loads(tesseracc(*options, "--diagnostics-format", "json").out)["modules"]
    assert "".join(d["rendered"] + "\n" for d in module["diagnostics"]) == shown and shown.count("     | ") == 2
    (suite,) = ET.fromstring(tesseracc(*options, "--diagnostics-format", "junit").out)
    assert (suite[0][0].text or "") + "\n" == shown
    noted = ET.fromstring(tesseracc(*options, "--diagnostics-format", "junit", "--notes").out)
    assert f"({path}:10)" in "".join(noted.itertext())


def test_a_message_and_its_help_are_two_sentences(tesseracc: Runner, tmp_path: Path) -> None:
    path = tmp_path / "f.py"
    path.write_text(
        'import tessera as ts\n@ts.function\ndef f(x: ts.Tensor["N", "K", ts.f32], w: ts.Tensor["M", "K", ts.f32]):\n'
        "    return x @ w\n"
    )
    said = tesseracc("build", path, "--arch", "x86-64-v2", "--check-only", "--diagnostics-format", "sarif")
    (result,) = json.loads(said.out)["runs"][0]["results"]
    assert result["message"]["text"].startswith("matmul contracts K with M. Help: the right operand is f32[M, K]")


FUNCTIONS = '''import tessera as ts

@ts.function
def declared(x: ts.Tensor["N", ts.f32]) -> ts.Tensor["N", ts.i32]:
    y = x + 1
    return y * 2

@ts.function
def forgets(
    w: ts.State[ts.Tensor["N", ts.f32]],
    x: ts.Tensor["N", ts.f32],
):
    def inner():
        return w
    return {"y": inner() + x}

@ts.function
def widens(w: ts.State[ts.Tensor["N", ts.f32]]):
    if w.ndim == 2:
        return {"w": w}
    return {"w": w.astype(ts.f64)}

@ts.function
def untyped(x,
            y: ts.Tensor["N", ts.f32],
            z):
    return x + y + z

@ts.function
def takes(x: ts.Tensor["N", 4, ts.f32]):
    return x

@ts.function
def text(x: ts.Tensor["N", ts.f32]):
    return x, "no"
'''


@pytest.mark.parametrize(("entry", "more", "code", "places"), [
    ("declared", [], "E317", ["6:5 return y * 2"]),
    ("forgets", [], "E317", ['15:5 return {"y": inner() + x}']),
    ("widens", [], "E317", ['18:1 def widens(w: ts.State[ts.Tensor["N", ts.f32]]):']),
    ("untyped", [], "E307", ["24:13 x", "26:13 z"]),
    ("takes", ["--input-spec", "x=f32[N, 5]"], "E307", ['30:11 x: ts.Tensor["N", 4, ts.f32]']),
    ("text", [], "E317", ['35:5 return x, "no"']),
])  # fmt: skip
def test_errors_of_a_signature_are_at_what_they_mean(
    tesseracc: Runner, tmp_path: Path, entry: str, more: list[str], code: str, places: list[str]
) -> None:
    path = tmp_path / "f.py"
    path.write_text(FUNCTIONS)
    said = tesseracc("build", path, "--entry", entry, "--check-only", "--diagnostics-format", "json", *more)
    found = json.loads(said.out)["modules"][0]["diagnostics"]
    assert said.code == 3 and {d["code"] for d in found} == {code}
    lines = FUNCTIONS.splitlines()
    marked = [lines[d["line"] - 1][d["column"] - 1 : d["end_column"] - 1] for d in found]
    assert [f"{d['line']}:{d['column']} {text}" for d, text in zip(found, marked, strict=True)] == places


@pytest.mark.parametrize(("call", "code", "help"), [
    ("np.exp(x) + 1", "E320", "use ts.exp"),
    ("np.floor_divide(x, x, where=True)", "E320", "use ts.floordiv"),
    ("np.arccos(x)", "E320", "ts has no arccos: use functions of ts, as in ts.exp(x)"),
    ("np.sum(x, axis=0)", "E320", "use ts.sum"),
    ("np.add.reduce(x)", "E320", "use ts.add"),
    ("np.concatenate([x, x])", "E309", "use ts.concatenate"),
    ("np.array([2.0], np.float32) * x + np.arange(3.0, dtype=np.float32)[0]", "", ""),
    ("x * np.shape(x)[1] + np.ndim(x)", "", ""),
    ("ts.conv2d(x, x)", "E105", "use ts.nn.conv2d"),
    ("ts.softmx(x)", "E105", "did you mean `ts.softmax`?"),
])  # fmt: skip
def test_names_of_others_say_ours(tesseracc: Runner, tmp_path: Path, call: str, code: str, help: str) -> None:
    path = tmp_path / "f.py"
    path.write_text(
        "import numpy as np\nimport tessera as ts\n\n@ts.function\n"
        f'def entry(x: ts.Tensor["N", 3, ts.f32]):\n    return {call}\n'
    )
    said = tesseracc("build", path, "--check-only", "--arch", "x86-64-v2")
    assert said.code == (3 if code else 0) and f"error[{code}]" in said.err + "error[]"
    assert said.err.rstrip().endswith(f"help: {help}" if help else "")


@pytest.mark.parametrize(("body", "code", "help"), [
    ("C[m : m + 64, n : n + 64] = A[m : m + 64, 0:8] @ B[n : n + 64, 0:8]", "E211",
     "axis 1 of `C` at line 5: a name is of one dim and width"),
    ("print(M)", "E204", "specs/kernel.md lists the words"),
    ("ts.tile.bariar()", "E204", "did you mean `barrier`?"),
])  # fmt: skip
def test_help_for_kernels(tesseracc: Runner, tmp_path: Path, body: str, code: str, help: str) -> None:
    path = tmp_path / "k.py"
    path.write_text(
        "import tessera as ts\n\n@ts.kernel\ndef entry(" + ", ".join(
            f'{name}: ts.Tensor["{a}", "{b}", ts.f32]' for name, a, b in ("AMK", "BKN", "CMN")
        ) + f"):\n    {body}\n"
    )  # fmt: skip
    said = tesseracc("build", path, "--check-only", "--arch", "x86-64-v2")
    assert said.code == 3 and f"error[{code}]" in said.err
    assert help in said.err.splitlines()[-1] and len(said.err.splitlines()[-1]) < 200


@pytest.mark.parametrize(("text", "reason"), [
    ("N=9223372036854775807", "at most 18 digits"), ("N=x", "'x' is no size"), ("N=1,N=2", "`N` has two sizes"),
    ("=3", "'' is no name of a dim"),
])  # fmt: skip
def test_why_a_size_cannot_be_used(tesseracc: Runner, tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "k.py"
    path.write_text(KERNELS)
    said = tesseracc("build", path, "--specialize", text)
    assert said.code == 2 and "error[E801]" in said.err and reason in said.err
