"""Activation functions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tessera.arrays import Array, exactly
from tessera.elements import Element, Elements
from tessera.errors import SourceError
from tessera.families import Partial, Pointwise
from tessera.interpreters import apply
from tessera.operator import Operator, register
from tessera.ops.functions import Function, erf, erf_f64, exp, tanh
from tessera.ops.select import cast
from tessera.tensor import Tensor, TensorLike, as_tensor
from tessera.types import TensorType

__all__ = ["gelu", "relu", "sigmoid", "silu", "softplus", "swish"]


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
class Sigmoid(Function):
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
class Silu(Function):
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
class Softplus(Function):
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
class Gelu(Function):
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
        return exactly(lambda v: 0.5 * v * (1.0 + erf_f64(v * math.sqrt(0.5))), x[0])

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
