"""The narrow-float codecs against ml_dtypes and NumPy, exhaustively where the domain is small."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tessera_runtime.core.dtypes import DTYPES, accepts, decode, dtype_of, encode, info, np_dtype, storage_dtype
from tessera_runtime.core.errors import TesseraError

LARGEST = {"fp8_e4m3": 448.0, "fp8_e5m2": 57344.0}


def reference(name: str) -> np.dtype:
    return np.dtype({"f16": np.float16, "bf16": ml_dtypes.bfloat16, "fp8_e4m3": ml_dtypes.float8_e4m3fn,
                     "fp8_e5m2": ml_dtypes.float8_e5m2}[name])  # fmt: skip


def interesting_f32() -> np.ndarray:
    """Every f32 whose low 13 bits are near a rounding boundary of some target, plus random bit patterns."""
    upper = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    low = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32)
    grid = (upper[:, None] | low[None, :]).reshape(-1)
    random = np.random.default_rng(1).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    return np.concatenate([grid, random]).view(np.float32)


@pytest.mark.parametrize("name", ["f16", "bf16", "fp8_e4m3", "fp8_e5m2"])
def test_decode_every_pattern(name: str) -> None:
    raw = np.arange(1 << (8 * DTYPES[name].itemsize), dtype=storage_dtype(name) if name != "f16" else np.uint16)
    with np.errstate(invalid="ignore"):
        expected = raw.view(reference(name)).astype(np.float32)
    actual = decode(name, raw)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual[~np.isnan(actual)]), np.signbit(expected[~np.isnan(expected)]))


@pytest.mark.parametrize("name", ["f16", "bf16", "fp8_e4m3", "fp8_e5m2"])
def test_encode_rounds_as_the_reference_in_range(name: str) -> None:
    x = interesting_f32()
    raw = encode(name, x)
    assert raw.dtype.itemsize == DTYPES[name].itemsize
    if name in LARGEST:
        clipped = np.where(np.isnan(x), np.float32(0), np.clip(x, -LARGEST[name], LARGEST[name]))
    else:
        clipped = np.where(np.isnan(x), np.float32(0), x)
    with np.errstate(over="ignore", under="ignore"):
        expected = clipped.astype(reference(name)).view(raw.dtype)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(raw[number], expected[number])
    assert np.isnan(decode(name, raw[~number])).all()


@pytest.mark.parametrize("name", ["f16", "bf16", "fp8_e4m3", "fp8_e5m2"])
def test_encode_inverts_decode(name: str) -> None:
    raw = np.arange(1 << (8 * DTYPES[name].itemsize)).astype(np.uint16 if DTYPES[name].itemsize == 2 else np.uint8)
    values = decode(name, raw)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(encode(name, values)[finite], raw[finite])
    np.testing.assert_array_equal(encode(name, values[finite].astype(np.float64)), raw[finite])


@pytest.mark.parametrize("name", sorted(LARGEST))
def test_fp8_saturates(name: str) -> None:
    largest = LARGEST[name]
    x = np.array([largest * 1.01, largest * 64, np.inf, -np.inf, -1e30], dtype=np.float32)
    np.testing.assert_array_equal(decode(name, encode(name, x)), np.sign(x) * np.float32(largest))


@pytest.mark.parametrize("name", ["bf16", "fp8_e4m3", "fp8_e5m2"])
def test_float64_is_rounded_once(name: str) -> None:
    """Just above a tie in f64, on the tie in f32: rounding twice would go to even, rounding once goes up."""
    mantissa = DTYPES[name].mantissa
    tie = 1.0 + 2.0 ** -(mantissa + 1)
    for wide in (tie + 2.0**-40, -(tie + 2.0**-40)):
        got = decode(name, encode(name, np.array([wide])))[0]
        assert got == np.sign(wide) * (1.0 + 2.0**-mantissa)
    below = 1.0 + 2.0**-mantissa + 2.0 ** -(mantissa + 1) - 2.0**-40
    assert decode(name, encode(name, np.array([below])))[0] == 1.0 + 2.0**-mantissa


def test_names_and_numpy_types_are_one_to_one() -> None:
    for name in DTYPES:
        assert dtype_of(np_dtype(name)) == name
        assert accepts(name, np_dtype(name))
        assert np_dtype(name).itemsize == storage_dtype(name).itemsize == DTYPES[name].itemsize
    assert info("int32").name == "i32"
    for wrong in ("f99", ""):
        with pytest.raises(TesseraError) as caught:
            info(wrong)
        assert caught.value.code == "E703" and caught.value.exit_code == 7
    with pytest.raises(TesseraError):
        dtype_of(np.dtype(">f4"))
    with pytest.raises(TesseraError):
        dtype_of(np.dtype(np.complex64))


@pytest.mark.parametrize("name", ["f16", "bf16", "fp8_e4m3", "fp8_e5m2"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 0), (3, 2)])
def test_shapes_stay(name: str, shape: tuple[int, ...]) -> None:
    raw = encode(name, np.ones(shape, np.float32))
    assert raw.shape == shape and decode(name, raw).shape == shape
