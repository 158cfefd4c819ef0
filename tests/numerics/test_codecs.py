"""Narrow types against tables of their values: every pattern decoded, and every rounding found by search among them."""

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
from tessera.arrays import convert
from tessera_runtime import load as load_bundle
from tessera_runtime.core.codecs import FORMATS, encode
from tessera_runtime.core.dtypes import decode
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front, host_level
from tesseracc.emulator_device import EmulatorDevice

Array = np.ndarray[Any, Any]
FLOATS = {
    "f16": np.float16, "bf16": ml_dtypes.bfloat16, "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2, "fp6_e2m3": ml_dtypes.float6_e2m3fn, "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}
WIDTHS = {"f16": 16, "bf16": 16, "fp8_e4m3": 8, "fp8_e5m2": 8, "fp6_e2m3": 6, "fp6_e3m2": 6, "fp4_e2m1": 4}
SMALL = [name for name, width in WIDTHS.items() if width < 16]
WITHOUT_NAN = ("fp6_e2m3", "fp6_e3m2", "fp4_e2m1")
narrow = pytest.mark.parametrize("name", FLOATS)


@cache
def magnitudes(name: str) -> Array:
    """The finite values >= 0 in the order of their patterns, as ml_dtypes (or NumPy) has them."""
    half = np.arange(1 << (WIDTHS[name] - 1)).astype(np.uint16 if WIDTHS[name] == 16 else np.uint8)
    with np.errstate(invalid="ignore"):
        values = half.view(FLOATS[name]).astype(np.float64)
    return values[np.isfinite(values)]


@cache
def samples(name: str) -> Array:
    """f32 numbers around every value and every tie of a type, beyond its range, and of all exponents."""
    rng = np.random.default_rng(7)
    table = magnitudes(name)
    if len(table) > 256:
        table = table[np.unique(np.r_[0:70, rng.integers(0, len(table) - 1, 900), len(table) - 70 : len(table)])]
    middle = (table[1:] + table[:-1]) / 2
    near = np.concatenate([table, middle]).astype(np.float32)  # exact
    near = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(0))])
    spread = rng.standard_normal(400).astype(np.float32) * np.exp2(rng.integers(-149, 120, 400)).astype(np.float32)
    beyond = np.minimum([table[-1] * f for f in (1.001, 1.0624, 1.07, 1.5, 4)] + [3e38, 1e-45, 0.0], 3.4e38)
    x = np.concatenate([near, spread, beyond.astype(np.float32)])
    return np.concatenate([x, -x, np.array([np.inf, -np.inf, np.nan], np.float32)])


def by_search(name: str, x: Array, rounding: str, words: Array) -> Array:
    """The patterns that rounding gives, by looking for the neighbours of |x| among the values."""
    table, largest = magnitudes(name), len(magnitudes(name)) - 1
    size = np.abs(np.where(np.isfinite(x), x, 0)).astype(np.float64)
    low = np.searchsorted(table, size, side="right") - 1
    high = np.minimum(low + 1, largest)
    gap = np.where(high > low, table[high] - table[low], np.inf)
    fraction = (size - table[low]) / gap
    if rounding == "zero":
        up = np.zeros(len(x), bool)
    elif rounding == "nearest":
        up = (fraction > 0.5) | ((fraction == 0.5) & (low % 2 == 1))
    else:
        up = np.floor(fraction * 2.0**32) + words.astype(np.float64) >= 2.0**32
    found = np.where(up, high, low)
    if name in ("f16", "bf16"):
        infinity = largest + 1
        if rounding == "nearest":  # from half a unit beyond the largest value on
            found = np.where(size >= table[-1] + (table[-1] - table[-2]) / 2, infinity, found)
        found = np.where(np.isinf(x), infinity, found)
    else:
        found = np.where(np.isinf(x), largest, found)
    return found | np.where(np.signbit(x), 1 << (WIDTHS[name] - 1), 0)


def assert_patterns(name: str, x: Array, found: Array, rounding: str, words: Array) -> None:
    number = ~np.isnan(x)
    want = by_search(name, x, rounding, words)
    np.testing.assert_array_equal(found[number], want[number])
    if name in WITHOUT_NAN:
        assert np.all(found[~number] == len(magnitudes(name)) - 1)
    else:
        assert np.all(np.isnan(decode(name, found[~number])))


@narrow
def test_every_pattern_decodes_as_the_reference_does(name: str) -> None:
    raw = np.arange(1 << WIDTHS[name]).astype(np.uint16 if WIDTHS[name] == 16 else np.uint8)
    with np.errstate(invalid="ignore"):
        want = raw.view(FLOATS[name]).astype(np.float32)
    found = decode(name, raw)
    np.testing.assert_array_equal(found, want)
    number = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(found)[number], np.signbit(want)[number])
    if WIDTHS[name] < 8:  # what stands above the bits of a value does not count
        high = raw | np.uint8(0x100 - (1 << WIDTHS[name]))
        np.testing.assert_array_equal(decode(name, high), found)


@narrow
@pytest.mark.parametrize("rounding", ["nearest", "zero", "stochastic"])
def test_encoding_is_the_search_among_all_values(name: str, rounding: str) -> None:
    x = samples(name)
    for seed in range(1 if rounding != "stochastic" else 4):
        words = np.random.default_rng(seed).integers(0, 2**32, len(x), dtype=np.uint32)
        words[: len(x) // 3] = [0, 2**32 - 1, 2**31][seed % 3]
        assert_patterns(name, x, encode(name, x, rounding, words), rounding, words)


@narrow
def test_stochastic_rounding_has_the_mean_of_what_it_rounds(name: str) -> None:
    """Over 2^16 evenly spread words the mean is x to 2^-16 of a unit, for every x; not by chance, but exactly."""
    table = magnitudes(name)
    rng = np.random.default_rng(3)
    at = rng.integers(0, len(table) - 1, 12)
    x = (table[at] + (table[at + 1] - table[at]) * rng.random(12)).astype(np.float32)
    words = (np.arange(2**16, dtype=np.uint64) * 2**16 + 2**15).astype(np.uint32)
    for one, gap in zip(x, table[at + 1] - table[at], strict=True):
        patterns = encode(name, np.full(2**16, one), "stochastic", words)
        mean = decode(name, patterns).astype(np.float64).mean()
        assert abs(mean - float(one)) <= gap * 2.0**-15


# The same on every target ---------------------------------------------------------------------------------------------


@ts.function
def roundings(x: ts.Tensor["N", ts.f32], words: ts.Tensor["N", ts.u32]):
    return [(ts.cast(x, name), ts.cast_toward_zero(x, name), ts.cast_by_bits(x, words, name)) for name in FLOATS]


@ts.function
def widened(
    a: ts.Tensor["N", ts.fp8_e4m3], b: ts.Tensor["N", ts.fp8_e5m2], c: ts.Tensor["N", ts.fp6_e2m3],
    d: ts.Tensor["N", ts.fp6_e3m2], e: ts.Tensor["N", ts.fp4_e2m1], s: ts.Tensor["N", ts.fp8_e8m0],
    i: ts.Tensor["N", ts.i4], u: ts.Tensor["N", ts.u4],
):
    return [ts.cast(t, ts.f32) for t in (a, b, c, d, e, s)] + [ts.cast(i, ts.i32), ts.cast(u, ts.i32)]


@cache
def programs(target: str) -> Any:
    module = front({"roundings": roundings, "widened": widened})
    if target == "cpu":
        return load_bundle(Build(module, [host_level()]).bundle(), device="cpu")
    return load_bundle(Build(module, [load(target)]).bundle(), device=EmulatorDevice())


@pytest.mark.parametrize("target", ["cpu", "sm_80"])
def test_targets_round_to_the_same_bits(target: str) -> None:
    for at, name in enumerate(FLOATS):
        x = samples(name)
        if target != "cpu":
            x = x[np.random.default_rng(at).permutation(len(x))[:200]]
        words = np.random.default_rng(at).integers(0, 2**32, len(x), dtype=np.uint32)
        found = programs(target)["roundings"](x, words)[3 * at : 3 * at + 3]
        for patterns, rounding in zip(found, ("nearest", "zero", "stochastic"), strict=True):
            raw = patterns.view(np.uint16 if WIDTHS[name] == 16 else np.uint8)
            np.testing.assert_array_equal(raw, encode(name, x, rounding, words))


@pytest.mark.parametrize("target", ["cpu", "sm_80"])
def test_targets_widen_every_pattern(target: str) -> None:
    raw = np.arange(256, dtype=np.uint8)
    types = [np.dtype(FLOATS[name]) for name in SMALL] + [
        np.dtype(t) for t in (ml_dtypes.float8_e8m0fnu, ml_dtypes.int4, ml_dtypes.uint4)]
    found = programs(target)["widened"](*(raw.view(t) for t in types))
    for array, t, width in zip(found, types, [*(WIDTHS[name] for name in SMALL), 8, 4, 4], strict=True):
        want = (raw & np.uint8((1 << width) - 1)).view(t).astype(array.dtype)
        np.testing.assert_array_equal(array, want)


# Ints of 4 bits, powers of two ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "low", "high"), [("i4", -8, 7), ("u4", 0, 15)])
def test_ints_of_4_bits_saturate_for_floats_and_wrap_for_ints(name: str, low: int, high: int) -> None:
    x = np.array([-300, -9.5, -8.99, -8, -1.5, -0.5, 0.5, 6.9, 7.99, 15.9, 16, 1e9, np.inf, -np.inf, np.nan], "f")
    want = np.nan_to_num(np.clip(np.trunc(x), low, high))
    np.testing.assert_array_equal(ts.tensor(x).astype(name).astype(ts.f32).numpy(), want)
    ints = np.arange(-40, 40, dtype=np.int64)
    wrapped = (ints - low) % 16 + low
    np.testing.assert_array_equal(ts.tensor(ints).astype(name).astype(ts.i64).numpy(), wrapped)
    assert np.all(ts.tensor(ints).astype(name).numpy().view(np.uint8) < 16)


def test_arithmetic_of_4_bits_wraps() -> None:
    every = ts.tensor(np.arange(-8, 8)).astype(ts.i4)
    total = every.expand_dims(1) + every.expand_dims(0)
    assert total.dtype == ts.i4
    wide = np.add.outer(np.arange(-8, 8), np.arange(-8, 8))
    np.testing.assert_array_equal(total.astype(ts.i32).numpy(), (wide + 8) % 16 - 8)
    assert (every @ every).dtype == ts.i32 and (every @ every).item() == sum(i * i for i in range(-8, 8))
    assert ts.max(every).astype(ts.i32).item() == 7


def test_powers_of_two() -> None:
    patterns = np.arange(255, dtype=np.uint8)
    values = patterns.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    np.testing.assert_array_equal(encode("fp8_e8m0", values), patterns)
    normal = values[1:-1]
    for factor, step in ((1.49, 0), (1.51, 1), (1.99, 1)):
        np.testing.assert_array_equal(encode("fp8_e8m0", normal * np.float32(factor)), patterns[1:-1] + step)
        np.testing.assert_array_equal(encode("fp8_e8m0", normal * np.float32(factor), "zero"), patterns[1:-1])
    tie = encode("fp8_e8m0", normal * np.float32(1.5))
    np.testing.assert_array_equal(tie, patterns[1:-1] + patterns[1:-1] % 2)
    special = np.array([0.0, -0.0, 1e-45, np.inf, -1.0, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(encode("fp8_e8m0", special), [0, 0, 0, 254, 255, 255, 255])


# The operators --------------------------------------------------------------------------------------------------------


def test_cast_with_a_rounding() -> None:
    x = np.random.default_rng(2).uniform(-7, 7, 500).astype(np.float32)
    t = ts.tensor(x)
    for name in FORMATS:
        zero = ts.cast(t, name, rounding="zero")
        np.testing.assert_array_equal(zero.numpy().view(np.uint8 if WIDTHS[name] < 16 else np.uint16),
                                      encode(name, x, "zero"))
        assert np.array_equal(ts.cast(t, name, rounding="nearest").numpy().view(np.uint8),
                              convert(x, ts.dtype(name)).view(np.uint8))
    np.testing.assert_array_equal(ts.cast(t, ts.i8, rounding="nearest").numpy(), np.rint(x))
    ints = np.arange(-300, 300, 7)
    np.testing.assert_array_equal(ts.cast(ints, ts.fp8_e4m3, rounding="zero").numpy().view(np.uint8),
                                  encode("fp8_e4m3", ints.astype(np.float32), "zero"))
    np.testing.assert_array_equal(ts.cast(t, ts.i8, rounding="zero").numpy(), np.trunc(x))
    key = ts.random.key(5)
    either = ts.cast(t, ts.i8, rounding="stochastic", key=key).numpy()
    assert np.all((either == np.floor(x)) | (either == np.ceil(x)))
    words = ts.random.bits(500, key=key).numpy()
    np.testing.assert_array_equal(either, np.floor(x.astype(np.float64) + words * 2.0**-32))
    again = ts.cast(t, ts.bf16, rounding="stochastic", key=key).numpy().view(np.uint16)
    np.testing.assert_array_equal(again, encode("bf16", x, "stochastic", words))


@pytest.mark.parametrize(("call", "code"), [
    (lambda x: ts.cast(x, ts.bf16, rounding="up"), "E305"), (lambda x: ts.cast(x, ts.bool, rounding="zero"), "E303"),
    (lambda x: ts.cast_toward_zero(ts.cast(x, ts.f64), ts.f32), "E303"),
    (lambda x: ts.cast_by_bits(x, x, ts.bf16), "E303"),
    (lambda x: ts.cast_toward_zero(x, ts.i8), "E303"), (lambda x: ts.round_mantissa(x, 23), "E305"),
])  # fmt: skip
def test_roundings_that_are_not_there(call: Any, code: str) -> None:
    with pytest.raises(ts.SourceError) as caught:
        call(ts.ones(3))
    assert caught.value.code == code and caught.value.help


def test_packing_is_a_string_of_bits_that_begins_low() -> None:
    """Against a Python int per row, for rows that end within a byte too."""
    rng = np.random.default_rng(1)
    for name, width in (("fp4_e2m1", 4), ("i4", 4), ("u4", 4), ("fp6_e2m3", 6), ("fp6_e3m2", 6)):
        for size in (0, 1, 2, 3, 5, 8, 9):
            raw = rng.integers(0, 1 << width, (3, size)).astype(np.uint8)
            x = ts.tensor(raw.view(ts.dtype(name).numpy))
            packed = ts.pack(x)
            length = -(-size * width // 8)
            rows = [sum(int(v) << (width * i) for i, v in enumerate(row)).to_bytes(length, "little") for row in raw]
            np.testing.assert_array_equal(packed.numpy(), np.frombuffer(b"".join(rows), np.uint8).reshape(3, length))
            back = ts.unpack(packed, name, size)
            np.testing.assert_array_equal(back.numpy().view(np.uint8), raw)
    with pytest.raises(ts.SourceError) as caught:
        ts.unpack(ts.zeros(2, 3, dtype=ts.u8), ts.fp6, 5)
    assert caught.value.code == "E302" and "4 bytes" in str(caught.value.help)
    with pytest.raises(ts.SourceError, match="4 and 6 bits"):
        ts.pack(ts.ones(3, dtype=ts.fp8_e4m3))


def test_ints_reach_narrow_floats_through_f32_everywhere() -> None:
    """2^30 + 2^22 + 1 is above a tie of bf16, but on it in f32: two roundings, on every target."""
    ints = np.array([2**30 + 2**22 + 1, -(2**30) - 2**22 - 1, 2**30 + 3 * 2**22 - 1, 2049, 17, -(2**31)], np.int32)

    @ts.function
    def to_narrow(i: ts.Tensor["N", ts.i32]):
        return [i.astype(name) for name in FLOATS]

    wide = ints.astype(np.float32)
    want = [np.clip(wide, -magnitudes(name)[-1], magnitudes(name)[-1]).astype(t) for name, t in FLOATS.items()]
    want[0] = np.where(np.abs(wide) > 65504, np.sign(wide) * np.float32(np.inf), wide).astype(np.float16)
    assert float(want[1][0]) == 2.0**30
    for run in (to_narrow, ts.jit(to_narrow)):
        for found, exact in zip(run(ints), want, strict=True):
            np.testing.assert_array_equal(found.numpy().astype(np.float64), exact.astype(np.float64))
