"""Families of operators. Each supplies most rules, so that an operator states only what is its own.

Pointwise    one output element from the elements at the same place of the broadcast operands
Reduction    an associative operation over axes
View         an output element is one input element (or zero)

Those that are defined by other operators are in tessera.composed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from tessera.arrays import Array, convert, dtype_of
from tessera.dtypes import DType, f32, i64, promote, u64
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.interpreters import apply, execute
from tessera.operator import Case, Cotangents, Operator
from tessera.shapes import Dim, known_equal
from tessera.tensor import Tensor, operators
from tessera.types import TensorType

__all__ = ["Partial", "Pointwise", "Reduction", "View", "aligned", "broadcast_dims", "check_axes",
           "floating", "repeated", "unbroadcast"]

T = TensorType.parse

Partial = Tensor | float | None
"""A partial derivative: a tensor, a Python number, or None for zero."""


# Helpers --------------------------------------------------------------------------------------------------------------


def floating(dtype: DType) -> DType:
    """The float type in which a function of this type is given: itself, or f32 for ints and bool."""
    return dtype.base if dtype.is_float else f32


def broadcast_dims(name: str, *types: TensorType) -> tuple[Dim, ...]:
    """The shape that the operands broadcast to, by NumPy's rule: axes aligned at the right are equal, or 1."""
    rank = max((t.rank for t in types), default=0)
    dims: list[Dim] = []
    for axis in range(-rank, 0):
        result: Dim = 1
        for t in types:
            dim = t.dims[axis] if -axis <= t.rank else 1
            if dim == 1 or known_equal(dim, result):
                continue
            if result != 1:
                raise SourceError(
                    "E302", f"{name} cannot broadcast {' with '.join(str(t) for t in types)}: {result} against {dim}",
                    help=f"axis {axis} must be the same size in all operands, or 1")
            result = dim
        dims.append(result)
    return tuple(dims)


def check_axes(name: str, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from 0 and sorted; negative ones count from the end. E304 when out of range or repeated."""
    out = []
    for axis in axes:
        if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or not -rank <= axis < rank:
            raise SourceError("E304", f"{name} has no axis {axis} in a tensor of rank {rank}",
                              help=f"axes are {-rank}..{rank - 1}" if rank else "a tensor of rank 0 has no axes")
        out.append(int(axis) % rank)
    if len(set(out)) != len(out):
        raise SourceError("E304", f"{name} has an axis twice in {tuple(axes)}")
    return tuple(sorted(out))


def check_kind(name: str, accepts: str, *types: TensorType) -> None:
    """E303 unless the kind of every type is named in `accepts`."""
    for t in types:
        if t.dtype.kind not in accepts.split():
            kinds = ", ".join(accepts.split())
            raise SourceError("E303", f"{name} does not take {t.dtype.base}",
                              help=f"it takes {kinds}; convert with ts.cast")


def check_arity(name: str, types: Sequence[TensorType], *counts: int) -> None:
    """E311 for a wrong number of operands."""
    if len(types) not in counts:
        expected = " or ".join(str(c) for c in counts)
        raise SourceError("E311", f"{name} takes {expected} operands, got {len(types)}")


def unbroadcast(ct: Tensor, to: TensorType) -> Tensor:
    """The adjoint of broadcasting `to` to the shape of `ct`: sums over the axes that were repeated."""
    extra = ct.ndim - to.rank
    axes = [*range(extra), *(extra + i for i, d in enumerate(to.dims) if d == 1 and ct.shape[extra + i] != 1)]
    if axes:
        ct = operators.sum(ct, tuple(axes), keepdims=True)
    if extra:
        ct = operators.squeeze(ct, tuple(range(extra)))
    result: Tensor = operators.cast(ct, to.dtype)
    return result


def aligned(xs: Sequence[Tensor], batched: Sequence[bool]) -> tuple[Tensor, ...]:
    """Operands that broadcast from the right, with the batch (axis 0 of those that have it) in front of all axes."""
    rank = max(x.ndim - own for x, own in zip(xs, batched, strict=True))
    return tuple(operators.expand_dims(x, tuple(range(1, rank + 2 - x.ndim))) if own and x.ndim <= rank else x
                 for x, own in zip(xs, batched, strict=True))


def repeated(xs: Sequence[Tensor], batched: Sequence[bool], size: Dim) -> tuple[Tensor, ...]:
    """Operands that all have the batch in axis 0."""
    return tuple(x if own else operators.broadcast_to(x, size, *x.shape) for x, own in zip(xs, batched, strict=True))


def _times(t: Tensor, partial: Partial) -> Tensor | None:
    if partial is None:
        return None
    if isinstance(partial, (int, float)):
        return t if partial == 1 else -t if partial == -1 else t * float(partial)
    return t * partial


# Pointwise ------------------------------------------------------------------------------------------------------------


class Pointwise(Operator):
    """Elementwise with NumPy broadcasting. Operands are converted to the compute types, the result rounded once.

    A subclass gives `body` (in the scalar language), `numpy` (on arrays of the compute types) and `partials`; it may
    change `result` and `compute`.
    """

    rounds = True
    arity: ClassVar[int] = 1
    accepts: ClassVar[str] = "float int uint bool"
    # Where random test values come from, per operand.
    domain: ClassVar[tuple[tuple[float, float] | None, ...]] = ()
    tested: ClassVar[tuple[str, ...]] = ("f32", "f64", "bf16")
    smooth: ClassVar[bool] = True

    def result(self, *dtypes: DType) -> DType:
        """The element type of the result."""
        return promote(*dtypes)

    def compute(self, *dtypes: DType) -> tuple[DType, ...]:
        """The types that the operands are converted to before `body`."""
        return (self.result(*dtypes).wide,) * len(dtypes)

    def body(self, e: Elements, *x: Element) -> Element:
        """The value for operands of the compute types."""
        raise self.missing("body")

    def numpy(self, *x: Array) -> Array:
        """The same on arrays."""
        raise self.missing("numpy")

    def partials(self, primals: tuple[Tensor, ...], out: Tensor) -> tuple[Partial, ...]:
        """The derivative by each operand."""
        raise self.missing("partials")

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, self.arity)
        check_kind(self.name, self.accepts, *ins)
        return TensorType(broadcast_dims(self.name, *ins), self.result(*(t.dtype for t in ins)))

    def ref(self, *ins: Array) -> Array:
        dtypes = tuple(dtype_of(x) for x in ins)
        wide = (convert(x, to) for x, to in zip(ins, self.compute(*dtypes), strict=True))
        return convert(np.asarray(self.numpy(*wide)), self.result(*dtypes))

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        dtypes = tuple(t.dtype for t in ins)
        values = []
        for t, read, to in zip(ins, reads, self.compute(*dtypes), strict=True):
            own = idx[len(idx) - t.rank:]
            values.append(e.cast(read(*(e.zero() if d == 1 else i for d, i in zip(t.dims, own, strict=True))), to.name))
        return e.cast(self.body(e, *values), self.result(*dtypes).name)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        result: list[Tensor | None] = []
        for primal, partial in zip(primals, self.partials(primals, outs[0]), strict=True):
            ct = _times(cts[0], partial) if primal.dtype.is_float else None
            result.append(None if ct is None else unbroadcast(ct, primal.type))
        return tuple(result)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        total: Tensor | None = None
        for tangent, partial in zip(tangents, self.partials(primals, outs[0]), strict=True):
            term = None if tangent is None else _times(tangent, partial)
            if term is not None:
                total = term if total is None else total + term
        if total is None:
            return None
        result: Tensor = operators.cast(operators.broadcast_to(total, *outs[0].shape), outs[0].dtype)
        return result

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Any:
        return execute(self, *aligned(xs, batched))

    @classmethod
    def samples(cls) -> Iterable[Operator]:
        """Instances to test; those with attributes override it."""
        return (cls(),)

    @classmethod
    def cases(cls) -> Iterable[Case]:
        shapes = {
            1: (("[A, B]",), ("[N]",), ("[]",)),
            2: (("[A, B]", "[A, B]"), ("[A, 1]", "[B]"), ("[N]", "[]")),
            3: (("[A, B]", "[A, B]", "[A, B]"), ("[B]", "[A, 1]", "[]")),
        }[cls.arity]
        for op in cls.samples():
            for i, dtype in enumerate(cls.tested):
                for shape in shapes if i == 0 else shapes[:1]:
                    yield Case(op, tuple(T(dtype + s) for s in shape), cls.domain, smooth=cls.smooth)


# Reduction ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reduction(Operator):
    """`kind` of the scalar language's reduce over `axes` (from 0, sorted). The axes are kept as 1 with `keepdims`."""

    axes: tuple[int, ...]
    keepdims: bool = False

    kind: ClassVar[str]
    accepts: ClassVar[str] = "float int uint bool"
    tested: ClassVar[tuple[str, ...]] = ("f32", "bf16", "i32")

    def result(self, dtype: DType) -> DType:
        """The element type of the result; sums of ints and bools are given in 64 bits."""
        return dtype.base

    def accumulate(self, dtype: DType) -> DType:
        """The type in which terms are combined."""
        return dtype.wide

    def numpy(self, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        """The reduction of an array of the accumulation type."""
        raise self.missing("numpy")

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 1)
        check_kind(self.name, self.accepts, *ins)
        (x,) = ins
        if check_axes(self.name, self.axes, x.rank) != self.axes:
            raise SourceError("E304", f"{self.name} needs its axes sorted and not negative, got {self.axes}")
        dims = tuple(1 if i in self.axes else d for i, d in enumerate(x.dims) if self.keepdims or i not in self.axes)
        return TensorType(dims, self.result(x.dtype))

    def ref(self, *ins: Array) -> Array:
        dtype = dtype_of(ins[0])
        wide = convert(ins[0], self.accumulate(dtype))
        return convert(np.asarray(self.numpy(wide, self.axes, self.keepdims)), self.result(dtype))

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        (x,) = ins
        accum = self.accumulate(x.dtype).name
        outer = list(idx)
        if self.keepdims:
            outer = [i for axis, i in enumerate(idx) if axis not in self.axes]

        def body(*inner: Index) -> Element:
            a, b = iter(inner), iter(outer)
            return e.cast(reads[0](*(next(a) if i in self.axes else next(b) for i in range(x.rank))), accum)

        total = e.reduce(self.kind, [x.dims[i] for i in self.axes], body) if self.axes else body()
        return e.cast(total, self.result(x.dtype).name)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Any:
        return execute(replace(self, axes=tuple(axis + 1 for axis in self.axes)), xs[0])

    def kept(self, out: Tensor) -> Tensor:
        """`out` with the reduced axes present as 1, so that it broadcasts against the input."""
        result: Tensor = out if self.keepdims else operators.expand_dims(out, self.axes) if self.axes else out
        return result

    @classmethod
    def cases(cls) -> Iterable[Case]:
        for i, dtype in enumerate(cls.tested):
            yield Case(cls((1,)), (T(f"{dtype}[A, B]"),))
            if i == 0:
                yield Case(cls((0,), True), (T(f"{dtype}[A, B]"),))
                yield Case(cls((0, 2)), (T(f"{dtype}[A, B, 3]"),))
                yield Case(cls((0, 1), True), (T(f"{dtype}[A, B]"),))
                yield Case(cls((0,)), (T(f"{dtype}[N]"),))
                yield Case(cls(()), (T(f"{dtype}[A, B]"),))


def integer_sum(dtype: DType) -> DType:
    """The type of a sum: floats keep theirs, unsigned ints give u64, other ints and bool i64."""
    return dtype.base if dtype.is_float else u64 if dtype.kind == "uint" else i64


# View -----------------------------------------------------------------------------------------------------------------


class View(Operator):
    """Moves elements: `source` says which input element is at an index, and optionally where there is one."""

    def source(
        self, e: Elements, x: TensorType, idx: tuple[Index, ...],
    ) -> tuple[tuple[Index, ...], Element | None]:
        """(indices of the input, condition or None)."""
        raise self.missing("source")

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        indices, where = self.source(e, ins[0], idx)
        return reads[0](*indices, where=where) if where is not None else reads[0](*indices)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        result: Tensor | None = None if tangents[0] is None else apply(self, tangents[0])
        return result
