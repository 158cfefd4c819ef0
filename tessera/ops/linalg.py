"""Matrix products."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.arrays import Array, convert, dtype_of
from tessera.dtypes import DType, as_dtype, f32, i32, i64, promote
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.families import aligned, broadcast_dims, check_arity, check_kind, unbroadcast
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, Operator, register
from tessera.ops.elementwise import add, mul
from tessera.ops.select import cast
from tessera.shapes import Dim, known_equal
from tessera.tensor import Tensor, TensorLike, operands
from tessera.types import TensorType

__all__ = ["dot", "gemm", "linear", "matmul"]

T = TensorType.parse


def product_type(a: DType, b: DType) -> DType:
    """The type of a matrix product: the promoted type, but f32 of fp8 and i32 of small ints, which would overflow."""
    common = promote(a, b)
    if common.is_float:
        return f32 if common.bits == 8 else common
    return i32 if common.bits <= 32 else i64


@register
@dataclass(frozen=True)
class Matmul(Operator):
    """x @ y over the last two axes, the others broadcast. Accumulated in f32 (f64 for f64; ints in the result's type).

    `dtype` asks for another result type than product_type gives; the sum is rounded once to it.
    """

    dtype: str = ""
    name = "matmul"
    rounds = True
    accumulates = True
    contracts = True

    def result(self, a: DType, b: DType) -> DType:
        """The element type of the result."""
        return as_dtype(self.dtype).base if self.dtype else product_type(a, b)

    def accumulate(self, a: DType, b: DType) -> DType:
        """The type of products and sums."""
        common = promote(a, b)
        return common.wide if common.is_float else product_type(a, b)

    def unrounded(self, dtype: str) -> Operator:
        return Matmul(dtype)

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 2)
        check_kind(self.name, "float int uint bool", *ins)
        x, y = ins
        if x.rank < 2 or y.rank < 2:
            raise SourceError("E304", f"matmul needs operands of rank 2 or more, got {x} and {y}")
        if not known_equal(x.dims[-1], y.dims[-2]):
            fits = known_equal(x.dims[-1], y.dims[-1])
            raise SourceError("E302", f"matmul contracts {x.dims[-1]} with {y.dims[-2]}",
                              help=f"the right operand is {y}; did you mean its transpose, `.mT`?" if fits
                              else f"the operands are {x} and {y}")
        batch = broadcast_dims(self.name, TensorType(x.dims[:-2], x.dtype), TensorType(y.dims[:-2], y.dtype))
        return TensorType((*batch, x.dims[-2], y.dims[-1]), self.result(x.dtype, y.dtype))

    def ref(self, *ins: Array) -> Array:
        types = tuple(dtype_of(a) for a in ins)
        accum = self.accumulate(*types)
        return convert(np.matmul(*(convert(a, accum) for a in ins)), self.result(*types))

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        x, y = ins
        accum = self.accumulate(x.dtype, y.dtype).name
        *batch, row, column = idx

        def at(t: TensorType) -> list[Index]:
            own = batch[len(batch) - (t.rank - 2):]
            return [e.zero() if d == 1 else i for d, i in zip(t.dims[:-2], own, strict=True)]

        def body(k: Index) -> Element:
            return e.cast(reads[0](*at(x), row, k), accum) * e.cast(reads[1](*at(y), k, column), accum)

        return e.cast(e.reduce("add", [x.dims[-1]], body), self.result(x.dtype, y.dtype).name)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        x, y = primals
        dx = apply(Matmul(x.dtype.base.name), cts[0], y.mT) if x.dtype.is_float else None
        dy = apply(Matmul(y.dtype.base.name), x.mT, cts[0]) if y.dtype.is_float else None
        return (None if dx is None else unbroadcast(dx, x.type), None if dy is None else unbroadcast(dy, y.type))

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        x, y = primals
        dx, dy = tangents
        op = Matmul(outs[0].dtype.name)
        left = None if dx is None else apply(op, dx, y)
        right = None if dy is None else apply(op, x, dy)
        return left if right is None else right if left is None else left + right

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(self, *aligned(xs, batched))

    @classmethod
    def cases(cls) -> Iterable[Case]:
        for dtype in ("f32", "f64", "bf16", "fp8_e4m3", "i8", "i32"):
            yield Case(cls(), (T(f"{dtype}[A, K]"), T(f"{dtype}[K, B]")))
        yield Case(cls(), (T("f32[A, 2, K]"), T("f32[K, 3]")))
        yield Case(cls(), (T("f32[A, 1, 2, K]"), T("f32[B, K, 3]")))
        yield Case(cls(), (T("bf16[A, K]"), T("fp8_e4m3[K, B]")))
        yield Case(cls("f32"), (T("bf16[A, K]"), T("bf16[K, B]")))


def matmul(x: TensorLike, y: TensorLike, dtype: Any = None) -> Tensor:
    """x @ y as in NumPy: a vector at the left is a row, at the right a column; other axes broadcast."""
    a, b = operands(x, y)
    for name, t in (("left", a), ("right", b)):
        if t.ndim == 0:
            raise SourceError("E304", f"matmul needs axes, but its {name} operand is the scalar {t.type}",
                              help="use `*`")
    op = Matmul("" if dtype is None else as_dtype(dtype).base.name)
    result: Tensor = apply(op, a.expand_dims(0) if a.ndim == 1 else a, b.expand_dims(1) if b.ndim == 1 else b)
    if b.ndim == 1:
        result = result.squeeze(-1)
    return result.squeeze(-1 if b.ndim == 1 else -2) if a.ndim == 1 else result


def gemm(
    a: TensorLike, b: TensorLike, c: TensorLike | None = None, *, alpha: float = 1.0, beta: float = 1.0,
    trans_a: bool = False, trans_b: bool = False, dtype: Any = None,
) -> Tensor:
    """alpha * op(a) @ op(b) + beta * c, rounded once to the type of the product."""
    x, y = operands(a, b)
    x, y = x.mT if trans_a else x, y.mT if trans_b else y
    result = as_dtype(dtype).base if dtype is not None else product_type(x.dtype, y.dtype)
    if c is None and alpha == 1.0:
        return matmul(x, y, dtype)
    total = matmul(x, y, result.wide)
    if alpha != 1.0:
        total = mul(total, alpha)
    if c is not None and beta != 0.0:
        addend = cast(c, result.wide)
        total = add(total, addend if beta == 1.0 else mul(addend, beta))
    return cast(total, result)


def linear(x: TensorLike, w: TensorLike, b: TensorLike | None = None) -> Tensor:
    """x @ w + b, rounded once to the type of the product."""
    if b is None:
        return matmul(x, w)
    a, weight = operands(x, w)
    result = product_type(a.dtype, weight.dtype)
    return cast(add(matmul(a, weight, result.wide), cast(b, result.wide)), result)


dot = matmul
