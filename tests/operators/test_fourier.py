"""Fourier transforms against numpy.fft in f64: sizes of every kind, compiled code, and derivatives."""

from functools import cache
from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError
from tessera_runtime import load as load_bundle
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front, host_level
from tesseracc.emulator_device import EmulatorDevice

# one; prime; prime above the radix; powers of two; products with a prime above the radix; two and three stages
# large primes, alone and in a product, go by a convolution
SIZES = (1, 2, 7, 19, 64, 512, 38, 60, 480, 67, 134, 1021)


def pairs(z: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    return np.stack([z.real, z.imag], -1).astype(dtype)


def random(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(shape)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def composed(x: ts.Tensor, inverse: bool) -> ts.Tensor:
    """The operator's composition, executed eagerly: what every level compiles."""
    from tessera.ops.fourier import Fourier

    return Fourier(inverse, inverse).compose(x)


@pytest.mark.parametrize("size", SIZES)
def test_the_composition_is_the_transform(size: int) -> None:
    z = random(3, size)
    for inverse, want in ((False, np.fft.fft(z)), (True, np.fft.ifft(z))):
        found = composed(ts.tensor(pairs(z)), inverse).numpy()
        eager = (ts.ifft if inverse else ts.fft)(pairs(z)).numpy()
        scale = np.abs(want).max()
        np.testing.assert_allclose(found, pairs(want), rtol=0, atol=1e-14 * scale * np.log2(size + 1))
        np.testing.assert_allclose(eager, pairs(want), rtol=0, atol=1e-15 * scale * np.log2(size + 1))


@ts.function
def there(x: ts.Tensor["B", 60, 2, ts.f32]):
    return ts.fft(x), ts.ifft(x)


@ts.function
def there_any(x: ts.Tensor["B", "N", 2, ts.f64]):
    return ts.fft(x), ts.ifft(x)


@cache
def compiled(fn: ts.Function) -> list[Any]:
    """For this CPU, and for an emulated GPU."""
    made = [(Build(front({fn.name: fn}), [arch]).bundle(), device)
            for arch, device in ((host_level(), "cpu"), (load("sm_80"), EmulatorDevice()))]
    return [load_bundle(data, device=device)[fn.name] for data, device in made]


@pytest.mark.parametrize(("fn", "size", "dtype", "near"), [(there, 60, np.float32, 4e-7),
                                                           (there_any, 13, np.float64, 1e-14),
                                                           (there_any, 300, np.float64, 1e-14)])
def test_compiled_code_is_the_transform(fn: ts.Function, size: int, dtype: type, near: float) -> None:
    z = random(5, size)
    want = pairs(np.fft.fft(z)), pairs(np.fft.ifft(z))
    for transform in compiled(fn):
        for got, exact in zip(transform(pairs(z, dtype)), want, strict=True):
            np.testing.assert_allclose(got, exact, rtol=0, atol=near * np.abs(exact).max())


def test_adjoints_are_transforms() -> None:
    z, u = random(2, 12), random(2, 12)
    _, pullback = ts.vjp(ts.fft, ts.tensor(pairs(z)))
    np.testing.assert_allclose(pullback(ts.tensor(pairs(u)))[0].numpy(), pairs(np.fft.ifft(u) * 12), atol=1e-13)
    _, pullback = ts.vjp(ts.ifft, ts.tensor(pairs(z)))
    np.testing.assert_allclose(pullback(ts.tensor(pairs(u)))[0].numpy(), pairs(np.fft.fft(u) / 12), atol=1e-13)
    # the energy of a spectrum is N times that of the signal (Parseval), so its gradient is 2 N x
    gradient = ts.grad(lambda x: ts.sum(ts.fft(x) * ts.fft(x)))(ts.tensor(pairs(z)))
    np.testing.assert_allclose(gradient.numpy(), 24 * pairs(z), rtol=1e-12)


def test_products_of_spectra_are_convolutions() -> None:
    x, w = random(4, 15), random(15)
    want = pairs(np.fft.ifft(np.fft.fft(x) * np.fft.fft(w)))
    spectral = ts.ifft(ts.complex_mul(ts.fft(pairs(x)), ts.fft(pairs(w))))
    np.testing.assert_allclose(spectral.numpy(), want, atol=1e-13)
    np.testing.assert_allclose(ts.circular_convolution(pairs(x), pairs(w)).numpy(), want, atol=1e-13)


@ts.function
def real_there_and_back(x: ts.Tensor["B", 30, ts.f64], y: ts.Tensor["B", 8, 2, ts.f64]):
    return ts.rfft(x), ts.irfft(y, 15)


@pytest.mark.parametrize("size", [2, 3, 15, 30, 64])
def test_transforms_of_real_numbers(size: int) -> None:
    x, z = random(4, size).real, random(4, size // 2 + 1)
    np.testing.assert_allclose(ts.rfft(x).numpy(), pairs(np.fft.rfft(x)), rtol=0, atol=1e-13)
    np.testing.assert_allclose(ts.irfft(pairs(z), size).numpy(), np.fft.irfft(z, size), rtol=0, atol=1e-14)
    np.testing.assert_allclose(ts.irfft(ts.rfft(x), size).numpy(), x, rtol=0, atol=1e-14)
    if size % 2 == 0:
        np.testing.assert_allclose(ts.irfft(pairs(z)).numpy(), np.fft.irfft(z), rtol=0, atol=1e-14)
    # adjoints: <rfft(x), z> = <x, pullback(z)>, and the same for irfft
    for forward, at, ct in ((ts.rfft, x, pairs(z)), (lambda v: ts.irfft(v, size), pairs(z), x)):
        out, pullback = ts.vjp(forward, ts.tensor(at))
        inner = float(np.sum(pullback(ts.tensor(ct))[0].numpy() * at))
        np.testing.assert_allclose(inner, float(np.sum(out.numpy() * ct)), rtol=1e-10, atol=1e-12)


def test_compiled_transforms_of_real_numbers() -> None:
    x, z = random(3, 30).real, random(3, 8)
    build = Build(front({"real_there_and_back": real_there_and_back}), [host_level()])
    bundle = load_bundle(build.bundle(), device="cpu")
    there, back = bundle["real_there_and_back"](x, pairs(z))
    np.testing.assert_allclose(there, pairs(np.fft.rfft(x)), rtol=0, atol=1e-13)
    np.testing.assert_allclose(back, np.fft.irfft(z, 15), rtol=0, atol=1e-14)


def test_a_size_that_does_not_fit_its_spectrum_is_refused() -> None:
    with pytest.raises(SourceError) as caught:
        ts.irfft(np.ones((5, 2)), 12)
    assert caught.value.code == "E302" and "8 and 9" in str(caught.value.help)


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(SourceError) as caught:
        ts.fft(np.ones((4, 3)))
    assert caught.value.code == "E304" and "size 2" in str(caught.value.help)
