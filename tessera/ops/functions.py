"""Elementwise functions of one operand: rounding, elementary functions, activations."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tessera.arrays import Array, exactly
from tessera.dtypes import DType, as_dtype
from tessera.elements import Element, Elements
from tessera.errors import SourceError
from tessera.families import Partial, Pointwise, floating
from tessera.interpreters import apply
from tessera.operator import Operator, register
from tessera.ops.elementwise import cast
from tessera.tensor import Tensor, TensorLike, as_tensor
from tessera.types import TensorType

__all__ = [
    "ceil", "cos", "erf", "exp", "exp2", "expm1", "floor", "gelu", "log", "log1p", "log2", "relu", "round", "rsqrt",
    "sigmoid", "silu", "sin", "softplus", "sqrt", "swish", "tanh", "trunc",
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


class _Function(Pointwise):
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
class Exp(_Function):
    """e ** x."""

    name = "exp"
    function = np.exp

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (out,)


@register
@dataclass(frozen=True)
class Exp2(_Function):
    """2 ** x."""

    name = "exp2"
    function = np.exp2

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (out * math.log(2.0),)


@register
@dataclass(frozen=True)
class Expm1(_Function):
    """e ** x - 1, accurate near 0."""

    name = "expm1"
    function = np.expm1

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (out + 1.0,)


@register
@dataclass(frozen=True)
class Log(_Function):
    """The natural logarithm; NaN below 0, -inf at 0."""

    name = "log"
    function = np.log
    domain = ((0.1, 5.0),)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (1.0 / primals[0],)


@register
@dataclass(frozen=True)
class Log2(_Function):
    """The logarithm to base 2."""

    name = "log2"
    function = np.log2
    domain = ((0.1, 5.0),)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (1.0 / (primals[0] * math.log(2.0)),)


@register
@dataclass(frozen=True)
class Log1p(_Function):
    """log(1 + x), accurate near 0."""

    name = "log1p"
    function = np.log1p
    domain = ((-0.8, 4.0),)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (1.0 / (primals[0] + 1.0),)


@register
@dataclass(frozen=True)
class Sqrt(_Function):
    """The square root, correctly rounded; NaN below 0."""

    name = "sqrt"
    function = np.sqrt
    domain = ((0.1, 5.0),)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (0.5 / out,)


@register
@dataclass(frozen=True)
class Rsqrt(_Function):
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
class Tanh(_Function):
    """The hyperbolic tangent."""

    name = "tanh"
    function = np.tanh

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (1.0 - out * out,)


@register
@dataclass(frozen=True)
class Sin(_Function):
    """The sine of an angle in radians."""

    name = "sin"
    function = np.sin

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (cos(primals[0]),)


@register
@dataclass(frozen=True)
class Cos(_Function):
    """The cosine of an angle in radians."""

    name = "cos"
    function = np.cos

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (-sin(primals[0]),)


def _erf(x: Array) -> Array:
    return np.fromiter((math.erf(v) for v in x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


@register
@dataclass(frozen=True)
class Erf(_Function):
    """The error function."""

    name = "erf"
    function = staticmethod(_erf)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        x = primals[0]
        return (exp(-(x * x)) * (2.0 / math.sqrt(math.pi)),)


# Activations ----------------------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Relu(Pointwise):
    """max(x, 0)."""

    name = "relu"
    accepts = "float int uint"
    tested = ("f32", "f64", "bf16", "i32", "fp8_e4m3")

    def body(self, e: Elements, *x: Element) -> Element:
        return e.max(x[0], e.const(0, x[0].dtype))

    def numpy(self, *x: Array) -> Array:
        return np.asarray(np.maximum(x[0], 0)).astype(x[0].dtype)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (cast(primals[0] > 0.0, out.dtype),)


@register
@dataclass(frozen=True)
class Sigmoid(_Function):
    """1 / (1 + exp(-x))."""

    name = "sigmoid"

    def body(self, e: Elements, *x: Element) -> Element:
        return 1.0 / (e.exp(-x[0]) + 1.0)

    @staticmethod
    def function(x: Array) -> Array:
        return np.asarray(1.0 / (1.0 + np.exp(-x)))

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (out * (1.0 - out),)


@register
@dataclass(frozen=True)
class Silu(_Function):
    """x * sigmoid(x)."""

    name = "silu"

    def body(self, e: Elements, *x: Element) -> Element:
        return x[0] / (e.exp(-x[0]) + 1.0)

    @staticmethod
    def function(x: Array) -> Array:
        return np.asarray(x / (1.0 + np.exp(-x)))

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        x = primals[0]
        s = sigmoid(x)
        return (s * (1.0 + x * (1.0 - s)),)


@register
@dataclass(frozen=True)
class Softplus(_Function):
    """log(1 + exp(x)), as max(x, 0) + log1p(exp(-|x|)), which does not overflow."""

    name = "softplus"

    def body(self, e: Elements, *x: Element) -> Element:
        return e.max(x[0], e.const(0.0, x[0].dtype)) + e.log1p(e.exp(-e.abs(x[0])))

    @staticmethod
    def function(x: Array) -> Array:
        return np.asarray(np.logaddexp(x, 0.0))

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (sigmoid(primals[0]),)


_C, _A = math.sqrt(2.0 / math.pi), 0.044715


@register
@dataclass(frozen=True)
class Gelu(_Function):
    """x * Phi(x), Phi the normal distribution: by erf, or with approximate="tanh" 0.5 x (1 + tanh(c (x + a x^3)))."""

    approximate: str = "none"
    name = "gelu"

    def infer(self, *ins: TensorType) -> TensorType:
        if self.approximate not in ("none", "tanh"):
            raise SourceError("E305", f"gelu has no form approximate={self.approximate!r}", help="use 'none' or 'tanh'")
        return super().infer(*ins)

    def body(self, e: Elements, *x: Element) -> Element:
        (v,) = x
        if self.approximate == "tanh":
            # (1 + tanh u) / 2 = 1 / (1 + exp(-2u)), which keeps its accuracy for u << 0.
            return v / (e.exp((v + v * v * v * _A) * (-2.0 * _C)) + 1.0)
        return (e.erf(v * math.sqrt(0.5)) + 1.0) * (v * 0.5)

    def numpy(self, *x: Array) -> Array:
        if self.approximate == "tanh":
            return exactly(lambda v: 0.5 * v * (1.0 + np.tanh(_C * (v + _A * v**3))), x[0])
        return exactly(lambda v: 0.5 * v * (1.0 + _erf(v * math.sqrt(0.5))), x[0])

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        x = primals[0]
        if self.approximate == "tanh":
            t = tanh((x + x * x * x * _A) * _C)
            return (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * (_C * (1.0 + 3.0 * _A * x * x)),)
        return (0.5 * (1.0 + erf(x * math.sqrt(0.5))) + x * exp(x * x * -0.5) * (1.0 / math.sqrt(2.0 * math.pi)),)

    @classmethod
    def samples(cls) -> Iterable[Operator]:
        return cls(), cls("tanh")


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


def sigmoid(x: TensorLike) -> Tensor:
    """1 / (1 + exp(-x))."""
    return apply(Sigmoid(), as_tensor(x))


def relu(x: TensorLike) -> Tensor:
    """max(x, 0)."""
    return apply(Relu(), as_tensor(x))


def gelu(x: TensorLike, approximate: str = "none") -> Tensor:
    """x * Phi(x) by erf; approximate="tanh" gives the tanh form."""
    return apply(Gelu(approximate), as_tensor(x))


def silu(x: TensorLike) -> Tensor:
    """x * sigmoid(x)."""
    return apply(Silu(), as_tensor(x))


def softplus(x: TensorLike) -> Tensor:
    """log(1 + exp(x))."""
    return apply(Softplus(), as_tensor(x))


swish = silu
