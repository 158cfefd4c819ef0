"""Arithmetic of the evaluator on NumPy arrays: one element operation at a time, in the element's own type.

Narrow floats (f16, bf16, fp8) are held as the float32 numbers that they can represent. Transcendental functions are
computed in f64 and rounded once, so an f32 result is within half an ulp (plus f64's own error) of the true value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tessera.dtypes import DType
from tessera_runtime.core import dtypes as core

__all__ = ["Array", "binary", "cast", "compare", "from_storage", "held", "to_storage", "unary"]

Array = np.ndarray[Any, Any]

_COMPARE = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}
_ERF = np.vectorize(math.erf, otypes=[np.float64])
_F64: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log1p": np.log1p,
    "tanh": np.tanh,
    "sin": np.sin, "cos": np.cos, "erf": _ERF,
}  # fmt: skip
_EXACT = {
    "sqrt": np.sqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "round": np.rint,
    "neg": np.negative,
    "abs": np.abs,
}


def held(dtype: DType) -> np.dtype[Any]:
    """The NumPy type that holds values of an element type in the evaluator."""
    return np.dtype(np.float32) if dtype.is_narrow else core.np_dtype(dtype.name)


def from_storage(raw: Array, dtype: DType) -> Array:
    """Elements of an array as values."""
    if not dtype.is_narrow:
        return raw
    if dtype.name == "f16":
        return raw.astype(np.float32)
    return core.decode(dtype.name, raw.view(core.storage_dtype(dtype.name)))


def to_storage(values: Array, dtype: DType) -> Array:
    """Values as raw elements: rounded once, fp8 saturated; of the array's own dtype."""
    if not dtype.is_narrow:
        return values
    if dtype.name == "f16":
        with np.errstate(over="ignore", invalid="ignore"):
            half: Array = values.astype(np.float16)
            return half
    return core.encode(dtype.name, values).view(core.np_dtype(dtype.name))


def cast(values: Array, source: DType, to: DType) -> Array:
    """Numeric conversion; float to int truncates, saturates, and takes NaN to 0."""
    with np.errstate(all="ignore"):
        if to.is_narrow:
            wide = values if source.is_float else values.astype(np.float64 if source.bits > 16 else np.float32)
            return from_storage(to_storage(wide, to), to).astype(np.float32)
        if to.kind == "bool":
            nonzero: Array = values != 0
            return nonzero
        if to.is_int and source.is_float:
            low, high = int(to.min_value), int(to.max_value)
            target = core.np_dtype(to.name)
            wide = np.trunc(values.astype(np.float64))
            inside = (wide >= float(low)) & (wide < float(high) + (0 if float(high) > high else 1))
            out = np.where(inside, wide, 0).astype(target)
            out = np.where(wide >= float(high) + (0 if float(high) > high else 1), target.type(high), out)
            return np.where(wide < float(low), target.type(low), out)
        return values.astype(core.np_dtype(to.name))


def unary(op: str, a: Array, dtype: DType) -> Array:
    """An arith operation of one operand."""
    with np.errstate(all="ignore"):
        if op == "not":
            return np.logical_not(a) if dtype.kind == "bool" else np.invert(a)
        if op == "round_tf32":
            return round_tf32(a)
        if op in _EXACT:
            out: Array = _EXACT[op](a)
            return out
        if op == "rsqrt":
            return (1.0 / np.sqrt(a.astype(np.float64))).astype(a.dtype)
        result: Array = _F64[op](a.astype(np.float64))
        return result.astype(a.dtype)


def round_tf32(a: Array) -> Array:
    """f32 rounded to nearest, ties to even, to 10 bits of mantissa; a NaN keeps no bits below either."""
    pattern = np.ascontiguousarray(a).view(np.uint32)
    low = np.uint32(13)
    rounded = (pattern + (((pattern >> low) & np.uint32(1)) + np.uint32(0xFFF))) >> low << low
    quiet = ((pattern >> low) | np.uint32(1 << 9)) << low
    out: Array = np.where(np.isnan(a), quiet, rounded).view(np.float32)
    return out


def binary(op: str, a: Array, b: Array, dtype: DType) -> Array:
    """An arith operation of two operands of one type."""
    with np.errstate(all="ignore"):
        match op:
            case "add":
                return np.add(a, b)
            case "sub":
                return np.subtract(a, b)
            case "mul":
                return np.multiply(a, b)
            case "div":
                return np.divide(a, b)
            case "max":
                return np.maximum(a, b)
            case "min":
                return np.minimum(a, b)
            case "pow":
                return np.power(a.astype(np.float64), b.astype(np.float64)).astype(a.dtype)
            case "and":
                return np.bitwise_and(a, b)
            case "or":
                return np.bitwise_or(a, b)
            case "xor":
                return np.bitwise_xor(a, b)
            case "floordiv" | "mod":
                safe = np.where(b == 0, np.ones_like(b), b)
                return np.where(b == 0, np.zeros_like(a), (np.floor_divide if op == "floordiv" else np.mod)(a, safe))
            case "shl" | "shr":
                wide = (b < 0) | (b >= dtype.bits)
                by = np.where(wide, np.zeros_like(b), b)
                if op == "shl":
                    return np.where(wide, np.zeros_like(a), np.left_shift(a, by))
                return np.where(
                    wide,
                    np.where(a < 0, -np.ones_like(a), np.zeros_like(a)) if dtype.kind == "int" else np.zeros_like(a),
                    np.right_shift(a, by),
                )
    raise AssertionError(op)


def compare(pred: str, a: Array, b: Array) -> Array:
    """A comparison; false with NaN, but `ne` true."""
    out: Array = _COMPARE[pred](a, b)
    return out
