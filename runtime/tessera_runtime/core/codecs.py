"""Conversions between f32/f64 and the narrow floats, on bit patterns, with NumPy alone.

One rounding to nearest, ties to even. f16 and bf16 overflow to infinity as IEEE 754 says; fp8 saturates to the
largest finite value, infinities included (PTX `.satfinite`); NaN stays NaN with its sign.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera_runtime.core.errors import TesseraError

__all__ = ["decode", "encode"]

# name -> (mantissa bits, least normal exponent, pattern of the largest finite value); NaN is 0x7f in both.
_FP8 = {"fp8_e4m3": (3, -6, 0x7E), "fp8_e5m2": (2, -14, 0x7B)}


def decode(name: str, raw: NDArray[Any]) -> NDArray[np.float32]:
    """The float32 values of raw bit patterns (uint16 for f16 and bf16, uint8 for fp8); any shape; exact."""
    if name == "f16":
        half: NDArray[np.float32] = np.asarray(raw, dtype=np.uint16).view(np.float16).astype(np.float32)
        return half
    if name == "bf16":
        wide: NDArray[np.uint32] = np.asarray(raw, dtype=np.uint16).astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32)
    if name in _FP8:
        return _fp8_table(name)[np.asarray(raw, dtype=np.uint8)]
    raise TesseraError("E703", f"no codec for element type '{name}'")


def encode(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Bit patterns (uint16 or uint8) of the values of type `name` nearest to float32 or float64 `values`."""
    if name == "f16":
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return np.asarray(values).astype(np.float16).view(np.uint16)
    x = _to_f32(np.asarray(values))
    if name == "bf16":
        return _encode_bf16(x)
    if name in _FP8:
        return _encode_fp8(x, *_FP8[name])
    raise TesseraError("E703", f"no codec for element type '{name}'")


def _to_f32(values: NDArray[Any]) -> NDArray[np.float32]:
    """float32 as it is; float64 rounded to odd, so that the second rounding gives what one rounding would.

    Rounding to odd keeps the low bit as a sticky bit; that is safe as f32 has at least two bits more than the target.
    """
    if values.dtype == np.float32:
        return values
    wide = values.astype(np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        near = wide.astype(np.float32)
    bits = near.view(np.int32)
    with np.errstate(invalid="ignore"):
        away = np.abs(near.astype(np.float64)) > np.abs(wide)
        inexact = near.astype(np.float64) != wide
    truncated = bits - away.astype(np.int32)  # magnitude bits order as integers, so one less is the next toward zero
    odd = np.where(inexact & ~np.isnan(wide), truncated | np.int32(1), bits)
    return odd.astype(np.int32).view(np.float32)


def _encode_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = x.view(np.uint32)
    upper = (bits >> np.uint32(16)).astype(np.uint16)
    rounded = ((bits + (np.uint32(0x7FFF) + (upper & np.uint16(1)))) >> np.uint32(16)).astype(np.uint16)
    pattern: NDArray[np.uint16] = np.where(np.isnan(x), upper | np.uint16(0x0040), rounded).astype(np.uint16)
    return pattern


def _encode_fp8(x: NDArray[np.float32], mantissa: int, emin: int, largest: int) -> NDArray[np.uint8]:
    """The pattern is ((e - emin) << mantissa) + q with e = max(exponent(|x|), emin), q = rint(|x| / 2^(e - mantissa)):
    q holds the implicit bit of a normal number, which is the carry into the exponent field; subnormals have none."""
    bits = x.view(np.uint32)
    sign = (bits >> np.uint32(24)).astype(np.uint8) & np.uint8(0x80)
    field = ((bits >> np.uint32(23)) & np.uint32(0xFF)).astype(np.int32)
    e = np.maximum(field - 127, emin)
    magnitude = np.where(np.isfinite(x), np.abs(x), np.float32(0))
    q = np.rint(np.ldexp(magnitude, mantissa - e)).astype(np.int32)
    pattern = np.minimum(((e - emin) << mantissa) + q, largest)
    pattern = np.where(np.isnan(x), 0x7F, np.where(np.isinf(x), largest, pattern))
    result: NDArray[np.uint8] = pattern.astype(np.uint8) | sign
    return result


@cache
def _fp8_table(name: str) -> NDArray[np.float32]:
    """The 256 values: (field > 0) + fraction, scaled by 2^(max(field, 1) - 1 + emin)."""
    mantissa, emin, largest = _FP8[name]
    pattern = np.arange(256)
    magnitude = pattern & 0x7F
    field, fraction = magnitude >> mantissa, magnitude & ((1 << mantissa) - 1)
    value = np.ldexp((field > 0) + fraction / (1 << mantissa), np.maximum(field, 1) - 1 + emin)
    value = np.where(magnitude > largest, np.nan, value)
    if name == "fp8_e5m2":
        value = np.where(magnitude == 0x7C, np.inf, value)
    table = np.copysign(value, np.where(pattern & 0x80, -1.0, 1.0)).astype(np.float32)
    table.flags.writeable = False
    return table
