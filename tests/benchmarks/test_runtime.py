"""The measurement of the runtime: processes timed to their end, failures told, a page that says what was missed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks import runtime
from tests.style.project import ROOT


def test_a_process_is_timed_to_its_end() -> None:
    done = runtime.run((sys.executable, "-c", "import time; x = b'x' * 50_000_000; time.sleep(0.2); print('out')"))
    assert 0.2 < done.seconds < 20 and 0 < done.processor < 20 and done.output == "out\n" and done.resident > 50_000_000
    with pytest.raises(AssertionError, match="failed"):
        runtime.run((sys.executable, "-c", "raise SystemExit(3)"))


def test_weights_are_verified_when_they_are_asked_for(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'runtime'}"}
    rows = runtime.loading(tmp_path, environment, 6 << 20, 3)
    lazy, eager = rows
    assert (lazy["mode"], eager["mode"]) == ("lazy", "eager")
    # 24 MB of digests fall into the call, or into load().
    assert lazy["load"] < eager["load"] and lazy["first"] > lazy["next"] > 0


def test_page() -> None:
    starts = [{"name": name, "seconds": s, "best": s, "processor": s / 2, "resident": 1e6} for name, s in (
        ("python -c 'import numpy'", 0.1), ("tessera-run to x", 0.14), ("a C program", 0.01))]  # fmt: skip
    loads = [{"mode": mode, "load": 0.1, "first": 0.2, "next": 0.3} for mode in ("lazy", "eager")]
    text = runtime.page({"name": "n", "date": "d", "machine": {"cpu": "c"}, "wheel": 300_000, "starts": starts,
                         "weights": 1 << 30, "loading": loads})  # fmt: skip
    assert text.startswith("# n, d\n\n- cpu: c\n\nThe runtime's wheel: 300,000 bytes; the target, 300,000, is not")
    assert "| tessera-run to x | 140.0 (140.0) | 70.0 | 1.0 | 1.40 | 1.3 not reached |" in text
    assert "| a C program | 10.0 (10.0) | 5.0 | 1.0 | 0.10 | 15 ms reached |" in text
