"""`ts.scan`: a loop over rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tessera.arrays import Array
from tessera.control.base import (
    Control,
    Types,
    check_state,
    closed,
    floats,
    forward,
    full,
    leaves_of,
    lifted,
    or_zeros,
    pullback,
    spread,
)
from tessera.errors import SourceError
from tessera.interpreters import execute
from tessera.operator import Cotangents
from tessera.ops.create import as_dims, zeros_like
from tessera.ops.select import cast
from tessera.programs import Program, record, typed
from tessera.pytree import unflatten
from tessera.shapes import Dim, known_equal
from tessera.tensor import Tensor, operators
from tessera.types import TensorType

__all__ = ["Scan", "scan"]


@dataclass(frozen=True)
class Scan(Control):
    """(state, row) = body(consts, state, rows of the operands) for each of `length` rows; gives the last state and all
    rows, stacked in the operands' order. Operands: `consts`, `carried` initial states, stacked rows."""

    body: Program
    consts: int
    carried: int
    length: Dim
    reverse: bool = False
    name = "scan"

    @property
    def programs(self) -> tuple[Program, ...]:
        return (self.body,)

    def infer(self, *ins: TensorType) -> Types:
        types = self.body.types
        return (*types[: self.carried], *(_stacked(t, self.length) for t in types[self.carried :]))

    def _cut(self, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        n = self.consts
        return list(values[:n]), list(values[n : n + self.carried]), list(values[n + self.carried :])

    def ref(self, *ins: Array) -> Any:
        consts, state, rows = self._cut(ins)
        count = int(self.length)
        stacked = [np.zeros(t.dims, t.dtype.numpy) for t in self.infer()[self.carried :]]
        for i in range(count)[:: -1 if self.reverse else 1]:
            found = self.body.run([*consts, *state, *(np.asarray(x[i]) for x in rows)])
            state = found[: self.carried]
            for y, row in zip(stacked, found[self.carried :], strict=True):
                y[i] = row
        return (*state, *stacked)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        """The states before each step are computed again; then the steps are walked backwards, with the cotangents of
        the state and, in f32 or f64, those of the constants added up."""
        types = self.body.params
        consts, states, rows = self._cut(range(len(types)))
        before = replace(self.body, results=(*self.body.results[: self.carried], *states))
        kept = execute(replace(self, body=before), *primals)[self.carried :]
        own, moved, each = ([i for i in part if types[i].dtype.is_float] for part in (consts, states, rows))
        float_outs = floats(self.body.types)
        wide = [types[i].dtype.wide for i in own]
        sums = [TensorType(types[i].dims, dtype) for i, dtype in zip(own, wide, strict=True)]
        row_outs = [i for i in float_outs if i >= self.carried]

        def back(*values: Tensor) -> list[Tensor]:
            parts = iter(values)
            fixed, cotangents, total, inputs, row_cts = (
                [next(parts) for _ in range(n)]
                for n in (len(consts), len(moved), len(own), len(states) + len(rows), len(row_outs)))
            found = pullback(self.body, [*own, *moved, *each], float_outs, [*fixed, *inputs], [*cotangents, *row_cts])
            more, found = found[: len(own)], found[len(own) :]
            added = [t + cast(ct, t.dtype) for t, ct in zip(total, more, strict=True)]
            return [*found[: len(moved)], *added, *found[len(moved) :]]

        body = closed(back, [
            *types[: len(consts)], *(types[i] for i in moved), *sums, *types[len(consts) :],
            *(self.body.types[i] for i in row_outs)])  # fmt: skip
        op = Scan(body, len(consts), len(moved) + len(own), self.length, not self.reverse)
        zero = [cast(zeros_like(primals[i]), dtype) for i, dtype in zip(own, wide, strict=True)]
        found = execute(op, *primals[: len(consts)], *(cts[i] for i in float_outs if i < self.carried), *zero, *kept,
                        *primals[len(consts) + self.carried :], *(cts[i] for i in row_outs))
        gradients: dict[int, Tensor] = dict(zip([*moved, *own, *each], found, strict=True))
        for i in own:
            gradients[i] = cast(gradients[i], types[i].dtype)
        return tuple(gradients.get(i) for i in range(len(primals)))

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Any:
        types = self.body.params
        parts = self._cut(range(len(types)))
        moving = [[i for i in part if types[i].dtype.is_float] for part in parts]
        float_outs = floats(self.body.types)

        def body(*values: Tensor) -> list[Tensor]:
            rest = iter(values)
            args: list[Tensor] = []
            moved: list[Tensor] = []
            for part, own in zip(parts, moving, strict=True):
                args += [next(rest) for _ in part]
                moved += [next(rest) for _ in own]
            found, tangent = forward(self.body, [i for own in moving for i in own], args, moved)
            n, k = self.carried, sum(i < self.carried for i in float_outs)
            return [*found[:n], *tangent[:k], *tangent[k:]]

        ordered = [i for part, own in zip(parts, moving, strict=True) for i in (*part, *own)]
        given = dict(zip([i for own in moving for i in own], or_zeros(primals, tangents), strict=True))
        operands: list[Tensor] = []
        for part, own in zip(parts, moving, strict=True):
            operands += [primals[i] for i in part]
            operands += [given[i] for i in own]
        op = Scan(closed(body, [types[i] for i in ordered]), self.consts + len(moving[0]),
                  self.carried + len(moving[1]), self.length, self.reverse)
        found = execute(op, *operands)
        return spread(found[self.carried :], self.body.types)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Any:
        """The steps of all examples at once. A state has the batch if it comes with it or if a step gives it that."""
        first_row, own = self.consts + self.carried, list(batched)
        turned = [*xs[:first_row],
                  *(_turned(x) if was else x for x, was in zip(xs[first_row:], batched[first_row:], strict=True))]
        while True:
            given = [full(x, was, size) if mine else x for x, was, mine in zip(turned, batched, own, strict=True)]
            body, mapped = self._lifted(own, typed(given), size)
            late = [self.consts + i for i in range(self.carried) if mapped[i] and not own[self.consts + i]]
            if not late:
                break
            own = [flag or i in late for i, flag in enumerate(own)]
        found = execute(replace(self, body=body), *given)
        flags = [*own[self.consts : first_row], *mapped[self.carried :]]
        return tuple(full(_turned(x) if flag and i >= self.carried else x, flag, size)
                     for i, (x, flag) in enumerate(zip(found, flags, strict=True)))

    def _lifted(self, own: list[bool], types: Sequence[TensorType], size: Dim) -> tuple[Program, list[bool]]:
        """The body where the operands `own` have the batch, and which of its results have it."""
        first_row = self.consts + self.carried
        states = own[self.consts : first_row]
        run = lifted(self.body, own, size)
        mapped: list[bool] = []

        def step(*values: Tensor) -> list[Tensor]:
            found = run(*values)
            mapped.extend(flag for _, flag in found)
            return [full(x, flag, size) if i < self.carried and states[i] else x for i, (x, flag) in enumerate(found)]

        return closed(step, [*types[:first_row], *(TensorType(t.dims[1:], t.dtype) for t in types[first_row:])]), mapped


def scan(body: Callable[..., Any], init: Any, rows: Any = None, length: Any = None, reverse: bool = False) -> Any:
    """A loop over the first axis of `rows`: (state, y) = body(state, row), from `init`; gives (last state, ys).

    `init`, `rows` and y are trees of tensors (None is the empty one). All rows have one first axis, `length`, which
    must be given where there are no rows. ys are the y's stacked on a new first axis, in the order of the rows, which
    with `reverse` are taken from the last to the first. `body` keeps structure, shapes and element types of the state.
    """
    state, state_types, state_tree = leaves_of(init)
    stacked, types, row_tree = leaves_of(rows)
    count = _length(types, length)
    row_types = [TensorType(t.dims[1:], t.dtype) for t in typed(stacked)]

    def run(*xs: Tensor) -> Any:
        found = body(unflatten(state_tree, xs[: len(state)]), unflatten(row_tree, xs[len(state) :]))
        if not isinstance(found, tuple) or len(found) != 2:
            raise SourceError("E317", "the body of scan gives a pair: the next state and a row",
                              help="return (state, None) where there is no row")
        return found

    recorded = record(run, *typed(state), *row_types)
    next_tree, y_tree = recorded.tree.children
    carried = len(state)
    check_state("scan", "body", next_tree, recorded.program.types[:carried], state_tree, state_types)
    op = Scan(recorded.program, len(recorded.captured), carried, count, bool(reverse))
    found = execute(op, *recorded.captured, *state, *stacked)
    return unflatten(state_tree, found[:carried]), unflatten(y_tree, found[carried:])


def _length(types: Sequence[TensorType], length: Any) -> Dim:
    """The number of steps; E302 where the rows differ, E305 where nothing says."""
    lengths = list(as_dims("scan", () if length is None else (length,)))
    for t in types:
        if not t.rank:
            raise SourceError("E304", f"scan takes rows along a first axis, got the scalar {t}")
        lengths.append(t.dims[0])
    if not lengths:
        raise SourceError("E305", "scan without rows needs a length", help="ts.scan(body, init, length=10)")
    for other in lengths[1:]:
        if not known_equal(lengths[0], other):
            raise SourceError("E302", f"scan over {lengths[0]} and {other} rows", help="all have one first axis")
    if isinstance(lengths[0], int) and lengths[0] < 0:
        raise SourceError("E305", f"scan over {lengths[0]} rows")
    return lengths[0]


def _turned(x: Tensor) -> Tensor:
    """The tensor with its first two axes, rows and batch, swapped."""
    return operators.permute(x, (1, 0, *range(2, x.ndim)))


def _stacked(t: TensorType, length: Dim) -> TensorType:
    return TensorType((length, *t.dims), t.dtype)
