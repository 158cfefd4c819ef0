"""Elements with scales: quantisation as types.

A value of a type such as `fp8_e4m3 @scale(axis=0)` is a pair (elements, scales), x = elements * scale. With largest the
greatest number of the element type and amax the greatest |x| that a scale is for:

    scale     max(amax / largest, least scale > 0), rounded to the scale's type
              for fp8_e8m0: 2^(floor(log2 amax) - floor(log2 largest)), as the OCP microscaling formats say
    elements  x / scale, rounded once to the element type, and saturating

With a scale of the tensor it is a triple (elements, scales, whole), x = elements * scales * whole, where whole is the
tensor's amax / (largest element * largest scale), and the others are those of x / whole.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tessera.dtypes import DType, as_dtype, f32, fp4_e2m1, fp6_e2m3, fp6_e3m2, fp8_e4m3, fp8_e5m2, i8
from tessera.errors import SourceError
from tessera.numerics import Scale
from tessera.shapes import Dim
from tessera.tensor import Tensor, TensorLike, as_tensor, operators
from tessera_runtime.core import codecs
from tessera_runtime.core.dtypes import decode

__all__ = ["dequantize", "mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8", "nvfp4", "quantize",
           "scale_dims"]

_MX = Scale(block=32, dtype="fp8_e8m0")
mxfp8_e4m3, mxfp8_e5m2, mxfp6_e2m3, mxfp6_e3m2 = fp8_e4m3 @ _MX, fp8_e5m2 @ _MX, fp6_e2m3 @ _MX, fp6_e3m2 @ _MX
mxfp4, mxint8 = fp4_e2m1 @ _MX, i8 @ _MX
nvfp4 = fp4_e2m1 @ Scale(block=16, dtype="fp8_e4m3", tensor=True)


def _scaling(dtype: DType) -> Scale:
    """How a type is scaled. E303 for one that is not, and for elements that no scale helps."""
    found = dtype.scaling
    if found is None:
        raise SourceError("E303", f"{dtype} has no scale", help="write for example ts.fp8_e4m3 @ ts.scale(axis=0)")
    if dtype.kind not in ("int", "float") or dtype.bits > 16 or dtype.name == "fp8_e8m0":
        raise SourceError("E303", f"elements of {dtype.base} are not scaled",
                          help="scales are for signed ints and floats of 16 bits and fewer")
    return found


def _largest(dtype: DType) -> float:
    if dtype.is_int:
        return float(dtype.max_value)
    return float(decode(dtype.name, np.asarray(codecs.FORMATS[dtype.name][3])).item())


def _least(scale: str) -> float:
    """The least scale > 0 that a type has; for f32 the least normal one."""
    if scale in ("f32", "bf16"):
        return 2.0**-126
    return float(decode(scale, np.asarray(0 if scale == "fp8_e8m0" else 1)).item())


def _axis(how: Scale, rank: int) -> int:
    axis = -1 if how.axis is None else how.axis
    if not -rank <= axis < rank:
        raise SourceError("E304", f"a tensor of rank {rank} has no axis {axis} to scale along")
    return axis % rank


def scale_dims(how: Scale, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The shape of the scales of a tensor: [] for one; 1 in all axes but its own; the blocks in place of elements."""
    if how.axis is None and how.block is None:
        return ()
    axis = _axis(how, len(dims))
    if how.block is None:
        return tuple(d if i == axis else 1 for i, d in enumerate(dims))
    size = dims[axis]
    if isinstance(size, int) and size % how.block:
        raise SourceError("E302", f"{size} elements along axis {axis} are not blocks of {how.block}")
    return tuple(d // how.block if i == axis else d for i, d in enumerate(dims))


def _blocks(x: Tensor, how: Scale) -> tuple[Tensor, tuple[int, ...]]:
    """(x with an axis for each run of elements that share a scale, the axes that share it)."""
    if how.axis is None and how.block is None:
        return x, tuple(range(x.ndim))
    axis = _axis(how, x.ndim)
    if how.block is None:
        return x, tuple(i for i in range(x.ndim) if i != axis)
    scale_dims(how, x.shape)
    split = (*x.shape[:axis], x.shape[axis] // how.block, how.block, *x.shape[axis + 1 :])
    return x.reshape(*split), (axis + 1,)


def quantize(x: TensorLike, dtype: Any, *, rounding: str = "nearest", key: TensorLike | None = None) -> Any:
    """x in a type with scales, or of a precision policy: the pair (elements, scales), or the triple with the tensor's.

    `rounding` is that of the elements, see ts.cast. Raises E302 where blocks do not fit, E303 for other types.
    """
    value = as_tensor(x)
    if hasattr(dtype, "quantize"):
        return dtype.quantize(value)
    target = as_dtype(dtype)
    how = _scaling(target)
    plain = operators.cast(value, f32).with_policies(())
    if how.tensor:
        largest = _largest(target) * _largest(as_dtype(how.dtype))
        whole = operators.maximum(operators.max(operators.abs(plain)) / largest, _least("f32"))
        plain = plain / whole
    blocks, shared = _blocks(plain, how)
    amax = operators.max(operators.abs(blocks), shared, keepdims=True) if shared else operators.abs(blocks)
    if how.dtype == "fp8_e8m0":
        power = operators.cast(operators.cast_toward_zero(amax, "fp8_e8m0"), f32)
        stored = operators.cast(power * 2.0 ** -math.floor(math.log2(_largest(target))), "fp8_e8m0")
    else:
        stored = operators.cast(operators.maximum(amax / _largest(target), _least(how.dtype)), how.dtype)
    elements = operators.cast(blocks / operators.cast(stored, f32), target.base, rounding, key)
    parts = elements.reshape(*value.shape), stored.reshape(*scale_dims(how, value.shape))
    return (*parts, whole) if how.tensor else parts


def dequantize(
    elements: TensorLike, scale: TensorLike, dtype: Any = None, to: Any = f32, *, whole: TensorLike | None = None
) -> Tensor:
    """elements * scale, and times the scale of the tensor where there is one, in f32; rounded once to `to`.

    `dtype` is the type with scales, where these are of blocks; else scales broadcast to the elements' shape. In a
    product this happens where the operand is loaded: the elements are not stored again.
    """
    values, scales = as_tensor(elements), as_tensor(scale)
    how = Scale() if dtype is None else _scaling(as_dtype(dtype))
    wide, factors = operators.cast(values, f32), operators.cast(scales, f32)
    if how.tensor and whole is None:
        raise SourceError("E311", f"a value of {dtype} has a scale of the tensor too", help="give it as whole=")
    if how.block is None:
        product = wide * factors
        return operators.cast(product if whole is None else product * as_tensor(whole), to)
    blocks, (inner,) = _blocks(wide, how)
    product = blocks * operators.expand_dims(factors, (inner,))
    found: Tensor = operators.cast(product if whole is None else product * as_tensor(whole), to)
    return found.reshape(*values.shape)
