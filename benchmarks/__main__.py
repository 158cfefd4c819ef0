"""`python -m benchmarks`: measure, print, and with --name write results/<name>.json and .md."""

from __future__ import annotations

import argparse
import os
import sys

#: read by the libraries under NumPy when they are loaded, so before anything else is imported
SINGLE = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compiled CPU code beside NumPy.")
    parser.add_argument("words", nargs="*", help="only workloads whose name contains one of these words")
    parser.add_argument("--rounds", type=int, default=7, help="rounds per workload (default 7)")
    parser.add_argument("--name", help="write results/NAME.json and NAME.md")
    parser.add_argument("--date", default=os.environ.get("BENCH_DATE", ""), help="date for the report (or BENCH_DATE)")
    parser.add_argument("--no-processes", action="store_true", help="leave out builds and start-up")
    parser.add_argument("--sources", action="store_true", help="only print the source of what would be measured")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if "numpy" in sys.modules and any(os.environ.get(name) != "1" for name in SINGLE):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **dict.fromkeys(SINGLE, "1")})
    os.environ.update(dict.fromkeys(SINGLE, "1"))

    from benchmarks import compare, machine, processes, report
    from benchmarks.workloads import names

    chosen = names(given.words)
    if not chosen:
        print("no workload has such a name", file=sys.stderr)
        return 2
    if given.sources:
        print(report.sources(chosen))
        return 0
    results = {
        "name": given.name or "benchmarks",
        "date": given.date,
        "machine": machine.describe(),
        "limits": machine.limits(given.rounds),
        "workloads": [],
        "processes": [],
    }
    bundle = compare.load(sorted({w.entry for w in chosen}))
    for workload in chosen:
        print(f"{workload.name} ..", file=sys.stderr, flush=True)
        results["workloads"].append(compare.measure(workload, bundle, given.rounds))
    if not given.no_processes and not given.words:
        for process, times in processes.measure(max(3, given.rounds // 2 * 2 + 1)):
            limit = None if process.limit == float("inf") else process.limit
            found = {"name": process.name, "seconds": times.median, "worst": max(times.rounds), "limit": limit}
            results["processes"].append(found)
    print(report.sources(chosen))
    print(report.text(results))
    if given.name:
        print("written: " + ", ".join(path.name for path in report.write(results)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
