"""Floating-point arithmetic in f16 bf16 f32 f64 and the packed f16x2 bf16x2 f32x2.

The model of the approximate instructions (.approx, .full, ex2 lg2 sin cos tanh rsqrt): the f64 function rounded to
nearest. Hardware is within its documented error of that; programs must not depend on the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import isqrt

import numpy as np

from tesseracc.emulator import numeric as nm
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import TYPES, Array, where
from tesseracc.emulator.wave import Wave

__all__ = ["add_step", "div_step", "fma_step", "is_float", "min_max_step", "mul_step", "rounding", "sign_step"]

_FP = "9.7.3 Floating Point"
_F32X2 = "f32x2"
_KINDS = {"f16", "bf16", "f32", "f64", "f16x2", "bf16x2", "f32x2", "tf32"}
_SPECIAL = {"ftz", "sat", "relu"}
F32, F64 = np.float32, np.float64


def is_float(kind: str) -> bool:
    """Whether a type modifier names a floating-point format."""
    return kind in _KINDS


def rounding(i: Instruction) -> str:
    """The rounding modifier, `rn` if there is none."""
    return next((m for m in i.mods if m in ("rn", "rz", "rm", "rp", "rna")), "rn")


def _element(kind: str) -> str:
    return kind.removesuffix("x2")


Rule = Callable[..., Array]


def lanewise(i: Instruction, d: Decoder, fn: Rule, kinds: list[str] | None = None) -> Step:
    """`fn` on unsigned element patterns of the sources, packed types element by element.

    `kinds` gives the types of the sources where they differ from the result's (mixed-precision add, fma).
    """
    kind = i.mods[-1] if kinds is None else i.mods[-2]
    kinds = kinds or [kind] * (len(i.operands) - 1)
    bits = TYPES[kind].bits
    put = d.sink(i.operands[0], f"b{bits}")
    sources = [d.patterns(o, k) for o, k in zip(i.operands[1:], kinds)]
    if not kind.endswith("x2"):
        if len(sources) == 2:
            a, b = sources
            return lambda w: put(w, fn(a(w), b(w)))
        return lambda w: put(w, fn(*[s(w) for s in sources]))
    half = bits // 2
    part, whole = TYPES[f"b{half}"].dtype, TYPES[f"b{bits}"].dtype

    def packed(w: Wave) -> None:
        raw = [s(w) for s in sources]
        low = fn(*(r.astype(part) for r in raw))
        high = fn(*((r >> whole(half)).astype(part) for r in raw))
        put(w, low.astype(whole) | high.astype(whole) << whole(half))

    return packed


def _finish(i: Instruction, fmt: str, bits: Array) -> Array:
    """.sat, .relu and the flush of subnormal results."""
    if "ftz" in i.mods and fmt in ("f32", "f16"):
        if fmt == "f32":
            bits = nm.flush(bits.view(np.float32)).view(np.uint32)
        else:
            bits = where(bits & np.uint16(0x7C00) == 0, bits & np.uint16(0x8000), bits)[()]
    if "sat" in i.mods or "relu" in i.mods:
        x = nm.decode(bits, fmt)
        keep = (x > 0) if "relu" in i.mods else (x > 0) & (x < 1)
        raw = bits.dtype.type
        nan = np.isnan(x)
        if "relu" in i.mods:
            bits = where(keep | nan, bits, raw(0))[()]
        else:
            one = nm.encode(np.float64(1), fmt)
            bits = where(keep, bits, where(x >= 1, one, raw(0)))[()]
    return bits


def _inputs(i: Instruction, fmt: str, values: tuple[Array, ...]) -> list[Array]:
    """f64 values of patterns, subnormals flushed if .ftz."""
    if "ftz" in i.mods and fmt == "f32":
        return [nm.flush(v.view(np.float32)).astype(F64) for v in values]
    out = [nm.decode(v, fmt) for v in values]
    if "ftz" in i.mods and fmt == "f16":
        out = [where(np.abs(v) < 2.0**-14, np.copysign(0.0, v), v) for v in out]
    return out


def _f32(i: Instruction, values: tuple[Array, ...]) -> list[Array]:
    out = [v.view(np.float32) for v in values]
    return [nm.flush(v) for v in out] if "ftz" in i.mods else out


def _signed_zero(total: Array, a: Array, b: Array, mode: str) -> Array:
    """An exact zero sum of opposite terms is -0 when rounding toward minus infinity."""
    if mode != "rm":
        return total
    return where((total == 0) & (a == -b) & ~((a == 0) & (np.signbit(a) == np.signbit(b))), -0.0, total)


def _mixed(i: Instruction) -> list[str] | None:
    """add/sub/fma.f32.f16: the sources before the last are narrow."""
    if len(i.mods) >= 2 and i.mods[-1] in ("f16", "bf16") and i.mods[-2] == "f32":
        return [i.mods[-1]] * (len(i.operands) - 2) + ["f32"]
    return None


def add_step(i: Instruction, d: Decoder, negate: bool) -> Step:
    """add and sub."""
    kinds = _mixed(i)
    fmt = "f32" if kinds else _element(i.mods[-1])
    mode = rounding(i)

    def f64(a: Array, b: Array) -> Array:
        x, y = a.view(F64), b.view(F64)
        if negate:
            y = -y
        if mode == "rn":
            return (x + y).view(np.uint64)
        total = nm.exact_f64(lambda p, q: p + q, mode, x + y, x, y)
        return np.asarray(_signed_zero(total, x, y, mode))[()].view(np.uint64)

    def f32(a: Array, b: Array) -> Array:
        x, y = _f32(i, (a, b))
        return _finish(i, "f32", nm.canonical(x - y if negate else x + y).view(np.uint32))

    plain = np.subtract if negate else np.add
    if fmt == "f32" and mode == "rn" and not kinds and not _SPECIAL & set(i.mods):
        return lanewise(i, d, lambda a, b: nm.canonical(plain(a.view(F32), b.view(F32))).view(np.uint32))

    def other(a: Array, b: Array) -> Array:
        if kinds:
            x, y = nm.decode(a, kinds[0]), nm.decode(b, "f32")
        else:
            x, y = _inputs(i, fmt, (a, b))
        if negate:
            y = -y
        total = _signed_zero(nm.sum_odd(x, y), x, y, mode)
        return _finish(i, fmt, nm.narrow(total, fmt, mode))

    fn = f64 if fmt == "f64" else f32 if fmt == "f32" and mode == "rn" and not kinds else other
    return lanewise(i, d, fn, kinds)


def mul_step(i: Instruction, d: Decoder) -> Step:
    """mul."""
    fmt, mode = _element(i.mods[-1]), rounding(i)

    def f64(a: Array, b: Array) -> Array:
        x, y = a.view(F64), b.view(F64)
        if mode == "rn":
            return (x * y).view(np.uint64)
        return np.asarray(nm.exact_f64(lambda p, q: p * q, mode, x * y, x, y))[()].view(np.uint64)

    def f32(a: Array, b: Array) -> Array:
        x, y = _f32(i, (a, b))
        return _finish(i, "f32", nm.canonical(x * y).view(np.uint32))

    if fmt == "f32" and mode == "rn" and not _SPECIAL & set(i.mods):
        return lanewise(i, d, lambda a, b: nm.canonical(a.view(F32) * b.view(F32)).view(np.uint32))

    def other(a: Array, b: Array) -> Array:
        x, y = _inputs(i, fmt, (a, b))
        return _finish(i, fmt, nm.narrow(x * y, fmt, mode))

    return lanewise(i, d, f64 if fmt == "f64" else f32 if fmt == "f32" and mode == "rn" else other)


def fma_step(i: Instruction, d: Decoder) -> Step:
    """fma, and mad on floats."""
    kinds = _mixed(i)
    fmt, mode = "f32" if kinds else _element(i.mods[-1]), rounding(i)

    def f64(a: Array, b: Array, c: Array) -> Array:
        return nm.fma64(a.view(F64), b.view(F64), c.view(F64), mode).view(np.uint64)

    def f32(a: Array, b: Array, c: Array) -> Array:
        x, y, z = _f32(i, (a, b, c))
        return _finish(i, "f32", nm.canonical(nm.fma32(x, y, z)).view(np.uint32))

    def other(a: Array, b: Array, c: Array) -> Array:
        if kinds:
            x, y, z = nm.decode(a, kinds[0]), nm.decode(b, kinds[0]), nm.decode(c, "f32")
        else:
            x, y, z = _inputs(i, fmt, (a, b, c))
        total = _signed_zero(nm.fma_odd(x, y, z), x * y, z, mode)
        return _finish(i, fmt, nm.narrow(total, fmt, mode))

    return lanewise(i, d, f64 if fmt == "f64" else f32 if fmt == "f32" and mode == "rn" and not kinds else other, kinds)


@instruction("fma", _FP + ": fma", "f32 f64 f16 bf16 f16x2 bf16x2 f32x2; .rn .rz .rm .rp .ftz .sat .relu")
def fma(i: Instruction, d: Decoder) -> Step:
    """d = a * b + c, rounded once."""
    return fma_step(i, d)


def _quotient(x: Fraction, y: Fraction) -> Fraction | None:
    return x / y if y else None


def div_step(i: Instruction, d: Decoder) -> Step:
    """div: .rn and directed modes rounded correctly, .approx and .full modelled as correctly rounded."""
    fmt, mode = i.mods[-1], rounding(i)

    def f64(a: Array, b: Array) -> Array:
        x, y = a.view(F64), b.view(F64)
        r = x / y
        return (r if mode == "rn" else nm.exact_f64(_quotient, mode, r, x, y)).view(np.uint64)

    def f32(a: Array, b: Array) -> Array:
        x, y = _f32(i, (a, b))
        r = x / y
        if mode != "rn":
            wide = x.astype(F64) / y.astype(F64)
            r = nm.round_f32(_sticky(wide, y, x), mode)
        return _finish(i, "f32", nm.canonical(r).view(np.uint32))

    return lanewise(i, d, f64 if fmt == "f64" else f32)


def _sticky(q: Array, y: Array, x: Array) -> Array:
    """The f64 quotient of f32 values rounded to odd: the remainder's sign says on which side the exact value lies."""
    p, e = nm.two_product(q, y.astype(F64))
    rest = (x.astype(F64) - p) - e
    return nm.round_odd(q, where(np.isfinite(rest), rest * np.sign(y.astype(F64)), 0.0))


def sign_step(i: Instruction, d: Decoder, what: str) -> Step:
    """abs and neg: sign bit only, so NaNs keep their payload (f32 flushes with .ftz)."""
    fmt = _element(i.mods[-1])
    top = 1 << (TYPES[fmt].bits - 1)

    def fn(a: Array) -> Array:
        raw = a.dtype.type
        a = _finish(i, fmt, a) if "ftz" in i.mods else a
        return a & raw(top - 1) if what == "abs" else a ^ raw(top)

    return lanewise(i, d, fn)


def min_max_step(i: Instruction, d: Decoder) -> Step:
    """min, max: the number wins over NaN unless .NaN; -0 is below +0; .xorsign.abs, and three inputs for f32."""
    fmt, smaller = _element(i.mods[-1]), i.opcode == "min"
    nan = nm.FORMATS[fmt].nan or 0

    def two(a: Array, b: Array) -> Array:
        raw = a.dtype.type
        if "ftz" in i.mods:
            a, b = _finish(i, fmt, a), _finish(i, fmt, b)
        top = raw(1 << (TYPES[fmt].bits - 1))
        sign = (a ^ b) & top
        if "xorsign" in i.mods:
            a, b = a & ~top, b & ~top
        x, y = nm.decode(a, fmt), nm.decode(b, fmt)
        first = (x < y) | ((x == y) & np.signbit(x)) if smaller else (x > y) | ((x == y) & ~np.signbit(x))
        out = where(first, a, b)
        bad_x, bad_y = np.isnan(x), np.isnan(y)
        if "NaN" in i.mods:
            out = where(bad_x | bad_y, raw(nan), out)
        else:
            out = where(bad_x, b, where(bad_y, a, out))
            out = where(bad_x & bad_y, raw(nan), out)
        return (out | sign if "xorsign" in i.mods else out)[()]

    if len(i.operands) == 4:
        return lanewise(i, d, lambda a, b, c: two(two(a, b), c))
    return lanewise(i, d, two)


def _square_root(x: Fraction) -> Fraction | None:
    """The root to 128 bits, off by less than the last of them if it is not exact."""
    if x <= 0:
        return None
    shift = 256 + 2 * max(0, x.denominator.bit_length() - x.numerator.bit_length())
    product = x.numerator * x.denominator << 2 * shift
    r = isqrt(product)
    return Fraction(2 * r + (r * r != product), x.denominator << (shift + 1))


@instruction("sqrt rcp", _FP + ": sqrt, rcp", "f32 f64; .approx .rn .rz .rm .rp .ftz")
def root_or_reciprocal(i: Instruction, d: Decoder) -> Step:
    """Square root; reciprocal."""
    fmt, mode = i.mods[-1], rounding(i)
    root = i.opcode == "sqrt"

    def f64(a: Array) -> Array:
        x = a.view(F64)
        if "ftz" in i.mods:  # rcp.approx.ftz.f64 and rsqrt drop the low word's precision; modelled as rounded
            x = where(np.abs(x) < 2.0**-1022, np.copysign(0.0, x), x)[()]
        if root:
            r = np.sqrt(x)
            return (r if mode == "rn" else nm.exact_f64(_square_root, mode, r, x)).view(np.uint64)
        one = np.ones_like(x)
        r = 1.0 / x
        return (r if mode == "rn" else nm.exact_f64(_quotient, mode, r, one, x)).view(np.uint64)

    def f32(a: Array) -> Array:
        (x,) = _f32(i, (a,))
        if mode == "rn":
            r = np.sqrt(x) if root else np.float32(1) / x
        elif root:
            wide = np.sqrt(x.astype(F64))
            p, e = nm.two_product(wide, wide)
            rest = (x.astype(F64) - p) - e
            r = nm.round_f32(nm.round_odd(wide, where(np.isfinite(rest), rest, 0.0)), mode)
        else:
            one = np.ones_like(x)
            r = nm.round_f32(_sticky(1.0 / x.astype(F64), x, one), mode)
        return _finish(i, "f32", nm.canonical(r).view(np.uint32))

    return lanewise(i, d, f64 if fmt == "f64" else f32)


def _flush16(x: Array, i: Instruction, fmt: str) -> Array:
    return where(np.abs(x) < 2.0**-14, np.copysign(0.0, x), x) if "ftz" in i.mods and fmt == "f16" else x


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "rsqrt": lambda x: 1.0 / np.sqrt(x), "ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
}  # fmt: skip


@instruction("rsqrt ex2 lg2 sin cos tanh", _FP, "f32, rsqrt f64, ex2 and tanh also f16 bf16 and packed; .approx .ftz")
def approximate(i: Instruction, d: Decoder) -> Step:
    """The function computed in f64 and rounded to nearest."""
    fmt, fn = _element(i.mods[-1]), _FUNCTIONS[i.opcode]
    negative_zero = i.opcode == "rsqrt"

    def run(a: Array) -> Array:
        (x,) = _inputs(i, fmt, (a,))
        y = fn(_flush16(x, i, fmt))
        if negative_zero:
            y = where(x == 0, np.copysign(np.inf, x), y)
        if fmt == "f64":
            return np.asarray(y)[()].view(np.uint64)
        return _finish(i, fmt, nm.narrow(y, fmt))

    return lanewise(i, d, run)


@instruction("testp", _FP + ": testp", "f32 f64; finite infinite number notanumber normal subnormal")
def testp(i: Instruction, d: Decoder) -> Step:
    """A predicate: the class of a."""
    kind, what = i.mods[-1], i.mods[0]
    put, a = d.sink(i.operands[0], "pred"), d.source(i.operands[1], kind)
    tiny = 2.0**-126 if kind == "f32" else 2.0**-1022

    def run(w: Wave) -> None:
        x = a(w)
        small = np.abs(x) < tiny
        r = {
            "finite": np.isfinite(x), "infinite": np.isinf(x), "number": ~np.isnan(x), "notanumber": np.isnan(x),
            "normal": np.isfinite(x) & ~small, "subnormal": small & (x != 0),
        }[what]  # fmt: skip
        put(w, r)

    return run


@instruction("copysign", _FP + ": copysign", "f32 f64")
def copysign(i: Instruction, d: Decoder) -> Step:
    """The magnitude of b with the sign of a."""
    bits = TYPES[i.mods[-1]].bits

    def fn(a: Array, b: Array) -> Array:
        raw = a.dtype.type
        top = raw(1 << (bits - 1))
        return (a & top) | (b & ~top)

    return lanewise(i, d, fn)
