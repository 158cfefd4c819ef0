"""`python -m benchmarks.packages --python P`: one model by us and by other ahead-of-time compilers, side by side.

P is a Python that has some of `iree-base-compiler`, `iree-base-runtime` and `torch`; what it lacks is left out. The
model is softmax(relu(x @ w1 + b1) @ w2 + b2) with 64, 128 and 10 features, any number of rows, and its weights inside,
for one CPU level.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import machine, package_programs

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ROWS, SECONDS = 16, 20
METHOD = """softmax(relu(x @ w1 + b1) @ w2 + b2), 64, 128 and 10 features, any number of rows, weights inside, for
x86-64-v3. Whole processes: the build, the package, from a cold start to the first result (16 rows) in a file, medians
and in brackets the best, which other work on the machine disturbs least; and the largest resident memory of that
process. Then single bits of the package are flipped, evenly spread at random, and every flipped package is loaded and
run, in a process of its own (of AOTInductor a child of one that has imported torch, which takes seconds): it is
refused, gives the same bits, gives other results without a word, or dies.
"""
OUTCOMES = ("refused", "same bits", "other results", "crash", "hang")


@dataclass(frozen=True)
class Peer:
    """How one compiler is asked. In commands `{model}`, `{package}`, `{x}` and `{y}` are files."""

    name: str
    version: str
    model: str  # the source's file name
    source: str
    package: str
    build: tuple[str, ...]
    run: tuple[str, ...]
    calls: tuple[str, ...] = ()  # where a start takes seconds: a process that makes the calls (TORCH_CALLS)

    def argv(self, command: Sequence[str], folder: Path, package: Path | None = None) -> list[str]:
        """The command for the files of a folder."""
        files = {
            "{model}": folder / self.model, "{package}": package or folder / self.package,
            "{x}": folder / "x.npy", "{y}": folder / f"{self.package}.npy",
        }  # fmt: skip
        return [_filled(word, files) for word in command]


def _filled(word: str, files: dict[str, Path]) -> str:
    for name, path in files.items():
        word = word.replace(name, str(path))
    return word


def ours(level: str) -> Peer:
    """This project's commands."""
    import tessera

    runtime = (sys.executable, "-c", "from tessera_runtime.cli import main; raise SystemExit(main())")
    build = (sys.executable, "-m", "tesseracc", "build", "{model}", "--no-cache", "--arch", level, "-o", "{package}")
    run = (*runtime, "{package}", "--input", "x=@{x}", "--output", "out=@{y}")
    return Peer("tesseracc", tessera.__version__, "mlp.py", package_programs.TESSERA, "mlp.tsb", build, run)


def others(python: str) -> list[Peer]:
    """Those that the other Python has."""
    found = []
    folder = Path(python).parent
    iree = _version(python, "iree-base-compiler")
    if iree:
        flags: tuple[str, ...] = ("--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu")
        flags += ("--iree-llvmcpu-target-cpu=haswell",)
        build = (str(folder / "iree-compile"), "{model}", *flags, "-o", "{package}")
        native = (str(folder / "iree-run-module"), "--module={package}", "--device=local-sync", "--function=f",
                  "--input=@{x}", "--output=@{y}")  # fmt: skip
        script = (python, "-c", package_programs.IREE_RUN, "{package}", "{x}", "{y}")
        text = package_programs.mlir()
        found.append(Peer("IREE, iree-run-module", iree, "mlp.mlir", text, "native.vmfb", build, native))
        found.append(Peer("IREE, its Python runtime", iree, "mlp.mlir", text, "python.vmfb", build, script))
    torch = _version(python, "torch")
    if torch:
        found.append(
            Peer("AOTInductor, Python", torch, "mlp.npz", "", "mlp.pt2",
                 (python, "-c", package_programs.TORCH_BUILD, "{model}", "{package}"),
                 (python, "-c", package_programs.TORCH_RUN, "{package}", "{x}", "{y}"),
                 (python, "-c", package_programs.TORCH_CALLS))
        )  # fmt: skip
    return found


def _version(python: str, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def environment() -> dict[str, str]:
    """Of every process: this tree first, and no caches of a peer."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "runtime")])
    return {**os.environ, "PYTHONPATH": path, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}


def run(command: Sequence[str], limit: float = 600) -> tuple[int, float, str]:
    """Exit code (negative: the signal; -100: it took longer than `limit`), seconds and stderr of a process."""
    begin = time.perf_counter()
    try:
        done = subprocess.run(command, env=environment(), capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return -100, limit, ""
    return done.returncode, time.perf_counter() - begin, done.stderr.decode("utf-8", "replace")


def resident(command: Sequence[str]) -> float:
    """The largest resident memory of a process in MiB, by /proc while it runs: rusage would count its parent's too."""
    peak = 0
    running = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None:
        with suppress(OSError, StopIteration), open(f"/proc/{running.pid}/status", encoding="ascii") as file:
            peak = max(peak, int(next(line for line in file if line.startswith("VmHWM")).split()[1]))
        time.sleep(0.0005)
    return peak / 1024


def flips(peer: Peer, folder: Path, count: int, seed: int, limit: float = SECONDS) -> tuple[Counter[str], Counter[int]]:
    """What became of packages with one bit changed, and the exit codes of those that were refused."""
    with _caller(peer, limit) as call:
        return _flips(peer, folder, count, seed, call)


@contextmanager
def _caller(peer: Peer, limit: float) -> Iterator[Callable[[Sequence[str]], int]]:
    """What runs the peer's command, and gives its exit code as `run` does: in a process of its own, or in a child of
    one that has imported what the command needs."""
    if not peer.calls:
        yield lambda argv: run(argv, limit)[0]
        return
    with subprocess.Popen(
        [*peer.calls, str(limit)], env=environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        assert server.stdin is not None and server.stdout is not None
        files, answers = server.stdin, server.stdout

        def call(argv: Sequence[str]) -> int:
            files.write("\t".join(argv[3:]) + "\n")
            files.flush()
            return int(answers.readline())

        yield call


def _flips(
    peer: Peer, folder: Path, count: int, seed: int, call: Callable[[Sequence[str]], int]
) -> tuple[Counter[str], Counter[int]]:
    data = (folder / peer.package).read_bytes()
    result = folder / f"{peer.package}.npy"
    right = result.read_bytes()
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    changed = folder / f"flipped-{peer.package}"
    for share in rng.random(count):
        bit = int(share * len(data) * 8)
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        changed.write_bytes(damaged)
        result.unlink(missing_ok=True)
        code = call(peer.argv(peer.run, folder, changed))
        if code == 0:
            same = result.exists() and result.read_bytes() == right
            outcomes["same bits" if same else "other results"] += 1
        elif code < 0 or code > 128:
            outcomes["hang" if code == -100 else "crash"] += 1
        else:
            outcomes["refused"] += 1
            codes[code] += 1
    return outcomes, codes


def measure(peer: Peer, folder: Path, rounds: int, count: int, seed: int) -> dict[str, Any]:
    """All figures of one peer."""
    if peer.source:
        (folder / peer.model).write_text(peer.source)
    builds = [_good(peer, peer.argv(peer.build, folder)) for _ in range(min(3, rounds))]
    command = peer.argv(peer.run, folder)
    _good(peer, command)  # fills the disk cache
    starts = [_good(peer, command) for _ in range(rounds)]
    found = np.load(folder / f"{peer.package}.npy").astype(np.float64)
    error = np.abs(found - package_programs.reference(np.load(folder / "x.npy"))).max()
    if not error < 1e-5:
        raise RuntimeError(f"{peer.name} is wrong by {error}")
    flipped = flipping(peer, folder, count, seed, max(SECONDS, 10 * median(starts)))
    memory = max(resident(command) for _ in range(3))
    return {
        "name": peer.name, "version": peer.version, "build_seconds": median(builds),
        "package_bytes": (folder / peer.package).stat().st_size,
        "start_seconds": median(starts), "build_best": min(builds), "start_best": min(starts),
        "resident_mib": memory, "error": float(error), **flipped,
    }  # fmt: skip


def flipping(peer: Peer, folder: Path, count: int, seed: int, limit: float) -> dict[str, Any]:
    """What `flips` found, for the results."""
    outcomes, codes = flips(peer, folder, count, seed, limit)
    return {
        "flips": {outcome: outcomes[outcome] for outcome in OUTCOMES},
        "exit_codes_of_refusals": {str(code): times for code, times in sorted(codes.items())},
    }


def flip_again(peer: Peer, folder: Path, results: dict[str, Any], count: int, seed: int) -> None:
    """Puts new outcomes of one peer's flips into results that there are; its times stay."""
    if peer.source:
        (folder / peer.model).write_text(peer.source)
    _good(peer, peer.argv(peer.build, folder))
    start = _good(peer, peer.argv(peer.run, folder))
    row = next(row for row in results["peers"] if row["name"] == peer.name)
    row.update(flipping(peer, folder, count, seed, max(SECONDS, 10 * start)))


def started(name: str, date: str, rounds: int) -> dict[str, Any]:
    """Results without peers: the machine, and what the least process that has NumPy takes."""
    bare = (sys.executable, "-c", "import numpy")
    imports = [run(bare)[1] for _ in range(rounds)]
    return {
        "name": name, "date": date, "machine": machine.describe(), "peers": [],
        "numpy_seconds": median(imports), "numpy_best": min(imports), "numpy_mib": resident(bare),
    }  # fmt: skip


def _good(peer: Peer, command: Sequence[str]) -> float:
    code, took, said = run(command)
    if code:
        raise RuntimeError(f"{peer.name}: exit code {code}: {said[-2000:]}")
    return took


def page(results: dict[str, Any]) -> str:
    """The results to read."""
    lines = [f"# {results['name']}, {results['date']}", ""]
    lines += [f"- {key}: {value}" for key, value in results["machine"].items()]
    lines += ["", METHOD]
    lines.append("| compiler and runtime | build s | package KiB | cold start to result s | RSS MiB |")
    lines.append("|---|---:|---:|---:|---:|")
    for row in results["peers"]:
        lines.append(
            f"| {row['name']} {row['version']} | {row['build_seconds']:.2f} ({row['build_best']:.2f}) | "
            f"{row['package_bytes'] / 1024:.0f} | {row['start_seconds']:.3f} ({row['start_best']:.3f}) | "
            f"{row['resident_mib']:.0f} |"
        )
    bare = f"{results['numpy_seconds']:.3f} ({results['numpy_best']:.3f})"
    lines.append(f"| `python -c 'import numpy'` | | | {bare} | {results['numpy_mib']:.0f} |")
    head = " | ".join(OUTCOMES)
    lines += ["", f"| one bit flipped | {head} | exit codes of refusals |", "|---|---:|---:|---:|---:|---:|---|"]
    for row in results["peers"]:
        codes = ", ".join(f"{code} ({times})" for code, times in row["exit_codes_of_refusals"].items())
        shown = " | ".join(str(row["flips"][outcome]) for outcome in OUTCOMES)
        lines.append(f"| {row['name']} | {shown} | {codes} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="an interpreter that has the others")
    parser.add_argument("--level", default="x86-64-v3")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--flips-of", metavar="PEER", help="only flip this one's bits, into the results of --name")
    parser.add_argument("--name", help="write results/NAME.json and NAME.md")
    parser.add_argument("--date", default=os.environ.get("BENCH_DATE", ""))
    options = parser.parse_args()
    peers = [ours(options.level), *(others(options.python) if options.python else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package_programs.write(folder, ROWS)
        if options.flips_of:
            results = json.loads((RESULTS / f"{options.name}.json").read_text())
            peer = next(peer for peer in peers if peer.name == options.flips_of)
            flip_again(peer, folder, results, options.flips, options.seed)
        else:
            results = started(options.name or "packages", options.date, options.rounds)
            for peer in peers:
                print(f"{peer.name} ..", file=sys.stderr, flush=True)
                results["peers"].append(measure(peer, folder, options.rounds, options.flips, options.seed))
    print(page(results))
    if options.name:
        (RESULTS / f"{options.name}.json").write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / f"{options.name}.md").write_text(page(results))


if __name__ == "__main__":
    main()
