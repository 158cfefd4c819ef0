"""cvt: every conversion between integers and floats; packed formats are in `convert_packed`."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator import numeric as nm
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.operations.convert_packed import drop_negatives, packed
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import TYPES, Array, where
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.9 Data Movement and Conversion: cvt"
_INTEGER_MODES = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_SCALAR_FLOATS = ("f16", "bf16", "f32", "f64", "tf32")


@instruction("cvt", _SECTION, "u8..s64 f16 bf16 f32 f64 tf32; f16x2 bf16x2 ue8m0x2, e4m3 e5m2 e2m3 e3m2 e2m1 x2 and x4")
def cvt(i: Instruction, d: Decoder) -> Step:
    """Conversion with stated rounding; .sat clamps, .satfinite keeps narrow formats finite, .relu drops negatives."""
    unknown = [m for m in i.mods[-2:] if m not in TYPES] + [m for m in i.mods if m.startswith("scaled::")]
    if unknown:
        raise ValueError(f".{unknown[0]}")
    target, source = i.mods[-2:]
    if target[-2:] in ("x2", "x4"):
        return packed(i, d, target, source)
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
    return drop_negatives(x) if "relu" in i.mods else x
