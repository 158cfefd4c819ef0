"""vmap: a function of one example, applied to a batch at once by the `batch` rules of the operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tessera.derivatives.wrapped import Wrapped, each, named_like, owned
from tessera.errors import SourceError, Span
from tessera.families import check_axes
from tessera.interpreters import Interpreter, execute, interpret
from tessera.operator import Operator
from tessera.pytree import Tree, flatten, leaf_count, unflatten
from tessera.shapes import Dim, known_equal
from tessera.tensor import Tensor, as_tensor, operators
from tessera.types import TensorType

__all__ = ["Vmap", "vmap"]


class _Batched(Wrapped):
    """An example's value; `primal` has the whole batch in axis 0."""

    __slots__ = ()

    @property
    def type(self) -> TensorType:
        return TensorType(self.primal.type.dims[1:], self.primal.type.dtype)

    def numpy(self) -> Any:
        raise SourceError("E309", f"inside ts.vmap a value {self.type} has other elements for each example",
                          help="compute with ts operators, for example ts.where instead of `if`")


class Vmap(Interpreter):
    """Carries the batch axis of `size` through operators."""

    def __init__(self, size: Dim) -> None:
        self.size = size

    def wrap(self, x: Any) -> Any:
        """A tensor whose axis 0 is the batch, as the value of an example. Other Python values are kept."""
        return _Batched(x, self) if isinstance(x, Tensor) else x

    def full(self, x: Tensor) -> Tensor:
        """The value with the batch in axis 0, repeated where it is one for all."""
        return x.primal if isinstance(x, _Batched) and owned(x, self) else x.broadcast_to(self.size, *x.shape)

    def process(self, op: Operator, args: tuple[Tensor, ...], loc: Span | None) -> Any:
        own = tuple(owned(x, self) for x in args)
        below = tuple(x.primal if isinstance(x, _Batched) and mine else x for x, mine in zip(args, own, strict=True))
        rule = op.batch if op.has("batch") else partial(_one_by_one, op)
        result = rule(below, own, self.size)
        made = tuple(_Batched(x, self) for x in each(result))
        return made if isinstance(result, tuple) else made[0]


def vmap(function: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """The function over a batch: argument i has the batch in axis `in_axes[i]`, or is one for all where that is None.

    An int (or None) in `in_axes` or `out_axes` holds for everything below it; otherwise they have the structure of the
    arguments and of the result. Only tensors are mapped, other values are one for all. Draws of random numbers inside
    are the same for every example unless they take a key that is mapped. Raises E313 for axes that do not fit.
    """

    def run(*args: Any) -> Any:
        leaves, tree = flatten(args)
        axes = _spread(in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(args), tree, "in_axes")
        mapped: list[tuple[Any, bool]] = []
        size: Dim | None = None
        for x, axis in zip(leaves, axes, strict=True):
            if axis is None or not _is_array(x):
                mapped.append((x, False))
                continue
            value = as_tensor(x)
            (at,) = check_axes("vmap", (axis,), value.ndim)
            if size is not None and not known_equal(size, value.shape[at]):
                raise SourceError("E313", f"vmap of a batch of {size} with axis {at} of {value.type}",
                                  help="mapped axes have one size; in_axes says which axis is mapped, None for none")
            size = value.shape[at] if size is None else size
            mapped.append((_moved(value, at, 0), True))
        if size is None:
            raise SourceError("E313", "vmap has no tensor to map over", help="give one of the arguments an axis")
        with interpret(Vmap(size)) as batch:
            result = function(*unflatten(tree, [batch.wrap(x) if mine else x for x, mine in mapped]))
        outs, out_tree = flatten(result)
        made = []
        for x, axis in zip(outs, _spread(out_axes, out_tree, "out_axes"), strict=True):
            if axis is None:
                if owned(x, batch):
                    raise SourceError("E313", "vmap has a result for each example where out_axes says None",
                                      help="give the axis in which the batch is to be")
                made.append(x)
            elif _is_array(x):
                made.append(_moved(batch.full(as_tensor(x)), 0, check_axes("vmap", (axis,), x.ndim + 1)[0]))
            else:
                made.append(x)
        return unflatten(out_tree, made)

    return named_like(run, function, typed=False)


def _one_by_one(op: Operator, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Any:
    """An operator without the rule `batch`: every example by itself, the results stacked."""
    if not isinstance(size, int) or size < 1:
        raise SourceError("E310", f"operator {op.name} has no rule `batch`, and the batch has {size} examples",
                          help="one by one works for a known size; else add the rule to the operator's class")
    examples = [execute(op, *(x[i] if own else x for x, own in zip(xs, batched, strict=True))) for i in range(size)]
    if not isinstance(examples[0], tuple):
        return operators.stack(examples)
    return tuple(operators.stack(parts) for parts in zip(*examples, strict=True))


def _is_array(x: Any) -> bool:
    return isinstance(x, Tensor) or (hasattr(x, "dtype") and hasattr(x, "shape"))


def _moved(x: Tensor, start: int, to: int) -> Tensor:
    """The tensor with an axis moved."""
    if start == to:
        return x
    order = [axis for axis in range(x.ndim) if axis != start]
    order.insert(to, start)
    return operators.permute(x, tuple(order))


def _spread(axes: Any, tree: Tree, what: str) -> list[int | None]:
    """An axis for each leaf of the structure."""
    if axes is None or (isinstance(axes, int) and not isinstance(axes, bool)):
        return [axes] * leaf_count(tree)
    parts = [axes[k] for k in tree.keys if k in axes] if isinstance(axes, dict) and tree.kind == "dict" else axes
    if not isinstance(parts, (tuple, list)) or len(parts) != len(tree.children) or tree.kind == "leaf":
        raise SourceError("E313", f"{what} {axes!r} do not fit values of structure {tree}",
                          help="an int or None holds for everything below it")
    return [axis for part, child in zip(parts, tree.children, strict=True) for axis in _spread(part, child, what)]
