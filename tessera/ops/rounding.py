"""Roundings other than to nearest: toward zero, by random bits, and of the mantissa alone.

The meaning is `tessera_runtime.core.codecs`' on arrays; the element rules compute the same patterns in integers: with s
the 24 bits of |x|'s significand and d the bits that the type drops, floor(s 2^32 / 2^d) is the magnitude in units of
the last place, as a number with 32 bits after the point.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tessera.arrays import Array
from tessera.dtypes import DType, as_dtype, f32, f64, u32
from tessera.elements import Element, Elements
from tessera.errors import SourceError
from tessera.families import Partial, Pointwise, unbroadcast
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, Operator, register
from tessera.ops.elementwise import add, mul
from tessera.ops.functions import floor, round
from tessera.ops.select import Cast, cast
from tessera.tensor import Tensor, TensorLike, as_tensor, operators
from tessera.types import TensorType
from tessera_runtime.core import codecs

__all__ = ["cast_by_bits", "cast_toward_zero", "round_mantissa"]

T = TensorType.parse


def _target(name: str, dtype: str, *sources: DType) -> DType:
    """The type to round to. E303 unless it is a float of 16 bits or fewer with a sign, or one that rounds nothing."""
    target = as_dtype(dtype).base
    power = target.name == "fp8_e8m0" and name == "cast_toward_zero"
    wide = target.name in ("f32", "f64") and all(source.bits <= target.bits for source in sources)
    if target.name not in codecs.FORMATS and not (wide or power):
        raise SourceError("E303", f"{name} does not round to {target}",
                          help=f"it rounds to {', '.join(codecs.FORMATS)}")
    return target


def _fixed(e: Elements, x: Element, name: str) -> tuple[Element, Element]:
    """(the pattern of the least magnitude in x's binade, units of the last place above it in fixed point, u64)."""
    _, mantissa, emin, _, _, _ = codecs.FORMATS[name]
    magnitude = e.bitcast(x, "u32") & 0x7FFFFFFF
    exponent = e.cast(magnitude >> 23, "i32")
    normal = exponent > 0
    significand = e.select(normal, (magnitude & 0x7FFFFF) | 0x800000, magnitude)
    exponent = e.max(exponent, e.const(1, "i32")) - (127 + emin)
    zero = e.const(0, "i32")
    dropped = e.min(e.max(-exponent, zero) + (23 - mantissa), e.const(63, "i32"))
    base = e.cast(e.max(exponent, zero), "u32") << mantissa
    return base, (e.cast(significand, "u64") << 32) >> e.cast(dropped, "u64")


def _rounded(e: Elements, x: Element, name: str, words: Element | None) -> Element:
    """x (f32) in the type `name`, toward zero or, with words of 32 random bits, to either side."""
    if name == "fp8_e8m0":  # the exponent's field, where cast would round it
        return e.cast(e.bitcast(e.bitcast(x, "u32") & 0xFF800000, "f32"), name)
    width, _, _, largest, _, _ = codecs.FORMATS[name]
    raw = "u16" if width == 16 else "u8"
    base, units = _fixed(e, x, name)
    if words is not None:
        units = units + e.cast(words, "u64")
    found = e.min(base + e.cast(units >> 32, "u32"), e.const(largest, "u32"))
    bits = e.bitcast(x, "u32")
    found = found | (bits >> 31) << (width - 1)
    # infinities and NaN have nothing to round
    special = (bits & 0x7F800000) == e.const(0x7F800000, "u32")
    return e.select(special, e.cast(x, name), e.bitcast(e.cast(found, raw), name))


class _Cast(Pointwise):
    """A cast to the float type `dtype`; derivatives pass as those of a cast."""

    dtype: str
    rounds = False
    accepts = "float uint"
    smooth = False
    stochastic: ClassVar[bool]

    def result(self, *dtypes: DType) -> DType:
        return _target(self.name, self.dtype, *dtypes[:1])

    def compute(self, *dtypes: DType) -> tuple[DType, ...]:
        return (self.result(*dtypes).wide, u32)[:len(dtypes)]

    def infer(self, *ins: TensorType) -> TensorType:
        found = super().infer(*ins)
        for t, kind in zip(ins, ("float", "uint"), strict=False):
            if t.dtype.kind != kind or t.dtype.name == "u64":
                raise SourceError("E303", f"{self.name} does not take {t.dtype.base} there",
                                  help="it takes floats, and words u32 of random bits")
        return found

    def numpy(self, *x: Array) -> Array:
        target = as_dtype(self.dtype)
        mode = "stochastic" if self.stochastic else "zero"
        words = np.broadcast_to(x[1], np.broadcast_shapes(x[0].shape, x[1].shape)) if self.stochastic else None
        value = x[0] if words is None else np.broadcast_to(x[0], words.shape)
        if not target.is_narrow:
            return value
        return np.asarray(codecs.encode(target.name, np.ascontiguousarray(value), mode, words)).view(
            target.numpy).reshape(value.shape)

    def body(self, e: Elements, *x: Element) -> Element:
        if self.dtype in ("f32", "f64"):
            return x[0]
        return _rounded(e, x[0], self.dtype, x[1] if self.stochastic else None)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (1, None)[:len(primals)]

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (unbroadcast(cts[0], primals[0].type), None)[:len(primals)]


def _types() -> Iterable[str]:
    return codecs.FORMATS


@register
@dataclass(frozen=True)
class CastTowardZero(_Cast):
    """x rounded toward zero to a float type; f64 through f32. A finite number never becomes infinite. fp8_e8m0 gets the
    power of two in x."""

    dtype: str
    name = "cast_toward_zero"
    stochastic = False

    @classmethod
    def cases(cls) -> Iterable[Case]:
        for dtype in _types():
            yield Case(cls(dtype), (T("f32[A, B]"),), ((-9.0, 9.0),), smooth=False)
        yield Case(cls("fp8_e4m3"), (T("f32[A, B]"),), ((-0.02, 0.02),), smooth=False)
        yield Case(cls("f16"), (T("bf16[A, B]"),), ((-9e4, 9e4),), smooth=False)
        yield Case(cls("fp8_e8m0"), (T("f32[A, B]"),), ((0.0, 9.0),), smooth=False)


@register
@dataclass(frozen=True)
class CastByBits(_Cast):
    """x rounded to one of its two neighbours in a float type: up in magnitude if the fraction of the last place and
    word / 2^32 make 1 or more. f64 through f32. A finite number never becomes infinite."""

    dtype: str
    name = "cast_by_bits"
    arity = 2
    stochastic = True

    @classmethod
    def cases(cls) -> Iterable[Case]:
        words = (0.0, 2.0**32 - 1)
        for dtype in _types():
            yield Case(cls(dtype), (T("f32[A, B]"), T("u32[A, B]")), ((-9.0, 9.0), words), smooth=False)
        yield Case(cls("fp8_e5m2"), (T("f32[A, 1]"), T("u32[B]")), ((-1e-4, 1e-4), words), smooth=False)
        yield Case(cls("bf16"), (T("f64[A]"), T("u32[A]")), ((-9.0, 9.0), words), smooth=False)


@register
@dataclass(frozen=True)
class RoundMantissa(Pointwise):
    """x rounded to nearest, ties to even, to `bits` bits of mantissa; the exponent stays as wide as it is. 10 bits of
    an f32 are tf32."""

    bits: int
    name = "round_mantissa"
    rounds = False
    accepts = "float"
    tested = ("f32", "f64")
    smooth = False

    def result(self, *dtypes: DType) -> DType:
        return dtypes[0].wide

    def infer(self, *ins: TensorType) -> TensorType:
        if not 0 < self.bits < 23:
            raise SourceError("E305", f"round_mantissa to {self.bits} bits: f32 has 23", help="give 1 to 22")
        return super().infer(*ins)

    def numpy(self, *x: Array) -> Array:
        _, exponent = np.frexp(x[0])
        normal = np.finfo(x[0].dtype).minexp + 1
        # the last place that is kept, that of subnormals at the bottom
        place = (np.maximum(exponent, normal) - self.bits - 1).astype(np.int32)
        rounded = np.ldexp(np.rint(np.ldexp(x[0], -place)), place)
        return np.where(np.isfinite(x[0]), rounded, x[0]).astype(x[0].dtype)

    def body(self, e: Elements, *x: Element) -> Element:
        raw, mantissa = ("u32", 23) if x[0].dtype == "f32" else ("u64", 52)
        drop = mantissa - self.bits
        pattern = e.bitcast(x[0], raw)
        half = ((pattern >> drop) & 1) + ((1 << (drop - 1)) - 1)
        rounded = ((pattern + half) >> drop) << drop
        quiet = ((pattern >> drop) | (1 << (self.bits - 1))) << drop  # a NaN keeps no bits below either
        return e.select(e.isnan(x[0]), e.bitcast(quiet, x[0].dtype), e.bitcast(rounded, x[0].dtype))

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (1,)

    @classmethod
    def samples(cls) -> Iterable[Operator]:
        return (cls(10), cls(7))


def rounded_to(x: Tensor, target: DType, rounding: str, key: TensorLike | None) -> Tensor:
    """`ts.cast` with a rounding; ints go through f32. E305 for an unknown one, E303 for a type it does not reach."""
    if rounding not in codecs.ROUNDINGS:
        raise SourceError("E305", f"there is no rounding {rounding!r}",
                          help=f"roundings are {', '.join(codecs.ROUNDINGS)}")
    if target.kind == "bool":
        raise SourceError("E303", "a cast to bool does not round", help="leave `rounding` out")
    x = x if x.dtype.is_float else cast(x, f32)
    plain = apply(Cast(target.name), x) if rounding == ("zero" if target.is_int else "nearest") else None
    if plain is not None:
        return plain
    if rounding == "zero":
        return cast_toward_zero(x, target)
    if rounding == "nearest":
        return apply(Cast(target.name), round(x))
    words = operators.random_bits(x.shape, key=key)
    if target.is_float:
        return cast_by_bits(x, words, target)
    return cast(floor(add(cast(x, f64), mul(cast(words, f64), 2.0**-32))), target)


# The functions --------------------------------------------------------------------------------------------------------


def cast_toward_zero(x: TensorLike, dtype: Any) -> Tensor:
    """x rounded toward zero to a float of 16 bits or fewer."""
    return apply(CastTowardZero(as_dtype(dtype).base.name), as_tensor(x))


def cast_by_bits(x: TensorLike, bits: TensorLike, dtype: Any) -> Tensor:
    """x rounded to a float of 16 bits or fewer by words (u32) of random bits; see CastByBits."""
    return apply(CastByBits(as_dtype(dtype).base.name), as_tensor(x), as_tensor(bits))


def round_mantissa(x: TensorLike, bits: int) -> Tensor:
    """An f32 tensor rounded to `bits` bits of mantissa: 10 is tf32."""
    return apply(RoundMantissa(bits), as_tensor(x))


operators.provide({"rounded_to": rounded_to})
