"""Random numbers as values: Philox words of a key, and what is made of them.

A key is a u64 scalar, Philox's own key. Words come from the generator of `tessera_runtime.core.randn` in three streams
(the third word of the counter): draws, keys made by `split`, and keys made by `fold_in`. Every step is integer
arithmetic or an IEEE basic operation, so the bits are the same eagerly, on every CPU and in PTX.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tessera.arrays import Array
from tessera.dtypes import DType, f64, u32, u64
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.families import Pointwise, check_arity
from tessera.operator import Case, Operator, register
from tessera.shapes import Dim, symbol
from tessera.types import TensorType
from tessera_runtime.core import randn as core

__all__: list[str] = []

DRAWS, SPLIT, FOLDED = 0, 1, 2  # streams of a key
_MASK = 0xFFFFFFFF


@register
@dataclass(frozen=True)
class RandomBits(Operator):
    """Words `start`, `start` + 1, .. of a key's stream, row-major in `shape`; each is uniform in [0, 2^32)."""

    shape: tuple[Dim, ...]
    stream: int = DRAWS
    name = "random_bits"
    differentiable = False

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 2)
        for what, t in zip(("key", "start"), ins, strict=True):
            if t.rank or t.dtype.base != u64:
                raise SourceError("E303", f"random_bits needs a {what} u64[], got {t}",
                                  help="make keys with ts.random.key and ts.random.split")
        return TensorType(self.shape, u32)

    def ref(self, *ins: Array) -> Array:
        dims = tuple(int(d) for d in self.shape)
        return core.words(math.prod(dims), int(ins[0]), int(ins[1]), self.stream).reshape(dims)

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        key, start = reads[0](), reads[1]()
        place = e.zero()
        for i, dim in zip(idx, self.shape, strict=True):
            place = place * e.index(dim) + i
        word = e.cast(place, "u64") + start
        block, lane = word >> 2, word & 3
        zero = e.const(0, "u64")
        x = [block & _MASK, block >> 32, e.const(self.stream, "u64"), zero]
        k0, k1 = key & _MASK, key >> 32
        for _ in range(10):
            p0, p1 = x[0] * core.M0, x[2] * core.M1
            x = [(p1 >> 32) ^ x[1] ^ k0, p1 & _MASK, (p0 >> 32) ^ x[3] ^ k1, p0 & _MASK]
            k0, k1 = (k0 + core.W0) & _MASK, (k1 + core.W1) & _MASK
        low = e.select((lane & 1) == zero, x[0], x[1])
        high = e.select((lane & 1) == zero, x[2], x[3])
        return e.cast(e.select(lane < 2, low, high), "u32")

    @classmethod
    def cases(cls) -> Iterable[Case]:
        scalars = (TensorType((), u64), TensorType((), u64))
        wide = ((0.0, 2.0**62), (0.0, 99.0))
        yield Case(cls((symbol("A"), symbol("B"))), scalars, wide)
        yield Case(cls((symbol("A"), 3), SPLIT), scalars, wide)
        yield Case(cls((), FOLDED), scalars, ((0.0, 2.0**62), (0.0, 2.0**40)))


@register
@dataclass(frozen=True)
class InverseNormal(Pointwise):
    """x with Phi(x) = (word + 1/2) / 2^32 for words of 32 bits, in f64: `tessera_runtime.core.randn`, bit for bit."""

    name = "inverse_normal"
    differentiable = False
    accepts = "uint"
    tested = ("u32",)
    domain = ((0.0, 2.0**32 - 1),)

    def result(self, *dtypes: DType) -> DType:
        return f64

    def compute(self, *dtypes: DType) -> tuple[DType, ...]:
        return (u32,)

    def numpy(self, *x: Array) -> Array:
        return np.asarray(core.inverse_normal(np.asarray(x[0], np.uint32)))

    def body(self, e: Elements, *x: Element) -> Element:
        word = x[0]
        q = (e.cast(word, "f64") + 0.5) * 2.0**-32 - 0.5
        r = 0.180625 - q * q
        centre = q * _horner(e, core.CENTRE_P, r) / _horner(e, core.CENTRE_Q, r)
        distance = e.sqrt(-_log(e, word)) - 1.6
        ratio = _horner(e, core.TAIL_P, distance) / _horner(e, core.TAIL_Q, distance)
        tail = e.select(q < 0.0, -e.abs(ratio), e.abs(ratio))
        return e.select(e.abs(q) <= 0.425, centre, tail)


def _horner(e: Elements, coefficients: tuple[float, ...], x: Element) -> Element:
    value = e.const(coefficients[-1], "f64")
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


def _log(e: Elements, word: Element) -> Element:
    """log of the tail's probability (2 v + 1) / 2^33, v the word or its complement: m 2^e, then the series in
    (m - 1) / (m + 1). m is found by halving the range of the exponent; every step is exact."""
    v = e.min(word, e.unary("not", word))
    m = (e.cast(v, "f64") + 0.5) * 2.0**-31
    exponent = e.const(-1.0, "f64")
    for bits in (16, 8, 4, 2, 1):
        small = m < 2.0**-bits
        m = e.select(small, m * 2.0**bits, m)
        exponent = e.select(small, exponent - float(bits), exponent)
    below = m < math.sqrt(0.5)
    m, exponent = e.select(below, m * 2.0, m), e.select(below, exponent - 1.0, exponent)
    s = (m - 1.0) / (m + 1.0)
    return exponent * math.log(2) + s * _horner(e, core.LOG_SERIES, s * s)
