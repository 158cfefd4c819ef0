"""Imports run one way: the contracts of pyproject.toml, checked on the source text, and no import cycles."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping

import pytest

from tests.style.project import PACKAGES, Import, import_statements, imports, modules, name, pyproject, targets

CONTRACTS = pyproject()["tool"]["importlinter"]["contracts"]


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def graph(edges: Iterable[Import]) -> dict[str, list[Import]]:
    result: dict[str, list[Import]] = {module: [] for module in modules()}
    for edge in edges:
        result[edge.importer].append(edge)
    return result


def chain(edges: Mapping[str, list[Import]], source: str, forbidden: str, direct: bool = False) -> str | None:
    """The shortest chain of imports from inside `source` to inside `forbidden`, as text."""
    queue: list[tuple[str, tuple[Import, ...]]] = [(m, ()) for m in edges if inside(m, source)]
    seen = {module for module, _ in queue}
    for module, path in queue:
        for edge in edges[module]:
            if inside(edge.imported, forbidden):
                return " -> ".join(f"{e.importer}:{e.line}" for e in (*path, edge)) + f" -> {edge.imported}"
            if edge.imported not in seen and not direct:
                seen.add(edge.imported)
                queue.append((edge.imported, (*path, edge)))
    return None


def layers_of(contract: Mapping[str, list[str]]) -> list[list[str]]:
    return [[part.strip(" ()") for part in layer.replace("|", ":").split(":")] for layer in contract["layers"]]


@pytest.mark.parametrize("contract", CONTRACTS, ids=[c["name"] for c in CONTRACTS])
def test_contract(contract: dict) -> None:
    ignored = set(contract.get("ignore_imports", []))
    edges = graph(e for e in imports() if f"{e.importer} -> {e.imported}" not in ignored)
    broken = []
    if contract["type"] == "layers":
        layers = layers_of(contract)
        pairs = [(low, high) for i, lows in enumerate(layers) for low in lows for highs in layers[:i] for high in highs]
        direct = False
    else:
        pairs = [(s, f) for s in contract["source_modules"] for f in contract["forbidden_modules"]]
        direct = contract.get("allow_indirect_imports", False)
    assert pairs
    for source, forbidden in pairs:
        broken.append(chain(edges, source, forbidden, direct))
    assert not [b for b in broken if b], "\n".join(b for b in broken if b)


def test_every_package_of_the_compiler_has_a_place() -> None:
    # A new package must say where it stands, or the contracts would not see it.
    named = {part for c in CONTRACTS for layer in c.get("layers", []) for part in layer.replace("|", ":").split(":")}
    named |= {module for c in CONTRACTS for module in c.get("source_modules", [])}
    placed = {part.strip(" ()") for part in named}
    packages = {f"tesseracc.{p.parent.name}" for p in PACKAGES["tesseracc"].glob("*/__init__.py")}
    assert not packages - placed


def test_no_import_cycle() -> None:
    # Imports inside functions are deferred on purpose; a cycle counts when it would run while modules are imported.
    edges = graph(imports(nested=False))
    state: dict[str, int] = {}
    cycles = []

    def visit(module: str, path: list[str]) -> None:
        state[module] = 1
        for edge in edges[module]:
            if state.get(edge.imported) == 1:
                cycles.append(" -> ".join([*path[path.index(edge.imported):], edge.imported]))
            elif edge.imported not in state:
                visit(edge.imported, [*path, edge.imported])
        state[module] = 2

    for module in edges:
        if module not in state:
            visit(module, [module])
    assert not cycles, "\n".join(cycles)


#: what each package may import at module level besides the standard library and the packages below it
ALLOWED = {
    "tessera_runtime": {"numpy", "tessera_runtime"},
    "tessera": {"numpy", "ml_dtypes", "tessera_runtime", "tessera"},
    "tesseracc": {"numpy", "ml_dtypes", "llvmlite", "click", "yaml", "tessera_runtime", "tessera", "tesseracc"},
}


@pytest.mark.parametrize("package", ALLOWED)
def test_third_party_imports_are_declared(package: str) -> None:
    allowed = ALLOWED[package] | sys.stdlib_module_names
    wrong = []
    for module, path in modules().items():
        if inside(module, package):
            for statement in import_statements(ast.parse(path.read_text()), nested=False):
                wrong += [f"{name(path)}:{statement.lineno}: {t}" for t in targets(statement)
                          if t.partition(".")[0] not in allowed]
    assert not wrong, "\n".join(wrong)


def test_the_checker_sees_a_chain_and_a_direct_import() -> None:
    edges = {"a.x": [Import("a.x", "b", 1)], "b": [Import("b", "c.y", 2)], "c.y": []}
    assert chain(edges, "a", "c") == "a.x:1 -> b:2 -> c.y"
    assert chain(edges, "a", "c", direct=True) is None
    assert chain(edges, "b", "c", direct=True) == "b:2 -> c.y"
    assert chain(edges, "c", "a") is None
