"""Neural-network operators, composed from primitives. Narrow inputs are computed in f32 and rounded once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tessera.arrays import Array, convert, dtype_of
from tessera.composed import Composed
from tessera.dtypes import DType, f64, promote
from tessera.errors import SourceError
from tessera.families import broadcast_dims, check_arity, check_axes, check_kind
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, register
from tessera.ops.create import full, one_hot, stop_gradient
from tessera.ops.elementwise import abs
from tessera.ops.functions import exp, log, rsqrt
from tessera.ops.indexing import TakeAlong, take_along
from tessera.ops.reduce import Axis, Mean, axes_of, max, mean, sum
from tessera.ops.select import cast, where
from tessera.shapes import Dim, known_equal, product
from tessera.tensor import Tensor, TensorLike, as_tensor, operands
from tessera.types import TensorType

__all__ = ["cross_entropy", "layer_norm", "log_softmax", "logsumexp", "mse", "rms_norm", "softmax"]

T = TensorType.parse


def _precise(x: Array) -> Array:
    """The values in f64, in which the references compute."""
    return convert(x, f64)


class _AlongAxis(Composed):
    """A function along one axis that keeps the type of its input."""

    axis: int

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 1)
        check_kind(self.name, "float", *ins)
        check_axes(self.name, (self.axis,), ins[0].rank)
        return ins[0].with_dtype(ins[0].dtype.base)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(replace(self, axis=self.axis + 1), xs[0])  # type: ignore[type-var]

    @classmethod
    def cases(cls) -> Iterable[Case]:
        for dtype in ("f32", "f64", "bf16"):
            yield Case(cls(1), (T(f"{dtype}[A, B]"),))  # type: ignore[call-arg]
        yield Case(cls(0), (T("f32[A, B]"),))  # type: ignore[call-arg]
        yield Case(cls(0), (T("f32[N]"),), ((-60.0, 60.0),))  # type: ignore[call-arg]


@register
@dataclass(frozen=True)
class Softmax(_AlongAxis):
    """exp(x) / sum(exp(x)) along `axis`, from x less its largest element, so that nothing overflows."""

    axis: int
    name = "softmax"

    def ref(self, *ins: Array) -> Array:
        x = _precise(ins[0])
        e = np.exp(x - np.max(x, self.axis, keepdims=True, initial=-np.inf))
        return convert(e / np.sum(e, self.axis, keepdims=True), dtype_of(ins[0]))

    def compose(self, *xs: Tensor) -> Tensor:
        x = cast(xs[0], xs[0].dtype.wide)
        e = exp(x - max(x, self.axis, True))
        # the sum is 1 or more; its reciprocal is taken once per row: dividing every element would cost more than exp
        return cast(e * (1.0 / sum(e, self.axis, True)), xs[0].dtype)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (self.jvp(primals, outs, cts),)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        # The Jacobian diag(y) - y y^T is symmetric, so both rules are y * (t - <y, t>).
        if tangents[0] is None:
            return None
        y, t = (cast(v, outs[0].dtype.wide) for v in (outs[0], tangents[0]))
        return cast(y * (t - sum(y * t, self.axis, True)), outs[0].dtype)


@register
@dataclass(frozen=True)
class LogSoftmax(_AlongAxis):
    """x - log(sum(exp(x))) along `axis`."""

    axis: int
    name = "log_softmax"

    def ref(self, *ins: Array) -> Array:
        x = _precise(ins[0])
        x = x - np.max(x, self.axis, keepdims=True, initial=-np.inf)
        return convert(x - np.log(np.sum(np.exp(x), self.axis, keepdims=True)), dtype_of(ins[0]))

    def compose(self, *xs: Tensor) -> Tensor:
        x = cast(xs[0], xs[0].dtype.wide)
        x = x - max(x, self.axis, True)
        return cast(x - log(sum(exp(x), self.axis, True)), xs[0].dtype)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        y, ct = (cast(v, outs[0].dtype.wide) for v in (outs[0], cts[0]))
        return (cast(ct - exp(y) * sum(ct, self.axis, True), outs[0].dtype),)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        if tangents[0] is None:
            return None
        y, t = (cast(v, outs[0].dtype.wide) for v in (outs[0], tangents[0]))
        return cast(t - sum(exp(y) * t, self.axis, True), outs[0].dtype)


@register
@dataclass(frozen=True)
class LogSumExp(Composed):
    """log(sum(exp(x))) over `axes`, from x less its largest element where that is finite."""

    axes: tuple[int, ...]
    keepdims: bool = False
    name = "logsumexp"

    def infer(self, *ins: TensorType) -> TensorType:
        check_kind(self.name, "float", *ins)
        return Mean(self.axes, self.keepdims).infer(*ins)

    def ref(self, *ins: Array) -> Array:
        x = _precise(ins[0])
        top = np.max(x, self.axes, keepdims=True, initial=-np.inf)
        top = np.where(np.isfinite(top), top, 0.0)
        total = np.log(np.sum(np.exp(x - top), self.axes, keepdims=True)) + top
        return convert(total if self.keepdims else np.squeeze(total, self.axes), dtype_of(ins[0]))

    def compose(self, *xs: Tensor) -> Tensor:
        x = cast(xs[0], xs[0].dtype.wide)
        top = stop_gradient(max(x, self.axes, True))
        top = where(abs(top) < float("inf"), top, 0.0)
        total = log(sum(exp(x - top), self.axes, True)) + top
        return cast(total if self.keepdims or not self.axes else total.squeeze(self.axes), xs[0].dtype)

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(LogSumExp(tuple(a + 1 for a in self.axes), self.keepdims), xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        some = {"A": (1, 5), "B": (1, 5)}
        for dtype in ("f32", "bf16"):
            yield Case(cls((1,)), (T(f"{dtype}[A, B]"),), sizes=some)
        yield Case(cls((0, 1), True), (T("f32[A, B]"),), ((-60.0, 60.0),), some)


class _Norm(Composed):
    """Normalisation over the last axis, then elementwise parameters of that axis' size."""

    parameters: int
    eps: float

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 1, 1 + self.parameters)
        check_kind(self.name, "float", *ins)
        x = ins[0]
        if not x.rank:
            raise SourceError("E304", f"{self.name} needs an axis, got the scalar {x}")
        for p in ins[1:]:
            if p.rank != 1 or not known_equal(p.dims[0], x.dims[-1]):
                raise SourceError("E302", f"{self.name} of {x} with a parameter {p}",
                                  help=f"parameters have one axis, of size {x.dims[-1]}")
        return x.with_dtype(x.dtype.base)

    @classmethod
    def cases(cls) -> Iterable[Case]:
        some = {"B": (2, 7)}
        for dtype in ("f32", "f64", "bf16"):
            yield Case(cls(), (T(f"{dtype}[A, B]"),), sizes=some)
        vectors = (T("f32[B]"),) * cls.parameters
        yield Case(cls(1e-3), (T("f32[A, 2, B]"), *vectors), sizes=some)  # type: ignore[call-arg]
        yield Case(cls(), (T("bf16[A, B]"), *vectors), sizes=some)


@register
@dataclass(frozen=True)
class LayerNorm(_Norm):
    """(x - mean) / sqrt(variance + eps) over the last axis, optionally * weight + bias."""

    eps: float = 1e-5
    name = "layer_norm"
    parameters = 2

    def ref(self, *ins: Array) -> Array:
        x = _precise(ins[0])
        n = np.float64(x.shape[-1])
        centred = x - np.sum(x, -1, keepdims=True) / n
        y = centred / np.sqrt(np.sum(centred**2, -1, keepdims=True) / n + self.eps)
        if len(ins) == 3:
            y = y * _precise(ins[1]) + _precise(ins[2])
        return convert(y, dtype_of(ins[0]))

    def compose(self, *xs: Tensor) -> Tensor:
        wide = xs[0].dtype.wide
        x, *rest = (cast(v, wide) for v in xs)
        centred = x - mean(x, -1, True)
        y = centred * rsqrt(mean(centred * centred, -1, True) + self.eps)
        if rest:
            y = y * rest[0] + rest[1]
        return cast(y, xs[0].dtype)


@register
@dataclass(frozen=True)
class RmsNorm(_Norm):
    """x / sqrt(mean(x^2) + eps) over the last axis, optionally * weight."""

    eps: float = 1e-5
    name = "rms_norm"
    parameters = 1

    def ref(self, *ins: Array) -> Array:
        x = _precise(ins[0])
        y = x / np.sqrt(np.sum(x**2, -1, keepdims=True) / np.float64(x.shape[-1]) + self.eps)
        return convert(y * _precise(ins[1]) if len(ins) == 2 else y, dtype_of(ins[0]))

    def compose(self, *xs: Tensor) -> Tensor:
        wide = xs[0].dtype.wide
        x, *rest = (cast(v, wide) for v in xs)
        y = x * rsqrt(mean(x * x, -1, True) + self.eps)
        return cast(y * rest[0] if rest else y, xs[0].dtype)


def loss_type(*dtypes: DType) -> DType:
    """Losses of narrow types are given in f32: they are sums that the next step scales."""
    return promote(*dtypes).wide


@register
@dataclass(frozen=True)
class CrossEntropy(Composed):
    """The mean over all positions of logsumexp(logits) - logits[target]; classes are the last axis. In f32 or f64.

    A position whose target is outside [0, classes) adds no loss and no gradient; it counts in the mean.
    """

    name = "cross_entropy"
    nondiff = (1,)

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 2)
        logits, targets = ins
        check_kind(self.name, "float", logits)
        if not targets.dtype.is_int:
            raise SourceError("E303", f"cross_entropy needs targets of an int type, got {targets.dtype.base}",
                              help="targets are class numbers, ts.int32 for example")
        if not logits.rank or logits.rank != targets.rank + 1 or not all(map(known_equal, logits.dims, targets.dims)):
            raise SourceError("E302", f"cross_entropy of logits {logits} with targets {targets}",
                              help="targets have the shape of the logits without the last axis")
        return TensorType((), loss_type(logits.dtype))

    def ref(self, *ins: Array) -> Array:
        logits = _precise(ins[0])
        top = np.max(logits, -1, keepdims=True, initial=-np.inf)
        total = np.log(np.sum(np.exp(logits - top), -1)) + top[..., 0]
        targets = ins[1].astype(np.int64)
        inside = (targets >= 0) & (targets < logits.shape[-1])
        chosen = TakeAlong(logits.ndim - 1).ref(logits, targets[..., None])[..., 0]
        loss = np.sum(np.where(inside, total - chosen, 0)) / np.float64(ins[1].size)
        return convert(loss, loss_type(dtype_of(ins[0])))

    def compose(self, *xs: Tensor) -> Tensor:
        logits = cast(xs[0], loss_type(xs[0].dtype))
        chosen = take_along(logits, xs[1].expand_dims(-1), -1).squeeze(-1)
        losses = logsumexp(logits, -1) - chosen
        return mean(where(_inside(xs[1], logits.shape[-1]), losses, full((), 0.0, losses.dtype)))

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        logits, targets = primals
        wide = outs[0].dtype
        classes = logits.shape[-1]
        n = full((), product(targets.shape), wide)
        given = (softmax(cast(logits, wide)) - one_hot(cast(targets, "i64"), classes, wide)) * (cts[0] / n)
        inside = _inside(targets, classes).expand_dims(-1)
        return cast(where(inside, given, full((), 0.0, wide)), logits.dtype), None

    @classmethod
    def cases(cls) -> Iterable[Case]:
        some = {"A": (1, 5), "B": (1, 5)}
        yield Case(cls(), (T("f32[A, B]"), T("i32[A]")), (None, (-1, 1)), some)
        yield Case(cls(), (T("f32[A, 2, 5]"), T("i64[A, 2]")), ((-9.0, 9.0), (-5, 9)), some)
        yield Case(cls(), (T("bf16[A, 4]"), T("u8[A]")), (None, (0, 5)), some)


def _inside(targets: Tensor, classes: Any) -> Tensor:
    i = cast(targets, "i64")
    return (i >= 0) & (i < full((), classes, "i64"))


@register
@dataclass(frozen=True)
class Mse(Composed):
    """The mean of (x - y)^2 over all elements. Given in f32 or f64."""

    name = "mse"

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 2)
        check_kind(self.name, "float", *ins)
        broadcast_dims(self.name, *ins)
        return TensorType((), loss_type(*(t.dtype for t in ins)))

    def ref(self, *ins: Array) -> Array:
        difference = _precise(ins[0]) - _precise(ins[1])
        wide = loss_type(*(dtype_of(a) for a in ins))
        return convert(np.sum(difference**2) / np.float64(difference.size), wide)

    def compose(self, *xs: Tensor) -> Tensor:
        wide = loss_type(*(x.dtype for x in xs))
        difference = cast(xs[0], wide) - cast(xs[1], wide)
        return mean(difference * difference)

    @classmethod
    def cases(cls) -> Iterable[Case]:
        some = {"A": (1, 5), "B": (1, 5)}
        for dtype in ("f32", "f64", "bf16"):
            yield Case(cls(), (T(f"{dtype}[A, B]"), T(f"{dtype}[A, B]")), sizes=some)
        yield Case(cls(), (T("f32[A, B]"), T("f32[B]")), sizes=some)


# The functions --------------------------------------------------------------------------------------------------------


def _axis(name: str, x: Tensor, axis: int, dim: int | None) -> int:
    return check_axes(name, (axis if dim is None else dim,), x.ndim)[0]


def softmax(x: TensorLike, axis: int = -1, *, dim: int | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) along `axis`."""
    value = as_tensor(x)
    return apply(Softmax(_axis("softmax", value, axis, dim)), value)


def log_softmax(x: TensorLike, axis: int = -1, *, dim: int | None = None) -> Tensor:
    """log(softmax(x))."""
    value = as_tensor(x)
    return apply(LogSoftmax(_axis("log_softmax", value, axis, dim)), value)


def logsumexp(x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None) -> Tensor:
    """log(sum(exp(x))) over `axis`."""
    value = as_tensor(x)
    return apply(LogSumExp(axes_of("logsumexp", value, axis, dim), keepdims), value)


def layer_norm(
    x: TensorLike, weight: TensorLike | None = None, bias: TensorLike | None = None, eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over the last axis, then * weight + bias; both or neither of them."""
    if (weight is None) != (bias is None):
        raise SourceError("E311", "layer_norm takes weight and bias together, or neither")
    parameters = () if weight is None or bias is None else (weight, bias)
    return apply(LayerNorm(eps), *operands(x, *parameters))


def rms_norm(x: TensorLike, weight: TensorLike | None = None, eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, then * weight."""
    return apply(RmsNorm(eps), *operands(x, *(() if weight is None else (weight,))))


def cross_entropy(logits: TensorLike, targets: TensorLike) -> Tensor:
    """The mean cross entropy of logits [..., classes] and int targets [...].

    A target outside [0, classes) adds no loss and no gradient; its position counts in the mean.
    """
    return apply(CrossEntropy(), as_tensor(logits), as_tensor(targets))


def mse(x: TensorLike, y: TensorLike) -> Tensor:
    """The mean squared difference."""
    return apply(Mse(), *operands(x, y))
