"""What numeric policies do: an operator whose operands carry some becomes others, in which every rounding shows.

With W the accumulation type, C the type that an operator gives without policies, mode M:
    @accum(W)           op(x, y)  =  cast_C(op(cast_W x, cast_W y))         for operators that accumulate
    @compute(M)         op(x, y)  =  op(round_M x, round_M y)               for products of f32
    @stochastic_round   op(x, y)  =  stochastic_C(op(cast_f32 x, ..), bits) for operators that round to a narrow float
So a graph says with its casts what is computed where; nothing after the front end knows of policies. Results carry the
policies of the operands (`numerics.travelling`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tessera.dtypes import DType, f32, promote
from tessera.numerics import Accum, Compute, Policy, travelling
from tessera.operator import Operator
from tessera.tensor import Tensor, operators
from tessera.types import TensorType

__all__ = ["rounding_key", "under"]

Perform = Callable[..., Any]


def under(op: Operator, xs: tuple[Tensor, ...], perform: Perform) -> Any:
    """Execute `op` as the policies of its operands ask; `perform` executes an operator as it is."""
    carried = travelling(x.policies for x in xs)
    by_kind = {policy.kind: policy for policy in carried}
    wide = _accumulation(op, xs, by_kind.get("accum"))
    if wide is not None and not op.has("element"):
        # its parts accumulate; each of them is executed under the policies again
        return _carrying(op.compose(*xs), carried)
    mode = by_kind.get("compute")
    if isinstance(mode, Compute) and op.contracts:
        xs = tuple(_in_mode(x, mode.mode) for x in xs)
    stochastic = "stochastic_round" in by_kind and op.rounds and _narrows(op, xs)
    if stochastic or wide is not None:
        return _carrying(_through(op, xs, wide or f32, stochastic, perform), carried)
    return _carrying(perform(op, *xs), carried)


def _carrying(result: Any, policies: tuple[Policy, ...]) -> Any:
    if isinstance(result, tuple):
        return tuple(part.with_policies(policies) for part in result)
    return result.with_policies(policies)


def _accumulation(op: Operator, xs: tuple[Tensor, ...], policy: Policy | None) -> DType | None:
    """The type to accumulate in, where it is not the one that the operator takes anyway."""
    if not isinstance(policy, Accum) or not op.accumulates:
        return None
    wide, common = DType(policy.dtype), promote(*(x.dtype for x in xs if x.dtype.kind != "bool"), xs[0].dtype)
    if wide.is_float != common.is_float:
        return None
    return None if wide == (common.wide if common.is_float else common) else wide


def _narrows(op: Operator, xs: tuple[Tensor, ...]) -> bool:
    """Whether the result is of a float type that f32 is rounded to, and operands may be wider than it."""
    result = op.infer(*(x.type for x in xs))
    return isinstance(result, TensorType) and result.dtype.is_narrow


def _through(op: Operator, xs: tuple[Tensor, ...], wide: DType, stochastic: bool, perform: Perform) -> Tensor:
    """`op` on operands of type `wide`, its result rounded to the type that it has without that."""
    result = op.infer(*(x.type for x in xs))
    assert isinstance(result, TensorType), f"{op} rounds and gives several results"
    same_kind = [x.dtype.is_float == wide.is_float for x in xs]
    ready = [operators.cast(x, wide) if same else x for x, same in zip(xs, same_kind, strict=True)]
    found: Tensor = perform(op.unrounded(wide.name), *ready)
    rounded: Tensor = _to_either(found, result.dtype) if stochastic else operators.cast(found, result.dtype)
    return rounded


# Stochastic rounding --------------------------------------------------------------------------------------------------


class _Keys(threading.local):
    def __init__(self) -> None:
        self.entries: list[list[Any]] = []  # [key, how many roundings have used it]


_KEYS = _Keys()


@contextmanager
def rounding_key(key: Tensor) -> Iterator[None]:
    """Stochastic roundings inside draw their bits by this key (u64[]): the n-th from `fold_in(key, n)`.

    Without it they are numbered draws (`ts.random`), which are constants of a compiled function: a step that is
    compiled once and run often wants a key that depends on the step.
    """
    _KEYS.entries.append([key, 0])
    try:
        yield
    finally:
        _KEYS.entries.pop()


def _to_either(x: Tensor, dtype: DType) -> Tensor:
    """x rounded to one of its two neighbours by bits of its own."""
    key = None
    if _KEYS.entries:
        base, count = _KEYS.entries[-1]
        _KEYS.entries[-1][1] = count + 1
        key = operators.fold_in(base, count)
    words = operators.random_bits(x.shape, key=key)
    found: Tensor = operators.cast_by_bits(x.with_policies(()), words, dtype)
    return found


def _in_mode(x: Tensor, mode: str) -> Tensor:
    """The elements of an f32 tensor rounded to a compute mode; others as they are."""
    if x.dtype.base != f32:
        return x
    found: Tensor = operators.round_mantissa(x, {"tf32": 10, "bf16": 7}[mode])
    return found
