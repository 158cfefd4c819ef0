"""Nothing in the compiler knows a kernel of the library: a copy under other names is the same code."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from typing import Any

import pytest

import tessera as ts
import tessera.kernels as K
from tessera.kernel import specialise
from tesseracc.arch.arch import load
from tesseracc.driver import Build
from tesseracc.frontend.kernel import lower
from tests.kernels.renamed import copies

FAMILIES = sorted(name for name in K.__all__ if name != "Family")
QUICK = ("column_max", "softmax")  # others with `make test-full`; the SASS of matmul is compared in test_code.py


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in copies(tmp_path_factory.mktemp("copies")):
        found |= {n: v for n, v in runpy.run_path(str(path)).items() if n.startswith("my_")}
    return found


def code(family: Any, head: str) -> str:
    """The PTX for sm_90 of a family's bf16 kernel, which the assembler sees, without names and places."""
    definition = family.of(ts.bf16).definition
    fixed = specialise(definition, dims=dict.fromkeys(definition.open, 64))
    text = Build(lower(fixed), [load("sm_90")]).text("ptx")
    lines = [line for line in text.replace(f"{head}{fixed.name}", "kernel").splitlines()
             if not re.match(r"\s*(\.loc|\.file|//)", line)]  # fmt: skip
    return "\n".join(lines).replace(fixed.name, "kernel")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def test_a_copy_under_other_names_is_the_same_code(mine: dict[str, Any], name: str) -> None:
    ours, theirs = code(mine[f"my_{name}"], ""), code(getattr(K, name), "")
    assert ours == theirs and len(ours) > 1000


def test_the_library_is_read_when_it_is_used() -> None:
    """A program that does not use it does not wait for it; no import is needed for one that does."""
    code = (
        "import sys, tessera as ts\nassert 'tessera.kernels' not in sys.modules\n"
        "assert ts.kernels.matmul.of(ts.f32) is not None and ts.kernels is sys.modules['tessera.kernels']\n"
        "assert not hasattr(ts, 'kernal')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
