"""Tensors out of nothing: constants and counting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.arrays import Array, convert
from tessera.dtypes import DType, as_dtype, bool_, f32, i64
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.families import check_arity
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, Operator, register
from tessera.ops.compare import equal
from tessera.ops.select import cast
from tessera.shapes import Dim, Expr, ceildiv, symbol
from tessera.tensor import Tensor, TensorLike, as_tensor, operators
from tessera.types import TensorType

__all__ = ["arange", "eye", "full", "full_like", "iota", "one_hot", "ones", "ones_like",
           "stop_gradient", "zeros", "zeros_like"]


def as_dims(name: str, values: tuple[Any, ...]) -> tuple[Dim, ...]:
    """Sizes given one by one or as one sequence; E305 for what is not a size."""
    sizes: Sequence[Any] = values
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        sizes = values[0]
    out: list[Dim] = []
    for value in sizes:
        if isinstance(value, Expr):
            out.append(value)
        elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            out.append(int(value))
        else:
            raise SourceError("E305", f"{name}: {value!r} is not a size",
                              help="sizes are ints or sizes taken from a shape")
    return tuple(out)


def _checked(name: str, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
    for dim in dims:
        if isinstance(dim, int) and dim < 0:
            raise SourceError("E305", f"{name}: a size cannot be {dim}")
    return dims


def _no_tangent(ins: tuple[Tensor, ...]) -> None:
    """An operator without operands has no derivative to propagate."""
    assert not ins


@register
@dataclass(frozen=True)
class Full(Operator):
    """Every element is `value`, a number or a size."""

    shape: tuple[Dim, ...]
    value: int | float | bool | Expr
    dtype: str = "f32"
    name = "full"
    differentiable = False

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 0)
        return TensorType(_checked(self.name, self.shape), as_dtype(self.dtype).base)

    def ref(self, *ins: Array) -> Array:
        # Numbers beyond the type wrap or saturate as casts do.
        value = np.asarray(self.value)
        return np.array(np.broadcast_to(convert(value, as_dtype(self.dtype)), self.shape))  # type: ignore[arg-type]

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        if isinstance(self.value, Expr):
            return e.cast(e.index(self.value), self.dtype)
        return e.const(self.value, self.dtype)

    @classmethod
    def cases(cls) -> Iterable[Case]:
        a, b = symbol("A"), symbol("B")
        yield Case(cls((a, b), 0.1), ())
        yield Case(cls((a,), 0.1, "bf16"), ())
        yield Case(cls((a,), -3, "i8"), ())
        yield Case(cls((), True, "bool"), ())
        yield Case(cls((a,), a * 3, "f32"), ())


@register
@dataclass(frozen=True)
class Iota(Operator):
    """0, 1, 2, ... `size` - 1."""

    size: Dim
    dtype: str = "i64"
    name = "iota"
    differentiable = False

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 0)
        dtype = as_dtype(self.dtype).base
        if dtype == bool_:
            raise SourceError("E303", "iota does not give bool", help="use an int or a float type")
        return TensorType(_checked(self.name, (self.size,)), dtype)

    def ref(self, *ins: Array) -> Array:
        return convert(np.arange(int(self.size), dtype=np.int64), as_dtype(self.dtype))

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        return e.cast(idx[0], self.dtype)

    @classmethod
    def cases(cls) -> Iterable[Case]:
        n = symbol("N")
        for dtype in ("i64", "i32", "f32", "bf16", "u8"):
            yield Case(cls(n, dtype), ())


@register
@dataclass(frozen=True)
class StopGradient(Operator):
    """x itself; no derivative flows through it."""

    name = "stop_gradient"

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 1)
        return ins[0].with_dtype(ins[0].dtype.base)

    def ref(self, *ins: Array) -> Array:
        return ins[0]

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        return reads[0](*idx)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (None,)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> None:
        return None

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(self, xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls(), (TensorType.parse("f32[A, B]"),), smooth=False)
        yield Case(cls(), (TensorType.parse("bf16[N]"),), smooth=False)


def full(shape: Any, value: Any, dtype: Any = None) -> Tensor:
    """A tensor of one value. Without `dtype`: f32 for a float, i64 for an int, bool for a bool."""
    if isinstance(value, Tensor):
        return operators.broadcast_to(value if dtype is None else cast(value, dtype), *as_dims("full", (shape,)))
    target: DType = as_dtype(dtype) if dtype is not None else (
        bool_ if isinstance(value, bool) else f32 if isinstance(value, float) else i64)
    dims = as_dims("full", (shape,))
    number = value.item() if isinstance(value, np.generic) else value
    return apply(Full(dims, _representable(number, target), target.base.name))


def _representable(value: Any, dtype: DType) -> Any:
    """`value`; as a float where it is an int beyond every int type. E303 where there is no such float either."""
    if not isinstance(value, int) or -(2**63) <= value < 2**64:
        return value
    try:
        if dtype.is_float:
            return float(value)
    except OverflowError:
        pass
    raise SourceError("E303", f"an int of {value.bit_length()} bits does not fit {dtype}")


def zeros(*shape: Any, dtype: Any = f32) -> Tensor:
    """Zeros; the shape as ints or one tuple."""
    return _constant(shape, 0, dtype)


def ones(*shape: Any, dtype: Any = f32) -> Tensor:
    """Ones; the shape as ints or one tuple."""
    return _constant(shape, 1, dtype)


def _constant(shape: tuple[Any, ...], value: int, dtype: Any) -> Tensor:
    # ts.zeros((4, 4), ts.f32): the element type may follow the shape.
    if len(shape) == 2 and isinstance(shape[0], (tuple, list)):
        dtype = shape[1]
        shape = shape[:1]
    target = as_dtype(dtype).base
    number = bool(value) if target == bool_ else float(value) if target.is_float else value
    return apply(Full(as_dims("full", shape), number, target.name))


def full_like(x: Tensor, value: Any, dtype: Any = None) -> Tensor:
    """A constant of x's shape and, unless given, element type."""
    return full(x.shape, value, x.dtype if dtype is None else dtype)


def zeros_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Zeros of x's shape."""
    return _constant((x.shape,), 0, x.dtype if dtype is None else dtype)


def ones_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Ones of x's shape."""
    return _constant((x.shape,), 1, x.dtype if dtype is None else dtype)


def iota(size: Any, dtype: Any = i64) -> Tensor:
    """0, 1, ... size - 1."""
    return apply(Iota(as_dims("iota", (size,))[0], as_dtype(dtype).base.name))


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Tensor:
    """start, start + step, ... below stop; with one argument from 0. i64, or f32 if an argument is a float."""
    if stop is None:
        start, stop = 0, start
    floats = any(isinstance(v, float) for v in (start, stop, step))
    target = as_dtype(dtype).base if dtype is not None else f32 if floats else i64
    if isinstance(step, (int, float)) and step == 0:
        raise SourceError("E305", "arange needs a step other than 0")
    count: Dim
    if floats:
        count = max(0, int(np.ceil((stop - start) / step)))
    elif isinstance(step, int) and step < 0:
        count = ceildiv(start - stop, -step)
    else:
        count = ceildiv(stop - start, step)
    if isinstance(count, int):
        count = max(0, count)
    counting = iota(count, f32 if floats else i64)
    if not (isinstance(step, int) and step == 1):
        counting = counting * step
    if not (isinstance(start, int) and start == 0):
        counting = counting + start
    return cast(counting, target)


def eye(size: Any, dtype: Any = f32) -> Tensor:
    """The identity matrix."""
    counting = iota(size)
    return cast(equal(counting.expand_dims(1), counting), dtype)


def one_hot(indices: TensorLike, size: Any, dtype: Any = f32) -> Tensor:
    """A new last axis of `size`, 1 at the index and 0 elsewhere (everywhere for an index out of range)."""
    values = as_tensor(indices)
    return cast(equal(values.expand_dims(-1), iota(size, values.dtype)), dtype)


def stop_gradient(x: TensorLike) -> Tensor:
    """x, with derivatives stopped."""
    return apply(StopGradient(), as_tensor(x))


