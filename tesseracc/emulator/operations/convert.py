"""cvt: every conversion between integers and floats, narrow and packed formats included; cvt.pack."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator import numeric as nm
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import TYPES, Array, container, where
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.9 Data Movement and Conversion: cvt"
_INTEGER_MODES = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_SCALAR_FLOATS = ("f16", "bf16", "f32", "f64", "tf32")


@instruction("cvt", _SECTION, "u8..s64 f16 bf16 f32 f64 tf32, e4m3x2 e5m2x2 e2m1x2 e2m3x2 e3m2x2 f16x2 bf16x2 ue8m0x2")
def cvt(i: Instruction, d: Decoder) -> Step:
    """Conversion with stated rounding; .sat clamps, .satfinite keeps narrow formats finite, .relu drops negatives."""
    if "pack" in i.mods:
        return _pack(i, d)
    kinds = [m for m in i.mods if m in TYPES]
    target, source = kinds[0], kinds[1]
    if "x2" in target or "x4" in target:
        return _narrow_packed(i, d, target, source)
    to_float, from_float = target in _SCALAR_FLOATS, source in _SCALAR_FLOATS
    if to_float and from_float:
        return _float_to_float(i, d, target, source)
    if to_float:
        return _int_to_float(i, d, target, source)
    if from_float:
        return _float_to_int(i, d, target, source)
    return _int_to_int(i, d, target, source)


def _mode(i: Instruction) -> str:
    return next((m for m in i.mods if m in ("rn", "rz", "rm", "rp", "rna", *_INTEGER_MODES)), "rn")


def _int_to_int(i: Instruction, d: Decoder, target: str, source: str) -> Step:
    t, s = TYPES[target], TYPES[source]
    put, a = d.sink(i.operands[0], target), d.source(i.operands[1], source)
    if "sat" not in i.mods:
        return lambda w: put(w, a(w).astype(t.dtype))
    low, high = np.iinfo(t.dtype).min, np.iinfo(t.dtype).max
    own = np.iinfo(s.dtype)
    lower, upper = s.dtype(max(low, own.min)), s.dtype(min(high, own.max))
    return lambda w: put(w, np.clip(a(w), lower, upper).astype(t.dtype))


def _int_to_float(i: Instruction, d: Decoder, target: str, source: str) -> Step:
    bits, mode = TYPES[target].bits, _mode(i)
    put, a = d.sink(i.operands[0], f"b{bits}"), d.source(i.operands[1], source)

    def exact(x: Array) -> Array:
        """The integer as a round-to-odd f64."""
        near = x.astype(np.float64)
        if TYPES[source].bits < 64:
            return near
        big = np.abs(near) >= 2.0**53  # even numbers, whose halves fit the type
        back = where(
            big, where(big, near / 2, 0.0).astype(x.dtype) * x.dtype.type(2), where(big, 0.0, near).astype(x.dtype)
        )
        gap = (x - back).view(np.int64)  # exact modulo 2^64, and small
        return nm.round_odd(near, where(gap != 0, np.sign(gap), 0).astype(np.float64))

    def run(w: Wave) -> None:
        x = a(w)
        if target == "f64" and mode == "rn":
            put(w, np.asarray(x.astype(np.float64))[()].view(np.uint64))
        elif target == "f32" and mode == "rn":
            put(w, x.astype(np.float32).view(np.uint32))
        elif target == "f64":
            near = x.astype(np.float64)
            wide = np.asarray(near)
            error = [int(p) - int(q) for p, q in zip(np.ravel(x), np.ravel(wide))]
            fixed = nm.directed(np.ravel(wide), np.array(error, np.float64), mode)
            put(w, fixed.reshape(np.shape(x))[()].view(np.uint64))
        else:
            put(w, nm.narrow(exact(x), target, mode))

    return run


def _float_to_int(i: Instruction, d: Decoder, target: str, source: str) -> Step:
    t = TYPES[target]
    put, a = d.sink(i.operands[0], target), d.source(i.operands[1], f"b{TYPES[source].bits}")
    away = _INTEGER_MODES[_mode(i)]
    info = np.iinfo(t.dtype)
    # NaN gives 0, but the top bit alone where a 64-bit type is involved (PTX ISA, cvt).
    wide = source == "f64" or t.bits == 64
    nan = 1 << (t.bits - 1) if wide else 0
    invalid = t.container(nan).view(t.dtype)

    def run(w: Wave) -> None:
        x = nm.decode(a(w), source)
        if "ftz" in i.mods and source == "f32":
            x = where(np.abs(x) < 2.0**-126, 0.0, x)
        r = away(x)
        low, high = float(info.min), float(info.max)  # float(2^64 - 1) is 2^64
        inside = (r >= low) & (r < high if t.bits == 64 else r <= high)
        value = where(inside, r, 0.0).astype(t.dtype)
        value = where(inside, value, where(r < 0, t.dtype(info.min), t.dtype(info.max)))
        put(w, where(np.isnan(x), invalid, value)[()])

    return run


def _float_to_float(i: Instruction, d: Decoder, target: str, source: str) -> Step:
    bits, mode = TYPES[target].bits, _mode(i)
    put, a = d.sink(i.operands[0], f"b{bits}"), d.source(i.operands[1], f"b{TYPES[source].bits}")
    integral = _INTEGER_MODES.get(mode)
    plain = source == "f16" and target == "f32" and not {"sat", "relu", "ftz"} & set(i.mods)

    def run(w: Wave) -> None:
        raw = a(w)
        if plain:
            put(w, nm.canonical(raw.view(np.float16).astype(np.float32)).view(np.uint32))
            return
        x = nm.decode(raw, source)
        if "ftz" in i.mods and source == "f32":
            x = where(np.abs(x) < 2.0**-126, np.copysign(0.0, x), x)
        if integral is not None:
            x = np.copysign(integral(x), x)
        x = _clamp(i, x)
        if target == "f64":
            put(w, np.asarray(x, np.float64)[()].view(np.uint64).copy())
            return
        out = nm.encode(x, target, "rn" if integral is not None else mode, "satfinite" in i.mods)
        if "ftz" in i.mods and target == "f32":
            out = nm.flush(out.view(np.float32)).view(np.uint32)
        put(w, out)

    return run


def _clamp(i: Instruction, x: Array) -> Array:
    if "sat" in i.mods:
        x = where(x > 0, np.minimum(x, 1.0), 0.0)
    if "relu" in i.mods:
        x = where(x < 0, 0.0, where(x == 0, 0.0, x))
    return x


def _width(name: str) -> int:
    return {"e2m1": 4, "f16": 16, "bf16": 16, "f32": 32}.get(name, 8)


def _ue8m0_encode(x: Array, mode: str) -> Array:
    """Powers of two, exponent biased by 127: rounded toward zero or up."""
    m, e = np.frexp(np.abs(x))
    e = e - 1 + ((m > 0.5) if mode == "rp" else 0)
    out = np.clip(e + 127, 0, 254)
    return where(np.isnan(x), 255, where(np.isinf(x), 254, where(x == 0, 0, out))).astype(np.uint8)


def _narrow_packed(i: Instruction, d: Decoder, target: str, source: str) -> Step:
    """Two (four) elements at once. From f32 the first operand becomes the upper element; from a packed source the
    elements keep their places."""
    fmt, count = target[:-2], int(target[-1])
    bits = _width(fmt)
    total = container(max(8, bits * count))
    mode = _mode(i)
    put = d.sink(i.operands[0], f"b{max(8, bits * count)}")
    if source == "f32":
        parts = d.sources(i.operands[1], "f32") if count == 4 else [d.source(o, "f32") for o in i.operands[1:3]]
        stochastic = d.source(i.operands[-1], "b32") if "rs" in i.mods else None

        def fetch(w: Wave) -> list[Array]:
            values = [s(w).astype(np.float64) for s in reversed(parts)]
            if stochastic is not None:
                return _stochastic(values, fmt, w.spread(stochastic(w)), count)
            return values
    else:
        origin = source[:-2]
        have = _width(origin)
        raw = d.source(i.operands[1], f"b{TYPES[source].bits}")

        def fetch(w: Wave) -> list[Array]:
            x = raw(w)
            t = x.dtype.type
            pieces = [(x >> t(k * have) & t((1 << have) - 1)).astype(container(max(8, have))) for k in range(count)]
            if origin == "ue8m0":
                return [where(p == 255, np.nan, np.ldexp(1.0, p.astype(np.int32) - 127)) for p in pieces]
            return [nm.decode(p, origin) for p in pieces]

    def run(w: Wave) -> None:
        out = total(0)
        for k, x in enumerate(fetch(w)):
            x = _clamp(i, x)
            if fmt == "ue8m0":
                part = _ue8m0_encode(x, mode)
            else:
                narrow_mode = "rz" if "rs" in i.mods else mode
                part = nm.encode(x, fmt, narrow_mode, "satfinite" in i.mods or not nm.FORMATS[fmt].inf)
            out = out | part.astype(total) << total(k * bits)
        put(w, out)

    return run


def _stochastic(values: list[Array], fmt: str, random: Array, count: int) -> list[Array]:
    """.rs: random bits are added below the last kept place, then the value is truncated.

    Each element takes its own part of the 32 random bits: the low half for the low element of a pair, and so on.
    """
    f = nm.FORMATS[fmt]
    share = 32 // count
    out = []
    for k, x in enumerate(values):
        part = (random >> np.uint32(k * share) & np.uint32((1 << share) - 1)).astype(np.float64)
        _, exponent = np.frexp(x)
        ulp = np.maximum(exponent - 1, f.emin) - (f.digits - 1)
        out.append(np.copysign(np.abs(x) + np.ldexp(part / 2.0**share, ulp), x))
    return out


def _pack(i: Instruction, d: Decoder) -> Step:
    """cvt.pack.sat: a and b clamped to 2, 4, 8 or 16 bits, put above the bits of c."""
    kinds = [m for m in i.mods if m in TYPES or m in ("u4", "s4", "u2", "s2")]
    target, bits = kinds[0], int(kinds[0][1:])
    low = -(1 << (bits - 1)) if target[0] == "s" else 0
    high = (1 << (bits - (1 if target[0] == "s" else 0))) - 1
    put, a, b = d.sink(i.operands[0], "b32"), d.source(i.operands[1], "s32"), d.source(i.operands[2], "s32")
    c = d.source(i.operands[3], "b32") if len(i.operands) > 3 else None
    mask = np.uint32((1 << bits) - 1)

    def run(w: Wave) -> None:
        x, y = (np.clip(s(w), low, high).astype(np.int32).view(np.uint32) & mask for s in (a, b))
        upper = np.uint32(0) if c is None else c(w) << np.uint32(2 * bits)
        put(w, x << np.uint32(bits) | y | upper)

    return run
