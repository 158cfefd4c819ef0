"""Gradients of functions with a scalar result: grad, value_and_grad, and the value form of grad."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tessera.derivatives.loss_scaling import scale_of, unscaled
from tessera.derivatives.reverse import Tape, Taped, vjp
from tessera.derivatives.wrapped import is_float, named_like, owned
from tessera.errors import SourceError
from tessera.interpreters import interpret
from tessera.numerics import Policy
from tessera.pytree import flatten, tree_map, unflatten
from tessera.tensor import Tensor, as_tensor, operators

__all__ = ["Body", "autodiff", "body_of", "grad", "value_and_grad"]

_DATA_NAMES = ("x", "y", "target", "label")


def _is_data(name: str) -> bool:
    """Names of arguments that hold data, which `grad` leaves out: x*, y*, target*, label*, batch, input*."""
    return name.startswith((*_DATA_NAMES, "input")) or name == "batch"


def _chosen(function: Callable[..., Any], args: Sequence[Any], argnums: Any) -> tuple[tuple[int, ...], bool]:
    """(positions to differentiate, whether the result is bare)."""
    if argnums is not None:
        numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        for n in numbers:
            if not -len(args) <= n < len(args):
                raise SourceError("E313", f"grad by argument {n} of a call with {len(args)} arguments")
        return tuple(n % len(args) for n in numbers), isinstance(argnums, int)
    floats = [i for i, a in enumerate(args) if any(is_float(x) for x in flatten(a)[0])]
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    weights = [i for i in floats if i >= len(names) or not _is_data(names[i])]
    found = tuple(weights or floats)
    if not found:
        raise SourceError("E313", "there is no float argument to differentiate by",
                          help="give floats, for example 1.0 or x.astype(ts.f32)")
    return found, len(found) == 1


def value_and_grad(function: Callable[..., Any], argnums: int | Sequence[int] | None = None) -> Callable[..., Any]:
    """A function that gives (value, gradient) of a function with a scalar result; see `grad`."""

    def run(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        positions, bare = _chosen(function, args, argnums)

        def of_chosen(*chosen: Any) -> Any:
            full = list(args)
            for i, value in zip(positions, chosen, strict=True):
                full[i] = value
            return function(*full, **kwargs)

        value, pullback = vjp(of_chosen, *(args[i] for i in positions))
        _check_scalar(value, "grad needs a function that gives a float scalar, this one gives")
        leaves = [x for i in positions for x in flatten(args[i])[0]]
        scale = scale_of(leaves, _declared(function, positions))
        if scale is None:
            found = pullback(operators.ones_like(value))
        else:
            raw, tree = flatten(pullback(operators.full_like(value, scale)))
            found = unflatten(tree, unscaled(raw, scale))
        grads = tuple(_zeros_for_none(args[i], g) for i, g in zip(positions, found, strict=True))
        return value, grads[0] if bare else grads

    return named_like(run, function)


def _declared(function: Any, positions: Sequence[int]) -> list[tuple[Policy, ...]]:
    """The policies in the annotations of a @ts.function's parameters at these positions."""
    specs = [p.tensor for p in getattr(function, "parameters", ())]
    chosen = [specs[i] for i in positions if i < len(specs)]
    return [spec.dtype.policies for spec in chosen if spec is not None and spec.dtype is not None]


def _check_scalar(value: Any, what: str) -> None:
    if not isinstance(value, Tensor) or value.shape != () or not value.dtype.is_float:
        shown = str(value.type) if isinstance(value, Tensor) else type(value).__name__
        raise SourceError("E313", f"{what} {shown}", help="reduce the result with ts.sum or ts.mean, or use ts.vjp")


def _zeros_for_none(argument: Any, gradient: Any) -> Any:
    """The gradient with zeros for the float leaves that do not matter."""
    tree = flatten(argument)[1]
    if tree.kind == "none":
        return None
    if tree.kind == "leaf":
        return operators.zeros_like(as_tensor(argument)) if gradient is None and is_float(argument) else gradient
    parts = argument.items() if isinstance(argument, dict) else enumerate(argument)
    filled = {k: _zeros_for_none(v, gradient[k]) for k, v in parts}
    return filled if isinstance(argument, dict) else type(argument)(filled.values())


def grad(function: Any, argnums: Any = None) -> Any:
    """The gradient of a function with a scalar result; or of a scalar value, see below.

    Without `argnums` by every float argument that does not hold data: arguments called x*, y*, target*, label*, batch
    or input* are left out (unless nothing else is a float). One such argument gives a bare gradient, several a tuple
    in the order of the arguments. An int in `argnums` gives a bare gradient, a sequence a tuple.

    A loss scale in the type of a parameter (`@loss_scale(128.0)`) scales the seed; gradients come unscaled, in f32,
    and are all 0 where one of them is not finite.

    The value form `ts.grad(loss, weights)` stands in the body of a @ts.function: it gives the gradient of the value
    `loss` by `weights`, arguments of the function or what was computed from them, in the structure of `weights`.
    """
    if isinstance(function, Tensor):
        return _of_value(function, argnums)
    both = value_and_grad(function, argnums)

    def run(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return named_like(run, function)


# The value form -------------------------------------------------------------------------------------------------------


class Body:
    """The body of a function while it runs: `watch` its arguments, `release` its result."""

    def __init__(self, tape: Tape | None) -> None:
        self._tape = tape

    def watch(self, value: Any) -> Any:
        """The value with its float tensors watched."""
        tape = self._tape
        if tape is None:
            return value
        return tree_map(lambda x: tape.leaf(x) if isinstance(x, Tensor) and is_float(x) else x, value)

    def release(self, value: Any) -> Any:
        """The value as it is outside."""
        tape = self._tape
        if tape is None:
            return value
        return tree_map(lambda x: x.primal if isinstance(x, Taped) and owned(x, tape) else x, value)


@contextmanager
def body_of(python: Callable[..., Any]) -> Iterator[Body]:
    """A tape around the body of a @ts.function that may use the value form, that is, names `grad`."""
    if "grad" not in getattr(getattr(python, "__code__", None), "co_names", ()):
        yield Body(None)
        return
    with interpret(Tape()) as tape:
        yield Body(tape)


def _of_value(loss: Tensor, weights: Any) -> Any:
    """The gradient of a value by others, by the tape that watches both."""
    _check_scalar(loss, "grad needs a float scalar, this value is")
    tape = loss.interpreter
    leaves, tree = flatten(weights)
    if not leaves:
        raise SourceError("E313", "grad of a value needs what to differentiate by",
                          help="write ts.grad(loss, weights), or ts.grad(function)")
    if not isinstance(tape, Tape) or not isinstance(loss, Taped):
        raise SourceError("E313", "grad of a value knows nothing of how it was computed",
                          help="write it in the body of the @ts.function that has the weights as an argument")
    nodes = []
    for x in leaves:
        if is_float(x) and not (isinstance(x, Taped) and owned(x, tape)):
            shown = x.type if isinstance(x, Tensor) else type(x).__name__
            raise SourceError("E313", f"grad of a value by {shown}, on which it does not depend",
                              help="differentiate by float arguments of the function")
        nodes.append(x.node if isinstance(x, Taped) and is_float(x) else -1)
    scale = scale_of(leaves)
    seed = operators.full_like(loss.primal, 1.0 if scale is None else scale)
    found: Sequence[Tensor | None] = tape.backward({loss.node: seed}, nodes, watched=True)
    if scale is not None:
        found = unscaled(found, scale)
    grads = (_zeros_for_none(x, g) for x, g in zip(leaves, found, strict=True))
    return unflatten(tree, grads)


def autodiff(function: Any) -> Any:
    """Decorator that declares a function differentiable. Every function is; the mark documents it."""
    return function
