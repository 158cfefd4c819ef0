"""Conversions between f32/f64 and the narrow types, on bit patterns, with NumPy alone.

One rounding, to nearest with ties to even unless another mode is asked for. f16 and bf16 overflow to infinity as
IEEE 754 says; the types of 8 bits and fewer saturate to the largest finite value, infinities included (PTX
`.satfinite`); NaN stays NaN with its sign where the type has one, and is the largest value in those of 4 and 6 bits.

With q = |x| / 2^(max(exponent(x), emin) - mantissa), the magnitude in units of the last place:
    nearest     rint(q)
    zero        floor(q); a finite value never becomes infinite
    stochastic  floor(q + r / 2^32) for a word r of 32 random bits: exact, so the mean over r is q; not infinite either
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tessera_runtime.core.errors import TesseraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FORMATS", "ROUNDINGS", "decode", "encode"]

ROUNDINGS = ("nearest", "zero", "stochastic")

#: name -> (width, mantissa bits, least normal exponent, largest finite pattern, NaN pattern or None, infinity or None)
FORMATS: dict[str, tuple[int, int, int, int, int | None, int | None]] = {
    "f16": (16, 10, -14, 0x7BFF, 0x7E00, 0x7C00),
    "bf16": (16, 7, -126, 0x7F7F, 0x7FC0, 0x7F80),
    "fp8_e4m3": (8, 3, -6, 0x7E, 0x7F, None),
    "fp8_e5m2": (8, 2, -14, 0x7B, 0x7F, 0x7C),
    "fp6_e2m3": (6, 3, 0, 0x1F, None, None),
    "fp6_e3m2": (6, 2, -2, 0x1F, None, None),
    "fp4_e2m1": (4, 1, 0, 0x07, None, None),
}
_SATURATING = ("fp8_e4m3", "fp8_e5m2", "fp6_e2m3", "fp6_e3m2", "fp4_e2m1")


def decode(name: str, raw: NDArray[Any]) -> NDArray[Any]:
    """The float32 values of raw bit patterns (uint16 for f16 and bf16, else uint8), the int8 values of ints of 4 bits;
    any shape; exact.

    Bits above the width of a type of 4 or 6 bits are ignored.
    """
    if name in ("i4", "u4"):
        low = (np.asarray(raw, dtype=np.uint8) & 15).astype(np.int8)
        return low if name == "u4" else (low ^ 8) - 8
    if name == "f16":
        half: NDArray[np.float32] = np.asarray(raw, dtype=np.uint16).view(np.float16).astype(np.float32)
        return half
    if name == "bf16":
        wide: NDArray[np.uint32] = np.asarray(raw, dtype=np.uint16).astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32)
    if name in _SATURATING or name == "fp8_e8m0":
        return _table(name)[np.asarray(raw, dtype=np.uint8)]
    raise TesseraError("E703", f"no codec for element type '{name}'")


def encode(
    name: str, values: NDArray[Any], rounding: str = "nearest", bits: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Bit patterns (uint16 or uint8) of float32 or float64 `values`; `bits` are uint32 words for "stochastic"."""
    if rounding == "nearest" and name == "f16":
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return np.asarray(values).astype(np.float16).view(np.uint16)
    x = _to_f32(np.asarray(values))
    if rounding == "nearest" and name == "bf16":
        return _encode_bf16(x)
    if name in FORMATS:
        return _encode(x, name, rounding, bits)
    if name == "fp8_e8m0":
        return _encode_e8m0(x, rounding)
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


def _encode(x: NDArray[np.float32], name: str, rounding: str, words: NDArray[Any] | None) -> NDArray[Any]:
    """The pattern is ((e - emin) << mantissa) + q with e = max(exponent(|x|), emin) and q rounded: q holds the implicit
    bit of a normal number, which is the carry into the exponent field; subnormals have none."""
    width, mantissa, emin, largest, nan, infinity = FORMATS[name]
    raw = np.uint16 if width == 16 else np.uint8
    bits = x.view(np.uint32)
    sign = (bits >> np.uint32(31)).astype(np.uint32) << np.uint32(width - 1)
    e = np.maximum(((bits >> np.uint32(23)) & np.uint32(0xFF)).astype(np.int32) - 127, emin)
    magnitude = np.where(np.isfinite(x), np.abs(x), np.float32(0)).astype(np.float64)
    q = np.ldexp(magnitude, mantissa - e)
    if rounding == "nearest":
        q = np.rint(q)
    else:
        whole = np.floor(q)
        if rounding == "stochastic":  # q + r / 2^32 need not fit a double; the fraction of q does, as far as it counts
            assert words is not None
            threshold = 2.0**32 - np.floor(np.ldexp(q - whole, 32))
            whole = whole + (np.asarray(words, np.uint32).astype(np.float64) >= threshold)
        q = whole
    pattern = np.minimum(((e.astype(np.int64) - emin) << mantissa) + q.astype(np.int64), largest)
    pattern = np.where(np.isinf(x), largest if name in _SATURATING or infinity is None else infinity, pattern)
    pattern = np.where(np.isnan(x), largest if nan is None else nan, pattern) | np.where(
        np.isnan(x) & (nan is None), 0, sign
    )
    return pattern.astype(raw)


def _encode_e8m0(x: NDArray[np.float32], rounding: str) -> NDArray[np.uint8]:
    """A power of two, 2^(pattern - 127): to nearest (ties to the even pattern) or toward zero. Numbers from 0 up to
    2^-127 give that; negative ones, and NaN, give NaN (255)."""
    bits = x.view(np.uint32).astype(np.int64)
    carry = 0 if rounding == "zero" else 0x3FFFFF + ((bits >> 23) & 1)
    pattern = np.minimum((bits + carry) >> 23, 254)
    found: NDArray[np.uint8] = np.where(np.isnan(x) | (x < 0), 255, np.where(x == 0, 0, pattern)).astype(np.uint8)
    return found


@cache
def _table(name: str) -> NDArray[np.float32]:
    """The values of all bytes: (field > 0) + fraction, scaled by 2^(max(field, 1) - 1 + emin)."""
    pattern = np.arange(256)
    if name == "fp8_e8m0":
        value = np.where(pattern == 255, np.nan, np.ldexp(1.0, pattern - 127))
        table = value.astype(np.float32)
    else:
        width, mantissa, emin, largest, _, infinity = FORMATS[name]
        magnitude = pattern & ((1 << (width - 1)) - 1)
        field, fraction = magnitude >> mantissa, magnitude & ((1 << mantissa) - 1)
        value = np.ldexp((field > 0) + fraction / (1 << mantissa), np.maximum(field, 1) - 1 + emin)
        value = np.where(magnitude > largest, np.nan, value)
        if infinity is not None:
            value = np.where(magnitude == infinity, np.inf, value)
        table = np.copysign(value, np.where(pattern & 1 << (width - 1), -1.0, 1.0)).astype(np.float32)
    table.flags.writeable = False
    return table
