"""Random tensors. The generator is counter based (Philox), so a key gives the same bits on every machine.

A key is a u64 scalar and an ordinary value: it may be an argument of a function, and `split` and `fold_in` make more of
it. `randn(.., seed=7)` are the bits of `randn(.., key=ts.random.key(7))`. Without a key or a seed, draws are numbered:
the k-th draw since `ts.random.seed(s)` (0 at import) uses the stream (s, k).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tessera.dtypes import as_dtype, f32, i32, i64, u64
from tessera.errors import SourceError
from tessera.interpreters import apply
from tessera.ops.create import as_dims
from tessera.ops.random_bits import DRAWS, FOLDED, SPLIT, InverseNormal, RandomBits
from tessera.ops.select import cast
from tessera.shapes import Dim
from tessera.tensor import EagerTensor, Tensor, TensorLike, as_tensor, operators

__all__ = ["bits", "fold_in", "key", "rand", "randint", "randn", "seed", "split"]

_STATE = {"seed": 0, "draw": 0}
_KEYS = (1 << 64) - 1


def seed(value: int) -> None:
    """Start the numbered draws again, from the streams of `value`."""
    _STATE.update(seed=int(value), draw=0)


# Keys -----------------------------------------------------------------------------------------------------------------


def key(seed: int) -> Tensor:
    """The key of a seed, u64[]: its 64 bits."""
    return _number(int(seed))


def _number(value: int) -> Tensor:
    return EagerTensor(np.asarray(value & _KEYS, np.uint64))


def split(key: TensorLike, count: int = 2) -> tuple[Tensor, ...]:
    """`count` new keys, u64[] each; their draws are independent of each other's and of the key's own."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise SourceError("E305", f"split makes a number of keys, not {count!r}", help="the number is an int >= 0")
    pairs = _pairs(RandomBits((count, 2), SPLIT), as_tensor(key), _number(0))
    return tuple(pairs[i] for i in range(count))


def fold_in(key: TensorLike, data: TensorLike) -> Tensor:
    """The key that belongs to an int, such as the number of a step, u64[]; `data` is taken modulo 2^63."""
    start = cast(as_tensor(data), u64) * as_tensor(np.asarray(2, np.uint64))
    pairs: Tensor = _pairs(RandomBits((1, 2), FOLDED), as_tensor(key), start)
    return pairs[0]


def _pairs(op: RandomBits, *operands: Tensor) -> Tensor:
    """Keys [n] of words [n, 2], the low one first."""
    words = cast(apply(op, *operands), u64)
    return words[:, 0] | words[:, 1] << as_tensor(np.asarray(32, np.uint64))


def _of(given: TensorLike | None, seed: int | None) -> Tensor:
    """The key of a draw. A seed is its key's 64 bits; numbered draws have the top bit set."""
    if given is not None:
        if seed is not None:
            raise SourceError("E305", "a random tensor takes a key or a seed, not both")
        return as_tensor(given)
    if seed is not None:
        return _number(int(seed))
    _STATE["draw"] += 1
    return _number((1 << 63) | ((_STATE["seed"] & 0x7FFFFFFF) << 32) | (_STATE["draw"] & 0xFFFFFFFF))


# Draws ----------------------------------------------------------------------------------------------------------------


def _shape(shape: tuple[Any, ...]) -> tuple[Dim, ...]:
    dims = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    try:
        found = as_dims("a random tensor", dims)
    except SourceError:
        found = (-1,)
    if any(isinstance(d, int) and d < 0 for d in found):
        raise SourceError("E305", f"{dims} is not the shape of a random tensor", help="sizes are ints >= 0")
    return found


def bits(*shape: Any, key: TensorLike | None = None, seed: int | None = None) -> Tensor:
    """Uniform words of 32 bits, u32."""
    return apply(RandomBits(_shape(shape), DRAWS), _of(key, seed), _number(0))


def randn(*shape: Any, dtype: Any = f32, seed: int | None = None, key: TensorLike | None = None) -> Tensor:
    """Samples of the standard normal distribution, rounded once to `dtype`."""
    return cast(apply(InverseNormal(), bits(*shape, key=key, seed=seed)), as_dtype(dtype))


def rand(*shape: Any, dtype: Any = f32, seed: int | None = None, key: TensorLike | None = None) -> Tensor:
    """Uniform samples of [0, 1): multiples of 2^-24, so that f32 holds them exactly."""
    words = bits(*shape, key=key, seed=seed) >> as_tensor(np.asarray(8, np.uint32))
    return cast(cast(words, f32) * 2.0**-24, as_dtype(dtype))


def randint(low: int, high: int, shape: Any = (), dtype: Any = i32, seed: int | None = None,
            key: TensorLike | None = None) -> Tensor:
    """Integers in [low, high): low + floor(word * (high - low) / 2^32)."""
    if not low < high or high - low > 1 << 31:
        raise SourceError("E305", f"randint needs low < high and a range of at most 2^31, got [{low}, {high})",
                          help="randint(low, high, shape) draws from low to high - 1")
    dims = shape if isinstance(shape, (tuple, list)) else (shape,)
    words = cast(bits(dims, key=key, seed=seed), i64)
    return cast((words * (high - low) >> 32) + low, as_dtype(dtype))


operators.provide({"random_bits": bits, "fold_in": fold_in})
