"""Random keys: known words of Philox, the same bits in every way to draw, and keys as values of functions."""

from __future__ import annotations

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError
from tessera_runtime.core import randn as core


def philox_by_hand(counter: tuple[int, int, int, int], key: int) -> list[int]:
    """Philox4x32-10 with Python ints, as the paper's listing has it."""
    x, (k0, k1) = list(counter), (key & 0xFFFFFFFF, key >> 32)
    for _ in range(10):
        p0, p1 = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        x = [(p1 >> 32) ^ x[1] ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ x[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return x


def test_published_vector() -> None:
    """The known answer of Random123 for counter and key of all ones and of zeros."""
    assert philox_by_hand((0, 0, 0, 0), 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = (0xFFFFFFFF,) * 4
    assert philox_by_hand(ones, (1 << 64) - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_words_and_keys_are_philox() -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        seed = int(rng.integers(0, 1 << 63)) * 2 + 1
        key = ts.random.key(seed)
        want = [w for block in range(3) for w in philox_by_hand((block, 0, 0, 0), seed)]
        assert ts.random.bits(11, key=key).tolist() == want[:11]
        made = [w for block in range(2) for w in philox_by_hand((block, 0, 1, 0), seed)]
        split = [int(k.item()) for k in ts.random.split(key, 3)]
        assert split == [made[2 * i] | made[2 * i + 1] << 32 for i in range(3)]
        step = int(rng.integers(0, 1 << 40))
        folded = philox_by_hand((step // 2 & 0xFFFFFFFF, step // 2 >> 32, 2, 0), seed)[step % 2 * 2 :][:2]
        assert ts.random.fold_in(key, step).item() == folded[0] | folded[1] << 32


def test_seed_and_key_are_one_stream() -> None:
    key = ts.random.key(41)
    assert ts.randn(7, 3, key=key).tolist() == ts.randn(7, 3, seed=41).tolist()
    assert ts.randn(21, seed=41, dtype=ts.f64).tolist() == core.randn(21, 41).tolist()
    assert ts.rand(5, key=key).tolist() == ts.rand(5, seed=41).tolist()
    assert ts.randint(-3, 9, (6,), key=key).tolist() == ts.randint(-3, 9, (6,), seed=41).tolist()
    with pytest.raises(SourceError, match="E305"):
        ts.randn(3, key=key, seed=1)


def test_distributions() -> None:
    n = 200_000
    normal = ts.randn(n, seed=1, dtype=ts.f64).numpy()
    assert abs(normal.mean()) < 5 / n**0.5
    assert abs(normal.var() - 1) < 5 * (2 / n) ** 0.5
    drawn = ts.randint(-2, 5, (n,), seed=2).numpy()
    counts = np.bincount(drawn + 2, minlength=7)
    assert len(counts) == 7
    assert np.all(np.abs(counts - n / 7) < 5 * (n / 7) ** 0.5)
