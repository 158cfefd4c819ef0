"""Comparisons and conversions against Python, NumPy and ml_dtypes."""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.emulator.harness import lanewise, same_bits
from tests.emulator.test_floating import RAW, as_float, patterns, round_exact, to_bits
from tests.emulator.test_integer import TYPES, values

ORDERED = {"eq": operator.eq, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge}


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_float_comparisons(kind: str) -> None:
    a, b = patterns(kind, 1), patterns(kind, 2)
    a[:60] = b[:60]
    x, y = as_float(a, kind), as_float(b, kind)
    for name, fn in (*ORDERED.items(), ("ne", operator.ne)):
        pairs = list(zip(x, y))
        unordered = [math.isnan(p) or math.isnan(q) for p, q in pairs]
        want = np.array([fn(p, q) and not u for (p, q), u in zip(pairs, unordered)])
        same_bits(lanewise(f"setp.{name}.{kind} %d, %0, %1;", a, b, out=bool), want)
        same_bits(lanewise(f"setp.{name}u.{kind} %d, %0, %1;", a, b, out=bool), want | np.array(unordered))
    same_bits(lanewise(f"setp.num.{kind} %d, %0, %1;", a, b, out=bool), ~np.array(unordered))
    same_bits(lanewise(f"setp.nan.{kind} %d, %0, %1;", a, b, out=bool), np.array(unordered))


@pytest.mark.parametrize("kind", list(TYPES))
def test_integer_comparisons_and_boolean_combination(kind: str) -> None:
    a, b, c = values(kind, 1), values(kind, 2), values("u32", 3)
    a[:30] = b[:30]
    flag = c & 1 == 1
    for name, fn in (*ORDERED.items(), ("ne", operator.ne)):
        test = np.array([fn(int(p), int(q)) for p, q in zip(a, b)])
        for word, join in (("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)):
            text = (f".reg .pred %f; .reg .b32 %x; and.b32 %x, %2, 1; setp.eq.u32 %f, %x, 1; "
                    f"setp.{name}.{word}.{kind} %d0|%d1, %0, %1, %f;")  # fmt: skip
            first, second = lanewise(text, a, b, c, out=bool, outs=2)
            same_bits(first, join(test, flag))
            same_bits(second, join(~test, flag))


def test_unsigned_spellings() -> None:
    a, b = values("u32", 4), values("u32", 5)
    for name, fn in (("lo", np.less), ("ls", np.less_equal), ("hi", np.greater), ("hs", np.greater_equal)):
        same_bits(lanewise(f"setp.{name}.u32 %d, %0, %1;", a, b, out=bool), fn(a, b))


def test_set_selp_slct() -> None:
    a, b, c = values("u32", 6), values("u32", 7), values("s32", 8)
    same_bits(lanewise("set.lt.u32.u32 %d, %0, %1;", a, b), np.where(a < b, 0xFFFFFFFF, 0).astype(np.uint32))
    same_bits(lanewise("set.ge.f32.s32 %d, %0, %1;", a, b, out=np.float32),
              (a.view(np.int32) >= b.view(np.int32)).astype(np.float32))  # fmt: skip
    text = ".reg .pred %f; setp.gt.s32 %f, %2, 5; selp.b32 %d, %0, %1, %f;"
    same_bits(lanewise(text, a, b, c), np.where(c > 5, a, b))
    same_bits(lanewise("slct.u32.s32 %d, %0, %1, %2;", a, b, c), np.where(c >= 0, a, b))
    x = patterns("f32", 9, len(a))
    with np.errstate(invalid="ignore"):
        same_bits(lanewise("slct.u32.f32 %d, %0, %1, %2;", a, b, x), np.where(x.view(np.float32) >= 0, a, b))


INTS = {**TYPES, "u8": np.uint8, "s8": np.int8}


@pytest.mark.parametrize("source", list(TYPES))
@pytest.mark.parametrize("target", list(TYPES))
def test_integer_conversions(target: str, source: str) -> None:
    a = values(source, 10)
    bits = int(target[1:])
    info = np.iinfo(TYPES[target])
    plain = [(int(v) & (1 << bits) - 1) for v in a]
    want = np.array([v - (1 << bits) if target[0] == "s" and v >> (bits - 1) else v for v in plain], TYPES[target])
    same_bits(lanewise(f"cvt.{target}.{source} %d, %0;", a, out=TYPES[target]), want)
    clamped = np.array([max(info.min, min(info.max, int(v))) for v in a], TYPES[target])
    same_bits(lanewise(f"cvt.sat.{target}.{source} %d, %0;", a, out=TYPES[target]), clamped)


def test_byte_conversions_extend_into_wide_registers() -> None:
    a = values("u32", 11)
    same_bits(lanewise("cvt.s32.s8 %d, %0;", a, out=np.int32), a.astype(np.uint8).view(np.int8).astype(np.int32))
    same_bits(lanewise("cvt.u32.u8 %d, %0;", a), a & 0xFF)
    same_bits(lanewise("cvt.s8.s32 %d, %0;", a, out=np.int32), a.astype(np.uint8).view(np.int8).astype(np.int32))


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("source", list(TYPES))
@pytest.mark.parametrize("target", ["f16", "f32", "f64"])
def test_integer_to_float(target: str, source: str, mode: str) -> None:
    a = values(source, 12)
    want = [round_exact(Fraction(int(v)), target, mode) for v in a]
    same_bits(lanewise(f"cvt.{mode}.{target}.{source} %d, %0;", a, out=RAW[target]),
              np.array([to_bits(v, target) for v in want], RAW[target]))  # fmt: skip


@pytest.mark.parametrize("mode", ["rni", "rzi", "rmi", "rpi"])
@pytest.mark.parametrize("target", list(TYPES))
@pytest.mark.parametrize("source", ["f16", "f32", "f64"])
def test_float_to_integer(source: str, target: str, mode: str) -> None:
    rng = np.random.default_rng(13)
    a = patterns(source, 14)
    if source != "f16":  # values in the range of the target, halves among them
        scale = 2.0 ** rng.uniform(0, int(target[1:]) + 1, 200)
        dtype = {"f32": np.float32, "f64": np.float64}[source]
        near = np.round(rng.uniform(-1, 1, 200) * scale * 2) / 2
        a[:200] = near.astype(dtype).view(RAW[source])
    info = np.iinfo(TYPES[target])
    bits = int(target[1:])
    nan = 1 << (bits - 1) if source == "f64" or bits == 64 else 0
    away = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}[mode]

    def one(x: float) -> int:
        if math.isnan(x):
            return nan
        if math.isinf(x):
            return (info.max if x > 0 else info.min) & (1 << bits) - 1
        return max(info.min, min(info.max, away(Fraction(x)))) & (1 << bits) - 1

    raw = {16: np.uint16, 32: np.uint32, 64: np.uint64}[bits]
    got = lanewise(f"cvt.{mode}.{target}.{source} %d, %0;", a, out=TYPES[target])
    same_bits(got.view(raw), np.array([one(x) for x in as_float(a, source)], raw))


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize(("target", "source"), [("f16", "f32"), ("f32", "f64"), ("f16", "f64"), ("bf16", "f32")])
def test_float_narrowing(target: str, source: str, mode: str) -> None:
    if target == "bf16" and mode in ("rm", "rp"):
        mode = "rn"
    a = patterns(source, 15, 600)
    rng = np.random.default_rng(16)
    dtype = {"f32": np.float32, "f64": np.float64}[source]
    spread = {"f16": 20, "f32": 140, "bf16": 120}[target]
    a[:200] = (rng.normal(size=200) * 2.0 ** rng.uniform(-spread, spread, 200)).astype(dtype).view(RAW[source])
    ties = rng.integers(0, 2**16, 100).astype(np.uint32) << 16 | 0x8000  # middles between bf16 neighbours
    if source == "f32":
        a[200:300] = ties

    def one(x: float) -> float:
        if not math.isfinite(x) or x == 0:
            return x
        return math.copysign(round_exact(Fraction(x), target, mode), x)

    same_bits(lanewise(f"cvt.{mode}.{target}.{source} %d, %0;", a, out=RAW[target]),
              np.array([to_bits(one(x), target) for x in as_float(a, source)], RAW[target]))  # fmt: skip


def test_widening_and_integral_rounding() -> None:
    h = patterns("f16", 17)
    same_bits(lanewise("cvt.f32.f16 %d, %0;", h),
              np.array([to_bits(x, "f32") for x in as_float(h, "f16")], np.uint32))  # fmt: skip
    b = patterns("bf16", 18)
    same_bits(lanewise("cvt.f32.bf16 %d, %0;", b),
              np.array([to_bits(x, "f32") for x in as_float(b, "bf16")], np.uint32))  # fmt: skip
    x = patterns("f32", 19)
    for mode, fn in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)):
        v = fn(x.view(np.float32))
        want = np.where(np.isnan(v), np.uint32(0x7FFFFFFF), v.view(np.uint32))
        same_bits(lanewise(f"cvt.{mode}.f32.f32 %d, %0;", x), want)
    v = x.view(np.float32)
    with np.errstate(invalid="ignore"):
        want = np.where(np.isnan(v) | (v <= 0), np.float32(0), np.minimum(v, np.float32(1)))
    same_bits(lanewise("cvt.sat.f32.f32 %d, %0;", x, out=np.float32), want)


def f32_sample(seed: int, n: int = 500) -> Any:
    """f32 values over the range of the 8-bit formats, ties, overflow, infinities and NaN included."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=n) * 2.0 ** rng.uniform(-20, 18, n)).astype(np.float32)
    x[:100] = rng.integers(-600, 600, 100) / np.float32(32)
    x[100:108] = [0.0, -0.0, np.inf, -np.inf, np.nan, 448.0, 464.0, -57344.0]
    return x


@pytest.mark.parametrize(
    ("kind", "dtype", "largest"), [("e4m3", ml_dtypes.float8_e4m3fn, 448.0), ("e5m2", ml_dtypes.float8_e5m2, 57344.0)]
)
def test_fp8_pairs(kind: str, dtype: Any, largest: float) -> None:
    x, y = f32_sample(20), f32_sample(21)

    def reference(v: Any) -> Any:
        """Saturated, as .satfinite demands; NaN is 0x7f in both formats."""
        with np.errstate(all="ignore"):
            raw = np.clip(v, -largest, largest).astype(dtype).view(np.uint8)
        return np.where(np.isnan(v), np.uint8(0x7F), raw)

    got = lanewise(f"cvt.rn.satfinite.{kind}x2.f32 %d, %0, %1;", x, y, out=np.uint16)
    same_bits(got, (reference(x).astype(np.uint16) << 8 | reference(y)).astype(np.uint16))  # the first is the upper one
    relu = lanewise(f"cvt.rn.satfinite.relu.{kind}x2.f32 %d, %0, %1;", x, y, out=np.uint16)
    keep = np.where(x < 0, np.float32(0), np.where(x == 0, np.float32(0), x))
    same_bits(relu >> 8, reference(keep).astype(np.uint16))
    codes = np.arange(256, dtype=np.uint16) | np.arange(255, -1, -1, dtype=np.uint16) << 8
    wide = lanewise(f"cvt.rn.f16x2.{kind}x2 %d, %0;", codes)
    with np.errstate(invalid="ignore"):
        table = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32).astype(np.float16)
    raw = np.where(np.isnan(table), np.uint16(0x7FFF), table.view(np.uint16))
    same_bits(wide & 0xFFFF, raw[codes & 0xFF].astype(np.uint32))
    same_bits(wide >> 16, raw[codes >> 8].astype(np.uint32))


@pytest.mark.parametrize(
    ("kind", "dtype", "bits"),
    [("e2m1", ml_dtypes.float4_e2m1fn, 4), ("e2m3", ml_dtypes.float6_e2m3fn, 8), ("e3m2", ml_dtypes.float6_e3m2fn, 8)],
)
def test_fp6_and_fp4_pairs(kind: str, dtype: Any, bits: int) -> None:
    x, y = (v[~np.isnan(v)][:400] for v in (f32_sample(22), f32_sample(23)))
    largest = float(ml_dtypes.finfo(dtype).max)

    def reference(v: Any) -> Any:
        return np.clip(v, -largest, largest).astype(dtype).view(np.uint8).astype(np.uint16)

    if bits == 4:
        text = f".reg .b8 %t; cvt.rn.satfinite.{kind}x2.f32 %t, %0, %1; cvt.u16.u8 %d, %t;"
    else:
        text = f"cvt.rn.satfinite.{kind}x2.f32 %d, %0, %1;"
    got = lanewise(text, x, y, out=np.uint16, target="sm_100a")
    same_bits(got, (reference(x) << bits | reference(y)).astype(np.uint16))


def test_bf16_pairs_and_tf32() -> None:
    x, y = f32_sample(24), f32_sample(25)
    with np.errstate(all="ignore"):
        ref = [np.where(np.isnan(v), np.uint16(0x7FFF), v.astype(ml_dtypes.bfloat16).view(np.uint16)) for v in (x, y)]
        half = [np.where(np.isnan(v), np.uint16(0x7FFF), v.astype(np.float16).view(np.uint16)) for v in (x, y)]
    same_bits(lanewise("cvt.rn.bf16x2.f32 %d, %0, %1;", x, y), ref[0].astype(np.uint32) << 16 | ref[1])
    same_bits(lanewise("cvt.rn.f16x2.f32 %d, %0, %1;", x, y), half[0].astype(np.uint32) << 16 | half[1])
    finite = x[np.isfinite(x)]
    away = lanewise("cvt.rna.tf32.f32 %d, %0;", finite)
    same_bits(away, (finite.view(np.uint32) + 0x1000) & 0xFFFFE000)


def test_packing_clamps() -> None:
    a, b, c = values("s32", 26) >> 20, values("s32", 27) >> 20, values("u32", 28)
    got = lanewise("cvt.pack.sat.u8.s32.b32 %d, %0, %1, %2;", a, b, c)
    clamp = lambda v: np.clip(v, 0, 255).astype(np.uint32)  # noqa: E731
    same_bits(got, c << 16 | clamp(a) << 8 | clamp(b))


def test_vector_moves() -> None:
    a, b = values("u32", 29), values("u32", 30)
    same_bits(lanewise("mov.b64 %d, {%0, %1};", a, b, out=np.uint64), b.astype(np.uint64) << np.uint64(32) | a)
    low, high = lanewise(".reg .b64 %t; mov.b64 %t, {%0, %1}; mov.b64 {%d0, %d1}, %t;", a, b, outs=2)
    same_bits(low, a)
    same_bits(high, b)
    same_bits(lanewise("mov.b64 {_, %d}, %0;", values("u64", 31), out=np.uint32),
              (values("u64", 31) >> np.uint64(32)).astype(np.uint32))  # fmt: skip
    x, y = values("u64", 32), values("u64", 33)
    low, high = lanewise(".reg .b128 %t; mov.b128 %t, {%0, %1}; mov.b128 {%d0, %d1}, %t;", x, y, out=np.uint64, outs=2)
    same_bits(low, x)
    same_bits(high, y)
