"""Runs `cond`, `while` and `scan` of the Graph and the Schedule level on arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tessera_runtime.core.dtypes import np_dtype
from tesseracc.interpret.binding import evaluate_dim
from tesseracc.ir.types import TensorType
from tesseracc.ir.value import Op, Region

Array = np.ndarray[Any, Any]
RunRegion = Callable[[Region, Sequence[Array]], list[Array]]


def run(op: Op, inputs: Sequence[Array], region: RunRegion, symbols: Mapping[str, int]) -> list[Array]:
    """The results of a control operation; `region` runs a region on its arguments."""
    match op.name.partition(".")[2]:
        case "cond":
            return region(op.regions[0 if inputs[0] else 1], inputs[1:])
        case "while":
            count = len(op.group("consts"))
            consts, state = list(inputs[:count]), list(inputs[count:])
            while region(op.regions[0], consts + state)[0]:
                state = region(op.regions[1], consts + state)
            return state
        case _:
            return _scan(op, inputs, region, symbols)


def _scan(op: Op, inputs: Sequence[Array], region: RunRegion, symbols: Mapping[str, int]) -> list[Array]:
    first = len(op.group("consts"))
    second = first + len(op.group("carried"))
    consts, state, rows = list(inputs[:first]), list(inputs[first:second]), inputs[second:]
    stacked = [_empty(r.type, symbols) for r in op.results[len(state) :]]
    steps = range(evaluate_dim(op.attrs["length"], symbols))
    for i in reversed(steps) if op.attrs["reverse"] else steps:
        found = region(op.regions[0], [*consts, *state, *(np.asarray(x[i]) for x in rows)])
        state = found[: len(state)]
        for whole, row in zip(stacked, found[len(state) :], strict=True):
            whole[i] = row
    return [*state, *stacked]


def _empty(type_: Any, symbols: Mapping[str, int]) -> Array:
    assert isinstance(type_, TensorType)
    return np.zeros(tuple(evaluate_dim(d, symbols) for d in type_.dims), np_dtype(type_.dtype))
