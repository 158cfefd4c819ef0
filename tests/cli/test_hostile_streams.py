"""Streams that are closed, full or a file of the command's own: a code, an exit code, and nothing where it does not
belong. Each command is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_streams import ENV
from tests.runtime.support import bundle_bytes

TESSERACC = f"{sys.executable} -m tesseracc"
RUN = f"{sys.executable} -m tessera_runtime.cli"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.tsb").write_bytes(bundle_bytes())
    (tmp_path / "m.tir").write_text("graph.func @f(%x: tensor<f32[N]>) -> (tensor<f32[N]>) {\n  yield %x\n}\n")
    return tmp_path


def shell(folder: Path, line: str) -> tuple[int, bytes, str]:
    """Exit code, stdout and stderr of a line in which `tesseracc` and `tessera-run` are these here."""
    line = line.replace("tesseracc", TESSERACC).replace("tessera-run", RUN)
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=ENV, capture_output=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr.decode()


CLOSED = [
    ("tesseracc opt m.tir >&-", 2, "error[E803]: cannot write to the standard output: it is closed\n"),
    ("tesseracc opt m.tir --json >&-", 2, "error[E803]: cannot write to the standard output: it is closed\n"),
    ("tesseracc opt - <&-", 2, "error[E802]: cannot read the standard input: it is closed\n"),
    ("tesseracc opt none.tir 2>&-", 2, ""),
    ("tesseracc opt none.tir 2>/dev/full", 2, ""),
    ("tesseracc opt none.tir <&- >&- 2>&-", 2, ""),
    ("tesseracc opt m.tir -o out.tir <&- >&- 2>&-", 0, ""),
    ("tessera-run m.tsb --list >&-", 2, "error[E803]: cannot write to the standard output: it is closed\n"),
    ("tessera-run none.tsb 2>&-", 2, ""),
    ("tessera-run none.tsb --json >&-", 2, ""),
]


@pytest.mark.parametrize(("line", "code", "err"), CLOSED)
def test_closed(folder: Path, line: str, code: int, err: str) -> None:
    assert shell(folder, line) == (code, b"", err)
    if "out.tir" in line:  # no file of ours took the number of a stream, and nothing else is in it
        assert (folder / "out.tir").read_text().startswith("graph.func @f(")


def test_a_bundle_on_stdout_is_alone_there(folder: Path) -> None:
    """By its name, by `-`, by a link, in a pipe and in a file: what is said goes to stderr."""
    code, _, _ = shell(folder, "tesseracc strip m.tsb --tests -o want.tsb")
    want = (folder / "want.tsb").read_bytes()
    assert code == 0 and len(want) < len(bundle_bytes())
    os.symlink("/dev/stdout", folder / "link")
    for target in ("/dev/stdout", "-", "link", "/dev/fd/1"):
        code, out, err = shell(folder, f"tesseracc strip m.tsb --tests -o {target}")
        assert (code, out) == (0, want) and err.startswith(f"{target}: ") and "bytes" in err
    code, out, err = shell(folder, "tesseracc strip m.tsb --tests -o /dev/stdout --json > file")
    assert (code, out, (folder / "file").read_bytes()) == (0, b"", want) and '"digest"' in err
    code, _, _ = shell(folder, "printf head > file; tesseracc strip m.tsb --tests -o /dev/stdout >> file")
    assert code == 0 and (folder / "file").read_bytes() == b"head" + want
    code, out, err = shell(folder, "tesseracc strip m.tsb --tests -o - > /dev/full")
    assert (code, err) == (2, "error[E803]: cannot write to the standard output: No space left on device\n")
    code, out, _ = shell(folder, "exec 5>five; tesseracc strip m.tsb --tests -o /dev/fd/5")
    assert (code, (folder / "five").read_bytes()) == (0, want) and out.startswith(b"/dev/fd/5: ")
    assert not (folder / "-").exists()


def test_names_that_are_not_utf8(folder: Path) -> None:
    """They can be shown, in every encoding of a terminal, and as JSON."""
    name = os.fsencode(folder) + b"/\xff\xc3\xa9.tir"
    for encoding, command in (("utf-8", "opt"), ("ascii", "inspect"), ("latin-1", "explain")):
        done = subprocess.run(
            [*TESSERACC.split(), command, name], env={**ENV, "PYTHONIOENCODING": encoding}, capture_output=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 2 and done.stdout == b"" and b"error[E80" in done.stderr, done.stderr


def test_a_terminal_that_is_full_for_a_while(folder: Path) -> None:
    """A pipe in non-blocking mode, which others share, takes everything in the end."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with subprocess.Popen([*TESSERACC.split(), "opt", "--list"], stdout=write, env=ENV) as running:
        os.set_blocking(write, False)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            said = file.read()
        assert running.wait() == 0
    assert shell(folder, "tesseracc opt --list") == (0, said, "")


@pytest.mark.parametrize("command", ["tesseracc check m.tsb", "tesseracc inspect m.tsb", "tessera-run m.tsb"])
def test_without_memory_for_numpy(folder: Path, command: str) -> None:
    """What says so must not need it."""
    (folder / "numpy.py").write_text("raise ImportError('libopenblas.so: failed to map segment from shared object')\n")
    code, out, err = shell(folder, f"PYTHONPATH=.:$PYTHONPATH {command}")
    assert (code, out, err) == (2, b"", "error[E809]: there is not enough memory\n")
