"""Attention block by block: the same values and gradients, ragged lengths, and memory that does not grow with S x T."""

from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError
from tests.models import references as ref
from tests.models.levels import Compiled, numeric_gradient

Array = np.ndarray[Any, Any]


def blocked(q: ts.Tensor["B", 4, "S", "D", ts.f32], k: ts.Tensor["B", 2, "T", "D", ts.f32],
            v: ts.Tensor["B", 2, "T", 5, ts.f32]):
    return ts.nn.flash_attention(q, k, v, True, block=4), ts.nn.flash_attention(q, k, v, scale=0.3, block=3)


def gradients(q: ts.Tensor["B", 2, "S", "D", ts.f32], k: ts.Tensor["B", 2, "T", "D", ts.f32],
              v: ts.Tensor["B", 2, "T", "D", ts.f32]):
    def loss(q, k, v):
        y = ts.nn.flash_attention(q, k, v, True, block=4)
        return ts.sum(y * y * y)

    return ts.grad(loss, argnums=(0, 1, 2))(q, k, v)


@cache
def compiled() -> Compiled:
    return Compiled(blocked, gradients)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("b", "s", "t", "d"), [(1, 1, 1, 2), (2, 7, 7, 3), (1, 8, 11, 4), (1, 9, 4, 2)])
def test_values(b: int, s: int, t: int, d: int) -> None:
    rng = np.random.default_rng(s)
    args = normal(rng, b, 4, s, d), normal(rng, b, 2, t, d), normal(rng, b, 2, t, 5)
    wide = [a.astype(np.float64) for a in args]
    compiled().check("blocked", args, (ref.attention(*wide, True), ref.attention(*wide, False, 0.3)))


def test_gradients() -> None:
    rng = np.random.default_rng(3)
    args = normal(rng, 1, 2, 6, 3), normal(rng, 1, 2, 7, 3), normal(rng, 1, 2, 7, 3)
    wide = [a.astype(np.float64) for a in args]
    want = [numeric_gradient(lambda _: float((ref.attention(*wide, True) ** 3).sum()), a) for a in wide]
    compiled().check("gradients", args, want, 2e-4, interpreted=False)


@pytest.mark.parametrize("name", ["blocked", "gradients"])
def test_memory_is_linear(name: str) -> None:
    """Temporaries of a call, at twice the length: twice as many, where scores would be four times."""

    def arena(length: int) -> int:
        function = compiled().native[name]
        heads = (4, 2) if name == "blocked" else (2, 2)
        arrays = {"q": np.empty((1, heads[0], length, 8), np.float32), "k": np.empty((1, 2, length, 8), np.float32),
                  "v": np.empty((1, 2, length, 5 if name == "blocked" else 8), np.float32)}  # fmt: skip
        found: int = function._instance(arrays, {})[0].arena
        return found

    small, large = arena(4096), arena(8192)
    assert large < 2.1 * small
    assert large < 4 * 8192 * 8192 // 8


def test_misuse() -> None:
    with pytest.raises(SourceError, match="block=0"):
        ts.nn.flash_attention(ts.ones(2, 2), ts.ones(2, 2), ts.ones(2, 2), block=0)
