"""The table of instructions: opcode -> section of the PTX ISA, operand types, and a builder.

A variant with a section of its own has an entry of its own: `mma.sp` stands for every `mma` with a modifier `.sp`,
qualified or not.

A builder turns one parsed instruction into a *step*: a function of the wave that executes it for all active lanes.
A step returns True when it has sent every active lane elsewhere (a branch, a wait), else None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tesseracc.emulator.findings import EmulatorError
from tesseracc.emulator.ptx import Instruction

if TYPE_CHECKING:
    from tesseracc.emulator.decode import Decoder
    from tesseracc.emulator.wave import Wave

__all__ = ["TABLE", "UNFIT", "Builder", "Entry", "Step", "build_step", "entry_of", "instruction", "not_modelled"]

Step = Callable[["Wave"], "bool | None"]
Builder = Callable[[Instruction, "Decoder"], Step]

#: what operands of another number, type or width than a builder or its step thinks of end in
UNFIT = (ArithmeticError, AttributeError, LookupError, StopIteration, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Entry:
    """`control` instructions handle their guard themselves: they decide where lanes go."""

    opcode: str
    section: str
    types: str
    meaning: str
    build: Builder
    control: bool


TABLE: dict[str, Entry] = {}
_WITH_VARIANTS: set[str] = set()


def instruction(opcodes: str, section: str, types: str = "", control: bool = False) -> Callable[[Builder], Builder]:
    """Register a builder for the space-separated `opcodes`; its docstring is the meaning."""

    def register(build: Builder) -> Builder:
        for opcode in opcodes.split():
            if opcode in TABLE:
                raise ValueError(f"instruction {opcode} is defined twice")
            if "." in opcode:
                _WITH_VARIANTS.add(opcode.partition(".")[0])
            TABLE[opcode] = Entry(opcode, section, types, (build.__doc__ or "").strip(), build, control)
        return build

    return register


def entry_of(i: Instruction) -> Entry | None:
    """The entry of a variant if one of its modifiers has one, else that of the opcode."""
    if i.opcode in _WITH_VARIANTS:
        for word in i.mods:
            variant = TABLE.get(f"{i.opcode}.{word.partition('::')[0]}")
            if variant is not None:
                return variant
    return TABLE.get(i.opcode)


def build_step(i: Instruction, decoder: Decoder) -> Step:
    """The step of `i`. E941 with the line if the instruction, a modifier or an operand form is unknown."""
    entry = entry_of(i)
    if entry is None:
        raise EmulatorError("E941", f"unknown instruction `{i.text}`", line=i.line)
    try:
        step = entry.build(i, decoder)
        return step if entry.control or i.guard is None else decoder.guarded(i.guard, step)
    except UNFIT as error:
        raise not_modelled(i, error) from error


def not_modelled(i: Instruction, error: Exception) -> EmulatorError:
    """The error for an instruction whose modifiers and operands do not go together, or not here."""
    return EmulatorError("E941", f"form of `{i.text}` is not modelled ({error})", line=i.line)
