"""`ts.while_loop`: steps for as long as data says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tessera import derivatives
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
    spread,
)
from tessera.control.branch import chosen, cond
from tessera.control.scan import scan
from tessera.dtypes import bool_
from tessera.errors import SourceError
from tessera.interpreters import execute
from tessera.operator import Cotangents
from tessera.ops.create import as_dims
from tessera.programs import Program, record, typed
from tessera.pytree import unflatten
from tessera.shapes import Dim
from tessera.tensor import Tensor, operators
from tessera.types import TensorType

__all__ = ["While", "while_loop"]


@dataclass(frozen=True)
class While(Control):
    """state = body(consts, state) while test(consts, state); the first `consts` operands stay as they are.

    With `limit`, test and body themselves see to it that there are no more steps than that.
    """

    test: Program
    body: Program
    consts: int
    limit: Dim | None = None
    name = "while"

    @property
    def programs(self) -> tuple[Program, ...]:
        return self.test, self.body

    def infer(self, *ins: TensorType) -> Types:
        return self.body.types

    def ref(self, *ins: Array) -> Any:
        consts, state = list(ins[: self.consts]), list(ins[self.consts :])
        while self.test.run(consts + state)[0]:
            state = self.body.run(consts + state)
        return tuple(state)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        """Those of `limit` steps of a scan, of which the last ones do nothing."""
        if self.limit is None:
            raise SourceError("E313", "while_loop has no reverse derivative: nothing says how many steps it takes",
                              help="say how many there are at most, ts.while_loop(.., max_steps=100); or take ts.jvp")
        n = self.consts
        wrt, float_outs = floats([x.type for x in primals]), floats(self.body.types)

        def bounded(*moved: Tensor) -> tuple[Tensor, ...]:
            given = list(primals)
            for i, x in zip(wrt, moved, strict=True):
                given[i] = x
            fixed = given[:n]

            def step(state: list[Tensor], _: None) -> tuple[list[Tensor], None]:
                (more,) = self.test.replay(*fixed, *state)
                return cond(more, lambda *xs: self.body.replay(*fixed, *xs), lambda *xs: list(xs), *state), None

            last, _ = scan(step, given[n:], length=self.limit)
            return tuple(last[i] for i in float_outs)

        _, pull = derivatives.vjp(bounded, *(primals[i] for i in wrt))
        return spread(pull(tuple(cts[i] for i in float_outs)), [x.type for x in primals])

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Any:
        n = self.consts
        types = [x.type for x in primals]
        consts, state = floats(types[:n]), [n + i for i in floats(types[n:])]

        def split(values: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            """(consts, state) and their tangents."""
            at = (n, n + len(consts), len(types) + len(consts))
            return [*values[: at[0]], *values[at[1] : at[2]]], [*values[at[0] : at[1]], *values[at[2] :]]

        def body(*values: Tensor) -> list[Tensor]:
            args, moved = split(values)
            found, tangent = forward(self.body, [*consts, *state], args, moved)
            return [*found, *tangent]

        all_types = [*types[:n], *(types[i] for i in consts), *types[n:], *(types[i] for i in state)]
        given = or_zeros(primals, tangents)
        op = While(closed(lambda *values: self.test.replay(*split(values)[0]), all_types), closed(body, all_types),
                   n + len(consts), self.limit)
        found = execute(op, *primals[:n], *given[: len(consts)], *primals[n:], *given[len(consts) :])
        return spread(found[len(types) - n :], types[n:])

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Any:
        """The steps of all examples at once, while one of them goes on; those that are done keep their state."""
        n, own = self.consts, list(batched)
        while True:
            given = [full(x, was, size) if mine else x for x, was, mine in zip(xs, batched, own, strict=True)]
            test, body, mapped = self._lifted(own, typed(given), size)
            late = [n + i for i, flag in enumerate(mapped) if flag and not own[n + i]]
            if not late:
                break
            own = [flag or i in late for i, flag in enumerate(own)]
        found = execute(While(test, body, n, self.limit), *given)
        return tuple(full(x, mine, size) for x, mine in zip(found, own[n:], strict=True))

    def _lifted(self, own: list[bool], types: Sequence[TensorType], size: Dim) -> tuple[Program, Program, list[bool]]:
        """Test and body where the operands `own` have the batch, and which states have it after a step."""
        n = self.consts
        tests, steps = lifted(self.test, own, size), lifted(self.body, own, size)
        mapped: list[bool] = []

        def test(*values: Tensor) -> list[Tensor]:
            more, each = tests(*values)[0]
            return [operators.any(more) if each else more]

        def body(*values: Tensor) -> list[Tensor]:
            (more, each), found = tests(*values)[0], steps(*values)
            mapped.extend(flag or each for _, flag in found)
            new = [full(x, flag, size) if mine else x for (x, flag), mine in zip(found, own[n:], strict=True)]
            return [chosen(more, x, old) if each and mine else x
                    for x, old, mine in zip(new, values[n:], own[n:], strict=True)]

        return closed(test, types), closed(body, types), mapped


def while_loop(test: Callable[..., Any], body: Callable[..., Any], init: Any, max_steps: Any = None) -> Any:
    """state = body(state) while test(state) holds, from `init`; gives the last state.

    `init` is a tree of tensors; `body` gives the same structure, shapes and element types, `test` a bool scalar. It has
    a forward derivative. With `max_steps`, a size, there are no more steps than that, and a reverse derivative too,
    which keeps one state for each of them.
    """
    if max_steps is not None:
        (limit,) = as_dims("while_loop", (max_steps,))
        if isinstance(limit, int) and limit < 0:
            raise SourceError("E305", f"while_loop with max_steps={limit}", help="it takes 0 steps or more")
        _, state = _loop(lambda s: (s[0] < limit) & _decision(test(s[1])), lambda s: (s[0] + 1, body(s[1])), (0, init),
                         limit)
        return state
    return _loop(test, body, init, None)


def _loop(test: Callable[..., Any], body: Callable[..., Any], init: Any, limit: Dim | None) -> Any:
    leaves, types, tree = leaves_of(init)
    tested = record(lambda *xs: _decision(test(unflatten(tree, xs))), *typed(leaves))
    stepped = record(lambda *xs: body(unflatten(tree, xs)), *typed(leaves))
    check_state("while_loop", "body", stepped.tree, stepped.program.types, tree, types)
    captured = (*tested.captured, *stepped.captured)
    given = (*(x.type for x in captured), *types)
    programs = (tested.placed(given, 0, len(captured)),
                stepped.placed(given, len(tested.captured), len(captured)))
    return unflatten(tree, execute(While(*programs, len(captured), limit), *captured, *leaves))


def _decision(found: Any) -> Tensor:
    """What the test of a loop gives, as a bool scalar; E317 for anything else."""
    leaves, types, tree = leaves_of(found)
    if tree.kind != "leaf" or types != [TensorType((), bool_)]:
        given = f"{tree} of {', '.join(map(str, types)) or 'nothing'}"
        raise SourceError("E317", f"the test of while_loop gives {given}", help="it gives a bool scalar")
    return leaves[0]
