"""The command line and its streams: usage errors have codes, `--help` is complete, full and closed outputs are told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tessera_runtime.core.exitcodes import Exit
from tesseracc.cli.group import COMMANDS
from tests.cli.run import Runner
from tests.runtime.support import bundle_bytes

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
TESSERACC = [sys.executable, "-m", "tesseracc"]


def run(stdout: int, *args: str) -> tuple[int, str]:
    """Exit code and stderr of a process that writes to this descriptor."""
    done = subprocess.run([*TESSERACC, *args], env=ENV, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("build",), "missing argument 'FILE'"),
        (("build", "m.py", "--nope"), "no such option '--nope'"),
        (("build", "m.py", "--jobs", "0"), "'--jobs'"),
        (("build", "m.py", "--emit", "sas"), "'sas'"),
        (("merge", "a.tsb"), "'-o'"),
        (("check", "m.tsb", "--arch"), "'--arch'"),
        (("bild",), "did you mean `build`"),
    ],
)
def test_usage(tesseracc: Runner, args: tuple[str, ...], part: str) -> None:
    """The same code, words and help line for people and for programs."""
    said = tesseracc(*args)
    assert (said.code, said.out) == (2, "") and said.err.startswith("error[E801]: ")
    assert part in said.err.lower().replace("'file'", "'FILE'") and "--help` says what it takes" in said.err
    said = tesseracc(*args, *(() if args[-1] == "--arch" else ("--json",)))
    if said.out:
        (error,) = json.loads(said.out)["errors"]
        assert said.code == 2 and error["code"] == "E801" and error["message"] in tesseracc(*args).err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help(tesseracc: Runner, name: str) -> None:
    """Of every command: an example, the exit codes, each a documented one, and --json."""
    said = tesseracc(name, "--help")
    assert said.code == 0 and f"  tesseracc {name} " in said.out + " " and "--json" in said.out
    codes = re.search(r"Exit codes: ([^.]*)", said.out)
    assert codes is not None
    told = {int(word) for word in re.findall(r"\b\d+\b", re.sub(r"\(.*?\)", "", codes.group(1)))}
    assert 0 in told and 2 in told and told <= {int(code) for code in Exit}


def test_completion_knows_every_command() -> None:
    for words, expected in (
        ("tesseracc ", set(COMMANDS)), ("tesseracc strip --", {"--keep", "--tests", "--json"}),
        ("tesseracc build --arch ", {"cpu", "sm_90", "x86-64-v3"}), ("tesseracc check m.tsb --cpu x", {"x86-64-v3"}),
        ("tesseracc build --emit ", {"graph", "asm", "c"}), ("tesseracc explain e80", {"E801", "E809"}),
        ("tesseracc opt -p fuse,gr", {"fuse,graph-cse", "fuse,graph-to-schedule"}),
    ):  # fmt: skip
        env = {**ENV, "_TESSERACC_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        code = "from tesseracc.cli.main import main; main()"
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        assert expected <= {line.split(",", 1)[-1] for line in done.stdout.splitlines()}, done.stdout + done.stderr


@pytest.mark.parametrize(
    "args", [("targets",), ("targets", "--json"), ("build", "none.py", "--diagnostics-format", "sarif")]
)
def test_a_full_disk_under_stdout(args: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        said = run(full.fileno(), *args)
    assert said == (2, "error[E803]: cannot write to the standard output: No space left on device\n")


def test_errors_that_nobody_reads_keep_their_exit_code(tmp_path: Path) -> None:
    (tmp_path / "m.tsb").write_bytes(b"no bundle")
    with Path("/dev/full").open("w") as full:
        assert run(full.fileno(), "inspect", str(tmp_path / "m.tsb"), "--json") == (5, "")


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    assert run(write, "targets") == (0, "")
    assert run(write, "--help") == (0, "")
    os.close(write)


def test_the_runtime_too(tmp_path: Path) -> None:
    """Full, closed and unread outputs of `tessera-run`."""
    path = tmp_path / "m.tsb"
    path.write_bytes(bundle_bytes())
    command = [sys.executable, "-m", "tessera_runtime.cli", str(path)]
    with Path("/dev/full").open("w") as full:
        for options, code, words in (
            (["--list"], 2, "error[E803]: cannot write to the standard output: No space left on device\n"),
            (["--function", "none", "--json"], 7, ""),
        ):
            done = subprocess.run([*command, *options], env=ENV, stdout=full, stderr=-1, text=True, check=False)
            assert (done.returncode, done.stderr) == (code, words)


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupted(as_json: bool, tmp_path: Path) -> None:
    """Exit code 130, one word or document, nothing left, no process: the module waits until it is interrupted."""
    (tmp_path / "m.py").write_text("import pathlib, time\npathlib.Path('started').touch()\ntime.sleep(60)\n")
    command = [*TESSERACC, "build", "m.py", "--arch", "x86-64-v2", "--no-cache", *["--json"] * as_json]
    running = subprocess.Popen(
        command, cwd=tmp_path, env=ENV, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # jobs in the background ignore it, and so do their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    if as_json:
        told = json.loads(out)
        assert err.strip() == "" and told["exit_code"] == 130 and [e["code"] for e in told["errors"]] == ["interrupted"]
    else:
        assert out == "" and err.split() == ["interrupted"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".pyc" and path.name != "__pycache__") == [
        "m.py", "started"
    ]  # fmt: skip
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


# What a process is interrupted in: its first imports, its cleaning up, the end of the interpreter.
_EARLY = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
"""
_LATE = """
import atexit, os, signal
import tesseracc.cli.targets
def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("not interrupted")
def late(**_):
    atexit.register(interrupt)
def body(**_):
    try:
        try:
            interrupt()
        finally:
            interrupt()
    finally:
        atexit.register(interrupt)
tesseracc.cli.targets.command.callback = {name}
"""


@pytest.mark.parametrize("entry", ["tesseracc.cli.main", "tessera_runtime.__main__"])
def test_nothing_is_imported_before_the_guard(entry: str) -> None:
    """But for the packages that the entry point lies in: what is imported later can be interrupted."""
    parents = {entry.rpartition(".")[0], entry.partition(".")[0], entry}
    code = f"import sys; before = {{*sys.modules}}; import {entry}; print(*sorted({{*sys.modules}} - before))"
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=True)
    assert {*done.stdout.split()} - {"__future__"} == parents  # an installation's hook may have it before


@pytest.mark.parametrize("module", ["argparse", "numpy", "tessera_runtime.core.errors", "tessera_runtime.api"])
def test_interrupts_of_imports_are_130(module: str, tmp_path: Path) -> None:
    path = tmp_path / "m.tsb"
    path.write_bytes(bundle_bytes())
    code = (
        f"{_EARLY.format(name=module)}\nimport sys; sys.argv = ['tessera-run', {str(path)!r}, '--list']\n"
        "from tessera_runtime.__main__ import command\ncommand()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.split()) == (130, "", ["interrupted"]), done


@pytest.mark.parametrize("before", [
    _EARLY.format(name="click"), _EARLY.format(name="tessera_runtime.core.command"), _LATE.format(name="body"),
    _LATE.format(name="late"),
])  # fmt: skip
def test_interrupts_at_any_time_are_130(before: str) -> None:
    code = f"{before}\nimport sys; sys.argv = ['tesseracc', 'targets']\nfrom tesseracc.cli.main import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=False, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.split()) == (130, "", ["interrupted"]), done
