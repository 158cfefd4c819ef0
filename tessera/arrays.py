"""NumPy arrays as storage: widening, the one rounding, and conversion between element types.

The rules of LANGUAGE numerics in one place: narrow floats widen to f32; a value is rounded once, to nearest even; fp8
saturates; float to int truncates toward zero, saturates, and takes NaN to 0; int to int wraps.
"""

from __future__ import annotations

from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from tessera.dtypes import DType, f32, f64
from tessera_runtime.core import dtypes as core

__all__ = ["Array", "convert", "dtype_of", "quiet", "widen"]

Array = Union["NDArray[Any]"]

quiet = np.errstate(all="ignore")


def dtype_of(array: Array) -> DType:
    """The element type of an array."""
    return DType(core.dtype_of(array.dtype))


def widen(array: Array) -> Array:
    """The values in the type they are computed in: f32 for narrow floats, i32 for ints of 4 bits, else unchanged."""
    dtype = dtype_of(array)
    if dtype.wide == dtype:
        return array
    if dtype.is_int:
        value = _bits(array, dtype).astype(np.int32) & 15
        return value if dtype.name == "u4" else (value ^ 8) - 8
    if dtype.name == "f16":
        return array.astype(np.float32)
    return core.decode(dtype.name, _bits(array, dtype)).reshape(array.shape)


def _bits(array: Array, dtype: DType) -> Array:
    return np.ascontiguousarray(array).view(core.storage_dtype(dtype.name)).reshape(array.shape)


def convert(array: Array, to: DType) -> Array:
    """The values rounded once to `to`."""
    source = dtype_of(array)
    to = to.base
    if source == to:
        return array
    with np.errstate(all="ignore"):
        if source.wide != source:
            return convert(widen(array), to)
        if to.is_narrow:
            # An int reaches a narrow float through f32, which is how every target converts it.
            wide = array if source.is_float else array.astype(np.float32)
            return core.encode(to.name, np.asarray(wide)).view(to.numpy).reshape(array.shape)
        if to.kind == "bool":
            return np.asarray(array != 0)
        if source.is_float and to.is_int:
            return _to_int(array, to)
        if to.is_int and to.bits < 8:
            return _nibbles(array, to)
        return array.astype(to.numpy)


def _nibbles(array: Array, to: DType) -> Array:
    """Ints wrapped to 4 bits, which stand in the low half of a byte."""
    low = np.asarray(array).astype(np.int64) & 15
    return np.ascontiguousarray(low.astype(np.uint8)).view(to.numpy).reshape(array.shape)


def _to_int(array: Array, to: DType) -> Array:
    """Truncation toward zero, saturating; NaN gives 0. Bounds are compared as floats, so they are taken exactly."""
    whole = np.trunc(array.astype(np.float64))
    low, high = int(to.min_value), int(to.max_value)
    if to.bits < 8:
        return _nibbles(np.nan_to_num(np.clip(whole, low, high)), to)
    inside = (whole > float(low) - 1 if to.bits < 64 else whole >= float(low)) & (whole < float(high + 1))
    out = np.where(inside, whole, 0.0).astype(to.numpy)
    out = np.where(whole >= float(high + 1), np.asarray(high, to.numpy), out)
    if low:
        out = np.where(whole < float(low), np.asarray(low, to.numpy), out)
    return out.astype(to.numpy)


def exactly(function: Any, *arrays: Array) -> Array:
    """`function` evaluated in f64 for f32 operands and rounded back, so that no machine's SIMD decides."""
    with np.errstate(all="ignore"):
        if arrays[0].dtype == f32.numpy:
            return np.asarray(function(*(a.astype(f64.numpy) for a in arrays))).astype(f32.numpy)
        return np.asarray(function(*arrays))
