"""`tessera-run`: results, files, comparison, embedded tests, exit codes; never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tessera_runtime.cli import main, parser
from tessera_runtime.compare import compare
from tessera_runtime.core import safetensors
from tessera_runtime.core.dtypes import DTYPES, np_dtype, storage_dtype
from tessera_runtime.core.errors import InputError
from tessera_runtime.run import expected_array
from tesseracc.bundle import TestCase, write
from tests.runtime.support import bundle_bytes, contents, cpu_target, functions, kernels, plans


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("cli") / "m.tsb"
    file.write_bytes(bundle_bytes())
    return str(file)

SPECS = Path(__file__).parents[2] / "specs" / "cli.md"


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def test_prints_results(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, path, "--function", "saxpy", "--input", "a=2", "--input", "x=3xf32=1 2 3", "--input", "y=3xf32=0.5"
    )
    assert code == 0 and out == "y: f32[3]\n  [2.5 4.5 6.5]\n"


def test_positional_inputs_and_json(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys,
        path,
        "--function=saxpy",
        "--input=2",
        "--input=2xf32=1 nan",
        "--input=2xf32=0.1",
        "--json",
        "--threads=2",
    )
    report = json.loads(out)
    assert code == report["exit_code"] == 0
    assert report["outputs"] == [{"name": "y", "dtype": "f32", "shape": [2], "values": [2.1, "nan"]}]
    assert report["function"] == "saxpy" and report["device"] == "cpu" and report["target"] == "cpu-base"


def test_files_in_and_out_and_comparison(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "x.safetensors").write_bytes(safetensors.save({"x": x}))
    y = tmp_path / "y.npy"
    code, out, _ = run(
        capsys, path, "--function", "reverse", "--input", f"x=@{tmp_path}/x.npy", "--output", f"out=@{y}"
    )
    assert code == 0 and out == f"out: f32[6, 7] -> {y}\n"
    np.testing.assert_array_equal(np.load(y), x[:, ::-1])
    arguments = (path, "--function", "reverse", "--input", f"x=@{tmp_path}/x.safetensors", "--expected")
    code, out, _ = run(capsys, *arguments, f"out=@{y}")
    assert code == 0 and out.endswith("out: as expected\n")
    wrong = x[:, ::-1].copy()
    wrong[2, 3] += 0.25
    np.save(y, wrong)
    code, out, _ = run(capsys, *arguments, f"out=@{y}")
    assert code == 1
    assert (
        f"mismatch: out at [2, 3]: expected {wrong[2, 3]!s}, actual {x[2, 3]!s}; 1 of 42 elements differ"
        in out
    )
    code, out, _ = run(capsys, *arguments, f"out=@{y}", "--atol", "0.3")
    assert code == 0
    code, out, _ = run(capsys, *arguments, "out=6x6xf32=0", "--json")
    report = json.loads(out)
    assert (
        code == report["exit_code"] == 1
        and report["comparisons"][0]["message"] == "expected shape [6, 6], actual [6, 7]"
    )


def test_the_only_result_needs_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tessera_runtime.core.manifest import Arg, Buffer, Function, Launch, Output, Plan

    bias = Function("bias", "", (), (), (Output("row", "f32", (1, 5)),))
    plan = Plan("bias", (Buffer("constant", "w", "f32", (5,)), Buffer("output", "row", "f32", (1, 5))),
                (Launch(2, (1, 1, 1), (Arg(buffer=0), Arg(buffer=1), Arg(dim=5))),))  # fmt: skip
    write(tmp_path / "m.tsb", contents(tests=(), functions=(bias,), targets=(cpu_target(plans=(plan,)),)))
    code, out, _ = run(capsys, tmp_path / "m.tsb", "--output", f"@{tmp_path}/y.npy")
    assert code == 0 and out == f"row: f32[1, 5] -> {tmp_path}/y.npy\n"
    code, out, _ = run(capsys, tmp_path / "m.tsb", "--expected", f"@{tmp_path}/y.npy")
    assert code == 0 and out.endswith("row: as expected\n")
    twice = ("--output", f"@{tmp_path}/y.npy", "--output", f"row=@{tmp_path}/z.npy")
    code, _, err = run(capsys, tmp_path / "m.tsb", *twice)
    assert code == 2 and "stored twice" in err and not (tmp_path / "z.npy").exists()


def test_what_is_expected_is_read_before_the_work(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, path, "--function", "reverse", "--input", "x=2x2xf32=1", "--expected", "out=@no.npy")
    assert code == 2 and out == "" and "error[E802]: cannot read 'no.npy'" in err


@pytest.mark.parametrize(("given", "told"), [
    ("x=foo", "not understood"), ("x=f32", "a value is missing: 'f32=0'"), ("x=4xf32", "a value is missing: '4xf32=0'"),
])  # fmt: skip
def test_words_that_are_no_input(path: str, capsys: pytest.CaptureFixture[str], given: str, told: str) -> None:
    code, _, err = run(capsys, path, "--function", "reverse", "--input", given)
    assert code == 7 and f"error[E711]: input '{given}': {told}\n" in err


def test_completion_knows_the_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line of specs/cli.md takes them from the help, and no others."""
    (words,) = re.findall(r"^complete -o default (-W .*) tessera-run$", SPECS.read_text(), re.MULTILINE)
    main(["--help"])
    (tmp_path / "tessera-run").write_text(f"#!/bin/sh\ncat <<'END'\n{capsys.readouterr().out}\nEND\n")
    (tmp_path / "tessera-run").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", f"compgen {words}"], env=env, capture_output=True, text=True, check=True)
    options = {a.option_strings[-1] for a in parser()._actions if a.option_strings}
    assert set(done.stdout.split()) == options - {"--help"}


@pytest.mark.parametrize(("given", "wanted", "told"), [
    ("1 nan", "0", (0.0, "nan", 1.0)), ("1 -inf", "1", (1.0, "-inf", "inf")), ("3 2", "nan", ("nan", 2.0, "inf")),
])  # fmt: skip
def test_a_difference_in_what_json_has_no_number_for(
    path: str, capsys: pytest.CaptureFixture[str], given: str, wanted: str, told: tuple[object, ...]
) -> None:
    inputs = f"--input=1x2xf32={given}"
    code, out, _ = run(capsys, path, "--function=reverse", inputs, f"--expected=1x2xf32={wanted} {wanted}", "--json")
    found = json.loads(out)["comparisons"][0]
    assert code == 1 and (found["expected"], found["actual"], found["largest"]) == told
    assert found["position"] == [0, 0]


def test_store_as_safetensors(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = run(
        capsys, path, "--function", "chain", "--input", "x=2x5xf32=1", "--output", f"out1=@{tmp_path}/o.safetensors"
    )
    assert code == 0
    assert safetensors.load((tmp_path / "o.safetensors").read_bytes())["out1"].tolist() == [[1.0] * 5] * 2


def test_randn_depends_on_the_seed(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (path, "--function", "reverse", "--input", "x=randn:2x3xf32")
    first = run(capsys, *arguments)[1]
    assert first == run(capsys, *arguments)[1] != run(capsys, *arguments, "--seed", "1")[1]


def test_bare_run_runs_the_embedded_tests(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, path)
    assert code == 0 and out == "pass chain\npass saxpy\n2 of 2 embedded tests passed on cpu (cpu-base)\n"
    x = np.ones((2, 5), np.float32)
    bad = tmp_path / "bad.tsb"
    write(bad, contents(tests=(TestCase("wrong", "reverse", {"x": x}, {"out": 2 * x}),)))
    code, out, _ = run(capsys, bad)
    assert code == 1 and "FAIL wrong\n     out at [0, 0]: expected 2.0, actual 1.0; 10 of 10 elements differ" in out


def test_bare_run_without_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = tmp_path / "several.tsb"
    write(several, contents(tests=()))
    code, out, err = run(capsys, several)
    assert code == 2 and "reverse(x: f32[B, D]) -> out: f32[B, D]" in out
    assert err.startswith("error[E804]: no function is chosen") and "--function" in err
    code, out, err = run(capsys, several, "--json")
    told = json.loads(out)
    assert code == told["exit_code"] == 2 and not err and told["errors"][0]["code"] == "E804"
    assert [f["name"] for f in told["functions"]] == [f.name for f in functions()]
    code, out, _ = run(capsys, several, "--list")
    assert code == 0 and "targets: cpu-base" in out
    # One function without arguments: it is run.
    from tessera_runtime.core.manifest import Arg, Buffer, Function, Launch, Output, Plan

    f = Function("bias", "", (), (), (Output("out", "f32", (1, 5)),))
    plan = Plan("bias", (Buffer("constant", "w", "f32", (5,)), Buffer("output", "out", "f32", (1, 5))),
                (Launch(2, (1, 1, 1), (Arg(buffer=0), Arg(buffer=1), Arg(dim=5))),))  # fmt: skip
    lone = tmp_path / "lone.tsb"
    write(lone, contents(tests=(), functions=(f,), targets=(cpu_target(plans=(plan,)),)))
    code, out, _ = run(capsys, lone)
    assert code == 0 and out == "out: f32[1, 5]\n  [[ 7.00e+00  1.00e-03  3.00e+00 -1.25e+00  5.00e-01]]\n"
    assert len(functions()) == len(plans()) and len(kernels()) == 4


def test_benchmark(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, path, "--function", "reverse", "--input", "x=9x9xf32=1", "--benchmark", "7", "--json")
    figures = json.loads(out)["benchmark"]
    assert code == 0 and figures["calls"] == 7 and 0 < figures["min_ms"] <= figures["median_ms"] <= figures["max_ms"]


def test_verify(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, path, "--verify")
    assert code == 0 and out.startswith("verified sha256:")


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (["--inputs=1"], 2, "E801"), (["--atol", "x"], 2, "E801"), (["--atol", "-1"], 2, "E801"), ([], 2, None),
        (["--input", "x=1"], 2, "E804"), (["--function", "nope"], 7, "E714"), (["--function", "reverse"], 7, "E701"),
        (["--function", "reverse", "--input", "x=2xf32=1"], 7, "E702"),
        (["--function", "reverse", "--input", "z=1"], 7, "E701"),
        (["--function", "reverse", "--input", "x=1x1xf32=1", "--input", "x=1x1xf32=1"], 7, "E701"),
        (["--function", "reverse", "--input", "1x1xf32=1", "--input", "1x1xf32=1"], 7, "E701"),
        (["--function", "reverse", "--input", "x=@nope.npy"], 2, "E802"),
        (["--function", "reverse", "--input", "x=?"], 7, "E711"),
        (["--function", "reverse", "--input", "x=1x1xf32=1", "--output", "out=@/nope/y.npy"], 2, "E803"),
        (["--function", "reverse", "--input", "x=1x1xf32=1", "--output", "y=@y.npy"], 2, "E801"),
        (["--function", "reverse", "--input", "x=1x1xf32=1", "--output", "out=y.txt"], 2, "E801"),
        (["--function", "reverse", "--input", "x=1x1xf32=1", "--expected", "y=1"], 2, "E801"),
        (["--device", "tpu"], 6, "E901"), (["--threads", "0"], 2, "E801"),
    ],
)  # fmt: skip
def test_mistakes(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, error: str | None
) -> None:
    bundle = path
    if error is None:
        bundle = str(tmp_path / "none.tsb")
        write(bundle, contents(tests=()))
    actual, _, err = run(capsys, bundle, *args)
    assert actual == code and (error is None or err.startswith(f"error[{error}]: ")), err
    if error is not None:
        actual, out, _ = run(capsys, bundle, *args, "--json")
        assert actual == code and json.loads(out)["errors"][0]["code"] == error


def test_damaged_and_missing_bundles(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "short.tsb").write_bytes(bundle_bytes()[:-1])
    (tmp_path / "empty.tsb").write_bytes(b"")
    for name, code, error in (
        ("short.tsb", 5, "E602"),
        ("empty.tsb", 5, "E601"),
        ("gone.tsb", 2, "E802"),
        (".", 2, "E802"),
    ):
        actual, _, err = run(capsys, tmp_path / name)
        assert actual == code and err.startswith(f"error[{error}]"), err


def test_an_internal_fault_is_short(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr("tessera_runtime.api.load", broken)
    code, _, err = run(capsys, path)
    assert code == 70 and err.startswith("internal error: RuntimeError: bug\n")
    monkeypatch.setenv("TESSERA_DEBUG", "1")
    assert main([path]) == 70
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and "internal error: RuntimeError: bug\n" in err


def test_as_a_process(path: str) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root / "runtime"), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-m", "tessera_runtime.cli", path], capture_output=True, text=True, env=environment, cwd="/"
    )
    assert done.returncode == 0 and done.stderr == "" and "2 of 2 embedded tests passed" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "tessera_runtime.cli", "--help"],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
    )
    assert done.returncode == 0 and "exit codes:" in done.stdout
    # The language, the compiler and what only they need stay out of a process that runs a bundle.
    code = "import sys; before = set(sys.modules); import tessera_runtime.cli as c; c.main([sys.argv[1]]); "
    code += "new = set(sys.modules) - before; "
    code += "print([m for m in ('tessera', 'tesseracc', 'llvmlite', 'click', 'ml_dtypes', 'cuda') if m in new])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, env=environment, cwd="/")
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_compare() -> None:
    nan, inf = np.nan, np.inf
    a = np.array([1.0, nan, inf, -inf], np.float32)
    assert compare(a, a.copy(), "f32", 0, 0) is None
    assert compare(a, np.array([1.0, 0, inf, -inf], np.float32), "f32", 1e9, 1e9) is not None
    assert compare(a, np.array([1.0, nan, -inf, -inf], np.float32), "f32", 1, 1) is not None
    assert compare(np.array([inf]), np.array([1e300]), "f64", 1e308, 1) is not None
    assert compare(np.array([100.0]), np.array([101.0]), "f64", 0, 0.01) is None
    assert compare(np.array([3], np.int32), np.array([4], np.int32), "i32", 9, 9) is not None
    raw = np.array([0x3F80, 0x4000], np.uint16)  # bf16 1 and 2, as they are without ml_dtypes
    assert compare(raw, np.array([0x3F80, 0x4001], np.uint16), "bf16", 0, 0.01) is None
    b = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    found = compare(b, np.array([1.0, 3.0], ml_dtypes.bfloat16), "bf16", 0, 0)
    assert found is not None and (found.position, found.expected, found.actual, found.wrong, found.largest) == (
        (1,),
        3.0,
        2.0,
        1,
        1.0,
    )


def test_a_run_imports_little(path: str) -> None:
    """What is slow to import is imported where it is used; NumPy aside, a run needs little."""
    program = (
        "import numpy, sys; before = set(sys.modules); from tessera_runtime.cli import main; "
        f"code = main([{path!r}, '--function=reverse', '--input=2x3xf32=1']); "
        "print(*sorted(set(sys.modules) - before)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names = set(done.stdout.splitlines()[-1].split())
    slow = {"statistics", "tempfile", "random", "shutil", "decimal", "fractions", "lzma", "numpy.typing", "ml_dtypes"}
    own = ("dlpack", "profile", "signature", "bisect")
    slow |= {"importlib.metadata", *(f"tessera_runtime.{name}" for name in own)}
    assert not slow & names, slow & names
    assert "tessera_runtime.devices.cpu" in names
    assert {name.partition(".")[0] for name in names} & {"tessera", "tesseracc", "cuda"} == set()


def test_the_end_of_the_process(path: str) -> None:
    """Everything is written, exit functions run, the exit code is right, and a closed pipe is no accident."""
    program = (
        "import atexit, os, sys; atexit.register(lambda: os.write(2, b'bye')); "
        "sys.argv = ['tessera-run', *sys.argv[1:]]; from tessera_runtime.cli import command; command()"
    )

    def run_process(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, check=False)

    done = run_process(path, "--function=reverse", "--input=x=randn:25x40xf32", "--json")
    assert done.returncode == 0 and done.stderr == "bye"
    assert np.shape(json.loads(done.stdout)["outputs"][0]["values"]) == (25, 40)
    for args, code in (((path, "--function=none"), 7), (("none.tsb",), 2), ((path, "--function=reverse",
                       "--input=2x2xf32=1", "--expected=2x2xf32=2"), 1)):  # fmt: skip
        done = run_process(*args)
        assert done.returncode == code and done.stderr.endswith("bye")
    piped = subprocess.Popen(
        [sys.executable, "-c", program, path, "--function=reverse", "--input=x=randn:1000x1xf32"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert piped.stdout is not None and piped.stderr is not None
    piped.stdout.close()
    with piped.stderr:
        told = piped.stderr.read()
    assert piped.wait() == 0 and told == b"bye"


@pytest.mark.parametrize("dtype", ["bf16", "fp8_e4m3", "fp8_e5m2", "f16", "fp6_e2m3", "i4", "u4", "i8", "f32"])
def test_what_is_expected_may_have_another_type(dtype: str) -> None:
    """Values count, whatever type they have; raw integers of a type's storage stand for it."""
    values = np.array([[0, 1, 2], [3, 4, 6]])
    result = values.astype(np_dtype(dtype))
    kinds = ["i8", "i16", "i64", "u8", "u32"]
    if DTYPES[dtype].kind == "f":
        kinds += ["f16", "f32", "f64", "bf16", "fp8_e5m2"]
    for kind in kinds:
        given = values.astype(np_dtype(kind))
        if given.dtype == storage_dtype(dtype) and DTYPES[dtype].numpy != DTYPES[dtype].raw:
            given = result.view(given.dtype)
        for expected in (given, given[:, ::-1][:, ::-1]):
            assert compare(result, expected_array("y", expected, dtype, result), dtype, 0, 0) is None, kind
        given = given.copy()
        given[1, 2] = 5
        found = compare(result, given, dtype, 0, 0)
        assert found is not None and found.position == (1, 2) and found.wrong == 1


@pytest.mark.parametrize(("value", "code"), [(4.9, "E711"), (float("nan"), "E711"), (float("inf"), "E711"),
                                             (10**23, "E711"), (np.full(2, 4, np.float32), "E703")])
def test_what_is_expected_of_integers_is_no_fraction(value: Any, code: str) -> None:
    with pytest.raises(InputError) as caught:
        expected_array("y", value, "i32", np.full(2, 4, np.int32))
    assert caught.value.code == code
    np.testing.assert_array_equal(expected_array("y", 4.0, "i32", np.full(2, 4, np.int32)), [4, 4])


def test_an_interrupt_is_one_document(path: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tessera_runtime.run.Runner.run", stopped)
    monkeypatch.setattr("tessera_runtime.core.command.end_at_next", lambda: None)  # this process does not end
    code, out, err = run(capsys, path, "--json")
    assert code == 130 and err == ""
    assert json.loads(out)["errors"] == [{"code": "interrupted", "message": "interrupted", "exit_code": 130}]
    assert run(capsys, path) == (130, "", "interrupted\n")
