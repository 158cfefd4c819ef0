"""`ts.cond`: one of two functions, as data decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tessera.arrays import Array
from tessera.control.base import (
    Control,
    Types,
    closed,
    floats,
    forward,
    full,
    leaves_of,
    lifted,
    or_zeros,
    pullback,
    shown,
    spread,
)
from tessera.dtypes import bool_
from tessera.errors import SourceError
from tessera.interpreters import execute
from tessera.operator import Cotangents
from tessera.programs import Program, record, typed
from tessera.pytree import unflatten
from tessera.shapes import Dim
from tessera.tensor import Tensor, as_tensor, operators
from tessera.types import TensorType

__all__ = ["Cond", "chosen", "cond"]


@dataclass(frozen=True)
class Cond(Control):
    """then(operands) where the first operand, a bool scalar, holds, else other(operands). One of them runs."""

    then: Program
    other: Program
    name = "cond"

    @property
    def programs(self) -> tuple[Program, ...]:
        return self.then, self.other

    def infer(self, *ins: TensorType) -> Types:
        return self.then.types

    def ref(self, *ins: Array) -> Any:
        return tuple((self.then if ins[0] else self.other).run(ins[1:]))

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        args = primals[1:]
        wrt, float_outs = floats([x.type for x in args]), floats(self.then.types)

        def back(program: Program) -> Program:
            def run(*values: Tensor) -> list[Tensor]:
                return pullback(program, wrt, float_outs, values[: len(args)], values[len(args) :])

            return closed(run, [*(x.type for x in args), *(self.then.types[i] for i in float_outs)])

        if not wrt:
            return (None,) * len(primals)
        found = execute(Cond(back(self.then), back(self.other)), *primals, *(cts[i] for i in float_outs))
        return None, *spread(found, [x.type for x in args])

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Any:
        args = primals[1:]
        wrt = floats([x.type for x in args])

        def moved(program: Program) -> Program:
            def run(*values: Tensor) -> list[Tensor]:
                return forward(program, wrt, values[: len(args)], values[len(args) :])[1]

            return closed(run, [*(x.type for x in args), *(args[i].type for i in wrt)])

        given = or_zeros(args, tangents[1:])
        found = execute(Cond(moved(self.then), moved(self.other)), *primals, *given)
        return spread(found, self.then.types)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Any:
        """One branch for all examples, or where each decides for itself, both and a choice of results."""
        branches = [_lifted_full(program, batched[1:], size) for program in self.programs]
        if not batched[0]:
            types = typed(xs[1:])
            return execute(Cond(*(closed(run, types) for run in branches)), *xs)
        return tuple(chosen(xs[0], a, b) for a, b in zip(*(run(*xs[1:]) for run in branches), strict=True))


def _lifted_full(program: Program, own: tuple[bool, ...], size: Dim) -> Callable[..., list[Tensor]]:
    run = lifted(program, own, size)
    return lambda *xs: [full(x, mapped, size) for x, mapped in run(*xs)]


def chosen(which: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x or y for each example of a batch, as bools of its size say."""
    found: Tensor = operators.where(which.reshape(*which.shape, *(1,) * (x.ndim - 1)), x, y)
    return found


def cond(condition: Any, then: Callable[..., Any], other: Callable[..., Any], *operands: Any) -> Any:
    """then(*operands) if the bool scalar `condition` holds, else other(*operands); only one of them runs.

    Operands and results are trees of tensors; both functions give the same structure, shapes and element types. What
    the functions use from outside is an operand too. A Python bool decides at once.
    """
    if isinstance(condition, bool):
        return (then if condition else other)(*operands)
    decided = _condition("cond", as_tensor(condition))
    leaves, types, tree = leaves_of(operands)
    first, second = (record(lambda *xs, f=f: f(*unflatten(tree, xs)), *typed(leaves)) for f in (then, other))
    if first.tree != second.tree or first.program.types != second.program.types:
        raise SourceError("E317", f"the branches of cond give {shown(first)} and {shown(second)}",
                          help="both give the same structure, shapes and element types")
    captured = (*first.captured, *second.captured)
    given = (*(x.type for x in captured), *types)
    count = len(first.captured)
    programs = first.placed(given, 0, len(captured)), second.placed(given, count, len(captured))
    return unflatten(first.tree, execute(Cond(*programs), decided, *captured, *leaves))


def _condition(name: str, x: Tensor) -> Tensor:
    if x.shape != () or x.dtype.base != bool_:
        raise SourceError("E303", f"{name} is decided by a bool scalar, got {x.type}",
                          help="compare, or reduce with ts.any or ts.all")
    return x
