"""Derivatives, by the rules of the operators.

Reverse mode records a tape of operators while the function runs and walks it backwards with their `vjp` rules; forward
mode carries a tangent beside each value with the `jvp` rules. Both are interpreters over whatever executes below them,
so they work on eager and on traced values, and nest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from tessera.errors import SourceError, Span
from tessera.interpreters import Interpreter, execute, interpret
from tessera.operator import Operator
from tessera.pytree import flatten, unflatten
from tessera.tensor import Tensor, as_tensor
from tessera.types import TensorType

__all__ = ["autodiff", "grad", "jvp", "value_and_grad", "vjp"]


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


class _Wrapped(Tensor):
    """A tensor that belongs to a derivative interpreter and stands for `primal` one level below."""

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

    def numpy(self) -> Any:
        return self.primal.numpy()


# Reverse mode ---------------------------------------------------------------------------------------------------------


class _Taped(_Wrapped):
    __slots__ = ("node",)

    def __init__(self, primal: Tensor, interpreter: Interpreter, node: int) -> None:
        super().__init__(primal, interpreter)
        self.node = node


class _Tape(Interpreter):
    """Records (operator, operands' nodes, primals, results, first result's node)."""

    def __init__(self) -> None:
        self.count = 0
        self.records: list[tuple[Operator, tuple[int | None, ...], tuple[Tensor, ...], tuple[Tensor, ...], int]] = []

    def leaf(self, primal: Tensor) -> _Taped:
        self.count += 1
        return _Taped(primal, self, self.count - 1)

    def process(self, op: Operator, args: tuple[Tensor, ...], loc: Span | None) -> Any:
        nodes = tuple(x.node if isinstance(x, _Taped) and x.interpreter is self else None for x in args)
        primals = tuple(x.primal if isinstance(x, _Taped) and x.interpreter is self else x for x in args)
        result = execute(op, *primals)
        outs = _tuple(result)
        if not op.differentiable or not any(out.dtype.is_float for out in outs):
            return result
        self.records.append((op, nodes, primals, outs, self.count))
        taped = tuple(self.leaf(out) for out in outs)
        return taped if isinstance(result, tuple) else taped[0]

    def backward(self, seeds: dict[int, Tensor], wanted: Sequence[int]) -> list[Tensor | None]:
        """The cotangents of the nodes `wanted`, given those of some results; None where nothing flows."""
        from tessera.ops import zeros_like

        cotangents = dict(seeds)
        for op, nodes, primals, outs, first in reversed(self.records):
            own = [cotangents.pop(first + i, None) for i in range(len(outs))]
            if all(ct is None for ct in own):
                continue
            cts = tuple(zeros_like(out) if ct is None else ct for ct, out in zip(own, outs, strict=True))
            for node, ct in zip(nodes, op.vjp(primals, outs, cts), strict=True):
                if node is not None and ct is not None:
                    cotangents[node] = cotangents[node] + ct if node in cotangents else ct
        return [cotangents.get(node) for node in wanted]


def vjp(function: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """(the result, pullback). `pullback(ct)` takes a cotangent shaped like the result and gives one for each argument,
    shaped like it; None for a leaf that is not a float tensor or does not matter."""
    leaves, tree = flatten(tuple(primals))
    with interpret(_Tape()) as tape:
        inputs = [tape.leaf(as_tensor(x)) if _is_float(x) else x for x in leaves]
        result = function(*unflatten(tree, inputs))
    outs, out_tree = flatten(result)
    nodes = [x.node if isinstance(x, _Taped) and x.interpreter is tape else None for x in outs]
    values = [x.primal if isinstance(x, _Taped) and x.interpreter is tape else x for x in outs]

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        cts, ct_tree = flatten(cotangent)
        if ct_tree != out_tree:
            raise SourceError("E313", f"the cotangent has structure {ct_tree}, the result {out_tree}")
        seeds: dict[int, Tensor] = {}
        for node, value, ct in zip(nodes, values, cts, strict=True):
            if node is None:
                continue
            ct = as_tensor(ct)
            if ct.shape != value.shape:
                raise SourceError("E313", f"a cotangent {ct.type} for a result {value.type}")
            ct = ct.astype(value.dtype)
            seeds[node] = seeds[node] + ct if node in seeds else ct
        taped = [x for x in inputs if isinstance(x, _Taped)]
        found = dict(zip((x.node for x in taped), tape.backward(seeds, [x.node for x in taped]), strict=True))
        given = [found[x.node] if isinstance(x, _Taped) and x.interpreter is tape else None for x in inputs]
        # None is a structure of its own, so the leaves are put back one argument at a time.
        return tuple(_replace(p, iter_) for iter_ in [iter(given)] for p in primals)

    return unflatten(out_tree, values), pullback


def _replace(value: Any, leaves: Any) -> Any:
    count = len(flatten(value)[0])
    return unflatten(flatten(value)[1], [next(leaves) for _ in range(count)])


def _is_float(x: Any) -> bool:
    if isinstance(x, Tensor):
        return x.dtype.is_float
    return isinstance(x, float) or (hasattr(x, "dtype") and hasattr(x, "shape") and as_tensor(x).dtype.is_float)


# Forward mode ---------------------------------------------------------------------------------------------------------


class _Dual(_Wrapped):
    __slots__ = ("tangent",)

    def __init__(self, primal: Tensor, interpreter: Interpreter, tangent: Tensor) -> None:
        super().__init__(primal, interpreter)
        self.tangent = tangent


class _Forward(Interpreter):
    def process(self, op: Operator, args: tuple[Tensor, ...], loc: Span | None) -> Any:
        duals = [x if isinstance(x, _Dual) and x.interpreter is self else None for x in args]
        primals = tuple(x if d is None else d.primal for x, d in zip(args, duals, strict=True))
        result = execute(op, *primals)
        if not op.differentiable or all(d is None for d in duals):
            return result
        outs = _tuple(result)
        tangents = op.jvp(primals, outs, tuple(None if d is None else d.tangent for d in duals))
        made = tuple(out if t is None else _Dual(out, self, t)
                     for out, t in zip(outs, tangents if isinstance(result, tuple) else (tangents,), strict=True))
        return made if isinstance(result, tuple) else made[0]


def jvp(function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """(the result, its derivative in the direction `tangents`), both with the result's structure.

    `tangents` has the structure of `primals`; None stands for zero.
    """
    from tessera.ops import zeros_like

    leaves, tree = flatten(tuple(primals))
    directions: list[Any] = []
    for primal, tangent in zip(primals, tangents, strict=True):
        count = len(flatten(primal)[0])
        directions += [None] * count if tangent is None else flatten(tangent)[0]
    with interpret(_Forward()) as forward:
        inputs = []
        for x, t in zip(leaves, directions, strict=True):
            if t is None or not _is_float(x):
                inputs.append(x)
                continue
            primal, tangent = as_tensor(x), as_tensor(t)
            if primal.shape != tangent.shape:
                raise SourceError("E313", f"a tangent {tangent.type} for an argument {primal.type}")
            inputs.append(_Dual(primal, forward, tangent.astype(primal.dtype)))
        result = function(*unflatten(tree, inputs))
    outs, out_tree = flatten(result)
    own = [isinstance(x, _Dual) and x.interpreter is forward for x in outs]
    values = [x.primal if mine else x for x, mine in zip(outs, own, strict=True)]
    moved = [x.tangent if mine else zeros_like(as_tensor(x)) for x, mine in zip(outs, own, strict=True)]
    return unflatten(out_tree, values), unflatten(out_tree, moved)


# Gradients of scalar functions ----------------------------------------------------------------------------------------

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
    floats = [i for i, a in enumerate(args) if any(_is_float(x) for x in flatten(a)[0])]
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    weights = [i for i in floats if i >= len(names) or not _is_data(names[i])]
    found = tuple(weights or floats)
    if not found:
        raise SourceError("E313", "there is no float argument to differentiate by")
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
        if not isinstance(value, Tensor) or value.shape != () or not value.dtype.is_float:
            shown = str(value.type) if isinstance(value, Tensor) else type(value).__name__
            raise SourceError("E313", f"grad needs a function that gives a float scalar, this one gives {shown}",
                              help="reduce the result with ts.sum or ts.mean, or use ts.vjp")
        from tessera.ops import ones_like, zeros_like

        found = pullback(ones_like(value))
        grads = tuple(_zeros_for_none(args[i], g, zeros_like) for i, g in zip(positions, found, strict=True))
        return value, grads[0] if bare else grads

    return run


def _zeros_for_none(argument: Any, gradient: Any, zeros_like: Callable[[Tensor], Tensor]) -> Any:
    """The gradient with zeros for the float leaves that do not matter."""
    tree = flatten(argument)[1]
    if tree.kind == "leaf":
        return zeros_like(as_tensor(argument)) if gradient is None and _is_float(argument) else gradient
    parts = argument.items() if isinstance(argument, dict) else enumerate(argument)
    filled = {k: _zeros_for_none(v, gradient[k], zeros_like) for k, v in parts}
    return filled if isinstance(argument, dict) else type(argument)(filled.values())


def grad(function: Callable[..., Any], argnums: int | Sequence[int] | None = None) -> Callable[..., Any]:
    """The gradient of a function with a scalar result.

    Without `argnums` by every float argument that does not hold data: arguments called x*, y*, target*, label*, batch
    or input* are left out (unless nothing else is a float). One such argument gives a bare gradient, several a tuple
    in the order of the arguments. An int in `argnums` gives a bare gradient, a sequence a tuple.
    """
    both = value_and_grad(function, argnums)

    def run(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return run


def autodiff(function: Any) -> Any:
    """Decorator that declares a function differentiable. Every function is; the mark documents it."""
    return function
