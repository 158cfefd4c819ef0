"""Names: what each is bound to along a path, and how bindings of two paths meet.

A name is looked up as Python does (local, parameter, enclosing function, module, built-in), with two additions: a
free name that is a dim of the signature is that extent (rule R1, which goes before the module's names), and `math`
needs no import (rule R10).
"""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import TypeAlias

import numpy as np

import tessera.dtypes as dtypes
from tessera.dtypes import DType, i64, promote
from tessera.errors import Span, did_you_mean
from tessera.kernel.operands import (
    NOT_ELEMENTS,
    Items,
    Operand,
    Static,
    convert,
    held_type,
    is_expr,
    join_types,
    to_expr,
)
from tessera.kernel.report import Already, Report, fail
from tessera.kernel.syntax import Source
from tessera.kernel.tile_operands import Facts, Register, TileOp, cast_tile, key, least, may_equal
from tessera.kernel.tree import Assign, DimValue, Elem, Expr, Read, Stmt, TileType, Var
from tessera.kernel.vocabulary import Namespace, namespace_of, word_of
from tessera.kernel.windows import Contents, join_contents
from tessera.shapes import Expr as DimExpr
from tessera.shapes import symbol

__all__ = ["Binding", "Bound", "Env", "Frame", "Poison", "Unset", "conversions", "join_env", "static_operand"]


@dataclass(frozen=True)
class Bound:
    """A run-time variable."""

    var: Var
    known: Expr | None = None
    facts: Facts | None = None  # of a tile


@dataclass(frozen=True)
class Unset:
    """No value on some path; `why` completes "`x` ..."."""

    why: str


@dataclass(frozen=True)
class Poison:
    """Its definition had an error."""


Binding: TypeAlias = Operand | Bound | Unset | Poison | Contents
Env: TypeAlias = dict[str, Binding]


@dataclass
class Frame:
    """One function being read: the kernel, or a helper inlined into it."""

    source: Source
    function: FunctionType
    prefix: str
    env: Env = field(default_factory=dict)
    called_at: Span | None = None
    caller: Frame | None = None

    def __post_init__(self) -> None:
        node = self.source.node
        args = node.args
        self.locals = {a.arg for a in [*args.posonlyargs, *args.args, *args.kwonlyargs]} | {
            n.id
            for stmt in node.body
            for n in ast.walk(stmt)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        names = self.function.__code__.co_freevars
        self.closure: dict[str, object] = {}
        for name, cell in zip(names, self.function.__closure__ or (), strict=True):
            try:
                self.closure[name] = cell.cell_contents
            except ValueError:  # not filled yet: a name of the enclosing function that is assigned later
                continue

    def captured(self, name: str) -> tuple[bool, object]:
        """Whether the name is bound outside the function, and to what."""
        for space in (self.closure, self.function.__globals__, vars(builtins)):
            if name in space:
                return True, space[name]
        return False, None


def lookup(
    frame: Frame,
    name: str,
    dims: Sequence[str],
    span: Span,
    report: Report,
    free: Callable[[str, Span], Operand | None],
) -> Operand:
    """What a name stands for at this point; `free` knows some that are bound nowhere. Raises SourceError E203, E210."""
    binding = frame.env.get(name)
    match binding:
        case Poison():
            raise Already
        case Unset(why):
            raise fail("E210", f"`{name}` {why}", span, "give it a value on every path that leads here")
        case Bound(var, known, facts):
            return Read(var, span, known) if facts is None else TileOp(Read(var, span), facts)
        case Register(type_):
            help = "ts.tile.fill gives it one"
            raise fail("E210", f"`{name}` is allocated as {type_}, but has no value yet", span, help)
        case None:
            pass
        case Contents():
            raise AssertionError(name)
        case _:
            return binding
    if name in frame.locals:
        raise fail("E210", f"`{name}` is used before it is assigned", span)
    if name in dims:
        outside, value = frame.captured(name)
        if outside and not isinstance(value, DimExpr):
            report.once(
                f"`{name}` is a dim of the signature here, not the name of the same spelling outside", span, "W203"
            )
        report.once(f"R1: `{name}` is the extent of that name in the signature", span)
        return Static(symbol(name))
    outside, value = frame.captured(name)
    if outside:
        return static_operand(value, name, span)
    if name == "math":
        report.once("R10: `math` is known without an import", span)
        return Static(math)
    if name == "tshared":
        report.once("R10: `tshared` is known without an import", span)
        return Static(Namespace("tshared"))
    implied = free(name, span)
    if implied is not None:
        return implied
    near = did_you_mean(
        name, {*frame.env, *dims, *frame.closure, *(n for n in frame.function.__globals__ if not n.startswith("__"))}
    )
    raise fail("E203", f"`{name}` is not defined", span, near or "a dim of the signature may be used by its name")


def static_operand(value: object, name: str, span: Span) -> Operand:
    """A Python value captured by a kernel. Raises SourceError E206 for what a kernel cannot hold."""
    if isinstance(value, (list, tuple)):
        return Items(tuple(static_operand(item, name, span) for item in value))
    if isinstance(value, np.generic) and value.ndim == 0 and value.dtype.kind in "biuf":
        value = value.item()
    if isinstance(value, ModuleType):
        return Static(namespace_of(value) or value)
    if isinstance(value, (int, float, str, DType, DimExpr, FunctionType)) or value is None:
        return Static(value)
    word = word_of(value)
    if word is not None:
        return Static(word)
    if callable(value):
        return Static(value)
    raise fail(
        "E206", f"`{name}` is a Python {type(value).__name__}, which a kernel cannot use", span,
        "pass a tensor as a parameter; numbers, tuples of numbers and functions can be captured",
    )  # fmt: skip


def module_attribute(module: ModuleType, name: str, span: Span) -> Operand:
    """`module.name`. Raises SourceError E203."""
    if not hasattr(module, name):
        raise fail("E203", f"module `{module.__name__}` has no `{name}`", span, did_you_mean(name, dir(module)))
    return static_operand(getattr(module, name), f"{module.__name__}.{name}", span)


def dtype_attribute(name: str) -> DType | None:
    """`ts.f32` and its aliases."""
    value = getattr(dtypes, name, None)
    if name == "bool":
        return dtypes.bool_
    return value if isinstance(value, DType) else None


# Where paths meet -----------------------------------------------------------------------------------------------------


def _operand(binding: Binding, span: Span) -> Operand | None:
    """A binding's value, when it can be held as one element."""
    if isinstance(binding, Bound):
        return Read(binding.var, span) if binding.facts is None else None
    if isinstance(binding, (Unset, Poison, Contents)) or not is_expr(binding):
        return None
    return binding


def _join(
    name: str, a: Binding, b: Binding, varying: bool, span: Span, prefix: str, invariant: Callable[[Expr], bool]
) -> Binding:
    if a == b:
        return a
    if name.startswith("@"):
        return join_state(name, a, b, span)
    if isinstance(a, Bound) and isinstance(b, Bound) and a.facts is not None and b.facts is not None:
        return join_tiles(prefix + name, a, b, span, invariant)
    if isinstance(a, Register) and isinstance(b, Bound) and a.type == b.var.type:
        return a
    for side in (a, b):
        if isinstance(side, Poison):
            return side
    for side in (a, b):
        if isinstance(side, Unset):
            return Unset("is not assigned on every path") if isinstance(a, Unset) != isinstance(b, Unset) else side
    x, y = _operand(a, span), _operand(b, span)
    if x is None or y is None:
        return Unset("stands for different things on different paths")
    return Bound(Var(prefix + name, join_types(x, y, varying)))


def join_env(
    a: Env, b: Env, varying: bool, span: Span, prefix: str, invariant: Callable[[Expr], bool] = lambda e: False
) -> Env:
    """The bindings behind a place where two paths meet; `varying` when lanes may come from both.

    `invariant` says of an expression of sizes whether it has the same value on both paths.
    """
    missing = Unset("is not assigned on every path")
    return {
        name: _join(name, a.get(name, missing), b.get(name, missing), varying, span, prefix, invariant)
        for name in {**a, **b}
    }


def join_tiles(name: str, a: Bound, b: Bound, span: Span, invariant: Callable[[Expr], bool]) -> Binding:
    """A tile that is one or the other; `a` is the one that comes first.

    Where the valid parts differ: a count that both paths agree on holds for both. Else a tile that is updated
    (`t += x`) is valid everywhere, and updates by ragged tiles change their part only; of one that is replaced, the
    count is a variable.
    """
    x, y, s, t = a.facts, b.facts, a.var.type, b.var.type
    assert x is not None and y is not None and isinstance(s, TileType) and isinstance(t, TileType)
    if len(s.shape) != len(t.shape) or not all(map(may_equal, s.shape, t.shape)):
        return Unset("stands for tiles of different shapes on different paths")
    pinned = x.pinned
    counts: list[Expr | None] = []
    for axis, (c, d) in enumerate(zip(x.counts, y.counts, strict=True)):
        place = Var(f"{name}#{axis}", Elem(i64))
        same = (None if c is None else key(c)) == (None if d is None else key(d))
        if same or (isinstance(c, Read) and c.var == place) or (x.pinned and d is None):
            counts.append(c)
        elif (c is None or invariant(c)) and (d is None or invariant(d)) and not x.pinned:
            counts.append(d if c is None else c if d is None else least(c, d, span))
        elif x.pinned or y.updated:
            pinned = True
            counts.append(None)
        else:
            counts.append(Read(place, span))
    origins = zip(x.origins, y.origins, strict=True)
    facts = Facts(
        tuple(counts),
        tuple(o if p is None else p if o in (None, p) else None for o, p in origins),
        x.tag if y.tag in (None, x.tag) else y.tag if x.tag is None else None,
        zero=x.zero and y.zero, pinned=pinned, loaded=x.loaded and y.loaded,
    )  # fmt: skip
    dtype = s.dtype if s.dtype == t.dtype else promote(s.dtype, t.dtype)
    return Bound(Var(name, TileType(s.shape, dtype)), None, facts)


def join_state(name: str, a: Binding, b: Binding, span: Span) -> Binding:
    """What shared memory holds: as far as both paths agree. Where one has not filled it, what the other one has."""
    if isinstance(a, Contents) and isinstance(b, Contents):
        return Contents(join_contents(a.facts, b.facts, name[1:], span))
    return a if isinstance(a, Contents) else b


def conversions(source: Env, target: Env, span: Span) -> list[Stmt]:
    """Assignments at the end of a path that bring its variables to the places where the paths meet."""
    out: list[Stmt] = []
    for name, binding in target.items():
        old = source.get(name)
        if isinstance(binding, Bound) and binding.facts is not None:
            out += _tile_conversions(old, binding, span)
        elif isinstance(binding, Bound) and old is not None and not (isinstance(old, Bound) and old.var == binding.var):
            value = _operand(old, span)
            if value is not None:
                out.append(
                    Assign(
                        binding.var, convert(to_expr(value, span, binding.var.type.dtype), binding.var.type.dtype), span
                    )
                )
    return out


def _tile_conversions(source: Binding | None, target: Bound, span: Span) -> list[Stmt]:
    assert target.facts is not None and isinstance(target.var.type, TileType)
    if not isinstance(source, Bound) or source.facts is None:
        return []
    out: list[Stmt] = []
    if source.var != target.var:
        value = cast_tile(TileOp(Read(source.var, span), source.facts), target.var.type.dtype, span)
        out.append(Assign(target.var, value.expr, span))
    for axis, (want, have) in enumerate(zip(target.facts.counts, source.facts.counts, strict=True)):
        if isinstance(want, Read) and want.var.name == f"{target.var.name}#{axis}" and want != have:
            full = DimValue(target.var.type.shape[axis], Elem(i64), span)
            out.append(Assign(want.var, full if have is None else have, span))
    return out


def hold(operand: Operand) -> bool:
    """Whether an operand has to be stored in a variable when a name is bound to it."""
    return not isinstance(operand, NOT_ELEMENTS)


def type_of(operand: Operand) -> str:
    """The element type in a message."""
    return str(held_type(operand).dtype)
