"""The discrete Fourier transform, and complex numbers as pairs: a last axis of size 2 holds real and imaginary part.

Cooley and Tukey (1965): with N = P Q, n = Q a + b and k = c + P d, for 0 <= a, c < P and 0 <= b, d < Q,

    X[c + P d] = sum over b of w_Q^(b d) * w_N^(b c) * sum over a of w_P^(a c) * x[Q a + b],    w_N = exp(-2 pi i / N)

P is the largest divisor of N up to RADIX; a small size without one is transformed by its matrix. Products with matrices
are real: a complex number in a matrix is [[re, im], [-im, re]].

A large size without divisors, or one that is not known, is a convolution with a chirp of a size M that has them
(Bluestein, 1970): as k n = (k^2 + n^2 - (k - n)^2) / 2,

    X[k] = c[k] * sum over n of (c[n] x[n]) * conj(c)[k - n],    c[n] = exp(-pi i n^2 / N),    M >= 2 N - 1
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tessera.arrays import Array, convert, dtype_of
from tessera.composed import Composed
from tessera.dtypes import DType, as_dtype, f64, promote
from tessera.elements import Element, Elements, Index, Read
from tessera.errors import SourceError
from tessera.families import broadcast_dims, check_arity, check_kind, unbroadcast
from tessera.interpreters import apply
from tessera.operator import Case, Cotangents, Operator, register
from tessera.ops.create import full, iota, zeros_like
from tessera.ops.elementwise import minimum
from tessera.ops.indexing import take
from tessera.ops.linalg import matmul
from tessera.ops.parts import concat, flip, stack
from tessera.ops.select import cast
from tessera.shapes import Dim, ceildiv, known_equal, product, symbol
from tessera.tensor import Tensor, TensorLike, as_tensor, operands
from tessera.types import TensorType

__all__ = ["circular_convolution", "complex_mul", "conj", "fft", "ifft", "irfft", "rfft"]

T = TensorType.parse

#: largest size that is transformed by its matrix although it has divisors
RADIX = 16
#: largest size without divisors that is transformed by its matrix
LARGEST = 64


def _check_pairs(name: str, *ins: TensorType, axes: int) -> None:
    """E303 and E304 unless these are floats with `axes` axes or more, the last of size 2."""
    check_kind(name, "float", *ins)
    for t in ins:
        if t.rank < axes or not known_equal(t.dims[-1], 2):
            raise SourceError("E304", f"{name} takes complex numbers as pairs, got {t}",
                              help="the last axis has size 2: real and imaginary part")


def _complex(x: Array) -> Array:
    wide = convert(x, f64)
    return np.asarray(wide[..., 0] + 1j * wide[..., 1])


def _pairs(z: Array, dtype: DType) -> Array:
    return convert(np.stack([z.real, z.imag], -1), dtype)


@register
@dataclass(frozen=True)
class Roots(Operator):
    """w ** (i * j) for w = exp(+-2 pi i / size) as real matrices, [rows, columns, 2, 2]; with `square`, w ** (i * i),
    [rows, 2, 2]. A pair times the matrix [[cos, sin], [-sin, cos]] is the product; the sign is + if
    `positive`. Exponents are taken modulo the size before they become angles."""

    size: Dim
    rows: Dim
    columns: Dim = 1
    square: bool = False
    positive: bool = True
    dtype: str = "f32"
    name = "roots"
    differentiable = False

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 0)
        lead = (self.rows,) if self.square else (self.rows, self.columns)
        result = TensorType((*lead, 2, 2), as_dtype(self.dtype).base)
        check_kind(self.name, "float", result)
        return result

    def ref(self, *ins: Array) -> Array:
        size, i = max(int(self.size), 1), np.arange(int(self.rows))
        power = i * i if self.square else i[:, None] * np.arange(int(self.columns))
        angle = power % size * (2 * math.pi) / size * (1 if self.positive else -1)
        c, s = np.cos(angle), np.sin(angle)
        return convert(np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], -2), as_dtype(self.dtype))

    def element(
        self, e: Elements, ins: tuple[TensorType, ...], idx: tuple[Index, ...], *reads: Read, out: int = 0,
    ) -> Element:
        *at, row, column = idx
        k = at[0] * at[-1] % e.index(self.size)
        angle = e.cast(k, "f64") * e.const(2 * math.pi, "f64") / e.cast(e.index(self.size), "f64")
        c, s = e.cos(angle), e.sin(angle)
        off = e.select(row == e.zero(), s, -s) if self.positive else e.select(row == e.zero(), -s, s)
        return e.cast(e.select(row == column, c, off), self.dtype)

    @classmethod
    def cases(cls) -> Iterable[Case]:
        yield Case(cls(symbol("N"), symbol("N"), dtype="f32"), ())
        yield Case(cls(symbol("N") * 2, symbol("N"), square=True, positive=False), ())
        yield Case(cls(12, 5, 7, positive=False, dtype="f64"), ())


class _Bilinear(Composed):
    """A product of pairs, linear in each operand."""

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        left = None if tangents[0] is None else apply(self, tangents[0], primals[1])
        right = None if tangents[1] is None else apply(self, primals[0], tangents[1])
        return left if right is None else right if left is None else left + right


@register
@dataclass(frozen=True)
class ComplexMul(_Bilinear):
    """x * y of pairs, [.., 2], the axes before broadcast. Adjoints: ct * conj(y) and ct * conj(x)."""

    name = "complex_mul"

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 2)
        _check_pairs(self.name, *ins, axes=1)
        return TensorType(broadcast_dims(self.name, *ins), promote(ins[0].dtype, ins[1].dtype))

    def ref(self, *ins: Array) -> Array:
        x, y = map(_complex, ins)
        return _pairs(x * y, promote(*map(dtype_of, ins)))

    def compose(self, *xs: Tensor) -> Tensor:
        result = promote(xs[0].dtype, xs[1].dtype)
        x, y = (cast(v, result.wide) for v in xs)
        turned = flip(y, (y.ndim - 1,)) * _signs(y.dtype)  # i * y
        return cast(x[..., :1] * y + x[..., 1:] * turned, result)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        x, y = primals
        return (unbroadcast(apply(self, cts[0], conj(y)), x.type), unbroadcast(apply(self, cts[0], conj(x)), y.type))

    @classmethod
    def cases(cls) -> Iterable[Case]:
        for dtype in ("f32", "f64", "bf16"):
            yield Case(cls(), (T(f"{dtype}[A, B, 2]"), T(f"{dtype}[A, B, 2]")))
        yield Case(cls(), (T("f32[A, 1, 2]"), T("f32[B, 2]")))


def _signs(dtype: DType) -> Tensor:
    """[-1, 1]."""
    return iota(2, dtype) * 2.0 - 1.0


@register
@dataclass(frozen=True)
class Fourier(Composed):
    """X[k] = sum over n of exp(-+ 2 pi i k n / N) x[n] of pairs [.., N, 2]; the sign is + if `inverse`, and the sum is
    divided by N if `scaled`. Adjoint: the other sign, as scaled."""

    inverse: bool
    scaled: bool
    name = "fourier"

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 1)
        _check_pairs(self.name, *ins, axes=2)
        return ins[0].with_dtype(ins[0].dtype.base)

    def ref(self, *ins: Array) -> Array:
        z, size = _complex(ins[0]), ins[0].shape[-2]
        if size:
            z = np.fft.ifft(z) * size if self.inverse else np.fft.fft(z)
            z = z / size if self.scaled else z
        return _pairs(z, dtype_of(ins[0]))

    def compose(self, *xs: Tensor) -> Tensor:
        x = cast(xs[0], xs[0].dtype.wide)
        if isinstance(x.shape[-2], int) and x.shape[-2] < 2:
            return cast(x, xs[0].dtype)
        y = _transform(x, self.inverse)
        if self.scaled:
            y = y / full((), x.shape[-2], x.dtype)
        return cast(y, xs[0].dtype)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        return (apply(Fourier(not self.inverse, self.scaled), cts[0]),)

    def jvp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], tangents: Cotangents) -> Tensor | None:
        return None if tangents[0] is None else apply(self, tangents[0])

    def batch(self, xs: tuple[Tensor, ...], batched: tuple[bool, ...], size: Dim) -> Tensor:
        return apply(self, xs[0])

    @classmethod
    def cases(cls) -> Iterable[Case]:
        for dtype in ("f32", "f64", "bf16"):
            yield Case(cls(False, False), (T(f"{dtype}[A, 6, 2]"),))
        yield Case(cls(True, True), (T("f32[A, 5, 2]"),))
        yield Case(cls(True, False), (T("f32[A, B, 4, 2]"),))
        yield Case(cls(False, True), (T("f64[A, 34, 2]"),), sizes={"A": (0, 2)})
        yield Case(cls(True, True), (T("f32[N, 2]"),), sizes={"N": (1, 6)})


def radices(size: int) -> tuple[int, ...]:
    """The sizes of the matrices by which a transform of a size is done, in order."""
    p = _radix(size)
    return (p,) if p == size else (p, *radices(size // p))


def _radix(size: int) -> int:
    """The largest divisor up to RADIX, or the size itself if there is none."""
    return next((p for p in range(min(RADIX, size), 1, -1) if size % p == 0), size)


def padded(size: Dim) -> tuple[Dim, ...]:
    """Radices of the least size for a convolution of `size` numbers that consists of known small ones and, where `size`
    is not known, one more: 2 size / RADIX^2, rounded up."""
    if not isinstance(size, int):
        return (RADIX, RADIX, ceildiv(2 * size, RADIX * RADIX))
    return radices(1 << (2 * size - 2).bit_length())


def _transform(x: Tensor, inverse: bool) -> Tensor:
    """The unscaled transform of pairs [.., N, 2] of a wide type."""
    size = x.shape[-2]
    if isinstance(size, int) and max(radices(size)) <= LARGEST:
        return _stages(x, radices(size), inverse)
    return _chirp(x, inverse)


def _stages(x: Tensor, sizes: tuple[Dim, ...], inverse: bool) -> Tensor:
    """The same by the radices of N."""
    *batch, size, _ = x.shape
    p, *rest = sizes
    m = apply(Roots(p, p, p, positive=inverse, dtype=x.dtype.name)).permute(0, 2, 1, 3).reshape(2 * p, 2 * p)
    if not rest:
        return matmul(x.reshape(*batch, 1, 2 * p), m).reshape(*batch, size, 2)
    q, r = product(rest), len(batch)
    lead = tuple(range(r))
    x = x.reshape(*batch, p, q, 2).permute(*lead, r + 1, r, r + 2)  # [b, a, pair]
    x = matmul(x.reshape(*batch, q, 2 * p), m).reshape(*batch, q, p, 2)  # [b, c, pair]
    x = _times(x, apply(Roots(size, q, p, positive=inverse, dtype=x.dtype.name)))
    x = _stages(x.permute(*lead, r + 1, r, r + 2), tuple(rest), inverse)  # [c, d, pair]
    return x.permute(*lead, r + 1, r, r + 2).reshape(*batch, size, 2)


def _chirp(x: Tensor, inverse: bool) -> Tensor:
    """The same for any N: a convolution."""
    size, sizes = x.shape[-2], padded(x.shape[-2])
    whole = product(sizes)
    dtype = x.dtype.name
    c = apply(Roots(2 * size, size, square=True, positive=inverse, dtype=dtype))
    # conj(c)[n] for n = 0 .. and for n = .. -1, which are the same; what lies between meets zeros alone
    half = apply(Roots(2 * size, whole // 2 + 1, square=True, positive=not inverse, dtype=dtype))[:, 0, :]
    kernel = take(half, minimum(iota(whole), whole - iota(whole)))
    zeros = full((*x.shape[:-2], whole - size, 2), 0.0, x.dtype)
    spectrum = _stages(concat([_times(x, c), zeros], -2), sizes, False)
    y = _stages(apply(ComplexMul(), spectrum, _stages(kernel, sizes, False)), sizes, True)
    return _times(take(y, iota(size), y.ndim - 2), c) / full((), whole, x.dtype)


def _times(x: Tensor, w: Tensor) -> Tensor:
    """Pairs [.., 2] times complex numbers as matrices, [.., 2, 2]."""
    return x[..., :1] * w[..., 0, :] + x[..., 1:] * w[..., 1, :]


@register
@dataclass(frozen=True)
class CircularConvolution(_Bilinear):
    """y[n] = sum over m of x[m] * w[(n - m) mod N] of pairs [.., N, 2], the axes before broadcast.

    Adjoints: y and the conjugate of the other operand, turned in time: m -> -m mod N.
    """

    name = "circular_convolution"

    def infer(self, *ins: TensorType) -> TensorType:
        check_arity(self.name, ins, 2)
        _check_pairs(self.name, *ins, axes=2)
        if not known_equal(ins[0].dims[-2], ins[1].dims[-2]):
            raise SourceError("E302", f"circular_convolution of {ins[0]} with {ins[1]}",
                              help="both have the same size in the axis before the last")
        return TensorType(broadcast_dims(self.name, *ins), promote(ins[0].dtype, ins[1].dtype))

    def ref(self, *ins: Array) -> Array:
        x, w = map(_complex, ins)
        n = np.arange(x.shape[-1])
        y = np.einsum("...m,...nm->...n", x, w[..., (n[:, None] - n) % max(len(n), 1)])
        return _pairs(y, promote(*map(dtype_of, ins)))

    def compose(self, *xs: Tensor) -> Tensor:
        result = promote(xs[0].dtype, xs[1].dtype)
        x, w = (cast(v, result.wide) for v in xs)
        size = x.shape[-2]
        # row (m, c), column (n, d) of the matrix: w[n - m] if c = 0 and i * w[n - m] if c = 1
        shift = (iota(size) + (size - iota(size)).reshape(size, 1)) % size
        turned = flip(w, (w.ndim - 1,)) * _signs(w.dtype)
        parts = [take(v, shift, w.ndim - 2).expand_dims(w.ndim - 1) for v in (w, turned)]
        m = concat(parts, w.ndim - 1).reshape(*w.shape[:-2], 2 * size, size, 2)
        m = m.reshape(*w.shape[:-2], 2 * size, 2 * size)
        y = matmul(x.reshape(*x.shape[:-2], 1, 2 * size), m)
        return cast(y.reshape(*y.shape[:-2], size, 2), result)

    def vjp(self, primals: tuple[Tensor, ...], outs: tuple[Tensor, ...], cts: tuple[Tensor, ...]) -> Cotangents:
        x, w = primals
        return (unbroadcast(apply(self, cts[0], _turned(w)), x.type),
                unbroadcast(apply(self, cts[0], _turned(x)), w.type))

    @classmethod
    def cases(cls) -> Iterable[Case]:
        for dtype in ("f32", "f64", "bf16"):
            yield Case(cls(), (T(f"{dtype}[A, 3, 2]"), T(f"{dtype}[3, 2]")))
        yield Case(cls(), (T("f32[A, 1, N, 2]"), T("f32[B, N, 2]")), sizes={"N": (1, 4), "A": (0, 3), "B": (0, 3)})


def _turned(x: Tensor) -> Tensor:
    """conj(x)[-n mod N]."""
    size = x.shape[-2]
    return take(conj(x), (size - iota(size)) % size, x.ndim - 2)


def conj(x: TensorLike) -> Tensor:
    """The conjugates of pairs [.., 2]."""
    t = as_tensor(x)
    _check_pairs("conj", t.type, axes=1)
    return t * -_signs(t.dtype.base)


def complex_mul(x: TensorLike, y: TensorLike) -> Tensor:
    """The products of pairs [.., 2]; the axes before broadcast."""
    return apply(ComplexMul(), *operands(x, y))


def circular_convolution(x: TensorLike, w: TensorLike) -> Tensor:
    """y[n] = sum over m of x[m] * w[(n - m) mod N] of pairs [.., N, 2]."""
    return apply(CircularConvolution(), *operands(x, w))


def fft(x: TensorLike) -> Tensor:
    """The discrete Fourier transform of pairs [.., N, 2] over N, as numpy.fft.fft of re + i im."""
    return apply(Fourier(False, False), as_tensor(x))


def ifft(x: TensorLike) -> Tensor:
    """The inverse of `fft`."""
    return apply(Fourier(True, True), as_tensor(x))


def rfft(x: TensorLike) -> Tensor:
    """The transform of real [.., N] as pairs [.., N // 2 + 1, 2]; the other half are their conjugates."""
    t = as_tensor(x)
    check_kind("rfft", "float", t.type)
    if t.ndim < 1:
        raise SourceError("E304", "rfft needs an axis, got a scalar", help="give a tensor of rank 1 or more")
    size = t.shape[-1]
    return fft(stack([t, zeros_like(t)], -1))[..., : size // 2 + 1, :]


def irfft(x: TensorLike, size: Dim | None = None) -> Tensor:
    """Real [.., size] of which [.., size // 2 + 1, 2] is the `rfft`; `size` is even unless it is given.

    Imaginary parts of the first frequency, and of the last of an even size, do not count.
    """
    t = as_tensor(x)
    _check_pairs("irfft", t.type, axes=2)
    half = t.shape[-2]
    n = 2 * (half - 1) if size is None else size
    if not known_equal(n // 2 + 1, half):
        raise SourceError("E302", f"irfft to {n} numbers needs {n // 2 + 1} frequencies, got {t.type}",
                          help=f"sizes for {half} frequencies are {2 * half - 2} and {2 * half - 1}")
    mirrored = conj(flip(t[..., 1 : (n - 1) // 2 + 1, :], (t.ndim - 2,)))
    return ifft(concat([t, mirrored], -2))[..., 0]
