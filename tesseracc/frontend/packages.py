"""Where a module stands: in a package, whose files are named from the folder that holds it, or by itself."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tessera
import tessera_runtime
import tesseracc

__all__ = ["package_of", "parents_loaded"]

_OURS = tuple(Path(str(p.__file__)).parent for p in (tessera, tesseracc, tessera_runtime))


def package_of(file: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that a module's files are named from, and the names of the packages from there to the module.

    A folder is a package as Python has it: it holds an `__init__.py`. The project's own are none of a user's.
    """
    folder = file.absolute().parent
    names: list[str] = []
    own = any(folder.is_relative_to(ours) for ours in _OURS)
    while not own and folder.name.isidentifier() and (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, tuple(names)


@contextmanager
def parents_loaded(root: Path, package: tuple[str, ...]) -> Iterator[types.ModuleType | None]:
    """The package of a module, imported from `root` as Python does before the module; None without one.

    Loaded packages of the same name from elsewhere step aside meanwhile.
    """
    if not package:
        yield None
        return
    first = root / package[0]
    known = sys.modules.get(package[0])
    others: dict[str, types.ModuleType] = {}
    if known is not None and Path(str(getattr(known, "__file__", None))).parent != first:
        others = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == package[0]}
        for name in others:
            del sys.modules[name]
    try:
        yield importlib.import_module(".".join(package))
    finally:
        if others:
            for name in [n for n in sys.modules if n.partition(".")[0] == package[0]]:
                del sys.modules[name]
            sys.modules.update(others)
