"""The benchmark of builds builds what it says."""

from __future__ import annotations

from pathlib import Path

from benchmarks import build_time


def test_a_build_is_measured() -> None:
    (row,) = build_time.measure(["gemm"], 1)
    assert row["limit"] == 2.0 and min(row["cpu"], row["wall"]) > 0


def test_what_is_built_exists() -> None:
    assert all(Path(arguments[0]).is_file() for _, _, arguments in build_time.MARKS.values())
