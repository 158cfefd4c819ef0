"""`python -m benchmarks.emulator`: how long the PTX emulator takes with every check on, as whole processes on one core.

The programs are PTX of three compilers: nvcc's and Triton's, committed with the tests, and our own. Each process starts
Python, parses, runs, checks the result and that there are no findings, and ends. With --name the results are written.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

OUTSIDE = Path(__file__).resolve().parent.parent / "tests" / "emulator" / "outside"


def emulate(path: str, kernel: str, grid: Sequence[int], block: int, args: Sequence[Any], **options: Any) -> Any:
    """Launch a kernel of a committed module; no findings are expected."""
    from tesseracc.emulator import launch, parse_ptx

    report = launch(parse_ptx((OUTSIDE / path).read_text()), kernel, grid, (block,), args, **options)
    assert not report.findings, report.findings[0].render()
    return report


def bf16(array: Any) -> Any:
    """The nearest bf16 values, as (patterns, f64 values)."""
    bits = array.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return bits.astype(np.uint16), (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def gemm(size: int) -> None:
    """128x128x64 tiles of bf16, TMA into a ring of three stages, two warpgroups of wgmma."""
    from tesseracc.emulator import GlobalMemory, TensorMap

    rng, memory = np.random.default_rng(0), GlobalMemory()
    (a, x), (b, y) = (bf16(rng.normal(size=(size, size))) for _ in range(2))
    maps = []
    for array in (a, b):
        address = memory.alloc(array.nbytes)
        memory.write(address, array)
        maps.append(TensorMap("bf16", address, (size, size), (2 * size,), (64, 128), swizzle=128).encode())
    c = np.zeros((size, size), np.uint16)
    emulate("cuda/gemm.ptx", "gemm", (size // 128, size // 128), 256, [*maps, c, size, size], memory=memory,
            dynamic_shared=3 * 4 * 64 * 128)  # fmt: skip
    got = (c.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    want = x @ y.T
    assert (np.abs(got - want) <= np.abs(want) * 2.0**-8 + 1e-3).all()


def attention(arch: str, length: int) -> None:
    """One head of 64 columns by Triton: f16 in, f32 out; causal and with wgmma on sm_90a, with mma.sync on sm_80."""
    module, shared = {"sm_90a": ("attention_causal_90", 57344), "sm_80": ("attention_80", 24576)}[arch]
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(length, 64)).astype(np.float16) for _ in range(3))
    out = np.zeros((length, 64), np.float32)
    emulate(f"triton/{module}.ptx", "attention", (-(-length // 64), 1), 128,
            [q, k, v, out, length, length, np.float32(0.125), np.uint64(0), np.uint64(0)],
            dynamic_shared=shared)  # fmt: skip
    s = q.astype(np.float64) @ k.astype(np.float64).T * 0.125
    if arch == "sm_90a":
        s = np.where(np.arange(length)[None] <= np.arange(length)[:, None], s, -np.inf)
    p = np.exp(s - s.max(axis=1, keepdims=True))
    assert np.abs(out - (p / p.sum(axis=1, keepdims=True)) @ v.astype(np.float64)).max() < 4e-3


def saxpy(bundle: str, count: int) -> None:
    """Our own compiler's kernel, from a bundle."""
    import tessera_runtime
    from tesseracc.emulator_device import EmulatorDevice

    function = tessera_runtime.load(bundle, device=EmulatorDevice())["saxpy"]
    x, y = (np.random.default_rng(s).normal(size=count).astype(np.float32) for s in (0, 1))
    want = np.float32(1.5) * x + y
    got = function(x, y, np.float32(1.5))
    assert np.abs(got - want).max() <= np.abs(want).max() * 2.0**-22


def campaign(runs: int) -> None:
    """Many launches in one process, as fault injection makes them."""
    for _ in range(runs):
        attention("sm_80", 128)


#: name -> (what it is, seconds that it may take or None, the work, given a bundle of saxpy)
MARKS: dict[str, tuple[str, float | None, Callable[[str], None]]] = {
    "gemm": ("GEMM 256^3, 128x128x64 tiles: TMA, wgmma", 3.0, lambda _: gemm(256)),
    "attention": ("attention, S = 256, D = 64, sm_90a (wgmma)", 4.0, lambda _: attention("sm_90a", 256)),
    "attention-mma": ("attention, S = 256, D = 64, sm_80 (mma.sync)", 4.0, lambda _: attention("sm_80", 256)),
    "saxpy": ("saxpy, 2^20 elements, a bundle of ours", 1.0, lambda bundle: saxpy(bundle, 1 << 20)),
    "gemm-1024": ("GEMM 1024^3, the same kernel", None, lambda _: gemm(1024)),
    "attention-2048": ("attention, S = 2048, D = 64, sm_80", None, lambda _: attention("sm_80", 2048)),
    "campaign": ("100 launches of attention, S = 128", None, lambda _: campaign(100)),
}  # fmt: skip


def measure(names: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Median processor and wall seconds of each process. The limits hold for processor time: one core, to itself."""
    from benchmarks import processes

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = str(Path(folder) / "saxpy.tsb")
        programs = str(Path(__file__).with_name("programs.py"))
        processes.run((*processes.COMPILER, "build", programs, "--entry", "saxpy", "--arch", "sm_90", "-o", bundle))
        for name in names:
            what, limit, _ = MARKS[name]
            command = (sys.executable, "-m", "benchmarks.emulator", "--run", name, "--bundle", bundle)
            processes.run(command)
            cpu, wall = zip(*(timed(lambda command=command: processes.run(command)) for _ in range(rounds)))  # type: ignore[misc]
            rows.append({"name": what, "cpu": median(cpu), "wall": median(wall), "worst": max(wall), "limit": limit})
    return rows


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """(processor seconds of the child processes, wall seconds) of a call."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    call()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def page(
    results: dict[str, Any], what: str = "every check on; medians. The target is for processor time", clock: str = "cpu"
) -> str:
    """A page to read: `what` was measured of whole processes, whose target is for `clock`."""
    lines = [f"# {results['name']}, {results['date']}", ""]
    lines += [f"- {key}: {value}" for key, value in results["machine"].items()]
    lines += ["", f"Whole processes, {what}.", ""]
    lines += ["| process | processor s | wall s | worst wall s | target |", "|---|---:|---:|---:|---:|"]
    for row in results["processes"]:
        reached = (
            "" if row["limit"] is None else f"{row['limit']:g} s {'' if row[clock] < row['limit'] else 'not '}reached"
        )
        lines.append(f"| {row['name']} | {row['cpu']:.2f} | {row['wall']:.2f} | {row['worst']:.2f} | {reached} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    from benchmarks.__main__ import SINGLE

    parser = argparse.ArgumentParser(prog="python -m benchmarks.emulator", description="The PTX emulator's speed.")
    parser.add_argument("words", nargs="*", help=f"only some of: {' '.join(MARKS)}")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each process (default 5)")
    parser.add_argument("--run", help="do the work of one in this process")
    parser.add_argument("--bundle", default="", help="the bundle of saxpy, for --run")
    parser.add_argument("--name", help="write results/NAME.json and NAME.md")
    parser.add_argument("--date", default=os.environ.get("BENCH_DATE", ""), help="date for the report (or BENCH_DATE)")
    given = parser.parse_args()
    if given.run:
        MARKS[given.run][2](given.bundle)
        return 0
    os.environ.update(dict.fromkeys(SINGLE, "1"))
    from benchmarks import machine, report

    rows = measure([name for name in MARKS if not given.words or name in given.words], given.rounds)
    results = {"name": given.name or "emulator", "date": given.date, "machine": machine.describe(), "processes": rows}
    print(page(results))
    if given.name:
        (report.FOLDER / f"{given.name}.json").write_text(json.dumps(results, indent=1) + "\n")
        (report.FOLDER / f"{given.name}.md").write_text(page(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
