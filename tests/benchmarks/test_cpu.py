"""The comparison with other libraries: rows compute what NumPy computes, and the page says what was reached."""

from __future__ import annotations

import pytest

from benchmarks import cpu


@pytest.mark.parametrize(
    "case",
    [
        cpu.Case("matmul", (5, 7, 9), flops=1.0),
        cpu.Case("decode", (1, 33, 70), flops=1.0),
        cpu.Case("softmax", (3, 130), bytes=1.0),
        cpu.Case("column_sums", (9, 70), 1e9, bytes=1.0),
    ],
    ids=lambda case: case.name,
)
def test_a_row_is_measured_and_shown(case: cpu.Case) -> None:
    row = cpu.measure(case, 2, 1, ())
    assert set(row["ms"]) == {"tessera", "numpy"} and row["error"] < 1e-5
    assert 0 < row["worst"] <= row["ratio"]
    page = cpu.page({"name": "n", "date": "d", "machine": {}, "versions": {}, "limits": {}, "rows": [row]})
    assert case.name in page and ("**missed**" in page) == (case.target is not None)


def test_every_case_has_its_program_and_arguments() -> None:
    from benchmarks import programs

    for case in cpu.CASES:
        assert hasattr(programs, case.entry)
    small = {case.entry: cpu.Case(case.entry, tuple(min(size, 3) for size in case.sizes)) for case in cpu.CASES}
    assert all(cpu.arguments(case) for entry, case in small.items() if entry not in ("layer",))
