"""The project's own files, as the style tests see them."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PACKAGES = {"tessera": ROOT / "tessera", "tesseracc": ROOT / "tesseracc",
            "tessera_runtime": ROOT / "runtime" / "tessera_runtime"}
FOLDERS = ["tessera", "tesseracc", "runtime", "samples", "tests", "specs", "benchmarks", ".ci"]
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".tir", ".txt", ".ptx", ".cfg", ""}


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def text_files() -> Iterator[Path]:
    """Every text file that belongs to the project."""
    yield from (p for p in sorted(ROOT.iterdir()) if p.is_file() and p.suffix in {".md", ".toml"} | {""}
                and not p.name.startswith(".git"))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and path.suffix in TEXT and not {"__pycache__", "build"} & set(parts) \
                    and not any(part.endswith(".egg-info") for part in parts):
                yield path


def python_files() -> Iterator[Path]:
    return (path for path in text_files() if path.suffix == ".py")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


class Import(NamedTuple):
    """`importer` imports `imported` (both modules of the project) at `line`."""

    importer: str
    imported: str
    line: int


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    result = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            result[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return result


def import_statements(tree: ast.AST, nested: bool = True) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements outside `if TYPE_CHECKING:`; without `nested`, only those that run at import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from import_statements(ast.Module(body=node.orelse, type_ignores=[]), nested)
        elif nested or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from import_statements(node, nested)


def targets(statement: ast.Import | ast.ImportFrom) -> list[str]:
    """The dotted names that a statement may import: `from a import b` names both a.b and a."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    assert not statement.level and statement.module, "imports are absolute"
    return [f"{statement.module}.{alias.name}" for alias in statement.names]


@functools.cache
def imports(nested: bool = True) -> tuple[Import, ...]:
    """All imports between modules of the project."""
    known = modules()
    result = []
    for importer, path in known.items():
        for statement in import_statements(ast.parse(path.read_text()), nested):
            for target in targets(statement):
                found = target if target in known else target.rpartition(".")[0]
                if found in known and found != importer:
                    result.append(Import(importer, found, statement.lineno))
    return tuple(result)
