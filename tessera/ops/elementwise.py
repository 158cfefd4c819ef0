"""Elementwise arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.arrays import Array, exactly
from tessera.dtypes import DType, as_dtype, promote
from tessera.elements import Element, Elements
from tessera.errors import SourceError
from tessera.families import Partial, Pointwise, floating
from tessera.interpreters import apply
from tessera.operator import Operator, register
from tessera.ops.select import cast, where
from tessera.tensor import Tensor, TensorLike, as_tensor, operands, operators
from tessera.types import TensorType

__all__ = [
    "abs", "add", "clip", "div", "divide", "floordiv", "maximum", "minimum", "mod", "mul", "multiply", "neg",
    "negative", "pow", "power", "reciprocal", "sign", "square", "sub", "subtract",
]

T = TensorType.parse


# Arithmetic -----------------------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Add(Pointwise):
    """x + y."""

    name = "add"
    arity = 2
    accepts = "float int uint"
    tested = ("f32", "f64", "bf16", "i32", "u8", "fp8_e4m3")

    def body(self, e: Elements, *x: Element) -> Element:
        return x[0] + x[1]

    def numpy(self, *x: Array) -> Array:
        return np.asarray(x[0] + x[1])

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return 1.0, 1.0


@register
@dataclass(frozen=True)
class Sub(Pointwise):
    """x - y."""

    name = "sub"
    arity = 2
    accepts = "float int uint"
    tested = ("f32", "f64", "f16", "i64")

    def body(self, e: Elements, *x: Element) -> Element:
        return x[0] - x[1]

    def numpy(self, *x: Array) -> Array:
        return np.asarray(x[0] - x[1])

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return 1.0, -1.0


@register
@dataclass(frozen=True)
class Mul(Pointwise):
    """x * y."""

    name = "mul"
    arity = 2
    accepts = "float int uint"
    tested = ("f32", "f64", "bf16", "i32", "fp8_e5m2")

    def body(self, e: Elements, *x: Element) -> Element:
        return x[0] * x[1]

    def numpy(self, *x: Array) -> Array:
        return np.asarray(x[0] * x[1])

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return primals[1], primals[0]


@register
@dataclass(frozen=True)
class Div(Pointwise):
    """x / y, correctly rounded; ints are divided as f32."""

    name = "div"
    arity = 2
    accepts = "float int uint"
    domain = (None, (0.5, 2.0))
    tested = ("f32", "f64", "bf16", "i32")

    def result(self, *dtypes: DType) -> DType:
        return floating(promote(*dtypes))

    def body(self, e: Elements, *x: Element) -> Element:
        return x[0] / x[1]

    def numpy(self, *x: Array) -> Array:
        return np.asarray(x[0] / x[1])

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        inverse = 1.0 / cast(primals[1], out.dtype)
        return inverse, -(out * inverse)


@register
@dataclass(frozen=True)
class FloorDiv(Pointwise):
    """x // y: the quotient rounded down. Ints give 0 for y = 0; floats give floor(x / y)."""

    name = "floordiv"
    arity = 2
    accepts = "float int uint"
    domain = (None, (0.7, 2.0))
    tested = ("f32", "i32", "u8", "bf16", "i64")
    smooth = False

    def body(self, e: Elements, *x: Element) -> Element:
        return e.floor(x[0] / x[1]) if as_dtype(x[0].dtype).is_float else x[0] // x[1]

    def numpy(self, *x: Array) -> Array:
        if x[0].dtype.kind == "f":
            return np.floor(x[0] / x[1])
        return np.where(x[1] == 0, 0, np.floor_divide(x[0], x[1])).astype(x[0].dtype)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return None, None


@register
@dataclass(frozen=True)
class Mod(Pointwise):
    """x % y with the sign of y. Ints give 0 for y = 0; floats give x - floor(x / y) * y, corrected to that sign."""

    name = "mod"
    arity = 2
    accepts = "float int uint"
    domain = ((-2.0, 2.0), (0.7, 2.0))
    tested = ("f32", "i32", "u8", "i64")
    smooth = False

    def body(self, e: Elements, *x: Element) -> Element:
        a, b = x
        if not as_dtype(a.dtype).is_float:
            return a % b
        r = a - e.floor(a / b) * b
        wrong = (r != 0.0) & ((r < 0.0) ^ (b < 0.0))
        return e.select(wrong, r + b, r)

    def numpy(self, *x: Array) -> Array:
        a, b = x
        if a.dtype.kind != "f":
            return np.where(b == 0, 0, np.mod(a, b)).astype(a.dtype)
        r = a - np.floor(a / b) * b
        return np.asarray(np.where((r != 0) & ((r < 0) != (b < 0)), r + b, r))

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return 1.0, -floordiv(primals[0], primals[1])


@register
@dataclass(frozen=True)
class Pow(Pointwise):
    """x ** y for floats. Powers with a constant integer exponent are `ipow`."""

    name = "pow"
    arity = 2
    domain = ((0.2, 3.0), (-2.0, 2.0))

    def result(self, *dtypes: DType) -> DType:
        return floating(promote(*dtypes))

    def body(self, e: Elements, *x: Element) -> Element:
        return e.pow(x[0], x[1])

    def numpy(self, *x: Array) -> Array:
        return exactly(np.power, *x)

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        x, y = primals
        # The derivative by y is taken as 0 where log x does not exist: x <= 0, where y is not differentiable anyway.
        safe = where(x > 0.0, x, 1.0)
        return y * pow(x, y - 1.0), out * operators.log(safe)


@register
@dataclass(frozen=True)
class IntPow(Pointwise):
    """x ** n for a constant n, by repeated squaring from the lowest bit; a negative n inverts the power."""

    n: int
    name = "ipow"
    accepts = "float int uint"
    domain = ((0.3, 2.0),)
    tested = ("f32", "f64", "bf16")

    def infer(self, *ins: TensorType) -> TensorType:
        if self.n < 0 and ins[0].dtype.is_int:
            raise SourceError("E305", f"{ins[0].dtype} ** {self.n} is not an integer",
                              help="cast the tensor to a float first")
        return super().infer(*ins)

    def _power(self, x: Any, one: Any) -> Any:
        n, result = -self.n if self.n < 0 else self.n, None
        while n:
            if n & 1:
                result = x if result is None else result * x
            n >>= 1
            if n:
                x = x * x
        result = one if result is None else result
        return one / result if self.n < 0 else result

    def body(self, e: Elements, *x: Element) -> Element:
        result: Element = self._power(x[0], e.const(1, x[0].dtype))
        return result

    def numpy(self, *x: Array) -> Array:
        return np.asarray(self._power(x[0], np.ones_like(x[0])))

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (None if self.n == 0 else float(self.n) * pow(primals[0], self.n - 1),)

    @classmethod
    def samples(cls) -> Iterable[Operator]:
        return cls(2), cls(3), cls(7), cls(0), cls(-1), cls(-2)


class _Extremum(Pointwise):
    arity = 2
    tested = ("f32", "f64", "bf16", "i32", "u8", "bool")

    def _half(self, x: Tensor, y: Tensor, out: Tensor) -> Tensor:
        # 1 where x is the result, 1/2 where both are: the two partial derivatives always add to 1.
        one, half, none = (operands(value, out)[0] for value in (1.0, 0.5, 0.0))
        return where(x == y, half, where(x == out, one, none))

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        x, y = (cast(p, out.dtype) for p in primals)
        return self._half(x, y, out), self._half(y, x, out)


@register
@dataclass(frozen=True)
class Maximum(_Extremum):
    """The larger of x and y; NaN if either is."""

    name = "maximum"

    def body(self, e: Elements, *x: Element) -> Element:
        return x[0] | x[1] if x[0].dtype == "bool" else e.max(x[0], x[1])

    def numpy(self, *x: Array) -> Array:
        return np.asarray(np.maximum(x[0], x[1]))


@register
@dataclass(frozen=True)
class Minimum(_Extremum):
    """The smaller of x and y; NaN if either is."""

    name = "minimum"

    def body(self, e: Elements, *x: Element) -> Element:
        return x[0] & x[1] if x[0].dtype == "bool" else e.min(x[0], x[1])

    def numpy(self, *x: Array) -> Array:
        return np.asarray(np.minimum(x[0], x[1]))


@register
@dataclass(frozen=True)
class Neg(Pointwise):
    """-x."""

    name = "neg"
    accepts = "float int uint"
    tested = ("f32", "f64", "fp8_e4m3", "i8", "u8")

    def body(self, e: Elements, *x: Element) -> Element:
        return -x[0]

    def numpy(self, *x: Array) -> Array:
        return np.asarray(-x[0])

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (-1.0,)


@register
@dataclass(frozen=True)
class Abs(Pointwise):
    """|x|; the least int stays as it is."""

    name = "abs"
    accepts = "float int uint"
    tested = ("f32", "f64", "bf16", "i8", "u8")

    def body(self, e: Elements, *x: Element) -> Element:
        return x[0] if as_dtype(x[0].dtype).kind == "uint" else e.abs(x[0])

    def numpy(self, *x: Array) -> Array:
        return np.asarray(np.abs(x[0]))

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (sign(primals[0]),)


@register
@dataclass(frozen=True)
class Sign(Pointwise):
    """-1, 0 or 1; NaN for NaN."""

    name = "sign"
    accepts = "float int uint"
    tested = ("f32", "bf16", "i32", "u8")

    def body(self, e: Elements, *x: Element) -> Element:
        zero, one = e.const(0, x[0].dtype), e.const(1, x[0].dtype)
        if as_dtype(x[0].dtype).kind == "uint":
            return e.select(x[0] > zero, one, zero)
        return e.select(x[0] > zero, one, e.select(x[0] < zero, -one, x[0]))

    def numpy(self, *x: Array) -> Array:
        return np.where(x[0] == 0, x[0], np.sign(x[0]))

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        return (None,)


# The functions --------------------------------------------------------------------------------------------------------


def add(x: TensorLike, y: TensorLike) -> Tensor:
    """x + y, broadcast."""
    return apply(Add(), *operands(x, y))


def sub(x: TensorLike, y: TensorLike) -> Tensor:
    """x - y, broadcast."""
    return apply(Sub(), *operands(x, y))


def mul(x: TensorLike, y: TensorLike) -> Tensor:
    """x * y, broadcast."""
    return apply(Mul(), *operands(x, y))


def div(x: TensorLike, y: TensorLike) -> Tensor:
    """x / y, broadcast; of ints in f32."""
    return apply(Div(), *operands(x, y))


def floordiv(x: TensorLike, y: TensorLike) -> Tensor:
    """x // y, rounded down."""
    return apply(FloorDiv(), *operands(x, y))


def mod(x: TensorLike, y: TensorLike) -> Tensor:
    """x % y, with the sign of y."""
    return apply(Mod(), *operands(x, y))


def pow(x: TensorLike, y: TensorLike) -> Tensor:
    """x ** y. A Python int exponent up to 64 in size multiplies (exact for ints); other exponents are for floats."""
    if isinstance(y, int) and not isinstance(y, bool) and -64 <= y <= 64 and isinstance(x, Tensor):
        base = x if x.dtype.kind != "bool" else cast(x, "i64")
        return base if y == 1 else apply(IntPow(y), base)
    if isinstance(y, float) and y == 0.5:
        return operators.sqrt(x)
    a, b = operands(x, y)
    if a.dtype.is_int and b.dtype.is_int:
        raise SourceError("E303", f"pow of {a.dtype} needs a constant exponent from -64 to 64",
                          help="cast the base to a float")
    return apply(Pow(), a, b)


def maximum(x: TensorLike, y: TensorLike) -> Tensor:
    """The larger element; NaN if either is."""
    return apply(Maximum(), *operands(x, y))


def minimum(x: TensorLike, y: TensorLike) -> Tensor:
    """The smaller element; NaN if either is."""
    return apply(Minimum(), *operands(x, y))


def clip(x: TensorLike, low: TensorLike | None = None, high: TensorLike | None = None) -> Tensor:
    """min(max(x, low), high); a bound of None is absent."""
    result = as_tensor(x)
    result = result if low is None else maximum(result, low)
    return result if high is None else minimum(result, high)


def neg(x: TensorLike) -> Tensor:
    """-x."""
    return apply(Neg(), as_tensor(x))


def abs(x: TensorLike) -> Tensor:
    """|x|."""
    return apply(Abs(), as_tensor(x))


def sign(x: TensorLike) -> Tensor:
    """-1, 0 or 1."""
    return apply(Sign(), as_tensor(x))


def square(x: TensorLike) -> Tensor:
    """x * x."""
    return pow(as_tensor(x), 2)


def reciprocal(x: TensorLike) -> Tensor:
    """1 / x."""
    return div(1.0, as_tensor(x))


subtract, multiply, divide, power, negative = sub, mul, div, pow, neg
