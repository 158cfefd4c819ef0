"""Views: operators that move elements and compute nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.arrays import Array
from tessera.elements import Element, Elements, Index
from tessera.errors import SourceError
from tessera.families import View, check_arity, check_axes, unbroadcast
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, register
from tessera.ops.create import as_dims
from tessera.shapes import Dim, assume, equal_if_divisible, known_equal, product, symbol
from tessera.tensor import Tensor, TensorLike, as_tensor
from tessera.types import TensorType

__all__ = [
    "broadcast_to", "expand_dims", "permute", "reshape", "squeeze", "swapaxes", "transpose", "unsqueeze",
]

T = TensorType.parse
_A, _B = symbol("A"), symbol("B")


def one_operand(name: str, ins: Sequence[TensorType]) -> TensorType:
    """The type of the only operand, without policies."""
    check_arity(name, ins, 1)
    return ins[0].with_dtype(ins[0].dtype.base)


# Reshape --------------------------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Reshape(View):
    """The same elements in row-major order under another shape."""

    shape: tuple[Dim, ...]
    name = "reshape"

    def infer(self, *ins: TensorType) -> TensorType:
        x = one_operand(self.name, ins)
        needed = equal_if_divisible(x.size, product(self.shape))
        if needed is None or any(isinstance(d, int) and d < 0 for d in self.shape):
            shown = ", ".join(map(str, self.shape))
            raise SourceError("E302", f"reshape of {x} to [{shown}]: {x.size} elements against {product(self.shape)}",
                              help="the number of elements must stay the same")
        assume(needed)
        return TensorType(self.shape, x.dtype)

    def ref(self, *ins: Array) -> Array:
        return ins[0].reshape(self.shape)

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        result: list[Index] = [e.zero()] * x.rank
        for ours, theirs in _groups(self.shape, x.dims):
            if len(ours) == len(theirs) == 1:
                result[theirs[0]] = idx[ours[0]]
                continue
            flat = e.zero() if not ours else idx[ours[0]]
            for axis in ours[1:]:
                flat = flat * e.index(self.shape[axis]) + idx[axis]
            for axis in reversed(theirs[1:]):
                size = e.index(x.dims[axis])
                result[axis] = flat % size
                flat = flat // size
            if theirs:
                result[theirs[0]] = flat
        return tuple(result), None

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (reshape(cts[0], *primals[0].shape),)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(Reshape((size, *self.shape)), xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls((_A * _B,)), (T("f32[A, B]"),))
        yield Case(cls((_A, 3, 1, _B)), (T("bf16[A, 3*B]"),))
        yield Case(cls((_A, 2, _B)), (T("i32[2*A, B]"),))
        yield Case(cls((1,)), (T("f32[]"),))
        yield Case(cls(()), (T("bool[1, 1]"),))
        yield Case(cls((_B, _A)), (T("f64[A, B]"),))


def _groups(ours: Sequence[Dim], theirs: Sequence[Dim]) -> list[tuple[list[int], list[int]]]:
    """Splits two shapes of one size into the shortest runs of axes with equal products; axes of size 1 are left out."""
    a = [i for i, d in enumerate(ours) if d != 1]
    b = [i for i, d in enumerate(theirs) if d != 1]
    groups = []
    while a and b:
        lengths = ((m, n) for total in range(2, len(a) + len(b) + 1) for m in range(1, total)
                   for n in (total - m,) if m <= len(a) and n <= len(b))
        for m, n in lengths:
            if equal_if_divisible(product(ours[i] for i in a[:m]), product(theirs[i] for i in b[:n])) is not None:
                break
        else:
            m, n = len(a), len(b)
        groups.append((a[:m], b[:n]))
        a, b = a[m:], b[n:]
    return groups + ([(a, b)] if a or b else [])


@register
@dataclass(frozen=True)
class ExpandDims(View):
    """New axes of size 1; `axes` are their places in the result."""

    axes: tuple[int, ...]
    name = "expand_dims"

    def infer(self, *ins: TensorType) -> TensorType:
        x = one_operand(self.name, ins)
        rank = x.rank + len(self.axes)
        check_axes(self.name, self.axes, rank)
        old = iter(x.dims)
        return TensorType(tuple(1 if i in self.axes else next(old) for i in range(rank)), x.dtype)

    def ref(self, *ins: Array) -> Array:
        return np.expand_dims(ins[0], self.axes)

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        return tuple(i for axis, i in enumerate(idx) if axis not in self.axes), None

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (apply(Squeeze(self.axes), cts[0]),)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(ExpandDims(tuple(a + 1 for a in self.axes)), xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls((0, 2)), (T("f32[A, B]"),))
        yield Case(cls((0,)), (T("bf16[]"),))


@register
@dataclass(frozen=True)
class Squeeze(View):
    """Without `axes`, which have size 1."""

    axes: tuple[int, ...]
    name = "squeeze"

    def infer(self, *ins: TensorType) -> TensorType:
        x = one_operand(self.name, ins)
        for axis in check_axes(self.name, self.axes, x.rank):
            if not known_equal(x.dims[axis], 1):
                raise SourceError("E302", f"squeeze of {x} along axis {axis}, which has size {x.dims[axis]}, not 1")
        return TensorType(tuple(d for i, d in enumerate(x.dims) if i not in self.axes), x.dtype)

    def ref(self, *ins: Array) -> Array:
        return np.squeeze(ins[0], self.axes)

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        own = iter(idx)
        return tuple(e.zero() if i in self.axes else next(own) for i in range(x.rank)), None

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (apply(ExpandDims(self.axes), cts[0]),) if self.axes else (cts[0],)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(Squeeze(tuple(a + 1 for a in self.axes)), xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls((0, 2)), (T("f32[1, A, 1, B]"),))
        yield Case(cls((0,)), (T("bf16[1]"),))


@register
@dataclass(frozen=True)
class Transpose(View):
    """Axis i of the result is axis `axes[i]` of x."""

    axes: tuple[int, ...]
    name = "transpose"

    def infer(self, *ins: TensorType) -> TensorType:
        x = one_operand(self.name, ins)
        if sorted(self.axes) != list(range(x.rank)):
            raise SourceError("E304", f"transpose of {x} needs each of its {x.rank} axes once, got {self.axes}")
        return TensorType(tuple(x.dims[a] for a in self.axes), x.dtype)

    def ref(self, *ins: Array) -> Array:
        return np.transpose(ins[0], self.axes)

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        return tuple(idx[self.axes.index(i)] for i in range(x.rank)), None

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (apply(Transpose(tuple(self.axes.index(i) for i in range(len(self.axes)))), cts[0]),)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(Transpose((0, *(a + 1 for a in self.axes))), xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls((1, 0)), (T("f32[A, B]"),))
        yield Case(cls((2, 0, 1)), (T("bf16[A, B, 3]"),))
        yield Case(cls(()), (T("f32[]"),))


@register
@dataclass(frozen=True)
class BroadcastTo(View):
    """x repeated to `shape` by NumPy's rule."""

    shape: tuple[Dim, ...]
    name = "broadcast_to"

    def infer(self, *ins: TensorType) -> TensorType:
        x = one_operand(self.name, ins)
        pairs = list(zip(reversed(x.dims), reversed(self.shape), strict=False))
        if x.rank > len(self.shape) or not all(d == 1 or known_equal(d, s) for d, s in pairs):
            raise SourceError("E302", f"broadcast_to cannot repeat {x} to [{', '.join(map(str, self.shape))}]",
                              help="aligned at the right, each axis must be the same size, or 1")
        return TensorType(self.shape, x.dtype)

    def ref(self, *ins: Array) -> Array:
        return np.array(np.broadcast_to(ins[0], self.shape))  # type: ignore[arg-type]

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        own = idx[len(idx) - x.rank:]
        return tuple(e.zero() if d == 1 else i for d, i in zip(x.dims, own, strict=True)), None

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (unbroadcast(cts[0], primals[0].type),)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        axes = tuple(range(1, len(self.shape) + 2 - xs[0].ndim))
        return apply(BroadcastTo((size, *self.shape)), expand_dims(xs[0], axes) if axes else xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls((3, _A, _B)), (T("f32[A, 1]"),))
        yield Case(cls((_A, _B)), (T("bf16[]"),))
        yield Case(cls((_A, _B)), (T("i32[B]"),))


@register
@dataclass(frozen=True)
class Recompute(View):
    """x itself, told apart by `number`: what is computed from it is not what is computed from x."""

    number: int
    name = "recompute"

    def infer(self, *ins: TensorType) -> TensorType:
        return one_operand(self.name, ins)

    def ref(self, *ins: Array) -> Array:
        return ins[0]

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        return idx, None

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (cts[0],)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(self, xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls(0), (T("f32[A, B]"),))
        yield Case(cls(3), (T("bool[N]"),))


# The functions --------------------------------------------------------------------------------------------------------


def reshape(x: TensorLike, *shape: Any) -> Tensor:
    """x under another shape; one size may be -1, the rest then gives it."""
    value = as_tensor(x)
    dims = list(as_dims("reshape", shape))
    unknown = [i for i, d in enumerate(dims) if isinstance(d, int) and d == -1]
    if len(unknown) > 1:
        raise SourceError("E305", "reshape can find one size of -1, not several")
    if unknown:
        known = product(d for i, d in enumerate(dims) if i != unknown[0])
        if isinstance(known, int) and known == 0:
            raise SourceError("E305", "reshape cannot find the size -1 beside a size of 0")
        dims[unknown[0]] = value.size // known
    return value if tuple(dims) == value.shape else apply(Reshape(tuple(dims)), value)


def expand_dims(x: TensorLike, axis: Any) -> Tensor:
    """New axes of size 1 at `axis` (places in the result)."""
    value = as_tensor(x)
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    return apply(ExpandDims(check_axes("expand_dims", axes, value.ndim + len(axes))), value)


def squeeze(x: TensorLike, axis: Any = None) -> Tensor:
    """Without axes of size 1: those given, or all that are known to be 1."""
    value = as_tensor(x)
    if axis is None:
        axes = tuple(i for i, d in enumerate(value.shape) if known_equal(d, 1))
    else:
        axes = check_axes("squeeze", tuple(axis) if isinstance(axis, (tuple, list)) else (axis,), value.ndim)
    return apply(Squeeze(axes), value) if axes else value


def transpose(x: TensorLike, *axes: Any) -> Tensor:
    """No axes: all reversed. Two ints: these two swapped. A sequence, or as many ints as axes: that order."""
    value = as_tensor(x)
    if len(axes) == 1 and axes[0] is None:
        axes = ()
    if not axes:
        return apply(Transpose(tuple(range(value.ndim))[::-1]), value)
    if len(axes) == 2:
        return swapaxes(value, axes[0], axes[1])
    return permute(value, *axes)


def permute(x: TensorLike, *axes: Any) -> Tensor:
    """Axis i of the result is axis `axes[i]` of x."""
    value = as_tensor(x)
    order = tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
    check_axes("transpose", order, value.ndim)
    return apply(Transpose(tuple(int(a) % value.ndim for a in order)), value)


def swapaxes(x: TensorLike, a: int, b: int) -> Tensor:
    """Two axes swapped."""
    value = as_tensor(x)
    order = list(range(value.ndim))
    first, second = (check_axes("transpose", (axis,), value.ndim)[0] for axis in (a, b))
    order[first], order[second] = second, first
    return apply(Transpose(tuple(order)), value)


def broadcast_to(x: TensorLike, *shape: Any) -> Tensor:
    """x repeated to the shape."""
    value = as_tensor(x)
    dims = as_dims("broadcast_to", shape)
    return value if dims == value.shape else apply(BroadcastTo(dims), value)


unsqueeze = expand_dims
