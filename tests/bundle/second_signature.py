"""Ed25519 for the second reader: RFC 8032 in affine coordinates, as its formulas stand in textbooks. Slow and plain."""

from __future__ import annotations

import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P)
Affine = tuple[int, int]


def plus(a: Affine, b: Affine) -> Affine:
    (x, y), (u, v) = a, b
    t = D * x * u * y * v
    return (x * v + u * y) * pow(1 + t, -1, P) % P, (y * v + x * u) * pow(1 - t, -1, P) % P


def times(n: int, a: Affine) -> Affine:
    total = (0, 1)
    while n:
        total = plus(total, a) if n & 1 else total
        a, n = plus(a, a), n >> 1
    return total


def point(data: bytes) -> Affine | None:
    """The point of a canonical encoding."""
    value = int.from_bytes(data, "little")
    y, odd = value % 2**255, value >> 255
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square or (x == 0 and odd):
        return None
    return (x if x % 2 == odd else P - x), y


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Strict verification without the cofactor."""
    a, r, s = point(key), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L or (0, 1) in (times(8, a), times(8, r)):
        return False
    base = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    assert base is not None
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little")
    return times(s, base) == plus(r, times(k % L, a))
