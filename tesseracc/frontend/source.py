"""Loads a user's module and finds what can be built in it.

The module is executed like any import, under its own name, with its folder on the path; a module of a package under
its dotted name, behind the package. Nothing of it is cached on disk. What goes wrong in it is shown at the user's line:
a syntax error (E101), an import that fails (E102), an exception while the module's own statements run (E103).
"""

from __future__ import annotations

import io
import linecache
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tessera import decorators
from tessera.decorators import Function, Kernel
from tessera.errors import SourceError, Span, did_you_mean
from tessera_runtime.core.errors import UsageError
from tessera_runtime.core.files import read_bytes
from tesseracc.frontend.packages import package_of, parents_loaded
from tesseracc.frontend.user_errors import user_code


@dataclass(frozen=True, slots=True)
class Source:
    """A loaded module: its name, its path, the bytes that were executed, and its buildable objects by name.

    `calls` are calls of them by the module's own statements, which ran eagerly: name and place.
    """

    name: str
    path: Path
    data: bytes
    entries: dict[str, Function | Kernel]
    namespace: dict[str, object]
    calls: tuple[tuple[str, Span | None], ...] = ()


def load(path: str | os.PathLike[str]) -> Source:
    """Executes the module at `path`. Raises UsageError E802, SourceError E101..E104."""
    file = Path(path)
    data = read_bytes(path, regular=True)
    text = _decode(data, file)
    _remember(text, file)
    root, package = package_of(file)
    name = ".".join((*package, file.stem))
    try:
        code = compile(text, str(file.absolute()), "exec", dont_inherit=True)
    except SyntaxError as error:
        span = Span(
            str(file),
            error.lineno or 1,
            max((error.offset or 1) - 1, 0),
            error.end_lineno or 0,
            max((error.end_offset or 1) - 1, 0),
        )
        raise SourceError("E101", f"the module is not valid Python: {error.msg}", span=span) from None
    except (ValueError, OverflowError) as error:
        raise SourceError("E101", f"the module is not valid Python: {error}", span=Span(str(file), 1)) from None
    except (RecursionError, MemoryError):
        raise SourceError(
            "E101", "the module nests expressions too deeply for Python", span=Span(str(file), 1)
        ) from None
    module = types.ModuleType(name)
    module.__file__ = str(file.absolute())
    module.__package__ = ".".join(package)
    folder = file.absolute().parent
    with (
        _paths(folder, root), _recorded() as calls, user_code(file, "E103", "the module"),
        parents_loaded(root, package) as parent, _importable(name, module),
    ):  # fmt: skip
        exec(code, module.__dict__)
        if parent is not None:
            setattr(parent, file.stem, module)
    return Source(name, file, data, _entries(module), module.__dict__, tuple(dict.fromkeys(calls)))


def check_file_name(file: Path) -> None:
    """Raises E801 for a source whose name a bundle cannot record as the place that code comes from."""
    if not file.name.isprintable() or "\\" in file.name:
        raise UsageError(
            "E801", f"a module cannot be called {file.name!r}",
            help="rename it: bundles record the name, as printable UTF-8 text without a backslash",
        )  # fmt: skip


def _decode(data: bytes, file: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            "E101", "the module is not UTF-8 text", span=Span(str(file), line),
            help="build takes Python modules and IR text (.tir); `tesseracc inspect` shows what a bundle holds",
        ) from None  # fmt: skip


def _remember(text: str, file: Path) -> None:
    """What is executed is what errors show and kernels are read from, whatever becomes of the file."""
    lines = io.StringIO(text, newline=None).readlines()
    for name in (str(file), str(file.absolute())):
        linecache.cache[name] = (len(text), None, lines, name)


@contextmanager
def _recorded() -> Iterator[list[tuple[str, Span | None]]]:
    """Calls of entries while the module loads."""
    calls: list[tuple[str, Span | None]] = []
    decorators.CALLS = calls
    try:
        yield calls
    finally:
        decorators.CALLS = None


@contextmanager
def _paths(folder: Path, root: Path) -> Iterator[None]:
    """The module's folder is on the path while it runs, that of its package before all others; put back after."""
    keep = sys.dont_write_bytecode
    path = list(sys.path)
    ours = list(dict.fromkeys((str(root), str(folder))))
    sys.path[:] = [ours[0], *path, *ours[1:]]
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = keep
        for entry in ours:
            with suppress(ValueError):  # the module may have taken it away, and others that the compiler needs
                sys.path.remove(entry)
        sys.path += [entry for entry in path if entry not in sys.path]


@contextmanager
def _importable(name: str, module: types.ModuleType) -> Iterator[None]:
    """The module is in `sys.modules` while it runs; what was there is put back after."""
    saved = sys.modules.get(name)
    sys.modules[name] = module
    try:
        yield
    finally:
        if saved is not None:
            sys.modules[name] = saved
        else:
            sys.modules.pop(name, None)


def _entries(module: types.ModuleType) -> dict[str, Function | Kernel]:
    """Functions and kernels that the module itself defines, in order of definition."""
    return {
        name: value
        for name, value in module.__dict__.items()
        if isinstance(value, (Function, Kernel)) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def choose(source: Source, wanted: tuple[str, ...]) -> dict[str, Function | Kernel]:
    """The entries to build. Raises E104 for a name that the module does not define, or when there is nothing."""
    for name in wanted:
        if name not in source.entries:
            raise SourceError(
                "E104",
                f"{source.path.name} defines no function or kernel `{name}`",
                help=did_you_mean(name, source.entries) or f"it defines {', '.join(source.entries) or 'none'}",
            )
    if not source.entries:
        raise SourceError(
            "E104",
            f"{source.path.name} defines no function or kernel",
            help="mark a function with @ts.function or @ts.kernel",
        )
    return {name: source.entries[name] for name in wanted or _distinct(source.entries)}


def _distinct(entries: dict[str, Function | Kernel]) -> list[str]:
    """One name for every entry. Of several names (`g = f`, `g = ts.jit(f)`) it is that of the `def`, else the first."""
    names: dict[object, str] = {}
    for name, entry in entries.items():
        key = (entry.python, entry.group, str(entry.grid)) if isinstance(entry, Kernel) else entry.python
        if key not in names or name == entry.python.__name__:
            names[key] = name
    return [name for name in entries if name in names.values()]
