"""Convolution over any number of axes, in groups: one operator whose adjoints are convolutions again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from tessera.arrays import Array, convert, dtype_of
from tessera.dtypes import as_dtype
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.families import check_arity, check_kind, repeated
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, Operator, register
from tessera.ops.linalg import product_type
from tessera.ops.parts import flip
from tessera.ops.views import permute
from tessera.shapes import Dim, known_equal, symbol
from tessera.tensor import Tensor
from tessera.types import TensorType

__all__: list[str] = []

T = TensorType.parse


@register
@dataclass(frozen=True)
class Convolution(Operator):
    """y[n, g, o, i..] = sum over c, k.. of x[n, g, c, (i * stride + k * dilation - low)..] * w[g, o, c, k..].

    `out` are the sizes of y's axes. What lies outside of x is 0. With `spread` s, x has s - 1 zeros between neighbours:
    place p holds element p / s where s divides p. Accumulated as products are; `dtype` as in matmul.

    Adjoints. By x: a convolution of y with w flipped, o and c exchanged, stride and spread exchanged and
    low' = (K - 1) * dilation - low. By w: a convolution of x with y as the kernel, n and c exchanged, stride and
    dilation exchanged, the same low.
    """

    out: tuple[Dim, ...]
    low: tuple[Dim, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    spread: tuple[int, ...]
    dtype: str = ""
    name = "convolution"
    rounds = True
    accumulates = True
    contracts = True

    def unrounded(self, dtype: str) -> Operator:
        return replace(self, dtype=dtype)

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 2)
        check_kind(self.name, "float", *ins)
        x, w = ins
        axes = len(self.out)
        if not axes == len(self.low) == len(self.stride) == len(self.dilation) == len(self.spread):
            raise SourceError("E304", f"convolution has parameters for different numbers of axes: {self}")
        if x.rank != axes + 3 or w.rank != axes + 3:
            raise SourceError("E304", f"convolution over {axes} axes needs operands of rank {axes + 3}, got {x}, {w}")
        if min((*self.stride, *self.dilation, *self.spread), default=1) < 1:
            raise SourceError("E305", "strides and dilations of a convolution are 1 or more")
        if not known_equal(x.dims[1], w.dims[0]) or not known_equal(x.dims[2], w.dims[2]):
            raise SourceError("E302", f"convolution of {x} [batch, groups, in, ..] with {w} [groups, out, in, ..]",
                              help=f"groups are {x.dims[1]} and {w.dims[0]}, inputs {x.dims[2]} and {w.dims[2]}")
        dtype = as_dtype(self.dtype).base if self.dtype else product_type(x.dtype, w.dtype)
        return TensorType((x.dims[0], x.dims[1], w.dims[1], *self.out), dtype)

    def _result(self, *ins: Array) -> TensorType:
        return self.infer(*(TensorType(a.shape, dtype_of(a)) for a in ins))

    def ref(self, *ins: Array) -> Array:
        result = self._result(*ins)
        x, w = (convert(a, result.dtype.wide) for a in ins)
        total = np.zeros(result.dims, x.dtype)
        for at, taps in enumerate(itertools.product(*(range(k) for k in w.shape[3:]))):
            cut: list[Array] = []
            kept: list[Array] = []
            for axis, k in enumerate(taps):
                first = k * self.dilation[axis] - int(self.low[axis])
                place = np.arange(int(self.out[axis])) * self.stride[axis] + first
                inside = (place >= 0) & (place % self.spread[axis] == 0)
                place = place // self.spread[axis]
                kept.append(np.flatnonzero(inside & (place < x.shape[3 + axis])))
                cut.append(place[kept[-1]].astype(np.int64))
            seen = x[np.ix_(*map(np.arange, x.shape[:3]), *cut)]
            part = np.einsum("ngc...,goc->ngo...", seen, w.reshape(*w.shape[:3], math.prod(w.shape[3:]))[..., at])
            total[np.ix_(*map(np.arange, total.shape[:3]), *kept)] += part
        return convert(total, result.dtype)

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        x, w = ins
        result = self.infer(x, w)
        wide = result.dtype.wide.name
        batch, group, row, *places = idx

        def body(c: Index, *taps: Index) -> Element:
            inside: Element | None = None
            at = []
            for axis, (i, k) in enumerate(zip(places, taps, strict=True)):
                place = i * self.stride[axis] + k * self.dilation[axis] - e.index(self.low[axis])
                ok = place >= e.zero()
                if self.spread[axis] > 1:
                    ok = ok & (place % self.spread[axis] == e.zero())
                    place = place // self.spread[axis]
                ok = ok & (place < e.index(x.dims[3 + axis]))
                inside = ok if inside is None else inside & ok
                at.append(place)
            value = reads[0](batch, group, c, *at, where=inside)
            return e.cast(value, wide) * e.cast(reads[1](group, row, c, *taps), wide)

        return e.cast(e.reduce("add", (x.dims[2], *w.dims[3:]), body), result.dtype.name)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        x, w = primals
        axes = tuple(range(3, 3 + len(self.out)))
        low = tuple((k - 1) * d - at for k, d, at in zip(w.shape[3:], self.dilation, self.low, strict=True))
        turned = flip(permute(w, 0, 2, 1, *axes), axes) if axes else permute(w, 0, 2, 1)
        dx = apply(Convolution(x.shape[3:], low, self.spread, self.dilation, self.stride, x.dtype.base.name),
                   cts[0], turned)
        dw = apply(Convolution(w.shape[3:], self.low, self.dilation, self.stride, self.spread, w.dtype.base.name),
                   permute(x, 2, 1, 0, *axes), permute(cts[0], 1, 2, 0, *axes))
        return dx, permute(dw, 1, 2, 0, *axes)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        dx, dw = tangents
        left = None if dx is None else apply(self, dx, primals[1])
        right = None if dw is None else apply(self, primals[0], dw)
        return left if right is None else right if left is None else left + right

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        x, w = xs
        if not batched[1]:  # examples are more of x's batch
            rows = x.shape[1]
            y = apply(self, x.reshape(size * rows, *x.shape[2:]), w)
            return y.reshape(size, rows, *y.shape[1:])
        # every example has weights of its own: examples are more groups
        x, w = repeated(xs, batched, size)
        x = x.permute((1, 0, *range(2, x.ndim)))
        rows, _, groups = x.shape[:3]
        y = apply(self, x.reshape(rows, size * groups, *x.shape[3:]), w.reshape(size * groups, *w.shape[2:]))
        y = y.reshape(rows, size, groups, *y.shape[2:])
        return y.permute((1, 0, *range(2, y.ndim)))

    @classmethod
    def cases(cls) -> Iterable[Case]:
        some = {"A": (0, 2), "C": (0, 3), "H": (3, 6)}
        h = symbol("H")
        yield Case(cls((h,), (1,), (1,), (1,), (1,)), (T("f32[A, 1, C, H]"), T("f32[1, 2, C, 3]")), sizes=some)
        yield Case(cls((h - 2, 2), (0, 1), (1, 2), (1, 2), (1, 1)),
                   (T("f32[A, 2, C, H, 5]"), T("f32[2, 2, C, 3, 2]")), sizes=some)
        yield Case(cls((2 * h, 3), (2, 1), (1, 2), (2, 1), (2, 3)),
                   (T("f32[2, 1, 2, H, 2]"), T("f32[1, 3, 2, 2, 2]")), sizes=some)
        yield Case(cls((h,), (1,), (1,), (1,), (1,)), (T("bf16[A, 1, 2, H]"), T("bf16[1, 2, 2, 3]")), sizes=some)
        yield Case(cls((3,), (0,), (1,), (1,), (1,)), (T("f64[A, 1, 2, 4]"), T("f64[1, 2, 2, 2]")), sizes=some)
