"""What the benchmark of the emulator runs is right, at small sizes; its report tells what was missed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import emulator


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_attention_of_ragged_length(arch: str) -> None:
    emulator.attention(arch, 70)


def test_gemm_of_one_tile() -> None:
    emulator.gemm(128)


def test_wrong_results_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "bf16", lambda array: (np.zeros(array.shape, np.uint16), array))
    with pytest.raises(AssertionError):
        emulator.gemm(128)


def test_page() -> None:
    row = {"name": "w", "cpu": 2.0, "wall": 3.0, "worst": 4.0}
    rows = [{**row, "limit": 1.0}, {**row, "limit": 3.0}, {**row, "limit": None}]
    text = emulator.page({"name": "n", "date": "d", "machine": {"cpu": "c"}, "processes": rows})
    assert text.startswith("# n, d\n\n- cpu: c\n")
    assert [line.split("|")[-2].strip() for line in text.splitlines()[-3:]] == ["1 s not reached", "3 s reached", ""]
