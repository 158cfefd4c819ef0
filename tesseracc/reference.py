"""Generated documents in specs/: errors.md, passes.md, functions.md, from the catalogue, the passes, the docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from tessera_runtime.core.catalogue import CATALOGUE

_RANGES = {
    "1": "Loading and parsing a module",
    "2": "The kernel language",
    "3": "Shapes, element types and operators",
    "4": "IR text, verifier, passes",
    "5": "Toolchain",
    "6": "Bundles",
    "7": "Inputs and guards",
    "8": "Command line and files",
    "9": "Devices, execution, findings of the emulator",
}
_EXITS = (
    (0, "success"),
    (1, "a result differs from the expected one"),
    (2, "usage: command line or files"),
    (3, "error in the source program"),
    (4, "toolchain"),
    (5, "bundle invalid or untrusted"),
    (6, "device or execution"),
    (7, "input or guard"),
    (70, "a fault of the compiler or runtime itself"),
)


def errors_document() -> str:
    """The text of specs/errors.md: every code with its title, exit code and explanation."""
    lines = [
        "# Errors",
        "",
        "Generated from the catalogue (`make bless` rewrites it). Codes that start with E stop the work, those with W",
        "do not. `tesseracc explain CODE` prints an entry. Codes are stable: one is never reused for something else.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in _EXITS),
    ]
    for digit, title in _RANGES.items():
        lines += ["", f"## {digit}xx: {title}", ""]
        for code, entry in sorted(CATALOGUE.items(), key=lambda item: (item[0][0] == "W", item[0])):
            if code[1] == digit:
                exits = f" (exit {entry.exit_code})" if code[0] == "E" else ""
                lines.append(f"- **{code}** {entry.title}{exits}. {entry.explanation}")
    return "\n".join(lines) + "\n"


def passes_document() -> str:
    """The text of specs/passes.md: the pipelines and every pass with its first line of documentation."""
    from tesseracc.ir.pipeline import PASSES
    from tesseracc.passes import pipelines

    lines = [
        "# Passes",
        "",
        "Generated from the pass registry (`make bless` rewrites it). `tesseracc opt -p a,b{n=2} x.tir` runs passes on",
        "IR text; `tesseracc build --dump-dir D` writes the IR after every pass. Reasons for the order stand in",
        "`tesseracc/passes/pipelines.py`.",
        "",
        f"- graph: {', '.join(map(str, pipelines.GRAPH))}",
        f"- schedule: {', '.join(map(str, pipelines.SCHEDULE))}",
        f"- tile, for each target: {', '.join(map(str, pipelines.TILE))}",
        *(f"- target, for {kind}: {', '.join(map(str, steps))}" for kind, steps in pipelines.TARGET.items()),
        "",
        "| pass | level | what it does |",
        "|---|---|---|",
    ]
    levels = ("graph", "schedule", "tile", "target")
    for name, found in sorted(PASSES.items(), key=lambda item: (levels.index(item[1].level), item[0])):
        lines.append(f"| `{name}` | {found.level} | {found.doc} |")
    lines += ["", "## What stays apart", ""]
    lines += [line for text in pipelines.APART for line in _item(text)]
    return "\n".join(lines) + "\n"


def _item(text: str) -> list[str]:
    """An item of a list, in lines of 120 characters."""
    return wrap(text, 120, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


_SPACES = ("nn", "random", "optim", "aot", "memory", "profiler", "kernels")


def functions_document() -> str:
    """The text of specs/functions.md: the functions of `ts` and its modules with the first sentence on each."""
    lines = [
        "# Functions",
        "",
        "Generated from the docstrings (`make bless` rewrites it). Parameters with `=` have defaults. The words of",
        "`ts.tile`, which stand in kernels only, are in [kernel.md](kernel.md); types and annotations are in",
        "[language.md](language.md).",
    ]
    places: dict[int, list[str]] = {}
    for space in ("", *_SPACES):
        for name, function in _functions(space):
            places.setdefault(id(function), []).append(f"ts.{space}.{name}" if space else f"ts.{name}")
    for space in ("", *_SPACES):
        lines += ["", f"## `ts{'.' if space else ''}{space}`", "", "| function | what it gives |", "|---|---|"]
        for name, function in _functions(space):
            full = f"ts.{space}.{name}" if space else f"ts.{name}"
            first, *others = places[id(function)]
            also = f" Also {', '.join(f'`{other}`' for other in others)}." if others else ""
            told = f"{_sentence(function)}{also}" if full == first else f"`{first}`"
            lines.append(f"| `{name}{_signature(function)}` | {told} |")
    return "\n".join(lines) + "\n"


def _functions(space: str) -> Iterator[tuple[str, Any]]:
    """The public functions of a module, by name."""
    module = importlib.import_module(f"tessera.{space}" if space else "tessera")
    for name in sorted(getattr(module, "__all__", None) or vars(module), key=str.lower):
        found = getattr(module, name)
        ours = (getattr(found, "__module__", None) or "").startswith("tessera")
        if ours and not name.startswith("_") and callable(found) and not isinstance(found, type):
            yield name, found


def _signature(function: Any) -> str:
    """The names of the parameters; those with a default as `name=`."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ""
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = [f"{stars.get(p.kind, '')}{p.name}{'' if p.default is p.empty else '='}" for p in parameters]
    return f"({', '.join(names)})"


def _sentence(function: Any) -> str:
    """The first sentence of the docstring, on one line."""
    paragraph = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split()).rstrip(":")
    end = re.search(r"(?<!\.)\. (?=[A-Z])", paragraph)
    return (paragraph[: end.start() + 1] if end else paragraph).replace("|", "\\|")
