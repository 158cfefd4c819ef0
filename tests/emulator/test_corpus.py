"""Every seeded bug of the corpus is reported at its line on every seed; its correct twin never, with right results."""

from __future__ import annotations

import pytest

from tests.emulator.corpus_case import CORPUS, execute, read

SEEDS = range(6)
NAMES = sorted(path.stem for path in CORPUS.glob("*.ptx"))


@pytest.mark.parametrize("name", NAMES)
def test_bug_is_reported_at_its_line(name: str) -> None:
    case = read(CORPUS / f"{name}.ptx")
    for seed in SEEDS:
        report, right = execute(case, case.bug, seed)
        if ("value",) in case.faults.values():
            assert not report.findings and not right, (seed, [f.render() for f in report.findings])
            continue
        assert report.findings, f"seed {seed}: nothing reported, result right: {right}"
        first = report.findings[0]
        assert first.code in case.faults.get(first.ptx_line, ()), (seed, first.render())


@pytest.mark.parametrize("name", NAMES)
def test_twin_is_clean_and_right(name: str) -> None:
    case = read(CORPUS / f"{name}.ptx")
    assert case.twin != case.bug
    for seed in SEEDS:
        report, right = execute(case, case.twin, seed)
        assert not report.findings, (seed, report.findings[0].render())
        assert right, f"seed {seed}: wrong result"
