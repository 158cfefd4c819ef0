"""`tesseracc build FOLDER --all`: every module of a folder, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from tesseracc.recipe import imports_language

if TYPE_CHECKING:
    from tesseracc.cli.build import Options
    from tesseracc.diagnostics import Report

__all__ = ["build_all", "modules"]


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
    nothing = UsageError("E802", f"{options.file} holds no module with a function or kernel of Tessera")
    if not found:
        raise nothing
    text = options.form == "text" and not options.as_json
    made = [] if options.check_only else [_make_folder(_target(options, folder, path).parent) for path in found]
    with ThreadPoolExecutor(options.jobs) as pool:
        everything = list(pool.map(lambda path: _one(options, folder, path, text), found))
    for parent in sorted((p for parents in made for p in parents), reverse=True):
        with suppress(OSError):  # it holds bundles
            parent.rmdir()
    outcomes = [outcome for outcome in everything if not _is_empty(outcome)]
    if not outcomes:
        raise nothing
    code = max(outcome.code for outcome in outcomes)
    if text:
        for outcome in outcomes:
            click.echo(outcome.out, nl=False)
            click.echo(outcome.err, nl=False, err=True)
        failed = sum(outcome.code != 0 for outcome in outcomes)
        others = len(everything) - len(outcomes)
        told = f"{len(outcomes) - failed} of {len(outcomes)} modules {'pass' if options.check_only else 'built'}"
        click.echo(f"{told}; {others} without functions or kernels" if others else told)
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
    """The files below a folder that may define a function or kernel, sorted. Names like `_x` and `.x` are left out.

    To define one a module imports `tessera`, itself or through a module beside it. Whether it does define one is known
    when it has been executed, once, by its build.
    """
    found = []
    for path in sorted(folder.rglob("*.py")):
        hidden = any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and (not os.access(path, os.R_OK) or imports_language(path)):
            found.append(path)
    return found


def _one(options: Options, folder: Path, path: Path, text: bool) -> Outcome:
    command = [sys.executable, "-m", "tesseracc", "build", str(path), "--jobs", "1"]
    command += [f"--arch={arch}" for arch in options.archs]
    command += [f"--specialize={fixed}" for fixed in options.fixed]
    command.append(f"--numerics={options.numerics}")
    if options.tuning:
        command.append(f"--tuning={options.tuning}")
    flags = ("embed_tests", "embed_source", "external_weights", "check_only", "no_cache", "notes")
    for flag in (*flags, *(["timing"] if text else [])):
        if getattr(options, flag):
            command.append(f"--{flag.replace('_', '-')}")
    if options.cache_dir:
        command.append(f"--cache-dir={options.cache_dir}")
    if not text:
        command.append("--diagnostics-format=json")
    command += ["-o", str(_target(options, folder, path))]
    run = subprocess.run(command, env=_environment(), capture_output=True, text=True, encoding="utf-8",
                         errors="backslashreplace", check=False)
    code, said = run.returncode, run.stderr
    if not run.stdout and not said:  # the module ended its process: nothing was built
        said = f"error: the build of {path} ended with exit code {code} and without a word\n"
        code = code or 70
    return Outcome(str(path), code if code >= 0 else 70, run.stdout, said)


def _is_empty(outcome: Outcome) -> bool:
    """Whether the module was executed and defines nothing: E104, which without --entry means just that."""
    if outcome.code == 0:
        return False
    try:
        (found,) = json.loads(outcome.out)["modules"]
        return [d["code"] for d in found["diagnostics"]] == ["E104"]
    except (ValueError, KeyError, TypeError):
        return any(line.startswith("error[E104]: ") for line in outcome.err.splitlines())


def _target(options: Options, folder: Path, path: Path) -> Path:
    """The bundle of a module: beside it, or at the same place below the folder -o."""
    bundle = path.with_suffix(".tsb")
    return Path(options.output) / bundle.relative_to(folder) if options.output else bundle


def _make_folder(folder: Path) -> list[Path]:
    """Makes a folder; those on the way to it that were not there."""
    from tessera_runtime.core.errors import UsageError

    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("E803", f"cannot write {folder}: {error.strerror}") from None
    return missing


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
