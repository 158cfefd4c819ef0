"""Conversions of packed narrow floats, over all inputs of 8 and 16 bits and all boundaries of f32.

References: the values that ml_dtypes reads in every code, and a search among them for the nearest; for stochastic
rounding integers, added and cut digit by digit as the documentation words it.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.emulator.harness import lanewise, same_bits
from tests.emulator.warp_products import check_text

DTYPES: dict[str, Any] = {
    "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2, "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn, "e2m1": ml_dtypes.float4_e2m1fn, "ue8m0": ml_dtypes.float8_e8m0fnu,
    "f16": np.float16, "bf16": ml_dtypes.bfloat16,
}  # fmt: skip
NARROW = ["e4m3", "e5m2", "e2m3", "e3m2", "e2m1"]
WIDTH = {"e4m3": 8, "e5m2": 8, "e2m3": 6, "e3m2": 6, "e2m1": 4}
#: code of NaN: where a format has none, of the largest value
NAN = {"e4m3": 0x7F, "e5m2": 0x7F, "e2m3": 0x1F, "e3m2": 0x1F, "e2m1": 7, "f16": 0x7FFF, "bf16": 0x7FFF}


def values(kind: str) -> Any:
    """The value of every code that is not negative, NaN and infinity left out, ascending; codes are 0, 1, 2, ..."""
    codes = np.arange(1 << WIDTH[kind] - 1).astype(np.uint8)
    found = codes.view(DTYPES[kind]).astype(np.float64)
    return found[np.isfinite(found)]


def nearest(x: Any, kind: str) -> Any:
    """Codes of f64 `x`: to nearest, ties to the even code, saturated."""
    table = values(kind)
    magnitude = np.where(np.isnan(x), 0.0, np.minimum(np.abs(x), table[-1]))
    upper = np.clip(np.searchsorted(table, magnitude), 1, len(table) - 1)
    below, above = magnitude - table[upper - 1], table[upper] - magnitude
    code = np.where((above < below) | ((above == below) & (upper % 2 == 0)), upper, upper - 1)
    code = code | np.signbit(x).astype(np.int64) << WIDTH[kind] - 1
    return np.where(np.isnan(x), NAN[kind], code)


def f32_inputs(kind: str, seed: int) -> Any:
    """f32 values: every one of the format, the middles between them, their neighbours, every pattern of bf16."""
    table = np.append(values(kind), 2 * values(kind)[-1])
    points = np.concatenate([table, (table[1:] + table[:-1]) / 2]).astype(np.float32)
    near = np.concatenate([points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(0))])
    bf16 = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    x = np.concatenate([near, -near, bf16])
    return np.random.default_rng(seed).permutation(x)


def wide(x: Any) -> Any:
    """As f64; signalling NaN as any other."""
    with np.errstate(invalid="ignore"):
        return x.astype(np.float64)


def positive_part(x: Any, relu: str) -> Any:
    return np.where(x <= 0, 0.0, x) if relu else x


def narrow_pair(kind: str, operands: str, *inputs: Any, prefix: str = "cvt.rn.satfinite") -> Any:
    """Runs a conversion to `kind`x2, whose result of e2m1 needs a register of eight bits."""
    source = operands.partition(" ")[0]
    text = f"{prefix}.{kind}x2.{source}"
    rest = operands.partition(" ")[2]
    if kind == "e2m1":
        return lanewise(f".reg .b8 %q; {text} %q, {rest}; cvt.u16.u8 %d, %q;", *inputs, out=np.uint16, target="sm_100a")
    return lanewise(f"{text} %d, {rest};", *inputs, out=np.uint16, target="sm_100a")


def joined(high: Any, low: Any, kind: str) -> Any:
    shift = 4 if kind == "e2m1" else 8
    return (high << shift | low).astype(np.uint16)


@pytest.mark.parametrize("relu", ["", ".relu"])
@pytest.mark.parametrize("kind", NARROW)
def test_from_f32(kind: str, relu: str) -> None:
    x, y = f32_inputs(kind, 1), f32_inputs(kind, 2)
    got = narrow_pair(kind, "f32 %0, %1", x, y, prefix=f"cvt.rn.satfinite{relu}")
    codes = [nearest(positive_part(wide(v), relu), kind) for v in (x, y)]
    same_bits(got, joined(*codes, kind))
    inside = x[np.abs(x) <= values(kind)[-1]]  # the reference itself, where ml_dtypes converts
    same_bits(nearest(inside.astype(np.float64), kind).astype(np.uint8), inside.astype(DTYPES[kind]).view(np.uint8))


@pytest.mark.parametrize("source", ["f16", "bf16"])
@pytest.mark.parametrize("kind", NARROW)
def test_from_every_half(kind: str, source: str) -> None:
    a = np.arange(1 << 16, dtype=np.uint32)
    b = np.random.default_rng(3).permutation(a)
    for relu in ("", ".relu"):
        got = narrow_pair(kind, f"{source}x2 %0", a << 16 | b, prefix=f"cvt.rn.satfinite{relu}")
        codes = []
        for raw in (a, b):
            x = wide(raw.astype(np.uint16).view(DTYPES[source]))
            codes.append(nearest(positive_part(x, relu), kind))
        same_bits(got, joined(*codes, kind))


def half_patterns(x: Any, kind: str) -> Any:
    """f64 values that fit to patterns of f16 or bf16, with one NaN."""
    with np.errstate(all="ignore"):
        raw = x.astype(DTYPES[kind]).view(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), raw).astype(np.uint32)


@pytest.mark.parametrize("target", ["f16", "bf16"])
@pytest.mark.parametrize("kind", NARROW)
def test_to_halves_from_every_pair(kind: str, target: str) -> None:
    """All pairs of codes; above elements of six bits anything may stand."""
    pairs = np.arange(1 << (8 if kind == "e2m1" else 16)).astype(np.uint16)
    step = 4 if kind == "e2m1" else 8
    parts = [(pairs >> shift & (1 << WIDTH[kind]) - 1).astype(np.uint8).view(DTYPES[kind]).astype(np.float64)
             for shift in (step, 0)]  # fmt: skip
    for relu in ("", ".relu"):
        if kind == "e2m1":
            text = f".reg .b8 %q; cvt.u8.u16 %q, %0; cvt.rn{relu}.{target}x2.{kind}x2 %d, %q;"
        else:
            text = f"cvt.rn{relu}.{target}x2.{kind}x2 %d, %0;"
        high, low = (half_patterns(positive_part(part, relu), target) for part in parts)
        same_bits(lanewise(text, pairs, target="sm_100a"), high << 16 | low)


# -- powers of two -------------------------------------------------------------------------------------------------


def power_codes(x: Any, mode: str, satfinite: bool) -> Any:
    """ue8m0: the exponent of the largest power of two at most |x| (rz), or of the smallest at least |x| (rp)."""
    powers = 2.0 ** np.arange(-127, 128)
    magnitude = np.where(np.isnan(x), 0.0, np.abs(wide(x)))
    last = 254 if satfinite else 255
    if mode == "rz":
        codes = np.maximum(np.searchsorted(powers, magnitude, "right") - 1, 0)
    else:
        codes = np.minimum(np.searchsorted(powers, magnitude, "left"), last)
    return np.where(np.isnan(x), 255, np.where(np.isinf(x), last, codes))


def powers_of_two_around() -> Any:
    """f32: for every exponent the power itself, its neighbours and one between; zeros, NaN, infinities."""
    fields = np.array([0, 1, 0x400000, 0x7FFFFF, 0x200000], np.uint32)
    patterns = (np.arange(256, dtype=np.uint32)[:, None] << 23 | fields).reshape(-1)
    return np.concatenate([patterns, patterns | np.uint32(1 << 31)]).view(np.float32)


@pytest.mark.parametrize("satfinite", ["", ".satfinite"])
@pytest.mark.parametrize("mode", ["rz", "rp"])
def test_to_powers_of_two(mode: str, satfinite: str) -> None:
    x = powers_of_two_around()
    y = np.random.default_rng(4).permutation(x)
    codes = [power_codes(part, mode, bool(satfinite)) for part in (x, y)]
    got = lanewise(f"cvt.{mode}{satfinite}.ue8m0x2.f32 %d, %0, %1;", x, y, out=np.uint16, target="sm_100a")
    same_bits(got, joined(*codes, "ue8m0"))
    halves = (x.view(np.uint32) & 0xFFFF0000 | y.view(np.uint32) >> 16).astype(np.uint32)
    parts = [(halves & np.uint32(0xFFFF0000)).view(np.float32), (halves << np.uint32(16)).view(np.float32)]
    codes = [power_codes(part, mode, bool(satfinite)) for part in parts]
    got = lanewise(f"cvt.{mode}{satfinite}.ue8m0x2.bf16x2 %d, %0;", halves, out=np.uint16, target="sm_100a")
    same_bits(got, joined(*codes, "ue8m0"))


def test_from_every_power_of_two() -> None:
    codes = np.arange(256, dtype=np.uint16)
    pairs = codes << 8 | codes[::-1]
    want = half_patterns(codes.astype(np.uint8).view(DTYPES["ue8m0"]).astype(np.float64), "bf16")
    same_bits(lanewise("cvt.rn.bf16x2.ue8m0x2 %d, %0;", pairs, target="sm_100a"), want << 16 | want[::-1])


# -- f16, bf16 and tf32 --------------------------------------------------------------------------------------------


def wide_inputs(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 1 << 32, 4000, dtype=np.uint32)
    # ties of f16 and tf32, then those of bf16
    x[:1000] = x[:1000] & 0xFFFFE000 | rng.choice([0, 0x1000, 0xFFF, 0x1001], 1000).astype(np.uint32)
    x[1000:2000] = x[1000:2000] & 0xFFFF0000 | rng.choice([0, 0x8000, 0x7FFF, 0x8001], 1000).astype(np.uint32)
    inside = rng.integers(100, 145, 1500).astype(np.uint32)  # the range of f16, its subnormals and its end
    x[500:2000] = x[500:2000] & 0x807FFFFF | inside << 23
    out = x.view(np.float32)
    out[2000:2008] = [np.inf, -np.inf, np.nan, 0.0, -0.0, 65520.0, 65519.996, -3.4e38]
    return out


def half_code(x: float, kind: str, mode: str, satfinite: bool) -> int:
    """To nearest or toward zero, by a search among the patterns of f16 or bf16."""
    if math.isnan(x):
        return 0x7FFF
    infinite = {"f16": 0x7C00, "bf16": 0x7F80}[kind]
    sign = 0x8000 if math.copysign(1.0, x) < 0 else 0
    if math.isinf(x):
        return sign | (infinite - 1 if satfinite else infinite)
    exact, low, high = Fraction(abs(x)), 0, infinite
    while high - low > 1:  # patterns ascend with their values
        middle = (low + high) // 2
        low, high = (middle, high) if pattern_value(middle, kind) <= exact else (low, middle)
    if mode == "rz":
        return sign | low
    step = pattern_value(high, kind) if high < infinite else 2 * pattern_value(low, kind) - pattern_value(low - 1, kind)
    below, above = exact - pattern_value(low, kind), step - exact
    code = high if above < below or (above == below and high % 2 == 0) else low
    return sign | (infinite - 1 if satfinite and code == infinite else code)


def pattern_value(code: int, kind: str) -> Fraction:
    return Fraction(float(np.array([code], np.uint16).view(DTYPES[kind])[0]))


@pytest.mark.parametrize("modifiers", ["", ".relu", ".satfinite", ".relu.satfinite"])
@pytest.mark.parametrize("mode", ["rn", "rz"])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_halves_from_f32(kind: str, mode: str, modifiers: str) -> None:
    x, y = wide_inputs(5), wide_inputs(6)
    got = lanewise(f"cvt.{mode}{modifiers}.{kind}x2.f32 %d, %0, %1;", x, y)
    codes = [np.array([half_code(float(v), kind, mode, "satfinite" in modifiers)
                       for v in positive_part(part, "relu" if "relu" in modifiers else "")], np.uint32)
             for part in (x, y)]  # fmt: skip
    same_bits(got, codes[0] << 16 | codes[1])
    one = lanewise(f"cvt.{mode}{modifiers}.{kind}.f32 %d, %0;", x, out=np.uint16)
    same_bits(one, codes[0].astype(np.uint16))


@pytest.mark.parametrize("modifiers", ["", ".relu", ".satfinite", ".satfinite.relu"])
@pytest.mark.parametrize("mode", ["rn", "rz", "rna"])
def test_tf32(mode: str, modifiers: str) -> None:
    """Thirteen bits are dropped from the pattern of f32; a carry may run up to infinity."""
    if mode == "rna" and "relu" in modifiers:
        return
    x = wide_inputs(7)
    raw = positive_part(x, "relu" if "relu" in modifiers else "").astype(np.float32).view(np.uint32).astype(np.int64)
    add = {"rn": 0xFFF + (raw >> 13 & 1), "rz": 0, "rna": 0x1000}[mode]
    magnitude = raw & 0x7FFFFFFF
    want = np.where(magnitude < 0x7F800000, magnitude + add & ~0x1FFF, magnitude)
    if "satfinite" in modifiers:
        want = np.minimum(want, 0x7F7FE000)
    want = np.where(np.isnan(x), 0x7FFFFFFF, want | raw & 1 << 31).astype(np.uint32)
    same_bits(lanewise(f"cvt.{mode}{modifiers}.tf32.f32 %d, %0;", x), want)


# -- stochastic rounding -------------------------------------------------------------------------------------------


def backwards(value: int) -> int:
    return int(f"{value:016b}"[::-1], 2)


def shares(random: int, kind: str, count: int) -> list[tuple[int, int]]:
    """(bits, number of bits) for the first operand, the second, ..., as the figures of random bits show them."""
    high, low = random >> 16, random & 0xFFFF
    if count == 2:
        return [(high & 0x1FFF, 13), (low & 0x1FFF, 13)] if kind == "f16" else [(high, 16), (low, 16)]
    if kind == "e2m1":
        b3, b2, b1, b0 = random.to_bytes(4, "big")
        high, low = b3 << 8 | b1, b2 << 8 | b0
    return [(backwards(high), 16), (high, 16), (backwards(low), 16), (low, 16)]


def stochastic_code(x: float, kind: str, random: int, bits: int, satfinite: bool) -> int:
    """The random bits, as an integer, are added to as many bits as are dropped below the last one kept."""
    if math.isnan(x):
        return NAN[kind]
    width = 16 if kind in ("f16", "bf16") else WIDTH[kind]
    sign = 1 << width - 1 if math.copysign(1.0, x) < 0 else 0
    finite = {"f16": 0x7BFF, "bf16": 0x7F7F}[kind] if width == 16 else len(values(kind)) - 1
    over = finite + (0 if satfinite or width < 16 else 1)
    if math.isinf(x):
        return sign | over
    value = (lambda c: pattern_value(c, kind)) if width == 16 else (lambda c: Fraction(float(values(kind)[c])))
    exact, low, high = Fraction(abs(x)), 0, finite + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if value(middle) <= exact else (low, middle)
    ulp = value(low + 1) - value(low) if low < finite else value(low) - value(low - 1)
    dropped = (exact - value(low)) / ulp
    if dropped >= 1:
        return sign | over
    code = low + (1 if dropped + Fraction(random, 1 << bits) >= 1 else 0)
    return sign | (over if code > finite else code)


def random_words(n: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 32, n, dtype=np.uint32)
    words[:4] = [0, 0xFFFFFFFF, 0x0000FFFF, 0x80000001]
    return words


@pytest.mark.parametrize("relu", ["", ".relu"])
@pytest.mark.parametrize("kind", NARROW)
def test_stochastic_rounding_of_four(kind: str, relu: str) -> None:
    """Including the middles, values that fit (which stay), the end of the range, subnormals, NaN and infinity."""
    columns = [f32_inputs(kind, seed)[:600] for seed in range(4)]
    points = values(kind).astype(np.float32)[:100]
    columns[0][: len(points)] = points
    columns[1][:3] = [np.nan, np.inf, -np.inf]
    words = random_words(600, 8)
    out = np.uint16 if kind == "e2m1" else np.uint32
    text = f"cvt.rs{relu}.satfinite.{kind}x4.f32 %d, {{%0, %1, %2, %3}}, %4;"
    got = lanewise(text, *columns, words, out=out, target="sm_100a")
    step = 4 if kind == "e2m1" else 8
    want = np.zeros(600, out)
    for n, word in enumerate(words.tolist()):
        for k, (random, bits) in enumerate(shares(word, kind, 4)):
            x = float(positive_part(columns[k][n], relu))
            want[n] |= out(stochastic_code(x, kind, random, bits, True) << step * (3 - k))
    same_bits(got, want)
    keep = {"e2m1": 4}.get(kind, 8)
    if not relu:
        same_bits((got >> 3 * keep).astype(np.uint8)[: len(points)], np.arange(len(points)).astype(np.uint8))


@pytest.mark.parametrize("modifiers", ["", ".relu", ".satfinite", ".relu.satfinite"])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_stochastic_rounding_of_halves(kind: str, modifiers: str) -> None:
    x, y, words = wide_inputs(9)[1600:2200], wide_inputs(10)[1600:2200], random_words(600, 11)
    got = lanewise(f"cvt.rs{modifiers}.{kind}x2.f32 %d, %0, %1, %2;", x, y, words, target="sm_100a")
    want = np.zeros(600, np.uint32)
    for n, word in enumerate(words.tolist()):
        for k, (random, bits) in enumerate(shares(word, kind, 2)):
            v = float(positive_part((x, y)[k][n], "relu" if "relu" in modifiers else ""))
            want[n] |= np.uint32(stochastic_code(v, kind, random, bits, "satfinite" in modifiers) << 16 * (1 - k))
    same_bits(got, want)


# -- spellings -----------------------------------------------------------------------------------------------------


def spellings() -> dict[str, list[str]]:
    """By target, the forms above in the syntax of PTX 8.8."""
    found: dict[str, list[str]] = {"sm_89": [], "sm_90": [], "sm_100a": [], "sm_120a": []}
    for relu in ("", ".relu"):
        for kind in ("e4m3", "e5m2"):
            found["sm_89"] += [f"cvt.rn.satfinite{relu}.{kind}x2.{s};" for s in ("f32 %h0, %f0, %f1", "f16x2 %h0, %r0")]
            found["sm_89"].append(f"cvt.rn{relu}.f16x2.{kind}x2 %r0, %h0;")
        for kind in ("e2m3", "e3m2", "e2m1"):
            narrow = "%q0" if kind == "e2m1" else "%h0"
            found["sm_120a"].append(f"cvt.rn.satfinite{relu}.{kind}x2.f32 {narrow}, %f0, %f1;")
            found["sm_120a"].append(f"cvt.rn{relu}.f16x2.{kind}x2 %r0, {narrow};")
        for kind in NARROW:
            four = "%h0" if kind == "e2m1" else "%r0"
            found["sm_100a"].append(f"cvt.rs{relu}.satfinite.{kind}x4.f32 {four}, {{%f0, %f1, %f2, %f3}}, %r1;")
        for satfinite in ("", ".satfinite"):
            for kind in ("f16", "bf16"):
                found["sm_100a"].append(f"cvt.rs{relu}{satfinite}.{kind}x2.f32 %r0, %f0, %f1, %r1;")
                for mode in ("rn", "rz"):
                    found["sm_89"].append(f"cvt.{mode}{relu}{satfinite}.{kind}x2.f32 %r0, %f0, %f1;")
                    found["sm_89"].append(f"cvt.{mode}{relu}{satfinite}.{kind}.f32 %h0, %f0;")
            found["sm_100a"] += [f"cvt.{mode}{satfinite}{relu}.tf32.f32 %r0, %f0;" for mode in ("rn", "rz")]
    found["sm_90"] += ["cvt.rn.relu.tf32.f32 %r0, %f0;", "cvt.rna.tf32.f32 %r0, %f0;"]
    for mode in ("rz", "rp"):
        for satfinite in ("", ".satfinite"):
            found["sm_120a"].append(f"cvt.{mode}{satfinite}.ue8m0x2.f32 %h0, %f0, %f1;")
            found["sm_120a"].append(f"cvt.{mode}{satfinite}.ue8m0x2.bf16x2 %h0, %r0;")
    found["sm_120a"].append("cvt.rn.bf16x2.ue8m0x2 %r0, %h0;")
    return found


@pytest.mark.parametrize(("target", "lines"), spellings().items())
def test_the_assembler_knows_these_forms(target: str, lines: list[str]) -> None:
    declared = ".reg .f32 %f<4>; .reg .b32 %r<2>; .reg .b16 %h<1>; .reg .b8 %q<1>;\n"
    check_text(declared + "\n".join(lines), target)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cvt.rz.satfinite.e4m3x2.f32 %d, %0, %0;", "no conversion .rz from .f32 to .e4m3x2"),
        ("cvt.rs.satfinite.e4m3x2.f32 %d, %0, %0, %0;", "no conversion .rs"),
        ("cvt.rn.ue8m0x2.f32 %d, %0, %0;", "no conversion .rn from .f32 to .ue8m0x2"),
        ("cvt.rn.satfinite.s2f6x2.f32 %d, %0, %0;", ".s2f6x2"),
        ("cvt.rn.scaled::n2::ue8m0.bf16x2.e4m3x2 %d, %0, %0;", ".scaled::n2::ue8m0"),
    ],
)
def test_other_forms_are_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(Exception, match="E941") as raised:
        lanewise(text, np.zeros(4, np.float32))
    assert words in str(raised.value) and "PTX line" in str(raised.value)
