"""What the derivative interpreters share: values that stand for values one level below, and who is differentiable."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tessera.interpreters import Interpreter, execute
from tessera.numerics import Policy
from tessera.operator import Cotangents, Operator
from tessera.pytree import flatten, unflatten
from tessera.tensor import Tensor, as_tensor, operators
from tessera.types import TensorType

__all__ = ["OperatorStep", "Step", "Wrapped", "each", "is_float", "named_like", "owned", "put_back", "zeros_of"]


def each(value: Any) -> tuple[Any, ...]:
    """The results of an operator as a tuple."""
    return value if isinstance(value, tuple) else (value,)


class Wrapped(Tensor):
    """A tensor that belongs to a transformation and stands for `primal` one level below."""

    __slots__ = ("_interpreter", "primal")

    def __init__(self, primal: Tensor, interpreter: Interpreter) -> None:
        self.primal = primal
        self._interpreter = interpreter

    @property
    def type(self) -> TensorType:
        return self.primal.type

    @property
    def interpreter(self) -> Interpreter | None:
        return self._interpreter

    @property
    def policies(self) -> tuple[Policy, ...]:
        return self.primal.policies

    def with_policies(self, policies: tuple[Policy, ...]) -> Tensor:
        carrying = copy.copy(self)
        carrying.primal = self.primal.with_policies(policies)
        return carrying

    def numpy(self) -> Any:
        return self.primal.numpy()


def owned(x: Any, interpreter: Interpreter) -> bool:
    """Whether a value belongs to this interpreter itself."""
    return isinstance(x, Wrapped) and x.interpreter is interpreter


def is_float(x: Any) -> bool:
    """Whether a leaf can be differentiated by: a float tensor, array or number."""
    if isinstance(x, Tensor):
        return x.dtype.is_float
    return isinstance(x, float) or (hasattr(x, "dtype") and hasattr(x, "shape") and as_tensor(x).dtype.is_float)


def zeros_of(type_: TensorType) -> Tensor:
    """Zeros of a type."""
    return operators.zeros(type_.dims, dtype=type_.dtype)


def named_like(run: Callable[..., Any], function: Callable[..., Any], typed: bool = True) -> Callable[..., Any]:
    """`run` with the name, place and parameters of the function that it was made from, so that ts.jit and ts.function
    take it; with the annotations of its parameters too, if they are `typed` alike."""
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        return run
    functools.update_wrapper(run, function, updated=())
    hints = getattr(run, "__annotations__", {})
    run.__annotations__ = {name: hint for name, hint in hints.items() if typed and name != "return"}
    return run


def put_back(value: Any, leaves: Any) -> Any:
    """The structure of `value` with its leaves taken from an iterator; None may be a leaf."""
    found, tree = flatten(value)
    return unflatten(tree, [next(leaves) for _ in found])


class Step(Protocol):
    """One thing that happens while a function runs: an operator, or a function with derivatives of its own.

    `saved` is what `run` keeps for `pull` and `push`; they have the meaning of Operator.vjp and Operator.jvp.
    """

    differentiable: bool

    def run(self, primals: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Any]:
        """(results, saved)."""

    def pull(
        self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], saved: Any, cts: tuple[Tensor, ...],
    ) -> Cotangents:
        """A cotangent for each input, or None."""

    def push(
        self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], saved: Any, tangents: Cotangents,
    ) -> Sequence[Tensor | None]:
        """A tangent for each result, or None."""


class OperatorStep:
    """An operator as a step."""

    def __init__(self, op: Operator) -> None:
        self.op = op
        self.differentiable = op.differentiable
        self.several = False  # whether the operator gives a tuple; known after `run`

    def run(self, primals: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Any]:
        result = execute(self.op, *primals)
        self.several = isinstance(result, tuple)
        return each(result), None

    def pull(
        self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], saved: Any, cts: tuple[Tensor, ...],
    ) -> Cotangents:
        return self.op.vjp(primals, outs, cts)

    def push(
        self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], saved: Any, tangents: Cotangents,
    ) -> Sequence[Tensor | None]:
        return each(self.op.jvp(primals, outs, tangents))
