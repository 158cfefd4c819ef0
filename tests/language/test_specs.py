"""The specification of the language: its code runs, its tables are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tessera.operator import rule_table

SPECS = Path(__file__).parents[2] / "specs"
FENCES = re.findall(r"```python\n(.*?)```", (SPECS / "language.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(FENCES)))
def test_code_runs(number: int) -> None:
    # As its own program would be compiled: with the features of this Python, not those of this file.
    exec(compile(FENCES[number], f"language.md, fence {number}", "exec", dont_inherit=True), {"__name__": "spec"})


def test_there_is_code() -> None:
    assert len(FENCES) >= 3


def test_operator_table(bless: bool) -> None:
    file = SPECS / "operators.md"
    head, bar, _ = file.read_text().partition("| operator |")
    if bless:
        file.write_text(head + rule_table())
    assert bar and file.read_text() == head + rule_table(), "run with --bless to write it again"
