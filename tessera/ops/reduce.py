"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from tessera.arrays import Array, convert, dtype_of, widen
from tessera.composed import Composed
from tessera.dtypes import DType, bool_, f64, i64
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.families import Reduction, check_arity, check_axes, check_kind, floating, integer_sum
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, Operator, register
from tessera.ops.compare import equal
from tessera.ops.create import full
from tessera.ops.select import cast, where
from tessera.shapes import Dim, product
from tessera.tensor import Tensor, TensorLike, as_tensor
from tessera.types import TensorType

__all__ = ["all", "amax", "amin", "any", "argmax", "argmin", "max", "mean", "min", "prod", "sum", "var"]

T = TensorType.parse
Axis = int | Sequence[int] | None


def axes_of(name: str, x: Tensor, axis: Axis, dim: Axis = None) -> tuple[int, ...]:
    """The axes meant by `axis` (or its other name `dim`): all for None."""
    if dim is not None:
        if axis is not None:
            raise SourceError("E305", f"{name} was given both axis and dim", help="they are two names of one argument")
        axis = dim
    if axis is None:
        return tuple(range(x.ndim))
    return check_axes(name, axis if isinstance(axis, (tuple, list)) else (axis,), x.ndim)


@register
@dataclass(frozen=True)
class Sum(Reduction):
    """The sum over axes, accumulated in f32 (f64 for f64, 64 bits for ints)."""

    name = "sum"
    kind = "add"
    rounds = True
    accumulates = True
    tested = ("f32", "f64", "bf16", "fp8_e4m3", "i32", "u8", "bool")

    def result(self, dtype: DType) -> DType:
        return integer_sum(dtype)

    def accumulate(self, dtype: DType) -> DType:
        return dtype.accum if dtype.is_float else integer_sum(dtype)

    def numpy(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        precise = np.float64 if x.dtype.kind == "f" else x.dtype
        return np.asarray(np.sum(x, axes, dtype=precise, keepdims=keepdims)).astype(x.dtype)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        (x,) = primals
        return (self.kept(cts[0]).broadcast_to(*x.shape) if x.dtype.is_float else None,)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        return None if tangents[0] is None else apply(self, tangents[0])


@register
@dataclass(frozen=True)
class Prod(Reduction):
    """The product over axes, accumulated like a sum."""

    name = "prod"
    kind = "mul"
    rounds = True
    accumulates = True
    tested = ("f32", "f64", "bf16", "i32", "u8")

    def result(self, dtype: DType) -> DType:
        return integer_sum(dtype)

    def accumulate(self, dtype: DType) -> DType:
        return dtype.accum if dtype.is_float else integer_sum(dtype)

    def numpy(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        precise = np.float64 if x.dtype.kind == "f" else x.dtype
        return np.asarray(np.prod(x, axes, dtype=precise, keepdims=keepdims)).astype(x.dtype)

    def _others(self, x: Tensor) -> Tensor:
        """For each element the product of the others, right also where elements are 0."""
        zero = equal(x, 0.0)
        factors = where(zero, full((), 1.0, x.dtype), x)
        rest = apply(Prod(self.axes, True), factors)
        zeros = apply(Sum(self.axes, True), cast(zero, x.dtype))
        none = equal(zeros, 0.0)
        alone = zero & equal(zeros, 1.0)
        empty = full((), 0.0, x.dtype)
        return where(none, rest / factors, where(alone, rest, empty))

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        (x,) = primals
        return (self.kept(cts[0]) * self._others(x) if x.dtype.is_float else None,)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        if tangents[0] is None:
            return None
        return apply(Sum(self.axes, self.keepdims), tangents[0] * self._others(primals[0]))


class _Extreme(Reduction):
    def _share(self, x: Tensor, out: Tensor) -> Tensor:
        """1 / count at each of the winners: ties share the derivative."""
        won = cast(equal(x, self.kept(out)), out.dtype)
        return won / apply(Sum(self.axes, True), won)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        (x,) = primals
        return (self.kept(cts[0]) * self._share(x, outs[0]) if x.dtype.is_float else None,)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        if tangents[0] is None:
            return None
        return apply(Sum(self.axes, self.keepdims), tangents[0] * self._share(primals[0], outs[0]))


def _bound(dtype: DType, least: bool) -> Any:
    return np.asarray(dtype.min_value if least else dtype.max_value).astype(dtype.numpy)


@register
@dataclass(frozen=True)
class Max(_Extreme):
    """The largest element; NaN if there is one; the least value of the type over nothing."""

    name = "max"
    kind = "max"
    accepts = "float int uint"
    tested = ("f32", "f64", "bf16", "i32", "u8")

    def numpy(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        return np.asarray(np.max(x, axes, keepdims=keepdims, initial=_bound(dtype_of(x), True)))


@register
@dataclass(frozen=True)
class Min(_Extreme):
    """The smallest element; NaN if there is one; the greatest value of the type over nothing."""

    name = "min"
    kind = "min"
    accepts = "float int uint"
    tested = ("f32", "f64", "bf16", "i32", "u8")

    def numpy(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        return np.asarray(np.min(x, axes, keepdims=keepdims, initial=_bound(dtype_of(x), False)))


@register
@dataclass(frozen=True)
class AnyOf(Reduction):
    """Whether some element is true (not zero)."""

    name = "any"
    kind = "or"
    differentiable = False
    tested = ("bool", "f32", "i32")

    def result(self, dtype: DType) -> DType:
        return bool_

    def accumulate(self, dtype: DType) -> DType:
        return bool_

    def numpy(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        return np.asarray(np.any(x, axes, keepdims=keepdims))


@register
@dataclass(frozen=True)
class AllOf(Reduction):
    """Whether every element is true (not zero)."""

    name = "all"
    kind = "and"
    differentiable = False
    tested = ("bool", "f32", "i32")

    def result(self, dtype: DType) -> DType:
        return bool_

    def accumulate(self, dtype: DType) -> DType:
        return bool_

    def numpy(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        return np.asarray(np.all(x, axes, keepdims=keepdims))


class _Arg(Operator):
    """The index of the first winner along an axis; NaN wins; 0 where there is no element."""

    differentiable = False
    axis: int
    keepdims: bool
    function: ClassVar[object]

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 1)
        check_kind(self.name, "float int uint", *ins)
        check_axes(self.name, (self.axis,), ins[0].rank)
        dims = ins[0].dims
        kept = (1,) if self.keepdims else ()
        return TensorType((*dims[: self.axis], *kept, *dims[self.axis + 1:]), i64)

    def ref(self, *ins: Array) -> Array:
        x = widen(ins[0])
        if x.shape[self.axis] == 0:
            out = np.zeros([*x.shape[: self.axis], 1, *x.shape[self.axis + 1:]], np.int64)
        else:
            out = np.expand_dims(type(self).function(x, self.axis), self.axis).astype(np.int64)  # type: ignore[operator]
        return out if self.keepdims else np.squeeze(out, self.axis)

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        (x,) = ins
        rest = idx[self.axis + 1:] if self.keepdims else idx[self.axis:]

        def body(i: Index) -> Element:
            return e.cast(reads[0](*idx[: self.axis], i, *rest), x.dtype.wide.name)

        return e.argreduce(self.name, x.dims[self.axis], body)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(replace(self, axis=self.axis + 1), xs[0])  # type: ignore[type-var]

    @classmethod
    def cases(cls) -> Iterable[Case]:
        for dtype in ("f32", "bf16", "i32", "u8"):
            yield Case(cls(1), (T(f"{dtype}[A, B]"),))  # type: ignore[call-arg]
        yield Case(cls(0, True), (T("f32[A, B]"),))  # type: ignore[call-arg]
        yield Case(cls(0), (T("f64[N]"),))  # type: ignore[call-arg]


@register
@dataclass(frozen=True)
class Argmax(_Arg):
    """The index of the first largest element along `axis`."""

    axis: int
    keepdims: bool = False
    name = "argmax"
    function = np.argmax


@register
@dataclass(frozen=True)
class Argmin(_Arg):
    """The index of the first smallest element along `axis`."""

    axis: int
    keepdims: bool = False
    name = "argmin"
    function = np.argmin


@register
@dataclass(frozen=True)
class Mean(Composed):
    """The sum over axes divided by the number of elements, rounded once. Ints and bools give f32; nothing gives NaN."""

    axes: tuple[int, ...]
    keepdims: bool = False
    name = "mean"

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 1)
        total = Sum(self.axes, self.keepdims).infer(ins[0].with_dtype(f64))
        return total.with_dtype(floating(ins[0].dtype))

    def ref(self, *ins: Array) -> Array:
        dtype = dtype_of(ins[0])
        x = convert(ins[0], floating(dtype).wide).astype(np.float64)
        count = product(x.shape[i] for i in self.axes)
        return convert(np.sum(x, self.axes, keepdims=self.keepdims) / np.float64(count), floating(dtype))

    def compose(self, *xs: Tensor) -> Tensor:
        (x,) = xs
        count = product(x.shape[i] for i in self.axes)
        wide = cast(x, floating(x.dtype).wide)
        return cast(apply(Sum(self.axes, self.keepdims), wide) / full((), count, wide.dtype), floating(x.dtype))

    @classmethod
    def cases(cls) -> Iterable[Case]:
        for dtype in ("f32", "f64", "bf16", "i32"):
            yield Case(cls((1,)), (T(f"{dtype}[A, B]"),))
        yield Case(cls((0, 2), True), (T("f32[A, B, C]"),))
        yield Case(cls(()), (T("f32[N]"),))


def sum(x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None) -> Tensor:
    """The sum over `axis` (an int, several, or None for all; negative ones count from the end)."""
    value = as_tensor(x)
    return apply(Sum(axes_of("sum", value, axis, dim), keepdims), value)


def prod(x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None) -> Tensor:
    """The product over `axis`."""
    value = as_tensor(x)
    return apply(Prod(axes_of("prod", value, axis, dim), keepdims), value)


def max(x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None) -> Tensor:
    """The largest element over `axis`."""
    value = as_tensor(x)
    return apply(Max(axes_of("max", value, axis, dim), keepdims), value)


def min(x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None) -> Tensor:
    """The smallest element over `axis`."""
    value = as_tensor(x)
    return apply(Min(axes_of("min", value, axis, dim), keepdims), value)


def mean(x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None) -> Tensor:
    """The mean over `axis`."""
    value = as_tensor(x)
    return apply(Mean(axes_of("mean", value, axis, dim), keepdims), value)


def var(x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None) -> Tensor:
    """The variance over `axis` (divided by the number of elements), computed from the centred values."""
    value = as_tensor(x)
    axes = axes_of("var", value, axis, dim)
    result = floating(value.dtype)
    wide = cast(value, result.wide)
    centred = wide - mean(wide, axes, True)
    return cast(mean(centred * centred, axes, keepdims), result)


def any(x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None) -> Tensor:
    """Whether some element is true over `axis`."""
    value = as_tensor(x)
    return apply(AnyOf(axes_of("any", value, axis, dim), keepdims), value)


def all(x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None) -> Tensor:
    """Whether every element is true over `axis`."""
    value = as_tensor(x)
    return apply(AllOf(axes_of("all", value, axis, dim), keepdims), value)


def _arg(cls: type[Argmax] | type[Argmin], x: TensorLike, axis: int | None, keepdims: bool, dim: int | None) -> Tensor:
    value = as_tensor(x)
    axis = axis if dim is None else dim
    if axis is None:
        return apply(cls(0, False), value.flatten())
    return apply(cls(check_axes(cls.name, (axis,), value.ndim)[0], keepdims), value)


def argmax(x: TensorLike, axis: int | None = None, keepdims: bool = False, *, dim: int | None = None) -> Tensor:
    """The index (i64) of the first largest element along `axis`; over all elements, flattened, for None."""
    return _arg(Argmax, x, axis, keepdims, dim)


def argmin(x: TensorLike, axis: int | None = None, keepdims: bool = False, *, dim: int | None = None) -> Tensor:
    """The index (i64) of the first smallest element along `axis`; over all elements, flattened, for None."""
    return _arg(Argmin, x, axis, keepdims, dim)


amax, amin = max, min
