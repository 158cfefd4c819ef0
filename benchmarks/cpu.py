"""`python -m benchmarks.cpu`: compiled CPU code beside other libraries, in one process, with equal threads.

Contenders take turns, each after a pause, round after round; a ratio is the time of the best of the others in a round
over ours in that round. NumPy is always there; torch, onnxruntime and jax where they are installed (`--peers`). With
one thread the time is that of the process, so other work on the machine weighs little; with more it is the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Case:
    """One row: an entry of programs.py at sizes, what is wanted of its ratio, and the work of one call."""

    entry: str
    sizes: tuple[int, ...]
    target: float | None = None
    flops: float = 0.0
    bytes: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.entry} {'x'.join(map(str, self.sizes))}"


def _product(entry: str, m: int, k: int, n: int, target: float | None = None) -> Case:
    return Case(entry, (m, k, n), target, flops=2.0 * m * k * n)


def _rows(entry: str, n: int, d: int, target: float | None = None, passes: int = 2) -> Case:
    return Case(entry, (n, d), target, bytes=4.0 * passes * n * d)


def _attention(entry: str, s: int, target: float | None = None) -> Case:
    return Case(entry, (16, s), target, flops=(2.0 if entry.startswith("causal") else 4.0) * 16 * s * s * 64)


CASES = (
    _product("matmul", 1024, 1024, 1024, 0.95), _product("matmul", 2048, 2048, 2048, 0.95),
    _product("matmul", 1000, 999, 1001), _product("matmul", 256, 256, 256), _product("matmul", 64, 1024, 1024),
    _product("matmul", 1, 4096, 4096), _product("decode", 1, 4096, 4096), _product("decode", 1, 1021, 4093),
    _product("matmul_bf16", 1024, 1024, 1024, 0.8), _product("matmul_bf16", 2048, 2048, 2048, 0.8),
    _product("matmul_bf16", 1000, 999, 1001),
    _attention("attention", 1024, 1.0), _attention("attention", 2048, 1.0), _attention("attention", 1000),
    _attention("causal_attention", 1024, 1.0), _attention("attention_bf16", 1024, 1.3),
    _rows("layer_norm", 4096, 4096, 1.3), _rows("layer_norm", 4001, 4003), _rows("softmax", 4096, 4096, 1.3),
    _rows("softmax", 4001, 4003), Case("saxpy", (1 << 24,), 1.3, bytes=12.0 * (1 << 24)),
    _rows("column_sums", 4096, 4096, 1.3, 1), _rows("column_sums", 4001, 4003, passes=1),
    _rows("gelu_chain", 4096, 4096, 1.0, 3), _rows("gelu_chain", 4001, 4003, passes=3),
    Case("layer", (1, 512), 1.0, flops=2.0 * 512 * 1024 * 1024 * 12),
    Case("layer_bf16", (1, 512), 1.0, flops=2.0 * 512 * 1024 * 1024 * 12),
    Case("train_step", (256, 1024), 1.0, flops=2.0 * 256 * 1024 * 1024 * 5),
)  # fmt: skip


def arguments(case: Case) -> tuple[Any, ...]:
    """Random arguments of a case."""
    import numpy as np

    from benchmarks.workloads import normal

    rng, s = np.random.default_rng(0), case.sizes
    if case.entry in ("matmul", "decode"):
        return normal(rng, s[0], s[1]), normal(rng, s[1], s[2])
    if case.entry.endswith("_bf16"):
        from tessera_runtime.core.dtypes import np_dtype

        wide = arguments(replace(case, entry=case.entry.removesuffix("_bf16")))
        return tuple(x.astype(np_dtype("bf16")) for x in wide)
    if case.entry.endswith("attention"):
        return tuple(normal(rng, 1, s[0], s[1], 64) for _ in range(3))
    if case.entry == "saxpy":
        return normal(rng, *s), normal(rng, *s), 1e-3
    if case.entry == "gelu_chain":
        return normal(rng, *s), normal(rng, s[1]), normal(rng, s[1]), normal(rng, *s)
    if case.entry == "layer":
        d = 1024
        sizes = ((d, 3 * d), (d, d), (d, 4 * d), (4 * d, d))
        return normal(rng, *s, d), *(normal(rng, *size, scale=size[0] ** -0.5) for size in sizes)
    if case.entry == "train_step":
        n, d = s
        scale = d**-0.5
        weights = normal(rng, d, d, scale=scale), normal(rng, d), normal(rng, d, d, scale=scale), normal(rng, d)
        return *weights, normal(rng, n, d), normal(rng, n, d)
    return (normal(rng, *s),)


def by_numpy(case: Case, args: tuple[Any, ...]) -> Callable[[], Any] | None:
    """NumPy's form, where it has one call or the benchmark beside NumPy has its best form."""
    import numpy as np

    from benchmarks import workloads
    from benchmarks.workloads import empty

    if case.entry in ("matmul", "decode"):
        out = empty((case.sizes[0], case.sizes[2]))
        return lambda: np.matmul(args[0], args[1], out=out)
    if case.entry == "column_sums":
        sums = empty((case.sizes[1],))
        return lambda: np.sum(args[0], axis=0, out=sums)
    form = {"softmax": workloads.numpy_softmax, "layer_norm": workloads.numpy_layer_norm}.get(case.entry)
    if form is None:
        return None
    result, spare = empty(case.sizes), empty(case.sizes)

    def run() -> Any:
        workloads.by_blocks(form)(*args, out=result, spare=spare)
        return result

    return run


def best_level() -> Any:
    """The most preferred CPU level that this machine runs, whether bundles hold it by default or not."""
    from tessera_runtime.devices.cpu import cpu_features, machine
    from tesseracc.arch.arch import load, names

    levels = [a for a in map(load, names()) if a.kind == "cpu" and a.toolchain.machine == machine()]
    return max((a for a in levels if set(a.requires) <= cpu_features()), key=lambda a: a.preference)


def measure(case: Case, rounds: int, threads: int, chosen: tuple[str, ...]) -> dict[str, Any]:
    """Times of all contenders, and ratios round by round."""
    import numpy as np

    import tessera_runtime
    from benchmarks import peers, programs, timing
    from tesseracc.driver import Build, front

    args = arguments(case)
    theirs = tuple(x.copy() if isinstance(x, np.ndarray) else x for x in args) if case.entry == "saxpy" else args
    build = Build(front({case.entry: getattr(programs, case.entry)}), (best_level(),))
    function = tessera_runtime.load(build.bundle(), threads=threads)[case.entry]
    first = function(*args)
    results = list(first.values()) if isinstance(first, dict) else list(first) if isinstance(first, tuple) else [first]
    into = dict(zip(function.outputs, results, strict=True))
    ours = (lambda: function(*args)) if case.entry == "saxpy" else (lambda: function.into(into, *args))
    calls: dict[str, Callable[[], Any]] = {"tessera": ours}
    numpy = by_numpy(case, args)
    if numpy is not None:
        calls["numpy"] = numpy
    calls |= peers.peers(case.entry, theirs, threads, chosen)
    error = 0.0
    if case.entry != "saxpy":
        for name, call in calls.items():
            if name == "tessera":
                continue
            found = call()
            found, mine = peers.to_numpy(found[0] if isinstance(found, tuple) else found), results[0]
            mine = mine.astype(np.float32)
            error = max(error, float(np.abs(mine - found).max() / np.abs(found).max()))
        if not error < (4e-2 if case.entry.endswith("bf16") else 1e-3):
            raise RuntimeError(f"{case.name}: results differ by {error:.1e}")
    clock = time.process_time if threads == 1 else time.perf_counter
    times = timing.interleaved(calls, rounds, clock=clock, pause=timing.PAUSE)
    rivals = {name: found for name, found in times.items() if name != "tessera"}
    mine = times["tessera"]
    best = [min(found.rounds[i] for found in rivals.values()) for i in range(rounds)] if rivals else []
    ratios = [b / m for b, m in zip(best, mine.rounds)]
    return {
        "name": case.name, "threads": threads, "target": case.target, "error": error,
        "ms": {name: 1e3 * found.median for name, found in times.items()},
        "best ms": {name: 1e3 * found.best for name, found in times.items()},
        "ratio": statistics.median(ratios) if ratios else None, "worst": min(ratios, default=None),
        "gflops": 1e-9 * case.flops / mine.median if case.flops else None,
        "gbytes": 1e-9 * case.bytes / mine.median if case.bytes else None,
    }  # fmt: skip


def page(results: dict[str, Any]) -> str:
    """The results to read."""
    from benchmarks.report import table  # imports NumPy, for which the environment is set first

    lines = [f"# {results['name']}, {results['date']}", ""]
    lines += [f"- {key}: {value}" for key, value in {**results["machine"], **results["versions"]}.items()]
    lines += ["", "A ratio is the best of the others over ours in the same round: the median, and the worst round.", ""]
    lines += table(("limit", "measured"), [(key, f"{value:.1f}") for key, value in results["limits"].items()])
    for threads in sorted({row["threads"] for row in results["rows"]}):
        lines += [f"## {threads} thread{'s' if threads > 1 else ''}", ""]
        rows = []
        for row in (row for row in results["rows"] if row["threads"] == threads):
            ms = row["ms"]
            others = sorted((name for name in ms if name != "tessera"), key=lambda name: float(ms[name]))
            rate = f"{row['gflops']:.0f} GFLOP/s" if row["gflops"] else f"{row['gbytes']:.1f} GB/s"
            target, ratio = row["target"], row["ratio"]
            goal = (
                ""
                if target is None or ratio is None
                else f"{target:g} {'reached' if ratio >= target else '**missed**'}"
            )
            shown = ("", "") if ratio is None else (f"{ratio:.2f}", f"{row['worst']:.2f}")
            rest = ", ".join(f"{name} {ms[name]:.2f}" for name in others)
            rows.append((row["name"], f"{ms['tessera']:.2f}", rest, *shown, rate, goal))
        lines += table(("workload", "tessera ms", "others ms", "ratio", "worst", "rate", "target"), rows)
    return "\n".join([*lines, *results.get("notes", []), ""])


def main() -> int:
    from benchmarks.peers import ENVIRONMENT, available, versions

    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description="Compiled CPU code beside peers.")
    parser.add_argument("words", nargs="*", help="only rows whose name contains one of these words")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peers", default=",".join(available()), help="libraries beside NumPy (default: all installed)"
    )
    parser.add_argument("--name", help="write results/NAME.json and NAME.md, rows of other thread counts kept")
    parser.add_argument("--date", default=os.environ.get("BENCH_DATE", ""))
    given = parser.parse_args()
    wanted = {**dict.fromkeys(THREADS, str(given.threads)), **ENVIRONMENT, "JAX_PLATFORMS": "cpu"}
    if given.threads == 1:
        wanted["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **wanted})

    from benchmarks import machine
    from benchmarks.report import FOLDER

    chosen = tuple(given.peers.split(",")) if given.peers else ()
    if "torch" in chosen:
        import torch

        torch.set_num_threads(given.threads)
        torch.set_grad_enabled(False)
    rows = []
    for case in CASES:
        if given.words and not any(word in case.name for word in given.words):
            continue
        rows.append(measure(case, given.rounds, given.threads, chosen))
        row = rows[-1]
        print(f"{row['name']:28s} {row['ratio'] or 0:5.2f} {row['worst'] or 0:5.2f}  " +
              "  ".join(f"{k} {v:.3f}" for k, v in row["ms"].items()), file=sys.stderr, flush=True)  # fmt: skip
    about = {**machine.describe(), "compiled for": best_level().name}
    about["OpenBLAS kernels"] = os.environ.get("OPENBLAS_CORETYPE", "its own choice")
    results: dict[str, Any] = {"name": given.name or "cpu", "date": given.date, "machine": about,
                               "versions": versions(), "limits": machine.limits(5), "rows": rows}  # fmt: skip
    if given.name:
        path = FOLDER / f"{given.name}.json"
        if path.exists():
            old = json.loads(path.read_text())
            fresh = {(row["name"], row["threads"]) for row in rows}
            results["rows"] = [row for row in old["rows"] if (row["name"], row["threads"]) not in fresh] + rows
            results["notes"] = old.get("notes", [])
        path.write_text(json.dumps(results, indent=1) + "\n")
        (FOLDER / f"{given.name}.md").write_text(page(results))
    print(page(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
