"""The immutable SSA core: values, operations, regions, functions, modules.

Nothing is edited in place: a pass builds new operations and returns a new function. A value is compared by
identity; an operation keeps its operands in one flat tuple, cut into the named segments that its definition
declares (see `define.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from tesseracc.ir.types import Type

if TYPE_CHECKING:
    import numpy as np

    from tesseracc.ir.define import OpDef

Attr: TypeAlias = Any  # int | float | bool | str | shapes.Expr | tuple of these
Attrs: TypeAlias = Mapping[str, Attr]


def no_attrs() -> Attrs:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Loc:
    """A place in the user's source; `file` is relative to the built module's folder, never absolute."""

    file: str
    line: int
    col: int = 0
    end_col: int = 0

    def __str__(self) -> str:
        return f"loc({json.dumps(self.file, ensure_ascii=False)}:{self.line}:{self.col}:{self.end_col})"


class Value:
    """An SSA value. `name` is only a hint for the printer."""

    __slots__ = ("name", "type")

    def __init__(self, type_: Type, name: str = "") -> None:
        self.type = type_
        self.name = name

    def __repr__(self) -> str:
        return f"%{self.name or '?'}: {self.type}"


@dataclass(frozen=True, slots=True)
class Region:
    """One block: arguments, operations in order, and the values that it yields to its operation."""

    args: tuple[Value, ...]
    ops: tuple[Op, ...]
    yields: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operation. `segments[i]` operands belong to the i-th segment of the definition."""

    defn: OpDef
    operands: tuple[Value, ...]
    segments: tuple[int, ...]
    results: tuple[Value, ...]
    attrs: Attrs = field(default_factory=no_attrs)
    regions: tuple[Region, ...] = ()
    loc: Loc | None = None

    @property
    def name(self) -> str:
        return self.defn.name

    @property
    def result(self) -> Value:
        """The only result."""
        (result,) = self.results
        return result

    def group(self, segment: str) -> tuple[Value, ...]:
        """The operands of a segment."""
        at = 0
        for spec, count in zip(self.defn.operands, self.segments, strict=True):
            if spec.name == segment:
                return self.operands[at : at + count]
            at += count
        raise KeyError(f"{self.name} has no operand segment {segment!r}")

    def __getitem__(self, segment: str) -> Value:
        """The single operand of a segment."""
        (value,) = self.group(segment)
        return value

    def optional(self, segment: str) -> Value | None:
        """The operand of an optional segment, or None."""
        found = self.group(segment)
        return found[0] if found else None

    def rebound(self, operands: tuple[Value, ...], regions: tuple[Region, ...] = ()) -> Op:
        """The same operation (same results) on these operands, with these regions; itself where nothing is new."""
        if not regions and operands == self.operands:
            return self
        return Op(self.defn, operands, self.segments, self.results, self.attrs, regions, self.loc)

    def walk(self) -> Iterator[Op]:
        """This operation and all operations inside its regions, outer first."""
        yield self
        for region in self.regions:
            for op in region.ops:
                yield from op.walk()


@dataclass(frozen=True, slots=True, eq=False)
class Func:
    """A function of some level: `graph.func`, `schedule.func`, `tile.kernel`, `tile.program`, `target.func`."""

    kind: str
    name: str
    body: Region
    attrs: Attrs = field(default_factory=no_attrs)
    loc: Loc | None = None

    @property
    def params(self) -> tuple[Value, ...]:
        return self.body.args

    @property
    def result_types(self) -> tuple[Type, ...]:
        return tuple(value.type for value in self.body.yields)

    def walk(self) -> Iterator[Op]:
        for op in self.body.ops:
            yield from op.walk()

    def with_(self, **changes: Any) -> Func:
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """Functions in order, plus the named arrays that `*.constant` operations refer to."""

    funcs: tuple[Func, ...]
    attrs: Attrs = field(default_factory=no_attrs)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)

    def func(self, name: str) -> Func:
        for func in self.funcs:
            if func.name == name:
                return func
        raise KeyError(name)

    def of_kind(self, kind: str) -> tuple[Func, ...]:
        return tuple(func for func in self.funcs if func.kind == kind)

    def with_(self, **changes: Any) -> Module:
        return replace(self, **changes)
