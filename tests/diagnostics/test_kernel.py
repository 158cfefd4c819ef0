"""Every diagnostic of the kernel language: its code, and the caret under the right piece of the user's line.

The files in `kernel/` mark what they provoke: `#! E203 scael` stands for error E203 with `scael` under the caret.
"""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from tessera.errors import SourceError, Span, render
from tessera.kernel import KernelErrors, Note, parse
from tessera_runtime.core.catalogue import CATALOGUE

HERE = Path(__file__).parent / "kernel"
FILES = sorted(HERE.glob("*.py"))
MARK = re.compile(r"#!\s*([EW]\d+)\s+(.*)$")
Found = tuple[int, str, str]


def expected(path: Path, first: int = 1, last: int = 10**9) -> set[Found]:
    """(line, code, text under the caret) for every mark between two lines."""
    lines = enumerate(path.read_text().splitlines(), 1)
    marks = ((n, MARK.search(line)) for n, line in lines if first <= n <= last)
    return {(n, m.group(1), m.group(2).strip()) for n, m in marks if m}


def found(path: Path, problem: SourceError | Note) -> Found:
    span = problem.span
    assert isinstance(span, Span) and problem.code is not None
    line = path.read_text().splitlines()[span.line - 1].split("  #!")[0]
    end = span.end_col if span.end_line == span.line else len(line)
    return span.line, problem.code, line[span.col : end]


def kernels(path: Path) -> list[Callable[..., object]]:
    module = runpy.run_path(str(path))
    return [value for value in module.values() if type(value).__name__ == "Kernel"]


@pytest.mark.parametrize("path", [p for p in FILES if p.stem != "running"], ids=lambda p: p.stem)
def test_parsing(path: Path) -> None:
    actual: set[Found] = set()
    for kernel in kernels(path):
        try:
            definition = kernel.definition  # type: ignore[attr-defined]
            actual |= {found(path, note) for note in definition.warnings}
        except KernelErrors as errors:
            actual |= {found(path, error) for error in errors.errors}
    assert actual == expected(path)


def _functions(path: Path) -> dict[str, tuple[int, int]]:
    tree = ast.parse(path.read_text())
    return {n.name: (n.lineno, n.end_lineno or n.lineno) for n in tree.body if isinstance(n, ast.FunctionDef)}


RUNNING = HERE / "running.py"
RUNS = [name for name in _functions(RUNNING) if name.startswith("run_")]


@pytest.mark.parametrize("name", RUNS)
def test_running(name: str) -> None:
    with pytest.raises(SourceError) as caught:
        runpy.run_path(str(RUNNING))[name]()
    first, last = _functions(RUNNING)[name.removeprefix("run_")]
    assert {found(RUNNING, caught.value)} == expected(RUNNING, first, last)


def test_every_code_is_provoked() -> None:
    provoked = {code for path in FILES for _, code, _ in expected(path)}
    provoked.add("E201")  # has no source to mark: test_without_source
    assert {code for code in CATALOGUE if code[1] == "2"} == provoked


def test_without_source() -> None:
    space: dict[str, object] = {}
    exec("def invisible(x): pass", space)
    with pytest.raises(SourceError) as caught:
        parse(space["invisible"])  # type: ignore[arg-type]
    assert caught.value.code == "E201"


def test_several_errors_at_once() -> None:
    kernel = runpy.run_path(str(HERE / "types.py"))["element_types"]
    with pytest.raises(KernelErrors) as caught:
        parse(kernel.python)
    assert len(caught.value.errors) == 10
    assert [e.span.line for e in caught.value.errors] == sorted(e.span.line for e in caught.value.errors)  # type: ignore[union-attr]


def test_rendering() -> None:
    """A fault in a helper shows the helper's line and the chain of calls."""
    kernel = runpy.run_path(str(HERE / "groups.py"))["divergent_helper"]
    with pytest.raises(KernelErrors) as caught:
        parse(kernel.python)
    text = render(caught.value)
    assert text.startswith("error[E209]: `ts.tile.barrier` is reached by some lanes of the group and not by others\n")
    assert "in `waits`, called from `divergent_helper` (" in text
    assert "    ts.tile.barrier()" in text and "^^^^^^^^^^^^^^^^^\n" in text
    assert "help: move it out of" in text


def test_suggestions() -> None:
    kernel = runpy.run_path(str(HERE / "names.py"))["unknown_word"]
    with pytest.raises(KernelErrors) as caught:
        parse(kernel.python)
    assert caught.value.help == "did you mean `linear_id`?"


def test_race_names_both_lines() -> None:
    with pytest.raises(SourceError) as caught:
        runpy.run_path(str(RUNNING))["run_missing_barrier"]()
    store = next(n for n, line in enumerate(RUNNING.read_text().splitlines(), 1) if line.strip() == "s[j] = 1.0")
    assert f"a store at line {store}" in caught.value.message
    assert "barrier" in (caught.value.help or "")
