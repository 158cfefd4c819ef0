"""Views: operators that move elements and compute nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from tessera.arrays import Array, convert, dtype_of
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.families import View, check_arity, check_axes, unbroadcast
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, Operator, register
from tessera.ops.create import as_dims
from tessera.ops.elementwise import cast
from tessera.shapes import Dim, Expr, assume, dim_max, dim_min, equal_if_divisible, known_equal, product, symbol
from tessera.tensor import Tensor, TensorLike, as_tensor, operands
from tessera.types import TensorType

__all__ = [
    "broadcast_to", "concat", "concatenate", "expand_dims", "flip", "getitem", "pad", "permute", "reshape", "slice",
    "split", "squeeze", "stack", "swapaxes", "transpose", "unsqueeze",
]

T = TensorType.parse
_A, _B = symbol("A"), symbol("B")


def _one(name: str, ins: Sequence[TensorType]) -> TensorType:
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
        x = _one(self.name, ins)
        needed = equal_if_divisible(x.size, product(self.shape))
        if needed is None or any(isinstance(d, int) and d < 0 for d in self.shape):
            raise SourceError("E302", f"reshape of {x} to [{', '.join(map(str, self.shape))}]: {x.size} elements against "
                              f"{product(self.shape)}", help="the number of elements must stay the same")
        assume(needed)
        return TensorType(self.shape, x.dtype)

    def ref(self, *ins: Array) -> Array:
        return ins[0].reshape(self.shape)  # type: ignore[arg-type]

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
        x = _one(self.name, ins)
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
        x = _one(self.name, ins)
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
        x = _one(self.name, ins)
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
        x = _one(self.name, ins)
        pairs = list(zip(reversed(x.dims), reversed(self.shape), strict=False))
        if x.rank > len(self.shape) or not all(d == 1 or known_equal(d, s) for d, s in pairs):
            raise SourceError("E302", f"broadcast_to cannot repeat {x} to [{', '.join(map(str, self.shape))}]",
                              help="aligned at the right, each axis must be the same size, or 1")
        return TensorType(self.shape, x.dtype)

    def ref(self, *ins: Array) -> Array:
        return np.broadcast_to(ins[0], self.shape).copy()  # type: ignore[arg-type]

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        own = idx[len(idx) - x.rank:]
        return tuple(e.zero() if d == 1 else i for d, i in zip(x.dims, own, strict=True)), None

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (unbroadcast(cts[0], primals[0].type),)

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls((3, _A, _B)), (T("f32[A, 1]"),))
        yield Case(cls((_A, _B)), (T("bf16[]"),))
        yield Case(cls((_A, _B)), (T("i32[B]"),))


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
        x = _one(self.name, ins)
        if not len(self.starts) == len(self.sizes) == len(self.steps) == x.rank:
            raise SourceError("E304", f"slice of {x} needs start, size and step for {x.rank} axes")
        for axis, (dim, start, size, step) in enumerate(zip(x.dims, self.starts, self.sizes, self.steps, strict=True)):
            if step < 1:
                raise SourceError("E305", f"slice needs steps of at least 1, got {step}", help="use ts.flip to reverse")
            last = start + (size - 1) * step
            outside = isinstance(size, int) and size < 0 or isinstance(start, int) and start < 0
            beyond = isinstance(size, int) and isinstance(dim, int) and isinstance(last, int) and 0 < size and last >= dim
            if outside or beyond:
                raise SourceError("E305", f"slice of {x} reaches outside axis {axis}: start {start}, size {size}, step {step}")
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
    value: Union[int, float] = 0.0
    name = "pad"

    def infer(self, *ins: TensorType) -> TensorType:
        x = _one(self.name, ins)
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
        out = np.empty(out_type.dims, x.dtype)  # type: ignore[arg-type]
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
        x = _one(self.name, ins)
        check_axes(self.name, self.axes, x.rank)
        return x

    def ref(self, *ins: Array) -> Array:
        return np.flip(ins[0], self.axes).copy()

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        return tuple(e.index(x.dims[a] - 1) - i if a in self.axes else i for a, i in enumerate(idx)), None

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (apply(self, cts[0]),)

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
                raise SourceError("E303", f"concat of {first.dtype.base} with {t.dtype.base}", help="convert with ts.cast")
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
        from tessera.ops.create import zeros_like

        if all(t is None for t in tangents):
            return None
        return apply(self, *(zeros_like(x) if t is None else t for x, t in zip(primals, tangents, strict=True)))

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls(0), (T("f32[A, B]"), T("f32[N, B]")))
        yield Case(cls(1), (T("bf16[A, 2]"), T("bf16[A, B]"), T("bf16[A, 1]")))
        yield Case(cls(0), (T("i32[N]"),))


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
    from tessera.dtypes import promote

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


# Subscripts -----------------------------------------------------------------------------------------------------------


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[...] with ints, slices, None, Ellipsis, sizes, and at most one tensor of ints (which takes along its axis)."""
    parts = index if isinstance(index, tuple) else (index,)
    used = sum(1 for p in parts if p is not None and p is not Ellipsis)
    if used > x.ndim:
        raise SourceError("E304", f"{used} indices for a tensor of rank {x.ndim}, {x.type}")
    if sum(1 for p in parts if p is Ellipsis) > 1:
        raise SourceError("E305", "an index can have one `...` only")
    full: list[Any] = []
    for p in parts:
        full += [np.s_[:]] * (x.ndim - used) if p is Ellipsis else [p]
    if not any(p is Ellipsis for p in parts):
        full += [np.s_[:]] * (x.ndim - used)

    starts: list[Dim] = []
    sizes: list[Dim] = []
    steps: list[int] = []
    flips: list[int] = []
    dropped: list[int] = []
    taken: tuple[int, Tensor] | None = None
    new: list[int] = []  # places of None among the kept axes
    kept = 0
    for p in full:
        axis = len(starts)
        if p is None:
            new.append(kept + len(new))
            continue
        dim = x.shape[axis]
        start, size, step = 0, dim, 1
        if isinstance(p, _PythonSlice):
            start, size, step = _cut(x, axis, p)
            if step < 0:
                flips.append(axis)
                start, step = start + (size - 1) * step, -step
        elif isinstance(p, (int, np.integer, Expr)) and not isinstance(p, bool):
            start, size = _place(x, axis, p if isinstance(p, Expr) else int(p)), 1
            dropped.append(axis)
        elif isinstance(p, (Tensor, np.ndarray, list)):
            if taken is not None:
                raise SourceError("E305", "an index can have one tensor only", help="use ts.take or ts.gather")
            taken = (kept, as_tensor(p))
        else:
            raise SourceError("E305", f"{p!r} is not an index", help="use ints, slices, None, ... or a tensor of ints")
        kept += axis not in dropped
        starts.append(start)
        sizes.append(size)
        steps.append(step)
    result = x
    if tuple(sizes) != x.shape or any(s != 0 for s in starts) or any(s != 1 for s in steps):
        result = apply(Slice(tuple(starts), tuple(sizes), tuple(steps)), result)
    if flips:
        result = apply(Flip(tuple(flips)), result)
    if dropped:
        result = apply(Squeeze(tuple(dropped)), result)
    if taken is not None:
        from tessera.ops.indexing import take

        if taken[1].dtype.kind == "bool":
            raise SourceError("E303", "a bool tensor cannot be an index: the size of the result would depend on its values",
                              help="use ts.where")
        if new:
            raise SourceError("E305", "None and a tensor in one index", help="index in two steps")
        result = take(result, taken[1], taken[0])
    return apply(ExpandDims(tuple(new)), result) if new else result


_PythonSlice = type(np.s_[:])


def _place(x: Tensor, axis: int, index: Dim) -> Dim:
    dim = x.shape[axis]
    if isinstance(index, int) and isinstance(dim, int) and not -dim <= index < dim:
        raise SourceError("E305", f"index {index} is outside axis {axis} of {x.type}")
    return dim + index if isinstance(index, int) and index < 0 else index


def _cut(x: Tensor, axis: int, cut: Any) -> tuple[Dim, Dim, int]:
    """(start, size, step) of a Python slice, with Python's clamping, on a possibly symbolic axis."""
    dim = x.shape[axis]
    step = 1 if cut.step is None else cut.step
    if isinstance(step, bool) or not isinstance(step, int) or step == 0:
        raise SourceError("E305", f"{cut.step!r} is not a step of a slice", help="a step is an int other than 0")
    bounds = [v.item() if isinstance(v, Tensor) else v for v in (cut.start, cut.stop)]
    if not all(v is None or isinstance(v, (int, np.integer, Expr)) for v in bounds):
        raise SourceError("E305", f"the bounds of a slice are ints or sizes, got {cut.start!r}:{cut.stop!r}")
    if isinstance(dim, int) and not any(isinstance(v, Expr) for v in bounds):
        first, last, step = _PythonSlice(bounds[0], bounds[1], step).indices(dim)
        return first, len(range(first, last, step)), step
    if step < 0:
        if bounds != [None, None] or step != -1:
            raise SourceError("E305", f"a step of {step} along the symbolic axis {dim} needs the whole axis: [::-1]")
        return dim - 1, dim, -1
    start = _bound(bounds[0], dim, 0)
    size = dim_max(_bound(bounds[1], dim, dim) - start, 0)
    return start, size if step == 1 else (size + (step - 1)) // step, step


def _bound(value: Any, dim: Dim, missing: Dim) -> Dim:
    if value is None:
        return missing
    if isinstance(value, (int, np.integer)) and value < 0:
        return dim_max(dim + int(value), 0)
    return dim_min(value if isinstance(value, Expr) else int(value), dim)


concatenate, unsqueeze = concat, expand_dims
