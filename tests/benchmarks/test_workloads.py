"""What the benchmarks compare computes the same on both sides, on small and ragged sizes. Nothing is timed here."""

from __future__ import annotations

import numpy as np
import pytest

import tessera_runtime
from benchmarks import compare, machine, report
from benchmarks.timing import Times
from benchmarks.workloads import WORKLOADS, Workload

SMALL = {w.entry: w for w in WORKLOADS}  # the last of each: NumPy by blocks of rows where there is such a form
SIZES = {1: ((1,), (2100,), (4099,)), 2: ((1, 1), (5, 131), (70, 33)), 3: ((3, 4, 5), (35, 66, 130))}


@pytest.fixture(scope="module")
def bundle() -> tessera_runtime.Bundle:
    return compare.load(sorted(SMALL))


@pytest.mark.parametrize("entry", sorted(SMALL))
def test_both_sides_agree(bundle: tessera_runtime.Bundle, entry: str) -> None:
    workload: Workload = SMALL[entry]
    for sizes in SIZES[len(workload.sizes)]:
        ours, theirs, mine, other = compare.contenders(workload, bundle[entry], sizes)
        ours()
        theirs()
        assert np.abs(mine).max() > 0 or sizes == (1, 1)
        assert compare.difference(mine, other) < 2e-5, sizes


def test_the_limits_are_measured_on_real_work() -> None:
    found = machine.limits(1, 1 << 12)
    assert len(found) == 3 and all(value > 0 for value in found.values())


def test_the_report_says_what_was_missed() -> None:
    row = {"name": "w", "tessera_ms": 2.0, "numpy_ms": 3.0, "ratio": 1.5, "worst_ratio": 1.4, "gflops": None}
    rows = [{**row, "gbytes": 8.0, "target": 1.2}, {**row, "gbytes": 8.0, "target": 3.0}]
    page = report.text({"name": "n", "date": "d", "machine": machine.describe(), "workloads": rows})
    assert "1.2x reached" in page and "3x **missed**" in page


def test_the_median_is_of_the_rounds() -> None:
    assert Times((3.0, 1.0, 9.0)).median == 3.0 and Times((3.0, 1.0)).best == 1.0
