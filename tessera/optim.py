"""Optimisers, as ordinary functions over trees of tensors.

    optimiser = ts.optim.adamw(ts.optim.cosine(3e-3, 1000, warmup=50), decay=0.01)
    state = optimiser.init(params)
    params, state = optimiser.update(params, grads, state)

`rate` is a number or a schedule, a function of the number of steps taken (an i32 tensor). All arithmetic is in f32 (f64
for f64); parameters of narrower types are rounded once per step, and what the state accumulates is kept wide. Leaves
without a gradient (None), and ints, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Any

from tessera.dtypes import f32, i32
from tessera.errors import SourceError
from tessera.ops.compare import less, not_equal
from tessera.ops.create import full, zeros, zeros_like
from tessera.ops.elementwise import add, maximum, minimum, mul
from tessera.ops.elementwise import pow as power
from tessera.ops.functions import cos, sqrt
from tessera.ops.reduce import any as any_of
from tessera.ops.reduce import sum as total
from tessera.ops.select import cast, where
from tessera.pytree import flatten, tree_map, unflatten
from tessera.tensor import Tensor, as_tensor

__all__ = ["Optimiser", "adam", "adamw", "clip_by_global_norm", "constant", "cosine", "exponential", "global_norm",
           "linear", "sgd", "skip_zero"]

Schedule = Callable[[Tensor], Tensor]
Rate = float | Schedule


@dataclass(frozen=True)
class Optimiser:
    """`init(params)` gives the first state, `update(params, grads, state)` the next (params, state)."""

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]


# Trees ----------------------------------------------------------------------------------------------------------------


def _zip(function: Callable[..., tuple[Any, ...]], count: int, params: Any, *trees: Any) -> tuple[Any, ...]:
    """`count` trees of what the function gives for corresponding leaves; a missing gradient comes as None."""
    if isinstance(params, dict):
        _same(params, *trees)
        parts = {k: _zip(function, count, params[k], *(t[k] for t in trees)) for k in params}
        return tuple({k: v[i] for k, v in parts.items()} for i in range(count))
    if isinstance(params, (tuple, list)):
        _same(params, *trees)
        rows = [_zip(function, count, p, *(t[i] for t in trees)) for i, p in enumerate(params)]
        return tuple(type(params)(row[i] for row in rows) for i in range(count))
    if params is None:
        return (None,) * count
    return function(params, *trees)


def _same(params: Any, *trees: Any) -> None:
    keys = sorted(params) if isinstance(params, dict) else len(params)
    for tree in trees:
        fits = isinstance(tree, dict) if isinstance(params, dict) else isinstance(tree, (tuple, list))
        if not fits or (sorted(tree) if isinstance(tree, dict) else len(tree)) != keys:
            raise SourceError("E313", "parameters, gradients and the optimiser's state have different structures",
                              help="take gradients by the same tree, and the state from `init`")


def _moving(x: Any, g: Any) -> bool:
    return g is not None and isinstance(x, Tensor) and x.dtype.is_float


def _wide_zeros(x: Any) -> Tensor:
    value = as_tensor(x)
    return zeros_like(value, value.dtype.wide if value.dtype.is_float else None)


# Schedules ------------------------------------------------------------------------------------------------------------


def _rate(rate: Rate, step: Tensor) -> Tensor:
    return rate(step) if callable(rate) else full((), float(rate), f32)


def constant(rate: float) -> Schedule:
    """The same rate for ever."""
    return lambda step: full((), float(rate), f32)


def _part(step: Tensor, steps: int) -> Tensor:
    """step / steps, between 0 and 1."""
    return minimum(maximum(cast(step, f32) / float(max(steps, 1)), 0.0), 1.0)


def linear(start: float, end: float, steps: int) -> Schedule:
    """From `start` to `end` in `steps` steps, then `end`."""
    return lambda step: add(start, mul(end - start, _part(step, steps)))


def exponential(rate: float, factor: float, steps: int) -> Schedule:
    """rate * factor^(step / steps)."""
    return lambda step: mul(rate, power(full((), float(factor), f32), cast(step, f32) / float(steps)))


def cosine(rate: float, steps: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Linear from 0 to `rate` during `warmup` steps, then floor + (rate - floor) (1 + cos(pi t)) / 2 for t from 0 to 1
    at `steps`, then `floor`."""
    def run(step: Tensor) -> Tensor:
        t = _part(step - warmup, steps - warmup)
        falling = add(floor, mul((rate - floor) / 2, 1.0 + cos(t * pi)))
        if not warmup:
            return falling
        return where(less(step, warmup), mul(rate / warmup, cast(step + 1, f32)), falling)

    return run


# Gradients ------------------------------------------------------------------------------------------------------------


def global_norm(tree: Any) -> Tensor:
    """The square root of the sum of all squares, in f32."""
    squares = [total(cast(x, f32) * cast(x, f32)) for x in flatten(tree)[0] if isinstance(x, Tensor)]
    result = full((), 0.0, f32)
    for square in squares:
        result = result + square
    return sqrt(result)


def clip_by_global_norm(grads: Any, limit: float) -> Any:
    """The gradients times min(1, limit / global_norm): their direction, with at most that norm."""
    scale = minimum(full((), float(limit), f32) / maximum(global_norm(grads), 1e-30), 1.0)
    return tree_map(lambda g: cast(cast(g, g.dtype.wide) * cast(scale, g.dtype.wide), g.dtype), grads)


# Optimisers -----------------------------------------------------------------------------------------------------------


def sgd(rate: Rate, momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> Optimiser:
    """g' = g + decay * p; v' = momentum * v + g'; p' = p - rate * (v', or g' + momentum * v' with `nesterov`).

    State: {"step": i32[]}, and with momentum "v" like the parameters.
    """
    def init(params: Any) -> Any:
        state: dict[str, Any] = {"step": zeros(dtype=i32)}
        if momentum:
            state["v"] = tree_map(_wide_zeros, params)
        return state

    def update(params: Any, grads: Any, state: Any) -> tuple[Any, Any]:
        now = _rate(rate, state["step"])

        def one(p: Any, g: Any, *v: Any) -> tuple[Any, ...]:
            if not _moving(p, g):
                return p, *v
            wide = p.dtype.wide
            x, d = cast(p, wide), cast(g, wide)
            d = d + x * decay if decay else d
            kept = tuple(momentum * old + d for old in v)
            for new in kept:
                d = d + momentum * new if nesterov else new
            return cast(x - cast(now, wide) * d, p.dtype), *kept

        trees = (state["v"],) if momentum else ()
        new, *velocity = _zip(one, 1 + len(trees), params, grads, *trees)
        after = {"step": state["step"] + 1, **({"v": velocity[0]} if momentum else {})}
        return new, after

    return Optimiser(init, update)


def adamw(
    rate: Rate, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, decay: float = 0.01,
) -> Optimiser:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), t counting from 1:

    m' = b1 m + (1 - b1) g;  v' = b2 v + (1 - b2) g^2;
    p' = p - rate * (m' / (1 - b1^t) / (sqrt(v' / (1 - b2^t)) + eps) + decay * p).

    State: {"step": i32[], "m": .., "v": ..}, the last two like the parameters.
    """
    first, second = betas

    def init(params: Any) -> Any:
        return {"step": zeros(dtype=i32), "m": tree_map(_wide_zeros, params), "v": tree_map(_wide_zeros, params)}

    def update(params: Any, grads: Any, state: Any) -> tuple[Any, Any]:
        now = _rate(rate, state["step"])
        step = state["step"] + 1
        t = cast(step, f32)
        # the factors of m and v without bias, once for all parameters
        unbias_m, unbias_v = (1.0 / (1.0 - power(full((), b, f32), t)) for b in betas)

        def one(p: Any, g: Any, m: Any, v: Any) -> tuple[Any, ...]:
            if not _moving(p, g):
                return p, m, v
            wide = p.dtype.wide
            x, d = cast(p, wide), cast(g, wide)
            m = first * m + (1.0 - first) * d
            v = second * v + (1.0 - second) * (d * d)
            move = m * cast(unbias_m, wide) / (sqrt(v * cast(unbias_v, wide)) + eps)
            move = move + decay * x if decay else move
            return cast(x - cast(now, wide) * move, p.dtype), m, v

        new, m, v = _zip(one, 3, params, grads, state["m"], state["v"])
        return new, {"step": step, "m": m, "v": v}

    return Optimiser(init, update)


def adam(rate: Rate, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Optimiser:
    """Adam (Kingma and Ba, 2015): adamw without decay."""
    return adamw(rate, betas, eps, 0.0)


def skip_zero(optimiser: Optimiser) -> Optimiser:
    """The optimiser, for which a step whose gradients are all 0 did not happen: parameters and state stay as they are.

    Such gradients come from loss scaling after an overflow; momentum and decay would move parameters nevertheless.
    """

    def update(params: Any, grads: Any, state: Any) -> tuple[Any, Any]:
        new = optimiser.update(params, grads, state)
        found = [any_of(not_equal(g, 0)) for g in flatten(grads)[0] if isinstance(g, Tensor)]
        if not found:
            return new
        happened = found[0]
        for more in found[1:]:
            happened = happened | more
        old, tree = flatten((params, state))
        leaves = [where(happened, after, before) if isinstance(after, Tensor) else after
                  for after, before in zip(flatten(new)[0], old, strict=True)]
        params, state = unflatten(tree, leaves)
        return params, state

    return Optimiser(optimiser.init, update)
