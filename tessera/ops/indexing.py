"""Gathering by index tensors, and its adjoints.

An index i < 0 stands for i + n. An index outside the axis reads 0 and adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tessera.arrays import Array, convert, dtype_of
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.families import check_arity, check_axes, repeated
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, Operator, register
from tessera.shapes import Dim, known_equal, symbol
from tessera.tensor import Tensor, TensorLike, as_tensor, operators
from tessera.types import TensorType

__all__ = ["embedding", "gather", "scatter_add", "take", "take_along"]

T = TensorType.parse


def _check_indices(name: str, indices: TensorType) -> None:
    if not indices.dtype.is_int:
        raise SourceError("E303", f"{name} needs indices of an int type, got {indices.dtype.base}")


def _resolve(e: Elements, index: Element, size: Dim) -> tuple[Index, Element]:
    """(the place counted from 0, whether it is inside)."""
    n = e.index(size)
    i = e.cast(index, "i64")
    i = e.select(i < e.zero(), i + n, i)
    return i, (i >= e.zero()) & (i < n)


def _resolved(indices: Array, size: int) -> tuple[Array, Array]:
    """The same on arrays, with places outside set to 0."""
    i = indices.astype(np.int64)
    i = np.where(i < 0, i + size, i)
    inside = (i >= 0) & (i < size)
    return np.where(inside, i, 0), inside


def _moved(x: Tensor, start: int, to: int) -> Tensor:
    """The tensor with one axis moved."""
    order = [axis for axis in range(x.ndim) if axis != start]
    order.insert(to, start)
    return x if start == to else x.permute(tuple(order))


def _in_example(indices: Tensor, n: Dim, size: Dim) -> Tensor:
    """Indices into an axis of n, batched in axis 0, as indices into the axis (example, place) of size * n."""
    i = indices.astype("i64")
    i = operators.where(i < 0, i + n, i)
    example = operators.iota(size).reshape(size, *(1,) * (indices.ndim - 1))
    return operators.where((i >= 0) & (i < n), i + example * n, size * n)


@register
@dataclass(frozen=True)
class Take(Operator):
    """x and int indices: axis `axis` of x replaced by the shape of the indices, each taking the element it names."""

    axis: int
    name = "take"
    nondiff = (1,)

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 2)
        x, indices = ins
        check_axes(self.name, (self.axis,), x.rank)
        _check_indices(self.name, indices)
        return TensorType((*x.dims[: self.axis], *indices.dims, *x.dims[self.axis + 1:]), x.dtype.base)

    def ref(self, *ins: Array) -> Array:
        x, indices = ins
        place, inside = _resolved(indices, x.shape[self.axis])
        if not x.shape[self.axis]:
            return np.zeros((*x.shape[: self.axis], *indices.shape, *x.shape[self.axis + 1:]), x.dtype)
        out = np.take(x, place, self.axis)
        mask = inside.reshape(inside.shape + (1,) * (x.ndim - self.axis - 1))
        return np.where(mask, out, np.zeros((), x.dtype)).astype(x.dtype)

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        x, indices = ins
        end = self.axis + indices.rank
        place, inside = _resolve(e, reads[1](*idx[self.axis:end]), x.dims[self.axis])
        return reads[0](*idx[: self.axis], place, *idx[end:], where=inside)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return apply(ScatterAdd(self.axis, primals[0].shape[self.axis]), cts[0], primals[1]), None

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        return None if tangents[0] is None else apply(self, tangents[0], primals[1])

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        x, indices = xs
        if not batched[1]:
            return apply(Take(self.axis + 1), x, indices)
        if not batched[0]:
            return _moved(apply(self, x, indices), self.axis, 0)
        # One axis for (example, place): those of an example begin at example * n.
        rows = _moved(x, self.axis + 1, 1)
        n = rows.shape[1]
        flat = rows.reshape(size * n, *rows.shape[2:])
        taken = apply(Take(0), flat, _in_example(indices, n, size))
        end = indices.ndim
        order = (0, *range(end, end + self.axis), *range(1, end), *range(end + self.axis, taken.ndim))
        return taken.permute(order)

    @classmethod
    def cases(cls) -> Iterable[Case]:
        some = {"A": (1, 5)}
        for dtype, index in (("f32", "i64"), ("bf16", "i32"), ("i8", "u8")):
            yield Case(cls(0), (T(f"{dtype}[A, B]"), T(f"{index}[N]")), (None, (0, 3)), some)
        yield Case(cls(1), (T("f32[B, A]"), T("i32[2, N]")), (None, (-7, 7)), some)
        yield Case(cls(0), (T("f32[A]"), T("i32[]")), (None, (-2, 2)), some)


@register
@dataclass(frozen=True)
class ScatterAdd(Operator):
    """The adjoint of take: zeros with axis `axis` of `size`, to which the elements are added at their indices.

    An output element sums its contributions in the order of the indices.
    """

    axis: int
    size: Dim
    name = "scatter_add"
    rounds = True
    accumulates = True
    nondiff = (1,)

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 2)
        values, indices = ins
        _check_indices(self.name, indices)
        end = self.axis + indices.rank
        if values.rank < end or not all(map(known_equal, values.dims[self.axis:end], indices.dims)):
            raise SourceError("E302", f"scatter_add of {values} by indices {indices} at axis {self.axis}",
                              help="the values need the shape of the indices from that axis on")
        return TensorType((*values.dims[: self.axis], self.size, *values.dims[end:]), values.dtype.base)

    def ref(self, *ins: Array) -> Array:
        values, indices = ins
        dtype = dtype_of(values)
        place, inside = _resolved(indices, int(self.size))
        end = self.axis + indices.ndim
        before, after = values.shape[: self.axis], values.shape[end:]
        wide = convert(values, dtype.wide).reshape(*before, indices.size, *after)
        wide = np.moveaxis(wide, self.axis, 0)[inside.reshape(-1)]
        total = np.zeros((int(self.size), *before, *after), np.float64 if dtype.is_float else dtype.numpy)
        np.add.at(total, place.reshape(-1)[inside.reshape(-1)], wide)
        result = np.moveaxis(total, 0, self.axis)
        return convert(result.astype(dtype.wide.numpy), dtype)

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        values, indices = ins

        def body(*at: Index) -> Element:
            place, _ = _resolve(e, reads[1](*at), self.size)
            hit = place == idx[self.axis]
            term = reads[0](*idx[: self.axis], *at, *idx[self.axis + 1:], where=hit)
            return e.cast(term, values.dtype.wide.name)

        total = e.reduce("add", indices.dims, body) if indices.rank else body()
        return e.cast(total, values.dtype.name)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return apply(Take(self.axis), cts[0], primals[1]), None

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        return None if tangents[0] is None else apply(self, tangents[0], primals[1])

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        values, indices = xs
        if not batched[1]:
            return apply(ScatterAdd(self.axis + 1, self.size), values, indices)
        (values,) = repeated((values,), (batched[0],), size)
        end, rest = self.axis + indices.ndim, range(values.ndim)
        front = values.permute((0, *rest[self.axis + 1: end], *rest[1: self.axis + 1], *rest[end:]))
        total = apply(ScatterAdd(0, size * self.size), front, _in_example(indices, self.size, size))
        return _moved(total.reshape(size, self.size, *total.shape[1:]), 1, self.axis + 1)

    @classmethod
    def cases(cls) -> Iterable[Case]:
        size = symbol("A")
        yield Case(cls(0, size), (T("f32[N, B]"), T("i32[N]")), (None, (-3, 5)))
        yield Case(cls(1, size), (T("bf16[B, N, 2]"), T("i64[N, 2]")), (None, (0, 5)))
        yield Case(cls(0, 3), (T("i32[N]"), T("u8[N]")), (None, (0, 5)))
        yield Case(cls(0, 3), (T("f32[]"), T("i32[]")), (None, (0, 3)))


def _along(name: str, axis: int, a: TensorType, indices: TensorType) -> None:
    check_axes(name, (axis,), a.rank)
    _check_indices(name, indices)
    if a.rank != indices.rank or not all(
        known_equal(d, k) for i, (d, k) in enumerate(zip(a.dims, indices.dims, strict=True)) if i != axis
    ):
        raise SourceError("E302", f"{name} along axis {axis} of {a} by indices {indices}",
                          help="both need one rank and the same sizes in the other axes")


@register
@dataclass(frozen=True)
class TakeAlong(Operator):
    """x and indices of its rank: element [.., i, ..] of the result is x[.., indices[.., i, ..], ..] along `axis`."""

    axis: int
    name = "take_along"
    nondiff = (1,)

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 2)
        _along(self.name, self.axis, *ins)
        return TensorType(ins[1].dims, ins[0].dtype.base)

    def ref(self, *ins: Array) -> Array:
        x, indices = ins
        if not x.shape[self.axis]:
            return np.zeros(indices.shape, x.dtype)
        place, inside = _resolved(indices, x.shape[self.axis])
        return np.where(inside, np.take_along_axis(x, place, self.axis), np.zeros((), x.dtype)).astype(x.dtype)

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        place, inside = _resolve(e, reads[1](*idx), ins[0].dims[self.axis])
        return reads[0](*idx[: self.axis], place, *idx[self.axis + 1:], where=inside)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return apply(ScatterAlong(self.axis, primals[0].shape[self.axis]), cts[0], primals[1]), None

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        return None if tangents[0] is None else apply(self, tangents[0], primals[1])

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(TakeAlong(self.axis + 1), *repeated(xs, batched, size))

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls(1), (T("f32[A, B]"), T("i64[A, 1]")), (None, (0, 5)))
        yield Case(cls(0), (T("bf16[A, B]"), T("i32[N, B]")), (None, (-4, 5)))


@register
@dataclass(frozen=True)
class ScatterAlong(Operator):
    """The adjoint of take_along: zeros with axis `axis` of `size`, to which the elements are added at their indices."""

    axis: int
    size: Dim
    name = "scatter_along"
    nondiff = (1,)

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 2)
        values, indices = ins
        _along(self.name, self.axis, values, indices)
        if not known_equal(values.dims[self.axis], indices.dims[self.axis]):
            raise SourceError("E302", f"scatter_along of {values} by indices {indices}", help="both need one shape")
        return TensorType((*values.dims[: self.axis], self.size, *values.dims[self.axis + 1:]), values.dtype.base)

    def ref(self, *ins: Array) -> Array:
        values, indices = (np.moveaxis(a, self.axis, -1) for a in ins)
        dtype = dtype_of(values)
        place, inside = _resolved(indices, int(self.size))
        total = np.zeros((*values.shape[:-1], int(self.size)), np.float64 if dtype.is_float else dtype.numpy)
        where = np.nonzero(inside)
        np.add.at(total, (*where[:-1], place[where]), convert(np.ascontiguousarray(values), dtype.wide)[where])
        return convert(np.moveaxis(total, -1, self.axis).astype(dtype.wide.numpy), dtype)

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        values, indices = ins

        def body(k: Index) -> Element:
            at = (*idx[: self.axis], k, *idx[self.axis + 1:])
            place, _ = _resolve(e, reads[1](*at), self.size)
            return e.cast(reads[0](*at, where=place == idx[self.axis]), values.dtype.wide.name)

        return e.cast(e.reduce("add", [indices.dims[self.axis]], body), values.dtype.name)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return apply(TakeAlong(self.axis), cts[0], primals[1]), None

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        return None if tangents[0] is None else apply(self, tangents[0], primals[1])

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(ScatterAlong(self.axis + 1, self.size), *repeated(xs, batched, size))

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls(1, symbol("N")), (T("f32[A, B]"), T("i64[A, B]")), (None, (0, 5)))
        yield Case(cls(0, 3), (T("bf16[A, B]"), T("i32[A, B]")), (None, (-4, 5)))


def take(x: TensorLike, indices: TensorLike, axis: int = 0) -> Tensor:
    """The elements of x along `axis` that the int `indices` name; see the module for indices out of range."""
    value = as_tensor(x)
    return apply(Take(check_axes("take", (axis,), value.ndim)[0]), value, as_tensor(indices))


def take_along(x: TensorLike, indices: TensorLike, axis: int = -1) -> Tensor:
    """For each place, the element of x along `axis` that its index names; both have one rank."""
    value = as_tensor(x)
    return apply(TakeAlong(check_axes("take_along", (axis,), value.ndim)[0]), value, as_tensor(indices))


def gather(x: TensorLike, axis: int, indices: TensorLike) -> Tensor:
    """take_along with the axis before the indices."""
    return take_along(x, indices, axis)


def scatter_add(values: TensorLike, indices: TensorLike, size: Dim, axis: int = 0) -> Tensor:
    """Zeros with axis `axis` of `size`, to which the values are added at their indices."""
    value = as_tensor(values)
    return apply(ScatterAdd(check_axes("scatter_add", (axis,), value.ndim)[0] if value.ndim else 0, size), value,
                 as_tensor(indices))


def embedding(indices: TensorLike, table: TensorLike) -> Tensor:
    """The rows of `table` that the indices name."""
    return take(table, indices, 0)
