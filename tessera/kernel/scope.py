"""Names: what each is bound to along a path, and how bindings of two paths meet.

A name is looked up as Python does (local, parameter, enclosing function, module, built-in), with two additions: a
free name that is a dim of the signature is that extent (rule R1, which goes before the module's names), and `math`
needs no import (rule R10).
"""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import TypeAlias

import numpy as np

import tessera.dtypes as dtypes
from tessera.dtypes import DType
from tessera.errors import Span, did_you_mean
from tessera.kernel.operands import BufferRef, Items, Operand, Static, convert, held_type, is_expr, join_types, to_expr
from tessera.kernel.report import Already, Report, fail
from tessera.kernel.syntax import Source
from tessera.kernel.tree import Assign, Expr, Read, Stmt, Var
from tessera.kernel.vocabulary import namespace_of, word_of
from tessera.shapes import Expr as DimExpr
from tessera.shapes import symbol

__all__ = ["Binding", "Bound", "Env", "Frame", "Poison", "Unset", "conversions", "join_env", "static_operand"]


@dataclass(frozen=True)
class Bound:
    """A run-time variable."""

    var: Var
    known: Expr | None = None


@dataclass(frozen=True)
class Unset:
    """No value on some path; `why` completes "`x` ..."."""

    why: str


@dataclass(frozen=True)
class Poison:
    """Its definition had an error."""


Binding: TypeAlias = Operand | Bound | Unset | Poison
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


def lookup(frame: Frame, name: str, dims: Sequence[str], span: Span, report: Report) -> Operand:
    """What a name stands for at this point. Raises SourceError E203, E210."""
    binding = frame.env.get(name)
    match binding:
        case Poison():
            raise Already
        case Unset(why):
            raise fail("E210", f"`{name}` {why}", span, "give it a value on every path that leads here")
        case Bound(var, known):
            return Read(var, span, known)
        case None:
            pass
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
        report.note("R10: `math` is known without an import", span)
        return Static(math)
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
        return Read(binding.var, span)
    if isinstance(binding, (Unset, Poison, Items, BufferRef)) or not is_expr(binding):
        return None
    return binding


def _join(name: str, a: Binding, b: Binding, varying: bool, span: Span, prefix: str) -> Binding:
    if a == b:
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


def join_env(a: Env, b: Env, varying: bool, span: Span, prefix: str) -> Env:
    """The bindings behind a place where two paths meet; `varying` when lanes may come from both."""
    missing = Unset("is not assigned on every path")
    return {name: _join(name, a.get(name, missing), b.get(name, missing), varying, span, prefix) for name in {**a, **b}}


def conversions(source: Env, target: Env, span: Span) -> list[Stmt]:
    """Assignments at the end of a path that bring its variables to the places where the paths meet."""
    out: list[Stmt] = []
    for name, binding in target.items():
        old = source.get(name)
        if isinstance(binding, Bound) and old is not None and not (isinstance(old, Bound) and old.var == binding.var):
            value = _operand(old, span)
            if value is not None:
                out.append(
                    Assign(
                        binding.var, convert(to_expr(value, span, binding.var.type.dtype), binding.var.type.dtype), span
                    )
                )
    return out


def hold(operand: Operand) -> bool:
    """Whether an operand has to be stored in a variable when a name is bound to it."""
    return not isinstance(operand, (Static, BufferRef, Items))


def type_of(operand: Operand) -> str:
    """The element type in a message."""
    return str(held_type(operand).dtype)
