"""Calls of functions with derivatives of their own, as operators: what control flow records of them.

The function and its rule are programs, so that nothing refers to Python values of the place where they were recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tessera.arrays import Array
from tessera.derivatives.batching import vmap
from tessera.derivatives.reverse import vjp
from tessera.derivatives.wrapped import Step, is_float, zeros_of
from tessera.interpreters import execute
from tessera.operator import Cotangents, Operator
from tessera.programs import Program, record, typed
from tessera.pytree import flatten, unflatten
from tessera.shapes import Dim
from tessera.tensor import Tensor
from tessera.types import TensorType

__all__ = ["Ruled", "recorded_call", "transposed"]


def transposed(linear: Callable[..., tuple[Tensor, ...]], types: Sequence[TensorType], cts: Sequence[Tensor]) -> Any:
    """The transpose of a linear function of tensors of these types, at `cts`; None where nothing flows."""
    _, pull = vjp(linear, *map(zeros_of, types))
    return pull(tuple(cts))


@dataclass(frozen=True)
class Ruled(Operator):
    """The first `results` results of `run`; the others are what the rule needs besides.

    `rule` takes the operands, all results of `run`, and (co)tangents: with `reverse` one cotangent for each result, for
    which it gives those of the operands `wrt`; else tangents of these operands, for which it gives those of the float
    results.
    """

    run: Program
    rule: Program
    results: int
    wrt: tuple[int, ...]
    reverse: bool
    name = "ruled"

    @property
    def _floats(self) -> list[int]:
        return [i for i, t in enumerate(self.infer()) if t.dtype.is_float]

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        return self.run.types[: self.results]

    def ref(self, *ins: Array) -> Any:
        return tuple(self.run.run(ins)[: self.results])

    def compose(self, *xs: Tensor) -> Any:
        return tuple(self.run.replay(*xs)[: self.results])

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        known = (*primals, *self.run.replay(*primals))
        if self.reverse:
            found: Any = self.rule.replay(*known, *cts)
        else:
            found = transposed(lambda *moved: tuple(self.rule.replay(*known, *moved)),
                               [primals[i].type for i in self.wrt], [cts[i] for i in self._floats])
        by_operand = dict(zip(self.wrt, found, strict=True))
        return tuple(by_operand.get(i) for i in range(len(primals)))

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Any:
        known = (*primals, *self.run.replay(*primals))
        moved = [t if (t := tangents[i]) is not None else zeros_of(primals[i].type) for i in self.wrt]
        floats = self._floats
        if self.reverse:

            def pulled(*chosen: Tensor) -> tuple[Tensor, ...]:
                cts = [zeros_of(out.type) for out in outs]
                for i, ct in zip(floats, chosen, strict=True):
                    cts[i] = ct
                return tuple(self.rule.replay(*known, *cts))

            found: Any = transposed(pulled, [outs[i].type for i in floats], moved)
        else:
            found = self.rule.replay(*known, *moved)
        by_result = dict(zip(floats, found, strict=True))
        return tuple(by_result.get(i) for i in range(len(outs)))

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Any:
        given = [x if mine else x.broadcast_to(size, *x.shape) for x, mine in zip(xs, batched, strict=True)]
        run, rule = (_for_batch(program, size) for program in (self.run, self.rule))
        return execute(Ruled(run, rule, self.results, self.wrt, self.reverse), *given)


def _for_batch(program: Program, size: Dim) -> Program:
    """The program with the batch in axis 0 of all parameters and results."""
    types = [TensorType((size, *t.dims), t.dtype) for t in program.params]
    return record(vmap(lambda *xs: tuple(program.replay(*xs))), *types).program


class RuledCall(Step, Protocol):
    """A step whose rule is given in one direction."""

    reverse: bool


def recorded_call(call: RuledCall, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The results of a call on values of a program under construction."""
    kept: list[Tensor] = []
    count = 0
    rest: list[Any] = []
    tree: Any = None

    def run(*xs: Tensor) -> tuple[Tensor, ...]:
        nonlocal count, rest, tree
        outs, saved = call.run(xs)
        leaves, tree = flatten(saved)
        rest = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        kept[:] = [*outs, *(leaf for leaf in leaves if isinstance(leaf, Tensor))]
        count = len(outs)
        return tuple(kept)

    types = typed(tensors)
    first = record(run, *types)
    known = [*types, *typed(kept)]
    wrt = [i for i, x in enumerate(tensors) if is_float(x)]
    results = known[len(types) :][:count]

    def rule(*values: Tensor) -> tuple[Tensor, ...]:
        inputs, results_at = len(types), len(types) + count
        primals, outs, residuals = values[:inputs], values[inputs:results_at], iter(values[results_at : len(known)])
        moved = values[len(known) :]
        saved = unflatten(tree, [next(residuals) if x is None else x for x in rest])
        if call.reverse:
            found = call.pull(primals, outs, saved, moved)
            return tuple(zeros_of(tensors[i].type) if (ct := found[i]) is None else ct for i in wrt)
        by_operand = dict(zip(wrt, moved, strict=True))
        pushed = call.push(primals, outs, saved, tuple(by_operand.get(i) for i in range(len(types))))
        return tuple(zeros_of(t) if x is None else x for x, t in zip(pushed, results, strict=True) if t.dtype.is_float)

    second = record(rule, *known, *(results if call.reverse else [types[i] for i in wrt]))
    outside = (*first.captured, *second.captured)
    place = len(outside)
    captured = [x.type for x in outside]
    op = Ruled(first.placed([*captured, *(t.with_dtype(t.dtype.base) for t in types)], 0, place),
               second.placed([*captured, *second.program.params[len(second.captured) :]], len(first.captured), place),
               count, tuple(place + i for i in wrt), call.reverse)
    found: tuple[Tensor, ...] = execute(op, *outside, *tensors)
    return found
