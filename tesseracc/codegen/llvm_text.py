"""How types and literals are spelled in LLVM IR, and the lines of a function while it is being written.

Element types that LLVM computes with keep their own type. f16, bf16 and fp8 are only moved about, so they are held as
integers of their width: no legaliser may widen them behind our back. A bool is `i1` in registers and a byte in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import TypeAlias

from tessera_runtime.core.errors import TesseraError
from tesseracc.codegen.llvm_debug import Debug
from tesseracc.ir.types import PtrType, ScalarType, Type, VecType, bits_of, element, kind_of
from tesseracc.ir.value import Attr, Loc, Op, Value

_FLOATS = {"f64": "double", "f32": "float"}
_NVPTX_SPACES = {"global": 1, "shared": 3, "local": 5, "generic": 0, "map": 0}

#: gives the name of the result, or of each result
Handler: TypeAlias = "Callable[[Writer, Op], str | list[str] | None]"


def scalar_text(dtype: str) -> str:
    """The register type of one element."""
    if dtype == "bool":
        return "i1"
    return _FLOATS.get(dtype) or f"i{bits_of(dtype)}"


def is_float(type_: Type) -> bool:
    """Whether LLVM sees a floating-point type."""
    return element(type_) in _FLOATS


def is_signed(type_: Type) -> bool:
    return kind_of(element(type_)) == "i"


def literal(value: Attr, dtype: str) -> str:
    """A constant of one element; floats by their bits, which are those of the value rounded to the type."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype in _FLOATS:
        number = float(value)
        if dtype == "f32":
            try:
                number = struct.unpack("<f", struct.pack("<f", number))[0]
            except OverflowError:
                number = float("inf") if number > 0 else float("-inf")
        bits = struct.unpack("<Q", struct.pack("<d", number))[0]
        return f"0x{bits:016X}"
    if kind_of(dtype) == "f":
        return str(_narrow_bits(float(value), dtype))
    width = bits_of(dtype)
    wrapped = int(value) & ((1 << width) - 1)
    return str(wrapped - (1 << width) if wrapped >> (width - 1) else wrapped)


def _narrow_bits(value: float, dtype: str) -> int:
    import numpy as np

    from tessera_runtime.core.dtypes import encode

    bits = np.asarray(encode(dtype, np.asarray([value], np.float32))).view(f"u{bits_of(dtype) // 8}")
    return int(bits[0])


class Writer:
    """One function in the making: names of values, lines, the block that is open.

    `nvptx` says that pointers have address spaces; `declare` collects the intrinsics that the module needs.
    """

    def __init__(self, *, nvptx: bool, declarations: dict[str, str], debug: Debug | None, symbol: str) -> None:
        self.nvptx = nvptx
        self.symbol = symbol
        self.declarations = declarations
        self.debug = debug
        self.loc: Loc | None = None
        self.lines: list[str] = []
        self.entry: list[str] = []  # allocas: they belong into the entry block, else a loop grows the stack
        self.block = "entry"
        self.names: dict[Value, str] = {}
        self.constants: dict[Value, int | float | bool] = {}
        self._next = 0

    # -- types and names -------------------------------------------------------------------------------------------

    def type(self, type_: Type) -> str:
        match type_:
            case ScalarType(dtype):
                return scalar_text(dtype)
            case VecType(count, dtype):
                return f"<{count} x {scalar_text(dtype)}>"
            case PtrType(space):
                number = _NVPTX_SPACES[space] if self.nvptx else 0
                return f"ptr addrspace({number})" if number else "ptr"
        raise TesseraError("E502", f"LLVM has no counterpart of {type_}")

    def memory_type(self, type_: Type) -> str:
        """The type in memory: a bool takes a byte."""
        if isinstance(type_, PtrType) or element(type_) != "bool":
            return self.type(type_)
        return f"<{type_.count} x i8>" if isinstance(type_, VecType) else "i8"

    def mangled(self, type_: Type) -> str:
        """The type as intrinsic names spell it: f32, v16i32, p1."""
        match type_:
            case PtrType(space):
                return f"p{_NVPTX_SPACES[space] if self.nvptx else 0}"
            case VecType(count, dtype):
                return f"v{count}{self.mangled(ScalarType(dtype))}"
            case ScalarType(dtype):
                return {"f64": "f64", "f32": "f32"}.get(dtype) or scalar_text(dtype)
        raise TesseraError("E502", f"LLVM has no counterpart of {type_}")

    def __getitem__(self, value: Value) -> str:
        return self.names[value]

    def typed(self, value: Value) -> str:
        return f"{self.type(value.type)} {self.names[value]}"

    def splat(self, value: Attr, like: Type) -> str:
        """A constant of a scalar or vec type."""
        text = literal(value, element(like))
        return f"splat ({scalar_text(element(like))} {text})" if isinstance(like, VecType) else text

    # -- instructions ----------------------------------------------------------------------------------------------

    def fresh(self) -> str:
        self._next += 1
        return f"%v{self._next}"

    def label(self) -> str:
        self._next += 1
        return f"b{self._next}"

    def line(self, text: str) -> None:
        """An instruction without a result."""
        if self.debug is not None:
            text += self.debug.suffix(self.loc)
        self.lines.append("  " + text)

    def let(self, text: str) -> str:
        """An instruction with a result; returns the result's name."""
        name = self.fresh()
        self.line(f"{name} = {text}")
        return name

    def open(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label

    def jump(self, label: str) -> None:
        self.line(f"br label %{label}")

    def branch(self, cond: str, then: str, orelse: str) -> None:
        self.line(f"br i1 {cond}, label %{then}, label %{orelse}")

    def phi(self, type_: str, *incoming: tuple[str, str]) -> str:
        return self.let(f"phi {type_} " + ", ".join(f"[ {value}, %{label} ]" for value, label in incoming))

    def call(self, name: str, result: str, *args: str, tail: str = "") -> str | None:
        """A call of an intrinsic, declared on first use. `args` are typed operands."""
        types = ", ".join(_type_of(arg) for arg in args)
        self.declarations.setdefault(name, f"declare {result} @{name}({types}){tail}")
        text = f"call {result} @{name}({', '.join(args)})"
        if result == "void":
            self.line(text)
            return None
        return self.let(text)

    def value_call(self, name: str, result: str, *args: str, tail: str = "") -> str:
        found = self.call(name, result, *args, tail=tail)
        assert found is not None
        return found


def _type_of(arg: str) -> str:
    """The type in front of a typed operand; its operand is the last word, or a bracketed constant."""
    depth = 0
    for at, char in enumerate(arg):
        if char in "<(":
            depth += 1
        elif char in ">)":
            depth -= 1
        elif char == " " and depth == 0 and not arg[at + 1 :].startswith("addrspace"):
            head = arg[:at]
            return head
    raise AssertionError(arg)


Table = Mapping[str, Handler]
