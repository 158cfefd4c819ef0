"""What every file of the project keeps: no machine paths, no stubs, a reasonable length, a docstring."""

from __future__ import annotations

import ast
import re

from tests.style.project import PACKAGES, ROOT, name, pyproject, python_files, text_files

LONGEST = 450
# Written in pieces so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:wo" + r"rk|ho" + r"me/\w+|ro" + r"ot|Us" + r"ers/\w+)/")
STUB = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|raise NotImplemented" + r"Error"
                  r"|pass  # st" + r"ub|not (?:yet )?implemen" + r"ted|placehol" + r"der implementation")
SKIP = re.compile(r"pytest\.(?:mark\.)?(?:sk" + r"ip|xf" + r"ail)\b")


def hits(pattern: re.Pattern[str], files: object = None) -> list[str]:
    found = []
    for path in files or text_files():  # type: ignore[attr-defined]
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if pattern.search(line):
                found.append(f"{name(path)}:{number}: {line.strip()}")
    return found


def test_patterns_find_what_they_are_for() -> None:
    assert MACHINE_PATH.search("see /ho" + "me/someone/file") and not MACHINE_PATH.search("samples/wo" + "rk/x")
    assert STUB.search("raise NotImplemented" + "Error") and STUB.search("# TO" + "DO: later")
    assert not STUB.search("return NotImplemented")
    assert SKIP.search("@pytest.mark.sk" + "ip") and SKIP.search("pytest.sk" + "ip()")


def test_no_machine_paths() -> None:
    found = hits(MACHINE_PATH)
    assert not found, "\n".join(found)


def test_no_stubs() -> None:
    found = hits(STUB, [p for p in text_files() if "seeds" not in p.parts])
    assert not found, "\n".join(found)


def test_no_skipped_tests() -> None:
    # A test that cannot run everywhere carries a marker (gpu, slow), which the Makefile knows.
    found = hits(SKIP, list((ROOT / "tests").rglob("*.py")))
    assert not found, "\n".join(found)


def test_files_are_short() -> None:
    lengths = {name(path): len(path.read_text().splitlines()) for path in python_files()}
    long = {path: length for path, length in lengths.items() if length > LONGEST}
    assert not long, long


def test_modules_say_what_they_are() -> None:
    missing = []
    for folder in PACKAGES.values():
        for path in sorted(folder.rglob("*.py")):
            tree = ast.parse(path.read_text())
            if not ast.get_docstring(tree):
                missing.append(name(path))
    assert not missing, missing


def test_every_folder_of_a_package_is_a_package() -> None:
    # Without __init__.py a folder would be left out of the wheels without a word.
    missing = []
    for folder in PACKAGES.values():
        missing += sorted({name(p.parent) for p in folder.rglob("*.py") if not (p.parent / "__init__.py").is_file()})
    assert not missing, missing


def test_packages_are_typed() -> None:
    data = pyproject()["tool"]["setuptools"]["package-data"]
    for package, folder in PACKAGES.items():
        assert (folder / "py.typed").is_file(), f"{package} has no py.typed"
        assert "py.typed" in data[package]


def test_version_is_stated_once_for_all() -> None:
    def version(path: str) -> str:
        match = re.search(r'^__version__ = "([^"]+)"$', (ROOT / path).read_text(), re.MULTILINE)
        assert match, path
        return match.group(1)

    stated = version("tessera/__init__.py")
    assert version("runtime/tessera_runtime/__init__.py") == stated
    assert f"## {stated}" in (ROOT / "CHANGELOG.md").read_text()
