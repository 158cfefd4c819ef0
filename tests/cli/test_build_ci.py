"""Builds in pipelines: embedded tests, checks without output, diagnostics for programs, many modules at once."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote, urljoin

import numpy as np
import pytest

from tessera_runtime import load as load_bundle
from tessera_runtime.audit import vectors
from tessera_runtime.bundle import BundleFile
from tessera_runtime.cli import main as run_main
from tesseracc.bundle.edit import changed, payloads
from tesseracc.bundle.write import seal
from tests.cli.run import Runner
from tests.cli.samples import build, write_model

CPU = ("--arch", "x86-64-v2", "--arch", "aarch64")
BAD = 'import tessera as ts\n@ts.function\ndef f(x: ts.Tensor["N", 3, ts.f32]):\n    return x @ x\n'
WORSE = BAD + '@ts.function\ndef g(x: ts.Tensor["N", ts.f32]):\n    return ts.rleu(x) + "<&>"\n'


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


# -- embedded tests ----------------------------------------------------------------------------------------------------


def test_embedded_tests_are_the_mathematics(tesseracc: Runner, tmp_path: Path) -> None:
    """Inputs are ragged and not constant; expected results agree with float64 NumPy far within the bounds."""
    file = BundleFile(build(tesseracc, write_model(tmp_path / "src"), tmp_path / "m.tsb", *CPU, "--embed-tests"))
    (w,) = [np.frombuffer(file.constant(c), np.float32).reshape(c.shape) for c in file.manifest.constants]
    seen = set()
    for test in file.manifest.tests:
        inputs, expected = vectors(file, test)
        x = inputs["x"].astype(np.float64)
        seen.add((test.function, x.shape))
        assert x.std() > 0.3 and 0 < float(test.rtol) < 1e-4
        if test.function == "scale":
            np.testing.assert_allclose(expected["x"], x * float(inputs["factor"]), rtol=1e-6)
            continue
        h = 0.5 * np.maximum(x @ w.astype(np.float64), 0)
        p = np.exp(h - h.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        for name, wanted in (("y", p), ("total", x.sum())):
            bound = float(test.atol) + float(test.rtol) * np.abs(wanted)
            assert (np.abs(expected[name] - wanted) <= bound).all()
    assert seen == {("model", (5, 24)), ("model", (19, 24)), ("scale", (5,)), ("scale", (19,))}


def test_validate(tesseracc: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (*CPU, "--arch", "sm_80", "--embed-tests")
    bundle = build(tesseracc, write_model(tmp_path / "src"), tmp_path / "m.tsb", *options)
    for device in ("cpu", "emulator"):
        assert run_main([str(bundle), "--validate", "--device", device, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["passed"], report["failed"], len(report["tests"])) == (4, 0, 4)
    assert run_main([str(bundle), "--validate", "--function", "scale"]) == 0
    assert "2 of 2" in capsys.readouterr().out


def test_validate_finds_wrong_code(tesseracc: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The code of another program under this program's tests: the kernel subtracts instead of multiplying."""
    bundle = build(tesseracc, write_model(tmp_path / "a"), tmp_path / "a.tsb", *CPU, "--embed-tests")
    from tests.cli.samples import MODEL

    other = write_model(tmp_path / "b", MODEL.replace("factor * x[i]", "x[i] - factor"))
    wrong = BundleFile(build(tesseracc, other, tmp_path / "b.tsb", *CPU))
    right = BundleFile(bundle)
    contents = payloads(right) | {n: p for n, p in payloads(wrong).items() if n.startswith("images/")}
    (tmp_path / "c.tsb").write_bytes(seal(changed(right.manifest, targets=wrong.manifest.targets), contents))
    assert run_main([str(tmp_path / "c.tsb"), "--validate", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert {t["name"]: t["passed"] for t in report["tests"]} == {
        "model/0": True, "model/1": True, "scale/0": False, "scale/1": False,
    }  # fmt: skip


def test_validate_without_tests(tesseracc: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = build(tesseracc, write_model(tmp_path / "src"), tmp_path / "m.tsb", *CPU)
    assert run_main([str(bundle), "--validate"]) == 2
    assert "E807" in capsys.readouterr().err
    assert run_main([str(bundle), "--validate", "--input", "x=randn:3xf32"]) == 2
    assert "E801" in capsys.readouterr().err


def test_digits_carry_their_tests(tesseracc: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = Path(__file__).parents[2] / "samples" / "digits.py"
    bundle = build(tesseracc, digits, tmp_path / "d.tsb", *CPU, "--embed-tests")
    assert run_main([str(bundle), "--validate"]) == 0
    assert load_bundle(bundle).manifest.tests


KERNEL = """import tessera as ts

@ts.kernel(group=32)
def bad({parameters}):
    i = ts.tile.linear_id()
{body}

@ts.kernel
def whole(x: ts.Tensor["128*G", ts.f32], y: ts.Tensor["128*G", ts.f32]):
    i = ts.tile.linear_id()
    y[i] = x[i] * 2
"""
VECTORS = 'x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]'
SHARED = "    s = ts.tile.alloc_shared((32,), ts.f32)\n"


@pytest.mark.parametrize(
    ("parameters", "body", "code", "line", "text"),
    [
        (VECTORS, "    y[i] = x[i] * 2", "E216", 6, "`bad` at N = 5: index 5 of axis 0 is outside 0..4 (lane 5)"),
        (VECTORS, "    if i <= N:\n        y[i] = x[i]", "E216", 7, "`bad` at N = 5: index 5 of axis 0"),
        (VECTORS, SHARED + "    if i < N:\n        s[i % 32] = x[i]\n        y[i] = s[31 - i % 32]", "E217", 9,
         "`bad` at N = 5: reads memory of the group that nobody wrote"),
        (VECTORS.replace('"N"', "32"), SHARED + "    s[i] = x[i]\n    y[i] = s[31 - i]", "E215", 8,
         "lane 0 and lane 31 touch one element without a barrier"),
    ],
)  # fmt: skip
def test_a_fault_at_a_size_that_is_allowed_is_an_error(
    tesseracc: Runner, tmp_path: Path, parameters: str, body: str, code: str, line: int, text: str
) -> None:
    path = tmp_path / "k.py"
    path.write_text(KERNEL.format(parameters=parameters, body=body))
    options = (path, "--arch", "x86-64-v2", "--no-cache", "-o", tmp_path / "k.tsb")
    said = tesseracc("build", *options, "--embed-tests", "--json")
    (error,) = json.loads(said.out)["errors"]
    assert said.code == 3 and (error["code"], error["line"], error["file"]) == (code, line, str(path)), error
    assert text in error["message"] and not (tmp_path / "k.tsb").exists()
    assert "-->" in tesseracc("build", *options, "--embed-tests").err
    assert tesseracc("build", *options).code == 0


@pytest.mark.parametrize(
    ("parameters", "body", "text"),
    [
        (VECTORS + ', i0: ts.Tensor["N", ts.i32]', "    if i < N:\n        y[i] = x[i0[i] + 90]",
         "not tested at N = 5 with random integers: index 9"),
        ('x: ts.Tensor["N", 1048576, ts.f32]', "    if i < N:\n        x[i, 0] = 1.0",
         "no tests: its inputs at N = 5 are too large"),
    ],
)  # fmt: skip
def test_what_is_not_tested_is_a_warning(
    tesseracc: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str], parameters: str, body: str, text: str
) -> None:
    """Indices that are drawn may be to blame; the other kernel, which declares multiples, has its tests."""
    path, bundle = tmp_path / "k.py", tmp_path / "k.tsb"
    path.write_text(KERNEL.format(parameters=parameters, body=body))
    options = ("build", path, "--arch", "x86-64-v2", "--cache-dir", tmp_path / "cache", "--embed-tests", "-o", bundle)
    for _ in range(2):  # built, and from the cache
        said = tesseracc(*options)
        assert said.code == 0 and f"warning[W807]: bad: {text}" in said.err
    found = json.loads(tesseracc(*options, "--json").out)["warnings"]
    assert found and all((w["code"], w["subject"], w["target"]) == ("W807", "bad", "") for w in found)
    said = tesseracc(*options, "--diagnostics-format", "json")
    told = json.loads(said.out)["modules"][0]["diagnostics"]
    assert {d["code"] for d in told} == {"W807"} and all(d["message"].startswith(f"bad: {text[:8]}") for d in told)
    tests = [t.function for t in load_bundle(bundle).manifest.tests]
    assert tests.count("whole") == 2
    assert run_main([str(bundle), "--validate", "--function", "whole"]) == 0
    assert run_main([str(bundle), "--validate", "--function", "bad"]) == (0 if "bad" in tests else 2)
    said_of = capsys.readouterr()
    assert ("bad" in tests or "warning W807" in said_of.err) and "2 of 2" in said_of.out


# -- check only, diagnostics -------------------------------------------------------------------------------------------


def test_check_only(tesseracc: Runner, tmp_path: Path) -> None:
    source = write_model(tmp_path)
    before = sorted(tmp_path.iterdir())
    said = tesseracc("build", source, "--check-only", *CPU)
    assert said.code == 0 and "model, scale for x86-64-v2, aarch64: no errors" in said.out
    said = tesseracc("build", source, "--check-only", *CPU, "--json")
    assert json.loads(said.out)["bundle"] is None and json.loads(said.out)["kernels"]["aarch64"] >= 3
    source.write_text(BAD)
    said = tesseracc("build", source, "--check-only", *CPU)
    assert said.code == 3 and "E302" in said.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("form", ["json", "sarif", "junit"])
def test_diagnostics(tesseracc: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(WORSE)
    said = tesseracc("build", "model.py", "--check-only", "--diagnostics-format", form)
    assert said.code == 3 and said.err == ""
    places = [("E302", 4), ("E105", 7)]
    if form == "json":
        (module,) = json.loads(said.out)["modules"]
        assert [(d["code"], d["line"]) for d in module["diagnostics"]] == places and module["exit_code"] == 3
        assert module["diagnostics"][0]["file"] == "model.py" and "^" in module["diagnostics"][0]["rendered"]
    elif form == "sarif":
        (run,) = json.loads(said.out)["runs"]
        assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["E105", "E302"]
        assert not run["invocations"][0]["executionSuccessful"]
        for (code, line), result in zip(places, run["results"], strict=True):
            place = result["locations"][0]["physicalLocation"]
            assert (result["ruleId"], result["level"], place["region"]["startLine"]) == (code, "error", line)
            assert place["artifactLocation"]["uri"] == "model.py"
            assert place["region"]["endColumn"] > place["region"]["startColumn"] >= 5
    else:
        (suite,) = ET.fromstring(said.out)
        assert suite.attrib == {"name": "model.py", "tests": "2", "failures": "2", "errors": "0"}
        assert [case[0].attrib["type"] for case in suite] == ["E302", "E105"]
        assert "ts.rleu(x)" in (suite[1][0].text or "") and '"<&>"' in (suite[1][0].text or "")


@pytest.mark.parametrize("name", ["a b%.py", "sub:ject#1?.py", "modül/é.py", "a\\b.py"])
def test_places_are_uris(tesseracc: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Percent-encoded, so that whoever resolves them arrives at the file; outside the working directory a file: URI."""
    path = tmp_path / "here" / name
    path.parent.mkdir(parents=True)
    path.write_text(BAD)
    for cwd, given in ((tmp_path / "here", name), (path.parent, path), (tmp_path / "here", path)):
        monkeypatch.chdir(cwd)
        said = tesseracc("build", given, "--check-only", "--diagnostics-format", "sarif")
        (result,) = json.loads(said.out)["runs"][0]["results"]
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"(?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})+", uri), uri
        assert unquote(urljoin(f"{cwd.as_uri()}/", uri)) == f"file://{path}"
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    said = tesseracc("build", path, "--check-only", "--diagnostics-format", "sarif")
    (result,) = json.loads(said.out)["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == path.as_uri()


@pytest.mark.parametrize("form", ["json", "sarif", "junit"])
def test_diagnostics_of_success(tesseracc: Runner, tmp_path: Path, form: str) -> None:
    source = write_model(tmp_path)
    said = tesseracc("build", source, *CPU, "--diagnostics-format", form)
    assert said.code == 0 and source.with_suffix(".tsb").is_file()
    if form == "json":
        (module,) = json.loads(said.out)["modules"]
        assert module["exit_code"] == 0 and module["result"]["functions"] == ["model", "scale"]
    elif form == "sarif":
        (run,) = json.loads(said.out)["runs"]
        assert run["results"] == [] and run["invocations"][0]["executionSuccessful"]
        noted = tesseracc("build", source, *CPU, "--diagnostics-format", form, "--notes")
        results = json.loads(noted.out)["runs"][0]["results"]
        assert results and all(r["level"] == "note" and "ruleId" not in r for r in results)
    else:
        (suite,) = ET.fromstring(said.out)
        assert suite.attrib["failures"] == "0" and suite.attrib["tests"] == "1"


# -- many modules ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "pkg" / "deep")
    tiny = 'import tessera as ts\n@ts.function\ndef f(x: ts.Tensor["N", ts.f32]):\n    return x + 1.0\n'
    (tmp_path / "pkg" / "tiny.py").write_text(tiny)
    (tmp_path / "pkg" / "_private.py").write_text(BAD)
    (tmp_path / "pkg" / "script.py").write_text("raise SystemExit('never run')\n")
    return tmp_path / "pkg"


def test_all(tesseracc: Runner, folder: Path, tmp_path: Path) -> None:
    said = tesseracc("build", folder, "--all", "--arch", "x86-64-v2", "-o", tmp_path / "out")
    assert said.code == 0 and "2 of 2 modules built" in said.out
    built = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.tsb"))
    assert built == ["deep/model.tsb", "tiny.tsb"]
    alone = build(tesseracc, folder / "tiny.py", tmp_path / "t.tsb", "--arch", "x86-64-v2")
    assert alone.read_bytes() == (tmp_path / "out" / "tiny.tsb").read_bytes()
    assert not list(folder.rglob("*.tsb"))


def test_all_asks_the_modules_themselves(tesseracc: Runner, tmp_path: Path) -> None:
    """However a module comes to hold a function; each is executed once; what is not of the language is not executed."""
    folder, out = tmp_path / "src", tmp_path / "out"
    (folder / "tools").mkdir(parents=True)
    mark = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__ + ' ')\n"
    body = 'def f(x: ts.Tensor["N", ts.f32]):\n    return x + 1.0\n'
    files = {
        "renamed": f"import tessera as ts\nfrom tessera import function as fn\n@fn\n{body}",
        "called": f"from language import *\n{body}h = mark(f)\n",
        "language": "import tessera as ts\nmark = ts.function\n",
        "tools/unused": "import tessera\n", "foreign": "def jit(f): return f\n@jit\ndef f(x): return x\n",
    }  # fmt: skip
    for name, text in files.items():
        (folder / f"{name}.py").write_text(mark + text)
    said = tesseracc("build", folder, "--all", "--arch", "x86-64-v2", "--check-only")
    assert said.code == 0 and "2 of 2 modules pass; 2 without functions or kernels" in said.out, said
    assert sorted((tmp_path / "ran").read_text().split()) == [
        "called", "language", "language", "renamed", "unused",
    ]  # fmt: skip
    said = tesseracc("build", folder / "tools", "--all", "--arch", "x86-64-v2", "--json", "-o", out / "deep")
    assert said.code == 2 and json.loads(said.out)["errors"][0]["code"] == "E802" and not out.exists()


def test_all_with_errors(tesseracc: Runner, folder: Path) -> None:
    (folder / "bad.py").write_text(BAD)
    (folder / "worse.py").write_text("import tessera\ndef f(:\n")
    said = tesseracc("build", folder, "--all", "--check-only", "--arch", "x86-64-v2")
    assert said.code == 3 and "2 of 4 modules pass" in said.out and "E302" in said.err and "E101" in said.err
    said = tesseracc("build", folder, "--all", "--check-only", "--arch", "x86-64-v2", "--diagnostics-format", "junit")
    suites = list(ET.fromstring(said.out))
    assert said.code == 3 and [Path(s.attrib["name"]).name for s in suites] == [
        "bad.py", "model.py", "tiny.py", "worse.py",
    ]  # fmt: skip
    assert [s.attrib["failures"] for s in suites] == ["1", "0", "0", "1"]


def test_bad_input(tesseracc: Runner, tmp_path: Path) -> None:
    source = write_model(tmp_path / "src")
    assert "E802" in tesseracc("build", source, "--all").err
    (tmp_path / "empty").mkdir()
    assert "E802" in tesseracc("build", tmp_path / "empty", "--all").err
    for options in (("--json", "--diagnostics-format", "sarif"), ("--emit", "ptx", "--check-only")):
        assert tesseracc("build", source, *options).code == 2
    for options in (("--all", "--entry", "f"), ("--all", "--emit", "ptx")):
        assert tesseracc("build", source, *options).code == 2
    assert tesseracc("build", source, "--diagnostics-format", "yaml").code == 2


def test_all_passes_options_on_and_survives_what_is_no_module(tesseracc: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    write_model(folder)
    (folder / "folder.py").mkdir()
    os.mkfifo(folder / "pipe.py")
    (folder / "deep.py").write_text("x = " + "-" * 100_000 + "1")
    out = tmp_path / "out"
    said = tesseracc("build", folder, "--all", "--arch", "x86-64-v3", "--numerics", "strict", "-o", out)
    assert said.code == 0, said.err
    assert "--numerics=strict" in BundleFile(out / "model.tsb").manifest.provenance.options
    quits = "import tessera as ts, os\nos._exit(0)\n@ts.function\ndef f(x: ts.Tensor['N', ts.f32]): return x\n"
    (folder / "quits.py").write_text(quits)
    said = tesseracc("build", folder, "--all", "--arch", "x86-64-v3", "-o", out)
    assert said.code == 70 and "1 of 2 modules built" in said.out and "quits.py" in said.err
