"""Bad input: a code, a caret where there is a line, a help line, an exit code, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tessera_runtime.cli import main as run_bundle
from tests.cli.run import Runner
from tests.runtime.support import bundle_bytes

HEAD = "import tessera as ts\n"
FUNCTION = HEAD + '@ts.function\ndef f(x: ts.Tensor["N", "K", ts.f32], w: ts.Tensor["D", "K", ts.f32]):\n'
KERNEL = HEAD + '@ts.kernel\ndef f(x: ts.Tensor["N", ts.f32]):\n    i = ts.tile.linear_id()\n'

#: text, code, line of the caret, exit code
SOURCES: dict[str, tuple[str, str, int | None, int]] = {
    "syntax": (HEAD + "def f(:\n", "E101", 2, 3),
    "null byte": (HEAD + "x = '\0'\n", "E101", None, 3),
    "import": (HEAD + "import no_such_module_here\n", "E102", 2, 3),
    "exception": (HEAD + "y = 1 / 0\n", "E103", 2, 3),
    "exit": (HEAD + "raise SystemExit(5)\n", "E103", None, 3),
    "nothing": ("x = 1\n", "E104", None, 3),
    "name in function": (FUNCTION + "    return xx + w\n", "E105", 4, 3),
    "operator": (FUNCTION + "    return ts.rleu(x)\n", "E105", 4, 3),
    "recursion": (FUNCTION + "    return f(x, w)\n", "E105", 4, 3),
    "shapes": (FUNCTION + "    return x @ w\n", "E302", 4, 3),
    "broadcast": (FUNCTION + "    return x + w\n", "E302", 4, 3),
    "no tensor": (FUNCTION + "    return 'text'\n", "E317", None, 3),
    "branch on a value": (FUNCTION + "    return x if x[0, 0] > 0 else w\n", "E309", 4, 3),
    "annotation": (HEAD + '@ts.function\ndef f(x: ts.Tensor["N", ts.f33]):\n    return x\n', "E103", 3, 3),
    "kernel syntax": (KERNEL + "    try:\n        x[i] = 1.0\n    except:\n        pass\n", "E202", 5, 3),
    "kernel name": (KERNEL + "    if i < N:\n        x[i] = yy\n", "E203", 6, 3),
}


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_source(tesseracc: Runner, tmp_path: Path, name: str) -> None:
    text, code, line, exit_code = SOURCES[name]
    path = tmp_path / "model.py"
    path.write_text(text)
    out = tmp_path / "out"
    out.mkdir()
    said = tesseracc("build", path, "--arch", "x86-64-v3", "-o", out / "m.tsb")
    assert (said.code, said.out) == (exit_code, "")
    assert f"error[{code}]" in said.err
    if line is not None:
        assert f"model.py:{line}:" in said.err and "^" in said.err
    assert list(out.iterdir()) == []
    errors = json.loads(tesseracc("build", path, "--json", "-o", out / "m.tsb").out)["errors"]
    assert errors[0]["code"] == code and (line is None or errors[0]["line"] == line)


def test_not_utf8(tesseracc: Runner, tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_bytes(b"# caf\xe9\nx = 1\n")
    said = tesseracc("build", path)
    assert said.code == 3 and "E101" in said.err
    path.with_suffix(".tsb").write_bytes(bundle_bytes())
    said = tesseracc("build", path.with_suffix(".tsb"), "-o", tmp_path / "o.tsb")
    assert said.code == 3 and "`tesseracc inspect` shows what a bundle holds" in said.err


def test_several_errors_in_one_run(tesseracc: Runner, tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    kernel = SOURCES["kernel syntax"][0].removeprefix(HEAD).replace(" f(", " g(")
    path.write_text(FUNCTION + "    return x @ w\n" + kernel)
    said = tesseracc("build", path)
    assert said.code == 3 and "E302" in said.err and "E202" in said.err


def test_files_and_options(tesseracc: Runner, tmp_path: Path) -> None:
    good = tmp_path / "good.py"
    good.write_text(HEAD + '@ts.function\ndef f(x: ts.Tensor["N", ts.f32]):\n    return x + 1\n')
    cases: list[tuple[tuple[object, ...], str, int]] = [
        (("build", tmp_path / "none.py"), "E802", 2),
        (("build", tmp_path), "E802", 2),
        (("build", good, "--arch", "sm_99"), "E805", 2),
        (("build", good, "-o", tmp_path / "no" / "m.tsb"), "E803", 2),
        (("build", good, "-o", tmp_path), "E803", 2),
        (("build", good, "--entry", "g"), "E104", 3),
        (("build", good, "--input-spec", "z=f32[N]"), "E801", 2),
        (("build", good, "--input-spec", "x=f99[N]"), "E801", 2),
        (("opt", tmp_path / "none.tir"), "E802", 2),
        (("explain", "E999"), "E801", 2),
        (("emulate", tmp_path / "none.ptx"), "E802", 2),
    ]
    for args, code, exit_code in cases:
        said = tesseracc(*args)
        assert (said.code, said.out) == (exit_code, ""), args
        assert code in said.err, (args, said.err)
    for args in (("bild",), ("build",), ("build", good, "--emit", "sas"), ("build", good, "--jobs", "0"), ("--nope",)):
        said = tesseracc(*args)
        assert said.code == 2 and said.err, args
    assert "did you mean" in tesseracc("bild").err.lower()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.py"]


def test_a_failed_build_keeps_the_old_bundle(tesseracc: Runner, tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(FUNCTION + "    return x @ w\n")
    old = tmp_path / "model.tsb"
    old.write_bytes(b"old")
    assert tesseracc("build", path).code == 3
    assert old.read_bytes() == b"old"


IR = """graph.func @f(%x: tensor<f32[N]>) -> (tensor<f32[N]>) {
  %0 = graph.exp %x : tensor<f32[N]>
  yield %0
}
"""


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("graph.exp", "graph.expp"), "E403"),
        (("%0 = graph.exp %x", "%0 = graph.exp %y"), "E403"),
        ((": tensor<f32[N]>\n  yield", ": tensor<f32[M]>\n  yield"), "E403"),
        (("graph.exp %x :", "graph.exp %x, %x :"), "E404"),
        (("yield %0", "yield %0, %0"), "E403"),
        (("}\n", ""), "E403"),
        (("f32[N]", "f31[N]"), "E403"),
        (("graph.func", "graph.funk"), "E404"),
        (("%x :", "%x {a = 1} :"), "E403"),
    ],
)
def test_ir_text(tesseracc: Runner, tmp_path: Path, change: tuple[str, str], code: str) -> None:
    path = tmp_path / "m.tir"
    path.write_text(IR)
    assert tesseracc("opt", path).code == 0
    path.write_text(IR.replace(*change, 1))
    said = tesseracc("opt", path)
    assert said.code == 3 and f"error[{code}]" in said.err and said.out == ""


def test_what_is_read_is_not_written_over(
    tesseracc: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page, a trace or a bundle over the file that it is made of, by its name or another."""
    source, bundle, link = tmp_path / "m.py", tmp_path / "m.tsb", tmp_path / "link"
    source.write_text(FUNCTION + "    return x * 2.0\n")
    assert tesseracc("build", source, "--arch", "x86-64-v2", "-o", source).code == 2
    assert source.read_text().endswith("return x * 2.0\n")
    bundle.write_bytes(bundle_bytes())
    link.symlink_to(bundle)
    for path in (bundle, link, tmp_path / "." / "m.tsb"):
        said = tesseracc("inspect", bundle, "--html", path)
        assert said.code == 2 and "E803" in said.err
        arguments = ["--function=chain", "--input=randn:4x5xf32", "--profile", str(path)]
        assert run_bundle([str(bundle), *arguments]) == 2 and "E803" in capsys.readouterr().err
    assert bundle.read_bytes() == bundle_bytes()
