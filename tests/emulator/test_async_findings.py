"""Seeded bugs in asynchronous programs: one line of a correct program (test_tensor_programs) is removed or changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tesseracc.emulator import GlobalMemory, Report, TensorMap, launch, parse_ptx

PROGRAMS = Path(__file__).parent / "outside/cuda"
BF16: Any = ml_dtypes.bfloat16
STEPS = 100_000  # several times what a correct run needs


def mutate(program: str, kernel: str, words: str, replacement: str | None, nth: int = 0) -> list[str]:
    """The program with the nth line of `kernel` that matches `words` replaced (None: removed)."""
    lines = (PROGRAMS / f"{program}.ptx").read_text().split("\n")
    start = next(k for k, line in enumerate(lines) if ".entry" in line and kernel in line)
    at = [k for k in range(start, len(lines)) if re.search(words, lines[k])][nth]
    lines[at] = "" if replacement is None else re.sub(words, replacement, lines[at])
    return lines


def pipelined(lines: list[str], seed: int) -> tuple[Report, bool]:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(64, 160)).astype(np.float16), rng.normal(size=(160, 64)).astype(np.float16)
    c = np.zeros((64, 64), np.float32)
    report = launch(parse_ptx("\n".join(lines)), "pipelined_matmul", (1, 1), (128,), [a, b, c, 64, 160], seed=seed,
                    max_steps=STEPS, strict=True)  # fmt: skip
    return report, bool(np.allclose(c, a.astype(np.float64) @ b.astype(np.float64), atol=1e-2))


def wgmma(lines: list[str], seed: int) -> tuple[Report, bool]:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(64, 320)).astype(BF16), rng.normal(size=(16, 320)).astype(BF16)
    memory = GlobalMemory()
    maps = []
    for x in (a, b):
        p = memory.alloc(x.nbytes)
        memory.write(p, x.view(np.uint16))
        maps.append(TensorMap("bf16", p, (320, len(x)), (640,), (64, len(x)), swizzle=128).encode())
    c = np.zeros((64, 16), np.float32)
    report = launch(parse_ptx("\n".join(lines)), "wgmma_tma", (1, 1), (128,), [*maps, c, 16, 320],
                    dynamic_shared=2 * 80 * 128, memory=memory, seed=seed, max_steps=STEPS, strict=True)  # fmt: skip
    return report, bool(np.allclose(c, a.astype(np.float64) @ b.astype(np.float64).T, atol=1e-2))


def bulk(lines: list[str], seed: int) -> tuple[Report, bool]:
    x = np.random.default_rng(6).normal(size=(2, 256)).astype(np.float32)
    y = np.zeros_like(x)
    report = launch(parse_ptx("\n".join(lines)), "bulk_scale", (2,), (64,), [x, y, np.float32(3)], seed=seed,
                    max_steps=STEPS, strict=True)  # fmt: skip
    return report, bool(np.array_equal(y, x * np.float32(3)))


def cluster(lines: list[str], seed: int) -> tuple[Report, bool]:
    data = np.random.default_rng(7).integers(0, 256, 3000).astype(np.uint8)
    bins = np.zeros(256, np.uint32)
    report = launch(parse_ptx("\n".join(lines)), "cluster_histogram", (4,), (128,), [data, bins, len(data)], seed=seed,
                    max_steps=STEPS, strict=True)  # fmt: skip
    return report, bool(np.array_equal(bins, np.bincount(data, minlength=256)))


RUN: dict[str, Any] = {
    "pipelined_matmul": pipelined,
    "wgmma_tma": wgmma,
    "bulk_scale": bulk,
    "cluster_histogram": cluster,
}
FILE = {"pipelined_matmul": "tensor"}

# (what is wrong, kernel, words of the line, replacement, which of them, code, words of the line reported)
BUGS = [
    ("no wait for cp.async", "pipelined_matmul", "cp.async.wait_group", None, 0, "E959", "ldmatrix"),
    ("wait leaves one group too many", "pipelined_matmul", "cp.async.wait_group 1", "cp.async.wait_group 2", 0, "E959",
     "ldmatrix"),
    ("no barrier after the wait", "pipelined_matmul", "bar.sync", None, 0, "E959|E955", "ldmatrix"),
    ("no wait for the TMA", "wgmma_tma", "@p bra DONE", "bra DONE", 0, "E959", "wgmma.mma_async"),
    ("wrong phase", "bulk_scale", r"(try_wait.*\]), %r\d+", r"\1, 1", 0, "E959", "ld.shared"),
    ("phase that never ends", "bulk_scale", r"(expect_tx.*), 1024", r"\1, 1040", 0, "E957", "try_wait"),
    ("no expectation and no arrival", "wgmma_tma", "mbarrier.arrive.expect_tx", None, 0, "E957", "try_wait"),
    ("no mbarrier.init", "bulk_scale", "mbarrier.init", None, 0, "E960", "mbarrier"),
    ("no wait for the bulk copy", "bulk_scale", "@p bra DONE", "bra DONE", 0, "E959", "ld.shared"),
    ("no proxy fence", "bulk_scale", "fence.proxy.async", None, 0, "E961", "cp.async.bulk.global"),
    ("no barrier before the bulk store", "bulk_scale", "bar.sync", None, 1, "E955|E961", "cp.async.bulk.global"),
    ("no wait for the bulk store", "bulk_scale", "cp.async.bulk.wait_group", None, 0, "E959", "cp.async.bulk.global"),
    ("size of a bulk copy not a multiple of 16", "bulk_scale", r"(bulk_group .*), 1024", r"\1, 1000", 0, "E952",
     "cp.async.bulk.global"),
    ("bulk copy beyond shared memory", "bulk_scale", r"(complete_tx::bytes .*), 1024,", r"\1, 2048,", 0, "E951",
     "cp.async.bulk.shared"),
    ("no wgmma.fence", "wgmma_tma", "wgmma.fence", None, 0, "E960", "wgmma.mma_async"),
    ("no cluster barrier at the start", "cluster_histogram", "barrier.cluster.wait", None, 0, "E955|E960|E953", "."),
]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("bug", BUGS, ids=[b[0] for b in BUGS])
def test_seeded_bug(bug: Any, seed: int) -> None:
    _, kernel, words, replacement, nth, code, where = bug
    lines = mutate(FILE.get(kernel, "hopper"), kernel, words, replacement, nth)
    report, _ = RUN[kernel](lines, seed)
    assert report.findings, "not reported"
    found = [(f.code, lines[f.ptx_line - 1].strip()) for f in report.findings]
    assert any(c in code.split("|") and where in line for c, line in found), found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kernel", list(RUN))
def test_correct_twin(kernel: str, seed: int) -> None:
    lines = (PROGRAMS / f"{FILE.get(kernel, 'hopper')}.ptx").read_text().split("\n")
    report, right = RUN[kernel](lines, seed)
    assert not report.findings, report.findings[0].render()
    assert right


def test_a_missing_wait_reads_old_bytes_on_every_run() -> None:
    lines = mutate("hopper", "wgmma_tma", "@p bra DONE", "bra DONE")
    assert not wgmma(lines, 0)[1]
