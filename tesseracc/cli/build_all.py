"""`tesseracc build FOLDER --all`: every module of a folder, each in a process of its own."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from tesseracc.cli.build import Options
    from tesseracc.diagnostics import Report

__all__ = ["build_all", "modules"]

_MARKS = {"function", "kernel", "jit"}


class Outcome(NamedTuple):
    """What one process said."""

    file: str
    code: int
    out: str
    err: str


def build_all(options: Options) -> None:
    """Builds them, prints what each said in order of their names; the exit code is the largest."""
    from tessera_runtime.core.errors import UsageError
    from tesseracc.diagnostics import Report, write

    folder = Path(options.file)
    if not folder.is_dir():
        raise UsageError("E802", f"cannot read {options.file}: --all takes a folder")
    found = modules(folder)
    if not found:
        raise UsageError("E802", f"{options.file} holds no module with a function or kernel of Tessera")
    text = options.form == "text" and not options.as_json
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(lambda path: _one(options, folder, path, text), found))
    code = max(outcome.code for outcome in outcomes)
    if text:
        for outcome in outcomes:
            click.echo(outcome.out, nl=False)
            click.echo(outcome.err, nl=False, err=True)
        failed = sum(outcome.code != 0 for outcome in outcomes)
        click.echo(f"{len(outcomes) - failed} of {len(outcomes)} modules {'pass' if options.check_only else 'built'}")
    else:
        reports = [_report(outcome) for outcome in outcomes]
        if options.as_json:
            click.echo(json.dumps({"modules": [report.to_json() for report in reports]}, sort_keys=True))
        else:
            assert all(isinstance(report, Report) for report in reports)
            sys.stdout.write(write(options.form, reports))
    if code:
        raise click.exceptions.Exit(code)


def modules(folder: Path) -> list[Path]:
    """The modules below a folder that define a function or kernel, sorted. Names like `_x` and `.x` are left out."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        hidden = any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and _defines(path):
            found.append(path)
    return found


def _defines(path: Path) -> bool:
    """Whether a file is to be built: it has a decorator of the language, or is no Python, which the build then says."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return b"tessera" in path.read_bytes() if os.access(path, os.R_OK) else True
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for mark in node.decorator_list:
                called = mark.func if isinstance(mark, ast.Call) else mark
                name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                if name in _MARKS:
                    return True
    return False


def _one(options: Options, folder: Path, path: Path, text: bool) -> Outcome:
    command = [sys.executable, "-m", "tesseracc", "build", str(path), "--jobs", "1"]
    command += [f"--arch={arch}" for arch in options.archs]
    command += [f"--specialize={fixed}" for fixed in options.fixed]
    command.append(f"--numerics={options.numerics}")
    if options.tuning:
        command.append(f"--tuning={options.tuning}")
    flags = ("embed_tests", "embed_source", "external_weights", "check_only", "no_cache")
    for flag in (*flags, *(["notes", "timing"] if text else [])):
        if getattr(options, flag):
            command.append(f"--{flag.replace('_', '-')}")
    if options.cache_dir:
        command.append(f"--cache-dir={options.cache_dir}")
    if not text:
        command.append("--diagnostics-format=json")
    target = path.with_suffix(".tsb")
    if options.output:
        target = Path(options.output) / path.relative_to(folder).with_suffix(".tsb")
    if not options.check_only:
        _make_folder(target.parent)
    command += ["-o", str(target)]
    run = subprocess.run(command, env=_environment(), capture_output=True, text=True, encoding="utf-8",
                         errors="backslashreplace", check=False)
    code, said = run.returncode, run.stderr
    if not run.stdout and not said:  # the module ended its process: nothing was built
        said = f"error: the build of {path} ended with exit code {code} and without a word\n"
        code = code or 70
    return Outcome(str(path), code if code >= 0 else 70, run.stdout, said)


def _make_folder(folder: Path) -> None:
    from tessera_runtime.core.errors import UsageError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("E803", f"cannot write {folder}: {error.strerror}") from None


def _environment() -> dict[str, str]:
    """That of this process, with the packages found where this process has found them."""
    import tessera_runtime
    import tesseracc

    places = [str(Path(str(package.__file__)).parents[1]) for package in (tesseracc, tessera_runtime)]
    known = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys([*places, *([known] if known else [])]))}


def _report(outcome: Outcome) -> Report:
    """What a process reported; for one that died without a word, that."""
    from tesseracc.diagnostics import Diagnostic, Report

    try:
        (found,) = json.loads(outcome.out)["modules"]
        return Report.from_json(found)
    except (ValueError, KeyError, TypeError):
        said = outcome.err.strip().splitlines()
        message = said[-1] if said else f"the build ended with exit code {outcome.code}"
        return Report(outcome.file, (Diagnostic("error", "", message),), outcome.code or 70)
