"""What the documents say works: their commands run, their code runs, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "specs").glob("*.md")),
             ROOT / "samples/data/README.md", ROOT / "runtime/README.md"]
COMMANDS = {"tesseracc": "tesseracc.cli.main", "tessera-run": "tessera_runtime.cli"}


def fences(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "runtime")])
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env={**os.environ, "PYTHONPATH": path},
                          capture_output=True, text=True, check=False)


def command(line: str, cwd: Path) -> None:
    """Runs a line that starts with one of the project's own commands; any other line may only be pip."""
    program, *arguments = shlex.split(line)
    if program not in COMMANDS:
        assert program == "pip", line
        return
    script = f"import sys; sys.argv[0] = {program!r}; from {COMMANDS[program]} import main; sys.exit(main())"
    result = run(["-c", script, *arguments], cwd)
    assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    model, use = fences(ROOT / "README.md", "python")
    first, second, trust = fences(ROOT / "README.md", "sh")
    assert set(first.split()) == {"make", "demo", "test"}
    assert len([line for line in model.splitlines() if line.strip()]) <= 10
    (tmp_path / "model.py").write_text(model)
    for line in second.splitlines():
        command(line, tmp_path)
    for line in trust.splitlines():
        command(line, tmp_path)
    assert (tmp_path / "model.html").read_text().startswith("<!doctype html>")
    y = np.load(tmp_path / "y.npy")
    assert y.shape == (100, 64) and y.dtype == np.float32
    # gelu(2 z) of a normalised z: its least value is that of gelu, -0.17, and each row has mean(z) = 0, so mean(y) > 0.
    assert -0.171 < y.min() < -0.1 and (y.mean(axis=1) > 0.2).all()
    result = run(["-W", "error", "-c", use + "\nprint(result['y'] if isinstance(result, dict) else result)"], tmp_path)
    assert result.returncode == 0, result.stderr
    # Rows of ones normalise to zero, and gelu(0) = 0.
    assert np.array_equal(np.array(re.findall(r"-?\d+\.?\d*", result.stdout), float), np.zeros(24))


def test_the_operator_of_contributing() -> None:
    # Executed where it is said to go, in a process of its own so that the registry stays as it is.
    (source,) = fences(ROOT / "CONTRIBUTING.md", "python")
    check = """
import numpy as np
from tessera.ops import elementwise
from tessera.operator import registry
exec(compile(SOURCE, "softsign", "exec"), vars(elementwise))
op = registry()["softsign"]
assert all(op.has(rule) for rule in ("infer", "ref", "vjp", "jvp", "element", "cases")), op
x = np.random.default_rng(3).uniform(-3, 3, (5, 7))
y = elementwise.softsign(x).numpy()
assert np.allclose(y, x / (1 + abs(x)), rtol=1e-15, atol=0)
(partial,) = op().partials((elementwise.as_tensor(x),), elementwise.as_tensor(y))
h = 1e-6
numeric = ((x + h) / (1 + abs(x + h)) - (x - h) / (1 + abs(x - h))) / (2 * h)
assert np.allclose(partial.numpy(), numeric, rtol=1e-6)
assert len(list(op.cases())) >= 3
"""
    result = run(["-W", "error", "-c", f"SOURCE = {source!r}\n{check}"], ROOT)
    assert result.returncode == 0, result.stderr


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_make_targets_and_links_exist(document: Path) -> None:
    text = document.read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert named <= targets() | {"help"}
    for link in re.findall(r"\[[^]\"]+\]\((?!https?://|#)([^)#]+)", text):
        assert (document.parent / link).exists(), link


@pytest.mark.parametrize("document", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_folders_and_files_named_exist(document: Path) -> None:
    # `path/` and `path/file.ext` in backquotes; <family> and the like stand for a name.
    for path in re.findall(r"`([\w.]+/[\w./-]*)`", document.read_text()):
        assert (ROOT / path).exists(), path


def test_every_target_of_make_has_a_help_line() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(" ".join(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)).split()) - {"python"}
    assert phony == targets()


def test_subcommands_named_exist() -> None:
    from tesseracc.cli.group import COMMANDS as SUBCOMMANDS

    for document in DOCUMENTS:
        for name in re.findall(r"`?tesseracc ([a-z]+)\b", " ".join(re.findall(r"`[^`]+`", document.read_text()))):
            assert name in SUBCOMMANDS, f"{document.name}: tesseracc {name}"
