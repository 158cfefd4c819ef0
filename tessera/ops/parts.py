"""Parts of tensors, and tensors out of parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.arrays import Array, convert, dtype_of
from tessera.dtypes import promote
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.families import View, check_axes, repeated
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, Operator, register
from tessera.ops.create import as_dims, zeros_like
from tessera.ops.select import cast
from tessera.ops.views import expand_dims, one_operand
from tessera.shapes import Dim, known_equal, symbol
from tessera.tensor import Tensor, TensorLike, as_tensor, operands
from tessera.types import TensorType

__all__ = ["concat", "concatenate", "flip", "pad", "slice", "split", "stack"]

T = TensorType.parse
_A, _B = symbol("A"), symbol("B")


# Parts ----------------------------------------------------------------------------------------------------------------


@register
@dataclass(frozen=True)
class Slice(View):
    """Element i along an axis is element start + i * step of x; `sizes` is the shape of the result."""

    starts: tuple[Dim, ...]
    sizes: tuple[Dim, ...]
    steps: tuple[int, ...]
    name = "slice"

    def infer(self, *ins: TensorType) -> TensorType:
        x = one_operand(self.name, ins)
        if not len(self.starts) == len(self.sizes) == len(self.steps) == x.rank:
            raise SourceError("E304", f"slice of {x} needs start, size and step for {x.rank} axes")
        for axis, (dim, start, size, step) in enumerate(zip(x.dims, self.starts, self.sizes, self.steps, strict=True)):
            if step < 1:
                raise SourceError("E305", f"slice needs steps of at least 1, got {step}", help="use ts.flip to reverse")
            last = start + (size - 1) * step
            outside = (isinstance(size, int) and size < 0) or (isinstance(start, int) and start < 0)
            beyond = isinstance(dim, int) and isinstance(last, int) and size != 0 and last >= dim
            if outside or beyond:
                raise SourceError("E305", f"slice of {x} reaches outside axis {axis}",
                                  help=f"start {start}, size {size}, step {step}")
        return TensorType(self.sizes, x.dtype)

    def ref(self, *ins: Array) -> Array:
        cuts = tuple(np.s_[int(a): int(a) + (int(n) - 1) * s + 1: s] if n else np.s_[0:0]
                     for a, n, s in zip(self.starts, self.sizes, self.steps, strict=True))
        return np.asarray(ins[0][cuts])

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        result = []
        for i, start, step in zip(idx, self.starts, self.steps, strict=True):
            i = i if step == 1 else i * e.const(step, "i64")
            result.append(i if isinstance(start, int) and start == 0 else i + e.index(start))
        return tuple(result), None

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        sizes = zip(primals[0].shape, self.starts, self.sizes, self.steps, strict=True)
        # What follows the last element taken: nothing was taken if size is 0, then the padding is the whole axis.
        high = tuple(dim if n == 0 else dim - start - ((n - 1) * step + 1) for dim, start, n, step in sizes)
        low = tuple(0 if n == 0 else a for a, n in zip(self.starts, self.sizes, strict=True))
        return (apply(Pad(low, high, tuple(s - 1 for s in self.steps)), cts[0]),)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(Slice((0, *self.starts), (size, *self.sizes), (1, *self.steps)), xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls((1, 0), (_A, _B), (1, 1)), (T("f32[A + 2, B]"),), sizes={"A": (1, 5)})
        yield Case(cls((0, 1), (_A, 2), (2, 3)), (T("bf16[2*A, 6]"),), sizes={"A": (1, 5)})
        yield Case(cls((_B,), (_A,), (1,)), (T("i32[A + B]"),), sizes={"A": (1, 5)})
        yield Case(cls((0, 0), (0, _B), (1, 1)), (T("f32[A, B]"),))


@register
@dataclass(frozen=True)
class Pad(View):
    """`low` and `high` elements of `value` around, and `interior` between the elements of each axis."""

    low: tuple[Dim, ...]
    high: tuple[Dim, ...]
    interior: tuple[int, ...]
    value: int | float = 0.0
    name = "pad"

    def infer(self, *ins: TensorType) -> TensorType:
        x = one_operand(self.name, ins)
        if not len(self.low) == len(self.high) == len(self.interior) == x.rank:
            raise SourceError("E304", f"pad of {x} needs amounts for {x.rank} axes")
        for amount in (*self.low, *self.high, *self.interior):
            if isinstance(amount, int) and amount < 0:
                raise SourceError("E305", f"pad by {amount} elements", help="use a slice to cut elements off")
        dims = (low + _spread(d, gap) + high
                for d, low, high, gap in zip(x.dims, self.low, self.high, self.interior, strict=True))
        return TensorType(tuple(dims), x.dtype)

    def ref(self, *ins: Array) -> Array:
        (x,) = ins
        out_type = self.infer(TensorType(x.shape, dtype_of(x)))
        out = np.empty(out_type.dims, x.dtype)
        out[...] = convert(np.asarray(self.value), out_type.dtype)
        if x.size:
            out[tuple(np.s_[int(low): int(low) + (n - 1) * (gap + 1) + 1: gap + 1]
                      for n, low, gap in zip(x.shape, self.low, self.interior, strict=True))] = x
        return out

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        indices, inside = self.source(e, ins[0], idx)
        if inside is None:
            return reads[0](*indices)
        value = reads[0](*indices, where=inside)
        return value if self.value == 0 else e.select(inside, value, e.const(self.value, ins[0].dtype.name))

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        inside: Element | None = None
        result = []
        for i, dim, low, high, gap in zip(idx, x.dims, self.low, self.high, self.interior, strict=True):
            if low == 0 and high == 0 and gap == 0:
                result.append(i)
                continue
            place = i - e.index(low)
            ok = place >= e.zero()
            if gap:
                step = e.const(gap + 1, "i64")
                ok = ok & (place % step == e.zero())
                place = place // step
            ok = ok & (place < e.index(dim))
            inside = ok if inside is None else inside & ok
            result.append(place)
        return tuple(result), inside

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (apply(Slice(self.low, primals[0].shape, tuple(g + 1 for g in self.interior)), cts[0]),)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        return None if tangents[0] is None else apply(Pad(self.low, self.high, self.interior), tangents[0])

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(Pad((0, *self.low), (0, *self.high), (0, *self.interior), self.value), xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        some = {"A": (1, 5)}
        yield Case(cls((1, 0), (2, 0), (0, 0)), (T("f32[A, B]"),))
        yield Case(cls((_B, 1), (0, 3), (1, 2)), (T("bf16[A, 3]"),), sizes=some)
        yield Case(cls((1,), (1,), (0,), -1.5), (T("f32[N]"),))
        yield Case(cls((2,), (0,), (1,), 7), (T("i32[A]"),), sizes=some)


def _spread(dim: Dim, gap: int) -> Dim:
    """The length of `dim` elements with gaps between them."""
    if gap == 0:
        return dim
    return 0 if dim == 0 else dim + (dim - 1) * gap


@register
@dataclass(frozen=True)
class Flip(View):
    """Axes `axes` in reverse order."""

    axes: tuple[int, ...]
    name = "flip"

    def infer(self, *ins: TensorType) -> TensorType:
        x = one_operand(self.name, ins)
        check_axes(self.name, self.axes, x.rank)
        return x

    def ref(self, *ins: Array) -> Array:
        return np.array(np.flip(ins[0], self.axes))

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        return tuple(e.index(x.dims[a] - 1) - i if a in self.axes else i for a, i in enumerate(idx)), None

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (apply(self, cts[0]),)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(Flip(tuple(a + 1 for a in self.axes)), xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls((1,)), (T("f32[A, B]"),))
        yield Case(cls((0, 1)), (T("bf16[A, B]"),))


@register
@dataclass(frozen=True)
class Concat(Operator):
    """Its operands one after the other along `axis`."""

    axis: int
    name = "concat"

    def infer(self, *ins: TensorType) -> TensorType:
        if not ins:
            raise SourceError("E311", "concat needs at least one operand")
        first = ins[0]
        check_axes(self.name, (self.axis,), first.rank)
        for t in ins[1:]:
            same = t.rank == first.rank and all(
                known_equal(a, b) for i, (a, b) in enumerate(zip(t.dims, first.dims, strict=True)) if i != self.axis)
            if not same:
                raise SourceError("E302", f"concat along axis {self.axis} of {first} with {t}",
                                  help="the other axes must have the same sizes")
            if t.dtype.base != first.dtype.base:
                raise SourceError("E303", f"concat of {first.dtype.base} with {t.dtype.base}",
                                  help="convert with ts.cast")
        total: Dim = 0
        for t in ins:
            total = total + t.dims[self.axis]
        return TensorType((*first.dims[: self.axis], total, *first.dims[self.axis + 1:]), first.dtype.base)

    def ref(self, *ins: Array) -> Array:
        return np.concatenate(ins, self.axis)

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        place, start = idx[self.axis], e.zero()
        total: Dim = 0
        parts: list[tuple[Element, Element]] = []
        for t, read in zip(ins, reads, strict=True):
            total = total + t.dims[self.axis]
            stop = e.index(total)
            here = (place >= start) & (place < stop)
            own = (*idx[: self.axis], place - start, *idx[self.axis + 1:])
            parts.append((place < stop, read(*own, where=here)))
            start = stop
        result = parts[-1][1]
        for before, value in reversed(parts[:-1]):
            result = e.select(before, value, result)
        return result

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        result = []
        start: Dim = 0
        for x in primals:
            starts: list[Dim] = [0] * x.ndim
            starts[self.axis] = start
            result.append(apply(Slice(tuple(starts), x.shape, (1,) * x.ndim), cts[0]))
            start = start + x.shape[self.axis]
        return tuple(result)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        if all(t is None for t in tangents):
            return None
        return apply(self, *(zeros_like(x) if t is None else t for x, t in zip(primals, tangents, strict=True)))

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(Concat(self.axis + 1), *repeated(xs, batched, size))

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls(0), (T("f32[A, B]"), T("f32[N, B]")))
        yield Case(cls(1), (T("bf16[A, 2]"), T("bf16[A, B]"), T("bf16[A, 1]")))
        yield Case(cls(0), (T("i32[N]"),))


# The functions --------------------------------------------------------------------------------------------------------


def slice(x: TensorLike, starts: Sequence[Any], sizes: Sequence[Any], steps: Sequence[int] | None = None) -> Tensor:
    """The part of x that begins at `starts` and has shape `sizes`."""
    value = as_tensor(x)
    return apply(Slice(as_dims("slice", tuple(starts)), as_dims("slice", tuple(sizes)),
                       tuple(steps) if steps is not None else (1,) * value.ndim), value)


def split(x: TensorLike, sections: Any, dim: int = 0, axis: int | None = None) -> tuple[Tensor, ...]:
    """x cut along `dim` into `sections` equal parts, or into parts of the sizes in a list."""
    value = as_tensor(x)
    (at,) = check_axes("split", (dim if axis is None else axis,), value.ndim)
    size = value.shape[at]
    if isinstance(sections, int):
        if sections < 1:
            raise SourceError("E305", f"split into {sections} parts")
        part = size // sections
        if not known_equal(part * sections, size):
            raise SourceError("E302", f"split of {value.type} along axis {at} into {sections} parts: {size} is not "
                              f"known to be a multiple of {sections}", help="give a list of sizes instead")
        sizes: list[Dim] = [part] * sections
    else:
        sizes = list(as_dims("split", tuple(sections)))
        total: Dim = 0
        for part in sizes:
            total = total + part
        if not known_equal(total, size):
            raise SourceError("E302", f"split of {value.type} along axis {at}: the sizes add up to {total}, not {size}")
    parts = []
    start: Dim = 0
    for part in sizes:
        starts: list[Dim] = [0] * value.ndim
        shape = list(value.shape)
        starts[at], shape[at] = start, part
        parts.append(apply(Slice(tuple(starts), tuple(shape), (1,) * value.ndim), value))
        start = start + part
    return tuple(parts)


def concat(xs: Sequence[TensorLike], axis: int = 0, *, dim: int | None = None) -> Tensor:
    """The tensors one after the other along `axis`, in their common element type."""
    if isinstance(xs, Tensor) or not len(xs):
        raise SourceError("E311", "concat needs a list of tensors")
    values = operands(*xs)
    common = promote(*(v.dtype for v in values))
    (at,) = check_axes("concat", (axis if dim is None else dim,), values[0].ndim)
    return apply(Concat(at), *(cast(v, common) for v in values))


def stack(xs: Sequence[TensorLike], axis: int = 0) -> Tensor:
    """The tensors side by side along a new axis."""
    return concat([expand_dims(x, axis) for x in xs], axis)


def flip(x: TensorLike, axis: Any = None) -> Tensor:
    """The order along the axes reversed (all for None)."""
    value = as_tensor(x)
    axes = range(value.ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    return apply(Flip(check_axes("flip", tuple(axes), value.ndim)), value)


def pad(x: TensorLike, widths: Any, value: float = 0.0) -> Tensor:
    """`widths` is (before, after) for all axes, or one such pair per axis."""
    tensor = as_tensor(x)
    pairs = list(widths)
    if pairs and not isinstance(pairs[0], (tuple, list)):
        pairs = [tuple(pairs)] * tensor.ndim
    if any(len(p) != 2 for p in pairs):
        raise SourceError("E305", f"pad widths {widths!r} are not pairs (before, after)")
    low, high = (as_dims("pad", (tuple(p[i] for p in pairs),)) for i in range(2))
    return apply(Pad(low, high, (0,) * len(pairs), value), tensor)


concatenate = concat
