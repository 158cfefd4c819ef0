"""Every kernel of the library and of the seeds, without one barrier, wait, fence, commit or arrival.

The emulator alone finds it, from the PTX. ORDER.md is what came out; `--bless` writes the rows of the cases that run.
The compiler inserts what orders by bookkeeping and has no verifier of its own behind that, which could find it too.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tesseracc.arch.arch import load
from tests.kernels.cases import Case
from tests.kernels.deletions import Ordered, outcome
from tests.kernels.matrix import CASES, fixed

TABLE = Path(__file__).parent / "ORDER.md"
ARCHS = ("sm_80", "sm_90", "sm_100")
#: how an absence shows: a happens-before finding (accesses that nothing orders, copies and registers under way, data
#: that nobody wrote), a rule of the synchronising instructions, an end that does not come, a wrong number
KINDS = {
    "happens-before": ("E953", "E955", "E956", "E959"),
    "protocol": ("E951", "E952", "E954", "E960", "E961", "E962", "E963"),
    "no end": ("E957", "E958"),
    "value": ("value",),
}
HEAD = f"""\
# Kernels without one of the instructions that order them

Barriers, waits, fences, commits and arrivals of each kernel, taken out of its PTX one at a time, and how the emulator
shows it: by a happens-before finding (E953, E955, E956, E959), by another rule of the instructions, by no end, or by
a result beyond its bound alone. What nobody misses is redundant only where nothing in the kernel reads shared memory.
sm_100 is for products in tensor memory. Cases without a row are open (`OPEN` in tests/kernels/test_deletions.py).
`pytest -m slow tests/kernels/test_deletions.py --bless -n 0` writes the table.

| kernel | type | target | instructions | {" | ".join(KINDS)} | redundant |
|---|---|---|---|{"---|" * len(KINDS)}---|
"""
#: rows, depth and columns: rows of one operand that 16 bytes divide, and of another that they do not; more depth than
#: any ring has; several blocks of the result where one block (or one cluster) makes all, an even and an odd number
MORE = ((70, 336, 70), (70, 336, 72), (72, 336, 70), (72, 672, 64), (72, 336, 136), (24, 336, 136),
        (72, 336, 144), (300, 336, 144))  # fmt: skip
#: B, H, G, S, T, causal: more than one head of queries for each of keys, and more blocks than any ring has
HEADS = {
    "flash_attention_64": ((1, 2, 1, 160, 330, False), (1, 4, 2, 100, 330, False), (1, 2, 1, 160, 330, True)),
    "flash_attention_grad_q_64": ((1, 2, 1, 160, 330, False), (1, 4, 2, 100, 330, False), (1, 2, 1, 160, 330, True)),
    "flash_attention_grad_kv_64": ((1, 2, 1, 330, 160, False), (1, 4, 2, 330, 100, False), (1, 2, 1, 330, 160, True)),
}
LENGTHS = ((257, False), (330, False), (257, True), (330, True))


def chosen() -> dict[str, Case]:
    """The cases whose order is looked at: one type of 16 bits or what there is, one head size."""
    found = {}
    for name, case in CASES.items():
        narrow = case.dtype == "bf16" or (case.name.startswith(("seed_", "matmul_nn_to")) and case.dtype != "f64")
        if narrow and not case.name.endswith(("_32", "_128", "_256", "_to_f32-bf16")):
            found[name] = with_more(case)
    return found


def with_more(case: Case) -> Case:
    """Products have more calls, and attention others, which reach every version of a kernel and all of its copies."""
    made = case.calls[0]
    if not isinstance(made, partial):
        return case
    if case.name in ("seed_gemm", "seed_double_buffered_gemm"):
        calls = [partial(made.func, made.args[0], *shape) for shape in MORE]
    elif case.name.startswith("matmul_parts"):  # as deep, in each part
        calls = [partial(made.func, *made.args[:-1], (m, made.args[-2] * k, n)) for m, k, n in MORE]
    elif case.name.startswith("matmul"):
        calls = [partial(made.func, *made.args[:-1], shape) for shape in MORE]
    elif case.name == "seed_flash_attention":
        return replace(case, calls=tuple(partial(made.func, *made.args[:2], *length) for length in LENGTHS))
    elif case.name == "seed_fused_attention_kernel":  # an even number of blocks, more than its ring has
        calls = [partial(made.func, *made.args[:2], 400, False)]
    elif case.name in HEADS:
        return replace(case, calls=tuple(partial(made.func, *made.args[:-1], shape) for shape in HEADS[case.name]))
    else:
        return case
    return replace(case, calls=(*case.calls, *calls))


ORDERED = chosen()


def targets(name: str) -> tuple[str, ...]:
    """One with the threads' own copies, one with copy engines, and one with tensor memory for what uses it."""
    return ARCHS if name.startswith(("matmul", "seed_gemm")) else ARCHS[:2]


#: not run to an end yet
OPEN = {(f"flash_attention_grad_{of}_64-bf16", "sm_90") for of in ("q", "kv")}
CLOSED = [(name, arch) for name in ORDERED for arch in targets(name) if (name, arch) not in OPEN]


def lines() -> dict[str, str]:
    """The table's rows by case and target."""
    text = TABLE.read_text().splitlines() if TABLE.exists() else []
    cells = [(line.split(" | "), line) for line in text if line.startswith("| ") and not line.startswith("| kernel")]
    return {f"{found[0].removeprefix('| ')}-{found[1]} {found[2]}": line for found, line in cells}


def checked(name: str, arch: str) -> str:
    """The row of a case of which nothing is left over."""
    case = ORDERED[name]
    found = outcome(case, arch)
    assert not found.survivors
    counts = [sum(found.by.get(code, 0) for code in codes) for codes in KINDS.values()]
    assert sum(counts) + found.redundant == found.tried, found.by
    numbers = " | ".join(str(count) for count in (found.tried, *counts, found.redundant))
    return f"| {case.name} | {case.dtype} | {arch} | {numbers} |"


@pytest.mark.slow
@pytest.mark.parametrize("name,arch", CLOSED)
def test_everything_that_orders_is_needed(name: str, arch: str, bless: bool) -> None:
    row = checked(name, arch)
    if bless:
        found = lines() | {f"{name} {arch}": row}
        order = [f"{case} {target}" for case, target in CLOSED]
        TABLE.write_text(HEAD + "".join(found[key] + "\n" for key in order if key in found))


@pytest.mark.parametrize("name,arch", [("column_sum-bf16", "sm_80"), ("seed_cooperative_reduction-f32", "sm_90")])
def test_sample(name: str, arch: str) -> None:
    tried, ordered = checked(name, arch).split(" | ")[3:5]
    assert int(tried) == int(ordered) > 0


def test_the_table_counts_every_instruction() -> None:
    for row in lines().values():
        tried, *counts = (int(cell.strip(" |")) for cell in row.split(" | ")[3:])
        assert sum(counts) == tried


def test_what_nothing_needs_is_not_there() -> None:
    """Rows that 16 bytes divide go to the versions with tensor copies, so the other one has no copies to wait for; no
    product is behind its loop, so no fence is either."""
    case = ORDERED["matmul_nt-bf16"]
    ordered = Ordered(case, load("sm_90"), fixed(case.kernel(), case.calls[-1]())[0])
    (general,) = [text for text in ordered.text.split(".visible .entry ") if "wgmma" in text and ".bulk" not in text]
    assert "cp.async" not in general
    assert general.count("fence.proxy.async") == 1
