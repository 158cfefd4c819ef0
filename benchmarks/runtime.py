"""`python -m benchmarks.runtime`: what the runtime weighs and how fast it starts, as whole processes.

Measured are the wheel, a cold `tessera-run` beside Python that imports NumPy alone, a C program on a library of
`--emit c`, memory of both, and what loading a bundle with 1 GiB of weights costs before and when they are used. The
runtime is installed from its wheel into a folder of its own. With --name the results are written.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WHEEL_LIMIT = 300_000  # bytes
START_LIMIT = 1.3  # of Python importing NumPy
NATIVE_LIMIT = 0.015  # seconds
_RUN = "from tessera_runtime.cli import command; command()"  # what the script does

LOADING = """
import sys, time
import numpy as np
from tessera_runtime.api import load
import tessera_runtime.devices.cpu
imported = time.perf_counter()
bundle = load(sys.argv[1], verify_weights=sys.argv[2] == "eager", threads=1)
loaded = time.perf_counter()
x = np.ones(int(sys.argv[3]), np.float32)
warm = time.perf_counter()
bundle["add"](x)
first = time.perf_counter()
bundle["add"](x)
print(loaded - imported, first - warm, time.perf_counter() - first)
"""


class Finished(NamedTuple):
    """Seconds from start to end, those of processors, the most resident bytes, and what was printed."""

    seconds: float
    processor: float
    resident: int
    output: str


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Finished:
    """Run a process to its end; its exit code must be 0."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} failed"
    return Finished(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10, output)


def wheel(folder: Path) -> Path:
    """The runtime's wheel, made from a clean copy of its sources; needs pip and setuptools, or a network."""
    source = folder / "runtime"
    shutil.copytree(ROOT / "runtime", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps", "-w")
    run((*command, str(folder), str(source)))
    return next(folder.glob("*.whl"))


def installed(folder: Path, package: Path) -> dict[str, str]:
    """The environment of processes that see the wheel's runtime, and not this tree's."""
    place = folder / "site"
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--target")
    run((*command, str(place), str(package)))
    return {**os.environ, "PYTHONPATH": str(place)}


def starts(folder: Path, environment: Mapping[str, str], rounds: int) -> list[dict[str, Any]]:
    """Cold processes in turn: Python with NumPy, tessera-run, and the C program where there is a C compiler."""
    bundle, programs = folder / "saxpy.tsb", str(ROOT / "benchmarks" / "programs.py")
    build = (sys.executable, "-m", "tesseracc", "build", programs, "--entry", "saxpy")
    run((*build, "--arch", "cpu", "-o", str(bundle)))
    inputs = ("--input", "x=16xf32=1.5", "--input", "y=16xf32=1.5", "--input", "alpha=2")
    commands: dict[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
        "python -c pass": ((sys.executable, "-c", "pass"), environment),
        "python -c 'import numpy'": ((sys.executable, "-c", "import numpy"), environment),
        "tessera-run to the first saxpy": ((sys.executable, "-c", _RUN, str(bundle), *inputs), environment),
    }
    native = compiled(folder, build)
    if native is not None:
        commands["a C program to the first saxpy (--emit c)"] = ((str(native),), os.environ)
    found: dict[str, list[Finished]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, (command, given) in commands.items():
            found[name].append(run(command, given))
    return [
        {"name": name, "seconds": median(f.seconds for f in runs), "best": min(f.seconds for f in runs),
         "processor": min(f.processor for f in runs), "resident": median(f.resident for f in runs)}
        for name, runs in found.items()
    ]  # fmt: skip


def compiled(folder: Path, build: Sequence[str]) -> Path | None:
    """The example of the library for C, compiled; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    place = folder / "native"
    run((*build, "--emit", "c", "-o", str(place)))
    sources = (str(place / "example.c"), f"-L{place}", "-l:libprograms.so", f"-Wl,-rpath,{place}")
    run((compiler, "-std=c99", "-O1", *sources, "-o", str(place / "example")))
    return place / "example"


def heavy(path: Path, count: int) -> None:
    """A bundle whose one function adds `count` f32 weights to its argument."""
    import numpy as np

    import tessera as ts

    weights = ts.tensor(np.random.default_rng(1).random(count, np.float32))

    def add(x: Any) -> Any:
        return x + weights

    ts.aot.compile(add, [np.zeros(count, np.float32)], path, ["cpu"])


def loading(folder: Path, environment: Mapping[str, str], count: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of load(), of the first call and of the next one, with weights verified lazily and eagerly."""
    path = folder / "heavy.tsb"
    # In a process of its own: the weights are in memory several times while they are written.
    program = f"from pathlib import Path; from benchmarks.runtime import heavy; heavy(Path({str(path)!r}), {count})"
    run((sys.executable, "-c", program), {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"})
    rows = []
    for mode in ("lazy", "eager"):
        runs = [run((sys.executable, "-c", LOADING, str(path), mode, str(count)), environment) for _ in range(rounds)]
        times = [[float(word) for word in done.output.split()] for done in runs]
        load, first, next_ = (median(column) for column in zip(*times, strict=True))
        rows.append({"mode": mode, "load": load, "first": first, "next": next_})
    return rows


def page(results: Mapping[str, Any]) -> str:
    """A page to read."""
    lines = [f"# {results['name']}, {results['date']}", ""]
    lines += [f"- {key}: {value}" for key, value in results["machine"].items()]
    size = results["wheel"]
    lines += ["", f"The runtime's wheel: {size:,} bytes; the target, {WHEEL_LIMIT:,}, is "
              f"{'' if size < WHEEL_LIMIT else 'not '}reached.", ""]  # fmt: skip
    lines += ["Whole processes, taken in turn: medians, the best in brackets. Other work may share the machine, and "
              "only adds to processor time: its least counts beside NumPy's import and for that target.",
              ""]  # fmt: skip
    lines += ["| process | ms | processor ms | MB resident | beside NumPy's import | target |",
              "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    base = next(row["processor"] for row in results["starts"] if "numpy" in row["name"])
    for row in results["starts"]:
        times, target = row["processor"] / base, ""
        if row["name"].startswith("tessera-run"):
            target = f"{START_LIMIT} {'' if times <= START_LIMIT else 'not '}reached"
        if row["name"].startswith("a C"):
            target = f"{NATIVE_LIMIT * 1e3:g} ms {'' if row['seconds'] < NATIVE_LIMIT else 'not '}reached"
        shown = f"{row['seconds'] * 1e3:.1f} ({row['best'] * 1e3:.1f})"
        numbers = f"{row['processor'] * 1e3:.1f} | {row['resident'] / 1e6:.1f} | {times:.2f}"
        lines.append(f"| {row['name']} | {shown} | {numbers} | {target} |")
    lines += ["", f"A bundle with {results['weights'] / 2**30:g} GiB of weights in one tensor:", ""]
    lines += ["| weights verified | load() ms | first call ms | next call ms |", "|---|---:|---:|---:|"]
    for row in results["loading"]:
        when = {"lazy": "when first used", "eager": "by load()"}[row["mode"]]
        lines.append(f"| {when} | {row['load'] * 1e3:.1f} | {row['first'] * 1e3:.0f} | {row['next'] * 1e3:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    from benchmarks.__main__ import SINGLE

    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime", description="The runtime's size and start.")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each process (default 15)")
    parser.add_argument("--weights", type=int, default=1 << 30, help="bytes of weights (default 1 GiB)")
    parser.add_argument("--name", help="write results/NAME.json and NAME.md")
    parser.add_argument("--date", default=os.environ.get("BENCH_DATE", ""), help="date for the report (or BENCH_DATE)")
    given = parser.parse_args()
    os.environ.update(dict.fromkeys(SINGLE, "1"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = wheel(folder)
        environment = installed(folder, package)
        results: dict[str, Any] = {
            "name": given.name or "runtime", "date": given.date, "wheel": package.stat().st_size,
            "starts": starts(folder, environment, given.rounds), "weights": given.weights,
            "loading": loading(folder, environment, given.weights // 4, max(3, given.rounds // 4)),
        }  # fmt: skip
    from benchmarks import machine, report

    results["machine"] = machine.describe()
    print(page(results))
    if given.name:
        (report.FOLDER / f"{given.name}.json").write_text(json.dumps(results, indent=1) + "\n")
        (report.FOLDER / f"{given.name}.md").write_text(page(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
