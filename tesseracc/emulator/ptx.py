"""What a PTX module is: functions, symbols, instructions and operands, as the parser leaves them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = [
    "Address", "Discard", "Function", "Imm", "Instruction", "Label", "Location", "Module", "Operand", "Pair", "Param",
    "Reg",
    "Special", "Symbol", "SymbolRef", "Vector",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Location:
    """A line of the source program, from `.loc`."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Reg:
    """A register: `slot` indexes the register file of the launch; `negated` is the `!p` of a predicate source."""

    name: str
    slot: int
    type: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Imm:
    """A literal. `value` is an int, or a float for decimal and `0f`/`0d` literals; `bits` their exact pattern."""

    value: int | float
    bits: int | None = None
    width: int = 0


@dataclass(frozen=True, slots=True)
class Special:
    """A special register such as `tid.x`."""

    name: str


@dataclass(frozen=True, slots=True)
class Discard:
    """`_` as a whole operand: a destination that nobody wants."""


@dataclass(frozen=True, slots=True)
class SymbolRef:
    """The address of a variable, or the name of a function."""

    name: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Label:
    """A branch target. `target` is filled in when the functions are laid out."""

    name: str


@dataclass(frozen=True, slots=True)
class Vector:
    """`{a, b, ...}`; a `_` element is None and discards."""

    items: tuple[Operand | None, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """`a|b`, two destinations."""

    first: Operand | None
    second: Operand | None


@dataclass(frozen=True, slots=True)
class Address:
    """`[base + offset]`; `coords` is the vector of a tensor operand `[map, {x, y}]`; without base: absolute."""

    base: Reg | SymbolRef | None
    offset: int = 0
    coords: Vector | None = None


Operand: TypeAlias = "Discard | Reg | Imm | Special | SymbolRef | Label | Vector | Pair | Address"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One PTX statement: `opcode.mods operands` under an optional guard predicate, with its line."""

    opcode: str
    mods: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Reg | None
    line: int
    loc: Location | None
    index: int = -1  # place in its function's body; in a laid-out program, its place there

    @property
    def text(self) -> str:
        """The opcode with its modifiers, as written."""
        return ".".join((self.opcode, *self.mods))


@dataclass(slots=True)
class Symbol:
    """A variable of a state space. `size` is 0 for extern dynamic shared memory; `init` the first bytes at launch.

    `relocations` are (byte offset, width, symbol name, addend) of initialisers that hold addresses.
    """

    name: str
    space: str
    align: int
    size: int
    extern: bool = False
    init: bytes | None = None
    relocations: tuple[tuple[int, int, str, int], ...] = ()


@dataclass(slots=True)
class Param:
    """A parameter: byte offset in the parameter block, type name, size in bytes."""

    name: str
    type: str
    offset: int
    size: int
    align: int


@dataclass(slots=True)
class Function:
    """A `.entry` or `.func`. `body` and `labels` (name -> position in body) are empty for a declaration."""

    name: str
    is_entry: bool
    line: int
    params: list[Param] = field(default_factory=list)
    returns: list[Param] = field(default_factory=list)
    body: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    symbols: dict[str, Symbol] = field(default_factory=dict)
    maxntid: tuple[int, int, int] | None = None
    reqntid: tuple[int, int, int] | None = None
    cluster: tuple[int, int, int] | None = None
    defined: bool = False


@dataclass(slots=True)
class Module:
    """A parsed PTX module. `registers[slot]` is the type of a register; functions and variables go by name.

    `programs` remembers how its kernels were laid out, see `program.lay_out`.
    """

    version: str = ""
    target: str = ""
    functions: dict[str, Function] = field(default_factory=dict)
    symbols: dict[str, Symbol] = field(default_factory=dict)
    registers: list[str] = field(default_factory=list)
    programs: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def entries(self) -> dict[str, Function]:
        """The kernels, by name."""
        return {name: f for name, f in self.functions.items() if f.is_entry}
