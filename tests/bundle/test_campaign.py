"""A short part of the mutation campaign, always the same cases, and the mutants that once got through."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundle.base import base, signed_base
from tests.bundle.campaign import GOLDEN, run
from tests.bundle.mutate import mutant

CASES = 700


@pytest.mark.parametrize("name", ["golden", "base"])
def test_no_mutant_crashes_hangs_or_differs_silently(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.tsb"
    path.write_bytes(GOLDEN.read_bytes() if name == "golden" else signed_base())
    counts, failures, peak = run(path, 99, 0, CASES)
    assert not failures, failures
    assert sum(counts.values()) == CASES and peak < 1 << 20
    kinds = {said.partition(":")[0] for said in counts}
    assert {"raw", "manifest", "text", "weights", "image"} <= kinds
    assert sum(count for said, count in counts.items() if said.startswith("raw: ran")) == 0


def test_mutants_are_the_same_everywhere() -> None:
    data = base()
    for number in range(60):
        first, again = mutant(data, 5, number), mutant(data, 5, number)
        assert first == again and first.data != b"" and (first.kind == "raw") == (number % 2 == 0)
        if first.kind == "raw":
            assert first.data != data
