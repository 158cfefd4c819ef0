"""Integer arithmetic: add sub mul mad div rem abs neg min max sad, carries, 24-bit forms, dot products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.operations import floating as fl
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import TYPES, Array, where
from tesseracc.emulator.wave import Wave

_INT = "9.7.1 Integer Arithmetic"
_CARRY = "9.7.2 Extended-Precision Integer Arithmetic"


def _type(i: Instruction) -> str:
    return i.mods[-1]


def halves(x: Array, dtype: object = np.uint16) -> tuple[Array, Array]:
    """The low and high 16 bits of packed 32-bit values."""
    return (x & np.uint32(0xFFFF)).astype(np.uint16).view(dtype), (x >> np.uint32(16)).astype(np.uint16).view(dtype)


def join_halves(low: Array, high: Array) -> Array:
    """Two 16-bit values packed."""
    return low.view(np.uint16).astype(np.uint32) | high.view(np.uint16).astype(np.uint32) << np.uint32(16)


def binary(i: Instruction, d: Decoder, kind: str, fn: Callable[[Array, Array], Array]) -> Step:
    """`op d, a, b` lane by lane; packed s16x2 and u16x2 half by half."""
    put = d.sink(i.operands[0], kind)
    a, b = d.source(i.operands[1], kind), d.source(i.operands[2], kind)
    if kind in ("s16x2", "u16x2"):
        part = np.int16 if kind[0] == "s" else np.uint16

        def packed(w: Wave) -> None:
            (al, ah), (bl, bh) = halves(a(w), part), halves(b(w), part)
            put(w, join_halves(fn(al, bl), fn(ah, bh)))

        return packed
    return lambda w: put(w, fn(a(w), b(w)))


def _saturate(kind: str, value: Array) -> Array:
    info = np.iinfo(TYPES[kind].dtype)
    return np.clip(value, info.min, info.max).astype(TYPES[kind].dtype)


@instruction("add", _INT + ", Floating Point: add", "u16 s16 u32 s32 u64 s64 u16x2 s16x2, .sat.s32; floats")
def add(i: Instruction, d: Decoder) -> Step:
    """d = a + b, wrapping; .sat.s32 clamps."""
    if fl.is_float(_type(i)):
        return fl.add_step(i, d, negate=False)
    if "sat" in i.mods:
        return binary(i, d, "s32", lambda a, b: _saturate("s32", a.astype(np.int64) + b.astype(np.int64)))
    if "cc" in i.mods:
        return _with_carry(i, d, carry_in=False, subtract=False)
    return binary(i, d, _type(i), lambda a, b: a + b)


@instruction("sub", _INT + ", Floating Point: sub", "as add")
def sub(i: Instruction, d: Decoder) -> Step:
    """d = a - b, wrapping; .sat.s32 clamps."""
    if fl.is_float(_type(i)):
        return fl.add_step(i, d, negate=True)
    if "sat" in i.mods:
        return binary(i, d, "s32", lambda a, b: _saturate("s32", a.astype(np.int64) - b.astype(np.int64)))
    if "cc" in i.mods:
        return _with_carry(i, d, carry_in=False, subtract=True)
    return binary(i, d, _type(i), lambda a, b: a - b)


@instruction("addc", _CARRY, "u32 s32 u64 s64, .cc")
def addc(i: Instruction, d: Decoder) -> Step:
    """d = a + b + CC.CF; .cc writes the carry out."""
    return _with_carry(i, d, carry_in=True, subtract=False)


@instruction("subc", _CARRY, "u32 s32 u64 s64, .cc")
def subc(i: Instruction, d: Decoder) -> Step:
    """d = a - b - (1 - CC.CF): CC.CF is the carry of a + ~b + 1, that is, no borrow."""
    return _with_carry(i, d, carry_in=True, subtract=True)


def _with_carry(i: Instruction, d: Decoder, carry_in: bool, subtract: bool) -> Step:
    kind = f"u{TYPES[_type(i)].bits}"
    put = d.sink(i.operands[0], kind)
    a, b = d.source(i.operands[1], kind), d.source(i.operands[2], kind)
    one = TYPES[kind].dtype

    def run(w: Wave) -> None:
        x, y = a(w), b(w)
        if subtract:  # a + ~b + 1: the flag is the carry of that sum, which is what a following addc adds
            c = (~w.get_carry()).astype(one) if carry_in else one(0)
            r = x - y - c
            out = ~((x < y) | ((x == y) & (c != 0)))
        else:
            c = w.get_carry().astype(one) if carry_in else one(0)
            r = x + y + c
            out = (r < x) | ((r == x) & (c != 0) & (y != 0))
        if "cc" in i.mods:
            w.set_carry(out)
        put(w, r)

    return run


def high_product(a: Array, b: Array, bits: int, signed: bool) -> Array:
    """The upper half of the 2n-bit product."""
    if bits < 64:
        wide = np.int64 if signed else np.uint64
        return (a.astype(wide) * b.astype(wide) >> wide(bits)).astype(a.dtype)
    x, y = a.view(np.uint64), b.view(np.uint64)
    low, s = np.uint64(0xFFFFFFFF), np.uint64(32)
    xl, xh, yl, yh = x & low, x >> s, y & low, y >> s
    middle = xh * yl + (xl * yl >> s)
    other = xl * yh + (middle & low)
    high = xh * yh + (middle >> s) + (other >> s)
    if signed:
        zero = np.uint64(0)
        high = high - where(a < 0, y, zero) - where(b < 0, x, zero)
    return high.view(a.dtype)


def _product(mods: tuple[str, ...], kind: str) -> tuple[str, Callable[[Array, Array], Array]]:
    """Result type and product of mul/mad in the form lo, hi or wide."""
    t = TYPES[kind]
    if "wide" in mods:
        wide = f"{t.kind}{t.bits * 2}"
        target = TYPES[wide].dtype
        return wide, lambda a, b: a.astype(target) * b.astype(target)
    if "hi" in mods:
        return kind, lambda a, b: high_product(a, b, t.bits, t.kind == "s")
    return kind, lambda a, b: a * b


@instruction("mul", _INT + ", Floating Point: mul", "u16..s64 .lo .hi .wide; floats")
def mul(i: Instruction, d: Decoder) -> Step:
    """d = a * b: low half, high half, or the full product in twice the width."""
    kind = _type(i)
    if fl.is_float(kind):
        return fl.mul_step(i, d)
    result, product = _product(i.mods, kind)
    put = d.sink(i.operands[0], result)
    a, b = d.source(i.operands[1], kind), d.source(i.operands[2], kind)
    return lambda w: put(w, product(a(w), b(w)))


@instruction("mad", _INT + ", Floating Point: mad", "u16..s64 .lo .hi .wide, .hi.sat.s32, .cc; f32 f64 as fma")
def mad(i: Instruction, d: Decoder) -> Step:
    """d = a * b + c with the product in the form of mul."""
    kind = _type(i)
    if fl.is_float(kind):
        return fl.fma_step(i, d)
    if "cc" in i.mods:
        return _mad_carry(i, d, carry_in=False)
    result, product = _product(i.mods, kind)
    put = d.sink(i.operands[0], result)
    a, b, c = d.source(i.operands[1], kind), d.source(i.operands[2], kind), d.source(i.operands[3], result)
    if "sat" in i.mods:
        return lambda w: put(w, _saturate("s32", product(a(w), b(w)).astype(np.int64) + c(w).astype(np.int64)))
    return lambda w: put(w, product(a(w), b(w)) + c(w))


@instruction("madc", _CARRY, "u32 s32 u64 s64 .lo .hi, .cc")
def madc(i: Instruction, d: Decoder) -> Step:
    """d = a * b + c + CC.CF."""
    return _mad_carry(i, d, carry_in=True)


def _mad_carry(i: Instruction, d: Decoder, carry_in: bool) -> Step:
    kind = f"u{TYPES[_type(i)].bits}"
    signed = TYPES[_type(i)].kind == "s"
    view = TYPES[_type(i)].dtype
    put = d.sink(i.operands[0], kind)
    a, b, c = (d.source(o, kind) for o in i.operands[1:4])
    one = TYPES[kind].dtype

    def run(w: Wave) -> None:
        x, y = a(w), b(w)
        p = high_product(x.view(view), y.view(view), TYPES[kind].bits, signed).view(one) if "hi" in i.mods else x * y
        z = c(w)
        carry = w.get_carry().astype(one) if carry_in else one(0)
        r = p + z + carry
        if "cc" in i.mods:
            w.set_carry((r < p) | ((r == p) & (carry != 0) & (z != 0)))
        put(w, r)

    return run


def _sign_extend_24(x: Array, signed: bool) -> Array:
    wide = x.astype(np.int64) & 0xFFFFFF
    return where(wide >> 23 & 1, wide - (1 << 24), wide) if signed else wide


@instruction("mul24 mad24", _INT, "u32 s32 .lo .hi, mad24.hi.sat.s32")
def mul24(i: Instruction, d: Decoder) -> Step:
    """48-bit product of the low 24 bits: .lo bits 31..0, .hi bits 47..16; mad24 adds c."""
    kind = _type(i)
    signed = kind == "s32"
    put = d.sink(i.operands[0], kind)
    parts = [d.source(o, kind) for o in i.operands[1:]]
    dtype = TYPES[kind].dtype

    def run(w: Wave) -> None:
        p = _sign_extend_24(parts[0](w), signed) * _sign_extend_24(parts[1](w), signed)
        if "hi" in i.mods:
            p = p >> 16
        r = p.astype(dtype)
        if i.opcode == "mad24":
            c = parts[2](w)
            r = _saturate("s32", r.astype(np.int64) + c.astype(np.int64)) if "sat" in i.mods else r + c
        put(w, r)

    return run


def divide(a: Array, b: Array) -> Array:
    """Quotient truncated toward zero; all ones where b is 0 (the value that hardware gives; PTX leaves it open)."""
    zero = b == 0
    safe = where(zero, b.dtype.type(1), b)
    q = a // safe
    if np.issubdtype(a.dtype, np.signedinteger):
        q = q + ((a % safe != 0) & ((a < 0) != (safe < 0))).astype(a.dtype)
        return where(zero, a.dtype.type(-1), q)[()]
    return where(zero, ~a.dtype.type(0), q)[()]


@instruction("div", _INT + ", Floating Point: div", "u16 s16 u32 s32 u64 s64; f32 f64")
def div(i: Instruction, d: Decoder) -> Step:
    """Integer quotient truncated toward zero, or the floating-point quotient."""
    if fl.is_float(_type(i)):
        return fl.div_step(i, d)
    return binary(i, d, _type(i), divide)


@instruction("rem", _INT, "u16 s16 u32 s32 u64 s64")
def rem(i: Instruction, d: Decoder) -> Step:
    """a - b * (a / b): the sign of a; a itself where b is 0."""

    def remainder(a: Array, b: Array) -> Array:
        return where(b == 0, a, a - b * divide(a, b))[()]

    return binary(i, d, _type(i), remainder)


@instruction("abs", _INT + ", Floating Point: abs", "s16 s32 s64; floats")
def abs_(i: Instruction, d: Decoder) -> Step:
    """|a|; the most negative integer stays."""
    if fl.is_float(_type(i)):
        return fl.sign_step(i, d, "abs")
    put, a = d.sink(i.operands[0], _type(i)), d.source(i.operands[1], _type(i))
    return lambda w: put(w, np.abs(a(w)))


@instruction("neg", _INT + ", Floating Point: neg", "s16 s32 s64; floats")
def neg(i: Instruction, d: Decoder) -> Step:
    """-a."""
    if fl.is_float(_type(i)):
        return fl.sign_step(i, d, "neg")
    put, a = d.sink(i.operands[0], _type(i)), d.source(i.operands[1], _type(i))
    return lambda w: put(w, -a(w))


@instruction("min max", _INT + ", Floating Point: min max", "u16..s64, u16x2 s16x2, .relu; floats")
def min_max(i: Instruction, d: Decoder) -> Step:
    """The smaller (larger) of a and b; .relu clamps below at 0."""
    kind = _type(i)
    if fl.is_float(kind):
        return fl.min_max_step(i, d)
    pick = np.minimum if i.opcode == "min" else np.maximum
    if "relu" in i.mods:
        return binary(i, d, kind, lambda a, b: np.maximum(pick(a, b), a.dtype.type(0)))
    return binary(i, d, kind, pick)


@instruction("sad", _INT, "u16..s64")
def sad(i: Instruction, d: Decoder) -> Step:
    """d = c + |a - b|."""
    kind = _type(i)
    put = d.sink(i.operands[0], kind)
    a, b, c = (d.source(o, kind) for o in i.operands[1:4])

    def run(w: Wave) -> None:
        x, y = a(w), b(w)
        put(w, c(w) + where(x < y, y - x, x - y)[()])

    return run


@instruction("dp4a dp2a", _INT, ".atype.btype of u32 s32")
def dot(i: Instruction, d: Decoder) -> Step:
    """c + the dot product of four bytes with four bytes, or of two halves of a with two bytes of b (.lo or .hi)."""
    ta, tb = i.mods[-2], i.mods[-1]
    result = "u32" if (ta, tb) == ("u32", "u32") else "s32"
    put = d.sink(i.operands[0], result)
    a, b, c = d.source(i.operands[1], "b32"), d.source(i.operands[2], "b32"), d.source(i.operands[3], result)

    def element(x: Array, k: int, bits: int, kind: str) -> Array:
        part = (x >> np.uint32(k * bits) & np.uint32((1 << bits) - 1)).astype(np.int64)
        return where(part >> (bits - 1) & 1, part - (1 << bits), part) if kind == "s32" else part

    def run(w: Wave) -> None:
        x, y = a(w), b(w)
        total = c(w).astype(np.int64)
        for k in range(4 if i.opcode == "dp4a" else 2):
            at = k if i.opcode == "dp4a" else k + (2 if "hi" in i.mods else 0)
            total = total + element(x, k, 8 if i.opcode == "dp4a" else 16, ta) * element(y, at, 8, tb)
        put(w, total.astype(TYPES[result].dtype))

    return run
