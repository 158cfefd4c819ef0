"""What a hostile user gives: names, numbers, files. An error code, its exit code, no word of an internal error (the
runner looks), and nothing is written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tessera.errors import MAX_LINE
from tessera_runtime.bundle import BundleFile
from tessera_runtime.cli import main as run_bundle
from tessera_runtime.core.inputspec import load_array, parse
from tests.cli.run import Runner
from tests.cli.test_streams import ENV
from tests.runtime.support import bundle_bytes

MODEL = 'import tessera as ts\n\n\n@ts.function\ndef f(x: ts.Tensor["N", ts.f32]):\n    return x + 1\n'
PTX = """.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 p) { ret; }
"""
CPU = ("--arch", "x86-64-v2")


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(MODEL)
    (tmp_path / "k.ptx").write_text(PTX)
    (tmp_path / "m.tsb").write_bytes(bundle_bytes())
    (tmp_path / "empty.tir").touch()
    (tmp_path / "junk.npy").write_bytes(b"\x93NUMPY junk")
    (tmp_path / "vast.npy").write_bytes(b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': "
                                        b"(999999999999999,), }\n")  # fmt: skip
    with (tmp_path / "sparse.tir").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "deep.yaml").write_text("[" * 100_000)
    (tmp_path / "bomb.yaml").write_text("a: &a [1]\nb: [*a, *a]\n")
    (tmp_path / "date.yaml").write_text("version: 2001-99-99\n")
    return tmp_path


EMULATE = ("emulate", "k.ptx", "--arg", "i64=0")
COMMANDS = [
    (("build", "."), 2, "E802", "it is a folder"),
    (("build", "/"), 2, "E802", "--all"),
    (("build", ""), 2, "E802", "cannot read ''"),
    (("build", "folder"), 2, "E802", "it is a folder"),
    (("build", "pipe.py"), 2, "E802", "no regular file"),
    (("build", "sparse.tir"), 2, "E802", "larger than"),
    (("build", "empty.tir"), 3, "E104", "no function"),
    (("build", "m.py", "-o", ""), 2, "E803", "its name is empty"),
    (("build", "m.py", "-o", "a"), 2, "E803", "symbolic links"),
    (("build", "m.py", "-o", "new/"), 2, "E803", "it is a folder"),
    (("build", "m.py", "--arch", "nope"), 2, "E805", "targets are cpu"),
    (("build", "m.py", "--emit", "ptx", "--arch", "cpu"), 2, "E801", "there is no ptx for x86-64-v2"),
    (("build", "m.py", "--emit", "asm", "--arch", "sm_90"), 2, "E801", "asm is for CPUs"),
    (("build", "m.py", "--emit", "ptx", "-o", "x.ptx"), 2, "E801", "--emit prints"),
    (("build", "m.py", "--emit", "c", "--embed-tests"), 2, "E801", "are for bundles"),
    (("build", "-"), 2, "E802", "cannot read the standard input: a file is needed"),
    (("build", "m.py", "--emit", "ptx", "--diagnostics-format", "sarif"), 2, "E801", "both write to stdout"),
    (("build", "m.py", "--jobs", "²"), 2, "E801", "'²' is not an integer"),
    (("build", "m.py", "--jobs", "٣"), 2, "E801", "'٣' is not an integer"),
    (("build", "m.py", "--jobs", "1_0"), 2, "E801", "'1_0' is not an integer"),
    (("build", "m.py", "--tuning", "deep.yaml"), 2, "E802", "is not YAML"),
    (("build", "m.py", "--tuning", "bomb.yaml"), 2, "E802", "an alias"),
    (("build", "m.py", "--tuning", "date.yaml"), 2, "E802", "is not YAML"),
    (("opt", "empty.tir", "--constants", "m.py"), 2, "E802", "no safetensors file"),
    (("opt", "empty.tir", "--constants", "/dev/zero"), 2, "E802", "no regular file"),
    (("check", "m.tsb", "--arch", "sm_９０"), 2, "E805", "no target"),
    (("check", "pipe.py"), 2, "E802", "no regular file"),
    (("strip", "m.tsb", "--tests", "-o", "folder"), 2, "E803", "it is a folder"),
    (("sign", "m.tsb", "--key", "m.py", "-o", "m.py"), 2, "E803", "it is what is read"),
    (("emulate", "k.ptx", "--arg", "@junk.npy"), 2, "E942", "junk.npy"),
    (("emulate", "k.ptx", "--arg", "@vast.npy"), 2, "E942", "vast.npy"),
    (("emulate", "k.ptx", "--arg", "@pipe.npy"), 2, "E802", "no regular file"),
    (("emulate", "k.ptx", "--arg", "i64=²"), 2, "E942", "not understood"),
    (("emulate", "k.ptx", "--arg", f"f32={'9' * 400}"), 2, "E942", "not understood"),
    (("emulate", "k.ptx", "--arg", "f16=1e9"), 2, "E942", "not understood"),
    ((*EMULATE, "--grid", "²"), 2, "E942", "three positive integers"),
    ((*EMULATE, "--grid", "2147483647,65535,65535"), 2, "E942", "at most"),
    ((*EMULATE, "--grid", "9" * 5000), 2, "E942", "three positive integers"),
    ((*EMULATE, "--dynamic-shared", "9" * 30), 2, "E801", "is not from 0 to"),
    ((*EMULATE, "--output", "²=@y.npy"), 2, "E942", "N=@file.npy"),
]


@pytest.mark.parametrize(("args", "exit_code", "code", "part"), COMMANDS)
def test_commands(
    tesseracc: Runner, here: Path, args: tuple[str, ...], exit_code: int, code: str, part: str
) -> None:
    before = {path.name: path.lstat().st_mtime_ns for path in here.iterdir()}
    said = tesseracc(*args)
    assert (said.code, said.out) == (exit_code, "") and said.err.startswith(f"error[{code}]: ") and part in said.err
    (error,) = json.loads(tesseracc(*args, "--json").out or "{}").get("errors", [{"code": code}])
    assert error["code"] == code
    assert {path.name: path.lstat().st_mtime_ns for path in here.iterdir()} == before


NINES = "9" * 400
CALL = ("--function", "chain", "--input", "4x5xf32=1")
RUNS = [
    (("--threads", "0"), 2, "E801", "'0' is not from 1 to 4096"),
    (("--benchmark", "0"), 2, "E801", "'0' is not from 1"),
    (("--benchmark", "9" * 30), 2, "E801", "is not from 1"),
    (("--seed", "-1"), 2, "E801", "'-1' is not from 0"),
    (("--seed=--",), 2, "E801", "'--' is no value"),
    (("--atol", "1_0"), 2, "E801", "'1_0' is not a number"),
    (("--rtol", NINES), 2, "E801", "beyond the range of f64"),
    (("--function", "chain", "--input", f"x=4x5xf32={NINES}"), 7, "E711", "beyond the range of f64"),
    (("--function", "chain", "--input", "x=4x5xf32=1e39"), 7, "E711", "1e39 is beyond the range of f32"),
    (("--function", "chain", "--input", "x=1xi64=1e400"), 7, "E711", "beyond the range of f64"),
    (("--input", "x=²"), 7, "E711", "'²' is not a number"),
    (("--function", "chain", "--input", f"x=f32={'9' * 5000}"), 7, "E711", "beyond the range of f64"),
    (("--input", "x=@pipe.npy", "--function", "chain"), 2, "E802", "no regular file"),
    (("--input", "x=@vast.npy", "--function", "chain"), 7, "E71", "vast.npy"),
    ((*CALL, "--expected", f"out0={NINES}"), 7, "E711", "is no number of"),
    ((*CALL, "--expected", f"out0=4x5xf32={NINES}"), 7, "E711", "beyond the range of f64"),
    ((*CALL, "--output", "out0=@y.npy", "--profile", "y.npy"), 2, "E801", "would both write"),
    ((*CALL, "--expected", "out0=@junk.npy", "--output", "out0=@junk.npy"), 2, "E803", "it is what is read"),
    ((*CALL, "--device", "cpu:sm_90"), 6, "E902", "no CPU image 'sm_90'"),
]


@pytest.mark.parametrize(("args", "exit_code", "code", "part"), RUNS)
def test_runs(
    here: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], exit_code: int, code: str, part: str
) -> None:
    assert run_bundle(["m.tsb", *args]) == exit_code
    said = capsys.readouterr()
    assert said.err.startswith(f"error[{code}") and part in said.err and "internal" not in said.err
    assert not (here / "y.npy").exists()


def test_ranges_of_values() -> None:
    """What is in range is the nearest float, infinities where they are meant."""
    for text, value in (("3.4028235e38", 3.4028235e38), ("inf", np.inf), ("-inf", -np.inf), ("true", 1), ("-0", -0.0)):
        array = load_array(parse(f"x=1xf32={text}"))
        assert isinstance(array, np.ndarray) and array[0] == np.float32(value)
        assert np.signbit(array[0]) == np.signbit(value)


def test_names_of_modules(tesseracc: Runner, here: Path) -> None:
    """Any name that a bundle can record builds, and is built again; others are refused."""
    name = '-da"sh=sha256:.py'
    (here / name).write_text(MODEL)
    said = tesseracc("build", *CPU, "--embed-source", "-o", "d.tsb", "--", name)
    assert said.code == 0, said.err
    assert any(option.startswith(name) for option in BundleFile("d.tsb").manifest.provenance.options)
    said = tesseracc("rebuild", "--verify", "d.tsb")
    assert said.code == 0 and "reproduced" in said.out
    for bad in ("new\nline.py", os.fsdecode(b"\xff.py"), "back\\slash.py"):
        (here / bad).write_text(MODEL)
        said = tesseracc("build", bad, *CPU)
        assert said.code == 2 and "error[E801]: a module cannot be called" in said.err and "rename" in said.err
    assert sorted(path.name for path in here.glob("*.tsb")) == ["d.tsb", "m.tsb"]


def test_a_library_of_any_name(tesseracc: Runner, here: Path) -> None:
    (here / 'a"b * .py').write_text(MODEL)
    said = tesseracc("build", 'a"b * .py', "--emit", "c", *CPU, "-o", "c")
    assert said.code == 0, said.err
    assert {path.name for path in (here / "c").iterdir()} == {"liba_b___.so", "a_b___.h", "example.c"}
    example = (here / "c/example.c").read_text()
    assert '#include "a_b___.h"' in example and "-l:liba_b___.so" in example
    assert (here / "c/a_b___.h").read_text().count("*/") == (here / "c/a_b___.h").read_text().count("/*")


def test_a_program_that_no_bundle_can_hold(tesseracc: Runner, here: Path) -> None:
    (here / "long.py").write_text(MODEL.replace("    return", f'    """{"x" * 70_000}"""\n    return'))
    said = tesseracc("build", "long.py", *CPU)
    assert said.code == 3 and "error[E407]: no bundle can hold the program: functions[0].doc" in said.err


def test_listings_as_json(tesseracc: Runner, here: Path) -> None:
    said = tesseracc("build", "m.py", "--emit", "tile", "--arch", "sm_80", "--arch", "sm_90", "--json")
    document = json.loads(said.out)
    assert document["emit"] == "tile" and [row["target"] for row in document["listings"]] == ["sm_80", "sm_90"]
    for row in document["listings"]:
        assert row["text"] == tesseracc("build", "m.py", "--emit", "tile", "--arch", row["target"]).out
    (here / "m.tir").write_text(tesseracc("build", "m.py", "--emit", "graph").out)
    assert json.loads(tesseracc("opt", "m.tir", "--json").out)["modules"] == [tesseracc("opt", "m.tir").out]


def test_notes_of_many_modules_as_json(tesseracc: Runner, here: Path) -> None:
    (here / "folder/model.py").write_text(MODEL + "\n\n@ts.function\ndef g(y):\n    return y\n")
    said = tesseracc("build", "folder", "--all", "--check-only", *CPU, "--notes", "--json")
    (module,) = json.loads(said.out)["modules"]
    assert [d["level"] for d in module["diagnostics"]].count("note") >= 1 and "`g` is not built" in said.out


def test_a_long_line_is_shown_around_its_caret(tesseracc: Runner, here: Path) -> None:
    for before in (0, 5000):
        (here / "long.py").write_text(f"x = [{'1, ' * before}] + no_such_name + [{'2, ' * 5000}]\n")
        said = tesseracc("build", "long.py", *CPU)
        line, caret = said.err.splitlines()[2:4]
        assert said.code == 3 and len(line) < MAX_LINE + 20 and len(caret) <= len(line)
        start = caret.index("^")
        if sys.version_info >= (3, 11):
            assert line[start : start + len("no_such_name")] == "no_such_name"


def test_strip_tells_which_way_it_went(tesseracc: Runner, here: Path) -> None:
    weights = "W = ts.tensor(np.ones((64, 64), np.float32))\n\n\n@ts.function"
    model = MODEL.replace("@ts.function", weights).replace('["N",', '["N", 64,').replace("x + 1", "x @ W")
    (here / "w.py").write_text(f"import numpy as np\n{model}")
    assert tesseracc("build", "w.py", *CPU, "--external-weights", "-o", "thin.tsb").code == 0
    said = tesseracc("strip", "thin.tsb", "-o", "whole.tsb")
    assert said.code == 0 and " more, sha256" in said.out and "-" not in said.out.split(";")[1].split("sha256")[0]


def test_what_the_system_refuses() -> None:
    """Little memory, few open files, a working directory that is gone: a code, never a fault of ours."""
    line = [sys.executable, "-m", "tesseracc", "opt", "--list"]
    for limit, least in ((resource.RLIMIT_AS, 600 << 20), (resource.RLIMIT_NOFILE, 64)):
        done = subprocess.run(
            line, env=ENV, capture_output=True, text=True, check=False,
            preexec_fn=lambda limit=limit, least=least: resource.setrlimit(limit, (least, least)),
        )  # fmt: skip
        assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(MODEL)
    script = f"mkdir gone && cd gone && rmdir ../gone && exec {sys.executable} -m tesseracc build ../m.py -o ../m.tsb"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error[E80") and not (tmp_path / "m.tsb").exists()


MODULES = {
    "streams taken away": ("import sys\nsys.stdout = sys.stderr = None\n", 0, ""),
    "streams closed": ("import sys\nsys.stdout.close()\nsys.stderr.close()\nprint('kept')\n", 0, "kept"),
    "little recursion": ("import sys\nsys.setrecursionlimit(250)\n", 0, ""),
    "no path": ("import sys\nsys.path.clear()\n", 0, ""),
    "a codec that is none of text": ("# -*- coding: rot13 -*-\n", 0, ""),
    "a file that is gone": ("import os\nos.unlink(__file__)\n", 0, ""),
    "an error in a file that has changed": ("open(__file__, 'w').close()\n1 / 0\n", 3, "1 / 0"),
    "many words": ("raise ValueError('a' * 10_000_000)\n", 3, "E103"),
}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules(tesseracc: Runner, here: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A module that is careless with its process is built, or is told what is wrong with it."""
    text, code, part = MODULES[name]
    monkeypatch.setattr(sys, "path", list(sys.path))
    (here / "m.py").write_text(text + MODEL)
    said = tesseracc("build", "m.py", *CPU, "-o", "new.tsb")
    assert said.code == code and part in said.err and len(said.err) < 5000, said.err[:500]
    assert said.out.startswith("new.tsb: f for x86-64-v2") if code == 0 else not said.out


def test_a_program_that_is_too_deep(tesseracc: Runner, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deep(*_: object, **__: object) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr("tesseracc.driver.run_pipeline", deep)
    said = tesseracc("build", "m.py", *CPU)
    assert said.code == 3 and said.err.startswith("error[E106]: ") and "help: compute in a loop" in said.err
