"""What control flow shares: operators that hold programs, and programs under derivatives and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tessera import derivatives
from tessera.derivatives.batching import Vmap
from tessera.derivatives.wrapped import Wrapped, owned
from tessera.errors import SourceError
from tessera.interpreters import interpret
from tessera.operator import Cotangents, Operator
from tessera.ops.create import zeros_like
from tessera.programs import Program, Recorded, record
from tessera.pytree import Tree, flatten
from tessera.shapes import Dim
from tessera.tensor import Tensor, as_tensor
from tessera.types import TensorType

__all__ = ["Control", "Types", "check_state", "closed", "floats", "forward", "full", "leaves_of", "lifted", "or_zeros",
           "pullback", "shown", "spread"]

Types = tuple[TensorType, ...]


class Control(Operator):
    """An operator with programs. Its result is always a tuple."""

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs, in the order of the regions of its IR operation."""
        raise self.missing("programs")


# Programs -------------------------------------------------------------------------------------------------------------


def floats(types: Sequence[TensorType]) -> list[int]:
    return [i for i, t in enumerate(types) if t.dtype.is_float]


def closed(function: Callable[..., Any], types: Sequence[TensorType]) -> Program:
    """The program of a function that takes nothing from outside."""
    recorded = record(function, *types)
    assert not recorded.captured, "a derivative's program refers to values outside of it"
    return recorded.program


def pullback(program: Program, wrt: Sequence[int], outs: Sequence[int], args: Sequence[Tensor],
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


def forward(program: Program, wrt: Sequence[int], args: Sequence[Tensor], tangents: Sequence[Tensor],
             ) -> tuple[list[Tensor], list[Tensor]]:
    """The results, and the tangents of the float ones, for tangents of the operands `wrt`."""
    moved: list[Tensor | None] = [None] * len(args)
    for i, t in zip(wrt, tangents, strict=True):
        moved[i] = t
    outs, found = derivatives.jvp(lambda *xs: tuple(program.replay(*xs)), tuple(args), tuple(moved))
    return list(outs), [found[i] for i in floats(program.types)]


def or_zeros(primals: Sequence[Tensor], tangents: Cotangents) -> list[Tensor]:
    """The tangents of the float operands."""
    return [zeros_like(x) if t is None else t for x, t in zip(primals, tangents, strict=True) if x.dtype.is_float]


def spread(values: Sequence[Any], types: Sequence[TensorType]) -> tuple[Any, ...]:
    """Values of the float ones of `types`, None for the others."""
    rest = iter(values)
    return tuple(next(rest) if t.dtype.is_float else None for t in types)


# Batches --------------------------------------------------------------------------------------------------------------


def lifted(program: Program, own: Sequence[bool], size: Dim) -> Callable[..., list[tuple[Tensor, bool]]]:
    """The program for a batch: of the operands that are `own` axis 0 is the batch. Gives results, and which have it."""

    def run(*xs: Tensor) -> list[tuple[Tensor, bool]]:
        with interpret(Vmap(size)) as batch:
            found = program.replay(*(batch.wrap(x) if mine else x for x, mine in zip(xs, own, strict=True)))
        return [(x.primal, True) if isinstance(x, Wrapped) and owned(x, batch) else (x, False) for x in found]

    return run


def full(x: Tensor, mapped: bool, size: Dim) -> Tensor:
    """A value of a batch with the batch in axis 0, repeated where it is one for all."""
    return x if mapped else x.broadcast_to(size, *x.shape)


# Arguments ------------------------------------------------------------------------------------------------------------


def leaves_of(value: Any) -> tuple[list[Tensor], list[TensorType], Tree]:
    leaves, tree = flatten(value)
    tensors = [as_tensor(x) for x in leaves]
    return tensors, [x.type for x in tensors], tree


def shown(recorded: Recorded) -> str:
    return f"{recorded.tree} of {', '.join(map(str, recorded.program.types)) or 'nothing'}"


def check_state(name: str, what: str, tree: Tree, found: Sequence[TensorType], state: Tree, types: Sequence[TensorType],
           ) -> None:
    """E317 unless a body gives the state's structure and types."""
    if tree != state:
        raise SourceError("E317", f"the {what} of {name} turns a state {state} into {tree}",
                          help="the state keeps its structure")
    for i, (new, old) in enumerate(zip(found, types, strict=True)):
        if new != old:
            raise SourceError("E317", f"the {what} of {name} turns {old} into {new}, in place {i} of the state",
                              help="the state keeps its types; convert with ts.cast")
