"""Forward mode: a tangent travels beside each value, by the `jvp` rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tessera.derivatives.wrapped import OperatorStep, Step, Wrapped, each, is_float, owned
from tessera.errors import SourceError, Span
from tessera.interpreters import Interpreter, execute, interpret
from tessera.operator import Operator
from tessera.pytree import flatten, unflatten
from tessera.tensor import Tensor, as_tensor, operators

__all__ = ["Forward", "jvp"]


class _Dual(Wrapped):
    __slots__ = ("tangent",)

    def __init__(self, primal: Tensor, interpreter: Interpreter, tangent: Tensor) -> None:
        super().__init__(primal, interpreter)
        self.tangent = tangent


class Forward(Interpreter):
    def process(self, op: Operator, args: tuple[Tensor, ...], loc: Span | None) -> Any:
        if not op.differentiable:
            return execute(op, *(x.primal if isinstance(x, _Dual) and owned(x, self) else x for x in args))
        step = OperatorStep(op)
        made = self.step(step, args)
        return made if step.several else made[0]

    def step(self, step: Step, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Carry out a step, with its tangents."""
        duals = [x if isinstance(x, _Dual) and owned(x, self) else None for x in args]
        primals = tuple(x if d is None else d.primal for x, d in zip(args, duals, strict=True))
        outs, saved = step.run(primals)
        if all(d is None for d in duals):
            return outs
        tangents = step.push(primals, outs, saved, tuple(None if d is None else d.tangent for d in duals))
        return tuple(out if t is None else _Dual(out, self, t) for out, t in zip(outs, each(tangents), strict=True))


def jvp(function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(the result, its derivative in the direction `tangents`), both with the result's structure.

    `tangents` has the structure of `primals`; None stands for zero.
    """
    leaves, tree = flatten(tuple(primals))
    directions: list[Any] = []
    for primal, tangent in zip(primals, tangents, strict=True):
        count = len(flatten(primal)[0])
        directions += [None] * count if tangent is None else flatten(tangent)[0]
    with interpret(Forward()) as forward:
        inputs = []
        for x, t in zip(leaves, directions, strict=True):
            if t is None or not is_float(x):
                inputs.append(x)
                continue
            primal, tangent = as_tensor(x), as_tensor(t)
            if primal.shape != tangent.shape:
                raise SourceError("E313", f"a tangent {tangent.type} for an argument {primal.type}")
            inputs.append(_Dual(primal, forward, tangent.astype(primal.dtype)))
        result = function(*unflatten(tree, inputs))
    outs, out_tree = flatten(result)
    values = [x.primal if isinstance(x, _Dual) and owned(x, forward) else x for x in outs]
    moved = [x.tangent if isinstance(x, _Dual) and owned(x, forward) else operators.zeros_like(as_tensor(x))
             for x in outs]
    return unflatten(out_tree, values), unflatten(out_tree, moved)
