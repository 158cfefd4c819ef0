"""Logic, shifts, bit fields: and or xor not cnot lop3 shl shr shf popc clz brev bfe bfi bfind fns szext bmsk prmt."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.operations.arithmetic import binary
from tesseracc.emulator.ptx import Imm, Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import TYPES, Array, where
from tesseracc.emulator.wave import Wave

_LOGIC = "9.7.8 Logic and Shift"
_INT = "9.7.1 Integer Arithmetic"


@instruction("and or xor", _LOGIC, "pred b16 b32 b64")
def logic(i: Instruction, d: Decoder) -> Step:
    """Bitwise and, or, exclusive or."""
    fn = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[i.opcode]
    return binary(i, d, i.mods[-1], fn)


@instruction("not cnot", _LOGIC, "pred b16 b32 b64")
def invert(i: Instruction, d: Decoder) -> Step:
    """Bitwise complement; cnot gives 1 for 0 and 0 otherwise."""
    kind = i.mods[-1]
    put, a = d.sink(i.operands[0], kind), d.source(i.operands[1], kind)
    if i.opcode == "not":
        return lambda w: put(w, ~a(w))
    return lambda w: put(w, (a(w) == 0).astype(TYPES[kind].dtype))


@instruction("lop3", _LOGIC, "b32, .or.pred .and.pred")
def lop3(i: Instruction, d: Decoder) -> Step:
    """Any function of three bits: bit (4a + 2b + c) of the immediate."""
    table = i.operands[4]
    if not isinstance(table, Imm) or not isinstance(table.value, int):
        raise ValueError("the lookup table must be an immediate")
    lut = table.value
    put = d.sink(i.operands[0], "b32")
    a, b, c = (d.source(o, "b32") for o in i.operands[1:4])

    def run(w: Wave) -> None:
        x, y, z = a(w), b(w), c(w)
        r = np.uint32(0)
        for k in range(8):
            if lut >> k & 1:
                r = r | ((x if k & 4 else ~x) & (y if k & 2 else ~y) & (z if k & 1 else ~z))
        put(w, r)

    return run


def shift_left(x: Array, amount: Array, bits: int) -> Array:
    """Shifts of the width or more give 0."""
    t = x.dtype.type
    safe = np.minimum(amount, np.uint32(bits - 1)).astype(t)
    return where(amount >= bits, t(0), x << safe)[()]


def shift_right(x: Array, amount: Array, bits: int) -> Array:
    """Logical, or arithmetic for signed types; shifts of the width or more fill with zeros or the sign."""
    t = x.dtype.type
    safe = np.minimum(amount, np.uint32(bits - 1)).astype(t)
    if np.issubdtype(x.dtype, np.signedinteger):
        return x >> safe
    return where(amount >= bits, t(0), x >> safe)[()]


@instruction("shl shr", _LOGIC, "b16 b32 b64; shr also u and s")
def shift(i: Instruction, d: Decoder) -> Step:
    """Shift by an unsigned 32-bit amount, clamped at the width."""
    kind = i.mods[-1]
    bits = TYPES[kind].bits
    put, a, b = d.sink(i.operands[0], kind), d.source(i.operands[1], kind), d.source(i.operands[2], "u32")
    fn = shift_left if i.opcode == "shl" else shift_right
    return lambda w: put(w, fn(a(w), b(w), bits))


@instruction("shf", _LOGIC, ".l .r .clamp .wrap, b32")
def funnel(i: Instruction, d: Decoder) -> Step:
    """Funnel shift of [b:a] (b is the high half); .l keeps the high word, .r the low word."""
    put = d.sink(i.operands[0], "b32")
    a, b, c = (d.source(o, "u32") for o in i.operands[1:4])
    clamp, left = "clamp" in i.mods, "l" in i.mods

    def run(w: Wave) -> None:
        pair = b(w).astype(np.uint64) << np.uint64(32) | a(w).astype(np.uint64)
        n = c(w)
        n = (np.minimum(n, np.uint32(32)) if clamp else n & np.uint32(31)).astype(np.uint64)
        put(w, (pair >> (np.uint64(32) - n) if left else pair >> n).astype(np.uint32))

    return run


@instruction("popc clz", _INT, "b32 b64")
def count(i: Instruction, d: Decoder) -> Step:
    """Number of ones; number of leading zeros."""
    kind = i.mods[-1]
    bits = TYPES[kind].bits
    put, a = d.sink(i.operands[0], "u32"), d.source(i.operands[1], kind)
    if i.opcode == "popc":
        return lambda w: put(w, np.bitwise_count(a(w)).astype(np.uint32))
    return lambda w: put(w, (bits - 1 - highest_bit(a(w), bits)).astype(np.uint32))


def highest_bit(x: Array, bits: int) -> Array:
    """Position of the most significant one, -1 for zero (int64)."""
    for k in (1, 2, 4, 8, 16, 32):
        if k < bits:
            x = x | x >> x.dtype.type(k)
    return np.bitwise_count(x).astype(np.int64) - 1


def reverse_bits(x: Array, bits: int) -> Array:
    """The bits in opposite order."""
    t = x.dtype.type
    for k, mask in ((1, 0x5555555555555555), (2, 0x3333333333333333), (4, 0x0F0F0F0F0F0F0F0F),
                    (8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF)):  # fmt: skip
        if k < bits:
            m = t(mask & ((1 << bits) - 1))
            x = (x >> t(k) & m) | (x & m) << t(k)
    return x


@instruction("brev", _INT, "b32 b64")
def brev(i: Instruction, d: Decoder) -> Step:
    """Bit reversal."""
    kind = i.mods[-1]
    put, a = d.sink(i.operands[0], kind), d.source(i.operands[1], kind)
    return lambda w: put(w, reverse_bits(a(w), TYPES[kind].bits))


@instruction("bfind", _INT, "u32 s32 u64 s64, .shiftamt")
def bfind(i: Instruction, d: Decoder) -> Step:
    """Position of the most significant non-sign bit, all ones if there is none; .shiftamt: the left shift for it."""
    kind = i.mods[-1]
    t = TYPES[kind]
    put, a = d.sink(i.operands[0], "u32"), d.source(i.operands[1], kind)

    def run(w: Wave) -> None:
        x = a(w)
        if t.kind == "s":
            x = where(x < 0, ~x, x)[()]
        found = highest_bit(x.view(t.container), t.bits)
        if "shiftamt" in i.mods:
            found = where(found >= 0, t.bits - 1 - found, -1)
        put(w, found.astype(np.int32).view(np.uint32))

    return run


@instruction("bfe", _INT, "u32 s32 u64 s64")
def bfe(i: Instruction, d: Decoder) -> Step:
    """The field of `len` bits from `pos`, zero or sign extended; beyond the top the sign (or zero) fills."""
    kind = i.mods[-1]
    t = TYPES[kind]
    raw = t.container
    put, a = d.sink(i.operands[0], kind), d.source(i.operands[1], f"b{t.bits}")
    pos, length = d.source(i.operands[2], "u32"), d.source(i.operands[3], "u32")

    def run(w: Wave) -> None:
        x, p, n = a(w), pos(w) & np.uint32(0xFF), length(w) & np.uint32(0xFF)
        field = shift_right(x, p, t.bits) & ~shift_left(np.full_like(x, ~raw(0)), n, t.bits)
        if t.kind == "s":
            at = np.minimum(p.astype(np.int64) + n - 1, t.bits - 1)
            sign = where(n == 0, 0, x.astype(np.uint64) >> np.maximum(at, 0).astype(np.uint64) & np.uint64(1))
            # Bits of the field beyond the top of x, and all bits above the field, take the sign.
            have = np.minimum(n.astype(np.int64), np.maximum(t.bits - p.astype(np.int64), 0)).astype(np.uint32)
            fill = shift_left(np.full_like(x, ~raw(0)), have, t.bits)
            field = where(sign != 0, field | fill, field)
        put(w, field[()].view(t.dtype))

    return run


@instruction("bfi", _INT, "b32 b64")
def bfi(i: Instruction, d: Decoder) -> Step:
    """b with the low `len` bits of a inserted at `pos`."""
    kind = i.mods[-1]
    t = TYPES[kind]
    put, a, b = d.sink(i.operands[0], kind), d.source(i.operands[1], kind), d.source(i.operands[2], kind)
    pos, length = d.source(i.operands[3], "u32"), d.source(i.operands[4], "u32")

    def run(w: Wave) -> None:
        x, y, p, n = a(w), b(w), pos(w) & np.uint32(0xFF), length(w) & np.uint32(0xFF)
        ones = np.full_like(x, ~t.container(0))
        mask = shift_left(~shift_left(ones, n, t.bits), p, t.bits)
        put(w, (y & ~mask) | (shift_left(x, p, t.bits) & mask))

    return run


@instruction("fns", _INT, "b32")
def fns(i: Instruction, d: Decoder) -> Step:
    """The position of the n-th set bit of mask from `base` upward (n > 0) or downward (n < 0); all ones if none."""
    put = d.sink(i.operands[0], "b32")
    mask, base, offset = d.source(i.operands[1], "b32"), d.source(i.operands[2], "u32"), d.source(i.operands[3], "s32")

    def find(m: int, b: int, n: int) -> int:
        if n == 0:
            return b if m >> b & 1 else 0xFFFFFFFF
        at, left = b, abs(n)
        while 0 <= at < 32:
            left -= m >> at & 1
            if left == 0:
                return at
            at += 1 if n > 0 else -1
        return 0xFFFFFFFF

    def run(w: Wave) -> None:
        m, b, n = (w.spread(s(w)) for s in (mask, base, offset))
        put(w, np.array([find(int(x), int(y), int(z)) for x, y, z in zip(m, b, n)], np.uint32))

    return run


@instruction("szext", _INT, ".clamp .wrap, u32 s32")
def szext(i: Instruction, d: Decoder) -> Step:
    """The low n bits of a, zero or sign extended."""
    kind = i.mods[-1]
    put, a, b = d.sink(i.operands[0], kind), d.source(i.operands[1], kind), d.source(i.operands[2], "u32")

    def run(w: Wave) -> None:
        n = b(w)
        n = np.minimum(n, np.uint32(32)) if "clamp" in i.mods else n & np.uint32(31)
        gap = np.uint32(32) - n
        shifted = shift_left(a(w).view(np.uint32), gap, 32).view(TYPES[kind].dtype)
        put(w, where(n == 0, TYPES[kind].dtype(0), shift_right(shifted, gap, 32))[()])

    return run


@instruction("bmsk", _INT, ".clamp .wrap, b32")
def bmsk(i: Instruction, d: Decoder) -> Step:
    """A mask of b ones from bit a."""
    put, a, b = d.sink(i.operands[0], "b32"), d.source(i.operands[1], "u32"), d.source(i.operands[2], "u32")

    def run(w: Wave) -> None:
        p, n = a(w), b(w)
        if "wrap" in i.mods:
            p, n = p & np.uint32(31), n & np.uint32(31)
        ones = ~shift_left(np.full_like(n, 0xFFFFFFFF), n, 32)
        put(w, shift_left(ones, p, 32))

    return run


@instruction(
    "prmt", _LOGIC.replace("9.7.8 Logic and Shift", "9.7.9 Data Movement: prmt"), "b32, .f4e .b4e .rc8 .ecl .ecr .rc16"
)
def prmt(i: Instruction, d: Decoder) -> Step:
    """Four bytes picked from the eight of {b, a}; bit 3 of a selector replicates the byte's sign."""
    put = d.sink(i.operands[0], "b32")
    a, b, c = (d.source(o, "b32") for o in i.operands[1:4])
    mode = next((m for m in i.mods if m in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")), None)

    def selector(c0: Array, k: int) -> Array:
        if mode is None:
            return c0 >> np.uint32(4 * k) & np.uint32(15)
        n = c0.astype(np.int64) & 3
        pick = {"f4e": n + k, "b4e": (n - k) & 7, "rc8": n, "ecl": np.maximum(n, k), "ecr": np.minimum(n, k),
                "rc16": (n & 1) * 2 + (k & 1)}[mode]  # fmt: skip
        return pick.astype(np.uint32)

    def run(w: Wave) -> None:
        pair = b(w).astype(np.uint64) << np.uint64(32) | a(w).astype(np.uint64)
        c0 = c(w)
        r = np.uint32(0)
        for k in range(4):
            s = selector(c0, k)
            byte = (pair >> ((s & np.uint32(7)).astype(np.uint64) * np.uint64(8)) & np.uint64(0xFF)).astype(np.uint32)
            byte = where(s & np.uint32(8), where(byte & np.uint32(0x80), np.uint32(0xFF), np.uint32(0)), byte)
            r = r | byte << np.uint32(8 * k)
        put(w, r)

    return run
