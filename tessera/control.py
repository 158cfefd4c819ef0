"""Control flow that data decides: `ts.cond`, `ts.while_loop`, `ts.scan`.

Each is an operator that holds programs (tessera.programs) in place of Python code, closed over their operands; so it
runs eagerly, is traced as one operation with regions, and has derivatives like any other operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tessera import derivatives
from tessera.arrays import Array
from tessera.dtypes import bool_
from tessera.errors import SourceError
from tessera.interpreters import execute
from tessera.operator import Cotangents, Operator
from tessera.ops.create import zeros_like
from tessera.ops.select import cast
from tessera.programs import Program, Recorded, record
from tessera.pytree import Tree, flatten, unflatten
from tessera.shapes import Dim, known_equal, substitute
from tessera.tensor import EagerTensor, Tensor, as_tensor
from tessera.types import TensorType

__all__ = ["Cond", "Control", "Scan", "While", "cond", "scan", "while_loop"]

Types = tuple[TensorType, ...]


class Control(Operator):
    """An operator with programs. Its result is always a tuple."""

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs, in the order of the regions of its IR operation."""
        raise self.missing("programs")

    def substitute(self, env: Mapping[str, Dim]) -> Any:
        changes = {name: value.substitute(env) for name, value in self.attributes.items() if isinstance(value, Program)}
        return replace(self, **changes)  # type: ignore[type-var]


def _run(program: Program, arrays: Sequence[Array]) -> list[Array]:
    return [x.numpy() for x in program.replay(*map(EagerTensor, arrays))]


def _floats(types: Sequence[TensorType]) -> list[int]:
    return [i for i, t in enumerate(types) if t.dtype.is_float]


def _closed(function: Callable[..., Any], types: Sequence[TensorType]) -> Program:
    """The program of a function that takes nothing from outside."""
    recorded = record(function, *types)
    assert not recorded.captured, "a derivative's program refers to values outside of it"
    return recorded.program


def _pullback(program: Program, wrt: Sequence[int], outs: Sequence[int], args: Sequence[Tensor],
              cts: Sequence[Tensor]) -> list[Tensor]:
    """Cotangents of the operands `wrt`, given those of the results `outs`; zeros where nothing flows."""

    def run(*chosen: Tensor) -> tuple[Tensor, ...]:
        full = list(args)
        for i, x in zip(wrt, chosen, strict=True):
            full[i] = x
        found = program.replay(*full)
        return tuple(found[i] for i in outs)

    _, pull = derivatives.vjp(run, *(args[i] for i in wrt))
    found = pull(tuple(cts))
    return [zeros_like(args[i]) if ct is None else ct for i, ct in zip(wrt, found, strict=True)]


def _forward(program: Program, wrt: Sequence[int], args: Sequence[Tensor], tangents: Sequence[Tensor],
             ) -> tuple[list[Tensor], list[Tensor]]:
    """The results, and the tangents of the float ones, for tangents of the operands `wrt`."""
    moved: list[Tensor | None] = [None] * len(args)
    for i, t in zip(wrt, tangents, strict=True):
        moved[i] = t
    outs, found = derivatives.jvp(lambda *xs: tuple(program.replay(*xs)), tuple(args), tuple(moved))
    return list(outs), [found[i] for i in _floats(program.types)]


def _or_zeros(primals: Sequence[Tensor], tangents: Cotangents) -> list[Tensor]:
    """The tangents of the float operands."""
    return [zeros_like(x) if t is None else t for x, t in zip(primals, tangents, strict=True) if x.dtype.is_float]


def _spread(values: Sequence[Any], types: Sequence[TensorType]) -> tuple[Any, ...]:
    """Values of the float ones of `types`, None for the others."""
    rest = iter(values)
    return tuple(next(rest) if t.dtype.is_float else None for t in types)


# Cond -----------------------------------------------------------------------------------------------------------------


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
        return tuple(_run(self.then if ins[0] else self.other, ins[1:]))

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        args = primals[1:]
        wrt, float_outs = _floats([x.type for x in args]), _floats(self.then.types)

        def back(program: Program) -> Program:
            def run(*values: Tensor) -> list[Tensor]:
                return _pullback(program, wrt, float_outs, values[: len(args)], values[len(args) :])

            return _closed(run, [*(x.type for x in args), *(self.then.types[i] for i in float_outs)])

        if not wrt:
            return (None,) * len(primals)
        found = execute(Cond(back(self.then), back(self.other)), *primals, *(cts[i] for i in float_outs))
        return None, *_spread(found, [x.type for x in args])

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Any:
        args = primals[1:]
        wrt = _floats([x.type for x in args])

        def moved(program: Program) -> Program:
            def run(*values: Tensor) -> list[Tensor]:
                return _forward(program, wrt, values[: len(args)], values[len(args) :])[1]

            return _closed(run, [*(x.type for x in args), *(args[i].type for i in wrt)])

        given = _or_zeros(args, tangents[1:])
        found = execute(Cond(moved(self.then), moved(self.other)), *primals, *given)
        return _spread(found, self.then.types)


def cond(condition: Any, then: Callable[..., Any], other: Callable[..., Any], *operands: Any) -> Any:
    """then(*operands) if the bool scalar `condition` holds, else other(*operands); only one of them runs.

    Operands and results are trees of tensors; both functions give the same structure, shapes and element types. What
    the functions use from outside is an operand too. A Python bool decides at once.
    """
    if isinstance(condition, bool):
        return (then if condition else other)(*operands)
    chosen = _condition("cond", as_tensor(condition))
    leaves, types, tree = _tensors(operands)
    first, second = (record(lambda *xs, f=f: f(*unflatten(tree, xs)), *_typed(leaves)) for f in (then, other))
    if first.tree != second.tree or first.program.types != second.program.types:
        raise SourceError("E317", f"the branches of cond give {_shown(first)} and {_shown(second)}",
                          help="both give the same structure, shapes and element types")
    captured = (*first.captured, *second.captured)
    given = (*(x.type for x in captured), *types)
    count = len(first.captured)
    programs = _placed(first, given, 0, len(captured)), _placed(second, given, count, len(captured))
    return unflatten(first.tree, execute(Cond(*programs), chosen, *captured, *leaves))


# While ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class While(Control):
    """state = body(consts, state) while test(consts, state); the first `consts` operands stay as they are."""

    test: Program
    body: Program
    consts: int
    name = "while"

    @property
    def programs(self) -> tuple[Program, ...]:
        return self.test, self.body

    def infer(self, *ins: TensorType) -> Types:
        return self.body.types

    def ref(self, *ins: Array) -> Any:
        consts, state = list(ins[: self.consts]), list(ins[self.consts :])
        while _run(self.test, consts + state)[0]:
            state = _run(self.body, consts + state)
        return tuple(state)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        raise SourceError("E313", "while_loop has no reverse derivative: the number of its steps is not known before",
                          help="use ts.scan over a fixed number of steps, or ts.jvp")

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Any:
        n = self.consts
        types = [x.type for x in primals]
        consts, state = _floats(types[:n]), [n + i for i in _floats(types[n:])]

        def split(values: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            """(consts, state) and their tangents."""
            at = (n, n + len(consts), len(types) + len(consts))
            return [*values[: at[0]], *values[at[1] : at[2]]], [*values[at[0] : at[1]], *values[at[2] :]]

        def body(*values: Tensor) -> list[Tensor]:
            args, moved = split(values)
            found, tangent = _forward(self.body, [*consts, *state], args, moved)
            return [*found, *tangent]

        all_types = [*types[:n], *(types[i] for i in consts), *types[n:], *(types[i] for i in state)]
        given = _or_zeros(primals, tangents)
        op = While(_closed(lambda *values: self.test.replay(*split(values)[0]), all_types), _closed(body, all_types),
                   n + len(consts))
        found = execute(op, *primals[:n], *given[: len(consts)], *primals[n:], *given[len(consts) :])
        return _spread(found[len(types) - n :], types[n:])


def while_loop(test: Callable[..., Any], body: Callable[..., Any], init: Any) -> Any:
    """state = body(state) while test(state) holds, from `init`; gives the last state.

    `init` is a tree of tensors; `body` gives the same structure, shapes and element types, `test` a bool scalar. It has
    a forward derivative, and no reverse one.
    """
    leaves, types, tree = _tensors(init)
    tested = record(lambda *xs: test(unflatten(tree, xs)), *_typed(leaves))
    if tested.program.types != (TensorType((), bool_),):
        raise SourceError("E317", f"the test of while_loop gives {_shown(tested)}", help="it gives a bool scalar")
    stepped = record(lambda *xs: body(unflatten(tree, xs)), *_typed(leaves))
    _keeps("while_loop", "body", stepped.tree, stepped.program.types, tree, types)
    captured = (*tested.captured, *stepped.captured)
    given = (*(x.type for x in captured), *types)
    programs = (_placed(tested, given, 0, len(captured)),
                _placed(stepped, given, len(tested.captured), len(captured)))
    return unflatten(tree, execute(While(*programs, len(captured)), *captured, *leaves))


# Scan -----------------------------------------------------------------------------------------------------------------


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

    def substitute(self, env: Mapping[str, Dim]) -> Any:
        return replace(super().substitute(env), length=substitute(self.length, env))

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
            found = _run(self.body, [*consts, *state, *(np.asarray(x[i]) for x in rows)])
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
        float_outs = _floats(self.body.types)
        wide = [types[i].dtype.wide for i in own]
        sums = [TensorType(types[i].dims, dtype) for i, dtype in zip(own, wide, strict=True)]
        row_outs = [i for i in float_outs if i >= self.carried]

        def back(*values: Tensor) -> list[Tensor]:
            parts = iter(values)
            fixed, cotangents, total, inputs, row_cts = (
                [next(parts) for _ in range(n)]
                for n in (len(consts), len(moved), len(own), len(states) + len(rows), len(row_outs)))
            found = _pullback(self.body, [*own, *moved, *each], float_outs, [*fixed, *inputs], [*cotangents, *row_cts])
            more, found = found[: len(own)], found[len(own) :]
            added = [t + cast(ct, t.dtype) for t, ct in zip(total, more, strict=True)]
            return [*found[: len(moved)], *added, *found[len(moved) :]]

        body = _closed(back, [
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
        floats = [[i for i in part if types[i].dtype.is_float] for part in parts]
        float_outs = _floats(self.body.types)

        def body(*values: Tensor) -> list[Tensor]:
            rest = iter(values)
            args: list[Tensor] = []
            moved: list[Tensor] = []
            for part, own in zip(parts, floats, strict=True):
                args += [next(rest) for _ in part]
                moved += [next(rest) for _ in own]
            found, tangent = _forward(self.body, [i for own in floats for i in own], args, moved)
            n, k = self.carried, sum(i < self.carried for i in float_outs)
            return [*found[:n], *tangent[:k], *tangent[k:]]

        ordered = [i for part, own in zip(parts, floats, strict=True) for i in (*part, *own)]
        given = dict(zip([i for own in floats for i in own], _or_zeros(primals, tangents), strict=True))
        operands: list[Tensor] = []
        for part, own in zip(parts, floats, strict=True):
            operands += [primals[i] for i in part]
            operands += [given[i] for i in own]
        op = Scan(_closed(body, [types[i] for i in ordered]), self.consts + len(floats[0]),
                  self.carried + len(floats[1]), self.length, self.reverse)
        found = execute(op, *operands)
        return _spread(found[self.carried :], self.body.types)


def scan(body: Callable[..., Any], init: Any, rows: Any = None, length: Any = None, reverse: bool = False) -> Any:
    """A loop over the first axis of `rows`: (state, y) = body(state, row), from `init`; gives (last state, ys).

    `init`, `rows` and y are trees of tensors (None is the empty one). All rows have one first axis, `length`, which
    must be given where there are no rows. ys are the y's stacked on a new first axis, in the order of the rows, which
    with `reverse` are taken from the last to the first. `body` keeps structure, shapes and element types of the state.
    """
    state, state_types, state_tree = _tensors(init)
    stacked, types, row_tree = _tensors(rows)
    count = _length(types, length)
    row_types = [TensorType(t.dims[1:], t.dtype) for t in _typed(stacked)]

    def run(*xs: Tensor) -> Any:
        found = body(unflatten(state_tree, xs[: len(state)]), unflatten(row_tree, xs[len(state) :]))
        if not isinstance(found, tuple) or len(found) != 2:
            raise SourceError("E317", "the body of scan gives a pair: the next state and a row",
                              help="return (state, None) where there is no row")
        return found

    recorded = record(run, *_typed(state), *row_types)
    next_tree, y_tree = recorded.tree.children
    carried = len(state)
    _keeps("scan", "body", next_tree, recorded.program.types[:carried], state_tree, state_types)
    op = Scan(recorded.program, len(recorded.captured), carried, count, bool(reverse))
    found = execute(op, *recorded.captured, *state, *stacked)
    return unflatten(state_tree, found[:carried]), unflatten(y_tree, found[carried:])


def _length(types: Sequence[TensorType], length: Any) -> Dim:
    """The number of steps; E302 where the rows differ, E305 where nothing says."""
    from tessera.ops.create import as_dims

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


# What the three share -------------------------------------------------------------------------------------------------


def _stacked(t: TensorType, length: Dim) -> TensorType:
    return TensorType((length, *t.dims), t.dtype)


def _condition(name: str, x: Tensor) -> Tensor:
    if x.shape != () or x.dtype.base != bool_:
        raise SourceError("E303", f"{name} is decided by a bool scalar, got {x.type}",
                          help="compare, or reduce with ts.any or ts.all")
    return x


def _tensors(value: Any) -> tuple[list[Tensor], list[TensorType], Tree]:
    leaves, tree = flatten(value)
    tensors = [as_tensor(x) for x in leaves]
    return tensors, [x.type for x in tensors], tree


def _typed(tensors: Sequence[Tensor]) -> list[TensorType]:
    """The types with the policies that the values carry, which hold in what is recorded of them."""
    return [x.type.with_dtype(x.dtype) for x in tensors]


def _shown(recorded: Recorded) -> str:
    return f"{recorded.tree} of {', '.join(map(str, recorded.program.types)) or 'nothing'}"


def _keeps(name: str, what: str, tree: Tree, found: Sequence[TensorType], state: Tree, types: Sequence[TensorType],
           ) -> None:
    """E317 unless a body gives the state's structure and types."""
    if tree != state:
        raise SourceError("E317", f"the {what} of {name} turns a state {state} into {tree}",
                          help="the state keeps its structure")
    for i, (new, old) in enumerate(zip(found, types, strict=True)):
        if new != old:
            raise SourceError("E317", f"the {what} of {name} turns {old} into {new}, in place {i} of the state",
                              help="the state keeps its types; convert with ts.cast")


def _placed(recorded: Recorded, params: tuple[TensorType, ...], own: int, all_captured: int) -> Program:
    """The program with more parameters: its captured ones begin at `own`, its arguments at `all_captured`."""
    program, count = recorded.program, len(recorded.captured)
    extra = len(params) - len(program.params)

    def at(i: int) -> int:
        return own + i if i < count else all_captured + i - count if i < len(program.params) else i + extra

    steps = tuple(replace(s, inputs=tuple(map(at, s.inputs))) for s in program.steps)
    return Program(params, steps, tuple(map(at, program.results)))
