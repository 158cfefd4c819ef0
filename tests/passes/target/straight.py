"""Runs one operation after a target pass, on arrays: straight-line code evaluated by the scalar interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tesseracc.arch.arch import load
from tesseracc.interpret import scalar
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.types import ScalarType, element
from tesseracc.ir.value import Func, Module, Value
from tesseracc.passes.target import expand_fma as _fma  # noqa: F401
from tesseracc.passes.target import expand_math as _math  # noqa: F401
from tesseracc.passes.target import expand_narrow as _narrow  # noqa: F401

Array = np.ndarray[Any, Any]


def expand(pipeline: str, name: str, dtypes: Sequence[str], *, arch: str = "x86-64-v4", **attrs: Any) -> Func:
    """A function of the operation alone, after the passes."""
    b = Builder()
    params = [Value(ScalarType(dtype)) for dtype in dtypes]
    result = b.op(name, *params, **attrs)
    func = Func("target.func", "f", b.region(params, [result]), {"group": 1, "scratch": 0, "shared": 0, "symbol": "f"})
    module = run_pipeline(parse_pipeline(pipeline), Module((func,)), Context(load(arch)))
    return module.funcs[0]


def evaluate(
    pipeline: str, name: str, values: Array | Sequence[Array], *dtypes: str, arch: str = "x86-64-v4", **attrs: Any
) -> Array:
    """The expanded operation on whole arrays; `dtypes` names the operands' types."""
    arrays = [values] if isinstance(values, np.ndarray) else list(values)
    func = expand(pipeline, name, dtypes[: len(arrays)], arch=arch, **attrs)
    env: dict[Value, Any] = dict(zip(func.params, arrays, strict=True))
    with np.errstate(all="ignore"):
        for op in func.body.ops:
            if op.name == "arith.constant":
                env[op.result] = scalar.constant(op.attrs["value"], element(op.result.type))
            else:
                env[op.result] = scalar.evaluate(op, [env[v] for v in op.operands])
        (result,) = func.body.yields
    found: Array = np.broadcast_to(env[result], arrays[0].shape)
    return np.ascontiguousarray(found)
