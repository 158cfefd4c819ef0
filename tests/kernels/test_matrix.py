"""Every kernel, for every type, at every level and on a GPU of each family: MATRIX.md is what came out.

`--bless` writes the rows of the cases that run. Without it a case must have its row, of as many calls.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import tessera.kernels
from tessera.decorators import Kernel
from tessera.kernels import Family
from tests.kernels.matrix import ARCHS, CASES, measured
from tests.kernels.seed_cases import SEEDS

TABLE = Path(__file__).parent / "MATRIX.md"
LEVELS = ("NumPy", "interpreter", "native", *ARCHS)
HEAD = f"""\
# Kernels by levels, targets and types

The worst error of each kernel of tessera.kernels and of samples/seeds, in units of its bound (tests/kernels/cases.py),
over calls of all kinds of shapes: no elements, one, ragged blocks, several blocks. A number above 1 is a failure; 0 is
exact, or an error far below the bound. Native code is that of the machine that ran the tests; GPUs are emulated from
their PTX.
`pytest -m slow tests/kernels/test_matrix.py --bless -n 0` writes the table.

| kernel | type | calls | {" | ".join(LEVELS)} |
|---|---|---|{"---|" * len(LEVELS)}
"""


def rows() -> dict[str, str]:
    """The table's rows by case."""
    lines = TABLE.read_text().splitlines() if TABLE.exists() else []
    cells = [(line.split(" | "), line) for line in lines if line.startswith("| ") and not line.startswith("| kernel")]
    return {f"{found[0].removeprefix('| ')}-{found[1]}": line for found, line in cells}


def write(name: str, row: str) -> None:
    found = rows() | {name: row}
    TABLE.write_text(HEAD + "".join(found[case] + "\n" for case in CASES if case in found))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_matrix(name: str, bless: bool) -> None:
    case = CASES[name]
    found = measured(case, ARCHS)
    assert max(found.values()) <= 1, found
    first = f"| {case.name} | {case.dtype} | {len(case.calls)} |"
    if bless:
        write(name, f"{first} {' | '.join(f'{found[x]:.2g}' for x in LEVELS)} |")
    assert rows()[name].startswith(first)


def test_every_kernel_has_a_row() -> None:
    """Those of tessera.kernels, whatever their choices, and those that the seeds' files define."""
    library = {name for name, value in vars(tessera.kernels).items() if isinstance(value, Family)}
    assert library == set(tessera.kernels.__all__) - {"Family"}
    values = (value for path in sorted(SEEDS.glob("*.py")) for value in runpy.run_path(str(path)).values())
    written = {value.name for value in values if isinstance(value, Kernel)}
    rows_of = {case.kernel().function.__qualname__.split(".")[0] for case in CASES.values()}
    assert rows_of == library | written and len(written) >= 10


def test_the_table_is_whole() -> None:
    assert TABLE.read_text().startswith(HEAD) and list(rows()) == list(CASES)
    cells = [cell.strip(" |") for row in rows().values() for cell in row.split(" | ")[3:]]
    assert len(cells) == len(CASES) * len(LEVELS) and max(float(cell) for cell in cells) <= 1
