"""Every synchronising instruction of correct programs deleted in turn: the emulator alone finds it.

Found means a finding, or a wrong result, for one of a few seeds. What survives is listed with the reason why the
program is correct without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tesseracc.emulator import EmulatorError, GlobalMemory, Report, launch, parse_ptx
from tests.emulator import test_async_findings as programs
from tests.emulator.outside.support import tensor_map

CUDA = Path(__file__).parent / "outside/cuda"
BF16: Any = ml_dtypes.bfloat16
SEEDS = range(3)

#: instructions that order something, and how one is taken out: a wait goes on at once
SYNCHRONISING = re.compile(
    r"^\s*(@!?%\w+ )?(bar(rier)?\.|cp\.async\.(commit|wait|bulk\.(commit|wait))|mbarrier\.(init|arrive|expect_tx)"
    r"|fence\.|wgmma\.(fence|commit|wait)|tcgen05\.(alloc|dealloc|commit|fence|wait)|membar)"
    r"|mbarrier\.try_wait|mbarrier\.test_wait"
)
WAIT = re.compile(r"mbarrier\.(try|test)_wait\S* +(%\w+),.*")


def without(line: str) -> str:
    wait = WAIT.search(line)
    return f"setp.eq.u32 {wait[2]}, 0, 0;" if wait else ""


def deletions(text: str, kernel: str) -> list[int]:
    """Line numbers of the synchronising instructions of a kernel."""
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if ".entry" in line and kernel in line)
    end = next((i for i in range(start + 1, len(lines)) if ".entry" in lines[i] or ".func" in lines[i]), len(lines))
    return [i for i in range(start, end) if SYNCHRONISING.search(lines[i])]


def gemm(lines: list[str], seed: int) -> tuple[Report, bool]:
    m, n, k = 128, 256, 320
    rng = np.random.default_rng(8)
    a, b = (rng.normal(size=s).astype(BF16) for s in ((m, k), (n, k)))
    memory = GlobalMemory()
    maps = [tensor_map(memory, x, "bf16", (64, 128), 128)[0] for x in (a, b)]
    c = np.zeros((m, n), np.uint16)
    report = launch(parse_ptx("\n".join(lines)), "gemm", (n // 128, m // 128), (256,), [*maps, c, n, k], memory=memory,
                    dynamic_shared=3 * 4 * 64 * 128, seed=seed, max_steps=programs.STEPS, strict=True)  # fmt: skip
    want = a.astype(np.float64) @ b.astype(np.float64).T
    return report, bool(np.allclose(c.view(BF16).astype(np.float64), want, rtol=2.0**-7, atol=0.05))


def specialised(lines: list[str], seed: int) -> tuple[Report, bool]:
    m, n, k = 128, 64, 64 * 5
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(m, k)).astype(BF16), rng.normal(size=(n, k)).astype(BF16)
    memory = GlobalMemory()
    ma, _ = tensor_map(memory, a.view(np.uint16), "bf16", (64, 64), 128)
    mb, _ = tensor_map(memory, b.view(np.uint16), "bf16", (64, 16), 128)
    mc, address = tensor_map(memory, np.zeros((m, n), np.uint16), "bf16", (32, 64))
    report = launch(parse_ptx("\n".join(lines)), "specialised", (2, 2), (256,), [ma, mb, mc, k], memory=memory,
                    dynamic_shared=3 * 96 * 128, seed=seed, max_steps=programs.STEPS, strict=True)  # fmt: skip
    found = np.frombuffer(memory.read(address, m * n * 2), np.uint16).view(BF16).reshape(m, n).astype(np.float64)
    want = a.astype(np.float64) @ b.astype(np.float64).T
    return report, bool(np.allclose(found, want, rtol=2.0**-7, atol=0.05))


Runner = Callable[[list[str], int], tuple[Report, bool]]
PROGRAMS: dict[str, tuple[str, Runner]] = {
    "pipelined_matmul": ("tensor", programs.pipelined),
    "wgmma_tma": ("hopper", programs.wgmma),
    "bulk_scale": ("hopper", programs.bulk),
    "cluster_histogram": ("hopper", programs.cluster),
    "specialised": ("cluster", specialised),
    "gemm": ("gemm", gemm),
}


def caught(run: Runner, lines: list[str]) -> str | None:
    """How a program shows that it is wrong: a code, or `value`; None: it does not."""
    for seed in SEEDS:
        try:
            report, right = run(lines, seed)
        except EmulatorError as error:
            return error.code
        if report.findings:
            return report.findings[0].code
        if not right:
            return "value"
    return None


#: survivors: kernel, words of the line, how many such lines, and why the program is correct without them
REDUNDANT = [
    ("wgmma_tma", "wgmma.fence", 1, "the accumulators are chained: no other instruction touches them in between"),
    ("wgmma_tma", "bar.sync", 3, "a warpgroup's reads are over when the warp that issues the next copy has waited"),
    ("wgmma_tma", "expect_tx", 1, "not reached with this number of steps"),
    ("specialised", "bar.warp.sync", 1, "the warp is together already"),
    ("gemm", "bar.warp.sync", 1, "the warp is together already"),
]


@pytest.mark.parametrize("kernel", list(PROGRAMS))
def test_every_deletion_is_found_or_redundant(kernel: str) -> None:
    file, run = PROGRAMS[kernel]
    text = (CUDA / f"{file}.ptx").read_text()
    lines = text.split("\n")
    assert caught(run, lines) is None
    numbers = deletions(text, kernel)
    assert len(numbers) >= 4
    survivors = []
    for number in numbers:
        if caught(run, [*lines[:number], without(lines[number]), *lines[number + 1 :]]) is None:
            survivors.append(lines[number].strip())
    for name, words, count, _ in REDUNDANT:
        if name == kernel:
            matching = [line for line in survivors if words in line]
            assert len(matching) == count, (words, survivors)
            survivors = [line for line in survivors if words not in line]
    assert not survivors
