"""Comparisons, logic and bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tessera.arrays import Array
from tessera.dtypes import DType, bool_, i32, promote
from tessera.elements import Element, Elements
from tessera.families import Pointwise
from tessera.interpreters import apply
from tessera.operator import register
from tessera.ops.select import cast
from tessera.tensor import Tensor, TensorLike, as_tensor, operands

__all__ = [
    "bitwise_and", "bitwise_or", "bitwise_xor", "equal", "greater", "greater_equal", "less", "less_equal",
    "logical_and", "logical_not", "logical_or", "logical_xor", "not_equal", "shift_left", "shift_right",
]


class _Compare(Pointwise):
    """A bool; operands are promoted to one type first. Comparisons with NaN are false, but for `ne`."""

    arity = 2
    differentiable = False
    tested = ("f32", "f64", "bf16", "i32", "u8", "bool")
    function: ClassVar[Any]

    def result(self, *dtypes: DType) -> DType:
        return bool_

    def compute(self, *dtypes: DType) -> tuple[DType, ...]:
        common = promote(*dtypes).wide
        # The scalar language orders numbers only.
        return (i32 if common == bool_ else common,) * 2

    def body(self, e: Elements, *x: Element) -> Element:
        return e.compare(self.name, x[0], x[1])

    def numpy(self, *x: Array) -> Array:
        return np.asarray(type(self).function(x[0], x[1]))


@register
@dataclass(frozen=True)
class Lt(_Compare):
    """x < y."""

    name = "lt"
    function = np.less


@register
@dataclass(frozen=True)
class Le(_Compare):
    """x <= y."""

    name = "le"
    function = np.less_equal


@register
@dataclass(frozen=True)
class Gt(_Compare):
    """x > y."""

    name = "gt"
    function = np.greater


@register
@dataclass(frozen=True)
class Ge(_Compare):
    """x >= y."""

    name = "ge"
    function = np.greater_equal


@register
@dataclass(frozen=True)
class Eq(_Compare):
    """x == y."""

    name = "eq"
    function = np.equal


@register
@dataclass(frozen=True)
class Ne(_Compare):
    """x != y."""

    name = "ne"
    function = np.not_equal


class _Bits(Pointwise):
    """Bit by bit on ints; logic on bools."""

    arity = 2
    accepts = "int uint bool"
    differentiable = False
    tested: ClassVar[tuple[str, ...]] = ("bool", "i32", "u8", "i64")
    function: ClassVar[Any]

    def body(self, e: Elements, *x: Element) -> Element:
        return e.binary(self.name, x[0], x[1])

    def numpy(self, *x: Array) -> Array:
        return np.asarray(type(self).function(x[0], x[1]))


@register
@dataclass(frozen=True)
class And(_Bits):
    """x & y."""

    name = "and"
    function = np.bitwise_and


@register
@dataclass(frozen=True)
class Or(_Bits):
    """x | y."""

    name = "or"
    function = np.bitwise_or


@register
@dataclass(frozen=True)
class Xor(_Bits):
    """x ^ y."""

    name = "xor"
    function = np.bitwise_xor


class _Shift(_Bits):
    accepts = "int uint"
    tested = ("i32", "u8", "i64")
    domain = (None, (0, 7))

    def numpy(self, *x: Array) -> Array:
        # The count is taken modulo the width, as in the scalar language.
        count = x[1] & np.asarray(x[1].dtype.itemsize * 8 - 1, x[1].dtype)
        return np.asarray(type(self).function(x[0], count))


@register
@dataclass(frozen=True)
class Shl(_Shift):
    """x << y."""

    name = "shl"
    function = np.left_shift


@register
@dataclass(frozen=True)
class Shr(_Shift):
    """x >> y; signed ints keep their sign."""

    name = "shr"
    function = np.right_shift


@register
@dataclass(frozen=True)
class Not(Pointwise):
    """Every bit inverted; logical not on bools."""

    name = "not"
    accepts = "int uint bool"
    differentiable = False
    tested = ("bool", "i32", "u8")

    def body(self, e: Elements, *x: Element) -> Element:
        return e.logical_not(x[0])

    def numpy(self, *x: Array) -> Array:
        return np.asarray(np.invert(x[0]))


def less(x: TensorLike, y: TensorLike) -> Tensor:
    """x < y."""
    return apply(Lt(), *operands(x, y))


def less_equal(x: TensorLike, y: TensorLike) -> Tensor:
    """x <= y."""
    return apply(Le(), *operands(x, y))


def greater(x: TensorLike, y: TensorLike) -> Tensor:
    """x > y."""
    return apply(Gt(), *operands(x, y))


def greater_equal(x: TensorLike, y: TensorLike) -> Tensor:
    """x >= y."""
    return apply(Ge(), *operands(x, y))


def equal(x: TensorLike, y: TensorLike) -> Tensor:
    """x == y."""
    return apply(Eq(), *operands(x, y))


def not_equal(x: TensorLike, y: TensorLike) -> Tensor:
    """x != y."""
    return apply(Ne(), *operands(x, y))


def bitwise_and(x: TensorLike, y: TensorLike) -> Tensor:
    """x & y of ints or bools."""
    return apply(And(), *operands(x, y))


def bitwise_or(x: TensorLike, y: TensorLike) -> Tensor:
    """x | y of ints or bools."""
    return apply(Or(), *operands(x, y))


def bitwise_xor(x: TensorLike, y: TensorLike) -> Tensor:
    """x ^ y of ints or bools."""
    return apply(Xor(), *operands(x, y))


def shift_left(x: TensorLike, y: TensorLike) -> Tensor:
    """x << y."""
    return apply(Shl(), *operands(x, y))


def shift_right(x: TensorLike, y: TensorLike) -> Tensor:
    """x >> y."""
    return apply(Shr(), *operands(x, y))


def logical_and(x: TensorLike, y: TensorLike) -> Tensor:
    """Both are true (not zero)."""
    return apply(And(), cast(x, bool_), cast(y, bool_))


def logical_or(x: TensorLike, y: TensorLike) -> Tensor:
    """One or both are true (not zero)."""
    return apply(Or(), cast(x, bool_), cast(y, bool_))


def logical_xor(x: TensorLike, y: TensorLike) -> Tensor:
    """Exactly one is true (not zero)."""
    return apply(Xor(), cast(x, bool_), cast(y, bool_))


def logical_not(x: TensorLike) -> Tensor:
    """Logical not of bools; of ints every bit is inverted, as `~` does."""
    return apply(Not(), as_tensor(x))
