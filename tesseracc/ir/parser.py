"""Parses the text form back (grammar in specs/ir.md). Errors carry code E403, the line, and a caret."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

import numpy as np

from tessera.shapes import Dim, parse_dim
from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.builder import make
from tesseracc.ir.define import OpDef, lookup
from tesseracc.ir.types import (
    SPACES,
    BufType,
    LanesType,
    PtrType,
    ScalarType,
    TensorType,
    TileType,
    Type,
    VecType,
)
from tesseracc.ir.value import Attr, Func, Loc, Module, Op, Region, Value

_TOKEN = re.compile(
    r"""(?P<space>(?:\s|(?<!\S)//[^\n]*)+)
      | (?P<value>%[A-Za-z0-9_]+)
      | (?P<symbol>@[A-Za-z_][\w.]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<number>-?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\d+(?![\w.])|inf\b|nan\b))
      | (?P<vec>vec<\d+x[a-z]\w*>)
      | (?P<word>[A-Za-z_][\w.]*)
      | (?P<arrow>->)
      | (?P<punct>[][(){}<>,:=*+/%-])
      | (?P<int>\d+)
    """,
    re.VERBOSE,
)
MAX_DEPTH = 200
MAX_DIGITS = 40
T = TypeVar("T")


class _Token:
    __slots__ = ("at", "kind", "text")

    def __init__(self, kind: str, text: str, at: int) -> None:
        self.kind, self.text, self.at = kind, text, at


class Parser:
    """Recursive descent over one text."""

    def __init__(self, text: str, filename: str = "<ir>") -> None:
        self.text = text
        self.filename = filename
        self.tokens = self._scan()
        self.next = 0
        self.depth = 0

    # -- tokens ------------------------------------------------------------------------------------------------

    def _scan(self) -> list[_Token]:
        tokens = []
        at = 0
        while at < len(self.text):
            match = _TOKEN.match(self.text, at)
            if match is None:
                self.fail(f"unexpected character {self.text[at]!r}", at)
            kind = match.lastgroup or ""
            if kind != "space":
                tokens.append(_Token(kind, match.group(), at))
            at = match.end()
        tokens.append(_Token("end", "end of text", at))
        return tokens

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        if at is None:
            at = self.peek.at
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        source = self.text[start : end if end >= 0 else len(self.text)]
        raise TesseraError(
            "E403",
            f"{message}\n  --> {self.filename}:{line}:{at - start + 1}\n"
            f"{line:4d} | {source}\n     | {' ' * (at - start)}^",
        )

    @property
    def peek(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        token = self.tokens[self.next]
        if token.kind != "end":
            self.next += 1
        return token

    def accept(self, text: str) -> bool:
        if self.peek.text == text and self.peek.kind != "string":
            self.next += 1
            return True
        return False

    def expect(self, text: str) -> _Token:
        if self.peek.text != text:
            self.fail(f"expected `{text}`, found `{self.peek.text}`")
        return self.take()

    def kind(self, kind: str) -> str:
        if self.peek.kind != kind:
            self.fail(f"expected a {kind}, found `{self.peek.text}`")
        return self.take().text

    def list_of(self, item: Callable[[], T], close: str) -> list[T]:
        """Items up to the closing token, which is consumed."""
        found: list[T] = []
        while not self.accept(close):
            if found:
                self.expect(",")
            found.append(item())
        return found

    # -- types, dims, attributes ---------------------------------------------------------------------------------

    def dim_until(self, *closers: str) -> Dim:
        """A dim expression: raw text up to a closer outside parentheses."""
        start = self.peek.at
        depth = 0
        while True:
            token = self.peek
            if token.kind == "end":
                self.fail("unfinished dim expression", start)
            if depth == 0 and token.text in closers:
                break
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            self.next += 1
        try:
            return parse_dim(self.text[start : self.peek.at].strip())
        except TesseraError as error:
            self.fail(error.message, start)

    def shaped(self) -> tuple[str, tuple[Dim, ...]]:
        dtype = self.dtype()
        self.expect("[")
        dims: list[Dim] = []
        while not self.accept("]"):
            if dims:
                self.expect(",")
            dims.append(self.dim_until(",", "]"))
        return dtype, tuple(dims)

    def dtype(self) -> str:
        name = self.kind("word")
        if name not in DTYPES:
            self.fail(f"unknown element type `{name}`", self.tokens[self.next - 1].at)
        return name

    def type(self) -> Type:
        if self.peek.kind == "vec":
            token = self.take()
            count, _, dtype = token.text[4:-1].partition("x")
            if dtype not in DTYPES or len(count) > 4:
                self.fail(f"`{token.text}` is no vector type", token.at)
            return VecType(int(count), dtype)
        word = self.peek.text
        if word not in ("lanes", "tensor", "buf", "tile", "ptr"):
            return ScalarType(self.dtype())
        self.take()
        self.expect("<")
        found: Type
        if word == "lanes":
            found = LanesType(self.dtype())
        elif word == "ptr":
            found = PtrType(self.space())
        else:
            dtype, dims = self.shaped()
            if word == "tensor":
                found = TensorType(dims, dtype)
            elif word == "tile":
                shape = tuple(dim for dim in dims if isinstance(dim, int))
                if len(shape) != len(dims):
                    self.fail("the shape of a tile is static")
                found = TileType(shape, dtype)
            else:
                self.expect(",")
                found = BufType(dims, dtype, self.space())
        self.expect(">")
        return found

    def space(self) -> str:
        name = self.kind("word")
        if name not in SPACES:
            self.fail(f"unknown memory space `{name}`", self.tokens[self.next - 1].at)
        return name

    def attr(self) -> Attr:
        self._enter()
        token = self.take()
        value: Attr
        if token.kind == "string":
            value = self.string(token)
        elif token.kind in ("number", "int"):
            integral = re.fullmatch(r"-?\d+", token.text)
            value = self.integer(token) if integral else float(token.text)
        elif token.text == "-" and self.peek.text in ("inf", "nan"):
            value = -float(self.take().text)
        elif token.text in ("true", "false"):
            value = token.text == "true"
        elif token.text == "none":
            value = None
        elif token.text in ("inf", "nan"):
            value = float(token.text)
        elif token.text == "[":
            value = tuple(self.list_of(self.attr, "]"))
        elif token.text == "<":
            value = self.dim_until(">")
            self.expect(">")
        else:
            self.fail(f"expected an attribute value, found `{token.text}`", token.at)
        self.depth -= 1
        return value

    def attrs(self) -> dict[str, Attr]:
        if not self.accept("{"):
            return {}

        found: dict[str, Attr] = {}

        def item() -> None:
            at = self.peek.at
            key = self.kind("word")
            if key in found:
                self.fail(f"attribute `{key}` is given twice", at)
            self.expect("=")
            found[key] = self.attr()

        self.list_of(item, "}")
        return found

    def string(self, token: _Token) -> str:
        """The text that a string token stands for."""
        try:
            text = str(json.loads(token.text))
            text.encode()  # half of a surrogate pair could not be written again
        except ValueError:
            self.fail("a string with an escape that JSON does not have", token.at)
        return text

    def integer(self, token: _Token) -> int:
        if len(token.text) > MAX_DIGITS:
            self.fail("a number of too many digits", token.at)
        return int(token.text)

    def loc(self) -> Loc | None:
        if not self.accept("loc"):
            return None
        self.expect("(")
        token = self.peek
        self.kind("string")
        file = self.string(token)
        numbers = []
        for _ in range(3):
            self.expect(":")
            token = self.take()
            if not token.text.isdigit():
                self.fail("expected a number", token.at)
            numbers.append(self.integer(token))
        self.expect(")")
        return Loc(file, *numbers)

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail("nested too deeply")

    # -- functions, regions, operations ----------------------------------------------------------------------------

    def module(self, constants: Mapping[str, np.ndarray] | None = None) -> Module:
        attrs = self.attrs() if self.accept("module") else {}
        funcs = []
        while self.peek.kind != "end":
            funcs.append(self.func())
        return Module(tuple(funcs), attrs, dict(constants or {}))

    def func(self) -> Func:
        kind = self.kind("word")
        name = self.kind("symbol")[1:]
        scope: dict[str, Value] = {}
        self.expect("(")
        args = self.list_of(lambda: self.binding(scope), ")")
        results: list[Type] = []
        if self.accept("->"):
            self.expect("(")
            results = self.list_of(self.type, ")")
        # `{key = ..}` are attributes, any other `{` opens the body
        attrs = (
            self.attrs()
            if self.tokens[min(self.next + 2, len(self.tokens) - 1)].text == "="
            and self.tokens[self.next + 1].kind == "word"
            else {}
        )
        self.expect("{")
        region = self.region(args, scope)
        if [value.type for value in region.yields] != results:
            self.fail(f"@{name} declares other result types than it yields")
        return Func(kind, name, region, attrs, self.loc())

    def binding(self, scope: dict[str, Value]) -> Value:
        at = self.peek.at
        name = self.kind("value")[1:]
        self.expect(":")
        value = Value(self.type(), "" if name[0].isdigit() else name)
        if name in scope:
            self.fail(f"%{name} is defined twice", at)
        scope[name] = value
        return value

    def region(self, args: list[Value], scope: dict[str, Value]) -> Region:
        """The rest of a region behind `{`; values defined inside are not visible outside."""
        self._enter()
        ops: list[Op] = []
        yields: tuple[Value, ...] = ()
        while not self.accept("}"):
            if self.accept("yield"):
                found = [self.use(scope)]
                while self.accept(","):
                    found.append(self.use(scope))
                yields = tuple(found)
                self.expect("}")
                break
            ops.append(self.op(scope))
        self.depth -= 1
        return Region(tuple(args), tuple(ops), yields)

    def use(self, scope: Mapping[str, Value]) -> Value:
        token = self.peek
        name = self.kind("value")[1:]
        if name not in scope:
            self.fail(f"%{name} is not defined here", token.at)
        return scope[name]

    def op(self, scope: dict[str, Value]) -> Op:
        names: list[tuple[str, int]] = []
        if self.peek.kind == "value":
            while True:
                at = self.peek.at
                names.append((self.kind("value")[1:], at))
                if not self.accept(","):
                    break
            self.expect("=")
        at = self.peek.at
        name = self.kind("word")
        try:
            defn = lookup(name)
        except TesseraError as error:
            self.fail(error.message, at)
        operands = self.operands(defn, scope)
        attrs = self.attrs()
        for key in attrs:
            if key not in defn.attrs:
                self.fail(f"`{name}` has no attribute `{key}`", at)
        regions = []
        for _ in range(defn.regions):
            inner = dict(scope)
            self.expect("(")
            args = self.list_of(lambda inner=inner: self.binding(inner), ")")  # type: ignore[misc]
            self.expect("{")
            regions.append(self.region(args, inner))
        types: list[Type] = []
        if self.accept(":"):
            types.append(self.type())
            while self.accept(","):
                types.append(self.type())
        loc = self.loc()
        if len(types) != len(names):
            self.fail(f"`{name}` names {len(names)} results but states {len(types)} types", at)
        hints = ["" if n[0].isdigit() else n for n, _ in names]
        try:
            op = make(name, *operands, types=types, regions=regions, loc=loc, hints=hints, **attrs)
        except (TesseraError, AssertionError) as error:
            self.fail(getattr(error, "message", str(error)), at)
        for (result_name, result_at), value in zip(names, op.results, strict=True):
            if result_name in scope:
                self.fail(f"%{result_name} is defined twice", result_at)
            scope[result_name] = value
        return op

    def operands(self, defn: OpDef, scope: Mapping[str, Value]) -> list[Value | list[Value] | None]:
        found: list[Value | list[Value] | None] = []
        first = True
        bare = len(defn.operands) == 1
        for spec in defn.operands:
            if spec.arity == "?":
                present = self._optional(spec.name, first)
                found.append(self.use(scope) if present else None)
                first = first and not present
                continue
            if spec.arity == "*" and bare:
                group: list[Value] = []
                while self.peek.kind == "value":
                    group.append(self.use(scope))
                    if not self.accept(","):
                        break
                found.append(group)
                continue
            if not first:
                self.expect(",")
            first = False
            if spec.arity == "1":
                found.append(self.use(scope))
            else:
                self.expect("[")
                found.append(self.list_of(lambda: self.use(scope), "]"))
        return found

    def _optional(self, name: str, first: bool) -> bool:
        at = self.next if first else self.next + 1
        if not first and self.peek.text != ",":
            return False
        if self.tokens[min(at, len(self.tokens) - 1)].text != name:
            return False
        self.next = at + 1
        return True


def parse_module(text: str, filename: str = "<ir>", constants: Mapping[str, np.ndarray] | None = None) -> Module:
    """A module of any level. Raises E403 with line and caret."""
    return Parser(text, filename).module(constants)


def parse_type(text: str) -> Type:
    """One type, such as `tensor<f32[B, 3*D]>`."""
    parser = Parser(text, "<type>")
    found = parser.type()
    if parser.peek.kind != "end":
        parser.fail("text behind the type")
    return found
