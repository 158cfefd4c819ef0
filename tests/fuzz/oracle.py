"""What a traced function means at given sizes: every operation by its operator's `ref`, with a bound of its error.

Beside each value runs an array of absolute error bounds: 0 where every level must give the same bits. An operation
propagates the bounds of its operands (a first-order analysis, with factors that cover the second order) and adds its
own rounding. A bound that is not finite says that the element has no meaning to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tessera.arrays import dtype_of, widen
from tessera.dtypes import DType
from tessera.families import View
from tessera.operator import Operator
from tessera.ops.parts import Pad
from tessera.shapes import substitute
from tesseracc.ir.dialects.graph import operator_of, to_lang
from tesseracc.ir.value import Func, Module

Array = np.ndarray[Any, Any]

#: half the distance of neighbours at 1, and the least positive value
UNIT = {"f64": 2.0**-53, "f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8, "fp8_e4m3": 2.0**-4, "fp8_e5m2": 2.0**-3}
LEAST = {"f64": 2.0**-1074, "f32": 2.0**-149, "f16": 2.0**-24, "bf16": 2.0**-133, "fp8_e4m3": 2.0**-9,
         "fp8_e5m2": 2.0**-16}
#: stated bounds of functions in units of the compute type; `NEAR_ZERO` are those with an absolute part
FUNCTIONS = frozenset(
    ["exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "gelu", "silu",
     "softplus", "sin", "cos", "ipow"])  # fmt: skip
EXACT_FUNCTIONS = frozenset(["sqrt"])
NEAR_ZERO = frozenset(["gelu", "silu", "softplus", "sin", "cos"])
#: continuous with slope at most 1, and exact
SAME = frozenset(["neg", "abs", "relu", "stop_gradient"])


class TooLarge(Exception):
    """A value has more elements than the test wants."""


@dataclass(frozen=True)
class Meaning:
    value: Array
    error: Array  # f64, absolute


def unit(dtype: DType) -> float:
    return UNIT[dtype.name]


def wide(x: Array) -> Array:
    return np.asarray(widen(x)).astype(np.float64)


def evaluate(module: Module, name: str, args: Sequence[Array], env: dict[str, int], limit: int) -> list[Meaning]:
    """The results of a `graph.func`. Raises TooLarge, and SourceError E302 where the sizes do not fit an operator."""
    func: Func = module.func(name)
    found: dict[Any, Meaning] = {}
    for param, array in zip(func.params, args, strict=True):
        found[param] = Meaning(array, np.zeros(array.shape))
    for op in func.body.ops:
        if op.name == "graph.constant":
            constant = module.constants[str(op.attrs["name"])]
            found[op.result] = Meaning(constant, np.zeros(constant.shape))
            continue
        operator = operator_of(op).substitute(env)
        for result in op.results:
            size = 1
            for d in to_lang(result.type).dims:
                size *= int(substitute(d, env))
            if size > limit:
                raise TooLarge
        ins = [found[v] for v in op.operands]
        operator.infer(*(to_lang(v.type).substitute(env) for v in op.operands))
        with np.errstate(all="ignore"):
            results = operator.ref(*(m.value for m in ins))
            results = results if isinstance(results, tuple) else (results,)
            for result, array in zip(op.results, results, strict=True):
                array = np.asarray(array)
                if (not array.size and dtype_of(array).is_float) or not dtype_of(array).is_float:
                    error = np.zeros(array.shape)
                else:
                    error = bound(operator, ins, array)
                found[result] = Meaning(array, error)
    return [found[v] for v in func.body.yields]


def bound(op: Operator, ins: list[Meaning], out: Array) -> Array:
    """The error of an operation's float result."""
    x = [wide(m.value) for m in ins]
    e = [m.error for m in ins]
    y = wide(out)
    dtype = dtype_of(out)
    u = unit(dtype.wide)
    inexact = any(np.any(a) for a in e)
    name = op.name
    own: Any = 0.0  # what a level may differ by although the operands are the same
    if isinstance(op, View) or name in ("take", "take_along", "concat"):
        if not inexact:
            return np.zeros(out.shape)
        moved = replace(op, value=0.0) if isinstance(op, Pad) else op
        given = (a if dtype_of(m.value).is_float else m.value for a, m in zip(e, ins))
        return np.asarray(moved.ref(*given), np.float64)
    error: Any
    if name in ("add", "sub"):
        error = e[0] + e[1]
    elif name == "mul":
        error = _product(x[0], e[1]) + _product(x[1], e[0]) + e[0] * e[1]
    elif name == "div":
        room = np.abs(x[1]) - e[1]
        error = np.where((e[0] > 0) | (e[1] > 0), (e[0] + np.abs(y) * e[1]) / np.where(room > 0, room, 0), 0)
    elif name in ("maximum", "minimum"):
        error = np.maximum(e[0], e[1])
    elif name in ("max", "min"):
        error = np.max(e[0], axis=op.axes, keepdims=op.keepdims, initial=0.0)  # type: ignore[attr-defined]
    elif name == "where":
        error = np.where(ins[0].value.astype(bool), e[1], e[2])
    elif name in SAME or name == "cast":
        error = e[0]
    elif name in FUNCTIONS:
        error = _moved(op, x[0], e[0])
        own = 0.0 if name in EXACT_FUNCTIONS else 6 * u * np.abs(y) + (8 * u if name in NEAR_ZERO else 0)
    elif name in ("sum", "mean"):
        axes, keep = op.axes, op.keepdims  # type: ignore[attr-defined]
        count = max(1, x[0].size // max(1, out.size))
        share = count if name == "mean" else 1
        error = np.sum(e[0], axis=axes, keepdims=keep) / share
        own = 2 * count * u * np.sum(np.abs(x[0]), axis=axes, keepdims=keep) / share
    elif name == "matmul":
        a, b = np.abs(x[0]), np.abs(x[1])
        error = np.matmul(a, e[1]) + np.matmul(e[0], b) + np.matmul(e[0], e[1])
        own = 2 * (x[0].shape[-1] + 1) * u * np.matmul(a, b)
    elif name == "scatter_add":
        error = op.ref(e[0], ins[1].value)
        own = 2 * x[0].size * u * op.ref(np.abs(x[0]), ins[1].value)
    elif name in ("softmax", "log_softmax", "logsumexp"):
        error, own = _exponentials(op, x[0], e[0], y, u)
    elif name in ("layer_norm", "rms_norm"):
        assert len(ins) == 1
        d = e[0].max(axis=-1, keepdims=True) + 4 * (x[0].shape[-1] + 4) * u * np.abs(x[0]).max(axis=-1, keepdims=True)
        centred = x[0] - x[0].mean(axis=-1, keepdims=True) if name == "layer_norm" else x[0]
        slope = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + op.eps)  # type: ignore[attr-defined]
        error, own = 0.0, 4 * slope * d * (1 + np.abs(y)) + 8 * u * np.abs(y)
    elif name == "mse":
        d, ed = np.abs(x[0] - x[1]), e[0] + e[1]
        error = np.sum(2 * d * ed + ed**2) / max(1, d.size)
        own = 4 * (d.size + 4) * u * np.sum(d**2) / max(1, d.size)
    else:
        assert not inexact, f"{name} is applied to values with an error"
        error = 0.0
    error = np.broadcast_to(np.asarray(error + own, np.float64), out.shape)
    # An element that may differ before it is rounded may also be rounded to the other neighbour.
    rounding = 2 * unit(dtype) * np.abs(y) + LEAST[dtype.name]
    return np.where(error > 0, 1.01 * error + rounding, np.where(np.isnan(error), np.inf, 0.0))


def _product(value: Array, error: Array) -> Array:
    return np.where(error > 0, np.abs(value) * error, 0.0)


def _moved(op: Operator, x: Array, e: Array) -> Array:
    """How far a smooth function moves when its argument does."""
    if not np.any(e):
        return np.zeros(x.shape)
    middle = op.ref(x)
    far = np.maximum(np.abs(op.ref(x + e) - middle), np.abs(op.ref(x - e) - middle))
    return np.where(e > 0, 2 * far, 0.0)


def _exponentials(op: Operator, x: Array, e: Array, y: Array, u: float) -> tuple[Any, Any]:
    if op.name == "logsumexp":
        axes, keep = op.axes, op.keepdims  # type: ignore[attr-defined]
        count = x.size // max(1, y.size)
        worst = np.max(e, axis=axes, keepdims=keep, initial=0.0)
        size = np.max(np.abs(x), axis=axes, keepdims=keep, initial=0.0)
        return 1.1 * worst, (8 + 2 * count) * u * (1 + np.abs(y) + size)
    axis = op.axis  # type: ignore[attr-defined]
    count = x.shape[axis]
    worst = np.max(e, axis=axis, keepdims=True, initial=0.0)
    size = np.max(np.abs(x), axis=axis, keepdims=True, initial=0.0)
    if op.name == "softmax":
        return y * np.expm1(2 * worst), (16 + 2 * count + 8 * size) * u * y
    return 2.2 * worst, (8 + 2 * count) * u * (1 + np.abs(y) + size)


def check(got: Any, want: Meaning, what: str) -> None:
    """The comparator: equal bits (up to the sign of 0 and what a NaN holds) where the bound is 0."""
    got = np.asarray(got)
    expected = want.value
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    assert dtype_of(got) == dtype_of(expected), f"{what}: {got.dtype}, expected {expected.dtype}"
    if not dtype_of(expected).is_float:
        wrong = got != expected
    else:
        a, b = wide(got), wide(expected)
        with np.errstate(all="ignore"):
            near = (a == b) | (np.abs(a - b) <= want.error) | (np.isnan(a) & np.isnan(b)) | ~np.isfinite(want.error)
            near |= (want.error > 0) & ~np.isfinite(b) & ~np.isfinite(a)
        wrong = ~near
    if np.any(wrong):
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(f"{what}: {int(np.sum(wrong))} of {wrong.size} elements differ; at {list(at)} "
                             f"got {got[at]!r}, expected {expected[at]!r} within {want.error[at]:.3g}")
