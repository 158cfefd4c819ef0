"""Ed25519 signatures (RFC 8032), verified strictly: one byte string per signature, key and message.

The curve is -x^2 + y^2 = 1 + d x^2 y^2 over the integers modulo p = 2^255 - 19; a point is held as (X, Y, Z, T) with
x = X/Z, y = Y/Z, xy = T/Z. Beyond the RFC, verification refuses points whose order divides 8, which would be keys
that many messages fit. Signing is not constant in time: sign where nobody who may not know the key can measure.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TypeAlias

__all__ = ["KEY_SIZE", "SIGNATURE_SIZE", "is_public_key", "public_key", "sign", "verify"]

KEY_SIZE = 32
SIGNATURE_SIZE = 64

Point: TypeAlias = "tuple[int, int, int, int]"

_P = (1 << 255) - 19
_L = (1 << 252) + 27742317777372353535851937790883648493  # order of the base point
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)  # a square root of -1
_ZERO: Point = (0, 1, 1, 0)


def _add(a: Point, b: Point) -> Point:
    """The sum of two points; the law is complete, doubling included."""
    ax, ay, az, at = a
    bx, by, bz, bt = b
    e = (ay - ax) * (by - bx) % _P
    f = (ay + ax) * (by + bx) % _P
    c = 2 * at * bt * _D % _P
    d = 2 * az * bz % _P
    g, h, i, j = f - e, d - c, d + c, f + e
    return g * h % _P, i * j % _P, h * i % _P, g * j % _P


def _multiply(scalars: tuple[tuple[int, Point], ...]) -> Point:
    """The sum of scalar * point over the pairs, with one row of doublings for all of them."""
    total = _ZERO
    for bit in range(max(scalar.bit_length() for scalar, _ in scalars) - 1, -1, -1):
        total = _add(total, total)
        for scalar, point in scalars:
            if scalar >> bit & 1:
                total = _add(total, point)
    return total


def _negated(a: Point) -> Point:
    return (_P - a[0]) % _P, a[1], a[2], (_P - a[3]) % _P


def _is_zero(a: Point) -> bool:
    return a[0] % _P == 0 and (a[1] - a[2]) % _P == 0


def _encode(a: Point) -> bytes:
    inverse = pow(a[2], -1, _P)
    x, y = a[0] * inverse % _P, a[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decode(data: bytes) -> Point | None:
    """The point of a canonical encoding, None for any other string (RFC 8032, 5.1.3)."""
    value = int.from_bytes(data, "little")
    sign, y = value >> 255, value & ((1 << 255) - 1)
    if len(data) != 32 or y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * v**3 * pow(u * v**7, (_P - 5) // 8, _P) % _P  # the candidate for sqrt(u / v)
    if v * x * x % _P == _P - u and u:
        x = x * _ROOT % _P
    if v * x * x % _P != u or (x == 0 and sign):
        return None
    x = _P - x if x & 1 != sign else x
    return x, y, 1, x * y % _P


@cache
def _base() -> Point:
    found = _decode((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
    assert found is not None
    return found


def _has_large_order(a: Point) -> bool:
    double = _add(a, a)
    double = _add(double, double)
    return not _is_zero(_add(double, double))


def _challenge(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % _L


def is_public_key(key: bytes) -> bool:
    """Whether 32 bytes are a canonical point of an order beyond 8."""
    point = _decode(key)
    return point is not None and _has_large_order(point)


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is one of `message` under the public key (32 bytes).

    False also for S >= L, for strings that are no canonical points, and for points whose order divides 8.
    """
    if len(key) != KEY_SIZE or len(signature) != SIGNATURE_SIZE:
        return False
    s = int.from_bytes(signature[32:], "little")
    a, r = _decode(key), _decode(signature[:32])
    if s >= _L or a is None or r is None or not _has_large_order(a) or not _has_large_order(r):
        return False
    k = _challenge(signature[:32], key, message)
    return _encode(_multiply(((s, _base()), (k, _negated(a))))) == signature[:32]


def _expand(seed: bytes) -> tuple[int, bytes]:
    """The secret scalar and the prefix of nonces."""
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little")
    return scalar & ~7 & (1 << 254) - 1 | 1 << 254, digest[32:]


def public_key(seed: bytes) -> bytes:
    """The public key of a private one (32 random bytes)."""
    return _encode(_multiply(((_expand(seed)[0], _base()),)))


def sign(seed: bytes, message: bytes) -> bytes:
    """The signature of a message under a private key. Deterministic."""
    scalar, prefix = _expand(seed)
    nonce = _challenge(prefix, message)
    r = _encode(_multiply(((nonce, _base()),)))
    key = _encode(_multiply(((scalar, _base()),)))
    return r + ((nonce + _challenge(r, key, message) * scalar) % _L).to_bytes(32, "little")
