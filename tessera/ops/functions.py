"""Elementwise functions of one operand: rounding and elementary functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tessera.arrays import Array, exactly
from tessera.dtypes import DType, as_dtype
from tessera.elements import Element, Elements
from tessera.families import Partial, Pointwise, floating
from tessera.interpreters import apply
from tessera.operator import register
from tessera.tensor import Tensor, TensorLike, as_tensor

__all__ = [
    "ceil", "cos", "erf", "exp", "exp2", "expm1", "floor", "log", "log1p", "log2", "round", "rsqrt", "sin", "sqrt",
    "tanh", "trunc",
]


# Rounding -------------------------------------------------------------------------------------------------------------


class _Round(Pointwise):
    accepts = "float int uint"
    tested = ("f32", "f64", "bf16", "i32")
    domain = ((-40.0, 40.0),)
    smooth = False
    function: ClassVar[Any]

    def body(self, e: Elements, *x: Element) -> Element:
        return e.unary(self.name, x[0]) if as_dtype(x[0].dtype).is_float else x[0]

    def numpy(self, *x: Array) -> Array:
        return np.asarray(type(self).function(x[0])) if x[0].dtype.kind == "f" else x[0]

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (None,)


@register
@dataclass(frozen=True)
class Round(_Round):
    """The nearest integer, ties to even."""

    name = "round"
    function = np.rint


@register
@dataclass(frozen=True)
class Floor(_Round):
    """The largest integer <= x."""

    name = "floor"
    function = np.floor


@register
@dataclass(frozen=True)
class Ceil(_Round):
    """The smallest integer >= x."""

    name = "ceil"
    function = np.ceil


@register
@dataclass(frozen=True)
class Trunc(_Round):
    """The integer part."""

    name = "trunc"
    function = np.trunc


# Functions of one float -----------------------------------------------------------------------------------------------


class Function(Pointwise):
    """A function of floats; ints and bools are taken as f32. `function` is the NumPy form, evaluated in f64 for f32."""

    function: ClassVar[Any]
    tested = ("f32", "f64", "bf16", "f16", "i32")

    def result(self, *dtypes: DType) -> DType:
        return floating(dtypes[0])

    def body(self, e: Elements, *x: Element) -> Element:
        return e.unary(self.name, x[0])

    def numpy(self, *x: Array) -> Array:
        return exactly(type(self).function, *x)


@register
@dataclass(frozen=True)
class Exp(Function):
    """e ** x."""

    name = "exp"
    function = np.exp

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (out,)


@register
@dataclass(frozen=True)
class Exp2(Function):
    """2 ** x."""

    name = "exp2"
    function = np.exp2

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (out * math.log(2.0),)


@register
@dataclass(frozen=True)
class Expm1(Function):
    """e ** x - 1, accurate near 0."""

    name = "expm1"
    function = np.expm1

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (out + 1.0,)


@register
@dataclass(frozen=True)
class Log(Function):
    """The natural logarithm; NaN below 0, -inf at 0."""

    name = "log"
    function = np.log
    domain = ((0.1, 5.0),)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (1.0 / primals[0],)


@register
@dataclass(frozen=True)
class Log2(Function):
    """The logarithm to base 2."""

    name = "log2"
    function = np.log2
    domain = ((0.1, 5.0),)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (1.0 / (primals[0] * math.log(2.0)),)


@register
@dataclass(frozen=True)
class Log1p(Function):
    """log(1 + x), accurate near 0."""

    name = "log1p"
    function = np.log1p
    domain = ((-0.8, 4.0),)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (1.0 / (primals[0] + 1.0),)


@register
@dataclass(frozen=True)
class Sqrt(Function):
    """The square root, correctly rounded; NaN below 0."""

    name = "sqrt"
    function = np.sqrt
    domain = ((0.1, 5.0),)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (0.5 / out,)


@register
@dataclass(frozen=True)
class Rsqrt(Function):
    """1 / sqrt(x)."""

    name = "rsqrt"
    domain = ((0.1, 5.0),)

    @staticmethod
    def function(x: Array) -> Array:
        return np.asarray(1.0 / np.sqrt(x))

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (-0.5 * out / primals[0],)


@register
@dataclass(frozen=True)
class Tanh(Function):
    """The hyperbolic tangent."""

    name = "tanh"
    function = np.tanh

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (1.0 - out * out,)


@register
@dataclass(frozen=True)
class Sin(Function):
    """The sine of an angle in radians."""

    name = "sin"
    function = np.sin

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (cos(primals[0]),)


@register
@dataclass(frozen=True)
class Cos(Function):
    """The cosine of an angle in radians."""

    name = "cos"
    function = np.cos

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (-sin(primals[0]),)


def erf_f64(x: Array) -> Array:
    """The error function of f64 elements."""
    return np.fromiter((math.erf(v) for v in x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


@register
@dataclass(frozen=True)
class Erf(Function):
    """The error function."""

    name = "erf"
    function = staticmethod(erf_f64)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        x = primals[0]
        return (exp(-(x * x)) * (2.0 / math.sqrt(math.pi)),)


# The functions --------------------------------------------------------------------------------------------------------


def round(x: TensorLike) -> Tensor:
    """The nearest integer, ties to even, in x's type."""
    return apply(Round(), as_tensor(x))


def floor(x: TensorLike) -> Tensor:
    """The largest integer <= x, in x's type."""
    return apply(Floor(), as_tensor(x))


def ceil(x: TensorLike) -> Tensor:
    """The smallest integer >= x, in x's type."""
    return apply(Ceil(), as_tensor(x))


def trunc(x: TensorLike) -> Tensor:
    """The integer part, in x's type."""
    return apply(Trunc(), as_tensor(x))


def exp(x: TensorLike) -> Tensor:
    """e ** x."""
    return apply(Exp(), as_tensor(x))


def exp2(x: TensorLike) -> Tensor:
    """2 ** x."""
    return apply(Exp2(), as_tensor(x))


def expm1(x: TensorLike) -> Tensor:
    """e ** x - 1."""
    return apply(Expm1(), as_tensor(x))


def log(x: TensorLike) -> Tensor:
    """The natural logarithm."""
    return apply(Log(), as_tensor(x))


def log2(x: TensorLike) -> Tensor:
    """The logarithm to base 2."""
    return apply(Log2(), as_tensor(x))


def log1p(x: TensorLike) -> Tensor:
    """log(1 + x)."""
    return apply(Log1p(), as_tensor(x))


def sqrt(x: TensorLike) -> Tensor:
    """The square root."""
    return apply(Sqrt(), as_tensor(x))


def rsqrt(x: TensorLike) -> Tensor:
    """1 / sqrt(x)."""
    return apply(Rsqrt(), as_tensor(x))


def tanh(x: TensorLike) -> Tensor:
    """The hyperbolic tangent."""
    return apply(Tanh(), as_tensor(x))


def sin(x: TensorLike) -> Tensor:
    """The sine."""
    return apply(Sin(), as_tensor(x))


def cos(x: TensorLike) -> Tensor:
    """The cosine."""
    return apply(Cos(), as_tensor(x))


def erf(x: TensorLike) -> Tensor:
    """The error function."""
    return apply(Erf(), as_tensor(x))
