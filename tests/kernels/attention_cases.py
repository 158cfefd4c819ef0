"""Calls of attention and of its derivatives: grouped heads, queries that see nothing, ragged and many blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import ml_dtypes
import numpy as np

import tessera.kernels as K
from tessera.kernel import KernelDef, specialise
from tessera_runtime.core.dtypes import np_dtype
from tesseracc.ir.types import size_of
from tests.kernels.cases import UNITS, Call, Case, U, Want, empty, normal, stored, wide

FLOATS = ("bf16", "f16", "f32")
#: D, and B, H, G, S, T, causal
SHAPES = {
    32: (
        (1, 2, 1, 70, 130, True), (1, 1, 1, 5, 130, False), (2, 2, 1, 37, 70, True), (1, 3, 1, 66, 66, False),
        (1, 1, 1, 1, 1, False), (1, 1, 1, 70, 20, True), (1, 1, 1, 3, 0, False), (1, 1, 1, 0, 4, True),
    ),
    64: ((1, 2, 2, 66, 66, True), (1, 1, 1, 40, 200, False)),
    80: ((1, 1, 1, 40, 70, True),),
    128: ((1, 1, 1, 65, 70, True),),
    256: ((1, 1, 1, 20, 70, True),),
}  # fmt: skip
TYPES = {80: FLOATS[:1], 256: FLOATS[:2]}  # for these D
DEEP = (1, 1, 1, 66, 70, False)
FLAT = {
    "flash_attention": (1, 2, 1, 20, 321, False), "flash_attention_grad_q": (1, 1, 1, 20, 256, False),
    "flash_attention_grad_kv": (1, 2, 1, 160, 64, False),
}  # fmt: skip


@dataclass(frozen=True)
class Attention:
    """One problem. What it is for:

    - `""`: random
    - `"deep"`: all scores are about -200, whose exponentials are 0
    - `"flat"`, `"flat_q"`, `"flat_k"`: all scores are 0, and weights and the other factors of the products have so few
      bits that rounding them to a narrow type changes nothing; what O, dQ or dK and dV add up drifts away and comes
      back. So the rounding of the sums is all that there is.
    - `"flat_v"`: flat with positive values, which leave little but the rounding of the sums of weights
    """

    dtype: str
    d: int
    shape: tuple[int, int, int, int, int, bool]
    kind: str = ""

    def given(self, seed: int, *shape: int) -> Any:
        return normal(*shape, seed=seed, dtype=self.dtype)

    def one(self, seed: int, *shape: int) -> Any:
        """1 or -1 in one place of each row: products with it are exact."""
        rng = np.random.default_rng((seed, *shape))
        places = rng.integers(0, shape[-1], (*shape[:-1], 1)) == np.arange(shape[-1])
        return (places * rng.choice((-1, 1), shape)).astype(np_dtype(self.dtype))

    def drifting(self, x: Any, by: float, axis: int) -> Any:
        """x + by in the first half of an axis, x - by in the second."""
        first = np.arange(x.shape[axis]) < x.shape[axis] / 2
        return (wide(x) + np.where(first, by, -by).reshape(-1, *[1] * (x.ndim - axis - 1))).astype(x.dtype)

    @cached_property
    def q(self) -> Any:
        b, h, _, s, _, _ = self.shape
        q = self.given(0, b, h, s, self.d)
        if self.kind in ("flat", "flat_q", "flat_v"):
            return q * 0
        return self.drifting(q, 8, 1) if self.kind == "flat_k" else self.leaning(q, 1)

    @cached_property
    def k(self) -> Any:
        b, _, g, _, t, _ = self.shape
        k = self.given(1, b, g, t, self.d)
        if self.kind == "flat_k":
            return k * 0
        return self.drifting(k, 8, 2) if self.kind == "flat_q" else self.leaning(k, -1)

    def leaning(self, x: Any, sign: int) -> Any:
        return (wide(x) / 4 + sign * (200 / self.d**0.5) ** 0.5).astype(x.dtype) if self.kind == "deep" else x

    @cached_property
    def v(self) -> Any:
        b, _, g, _, t, _ = self.shape
        if self.kind == "flat":
            return self.drifting(self.given(2, b, g, t, self.d), 8, 2)
        if self.kind == "flat_v":
            return abs(self.given(2, b, g, t, self.d)) + np_dtype(self.dtype).type(1)
        return (self.one if self.flat else self.given)(2, b, g, t, self.d)

    @cached_property
    def do(self) -> Any:
        b, h, _, s, _, _ = self.shape
        do = self.given(3, b, h, s, self.d)
        return self.drifting(do, 8, 1) if self.kind == "flat_k" else do

    @property
    def scale(self) -> float:
        return float(np.float32(self.d**-0.5))

    def heads(self, x: Any) -> Any:
        """Keys or values, one for each head of the queries."""
        return np.repeat(wide(x), self.shape[1] // self.shape[2], 1)

    def sum_of_heads(self, x: Any) -> Any:
        b, h, g, _, t, _ = self.shape
        return x.reshape(b, g, h // g, t, self.d).sum(2)

    def scores(self) -> tuple[Any, Any]:
        """Scores, and their rounding."""
        _, _, _, s, t, causal = self.shape
        keys = self.heads(self.k).swapaxes(-1, -2)
        scores = wide(self.q) @ keys * self.scale
        size = np.abs(wide(self.q)) @ np.abs(keys) * self.scale
        if causal:
            scores = np.where(np.arange(t) > np.arange(s)[:, None] + t - s, -np.inf, scores)
        return scores, (self.d + 4) * U * size

    @property
    def flat(self) -> bool:
        return self.kind.startswith("flat")

    @property
    def unit(self) -> float:
        """How far a weight moves when it is rounded for a product."""
        return 0.0 if self.flat or self.dtype == "f32" else UNITS[self.dtype]

    @property
    def least(self) -> float:
        return 0.0 if self.flat else float(ml_dtypes.finfo(np_dtype(self.dtype)).smallest_subnormal)


def weights(scores: Any, error: Any, reference: Any) -> tuple[Any, Any]:
    """exp(scores - reference), and the relative error of each: of its argument, twice as far, and of exp."""
    with np.errstate(invalid="ignore"):
        away = np.where(np.isfinite(scores), scores - reference, 0)
    return np.where(np.isfinite(scores), np.exp(away), 0), error + 2 * U * np.abs(away) + 8 * U


def forward(problem: Attention) -> tuple[Want, Want]:
    """O and L."""
    (scores, error), t, values = problem.scores(), problem.shape[4], problem.heads(problem.v)
    sees = np.isfinite(scores).any(-1)
    top = np.where(sees, scores.max(-1, initial=-np.inf), 0)[..., None]
    p, off = weights(scores, error, top)
    total = p.sum(-1, keepdims=True)
    steps = (t + 4 * -(-t // 64) + 16) * U  # sums, and their scaling once for each block of keys
    with np.errstate(invalid="ignore", divide="ignore"):
        want = p @ values / total
        away = (p * off).sum(-1)[..., None] / total
        bound = (p * (off + problem.unit)) @ np.abs(values) / total + np.abs(want) * away
        bound += steps * (p @ np.abs(values)) / total + problem.least * np.abs(values).sum(-2)[..., None, :] / total
        logs = np.where(sees, top[..., 0] + np.log(total[..., 0]), -np.inf)
        log_bound = away[..., 0] + steps + 4 * U * (np.abs(top[..., 0]) + np.abs(logs))
    return stored("O", problem.dtype, want, bound), stored("L", "f32", logs, log_bound)


def flash_attention(dtype: str, d: int, shape: Any, kind: str = "") -> Call:
    problem = Attention(dtype, d, shape, kind)
    b, h, _, s, _, causal = shape
    args = [problem.q, problem.k, problem.v, empty(b, h, s, d, dtype=dtype), empty(b, h, s), problem.scale, causal]
    return Call(args, list(forward(problem)))


def backward(problem: Attention) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
    """O and L as they were stored, delta, P, dS, and the errors of the last two as products take them."""
    (scores, error), out, logs = problem.scores(), *forward(problem)
    o = (out.value * (not problem.flat)).astype(np_dtype(problem.dtype))
    logs = logs.value.astype(np.float32)
    sees = np.isfinite(logs)
    do, values = wide(problem.do), problem.heads(problem.v)
    delta = np.where(sees, (do * np.where(sees[..., None], wide(o), 0)).sum(-1), 0)
    size = np.where(sees, np.abs(do * np.where(sees[..., None], wide(o), 0)).sum(-1), 0)
    p, off = weights(scores, error, np.where(sees, wide(logs), 0)[..., None])
    dp = do @ values.swapaxes(-1, -2)
    dp_error = (problem.d + 2) * U * (np.abs(do) @ np.abs(values).swapaxes(-1, -2) + size[..., None])
    ds = p * (dp - delta[..., None])
    ds_error = p * dp_error + np.abs(ds) * (off + 3 * U + problem.unit) + problem.least
    return o, logs, delta, p, ds, p * (off + problem.unit) + problem.least, ds_error


def flash_attention_grad_q(dtype: str, d: int, shape: Any, kind: str = "") -> Call:
    problem = Attention(dtype, d, shape, kind)
    b, h, _, s, t, causal = shape
    o, logs, delta, _, ds, _, error = backward(problem)
    keys, scale = problem.heads(problem.k), problem.scale
    bound = (error @ np.abs(keys) + (t + 4) * U * (np.abs(ds) @ np.abs(keys))) * scale
    size = np.where(np.isfinite(logs), np.nansum(np.abs(wide(problem.do) * wide(o)), -1), 0)
    wants = [stored("dQ", dtype, ds @ keys * scale, bound), stored("delta", "f32", delta, (8 + d // 8) * U * size)]
    args = [problem.q, problem.k, problem.v, o, logs, problem.do, empty(b, h, s, d, dtype=dtype), empty(b, h, s)]
    return Call([*args, scale, causal], wants)


def flash_attention_grad_kv(dtype: str, d: int, shape: Any, kind: str = "") -> Call:
    problem = Attention(dtype, d, shape, kind)
    b, h, g, s, t, causal = shape
    _, logs, delta, p, ds, p_error, ds_error = backward(problem)
    wants = []
    for at, left, error, right, factor in (
        ("dK", ds, ds_error, problem.q, problem.scale), ("dV", p, p_error, problem.do, 1.0)
    ):  # fmt: skip
        columns, sizes = left.swapaxes(-1, -2), np.abs(wide(right))
        bound = (error.swapaxes(-1, -2) + (s * (h // g) + 4) * U * np.abs(columns)) @ sizes * factor
        value = problem.sum_of_heads(columns @ wide(right) * factor)
        wants.append(stored(at, dtype, value, problem.sum_of_heads(bound)))
    args = [problem.q, problem.k, problem.v, logs, delta.astype(np.float32), problem.do]
    results = [empty(b, g, t, d, dtype=dtype) for _ in range(2)]
    return Call([*args, *results, problem.scale, causal], wants)


def attention() -> Iterator[Case]:
    makers = ((flash_attention, "flat"), (flash_attention_grad_q, "flat_q"), (flash_attention_grad_kv, "flat_k"))
    for make, flat in makers:
        for d, shapes in SHAPES.items():
            for dtype in TYPES.get(d, FLOATS):

                def kernel(name: str = make.__name__, dtype: str = dtype, d: int = d) -> KernelDef:
                    small = d * size_of(dtype) >= 512  # bytes of a row: such blocks fit into sm_75
                    config = {"BM": 32, "BN": 32} if small else None
                    return specialise(getattr(K, name).of(dtype).definition, dims={"D": d}, config=config)

                calls = [partial(make, dtype, d, shape) for shape in shapes]
                if d == 32:
                    calls += [partial(make, dtype, d, DEEP, "deep"), partial(make, dtype, d, FLAT[make.__name__], flat)]
                yield Case(f"{make.__name__}_{d}", dtype, kernel, tuple(calls))
