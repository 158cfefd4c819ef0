"""Generated documents are what the code says, and the catalogue is what the code raises."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tessera_runtime.core.catalogue import CATALOGUE
from tesseracc.reference import errors_document, functions_document, passes_document

ROOT = Path(__file__).parents[2]
SOURCES = [p for folder in ("tessera", "tesseracc", "runtime/tessera_runtime") for p in (ROOT / folder).rglob("*.py")]
CODE = re.compile(r"""["']([EW][1-9]\d\d)["']""")


@pytest.mark.parametrize(("name", "generate"), [
    ("errors.md", errors_document), ("passes.md", passes_document), ("functions.md", functions_document),
])  # fmt: skip
def test_document(name: str, generate: Callable[[], str], bless: bool) -> None:
    path = ROOT / "specs" / name
    if bless:
        path.write_text(generate())
    assert path.read_text() == generate(), f"specs/{name} is out of date; run make bless"


def raised() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        if "catalogue" not in path.parts:
            for code in CODE.findall(path.read_text()):
                found.setdefault(code, set()).add(path.name)
    return found


def test_every_code_raised_is_in_the_catalogue() -> None:
    missing = {code: files for code, files in raised().items() if code not in CATALOGUE}
    assert not missing


def test_every_entry_is_raised() -> None:
    assert set(CATALOGUE) - set(raised()) == set()


def test_entries_are_whole_sentences() -> None:
    for code, entry in CATALOGUE.items():
        assert entry.code == code and entry.title and entry.explanation.endswith("."), code
        assert entry.exit_code in (0, 1, 2, 3, 4, 5, 6, 7, 70), code
