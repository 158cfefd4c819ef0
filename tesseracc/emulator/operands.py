"""Operands of PTX statements, and the scopes in which their names are looked up."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tesseracc.emulator.findings import EmulatorError
from tesseracc.emulator.lexer import Token
from tesseracc.emulator.ptx import (
    Address,
    Discard,
    Function,
    Imm,
    Label,
    Module,
    Operand,
    Pair,
    Reg,
    Special,
    SymbolRef,
    Vector,
)  # fmt: skip

__all__ = ["OperandParser", "Scope"]

_SPECIAL = {
    "tid", "ntid", "ctaid", "nctaid", "laneid", "warpid", "nwarpid", "smid", "nsmid", "gridid", "clusterid",
    "nclusterid", "cluster_ctaid", "cluster_nctaid", "cluster_ctarank", "cluster_nctarank", "is_explicit_cluster",
    "lanemask_eq", "lanemask_le", "lanemask_lt", "lanemask_ge", "lanemask_gt", "clock", "clock_hi", "clock64",
    "globaltimer", "globaltimer_lo", "globaltimer_hi", "total_smem_size", "dynamic_smem_size", "aggr_smem_size",
    "current_graph_exec",
}  # fmt: skip


@dataclass(slots=True)
class Scope:
    """A `{ }` block: register name -> register, variable name -> unique name, labels defined in it."""

    parent: Scope | None
    suffix: str
    registers: dict[str, Reg] = field(default_factory=dict)
    symbols: dict[str, str] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)


class OperandParser:
    """Token stream plus everything that reads one operand."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.module = Module()
        self.scope = Scope(None, "")
        self.function: Function | None = None
        self.targets: dict[str, tuple[str, ...]] = {}
        self.unresolved: list[tuple[str, int]] = []

    # --- tokens ------------------------------------------------------------------------------------------------------

    def peek(self, ahead: int = 0) -> Token:
        return self.tokens[self.position + ahead]

    def next(self) -> Token:
        token = self.tokens[self.position]
        if token.kind != "end":
            self.position += 1
        return token

    def accept(self, text: str) -> bool:
        if self.tokens[self.position].text == text:
            self.position += 1
            return True
        return False

    def need(self, text: str) -> None:
        if not self.accept(text):
            raise self.error(f"`{text}` expected, found `{self.peek().text}`")

    def expect(self, kind: str) -> Token:
        if self.peek().kind != kind:
            raise self.error(f"{kind} expected, found `{self.peek().text}`")
        return self.next()

    def error(self, message: str) -> EmulatorError:
        return EmulatorError("E940", message, line=self.peek().line)

    # --- literals ----------------------------------------------------------------------------------------------------

    def literal(self) -> Imm:
        """A signed number. Hexadecimal floats keep their exact bits."""
        negative = self.accept("-")
        token = self.next()
        if token.kind == "hexfloat":
            width = 32 if token.text[1] in "fF" else 64
            bits = int(token.text[2:], 16) ^ ((1 << (width - 1)) if negative else 0)
            raw = bits.to_bytes(width // 8, "little")
            return Imm(float(struct.unpack("<f" if width == 32 else "<d", raw)[0]), bits, width)
        if token.kind == "float":
            value = -float(token.text) if negative else float(token.text)
            return Imm(value, int.from_bytes(struct.pack("<d", value), "little"), 64)
        if token.kind != "num":
            raise EmulatorError("E940", f"number expected, found `{token.text}`", line=token.line)
        text = token.text.rstrip("U")
        octal = len(text) > 1 and text[0] == "0" and text.isdigit()
        number = int(text, 8) if octal else int(text, 0)
        return Imm(-number if negative else number)

    def integer(self) -> int:
        """An integer constant."""
        imm = self.literal()
        if not isinstance(imm.value, int):
            raise self.error("integer expected")
        return imm.value

    # --- names -------------------------------------------------------------------------------------------------------

    def module_slot(self, type_name: str) -> int:
        """A fresh register."""
        self.module.registers.append(type_name)
        return len(self.module.registers) - 1

    def _lookup(self, name: str) -> Reg | None:
        scope: Scope | None = self.scope
        while scope is not None:
            reg = scope.registers.get(name)
            if reg is not None:
                return reg
            scope = scope.parent
        return None

    def _symbol(self, name: str) -> str | None:
        scope: Scope | None = self.scope
        while scope is not None:
            if name in scope.symbols:
                return scope.symbols[name]
            scope = scope.parent
        return None

    def register(self, token: Token, negated: bool = False) -> Reg:
        """The declared register called by `token`."""
        reg = self._lookup(token.text)
        if reg is None:
            raise EmulatorError("E940", f"register `{token.text}` is not declared", line=token.line)
        return Reg(reg.name, reg.slot, reg.type, True) if negated else reg

    def check_symbols(self) -> None:
        """Every name used as a variable or function must be declared somewhere in the module."""
        known = set(self.module.symbols) | set(self.module.functions)
        for function in self.module.functions.values():
            known |= set(function.symbols) | {p.name for p in (*function.params, *function.returns)}
        for name, line in self.unresolved:
            if name not in known:
                raise EmulatorError("E940", f"`{name}` is not declared", line=line)

    # --- operands ----------------------------------------------------------------------------------------------------

    def operand_list(self) -> tuple[Operand, ...]:
        """Operands up to the `;`."""
        out: list[Operand] = []
        while out or self.peek().text != ";":
            operand = self.operand()
            out.append(Discard() if operand is None else operand)
            if not self.accept(","):
                break
        return tuple(out)

    def operand(self) -> Operand | None:
        """One operand; None for the sink `_`."""
        first = self._single()
        if self.accept("|"):
            return Pair(first, self._single())
        return first

    def _single(self) -> Operand | None:
        token = self.peek()
        if token.text == "{":
            return self._vector()
        if token.text == "[":
            return self._address()
        if token.text == "(":  # a parenthesised constant
            self.next()
            value = self.integer()
            self.need(")")
            return Imm(value)
        if token.text in ("!", "~"):
            self.next()
            return self.register(self.expect("id"), negated=True)
        if token.kind in ("num", "float", "hexfloat") or token.text == "-":
            return self.literal()
        if token.kind != "id":
            raise self.error(f"operand expected, found `{token.text}`")
        self.next()
        return self._named(token)

    def _named(self, token: Token) -> Operand | None:
        name = token.text
        if name == "_":
            return None
        if name == "WARP_SZ":
            return Imm(32)
        if self.peek().kind == "dot" and self.peek().line == token.line:
            suffixed = name + self.peek().text
            if self._lookup(suffixed) is not None or name[1:] in _SPECIAL:
                self.next()
                name = suffixed
        reg = self._lookup(name)
        if reg is not None:
            return reg
        if (name.startswith("%") and name[1:].split(".")[0] in _SPECIAL) or name.startswith("%envreg"):
            return Special(name[1:])
        symbol = self._symbol(name)
        if symbol is None and name in self.module.symbols:
            symbol = name
        if symbol is not None:
            return SymbolRef(symbol, self._offset())
        if name in self.module.functions or self.peek().text == "+":
            self.unresolved.append((name, token.line))
            return SymbolRef(name, self._offset())
        if name.startswith("%"):
            raise EmulatorError("E940", f"register `{name}` is not declared", line=token.line)
        return Label(name)

    def _offset(self) -> int:
        offset = 0
        while self.peek().text in ("+", "-"):
            sign = -1 if self.next().text == "-" else 1
            offset += sign * self.integer()
        return offset

    def _vector(self) -> Vector:
        self.need("{")
        items: list[Operand | None] = []
        while not self.accept("}"):
            items.append(self.operand())
            if not self.accept(",") and self.peek().text != "}":
                raise self.error("`,` or `}` expected")
        return Vector(tuple(items))

    def _address(self) -> Address:
        self.need("[")
        base: Reg | SymbolRef | None = None
        offset = 0
        token = self.peek()
        if token.kind == "id":
            self.next()
            found = self._named(token)
            if isinstance(found, Reg):
                base, offset = found, self._offset()
            elif isinstance(found, SymbolRef):
                base, offset = SymbolRef(found.name), found.offset
            else:
                self.unresolved.append((token.text, token.line))
                base, offset = SymbolRef(token.text), self._offset()
        else:
            offset = self.integer()
        coords: Vector | None = None
        if self.accept(","):
            if self.peek().text == "{":
                coords = self._vector()
            else:
                coords = Vector((self.operand(),))
        self.need("]")
        return Address(base, offset, coords)

    def call_operands(self) -> tuple[Operand, ...]:
        """`(returns), function, (arguments)` as Vector, SymbolRef, Vector; empty vectors where parts are left out."""
        returns = self._call_list() if self.peek().text == "(" else Vector(())
        if returns.items or self.peek().text == ",":
            self.accept(",")
        target = self.expect("id")
        reg = self._lookup(target.text)
        callee: Operand = reg if reg is not None else SymbolRef(target.text)
        if reg is None:
            self.unresolved.append((target.text, target.line))
        arguments = Vector(())
        if self.accept(","):
            arguments = self._call_list() if self.peek().text == "(" else Vector((self.operand(),))
            if self.accept(","):  # the call prototype of an indirect call
                self.next()
        return (returns, callee, arguments)

    def _call_list(self) -> Vector:
        self.need("(")
        items: list[Operand | None] = []
        while not self.accept(")"):
            items.append(self.operand())
            self.accept(",")
        return Vector(tuple(items))
