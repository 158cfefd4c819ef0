"""Integer instructions against Python's unbounded integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.emulator.harness import lanewise, same_bits

TYPES: dict[str, Any] = {
    "u16": np.uint16, "s16": np.int16, "u32": np.uint32, "s32": np.int32, "u64": np.uint64, "s64": np.int64,
}  # fmt: skip
WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def values(kind: str, seed: int, n: int = 150) -> Any:
    """Random values with the corners of the type among them."""
    dtype = TYPES[kind]
    info = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    out = rng.integers(info.min, info.max, n, dtype=dtype, endpoint=True)
    corners = [0, 1, 2, info.max, info.max - 1, info.min, 7, 31, 255]
    places = rng.permutation(n)[: 4 * len(corners)]
    out[places] = np.array(corners * 4).astype(np.int64, copy=False).astype(dtype) if info.max < 2**63 else np.array(
        [np.uint64(c) for c in corners] * 4, np.uint64)  # fmt: skip
    return out


def wrap(x: int, kind: str) -> int:
    bits = int(kind[1:])
    x &= (1 << bits) - 1
    return x - (1 << bits) if kind[0] == "s" and x >> (bits - 1) else x


def python(kind: str, fn: Callable[..., int], *arrays: Any) -> Any:
    return np.array([wrap(fn(*(int(v) for v in row)), kind) for row in zip(*arrays)], TYPES[kind])


def trunc_div(a: int, b: int) -> int:
    if b == 0:
        return -1
    q = abs(a) // abs(b)
    return q if (a < 0) == (b < 0) else -q


def trunc_rem(a: int, b: int) -> int:
    return a if b == 0 else a - b * trunc_div(a, b)


BINARY: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul.lo": lambda a, b: a * b, "div": trunc_div,
    "rem": trunc_rem, "min": min, "max": max,
}  # fmt: skip


@pytest.mark.parametrize("kind", list(TYPES))
@pytest.mark.parametrize("op", list(BINARY))
def test_binary(op: str, kind: str) -> None:
    a, b = values(kind, 1), values(kind, 2)
    same_bits(lanewise(f"{op}.{kind} %d, %0, %1;", a, b, out=TYPES[kind]), python(kind, BINARY[op], a, b))


@pytest.mark.parametrize("kind", list(TYPES))
def test_mul_hi_mad_sad(kind: str) -> None:
    a, b, c = values(kind, 3), values(kind, 4), values(kind, 5)
    bits = int(kind[1:])
    same_bits(lanewise(f"mul.hi.{kind} %d, %0, %1;", a, b, out=TYPES[kind]),
              python(kind, lambda x, y: (x * y) >> bits, a, b))  # fmt: skip
    same_bits(lanewise(f"mad.lo.{kind} %d, %0, %1, %2;", a, b, c, out=TYPES[kind]),
              python(kind, lambda x, y, z: x * y + z, a, b, c))  # fmt: skip
    same_bits(lanewise(f"sad.{kind} %d, %0, %1, %2;", a, b, c, out=TYPES[kind]),
              python(kind, lambda x, y, z: z + abs(x - y), a, b, c))  # fmt: skip


@pytest.mark.parametrize("kind", list(WIDE))
def test_wide(kind: str) -> None:
    a, b, c = values(kind, 6), values(kind, 7), values(WIDE[kind], 8)
    out = TYPES[WIDE[kind]]
    same_bits(lanewise(f"mul.wide.{kind} %d, %0, %1;", a, b, out=out), python(WIDE[kind], lambda x, y: x * y, a, b))
    same_bits(lanewise(f"mad.wide.{kind} %d, %0, %1, %2;", a, b, c, out=out),
              python(WIDE[kind], lambda x, y, z: x * y + z, a, b, c))  # fmt: skip


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_sign(kind: str) -> None:
    a = values(kind, 9)
    same_bits(lanewise(f"abs.{kind} %d, %0;", a, out=TYPES[kind]), python(kind, abs, a))
    same_bits(lanewise(f"neg.{kind} %d, %0;", a, out=TYPES[kind]), python(kind, lambda x: -x, a))


def test_saturating() -> None:
    a, b, c = values("s32", 10), values("s32", 11), values("s32", 12)
    clamp = lambda x: max(-(2**31), min(2**31 - 1, x))  # noqa: E731
    same_bits(lanewise("add.sat.s32 %d, %0, %1;", a, b, out=np.int32), python("s32", lambda x, y: clamp(x + y), a, b))
    same_bits(lanewise("sub.sat.s32 %d, %0, %1;", a, b, out=np.int32), python("s32", lambda x, y: clamp(x - y), a, b))
    same_bits(lanewise("mad.hi.sat.s32 %d, %0, %1, %2;", a, b, c, out=np.int32),
              python("s32", lambda x, y, z: clamp((x * y >> 32) + z), a, b, c))  # fmt: skip


def test_24_bit() -> None:
    a, b, c = values("u32", 13), values("u32", 14), values("u32", 15)
    low = lambda x: x & 0xFFFFFF  # noqa: E731
    signed = lambda x: (low(x) ^ 0x800000) - 0x800000  # noqa: E731
    same_bits(lanewise("mul24.lo.u32 %d, %0, %1;", a, b), python("u32", lambda x, y: low(x) * low(y), a, b))
    same_bits(lanewise("mul24.hi.u32 %d, %0, %1;", a, b), python("u32", lambda x, y: low(x) * low(y) >> 16, a, b))
    same_bits(lanewise("mad24.lo.s32 %d, %0, %1, %2;", a, b, c),
              python("u32", lambda x, y, z: signed(x) * signed(y) + z, a, b, c))  # fmt: skip


@pytest.mark.parametrize("bits", [32, 64])
def test_carry_chain(bits: int) -> None:
    kind = f"u{bits}"
    a, b, c, d = (values(kind, s) for s in (16, 17, 18, 19))
    for op, sign in (("add", 1), ("sub", -1)):
        text = f"{op}.cc.{kind} %d0, %0, %2; {op}c.{kind} %d1, %1, %3;"
        low, high = lanewise(text, a, b, c, d, out=TYPES[kind], outs=2)
        for k in range(len(a)):
            whole = (int(a[k]) + (int(b[k]) << bits)) + sign * (int(c[k]) + (int(d[k]) << bits))
            assert int(low[k]) == whole & (1 << bits) - 1
            assert int(high[k]) == whole >> bits & (1 << bits) - 1


def test_the_flag_of_a_subtraction_is_a_carry() -> None:
    """What addc adds after sub.cc and subc.cc: 1 where nothing was borrowed. __int128 division of nvcc lives by it."""
    a, b, c, d = (values("u32", s) for s in (24, 25, 26, 27))
    got = lanewise("sub.cc.u32 %d, %0, %2; subc.cc.u32 %d, %1, %3; addc.u32 %d, 0, 0;", a, b, c, d)
    left, right = (x.astype(np.uint64) | y.astype(np.uint64) << np.uint64(32) for x, y in ((a, b), (c, d)))
    same_bits(got, (left >= right).astype(np.uint32))


def test_mad_carry() -> None:
    a, b, c, d = (values("u32", s) for s in (20, 21, 22, 23))
    text = "mad.lo.cc.u32 %d0, %0, %1, %2; madc.hi.u32 %d1, %0, %1, %3;"
    low, high = lanewise(text, a, b, c, d, outs=2)
    for k in range(len(a)):
        whole = int(a[k]) * int(b[k]) + int(c[k]) + (int(d[k]) << 32)
        assert (int(low[k]), int(high[k])) == (whole & 0xFFFFFFFF, whole >> 32 & 0xFFFFFFFF)


@pytest.mark.parametrize("ta", ["u32", "s32"])
@pytest.mark.parametrize("tb", ["u32", "s32"])
def test_dot_products(ta: str, tb: str) -> None:
    a, b, c = values("u32", 24), values("u32", 25), values("s32", 26)

    def part(x: int, k: int, bits: int, kind: str) -> int:
        return wrap(x >> (k * bits), f"{kind[0]}{bits}")

    def four(x: int, y: int, z: int) -> int:
        return z + sum(part(x, k, 8, ta) * part(y, k, 8, tb) for k in range(4))

    def two(x: int, y: int, z: int) -> int:
        return z + sum(part(x, k, 16, ta) * part(y, k + 2, 8, tb) for k in range(2))

    same_bits(lanewise(f"dp4a.{ta}.{tb} %d, %0, %1, %2;", a, b, c, out=np.int32), python("s32", four, a, b, c))
    same_bits(lanewise(f"dp2a.hi.{ta}.{tb} %d, %0, %1, %2;", a, b, c, out=np.int32), python("s32", two, a, b, c))


def test_packed_halves() -> None:
    a, b = values("u32", 27), values("u32", 28)

    def halves(fn: Callable[[int, int], int], kind: str) -> Callable[[int, int], int]:
        return lambda x, y: sum((fn(wrap(x >> s, kind), wrap(y >> s, kind)) & 0xFFFF) << s for s in (0, 16))

    same_bits(lanewise("add.u16x2 %d, %0, %1;", a, b), python("u32", halves(lambda x, y: x + y, "u16"), a, b))
    same_bits(lanewise("max.s16x2 %d, %0, %1;", a, b), python("u32", halves(max, "s16"), a, b))
    same_bits(lanewise("min.relu.s16x2 %d, %0, %1;", a, b),
              python("u32", halves(lambda x, y: max(0, min(x, y)), "s16"), a, b))  # fmt: skip


# --- bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["u16", "u32", "u64"])
def test_logic(kind: str) -> None:
    a, b = values(kind, 30), values(kind, 31)
    bits = kind.replace("u", "b")
    out = TYPES[kind]
    same_bits(lanewise(f"and.{bits} %d, %0, %1;", a, b, out=out), a & b)
    same_bits(lanewise(f"or.{bits} %d, %0, %1;", a, b, out=out), a | b)
    same_bits(lanewise(f"xor.{bits} %d, %0, %1;", a, b, out=out), a ^ b)
    same_bits(lanewise(f"not.{bits} %d, %0;", a, out=out), ~a)
    same_bits(lanewise(f"cnot.{bits} %d, %0;", a, out=out), (a == 0).astype(out))


@pytest.mark.parametrize("table", [0x00, 0xE8, 0x96, 0xCA, 0xFF, 0x1B])
def test_lop3(table: int) -> None:
    a, b, c = values("u32", 32), values("u32", 33), values("u32", 34)

    def look_up(x: int, y: int, z: int) -> int:
        return sum((table >> ((x >> k & 1) * 4 + (y >> k & 1) * 2 + (z >> k & 1)) & 1) << k for k in range(32))

    same_bits(lanewise(f"lop3.b32 %d, %0, %1, %2, {table};", a, b, c), python("u32", look_up, a, b, c))


@pytest.mark.parametrize("kind", list(TYPES))
def test_shifts(kind: str) -> None:
    a = values(kind, 35)
    n = np.random.default_rng(36).integers(0, 80, len(a)).astype(np.uint32)
    n[:3] = 0, 0xFFFFFFFF, int(kind[1:])
    same_bits(lanewise(f"shl.b{kind[1:]} %d, %0, %1;", a, n, out=TYPES[kind]),
              python(kind, lambda x, s: x << min(s, 200), a, n))  # fmt: skip
    same_bits(lanewise(f"shr.{kind} %d, %0, %1;", a, n, out=TYPES[kind]),
              python(kind, lambda x, s: x >> min(s, 200), a, n))  # fmt: skip


@pytest.mark.parametrize("side", ["l", "r"])
@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_funnel_shift(side: str, mode: str) -> None:
    a, b = values("u32", 37), values("u32", 38)
    n = np.random.default_rng(39).integers(0, 70, len(a)).astype(np.uint32)

    def shift(x: int, y: int, s: int) -> int:
        s = min(s, 32) if mode == "clamp" else s & 31
        pair = y << 32 | x
        return (pair << s) >> 32 if side == "l" else pair >> s

    same_bits(lanewise(f"shf.{side}.{mode}.b32 %d, %0, %1, %2;", a, b, n), python("u32", shift, a, b, n))


@pytest.mark.parametrize("bits", [32, 64])
def test_counting(bits: int) -> None:
    kind = f"u{bits}"
    a = values(kind, 40)
    same_bits(lanewise(f"popc.b{bits} %d, %0;", a), python("u32", lambda x: x.bit_count(), a))
    same_bits(lanewise(f"clz.b{bits} %d, %0;", a), python("u32", lambda x: bits - x.bit_length(), a))
    same_bits(lanewise(f"brev.b{bits} %d, %0;", a, out=TYPES[kind]),
              python(kind, lambda x: int(f"{x:0{bits}b}"[::-1], 2), a))  # fmt: skip
    same_bits(lanewise(f"bfind.u{bits} %d, %0;", a), python("u32", lambda x: x.bit_length() - 1, a))
    same_bits(lanewise(f"bfind.shiftamt.u{bits} %d, %0;", a),
              python("u32", lambda x: bits - x.bit_length() if x else -1, a))  # fmt: skip
    s = values(f"s{bits}", 41)
    same_bits(lanewise(f"bfind.s{bits} %d, %0;", s),
              python("u32", lambda x: (~x if x < 0 else x).bit_length() - 1, s))  # fmt: skip


def bfe_reference(x: int, pos: int, length: int, kind: str) -> int:
    """The loop of the PTX ISA's semantics section."""
    bits = int(kind[1:])
    pos, length = pos & 0xFF, length & 0xFF
    bit = lambda k: x >> k & 1  # noqa: E731
    sign = 0 if kind[0] == "u" or length == 0 else bit(min(pos + length - 1, bits - 1))
    out = 0
    for k in range(bits):
        out |= (bit(pos + k) if k < length and pos + k < bits else sign) << k
    return out


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_bit_fields(kind: str) -> None:
    bits = int(kind[1:])
    unsigned = f"u{bits}"
    a, b = values(unsigned, 42), values(unsigned, 43)
    rng = np.random.default_rng(44)
    pos, length = (rng.integers(0, bits + 6, len(a)).astype(np.uint32) for _ in range(2))
    length[:5] = 0
    length[5:9] = 255
    same_bits(lanewise(f"bfe.{kind} %d, %0, %1, %2;", a, pos, length, out=TYPES[unsigned]),
              python(unsigned, lambda x, p, n: bfe_reference(x, p, n, kind), a, pos, length))  # fmt: skip
    if kind[0] == "u":

        def insert(x: int, y: int, p: int, n: int) -> int:
            for k in range(n):
                if p + k < bits:
                    y = y & ~(1 << (p + k)) | (x >> k & 1) << (p + k)
            return y

        same_bits(lanewise(f"bfi.b{bits} %d, %0, %1, %2, %3;", a, b, pos, length, out=TYPES[unsigned]),
                  python(unsigned, insert, a, b, pos, length))  # fmt: skip


def test_fns_szext_bmsk() -> None:
    a = values("u32", 45)
    rng = np.random.default_rng(46)
    base = rng.integers(0, 32, len(a)).astype(np.uint32)
    nth = rng.integers(-5, 6, len(a)).astype(np.int32)

    def find(m: int, b: int, n: int) -> int:
        if n == 0:
            return b if m >> b & 1 else -1
        order = range(b, 32) if n > 0 else range(b, -1, -1)
        hits = [k for k in order if m >> k & 1]
        return hits[abs(n) - 1] if len(hits) >= abs(n) else -1

    same_bits(lanewise("fns.b32 %d, %0, %1, %2;", a, base, nth), python("u32", find, a, base, nth))
    n = rng.integers(0, 40, len(a)).astype(np.uint32)
    same_bits(lanewise("szext.clamp.s32 %d, %0, %1;", a, n),
              python("u32", lambda x, s: wrap(x, f"s{min(s, 32)}") if s else 0, a, n))  # fmt: skip
    same_bits(lanewise("bmsk.clamp.b32 %d, %0, %1;", base, n),
              python("u32", lambda p, s: ((1 << min(s, 32)) - 1) << p, base, n))  # fmt: skip


@pytest.mark.parametrize("mode", ["", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"])
def test_prmt(mode: str) -> None:
    a, b, c = values("u32", 47), values("u32", 48), values("u32", 49)
    # Selectors of the special modes, from the table of the PTX ISA: rows are c & 3, most significant byte first.
    table = {
        "f4e": ["3210", "4321", "5432", "6543"], "b4e": ["5670", "6701", "7012", "0123"],
        "rc8": ["0000", "1111", "2222", "3333"], "ecl": ["3210", "3211", "3222", "3333"],
        "ecr": ["0000", "1110", "2210", "3210"], "rc16": ["1010", "3232", "1010", "3232"],
    }  # fmt: skip

    def permute(x: int, y: int, z: int) -> int:
        pool = (y << 32 | x).to_bytes(8, "little")
        out = []
        for k in range(4):
            s = int(table[mode][z & 3][3 - k]) if mode else z >> 4 * k & 15
            byte = pool[s & 7]
            out.append((255 if byte >> 7 else 0) if s & 8 else byte)
        return int.from_bytes(bytes(out), "little")

    suffix = f".{mode}" if mode else ""
    same_bits(lanewise(f"prmt.b32{suffix} %d, %0, %1, %2;", a, b, c), python("u32", permute, a, b, c))
