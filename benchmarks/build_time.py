"""`python -m benchmarks.build_time`: how long builds take, as whole processes, without the build cache.

Each process starts Python, loads the compiler, and writes a bundle. With --name the results are written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
LAYER = str(HERE.parent / "samples" / "seeds" / "transformer_layer.py")
KERNELS = str(HERE / "build_programs.py")

#: name -> (what it is, seconds that it may take or None, the arguments of `tesseracc build`)
MARKS: dict[str, tuple[str, float | None, tuple[str, ...]]] = {
    "layer": ("transformer layer of any size, cpu (5 levels) and sm_90", 10.0,
              (LAYER, "--arch", "cpu", "--arch", "sm_90")),
    "layer-sm_90": ("the same, sm_90", None, (LAYER, "--arch", "sm_90")),
    "layer-cpu": ("the same, cpu", None, (LAYER, "--arch", "cpu")),
    "gemm": ("product 128 x 256 x 64 of bf16, sm_90", 2.0, (KERNELS, "--entry", "gemm", "--arch", "sm_90")),
    "attention": ("attention, D = 128, sm_90", 4.0,
                  (KERNELS, "--entry", "attention", "--specialize", "D=128", "--arch", "sm_90")),
}  # fmt: skip


def measure(names: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Median processor and wall seconds of each build, after one that leaves compiled modules behind."""
    from benchmarks.emulator import timed

    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            what, limit, arguments = MARKS[name]
            output = str(Path(folder) / f"{name}.tsb")
            command = (sys.executable, "-m", "tesseracc", "build", *arguments, "--no-cache", "-o", output)

            def run(command: tuple[str, ...] = command) -> None:
                subprocess.run(command, check=True, capture_output=True, env=environment)

            run()
            cpu, wall = zip(*(timed(run) for _ in range(rounds)), strict=True)
            rows.append({"name": what, "cpu": median(cpu), "wall": median(wall), "worst": max(wall), "limit": limit})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.build_time", description="How long builds take.")
    parser.add_argument("words", nargs="*", help=f"only some of: {' '.join(MARKS)}")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each process (default 5)")
    parser.add_argument("--name", help="write results/NAME.json and NAME.md")
    parser.add_argument("--date", default=os.environ.get("BENCH_DATE", ""), help="date for the report (or BENCH_DATE)")
    given = parser.parse_args()
    from benchmarks import machine, report
    from benchmarks.emulator import page

    rows = measure([name for name in MARKS if not given.words or name in given.words], given.rounds)
    described = machine.describe() | {"load": f"{os.getloadavg()[0]:.1f} processes"}
    results = {"name": given.name or "build-time", "date": given.date, "machine": described, "processes": rows}
    text = page(results, "no build cache; medians. The target is for the wall clock, on a quiet machine", "wall")
    print(text)
    if given.name:
        (report.FOLDER / f"{given.name}.json").write_text(json.dumps(results, indent=1) + "\n")
        (report.FOLDER / f"{given.name}.md").write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
