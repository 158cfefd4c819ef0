"""Random tensors. The generator is counter based (Philox), so a seed gives the same bits on every machine.

Without a seed, draws are numbered: the k-th draw since `ts.random.seed(s)` (0 at import) uses the stream (s, k).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tessera.arrays import convert
from tessera.dtypes import as_dtype, f32, i32
from tessera.errors import SourceError
from tessera.tensor import EagerTensor, Tensor
from tessera_runtime.core import randn as core

__all__ = ["rand", "randint", "randn", "seed"]

_STATE = {"seed": 0, "draw": 0}


def seed(value: int) -> None:
    """Start the numbered draws again, from the streams of `value`."""
    _STATE.update(seed=int(value), draw=0)


def _stream(given: int | None) -> int:
    """The 64-bit Philox key of a draw. A given seed is the key; numbered draws have the top bit set."""
    if given is not None:
        return int(given) & 0xFFFFFFFFFFFFFFFF
    _STATE["draw"] += 1
    return (1 << 63) | ((_STATE["seed"] & 0x7FFFFFFF) << 32) | (_STATE["draw"] & 0xFFFFFFFF)


def _shape(shape: tuple[Any, ...]) -> tuple[int, ...]:
    dims = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    if not all(isinstance(d, (int, np.integer)) and d >= 0 for d in dims):
        raise SourceError("E305", f"{dims} is not the shape of a random tensor", help="sizes are ints >= 0")
    return tuple(int(d) for d in dims)


def _words(count: int, key: int) -> np.ndarray[Any, Any]:
    return core.philox(np.arange(-(-count // 4), dtype=np.uint64), key).reshape(-1)[:count]


def randn(*shape: Any, dtype: Any = f32, seed: int | None = None) -> Tensor:
    """Samples of the standard normal distribution, rounded once to `dtype`."""
    dims = _shape(shape)
    values = core.randn(int(np.prod(dims)), _stream(seed)).reshape(dims)
    return EagerTensor(convert(values, as_dtype(dtype)))


def rand(*shape: Any, dtype: Any = f32, seed: int | None = None) -> Tensor:
    """Uniform samples of [0, 1): multiples of 2^-24, so that f32 holds them exactly."""
    dims = _shape(shape)
    words = _words(int(np.prod(dims)), _stream(seed))
    return EagerTensor(convert((words >> 8).astype(np.float64).reshape(dims) * 2.0**-24, as_dtype(dtype)))


def randint(low: int, high: int, shape: Any = (), dtype: Any = i32, seed: int | None = None) -> Tensor:
    """Integers in [low, high): low + floor(word * (high - low) / 2^32)."""
    if not low < high or high - low > 1 << 31:
        raise SourceError("E305", f"randint needs low < high and a range of at most 2^31, got [{low}, {high})")
    dims = _shape((shape,) if isinstance(shape, (tuple, list)) else (int(shape),))
    words = _words(int(np.prod(dims)), _stream(seed)).astype(np.uint64)
    values = ((words * np.uint64(high - low)) >> np.uint64(32)).astype(np.int64) + low
    return EagerTensor(convert(values.reshape(dims), as_dtype(dtype)))
