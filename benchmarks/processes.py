"""Builds and start-up: whole processes, from the command to its end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import Times, seconds

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = (sys.executable, "-c", "from tessera_runtime.cli import main; raise SystemExit(main())")
COMPILER = (sys.executable, "-m", "tesseracc")


@dataclass(frozen=True)
class Process:
    """A command and the seconds that it may take."""

    name: str
    command: tuple[str, ...]
    limit: float


def commands(folder: Path) -> tuple[Process, ...]:
    """The processes that are measured; `folder` receives what they write, and holds `saxpy.tsb`."""
    digits = str(ROOT / "samples" / "digits.py")
    inputs = ("--input", "x=16xf32=1.5", "--input", "y=16xf32=1.5", "--input", "alpha=2")
    return (
        Process(
            "build samples/digits.py for cpu and sm_90",
            (*COMPILER, "build", digits, "--arch", "cpu", "--arch", "sm_90", "-o", str(folder / "digits.tsb")),
            5.0,
        ),
        Process(
            "tessera-run saxpy, cold",
            (*RUNTIME, str(folder / "saxpy.tsb"), *inputs),
            0.25,
        ),
        Process("tesseracc --help", (*COMPILER, "--help"), 0.15),
        Process("python -c 'import numpy'", (sys.executable, "-c", "import numpy"), float("inf")),
    )


def run(command: Sequence[str]) -> None:
    """Runs a command to its end, on every processor, with what it prints thrown away unless it fails."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "runtime")])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")


def measure(rounds: int) -> list[tuple[Process, Times]]:
    """Median over `rounds` runs of each command, after one that fills the disk cache."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = str(ROOT / "benchmarks" / "programs.py")
        run((*COMPILER, "build", programs, "--entry", "saxpy", "--arch", "cpu", "-o", str(folder / "saxpy.tsb")))
        for process in commands(folder):
            run(process.command)
            times = tuple(seconds(lambda command=process.command: run(command), 1) for _ in range(rounds))  # type: ignore[misc]
            found.append((process, Times(times)))
    return found
