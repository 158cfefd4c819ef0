"""From a build to a shared library, its header and an example."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_runtime.core.dtypes import dtype_of, storage_dtype
from tessera_runtime.core.errors import TesseraError, UsageError
from tessera_runtime.core.manifest import Target
from tesseracc.arch.arch import Arch
from tesseracc.bundle import plan
from tesseracc.codegen.elf import link_image
from tesseracc.codegen.image import Image, request
from tesseracc.codegen.objects import Object, Section, Symbol
from tesseracc.codegen.pool import Request, compile_many
from tesseracc.ir.value import Module
from tesseracc.native.cpu import X86_BITS, questions, supported_text
from tesseracc.native.entries import CODES, GUARDS_FROM, Entry, entry_text, own_outputs
from tesseracc.native.header import example, header
from tesseracc.native.messages import message_text

__all__ = ["Library", "entries_of", "exports", "library", "messages_of", "name_of", "plain", "prefix_of", "weights_of"]

_ALIGN = 64
_C_WORDS = {
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern", "float",
    "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed", "sizeof",
    "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while",
}  # fmt: skip


class Library(NamedTuple):
    """The bytes of `lib<stem>.so`, the texts of `<stem>.h` and of `example.c`, and the functions' names in C."""

    image: bytes
    header: str
    example: str
    functions: tuple[str, ...]


def library(stem: str, module: Module, tile: Module, arch: Arch, made_by: str) -> Library:
    """The library of a module at the target level (`tile` is its level before) for one CPU target.

    Raises E801 for what C cannot have, and E5xx of the toolchain.
    """
    _check_arch(arch)
    prefix = prefix_of(stem)
    asked = request(module, arch)
    record, _ = plan.target(module, Image(arch, asked.ir, b""))
    entries = entries_of(prefix, record, tile)
    names = exports(prefix, entries)
    arrays = {name: tile.constants[name] for name in sorted(plan.constants_used([tile]))}
    weights = {name: f"tessera.weight.{number}" for number, name in enumerate(arrays)}
    text = "\n".join([
        entry_text(entries, record.kernels, weights), message_text(f"{prefix}_message", messages_of(entries)),
        supported_text(f"{prefix}_supported", arch.toolchain.machine, arch.requires),
    ])  # fmt: skip
    tool = arch.toolchain
    # Entry points run anywhere, so that `supported` can answer: the triple's own CPU, no features.
    compiled = compile_many([asked, plain(text, arch)])
    image = link_image(
        [item.data for item in compiled], tool.machine, data=[weights_of(arrays, weights), questions(tool.machine)],
        exports=names,
    )  # fmt: skip
    return Library(
        image, header(stem, prefix, entries, sorted(arch.requires), made_by), example(stem, prefix, entries[0]),
        tuple(entry.name for entry in entries),
    )  # fmt: skip


_PLAIN = {"x86-64": "x86-64", "aarch64": "generic"}


def plain(text: str, arch: Arch) -> Request:
    """Code for any CPU of the machine that the target is of."""
    tool = arch.toolchain
    return Request(text, tool.triple, _PLAIN[tool.machine], "", "object", 0, label="the entry points")


def name_of(stem: str) -> str:
    """The name of a library and its files, from a module's: no character that means something to C or a shell."""
    return re.sub(r"[^\w.+-]", "_", stem, flags=re.ASCII)


def prefix_of(stem: str) -> str:
    """What the names of a library begin with."""
    prefix = re.sub(r"\W", "_", stem, flags=re.ASCII)
    return prefix if prefix[:1].isalpha() else f"m_{prefix}"


def entries_of(prefix: str, record: Target, tile: Module) -> list[Entry]:
    """The functions of a module, with their plans for a target."""
    entries: list[Entry] = []
    guards = GUARDS_FROM
    plans = {item.function: item for item in record.plans}
    for function in plan.functions(tile):
        entries.append(Entry(function, plans[function.name], f"{prefix}_{function.name}", guards))
        guards += len(function.guards)
    return entries


def messages_of(entries: list[Entry], more: Mapping[str, tuple[int, str]] | None = None) -> dict[int, str]:
    """The text of every code."""
    return dict([*CODES.values(), *(more or {}).values()]) | {
        entry.guards + number: f"{entry.function.name} needs {guard.message}"
        for entry in entries
        for number, guard in enumerate(entry.function.guards)
    }


def _check_arch(arch: Arch) -> None:
    if arch.kind != "cpu":
        raise UsageError("E801", f"--emit c is for a CPU, and {arch.name} is none", help="give --arch x86-64-v3")
    if arch.toolchain.machine == "x86-64" and not set(arch.requires) <= X86_BITS.keys():
        lacks = " ".join(sorted(set(arch.requires) - X86_BITS.keys()))
        raise UsageError("E801", f"--emit c is not for {arch.name}: a process must ask its system for {lacks}")


def exports(prefix: str, entries: list[Entry], more: tuple[str, ...] = ()) -> set[str]:
    """All names that the library gives; E801 where C would have two of one name, or a parameter no name."""
    names = [f"{prefix}_message", f"{prefix}_supported", *(f"{prefix}_{name}" for name in more)]
    for entry in entries:
        names += [entry.name, f"{entry.name}_workspace"]
        names += [f"{entry.name}_{output.name}_shape" for output in own_outputs(entry.function)]
        inside = [item.name for item in entry.function.inputs] + [s.name for s in entry.function.symbols]
        for name in inside:
            if inside.count(name) > 1 or name in _C_WORDS | {"workspace", "workspace_bytes"}:
                raise UsageError("E801", f"`{name}` of {entry.function.name} cannot be the name of a C parameter",
                                 help="give the parameter or the dim another name")  # fmt: skip
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError("E801", f"two functions of the library would be called {twice[0]}")
    return set(names)


def weights_of(arrays: Mapping[str, NDArray[Any]], symbols: Mapping[str, str], align: int = _ALIGN) -> Object:
    """All constants as one read-only section, each on a multiple of `align`."""
    data = bytearray()
    table: list[Symbol] = []
    for name, array in arrays.items():
        data += bytes(-len(data) % align)
        raw = np.ascontiguousarray(array).view(storage_dtype(dtype_of(array.dtype))).tobytes()
        table.append(Symbol(symbols[name], 1, len(data), len(raw), True, False, False))
        data += raw
    if len(data) >= 1 << 31:
        raise TesseraError("E523", f"the constants have {len(data)} bytes; code reaches 2 GiB of them")
    section = Section(1, ".rodata.weights", False, False, align, len(data), bytes(data), ())
    return Object("the constants", [section] if data else [], table, [])
