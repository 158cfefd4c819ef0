"""The results as JSON and as text."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import programs
from benchmarks.workloads import Workload, by_blocks

FOLDER = Path(__file__).resolve().parent / "results"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(['---'] + ['---:'] * (len(head) - 1))}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _verdict(reached: bool | None) -> str:
    return "" if reached is None else "reached" if reached else "**missed**"


def text(results: dict[str, Any]) -> str:
    """A page to read."""
    lines = [f"# {results['name']}, {results['date']}", ""]
    lines += [f"- {key}: {value}" for key, value in results["machine"].items()]
    lines += ["", "One thread; contenders take turns in one process; medians of the rounds.", ""]
    lines += ["The worst ratio pairs the two runs of one round.", ""]
    if results.get("limits"):
        lines += ["## Limits of the machine in the same run", ""]
        lines += table(("limit", "measured"), [(key, f"{value:.1f}") for key, value in results["limits"].items()])
    if results.get("workloads"):
        lines += ["## Beside NumPy", ""]
        rows = []
        for row in results["workloads"]:
            rate = f"{row['gflops']:.0f} GFLOP/s" if row["gflops"] else f"{row['gbytes']:.1f} GB/s"
            target = row["target"]
            goal = "" if target is None else f"{target:g}x {_verdict(row['ratio'] >= target)}"
            rows.append(
                (
                    row["name"], f"{row['tessera_ms']:.2f}", f"{row['numpy_ms']:.2f}", f"{row['ratio']:.2f}x",
                    f"{row['worst_ratio']:.2f}x", rate, goal,
                )
            )  # fmt: skip
        lines += table(("workload", "tessera ms", "NumPy ms", "ratio", "worst", "rate", "target"), rows)
    if results.get("processes"):
        lines += ["## Processes", ""]
        runs = [
            (
                row["name"], f"{row['seconds']:.3f}", f"{row['worst']:.3f}",
                "" if row["limit"] is None else f"{row['limit']:g} s {_verdict(row['seconds'] < row['limit'])}",
            )
            for row in results["processes"]
        ]  # fmt: skip
        lines += table(("process", "median s", "worst s", "target"), runs)
    return "\n".join(lines)


def sources(workloads: Sequence[Workload]) -> str:
    """What was measured: the programs, and NumPy at its best."""
    ours = inspect.getsource(programs)
    theirs = "\n\n".join(dict.fromkeys(w.numpy_source for w in workloads))
    theirs += "\n\n" + inspect.getsource(by_blocks)
    return f"# -- compiled --\n{ours}\n\n# -- NumPy --\n{theirs}"


def write(results: dict[str, Any]) -> tuple[Path, Path]:
    """results/<name>.json and .md."""
    FOLDER.mkdir(exist_ok=True)
    data, page = FOLDER / f"{results['name']}.json", FOLDER / f"{results['name']}.md"
    data.write_text(json.dumps(results, indent=1) + "\n")
    page.write_text(text(results))
    return data, page
