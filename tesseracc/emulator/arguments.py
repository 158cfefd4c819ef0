"""Arguments of a launch as text: `@x.npy`, `i32=201`, `f32=1.5`, `hex=00ff` in order, or `NAME=VALUE`.

A parameter has the name that PTX gives it, and the one in a comment that lists them all by their order, as
`tesseracc build --emit ptx` writes it above a kernel:

    // saxpy(a, x, y, N)
    .visible .entry saxpy(
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera_runtime.core.errors import InputError
from tessera_runtime.core.inputspec import read_npy
from tessera_runtime.core.numbers import integer, real, short
from tesseracc.emulator.findings import EmulatorError
from tesseracc.emulator.ptx import Function, Param
from tesseracc.emulator.types import Array

__all__ = ["Signature", "parse_argument"]

_SCALARS: dict[str, Any] = {
    "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64, "u8": np.uint8, "u16": np.uint16,
    "u32": np.uint32, "u64": np.uint64, "f16": np.float16, "f32": np.float32, "f64": np.float64,
}  # fmt: skip
_KINDS = {*_SCALARS, "hex"}
_HELP = "write @file.npy, i32=201, f32=1.5 or hex=00ff"


def parse_argument(text: str) -> Any:
    """`@x.npy`: a buffer; `i32=201`, `f32=1.5`: a scalar; `hex=00ff..`: raw bytes of a by-value parameter."""
    if text.startswith("@"):
        return _load(text[1:])
    kind, _, value = text.partition("=")
    try:
        if kind == "hex":
            return bytes.fromhex(value)
        dtype = _SCALARS[kind]
        if kind[0] != "f":
            return dtype(integer(value, prefixed=True))
        with np.errstate(over="raise"):
            return np.float64(real(value)).astype(dtype)
    except (KeyError, ValueError, OverflowError, FloatingPointError) as error:
        raise EmulatorError("E942", f"argument `{short(text)}` is not understood", help=_HELP) from error


def _load(path: str) -> Array:
    """The array of a .npy file. E802, E942."""
    try:
        array = read_npy(path)
    except InputError as error:
        raise EmulatorError("E942", error.message) from error
    if array.dtype.kind not in "biufcV" or array.dtype.hasobject:
        raise EmulatorError("E942", f"'{path}' is not a .npy file of numbers")
    return np.ascontiguousarray(array)


class Signature:
    """The parameters of a kernel by their names: the PTX text's, and those of a comment above the kernel."""

    def __init__(self, kernel: Function, text: str) -> None:
        self.kernel = kernel
        self.names = [param.name for param in kernel.params]
        self.places = {name: place for place, name in enumerate(self.names)}
        told = re.search(rf"^//[ \t]*{re.escape(kernel.name)}\(([\w$, ]*)\)[ \t]*$", text, re.MULTILINE | re.ASCII)
        names = [name.strip() for name in told[1].split(",")] if told else []
        if len(names) == len(kernel.params) and len(set(names)) == len(names):
            self.names = names
            self.places |= {name: place for place, name in enumerate(names)}

    def bind(self, arguments: Sequence[str]) -> list[Any]:
        """The values of all parameters: those by name at their places, the others in order at what is left. E942."""
        named: dict[int, str] = {}
        plain: list[str] = []
        for text in arguments:
            name, equals, value = text.partition("=")
            if text.startswith("@") or not equals or name in _KINDS:
                plain.append(text)
                continue
            place = self.place(name, text)
            if place in named:
                raise EmulatorError("E942", f"`{self.names[place]}` is given twice", help=self._help())
            named[place] = value
        given = [parse_argument(text) for text in plain]
        free = [place for place in range(len(self.names)) if place not in named]
        if len(plain) != len(free):
            missing = f": {', '.join(self.names[place] for place in free[len(plain) :])} missing" if named else ""
            raise EmulatorError(
                "E942", f"`{self.kernel.name}` takes {len(self.names)} arguments, got {len(arguments)}"
                + (missing if len(plain) < len(free) else ""), help=self._help(),
            )  # fmt: skip
        values: list[Any] = [None] * len(self.names)
        for place, value in zip(free, given, strict=True):
            values[place] = value
        for place, text in named.items():
            values[place] = _value(self.kernel.params[place], self.names[place], text)
        return values

    def place(self, name: str, text: str) -> int:
        """The number of a parameter. E942."""
        if name not in self.places:
            words = f"argument `{short(text)}` is not understood: `{self.kernel.name}` has no parameter `{short(name)}`"
            raise EmulatorError("E942", words, help=f"{_HELP}; or NAME=VALUE, {self._help()}")
        return self.places[name]

    def _help(self) -> str:
        shown = [f"{name} .{param.type}" for name, param in zip(self.names, self.kernel.params, strict=True)]
        return f"in order: {', '.join(shown)}"


def _value(param: Param, name: str, text: str) -> Any:
    """What is given for a parameter by name: a number of its type, or anything that may stand without a name."""
    if text.startswith("@") or text.partition("=")[0] in _KINDS:
        return parse_argument(text)
    try:
        return real(text) if param.type.startswith("f") else integer(text, prefixed=True)
    except ValueError:
        kind = "a number" if param.type.startswith("f") else "an integer"
        raise EmulatorError(
            "E942", f"`{name}` is .{param.type}, and `{short(text)}` is not {kind}", help=f"or {_HELP} behind `{name}=`"
        ) from None
