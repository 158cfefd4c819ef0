"""Attention: one operator that is defined by products and a softmax, and the rotary embedding of positions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tessera.arrays import Array, convert, dtype_of
from tessera.composed import Composed
from tessera.dtypes import f32, f64, i64
from tessera.errors import SourceError
from tessera.families import broadcast_dims, check_arity, check_kind
from tessera.interpreters import apply
from tessera.operator import Case, register
from tessera.ops.create import full, iota, stop_gradient
from tessera.ops.functions import cos, exp, rsqrt, sin
from tessera.ops.linalg import matmul
from tessera.ops.parts import stack
from tessera.ops.reduce import max, sum
from tessera.ops.select import cast, where
from tessera.ops.views import expand_dims, reshape
from tessera.shapes import Dim, known_equal
from tessera.tensor import Tensor, TensorLike, as_tensor, operands
from tessera.types import TensorType

__all__ = ["rope", "scaled_dot_product_attention"]

T = TensorType.parse


def _heads_per_group(q: TensorType, k: TensorType) -> int:
    """How many query heads share one head of keys and values; E302 where they do not divide."""
    if q.rank < 3 or known_equal(q.dims[-3], k.dims[-3]):
        return 1
    heads, shared = q.dims[-3], k.dims[-3]
    if isinstance(heads, int) and isinstance(shared, int) and shared and heads % shared == 0:
        return heads // shared
    raise SourceError("E302", f"attention of {heads} heads of queries with {shared} heads of keys and values",
                      help="the number of query heads is a multiple of the other, both are known while tracing")


@register
@dataclass(frozen=True)
class Attention(Composed):
    """softmax(scale q k^T + mask) v over the last two axes; the axis before is heads, which keys and values may share.

    q [.., H, S, D], k [.., G, T, D], v [.., G, T, E], and optionally a mask that broadcasts to [.., H, S, T]: bool
    (true: attend) or float (added). G divides H. `scale` 0 stands for 1 / sqrt(D). With `causal`, query i sees the keys
    up to i + T - S. A query that sees nothing gives 0. Scores are computed in f32 (f64 for f64); weights are
    rounded to v's type before the second product, less their common divisor, which is applied last.
    """

    causal: bool = False
    scale: float = 0.0
    name = "attention"

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 3, 4)
        q, k, v = ins[:3]
        check_kind(self.name, "float", q, k, v)
        if not q.rank == k.rank == v.rank or q.rank < 2:
            raise SourceError("E304", f"attention needs queries, keys and values of one rank >= 2, got {q}, {k}, {v}")
        fits = known_equal(q.dims[-1], k.dims[-1]) and known_equal(k.dims[-2], v.dims[-2])
        if not fits or not all(map(known_equal, k.dims[:-2], v.dims[:-2])):
            raise SourceError("E302", f"attention of {q} with {k} and {v}",
                              help="queries and keys share the last axis, keys and values all axes before it")
        if not all(map(known_equal, q.dims[:-3], k.dims[:-3])):
            raise SourceError("E302", f"attention of {q} with {k}", help="the axes before the heads are the same")
        _heads_per_group(q, k)
        if len(ins) == 4:
            check_kind(f"the mask of {self.name}", "float bool", ins[3])
            scores = TensorType((*q.dims[:-1], k.dims[-2]), f32)
            if ins[3].rank > q.rank or broadcast_dims(self.name, scores, ins[3]) != scores.dims:
                raise SourceError("E302", f"a mask {ins[3]} for scores {list(map(str, scores.dims))}")
        return TensorType((*q.dims[:-1], v.dims[-1]), q.dtype.base)

    def ref(self, *ins: Array) -> Array:
        q, k, v = (convert(a, f64) for a in ins[:3])
        shared = 1 if q.ndim < 3 or q.shape[-3] == k.shape[-3] else q.shape[-3] // k.shape[-3]
        if shared > 1:
            k, v = (np.repeat(a, shared, -3) for a in (k, v))
        scores = q @ np.swapaxes(k, -1, -2) * (self.scale or 1.0 / np.sqrt(np.float64(q.shape[-1])))
        rows, columns = scores.shape[-2:]
        if len(ins) == 4 and ins[3].dtype == np.bool_:
            scores = np.where(ins[3], scores, -np.inf)
        elif len(ins) == 4:
            scores = scores + convert(ins[3], f64)
        if self.causal:
            scores = np.where(np.tri(rows, columns, columns - rows, dtype=bool), scores, -np.inf)
        top = np.max(scores, -1, keepdims=True, initial=-np.inf)
        e = np.exp(scores - np.where(np.isneginf(top), 0.0, top))
        total = np.sum(e, -1, keepdims=True)
        return convert((e / np.where(total == 0.0, 1.0, total)) @ v, dtype_of(ins[0]))

    def compose(self, *xs: Tensor) -> Tensor:
        q, k, v = xs[:3]
        group = _heads_per_group(q.type, k.type)
        mask = xs[3] if len(xs) == 4 else None
        if group > 1:
            shape = q.shape
            q = reshape(q, (*shape[:-3], k.shape[-3], group, *shape[-2:]))
            k, v = expand_dims(k, -3), expand_dims(v, -3)
            if mask is not None and mask.ndim >= 3:
                every = known_equal(mask.shape[-3], 1)
                mask = reshape(mask, (*mask.shape[:-3], *((1, 1) if every else (k.shape[-4], group)), *mask.shape[-2:]))
            result = self._attend(q, k, v, mask)
            return cast(reshape(result, (*shape[:-1], v.shape[-1])), xs[0].dtype)
        return cast(self._attend(q, k, v, mask), xs[0].dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        wide = q.dtype.wide
        scale = self.scale or rsqrt(cast(full((), q.shape[-1], i64), wide))
        scores = matmul(q, k.mT, wide) * scale
        if mask is not None:
            scores = where(mask, scores, -float("inf")) if mask.dtype.kind == "bool" else scores + cast(mask, wide)
        if self.causal:
            scores = where(_sees(q.shape[-2], k.shape[-2]), scores, -float("inf"))
        top = stop_gradient(max(scores, -1, True))
        weights = exp(scores - where(top > -float("inf"), top, 0.0))
        total = sum(weights, -1, True)
        mixed = matmul(cast(weights, v.dtype), v, wide)
        return mixed * (1.0 / where(total > 0.0, total, 1.0))

    @classmethod
    def cases(cls) -> Iterable[Case]:
        some = {"S": (0, 4), "K": (1, 4), "D": (1, 4)}
        for dtype in ("f32", "f64"):
            q, k, v = T(f"{dtype}[2, S, D]"), T(f"{dtype}[2, K, D]"), T(f"{dtype}[2, K, 3]")
            yield Case(cls(), (q, k, v), sizes=some)
            yield Case(cls(True), (q, k, v), sizes=some)
        grouped = tuple(T(f"f32[1, {h}, {s}, 4]") for h, s in ((4, "S"), (2, "K"), (2, "K")))
        yield Case(cls(True, 0.3), grouped, sizes=some)
        yield Case(cls(), (*grouped, T("bool[4, S, K]")), sizes=some)
        yield Case(cls(), (*grouped, T("f32[S, K]")), sizes=some)
        yield Case(cls(), (T("f32[S, D]"), T("f32[K, D]"), T("f32[K, 2]")), sizes=some)


def _sees(rows: Dim, columns: Dim) -> Tensor:
    """[rows, columns]: whether query i sees key j, j <= i + columns - rows."""
    last = expand_dims(iota(rows), 1) + full((), columns - rows, i64)
    return expand_dims(iota(columns), 0) <= last


# The functions --------------------------------------------------------------------------------------------------------


def scaled_dot_product_attention(
    q: TensorLike, k: TensorLike, v: TensorLike, mask: TensorLike | None = None, *, causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale + mask) v for q [.., H, S, D], k [.., G, T, D], v [.., G, T, E]; gives [.., H, S, E].

    G divides H: heads of keys and values are shared by groups of query heads. `mask` broadcasts to [.., H, S, T]: bool
    (true: attend) or float (added). `causal`: query i sees the keys up to i + T - S. `scale` is 1 / sqrt(D) by default.
    """
    if scale is not None and not scale:
        raise SourceError("E305", "attention with scale=0 has no scores", help="leave `scale` out for 1 / sqrt(D)")
    more = () if mask is None else (as_tensor(mask),)
    return apply(Attention(bool(causal), float(scale or 0.0)), *operands(q, k, v), *more)


def rope(x: TensorLike, positions: TensorLike | None = None, base: float = 10000.0) -> Tensor:
    """Rotary embedding of positions (Su et al. 2021) in the half-split form, for x [.., S, D] with D even.

    Element j of the first half and of the second half are a pair, turned by the angle position * base^(-2 j / D).
    `positions` are ints that broadcast to [.., S], by default 0, 1, ... Computed in f32 (f64 for f64), rounded once.
    """
    value = as_tensor(x)
    if value.ndim < 2:
        raise SourceError("E304", f"rope needs axes [.., S, D], got {value.type}")
    *lead, length, size = value.shape
    if isinstance(size, int) and size % 2:
        raise SourceError("E302", f"rope turns pairs, but the last axis of {value.type} is odd",
                          help="the size of a head is even")
    wide = value.dtype.wide
    place = iota(length) if positions is None else as_tensor(positions)
    exponent = cast(iota(size // 2), wide) * (-2.0 * float(np.log(base)) / cast(full((), size, i64), wide))
    angle = expand_dims(cast(place, wide), -1) * exp(exponent)
    halves = reshape(cast(value, wide), (*lead, length, 2, size // 2))
    a, b = halves[..., 0, :], halves[..., 1, :]
    c, s = cos(angle), sin(angle)
    return cast(reshape(stack([a * c - b * s, b * c + a * s], -2), value.shape), value.dtype)
