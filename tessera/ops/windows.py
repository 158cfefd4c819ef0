"""Sliding windows over one axis, and their adjoint: what pooling is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from tessera.arrays import Array, convert, dtype_of
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.families import View, check_arity, check_axes, check_kind
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, Operator, register
from tessera.shapes import Dim, symbol
from tessera.tensor import Tensor
from tessera.types import TensorType

__all__: list[str] = []

T = TensorType.parse


def window_count(length: Dim, size: int, stride: int) -> Dim:
    """How many windows of `size` fit into `length` places, one every `stride`."""
    return (length - size) // stride + 1


def _check(op: Windows | Overlap, x: TensorType, last: int) -> None:
    if check_axes(op.name, (op.axis,), x.rank - last)[0] != op.axis:
        raise SourceError("E304", f"{op.name} needs its axis counted from 0, got {op.axis}")
    if op.size < 1 or op.stride < 1:
        raise SourceError("E305", f"windows of size {op.size}, one every {op.stride}", help="both are 1 or more")


@register
@dataclass(frozen=True)
class Windows(View):
    """Axis `axis` of n places becomes the number of the window, and a last axis the place in it:
    y[.., i, .., k] = x[.., i * stride + k, ..]. The adjoint is Overlap."""

    axis: int
    size: int
    stride: int
    name = "windows"

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 1)
        (x,) = ins
        _check(self, x, 0)
        count = window_count(x.dims[self.axis], self.size, self.stride)
        if isinstance(count, int) and count < 1:
            raise SourceError("E302", f"windows of {self.size} places in {x}, whose axis {self.axis} is shorter",
                              help="windows are no longer than the padded axis")
        return TensorType((*x.dims[: self.axis], count, *x.dims[self.axis + 1 :], self.size), x.dtype)

    def ref(self, *ins: Array) -> Array:
        (x,) = ins
        found = np.lib.stride_tricks.sliding_window_view(x, self.size, self.axis)
        return np.array(found[(slice(None),) * self.axis + (slice(None, None, self.stride),)])

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        places = list(idx[:-1])
        places[self.axis] = places[self.axis] * self.stride + idx[-1]
        return tuple(places), None

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (apply(Overlap(self.axis, self.size, self.stride, primals[0].shape[self.axis]), cts[0]),)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(replace(self, axis=self.axis + 1), xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        some = {"N": (3, 7)}
        yield Case(cls(0, 3, 1), (T("f32[N]"),), sizes=some)
        yield Case(cls(1, 2, 2), (T("f32[A, N, 3]"),), sizes=some)
        yield Case(cls(0, 3, 2), (T("i32[N, B]"),), sizes=some)
        yield Case(cls(0, 2, 3), (T("bf16[N]"),), sizes=some)


@register
@dataclass(frozen=True)
class Overlap(Operator):
    """Windows put back and added up: y[.., p, ..] = sum over k of x[.., (p - k) / stride, .., k], where that is a
    window. The adjoint is Windows. `length` is the size of y's axis. Narrow types are added up in f32."""

    axis: int
    size: int
    stride: int
    length: Dim
    name = "overlap"
    rounds = True
    accumulates = True

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 1)
        check_kind(self.name, "float", *ins)
        (x,) = ins
        _check(self, x, 1)
        return TensorType((*x.dims[: self.axis], self.length, *x.dims[self.axis + 1 : -1]), x.dtype.base)

    def ref(self, *ins: Array) -> Array:
        (x,) = ins
        result = self.infer(TensorType(x.shape, dtype_of(x)))
        wide = convert(x, result.dtype.wide)
        total = np.zeros(result.dims, wide.dtype)
        before = (slice(None),) * self.axis
        for k in range(self.size):
            at = (*before, slice(k, k + (x.shape[self.axis] - 1) * self.stride + 1, self.stride))
            total[at] += wide[..., k]
        return convert(total, result.dtype)

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        (x,) = ins
        wide = x.dtype.wide.name

        def body(k: Index) -> Element:
            place = idx[self.axis] - k
            ok = place >= e.zero()
            if self.stride > 1:
                ok = ok & (place % self.stride == e.zero())
                place = place // self.stride
            ok = ok & (place < e.index(x.dims[self.axis]))
            places = [*idx[: self.axis], place, *idx[self.axis + 1 :], k]
            return e.cast(reads[0](*places, where=ok), wide)

        return e.cast(e.reduce("add", (self.size,), body), x.dtype.base.name)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (apply(Windows(self.axis, self.size, self.stride), cts[0]),)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        return None if tangents[0] is None else apply(self, tangents[0])

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(replace(self, axis=self.axis + 1), xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        n = symbol("N")
        some = {"N": (1, 5)}
        yield Case(cls(0, 3, 1, n + 2), (T("f32[N, 3]"),), sizes=some)
        yield Case(cls(1, 2, 2, n * 2), (T("f32[A, N, 3, 2]"),), sizes=some)
        yield Case(cls(0, 3, 2, n * 2 + 2), (T("bf16[N, 3]"),), sizes=some)
