"""`ts.nn` against float64 references on random ragged shapes, eagerly and at every level."""

from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError
from tests.models import references as ref
from tests.models.levels import Compiled

Array = np.ndarray[Any, Any]


def attention(q: ts.Tensor["B", 4, "S", "D", ts.f32], k: ts.Tensor["B", 2, "T", "D", ts.f32],
              v: ts.Tensor["B", 2, "T", 5, ts.f32]):
    return ts.nn.flash_attention(q, k, v, causal=True), ts.nn.scaled_dot_product_attention(q, k, v, scale=0.3)


def rope(x: ts.Tensor["B", "H", "S", "D", ts.f32], positions: ts.Tensor["S", ts.i32]):
    return ts.nn.rope(x), ts.nn.rope(x, positions, base=500.0)


def strided(x: ts.Tensor["N", 4, "H", "W", ts.f32], w: ts.Tensor[6, 2, 3, 3, ts.f32], b: ts.Tensor[6, ts.f32]):
    return ts.nn.conv2d(x, w, b, stride=2, padding=1, groups=2)


def dilated(x: ts.Tensor["N", "H", "W", 2, ts.f32], w: ts.Tensor[3, 2, 2, 2, ts.f32]):
    return ts.nn.conv2d(x, w, dilation=2, layout="channels_last")


def pools(x: ts.Tensor["N", 2, "H", "W", ts.f32]):
    return ts.nn.max_pool2d(x, 3, 2, 1), ts.nn.avg_pool2d(x, 3, 2, 1), ts.nn.max_pool2d(x, 2)


def group_norm(x: ts.Tensor["N", 6, "H", "W", ts.f32], w: ts.Tensor[6, ts.f32], b: ts.Tensor[6, ts.f32]):
    return ts.nn.group_norm(x, 3, w, b)


def dropout(x: ts.Tensor["N", "D", ts.f32], key: ts.Tensor[ts.u64]):
    kept = ts.nn.dropout(x, 0.25, key)
    first, second = ts.random.split(key)
    return kept, ts.randn(*x.shape, key=first), ts.rand(7, key=ts.random.fold_in(second, 3)), first


@cache
def compiled() -> Compiled:
    return Compiled(attention, rope, strided, dilated, pools, group_norm, dropout)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("b", "s", "t", "d"), [(1, 1, 1, 2), (2, 7, 7, 8), (1, 5, 9, 3), (2, 9, 4, 6)])
def test_attention(b: int, s: int, t: int, d: int) -> None:
    rng = np.random.default_rng(s + t)
    args = normal(rng, b, 4, s, d), normal(rng, b, 2, t, d), normal(rng, b, 2, t, 5)
    wide = [a.astype(np.float64) for a in args]
    compiled().check("attention", args, (ref.attention(*wide, True), ref.attention(*wide, False, 0.3)))


@pytest.mark.parametrize(("s", "d"), [(1, 2), (5, 6), (11, 8)])
def test_rope(s: int, d: int) -> None:
    rng = np.random.default_rng(s)
    x, places = normal(rng, 2, 3, s, d), rng.integers(0, 300, s).astype(np.int32)
    want = ref.rope(x.astype(np.float64)), ref.rope(x.astype(np.float64), places, 500.0)
    compiled().check("rope", (x, places), want, 1e-4)


@pytest.mark.parametrize(("n", "h", "w"), [(1, 3, 3), (2, 6, 5), (3, 7, 4)])
def test_convolution(n: int, h: int, w: int) -> None:
    rng = np.random.default_rng(h)
    x, kernel, bias = normal(rng, n, 4, h, w), normal(rng, 6, 2, 3, 3), normal(rng, 6)
    want = ref.conv2d(*(a.astype(np.float64) for a in (x, kernel, bias)), 2, 1, 1, 2)
    compiled().check("strided", (x, kernel, bias), want)
    x, kernel = normal(rng, n, h, w, 2), normal(rng, 3, 2, 2, 2)
    want = ref.conv2d(x.transpose(0, 3, 1, 2).astype(np.float64), kernel.astype(np.float64), None, 1, 0, 2, 1)
    compiled().check("dilated", (x, kernel), want.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(("n", "h", "w"), [(1, 2, 2), (2, 5, 6), (1, 8, 3)])
def test_pools_and_norm(n: int, h: int, w: int) -> None:
    rng = np.random.default_rng(h)
    x = normal(rng, n, 2, h, w)
    wide = x.astype(np.float64)
    want = (ref.pool2d(wide, 3, 2, 1, "max"), ref.pool2d(wide, 3, 2, 1, "mean"), ref.pool2d(wide, 2, 2, 0, "max"))
    compiled().check("pools", (x,), want)
    x, weight, bias = normal(rng, n, 6, h, w), normal(rng, 6), normal(rng, 6)
    compiled().check("group_norm", (x, weight, bias), ref.group_norm(x.astype(np.float64), 3, weight, bias))


def test_dropout_and_draws_have_the_same_bits_everywhere() -> None:
    x = np.random.default_rng(3).standard_normal((37, 5)).astype(np.float32)
    seed = 0xFEDCBA9876543210
    found = compiled().results("dropout", (x, np.uint64(seed)))
    for level, results in found.items():
        for a, b in zip(results, found["eager"], strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), level
    words = ts.random.bits(37, 5, seed=seed).numpy()
    want = np.where(words >= 2**30, x * np.float32(1 / 0.75), np.float32(0))
    np.testing.assert_array_equal(found["native"][0], want)


def test_dropout_rate() -> None:
    kept = ts.nn.dropout(ts.ones(300, 400), 0.3, ts.random.key(5)).numpy() != 0
    assert abs(kept.mean() - 0.7) < 5 * (0.21 / kept.size) ** 0.5
    assert ts.nn.dropout(ts.ones(3), 0.3, ts.random.key(5), training=False).tolist() == [1.0] * 3


@pytest.mark.parametrize("call", [
    lambda: ts.nn.dropout(ts.ones(3), 1.0, ts.random.key(1)),
    lambda: ts.nn.rope(ts.ones(3, 5)),
    lambda: ts.nn.flash_attention(ts.ones(1, 3, 2, 4), ts.ones(1, 2, 2, 4), ts.ones(1, 2, 2, 4)),
    lambda: ts.nn.conv2d(ts.ones(1, 3, 4, 4), ts.ones(2, 2, 3, 3)),
    lambda: ts.nn.conv2d(ts.ones(1, 3, 2, 4), ts.ones(2, 3, 3, 3)),
    lambda: ts.nn.transformer_layer(ts.ones(1, 2, 6), {"qkv": ts.ones(6, 18), "out": ts.ones(6, 6),
                                                       "mlp": ts.ones(6, 12)}, heads=4),
    lambda: ts.nn.max_pool2d(ts.ones(1, 3, 4, 4), 2, padding=2),
    lambda: ts.nn.transformer_layer(ts.ones(1, 2, 4), {"qkv": ts.ones(4, 12), "mlp": ts.ones(4, 4)}, heads=2),
])  # fmt: skip
def test_misuse_is_told(call: Any) -> None:
    with pytest.raises(SourceError, match=r"E30\d|E311"):
        call()
