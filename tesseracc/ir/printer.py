"""Text of the IR. `parse(text(x))` gives the same module back (up to value names made unique)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

from tesseracc.ir.value import Attr, Attrs, Func, Loc, Module, Op, Region, Value


def attr_text(value: Attr) -> str:
    """An attribute: `4`, `1.5`, `inf`, `true`, `"text"`, `none`, `<3*D>`, `[a, b]`."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case tuple() | list():
            return f"[{', '.join(map(attr_text, value))}]"
        case _:
            return f"<{value}>"


def _attrs_text(attrs: Attrs) -> str:
    if not attrs:
        return ""
    return " {" + ", ".join(f"{key} = {attr_text(value)}" for key, value in attrs.items()) + "}"


class _Names:
    """Gives each value a unique name: its hint where that is free, else a number."""

    def __init__(self) -> None:
        self._names: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._next = 0

    def new(self, value: Value) -> str:
        hint = value.name
        if hint and not hint[0].isdigit():
            name, suffix = hint, 0
            while name in self._taken:
                suffix += 1
                name = f"{hint}_{suffix}"
        else:
            name = str(self._next)
            self._next += 1
        self._names[value] = name
        self._taken.add(name)
        return f"%{name}"

    def __getitem__(self, value: Value) -> str:
        return f"%{self._names[value]}" if value in self._names else f"%<undefined {value.name}>"


class _Printer:
    def __init__(self, locations: bool) -> None:
        self.lines: list[str] = []
        self.locations = locations

    def func(self, func: Func) -> None:
        names = _Names()
        params = ", ".join(f"{names.new(p)}: {p.type}" for p in func.params)
        results = f" -> ({', '.join(map(str, func.result_types))})" if func.body.yields else ""
        self.lines.append(f"{func.kind} @{func.name}({params}){results}{_attrs_text(func.attrs)} {{")
        self._body(func.body, names, 1)
        self.lines.append("}" + self._loc(func.loc))

    def _loc(self, loc: Loc | None) -> str:
        return f" {loc}" if loc and self.locations else ""

    def _body(self, region: Region, names: _Names, depth: int) -> None:
        for op in region.ops:
            self._op(op, names, depth)
        if region.yields:
            self.lines.append("  " * depth + "yield " + ", ".join(names[v] for v in region.yields))

    def _op(self, op: Op, names: _Names, depth: int) -> None:
        operands = _operands_text(op, names)
        results = ", ".join(map(names.new, op.results))
        head = f"{results} = " if results else ""
        head += op.name + (f" {operands}" if operands else "") + _attrs_text(op.attrs)
        types = f" : {', '.join(str(r.type) for r in op.results)}" if op.results else ""
        pad = "  " * depth
        line = pad + head
        for region in op.regions:
            args = ", ".join(f"{names.new(a)}: {a.type}" for a in region.args)
            self.lines.append(f"{line} ({args}) {{")
            self._body(region, names, depth + 1)
            line = pad + "}"
        self.lines.append(line + types + self._loc(op.loc))


def _operands_text(op: Op, names: _Names) -> str:
    parts: list[str] = []
    at = 0
    last = len(op.defn.operands) - 1
    for i, (spec, count) in enumerate(zip(op.defn.operands, op.segments, strict=True)):
        found = [names[v] for v in op.operands[at : at + count]]
        at += count
        if spec.arity == "1":
            parts += found
        elif spec.arity == "?":
            if found:
                parts.append(f"{spec.name} {found[0]}")
        elif i == last and last == 0:
            parts += found  # an operation of one variadic segment prints bare
        else:
            parts.append(f"[{', '.join(found)}]")
    return ", ".join(parts)


def func_text(func: Func, *, locations: bool = False) -> str:
    """One function as text."""
    printer = _Printer(locations)
    printer.func(func)
    return "\n".join(printer.lines) + "\n"


def module_text(module: Module, *, locations: bool = False) -> str:
    """A whole module; constants appear by name only (their arrays travel beside the text)."""
    head = f"module{_attrs_text(module.attrs)}\n\n" if module.attrs else ""
    return head + "\n".join(func_text(func, locations=locations) for func in module.funcs)


def op_text(op: Op) -> str:
    """One operation for messages; operands print by their hints."""
    names = _Names()
    for value in _outside(op):
        names.new(value)
    printer = _Printer(False)
    printer._op(op, names, 0)
    return printer.lines[0].removesuffix(" {")


def _outside(op: Op) -> Iterable[Value]:
    seen: set[Value] = set()
    for inner in op.walk():
        for value in inner.operands:
            if value not in seen:
                seen.add(value)
                yield value
