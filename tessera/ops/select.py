"""Elementwise selection and conversion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.arrays import Array, convert
from tessera.dtypes import DType, as_dtype, bool_, promote
from tessera.elements import Element, Elements
from tessera.errors import SourceError
from tessera.families import Partial, Pointwise, unbroadcast
from tessera.interpreters import apply
from tessera.numerics import renewed
from tessera.operator import Case, Cotangents, Operator, register
from tessera.tensor import Tensor, TensorLike, as_tensor, operands, operators
from tessera.types import TensorType

__all__ = ["cast", "isnan", "where"]

T = TensorType.parse


def _full(value: float, like: Tensor) -> Tensor:
    return operands(value, like)[0]


@register
@dataclass(frozen=True)
class Where(Pointwise):
    """x where the bool condition holds, else y."""

    name = "where"
    rounds = False
    arity = 3
    nondiff = (0,)

    def result(self, *dtypes: DType) -> DType:
        return promote(*dtypes[1:])

    def compute(self, *dtypes: DType) -> tuple[DType, ...]:
        # Selecting changes no value: no widening is needed, and 64-bit ints must not pass through floats.
        chosen = self.result(*dtypes)
        return bool_, chosen, chosen

    def infer(self, *ins: TensorType) -> TensorType:
        if len(ins) == 3 and ins[0].dtype != bool_:
            raise SourceError("E303", f"where needs a bool condition, got {ins[0].dtype}",
                              help="compare first, as in ts.where(x > 0, x, y)")
        return super().infer(*ins)

    def body(self, e: Elements, *x: Element) -> Element:
        return e.select(x[0], x[1], x[2])

    def numpy(self, *x: Array) -> Array:
        return np.where(x[0], x[1], x[2])

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        chosen = cast(primals[0], out.dtype)
        return None, chosen, 1.0 - chosen

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        condition, x, y = primals
        zero = _full(0.0, cts[0])
        return (
            None,
            unbroadcast(where(condition, cts[0], zero), x.type) if x.dtype.is_float else None,
            unbroadcast(where(condition, zero, cts[0]), y.type) if y.dtype.is_float else None,
        )

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        if tangents[1] is None and tangents[2] is None:
            return None
        zero = _full(0.0, outs[0])
        x, y = (zero if t is None else t for t in tangents[1:])
        found: Tensor = operators.broadcast_to(cast(where(primals[0], x, y), outs[0].dtype), *outs[0].shape)
        return found

    @classmethod
    def cases(cls) -> Iterable[Case]:
        for dtype in ("f32", "f64", "bf16", "i64", "bool"):
            yield Case(cls(), (T("bool[A, B]"), T(f"{dtype}[A, B]"), T(f"{dtype}[A, B]")))
        yield Case(cls(), (T("bool[A, 1]"), T("f32[B]"), T("f32[]")))
        yield Case(cls(), (T("bool[N]"), T("bf16[N]"), T("f32[N]")))


@register
@dataclass(frozen=True)
class Cast(Pointwise):
    """The value in another element type, rounded once; see specs/language.md for floats to ints."""

    dtype: str
    name = "cast"

    def result(self, *dtypes: DType) -> DType:
        return as_dtype(self.dtype).base

    def compute(self, *dtypes: DType) -> tuple[DType, ...]:
        return (dtypes[0].base,)

    def unrounded(self, dtype: str) -> Operator:
        return Cast(dtype)

    def body(self, e: Elements, *x: Element) -> Element:
        return e.cast(x[0], self.dtype)

    def numpy(self, *x: Array) -> Array:
        return convert(x[0], as_dtype(self.dtype))

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        ok = primals[0].dtype.is_float and outs[0].dtype.is_float
        return (cast(cts[0], primals[0].dtype) if ok else None,)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        return None if tangents[0] is None or not outs[0].dtype.is_float else cast(tangents[0], self.dtype)

    @classmethod
    def cases(cls) -> Iterable[Case]:
        wide = (-300.0, 300.0)
        for source, target in (("f32", "bf16"), ("f32", "f64"), ("f64", "f32"), ("bf16", "f32"), ("f32", "fp8_e4m3"),
                               ("fp8_e5m2", "f16"), ("f64", "bf16"), ("f32", "i8"), ("f32", "u8"), ("i32", "bf16"),
                               ("i64", "i8"), ("f32", "bool"), ("bool", "f32"), ("i8", "f32"), ("f16", "i32"),
                               ("f32", "fp6_e2m3"), ("f64", "fp6_e3m2"), ("f32", "fp4_e2m1"), ("fp4_e2m1", "bf16"),
                               ("fp6_e3m2", "f32"), ("fp6_e2m3", "fp8_e4m3"), ("f32", "i4"), ("i32", "u4"),
                               ("i4", "f32"), ("u4", "i4"), ("i4", "bf16"), ("f32", "fp8_e8m0"), ("fp8_e8m0", "f32")):
            small = ("fp8_e4m3", "bool", "i4", "u4", "fp6_e2m3", "fp6_e3m2", "fp4_e2m1", "fp8_e8m0")
            narrow = source == "fp8_e5m2" or source in small or target in small
            yield Case(cls(target), (T(f"{source}[A, B]"),), () if narrow else (wide,),
                       smooth=target in ("f64", "f32") and source[0] == "f")


@register
@dataclass(frozen=True)
class IsNan(Pointwise):
    """Whether x is NaN."""

    name = "isnan"
    accepts = "float"
    differentiable = False
    tested = ("f32", "bf16", "f64")

    def result(self, *dtypes: DType) -> DType:
        return bool_

    def compute(self, *dtypes: DType) -> tuple[DType, ...]:
        return (dtypes[0].wide,)

    def body(self, e: Elements, *x: Element) -> Element:
        return e.isnan(x[0])

    def numpy(self, *x: Array) -> Array:
        return np.asarray(np.isnan(x[0]))


# The functions --------------------------------------------------------------------------------------------------------


def where(condition: TensorLike, x: TensorLike, y: TensorLike) -> Tensor:
    """x where the bool condition holds, else y; broadcast."""
    return apply(Where(), as_tensor(condition), *operands(x, y))


def cast(x: TensorLike, dtype: Any, rounding: str | None = None, key: TensorLike | None = None) -> Tensor:
    """x in another element type; x itself when it has that type. Policies of the type replace those of x, by kind.

    `rounding` is "nearest" (ties to even; how floats are rounded), "zero" (how ints are made of floats), or
    "stochastic", by bits of `key` or else of the next numbered draw.
    """
    value, target = as_tensor(x), as_dtype(dtype).unscaled()
    if target.policies:
        value = value.with_policies(renewed(value.policies, target.policies))
    if value.dtype.base == target.base:
        return value
    if rounding is not None and (value.dtype.is_float or target.is_float):
        return operators.rounded_to(value, target, rounding, key)
    return apply(Cast(target.name), value)


def isnan(x: TensorLike) -> Tensor:
    """Whether each element is NaN."""
    return apply(IsNan(), as_tensor(x))
