"""The scalar language in which an operator says what one element of its output is.

`Elements` is a builder: an operator's `element` method calls it and gets back `Element` values. An implementation may
record the calls as IR, or compute them at once. It converts nothing implicitly: both operands of `binary` and `compare`
have one dtype, and operators put `cast` where they want one. Subclasses supply the methods marked abstract; everything
else is defined here in terms of them.

Meaning of the primitives, per dtype:
  * ints wrap; `floordiv` and `mod` are for ints only, floor as in Python, and give 0 for a divisor of 0; `pow` is for
    floats only; shifts take the count modulo the width; `shr` is arithmetic for signed ints;
  * `max` and `min` propagate NaN; `round` is to nearest, ties to even; comparisons with NaN are false but for `ne`;
  * bool has and, or, xor, not, eq, ne, and the reductions `and` and `or`;
  * `cast` is tessera.arrays.convert on one element;
  * f32 and f64 are the only floats computed in; narrow floats and ints of 4 bits are only read, selected, cast and
    written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tessera.shapes import Dim

__all__ = ["BINARY", "COMPARE", "Element", "Elements", "Index", "REDUCE", "Read", "UNARY"]

UNARY = ("neg", "abs", "exp", "exp2", "log", "log2", "log1p", "expm1", "sqrt", "rsqrt", "tanh", "erf", "sin", "cos",
         "floor", "ceil", "round", "trunc", "not", "isnan")
BINARY = ("add", "sub", "mul", "div", "floordiv", "mod", "max", "min", "pow", "and", "or", "xor", "shl", "shr")
COMPARE = ("lt", "le", "gt", "ge", "eq", "ne")
REDUCE = ("add", "mul", "max", "min", "and", "or")

Number = int | float | bool


class Element:
    """One scalar value. `dtype` is an element type's name; `value` is whatever the builder keeps."""

    __slots__ = ("builder", "dtype", "value")

    def __init__(self, builder: Elements, dtype: str, value: Any) -> None:
        self.builder = builder
        self.dtype = dtype
        self.value = value

    def _with(self, other: Element | Number) -> Element:
        return other if isinstance(other, Element) else self.builder.const(other, self.dtype)

    def _binary(self, kind: str, other: Element | Number, swap: bool = False) -> Element:
        right = self._with(other)
        return self.builder.binary(kind, right, self) if swap else self.builder.binary(kind, self, right)

    def __add__(self, other: Element | Number) -> Element:
        return self._binary("add", other)

    def __radd__(self, other: Number) -> Element:
        return self._binary("add", other, swap=True)

    def __sub__(self, other: Element | Number) -> Element:
        return self._binary("sub", other)

    def __rsub__(self, other: Number) -> Element:
        return self._binary("sub", other, swap=True)

    def __mul__(self, other: Element | Number) -> Element:
        return self._binary("mul", other)

    def __rmul__(self, other: Number) -> Element:
        return self._binary("mul", other, swap=True)

    def __truediv__(self, other: Element | Number) -> Element:
        return self._binary("div", other)

    def __rtruediv__(self, other: Number) -> Element:
        return self._binary("div", other, swap=True)

    def __floordiv__(self, other: Element | Number) -> Element:
        return self._binary("floordiv", other)

    def __mod__(self, other: Element | Number) -> Element:
        return self._binary("mod", other)

    def __and__(self, other: Element | Number) -> Element:
        return self._binary("and", other)

    def __or__(self, other: Element | Number) -> Element:
        return self._binary("or", other)

    def __xor__(self, other: Element | Number) -> Element:
        return self._binary("xor", other)

    def __lshift__(self, other: Element | Number) -> Element:
        return self._binary("shl", other)

    def __rshift__(self, other: Element | Number) -> Element:
        return self._binary("shr", other)

    def __neg__(self) -> Element:
        return self.builder.unary("neg", self)

    def __invert__(self) -> Element:
        return self.builder.unary("not", self)

    def __lt__(self, other: Element | Number) -> Element:
        return self.builder.compare("lt", self, self._with(other))

    def __le__(self, other: Element | Number) -> Element:
        return self.builder.compare("le", self, self._with(other))

    def __gt__(self, other: Element | Number) -> Element:
        return self.builder.compare("gt", self, self._with(other))

    def __ge__(self, other: Element | Number) -> Element:
        return self.builder.compare("ge", self, self._with(other))

    # `==` builds a comparison, as in every embedded language; elements are therefore not hashable.
    def __eq__(self, other: object) -> Element:  # type: ignore[override]
        return self.builder.compare("eq", self, self._with(other))  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Element:  # type: ignore[override]
        return self.builder.compare("ne", self, self._with(other))  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError("an Element has no truth value; use Elements.select")


Index = Element
"""An element of dtype i64 that counts along an axis."""


class Read(Protocol):
    """Reads one input of the operator."""

    def __call__(self, *indices: Index, where: Element | None = None) -> Element:
        """The element at `indices` (one per axis), in the input's own dtype. Where `where` (a bool element) is false
        the value is 0 and memory is not touched, so the indices may then be out of range."""


class Elements(ABC):
    """Builder of scalar computations; see the module's text for the meaning of each kind."""

    # Primitives ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def const(self, value: Number, dtype: str) -> Element:
        """A constant; `value` is rounded to `dtype`."""

    @abstractmethod
    def index(self, dim: Dim) -> Index:
        """The value of a size, as i64."""

    @abstractmethod
    def unary(self, kind: str, x: Element) -> Element:
        """`kind` of UNARY; same dtype out, but bool for isnan."""

    @abstractmethod
    def binary(self, kind: str, a: Element, b: Element) -> Element:
        """`kind` of BINARY; both operands and the result have one dtype."""

    @abstractmethod
    def compare(self, predicate: str, a: Element, b: Element) -> Element:
        """`predicate` of COMPARE on operands of one dtype; a bool."""

    @abstractmethod
    def select(self, condition: Element, a: Element, b: Element) -> Element:
        """`a` where the bool `condition` holds, else `b`; both are evaluated."""

    @abstractmethod
    def fma(self, a: Element, b: Element, c: Element) -> Element:
        """a * b + c rounded once (f32, f64)."""

    @abstractmethod
    def cast(self, x: Element, dtype: str) -> Element:
        """The value in another element type; `x` itself when it has that type."""

    @abstractmethod
    def bitcast(self, x: Element, dtype: str) -> Element:
        """The bits of the value as another element type of the same storage."""

    @abstractmethod
    def reduce(self, kind: str, sizes: Sequence[Dim], body: Callable[..., Element]) -> Element:
        """`kind` of REDUCE over the box of `sizes`; `body(*indices)` gives the terms. An empty box gives the identity:
        0, 1, the least and greatest value (for floats: -inf and inf), true, false."""

    @abstractmethod
    def argreduce(self, kind: str, size: Dim, body: Callable[[Index], Element]) -> Index:
        """The i64 index of the first largest ("argmax") or smallest ("argmin") term; a NaN wins over every number; 0
        when there is no term."""

    # In terms of them ---------------------------------------------------------------------------------------------

    def exp(self, x: Element) -> Element:
        return self.unary("exp", x)

    def exp2(self, x: Element) -> Element:
        return self.unary("exp2", x)

    def log(self, x: Element) -> Element:
        return self.unary("log", x)

    def log2(self, x: Element) -> Element:
        return self.unary("log2", x)

    def log1p(self, x: Element) -> Element:
        return self.unary("log1p", x)

    def expm1(self, x: Element) -> Element:
        return self.unary("expm1", x)

    def sqrt(self, x: Element) -> Element:
        return self.unary("sqrt", x)

    def rsqrt(self, x: Element) -> Element:
        return self.unary("rsqrt", x)

    def tanh(self, x: Element) -> Element:
        return self.unary("tanh", x)

    def erf(self, x: Element) -> Element:
        return self.unary("erf", x)

    def sin(self, x: Element) -> Element:
        return self.unary("sin", x)

    def cos(self, x: Element) -> Element:
        return self.unary("cos", x)

    def floor(self, x: Element) -> Element:
        return self.unary("floor", x)

    def ceil(self, x: Element) -> Element:
        return self.unary("ceil", x)

    def round(self, x: Element) -> Element:
        return self.unary("round", x)

    def trunc(self, x: Element) -> Element:
        return self.unary("trunc", x)

    def abs(self, x: Element) -> Element:
        return self.unary("abs", x)

    def neg(self, x: Element) -> Element:
        return self.unary("neg", x)

    def logical_not(self, x: Element) -> Element:
        return self.unary("not", x)

    def isnan(self, x: Element) -> Element:
        return self.unary("isnan", x)

    def max(self, a: Element, b: Element) -> Element:
        return self.binary("max", a, b)

    def min(self, a: Element, b: Element) -> Element:
        return self.binary("min", a, b)

    def pow(self, a: Element, b: Element) -> Element:
        return self.binary("pow", a, b)

    def add(self, a: Element, b: Element) -> Element:
        return self.binary("add", a, b)

    def sub(self, a: Element, b: Element) -> Element:
        return self.binary("sub", a, b)

    def mul(self, a: Element, b: Element) -> Element:
        return self.binary("mul", a, b)

    def div(self, a: Element, b: Element) -> Element:
        return self.binary("div", a, b)

    def zero(self) -> Index:
        """The index 0."""
        return self.const(0, "i64")

    def sum(self, sizes: Sequence[Dim], body: Callable[..., Element]) -> Element:
        return self.reduce("add", sizes, body)
