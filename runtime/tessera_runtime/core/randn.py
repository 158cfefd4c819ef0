"""Reproducible samples of the standard normal distribution: Philox4x32-10 bits through the inverse of its function.

Every step is an IEEE basic operation (add, multiply, divide, square root), so the bits are the same on every machine.
Philox: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
Inverse normal: Wichura, algorithm AS 241, PPND16 (1988); its third region (p < 1e-11) is out of reach of 32-bit inputs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["inverse_normal", "philox", "randn", "words"]

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
_MASK = np.uint64(0xFFFFFFFF)
_BLOCK = 1 << 18  # samples per step: bounds the temporaries
LOG_SERIES = tuple(2.0 / (2 * k + 1) for k in range(11))  # 2 artanh(s) / s in s^2; |s| < 0.172: remainder below 1e-17

CENTRE_P = (
    3.3871328727963666080,
    1.3314166789178437745e2,
    1.9715909503065514427e3,
    1.3731693765509461125e4,
    4.5921953931549871457e4,
    6.7265770927008700853e4,
    3.3430575583588128105e4,
    2.5090809287301226727e3,
)
CENTRE_Q = (
    1.0,
    4.2313330701600911252e1,
    6.8718700749205790830e2,
    5.3941960214247511077e3,
    2.1213794301586595867e4,
    3.9307895800092710610e4,
    2.8729085735721942674e4,
    5.2264952788528545610e3,
)
TAIL_P = (
    1.42343711074968357734,
    4.63033784615654529590,
    5.76949722146069140550,
    3.64784832476320460504,
    1.27045825245236838258,
    2.41780725177450611770e-1,
    2.27238449892691845833e-2,
    7.74545014278341407640e-4,
)
TAIL_Q = (
    1.0,
    2.05319162663775882187,
    1.67638483018380384940,
    6.89767334985100004550e-1,
    1.48103976427480074590e-1,
    1.51986665636164571966e-2,
    5.47593808499534494600e-4,
    1.05075007164441684324e-9,
)


def philox(counter: NDArray[np.uint64], key: int, stream: int = 0) -> NDArray[np.uint32]:
    """Four 32-bit words for each counter: shape (n, 4). `key` is 64 bits; `stream` is the counter's third word."""
    x0, x1 = counter & _MASK, counter >> np.uint64(32)
    x2, x3 = np.full_like(x0, stream), np.zeros_like(x0)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = x0 * np.uint64(M0), x2 * np.uint64(M1)
        x0, x1, x2, x3 = (
            (p1 >> np.uint64(32)) ^ x1 ^ np.uint64(k0), p1 & _MASK,
            (p0 >> np.uint64(32)) ^ x3 ^ np.uint64(k1), p0 & _MASK,
        )  # fmt: skip
        k0, k1 = (k0 + W0) & 0xFFFFFFFF, (k1 + W1) & 0xFFFFFFFF
    return np.stack([x0, x1, x2, x3], axis=-1).astype(np.uint32)


def words(count: int, key: int, start: int = 0, stream: int = 0) -> NDArray[np.uint32]:
    """Words `start`, `start` + 1, .. of a key's stream."""
    out = np.empty(count, dtype=np.uint32)
    for at in range(0, count, _BLOCK):
        n, first = min(_BLOCK, count - at), start + at
        counters = np.uint64(first // 4) + np.arange((first % 4 + n + 3) // 4, dtype=np.uint64)
        out[at : at + n] = philox(counters, key & 0xFFFFFFFFFFFFFFFF, stream).reshape(-1)[first % 4 :][:n]
    return out


def randn(count: int, seed: int = 0) -> NDArray[np.float64]:
    """`count` samples; element i depends on (seed, i) only, so a longer draw begins with a shorter one."""
    return inverse_normal(words(count, seed))


def inverse_normal(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """x with Phi(x) = p, where p = (word + 1/2) / 2^32 is never 0 or 1."""
    flat = words.reshape(-1)
    out = np.empty(flat.size, dtype=np.float64)
    for at in range(0, flat.size, _BLOCK):
        q = (flat[at : at + _BLOCK].astype(np.float64) + 0.5) * 2.0**-32 - 0.5
        r = 0.180625 - q * q
        centre = q * _polynomial(CENTRE_P, r) / _polynomial(CENTRE_Q, r)
        distance = np.sqrt(-_log(0.5 - np.abs(q))) - 1.6
        tail = np.copysign(_polynomial(TAIL_P, distance) / _polynomial(TAIL_Q, distance), q)
        out[at : at + _BLOCK] = np.where(np.abs(q) <= 0.425, centre, tail)
    return out.reshape(words.shape)


def _polynomial(coefficients: tuple[float, ...], x: NDArray[np.float64]) -> NDArray[np.float64]:
    value = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


def _log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """log of positive x = m 2^e with m in [sqrt(1/2), sqrt(2)): e log 2 + 2 artanh((m-1)/(m+1)) by its series."""
    m, e = np.frexp(x)
    small = m < math.sqrt(0.5)
    m, e = np.where(small, m * 2, m), e - small
    s = (m - 1) / (m + 1)
    series = _polynomial(LOG_SERIES, s * s)
    result: NDArray[Any] = e * math.log(2) + s * series
    return result
