"""Derivatives of functions between tensors: jacfwd, jacrev, hvp, and gradcheck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tessera.derivatives.batching import vmap
from tessera.derivatives.forward import jvp
from tessera.derivatives.gradients import grad
from tessera.derivatives.reverse import vjp
from tessera.derivatives.wrapped import is_float, named_like
from tessera.errors import SourceError
from tessera.pytree import flatten, unflatten
from tessera.shapes import product
from tessera.tensor import Tensor, as_tensor, operators

__all__ = ["gradcheck", "hvp", "jacfwd", "jacrev"]


def _basis(x: Tensor) -> Tensor:
    """The unit tensors of x's type, one after the other in axis 0."""
    return operators.eye(product(x.shape), x.dtype).reshape(product(x.shape), *x.shape)


def _inputs(args: tuple[Any, ...], argnums: Any) -> tuple[list[Tensor], Callable[[list[Any]], Any], list[int]]:
    """(the tensors to differentiate by, how their structure is made again, their places among all leaves)."""
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if any(not -len(args) <= n < len(args) for n in numbers):
        raise SourceError("E313", f"a Jacobian by argument {argnums} of a call with {len(args)} arguments")
    chosen = args[argnums] if isinstance(argnums, int) else tuple(args[n] for n in numbers)
    leaves, tree = flatten(chosen)
    if not leaves or not all(is_float(x) for x in leaves):
        raise SourceError("E313", "a Jacobian is taken by float arguments only", help="say which by argnums")
    return [as_tensor(x) for x in leaves], lambda found: unflatten(tree, found), [n % len(args) for n in numbers]


def _of_leaves(function: Callable[..., Any], args: tuple[Any, ...], argnums: Any) -> Callable[..., Any]:
    """The function of the chosen tensors alone."""
    _, again, numbers = _inputs(args, argnums)

    def run(*leaves: Any) -> Any:
        chosen = again(list(leaves))
        full = list(args)
        for n, value in zip(numbers, (chosen,) if isinstance(argnums, int) else chosen, strict=True):
            full[n] = value
        return function(*full)

    return named_like(run, function)


def jacfwd(function: Callable[..., Any], argnums: Any = 0) -> Callable[..., Any]:
    """The Jacobian, by forward mode, one column at a time in a batch: for functions of few numbers.

    Of a result of shape R by an argument of shape S it has shape R + S: element [r, s] is d result[r] / d argument[s].
    The structure is the result's, with the argument's (or, for several `argnums`, a tuple) in place of each leaf.
    """

    def run(*args: Any) -> Any:
        leaves, again, _ = _inputs(args, argnums)
        of = _of_leaves(function, args, argnums)
        columns = []
        for i, x in enumerate(leaves):
            def column(t: Tensor, at: int = i) -> Any:
                return jvp(of, leaves, [t if k == at else None for k in range(len(leaves))])[1]

            outs, tree = flatten(vmap(column, out_axes=-1)(_basis(x)))
            columns.append([out.reshape(*out.shape[:-1], *x.shape) for out in outs])
        return unflatten(tree, [again(list(row)) for row in zip(*columns, strict=True)])

    return named_like(run, function)


def jacrev(function: Callable[..., Any], argnums: Any = 0) -> Callable[..., Any]:
    """The Jacobian, by reverse mode, one row at a time in a batch: for functions with few results. As `jacfwd`."""

    def run(*args: Any) -> Any:
        leaves, again, _ = _inputs(args, argnums)
        result, pullback = vjp(_of_leaves(function, args, argnums), *leaves)
        outs, tree = flatten(result)
        rows = []
        for i, out in enumerate(outs):
            if not is_float(out):
                raise SourceError("E313", "a Jacobian needs float results")

            def row(ct: Tensor, at: int = i) -> Any:
                cts = [ct if k == at else operators.zeros_like(o) for k, o in enumerate(outs)]
                found = pullback(unflatten(tree, cts))
                return [operators.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]

            found = vmap(row)(_basis(out))
            rows.append(again([g.reshape(*out.shape, *x.shape) for g, x in zip(found, leaves, strict=True)]))
        return unflatten(tree, rows)

    return named_like(run, function)


def hvp(function: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    """The Hessian of a scalar function times a vector, without the Hessian: the derivative of the gradient along it.

    `primals` and `tangents` are tuples of arguments, or one argument; the result has their structure.
    """
    bare = not isinstance(primals, tuple)
    at, along = ((primals,), (tangents,)) if bare else (primals, tangents)
    _, moved = jvp(grad(function, argnums=tuple(range(len(at)))), at, along)
    return moved[0] if bare else moved


def gradcheck(function: Callable[..., Any], *args: Any, step: float = 1e-5, tolerance: float = 1e-5) -> None:
    """Compare the gradient of a scalar function of f64 arguments with central differences, in every direction.

    Raises E313 with argument, element and both values where they differ by more than `tolerance` * (1 + |value|).
    """
    import numpy as np

    gradient = vjp(function, *args)[1](operators.ones((), dtype="f64"))
    for number, argument in enumerate(args):
        array = np.asarray(argument, np.float64)
        found = np.zeros(array.shape) if gradient[number] is None else gradient[number].numpy()
        for place in np.ndindex(*array.shape):
            ends = []
            for sign in (1, -1):
                moved = array.copy()
                moved[place] += sign * step
                given = [as_tensor(moved) if k == number else a for k, a in enumerate(args)]
                ends.append(float(function(*given)))
            numeric = (ends[0] - ends[1]) / (2 * step)
            if not abs(found[place] - numeric) <= tolerance * (1 + abs(numeric)):
                raise SourceError("E313", f"the gradient by argument {number} at {list(place)} is {found[place]:.9g}, "
                                  f"by differences {numeric:.9g}", help="check the rule; is the function smooth there?")
