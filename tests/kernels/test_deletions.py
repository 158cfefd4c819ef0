"""Every kernel of the library and of the seeds, without one barrier, wait, fence, commit or arrival.

The emulator alone finds it, from the PTX. ORDER.md is what came out; `--bless` writes the rows of the cases that run,
and the totals. The compiler inserts what orders by bookkeeping and has no verifier of its own behind that, which could
find it too.
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
HEAD = """\
# Kernels without one of the instructions that order them

Barriers, waits, fences, commits and arrivals of each kernel, taken out of its PTX one at a time, and how the emulator
shows it, from the PTX alone. Each is counted once, by what came first:

- happens-before: its happens-before verifier, which reports accesses that nothing orders, copies and registers under
  way, and data that nobody wrote (E953, E955, E956, E959);
- protocol: another rule of the instructions;
- no end: threads that wait for ever;
- value: a result beyond its bound, and nothing else;
- redundant: nobody misses it, and nobody can, for nothing in the kernel reads shared memory. What is neither caught nor
  redundant fails the test.

sm_100 is for products in tensor memory. Every version of a kernel is tried that a call without an empty array launches.
`pytest -m slow tests/kernels/test_deletions.py --bless -n 0` writes this file.

## Totals

"""
COLUMNS = (*KINDS, "redundant")
BOTH = f"instructions | {' | '.join(COLUMNS)} |"
TOTALS = f"| target | kernels | {BOTH} caught |\n|---|---|---|{'---|' * len(COLUMNS)}---|\n"
KERNELS = f"\n## Kernels\n\n| kernel | type | target | {BOTH}\n|---|---|---|---|{'---|' * len(COLUMNS)}\n"
#: rows, depth and columns: rows of one operand that 16 bytes divide, and of another that they do not; more depth than
#: any ring has; several blocks of the result where one block (or one cluster) makes all, an even and an odd number
MORE = ((70, 336, 70), (70, 336, 72), (72, 336, 70), (72, 672, 64), (72, 336, 136), (24, 336, 136),
        (72, 336, 144), (300, 336, 144))  # fmt: skip
#: B, H, G, S, T, causal: more than one head of queries for each of keys; an odd and an even number of blocks along an
#: axis; several pieces for one block (or one cluster), with more iterations than any ring has slots
HEADS = {
    "flash_attention_64": ((1, 2, 1, 40, 330, False), (1, 2, 1, 100, 330, False), (1, 2, 1, 100, 330, True)),
    "flash_attention_grad_q_64": ((1, 2, 1, 40, 330, False), (1, 2, 1, 100, 330, False), (1, 2, 1, 100, 330, True)),
    "flash_attention_grad_kv_64": ((1, 4, 2, 200, 40, False), (1, 4, 2, 200, 100, False), (1, 2, 1, 200, 100, True)),
}
LENGTHS = ((257, False), (330, False), (257, True), (330, True))


def chosen() -> dict[str, Case]:
    """The cases whose order is looked at: one type of 16 bits or what there is, one head size."""
    found = {}
    for name, case in CASES.items():
        other = case.name.startswith(("seed_", "matmul_nn_to")) and case.dtype not in ("f64", "i16")
        narrow = case.dtype == "bf16" or other
        if narrow and not case.name.endswith(("_32", "_80", "_128", "_256", "_to_f32-bf16")):
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


TRIED = [(name, arch) for name in ORDERED for arch in targets(name)]


def lines() -> dict[str, str]:
    """The table's rows by case and target."""
    _, _, text = TABLE.read_text().partition(KERNELS)
    cells = [(line.split(" | "), line) for line in text.splitlines()]
    return {f"{found[0].removeprefix('| ')}-{found[1]} {found[2]}": line for found, line in cells}


def counts(row: str) -> list[int]:
    """A row's instructions, and how many of them fall in each column."""
    return [int(cell.strip(" |")) for cell in row.split(" | ")[3:]]


def page(found: dict[str, str]) -> str:
    """The file: totals of the rows, and the rows."""
    rows = {(name, arch): found[key] for name, arch in TRIED if (key := f"{name} {arch}") in found}
    totals = ""
    for where in (*ARCHS, "all"):
        of = [counts(row) for (_, arch), row in rows.items() if where in (arch, "all")]
        sums = [sum(column) for column in zip(*of, strict=True)]
        totals += f"| {where} | {len(of)} | {' | '.join(map(str, sums))} | {share(sums):.2f} % |\n"
    return HEAD + TOTALS + totals + KERNELS + "".join(row + "\n" for row in rows.values())


def share(sums: list[int]) -> float:
    """How much of what was tried is caught, in per cent; what is not is redundant."""
    tried, *kinds, _ = sums
    return 100 * sum(kinds) / tried


def checked(name: str, arch: str) -> str:
    """The row of a case of which nothing is left over."""
    case = ORDERED[name]
    found = outcome(case, arch)
    assert not found.survivors
    counted = [sum(found.by.get(code, 0) for code in codes) for codes in KINDS.values()]
    assert sum(counted) + found.redundant == found.tried, found.by
    numbers = " | ".join(str(count) for count in (found.tried, *counted, found.redundant))
    return f"| {case.name} | {case.dtype} | {arch} | {numbers} |"


@pytest.mark.slow
@pytest.mark.parametrize("name,arch", TRIED)
def test_everything_that_orders_is_needed(name: str, arch: str, bless: bool) -> None:
    row = checked(name, arch)
    if bless:
        TABLE.write_text(page(lines() | {f"{name} {arch}": row}))


@pytest.mark.parametrize("name,arch", [("column_sum-bf16", "sm_80"), ("seed_cooperative_reduction-f32", "sm_90")])
def test_sample(name: str, arch: str) -> None:
    tried, ordered = checked(name, arch).split(" | ")[3:5]
    assert int(tried) == int(ordered) > 0


def test_the_table_has_every_case_and_counts_every_instruction() -> None:
    rows = lines()
    assert set(rows) == {f"{name} {arch}" for name, arch in TRIED}
    assert TABLE.read_text() == page(rows)
    sums = [sum(column) for column in zip(*map(counts, rows.values()), strict=True)]
    assert all(tried == sum(of) for tried, *of in map(counts, rows.values())) and share(sums) >= 99


def test_what_nothing_needs_is_not_there() -> None:
    """Rows that 16 bytes divide go to the versions with tensor copies, so the other one has no copies to wait for; no
    product is behind its loop, so no fence is either."""
    case = ORDERED["matmul_nt-bf16"]
    ordered = Ordered(case, load("sm_90"), fixed(case.kernel(), case.calls[-1]())[0])
    (general,) = [text for text in ordered.text.split(".visible .entry ") if "wgmma" in text and ".bulk" not in text]
    assert "cp.async" not in general
    assert general.count("fence.proxy.async") == 1


def test_no_barrier_stands_between_the_pieces_of_different_groups() -> None:
    """The kernel adds to its result, which it reads and writes; what a block takes next is of another group."""
    case = ORDERED["seed_gemm-bf16"]
    ordered = Ordered(case, load("sm_90"), fixed(case.kernel(), case.calls[-1]())[0])
    (text,) = [text for text in ordered.text.split(".visible .entry ") if text.startswith("gemm__0__tensor(")]
    assert text.count("bar.sync") == 1  # behind the initialisation of mbarriers
