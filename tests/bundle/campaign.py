"""The mutation campaign: mutants are loaded, and run where they load, in processes with little time and memory.

`python -m tests.bundle.campaign --cases 100000` reports on stdout and, with --report, as JSON. A case fails if the
process dies or hangs, an exception has no code, a mutant with its old digests gives other results, one with another
content digest is taken although a signature is required, or the second reader disagrees. Cases whose machine code is
another than the original's are loaded, not run: code is not confined (specs/security.md), and only the signature tells.
So are loops that data decides: a plan with another one may run for ever, between whose steps a caller can interrupt it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tessera_runtime.api import Bundle, load
from tessera_runtime.audit import audit
from tessera_runtime.bundle import BundleFile
from tessera_runtime.cli import parser
from tessera_runtime.core.catalogue import CATALOGUE
from tessera_runtime.core.dtypes import np_dtype
from tessera_runtime.core.errors import TesseraError
from tessera_runtime.core.manifest import Function, Loop, Target
from tessera_runtime.core.shapeexpr import evaluate
from tessera_runtime.run import Runner
from tests.bundle import everything
from tests.bundle.base import KEYS, SEEDS, signed_base
from tests.bundle.mutate import Mutant, mutant
from tests.bundle.second_reader import read

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "bundle" / "golden" / "v1" / "golden.tsb"
SAMPLES = ("fused_elementwise.py", "row_normalise.py", "moving_average.py", "attention.py", "seeds/saxpy.py")
SECONDS = 20  # of processor time for one case
LOOP = 4  # seconds after which a call is said not to end
MEMORY = 3 << 30  # of address space
FENCE = 4096  # bytes beside every array
EVERY = 8  # one case in so many is shown to the second reader too
FAILURES = ("crash", "hang", "no code", "other results", "readers disagree", "unknown code", "trusted")


def arguments(function: Function) -> dict[str, Any]:
    """Fixed arguments of a function: every symbol a small size of its own."""
    rng = np.random.default_rng(sum(function.name.encode()))
    env = {symbol.name: 6 + 2 * index for index, symbol in enumerate(function.symbols)}
    found: dict[str, Any] = {}
    for item in function.inputs:
        if item.kind == "scalar":
            found[item.name] = 2
            continue
        shape = tuple(dim if isinstance(dim, int) else evaluate(dim, env) for dim in item.shape)
        dtype = np_dtype(item.dtype)
        found[item.name] = np.asarray(rng.standard_normal(shape) * 4).astype(dtype)
    return found


class Fenced:
    """An array between two fences of known bytes, which show whether anything was written beside it."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], value: Any = 0) -> None:
        size = int(np.prod(shape)) * dtype.itemsize
        self.raw = np.full(size + 2 * FENCE + 64, 0xA5, np.uint8)
        start = FENCE + -(self.raw.ctypes.data + FENCE) % 64
        self.sides = self.raw[:start], self.raw[start + size :]
        self.array = self.raw[start : start + size].view(dtype).reshape(shape)
        self.array[...] = value

    def holds(self) -> bool:
        """Whether nothing was written beside the array."""
        return all(bool((side == 0xA5).all()) for side in self.sides)


def _shapes(bundle: Bundle, calls: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Shape and element type of every result that is no parameter, by function and name."""
    found: dict[str, dict[str, Any]] = {}
    for name, given in calls.items():
        values = bundle[name](**copy.deepcopy(given))
        pairs = zip(bundle[name].function.outputs, values if isinstance(values, tuple) else (values,), strict=True)
        found[name] = {output.name: (value.shape, value.dtype) for output, value in pairs if output.alias is None}
    return found


def _results(bundle: Bundle, calls: dict[str, dict[str, Any]], known: dict[str, Any]) -> dict[str, bytes | str]:
    """Of every function that there were fixed arguments for: the bits of its results, or the code of its refusal.

    Results are computed between fences, in arrays of the shapes that `known` gives.
    """
    found: dict[str, bytes | str] = {}
    for name, given in calls.items():
        if name not in bundle:
            continue
        inputs = {k: Fenced(v.shape, v.dtype, v) for k, v in given.items() if isinstance(v, np.ndarray)}
        outputs = {k: Fenced(shape, dtype) for k, (shape, dtype) in known.get(name, {}).items()}
        passed = {k: inputs[k].array if k in inputs else v for k, v in given.items()}
        function = bundle[name]
        try:
            try:
                values = function.into({key: fenced.array for key, fenced in outputs.items()}, **passed)
            except TesseraError as error:
                if error.code != "E708":
                    raise
                values = function(**passed)  # its results have other shapes now
        except TesseraError as error:
            found[name] = error.code
            continue
        if not all(fenced.holds() for fenced in (*inputs.values(), *outputs.values())):
            raise RuntimeError("written outside")
        values = values if isinstance(values, tuple) else (values,)
        found[name] = b"".join(np.ascontiguousarray(value).tobytes() for value in values if value is not None)
    return found


def _bare_run(bundle: Bundle) -> None:
    """What `tessera-run FILE` does: the embedded tests, or the list of functions. Any code will do."""
    with suppress(TesseraError):
        Runner(parser().parse_args(["mutant.tsb", "--json"])).run(bundle)
    for function in bundle.values():
        f"{function.signature} {function.function.doc}".encode()


class _Endless(Exception):
    """A call takes too long."""


def _interrupt(*_: object) -> None:
    raise _Endless


class Subject:
    """A bundle, its fixed calls, and what they give."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.folder = path.parent
        self.beside = {file.name: file.read_bytes() for file in path.parent.glob("*.safetensors")}
        self.scratch = Path(tempfile.mkdtemp())
        file = BundleFile(self.data, require_signature=KEYS[0], weights=self.folder)
        self.digest, self.manifest = file.digest, file.manifest
        self.calls = {f.name: arguments(f) for f in self.manifest.functions}
        self.runs = path.name != "base.tsb"  # whose code does nothing
        steps = (step for target in self.manifest.targets for plan in target.plans for step in plan.steps)
        self.loops = any(isinstance(step, Loop) for step in steps)
        if self.runs:
            bundle = load(self.data, threads=1, weights=self.folder)
            self.shapes = _shapes(bundle, self.calls)
            self.expected = _results(bundle, self.calls, self.shapes)
            self.targets = {target.name: self._code(bundle.file, target) for target in self.manifest.targets}

    @staticmethod
    def _code(file: BundleFile, target: Target) -> Any:
        return file.raw(target.image).tobytes(), target.kernels, target.kind, target.machine, target.requires

    def outcome(self, case: Mutant, compare_readers: bool) -> str:
        """What became of a mutant, in a word or two."""
        folder = self._weights(case)
        said = self._load(case, folder)
        if not said.startswith("E") and self._trusted(case.data, folder):
            return "trusted"
        if compare_readers:
            beside = {**self.beside, **case.beside}
            if (read(case.data, beside=beside) == "ok") != (said.startswith("ran") or said == "loaded"):
                return "readers disagree"
        return said

    def _weights(self, case: Mutant) -> Path:
        """The folder with the weights of a mutant."""
        if not case.beside:
            return self.folder
        for path in self.scratch.iterdir():
            path.unlink()
        for name, data in {**self.beside, **case.beside}.items():
            (self.scratch / name).write_bytes(data)
        return self.scratch

    def _trusted(self, data: bytes, folder: Path) -> bool:
        """Whether a reader that requires the signature of the original takes another content for it."""
        try:
            return BundleFile(data, require_signature=KEYS[0], weights=folder).digest != self.digest
        except TesseraError as error:
            if error.code not in ("E651", "E652"):
                raise RuntimeError(f"no signature, but {error.code}") from error
            return False

    def _load(self, case: Mutant, folder: Path) -> str:
        try:
            file = BundleFile(case.data, verify_weights=True, weights=folder)
            audit(file)
        except TesseraError as error:
            return error.code if error.code in CATALOGUE and error.exit_code == 5 else "unknown code"
        if not self.runs:
            return "loaded"
        try:
            bundle = load(case.data, threads=1, weights=folder)
        except TesseraError:
            return "loaded"  # for another machine
        if self._code(bundle.file, bundle.target) != self.targets.get(bundle.target.name):
            return "loaded"
        signal.signal(signal.SIGALRM, _interrupt)
        signal.alarm(LOOP)
        try:
            found = _results(bundle, self.calls, self.shapes)
            _bare_run(bundle)
        except _Endless:
            return "other results" if case.kind == "raw" or not self.loops else "ran, another digest: does not end"
        finally:
            signal.alarm(0)
        if found == self.expected:
            return "ran, same results"
        if case.kind == "raw":
            return "other results"
        codes = sorted({value for value in found.values() if isinstance(value, str)})
        return "ran, another digest: " + (f"calls refused by {' '.join(codes)}" if codes else "its own results")


def work(path: Path, seed: int, start: int, stop: int) -> None:
    """A process: one line per case on stdout, `number outcome kind`, the number before the case is tried."""
    import faulthandler
    import warnings

    warnings.simplefilter("ignore")
    subject = Subject(path)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()
    for number in range(start, stop):
        print(number, end=" ", flush=True)
        case = mutant(subject.data, seed, number, str(subject.folder))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            said = subject.outcome(case, number % EVERY < 2)
        except Exception as error:
            said = f"no code: {type(error).__name__}: {str(error)[:100]!r}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(f"{case.kind}: {said}", flush=True)
    shutil.rmtree(subject.scratch)
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def run(path: Path, seed: int, start: int, stop: int) -> tuple[Counter[str], list[str], int]:
    """All cases of one bundle: how many had which outcome, what failed, and the peak memory of a process in KiB."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    peak = 0
    while start < stop:
        command = [sys.executable, "-m", "tests.bundle.campaign", "--work", str(path), str(seed), str(start), str(stop)]
        env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        last = start - 1
        for line in done.stdout.splitlines():
            word, _, said = line.partition(" ")
            if word == "peak":
                peak = max(peak, int(said))
                continue
            last = int(word)
            if not said:
                said = "raw: " if last % 2 == 0 else "inside: "
                said += "hang" if done.returncode == -signal.SIGPROF else f"crash ({done.returncode})"
            counts[said] += 1
            if any(failure in said for failure in FAILURES):
                failures.append(f"{path.name} seed {seed} case {last}: {said}")
        if last < start and done.returncode != 0:
            raise RuntimeError(f"the worker does not start: {done.stderr[-2000:]}")
        start = last + 1
    return counts, failures, peak


def subjects(folder: Path) -> list[Path]:
    """The bundles under attack, signed, written to a folder."""
    from tesseracc.arch.arch import resolve
    from tesseracc.bundle.detach import write_detached
    from tesseracc.bundle.sign import attach, make
    from tesseracc.driver import Build, front
    from tesseracc.frontend import source

    (folder / "base.tsb").write_bytes(signed_base())
    (folder / "golden.tsb").write_bytes(GOLDEN.read_bytes())
    for name in SAMPLES:
        module = front(source.load(str(ROOT / "samples" / name)).entries)
        file = BundleFile(Build(module, resolve(("x86-64-v2", "x86-64-v3"))).bundle())
        signed = attach(file, [make(file.digest, seed) for seed in SEEDS])
        (folder / f"{Path(name).stem}.tsb").write_bytes(b"".join(signed))
    whole = folder / "everything.tsb"
    command = ["build", str(everything.__file__), *everything.OPTIONS, "-o", str(whole)]
    subprocess.run([sys.executable, "-m", "tesseracc", *command], cwd=ROOT, check=True, capture_output=True)
    file = BundleFile(whole)
    whole.write_bytes(b"".join(attach(file, [make(file.digest, seed) for seed in SEEDS])))
    write_detached(folder / "thin.tsb", BundleFile(whole))
    return sorted(path for path in folder.iterdir() if path.suffix == ".tsb")


def main() -> None:
    """The command line."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("--cases", type=int, default=100_000)
    line.add_argument("--seed", type=int, default=1)
    line.add_argument("--report", type=Path, help="write counts and failures as JSON")
    line.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = line.parse_args()
    if options.work:
        path, seed, start, stop = options.work
        work(Path(path), int(seed), int(start), int(stop))
        return
    begin = time.time()
    with tempfile.TemporaryDirectory() as folder:
        paths = subjects(Path(folder))
        total: Counter[str] = Counter()
        failures: list[str] = []
        peaks: dict[str, int] = {}
        share = -(-options.cases // len(paths))
        for path in paths:
            counts, failed, peaks[path.name] = run(path, options.seed, 0, share)
            total += counts
            failures += failed
            print(f"{path.name}: {sum(counts.values())} cases, {len(failed)} failures, {peaks[path.name] >> 10} MiB")
    report = {"cases": sum(total.values()), "seed": options.seed, "seconds": round(time.time() - begin),
              "peak_mib": {name: peak >> 10 for name, peak in peaks.items()}, "outcomes": dict(sorted(total.items())),
              "failures": failures}  # fmt: skip
    for key, value in report["outcomes"].items():
        print(f"{value:8} {key}")
    for failure in failures:
        print(failure)
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
