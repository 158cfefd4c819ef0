"""PTX text to a `Module`: directives, variables, functions, statements.

Registers and labels have block scope: inline assembly writes `{ .reg .pred p; L: ... }` many times over. Each
declaration gets a slot of its own, and labels are renamed by their block, so that nothing downstream knows of scopes.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import PurePosixPath

from tesseracc.emulator.findings import EmulatorError
from tesseracc.emulator.lexer import Token, tokenize
from tesseracc.emulator.operands import OperandParser, Scope
from tesseracc.emulator.ptx import Function, Instruction, Label, Location, Module, Param, Reg, Symbol
from tesseracc.emulator.types import TYPES

__all__ = ["parse_ptx"]

_SPACES = (".global", ".const", ".shared", ".local", ".param")
_LINKAGE = (".visible", ".extern", ".weak", ".common")
_MOST_REGISTERS = 1 << 20
_CALL_TARGETS = (".branchtargets", ".calltargets", ".callprototype")


def parse_ptx(text: str) -> Module:
    """Parse a PTX module. EmulatorError E940 names the line of what cannot be parsed."""
    parser = _Parser(tokenize(text))
    try:
        return parser.module_()
    except (KeyError, ValueError, IndexError, OverflowError, struct.error, RecursionError) as error:
        raise parser.error("the statement or declaration is not understood") from error


class _Parser(OperandParser):
    files: dict[int, str]

    # --- module level ------------------------------------------------------------------------------------------------

    def module_(self) -> Module:
        module, tokens = self.module, self.tokens
        # `.file` directives may come after the functions that use them.
        self.files = {
            int(tokens[k + 1].text): PurePosixPath(tokens[k + 2].text.strip('"')).name
            for k, token in enumerate(tokens)
            if token.text == ".file" and tokens[k + 2].kind == "string"
        }
        while self.peek().kind != "end":
            token = self.peek()
            if token.text == ".version":
                self.next()
                module.version = self.next().text
            elif token.text == ".target":
                module.target = "".join(t.text for t in self._rest_of_line())
            elif token.text in (".address_size", ".file"):
                self._rest_of_line()
            elif token.text == ".section":
                self._skip_section()
            elif token.text in (".pragma", ".alias"):
                self._until(";")
            elif token.kind == "dot":
                self._declaration()
            elif token.text == ";":
                self.next()
            else:
                raise self.error(f"unexpected `{token.text}` at module level")
        self.check_symbols()
        return module

    def _rest_of_line(self) -> list[Token]:
        first = self.next()
        out = []
        while self.peek().line == first.line and self.peek().kind != "end":
            out.append(self.next())
        return out

    def _until(self, end: str) -> list[Token]:
        out = []
        while self.peek().text != end:
            if self.peek().kind == "end":
                raise self.error(f"`{end}` expected")
            out.append(self.next())
        self.next()
        return out

    def _skip_section(self) -> None:
        while self.peek().text != "{":
            if self.next().kind == "end":
                raise self.error("unterminated .section")
        self.next()
        depth = 1
        while depth:
            token = self.next()
            if token.kind == "end":
                raise self.error("unterminated .section")
            depth += {"{": 1, "}": -1}.get(token.text, 0)

    def _declaration(self) -> None:
        extern = False
        while self.peek().text in _LINKAGE:
            extern |= self.next().text == ".extern"
        token = self.peek()
        if token.text in (".entry", ".func"):
            self._function()
        elif token.text in _SPACES:
            for symbol in self.variables(extern):
                self.module.symbols[symbol.name] = symbol
        else:
            raise self.error(f"unknown directive `{token.text}`")

    # --- variables ---------------------------------------------------------------------------------------------------

    def variables(self, extern: bool = False) -> list[Symbol]:
        """`.space [.align n] [.attribute(..)] [.v2] .type name[dims] [= init], ... ;`"""
        space = self.next().text[1:]
        align, width, type_name = 0, 1, ""
        while self.peek().kind == "dot":
            text = self.next().text[1:]
            if text == "align":
                align = int(self.next().text)
            elif text == "attribute":
                self._until(")")
            elif text in ("v2", "v4", "v8"):
                width = int(text[1:])
            elif text in TYPES:
                type_name = text
            else:
                raise self.error(f"unknown type `.{text}`")
        element = TYPES[type_name].bytes * width
        out: list[Symbol] = []
        while True:
            name = self.expect("id").text
            count = 1
            while self.accept("["):
                count *= 0 if self.peek().text == "]" else self.integer()
                self.need("]")
            symbol = Symbol(name, space, align or element, element * count, extern)
            if self.accept("="):
                self._initialiser(symbol, type_name)
            out.append(symbol)
            if not self.accept(","):
                break
        self.need(";")
        return out

    def _initialiser(self, symbol: Symbol, type_name: str) -> None:
        kind = TYPES[type_name]
        data = bytearray()
        relocations: list[tuple[int, int, str, int]] = []

        def item() -> None:
            if self.accept("{"):
                while not self.accept("}"):
                    item()
                    self.accept(",")
                return
            token = self.peek()
            if token.kind == "id":  # an address, `generic(name)+4`, or a byte of one `0xFF(name)`
                name = self.next().text
                if name == "generic":
                    self.need("(")
                    name = "generic " + self.next().text
                    self.need(")")
                addend = self.integer() if self.accept("+") else 0
                relocations.append((len(data), kind.bytes, name, addend))
                data.extend(bytes(kind.bytes))
            elif token.kind in ("float", "hexfloat") or (kind.kind == "f" and kind.bits > 16):
                imm = self.literal()
                if imm.bits is not None and imm.width == kind.bits:
                    data.extend(imm.bits.to_bytes(kind.bytes, "little"))
                else:
                    data.extend(struct.pack("<f" if kind.bits == 32 else "<d", imm.value))
            else:
                data.extend((self.integer() & ((1 << kind.bits) - 1)).to_bytes(kind.bytes, "little"))

        item()
        symbol.size = max(symbol.size, len(data))
        symbol.init = bytes(data)
        symbol.relocations = tuple(relocations)

    # --- functions ---------------------------------------------------------------------------------------------------

    def _params(self) -> list[Param]:
        out: list[Param] = []
        offset = 0
        if not self.accept("("):
            return out
        while not self.accept(")"):
            if self.peek().text not in (".param", ".reg"):
                raise self.error("`.param` expected")
            self.next()
            align, type_name, count = 0, "b8", 1
            while self.peek().kind == "dot":
                text = self.next().text[1:]
                if text == "align":
                    align = int(self.next().text)
                elif text in TYPES:
                    type_name = text
                elif text == "ptr" and self.peek().text in (".global", ".shared", ".const", ".local"):
                    self.next()
                # other words (.ptr alone, .noalias) do not change the layout
                if text == "ptr" and self.peek().text == ".align":
                    self.next()
                    self.next()
            name = self.next().text
            if self.accept("["):
                count = 0 if self.peek().text == "]" else self.integer()
                self.need("]")
            size = TYPES[type_name].bytes * count
            align = align or TYPES[type_name].bytes
            offset = -(-offset // align) * align
            out.append(Param(name, type_name, offset, size, align))
            offset += size
            self.accept(",")
        return out

    def _function(self) -> None:
        head = self.next()
        returns = self._params() if head.text == ".func" and self.peek().text == "(" else []
        function = Function(self.expect("id").text, head.text == ".entry", head.line, returns=returns)
        function.params = self._params()
        while self.peek().kind == "dot":
            text = self.next().text
            values = []
            while self.peek().kind == "num":
                values.append(self.integer())
                if not self.accept(","):
                    break
            dims = (*values, 1, 1, 1)[:3]
            if text == ".maxntid":
                function.maxntid = (dims[0], dims[1], dims[2])
            elif text == ".reqntid":
                function.reqntid = (dims[0], dims[1], dims[2])
            elif text == ".reqnctapercluster":
                function.cluster = (dims[0], dims[1], dims[2])
            elif text == ".attribute" or text == ".pragma":
                self._until(")" if text == ".attribute" else ";")
        old = self.module.functions.get(function.name)
        if self.accept(";"):
            if old is None:
                self.module.functions[function.name] = function
            return
        self.need("{")
        function.defined = True
        self.module.functions[function.name] = function
        self._body(function)

    def _body(self, function: Function) -> None:
        self.function = function
        self.location: Location | None = None
        outer = Scope(None, "")
        for param in (*function.returns, *function.params):
            outer.symbols[param.name] = param.name
        self.blocks = 0
        self._block(function, outer)
        for instruction in function.body:
            for operand in instruction.operands:
                if isinstance(operand, Label) and operand.name not in function.labels:
                    raise EmulatorError("E940", f"no label `{operand.name.split('#')[0]}`", line=instruction.line)

    def _block(self, function: Function, scope: Scope) -> None:
        self.scope = scope
        start = len(function.body)
        while not self.accept("}"):
            self.scope = scope
            token = self.peek()
            if token.kind == "end":
                raise self.error("`}` expected")
            if token.text == "{":
                self.next()
                self.blocks += 1
                self._block(function, Scope(scope, f"#{self.blocks}"))
                self.scope = scope
            elif token.kind == "dot":
                self._body_directive(function, scope)
            elif token.text == ";":
                self.next()
            elif token.kind == "id" and self.peek(1).text == ":":
                self.next()
                self.next()
                name = token.text + scope.suffix
                scope.labels.add(token.text)
                function.labels[name] = len(function.body)
                if self.peek().text in _CALL_TARGETS:
                    self._branch_targets(function, name)
            else:
                function.body.append(self.statement(self.location, len(function.body)))
        # Labels of a block may be used before they are defined: bind them now that the whole block is known.
        for k, instruction in enumerate(function.body[start:] if scope.suffix else (), start):
            if any(isinstance(o, Label) and o.name in scope.labels for o in instruction.operands):
                function.body[k] = replace(instruction, operands=tuple(
                    Label(o.name + scope.suffix) if isinstance(o, Label) and o.name in scope.labels else o
                    for o in instruction.operands
                ))  # fmt: skip

    def _branch_targets(self, function: Function, name: str) -> None:
        if self.next().text == ".branchtargets":
            function.labels.pop(name)
            self.targets[name] = tuple(t.text for t in self._until(";") if t.kind == "id")
        else:
            self._until(";")

    def _body_directive(self, function: Function, scope: Scope) -> None:
        token = self.peek()
        if token.text == ".loc":
            items = self._rest_of_line()
            line = int(items[1].text)
            if line:  # line 0 means "no line of its own": the previous one stays
                self.location = Location(self.files.get(int(items[0].text), "?"), line)
        elif token.text == ".reg":
            self._registers(scope)
        elif token.text in (".shared", ".local", ".param", ".global", ".const"):
            for symbol in self.variables():
                unique = f"{function.name}::{symbol.name}{scope.suffix}"
                scope.symbols[symbol.name] = unique
                function.symbols[unique] = Symbol(
                    unique, symbol.space, symbol.align, symbol.size, symbol.extern, symbol.init, symbol.relocations
                )
        elif token.text in (".pragma", *_CALL_TARGETS):
            self._until(";")
        elif token.text == ".section":
            self._skip_section()
        else:
            raise self.error(f"unknown directive `{token.text}`")

    def _registers(self, scope: Scope) -> None:
        self.next()
        type_name, width = "", 1
        while self.peek().kind == "dot":
            text = self.next().text[1:]
            if text in ("v2", "v4"):
                width = int(text[1:])
            elif text in TYPES:
                type_name = text
            else:
                raise self.error(f"unknown register type `.{text}`")
        if not type_name:
            raise self.error("registers without a type")
        while True:
            name = self.expect("id").text
            names = [name]
            if self.accept("<"):
                count = self.integer()
                if count > _MOST_REGISTERS:
                    raise self.error(f"{count} registers")
                names = [f"{name}{k}" for k in range(count)]
                self.need(">")
            for n in names:
                for suffix in [""] if width == 1 else [f".{c}" for c in "xyzw"[:width]]:
                    scope.registers[n + suffix] = Reg(n + suffix, self.module_slot(type_name), type_name)
            if not self.accept(","):
                break
        self.need(";")

    def statement(self, location: Location | None, index: int) -> Instruction:
        """`[@[!]p] opcode.mods operands ;`; `index` is its place in the body."""
        guard = None
        line = self.peek().line
        if self.accept("@"):
            negated = self.accept("!")
            guard = self.register(self.expect("id"), negated=negated)
            line = self.peek().line
        opcode = self.expect("id").text
        mods: list[str] = []
        while self.peek().kind == "dot":
            mods.append(self.next().text[1:])
        operands = self.call_operands() if opcode == "call" else self.operand_list()
        self.need(";")
        if opcode == "brx" and isinstance(operands[1], Label):
            names = self.targets.get(operands[1].name, ())
            operands = (operands[0], *(Label(n) for n in names))
        return Instruction(opcode, tuple(mods), operands, guard, line, location, index)
