"""SIMD video instructions against Python's integers, element by element."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.emulator.harness import lanewise, same_bits

OPS: dict[str, Callable[[int, int], int]] = {
    "vadd": lambda a, b: a + b, "vsub": lambda a, b: a - b, "vmin": min, "vmax": max,
    "vabsdiff": lambda a, b: abs(a - b), "vavrg": lambda a, b: (a + b + 1) // 2 if a + b >= 0 else (a + b) // 2,
}  # fmt: skip


def parts(word: int, signed: bool, count: int) -> list[int]:
    bits = 32 // count
    out = [word >> (k * bits) & ((1 << bits) - 1) for k in range(count)]
    return [p - (1 << bits) if signed and p >> (bits - 1) else p for p in out]


def operands(seed: int) -> list[np.ndarray]:
    out = [np.random.default_rng(seed + k).integers(0, 2**32, 100, dtype=np.uint32) for k in range(3)]
    out[0][:4], out[1][:4] = [0x80808080, 0x7FFF8000, 0xFFFFFFFF, 0], [0x80807F7F, 0x8000FFFF, 0x01010101, 0xFF00FF00]
    return out


@pytest.mark.parametrize("op", list(OPS))
@pytest.mark.parametrize("kind", ["u32", "s32"])
@pytest.mark.parametrize("flag", ["", ".sat", ".add"])
@pytest.mark.parametrize("count", [2, 4])
def test_elements(op: str, kind: str, flag: str, count: int) -> None:
    a, b, c = operands(1)
    signed, bits = kind == "s32", 32 // count
    got = lanewise(f"{op}{count}.{kind}.{kind}.{kind}{flag} %d, %0, %1, %2;", a, b, c)
    want = []
    for x, y, z in zip(a.tolist(), b.tolist(), c.tolist()):
        r = [OPS[op](p, q) for p, q in zip(parts(x, signed, count), parts(y, signed, count))]
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        if flag == ".sat":
            r = [min(max(v, low), high) for v in r]
        packed = sum((v & ((1 << bits) - 1)) << (k * bits) for k, v in enumerate(r))
        want.append((z + sum(r) if flag == ".add" else packed) & 0xFFFFFFFF)
    same_bits(got, np.array(want, np.uint32))


@pytest.mark.parametrize("count", [2, 4])
def test_comparisons(count: int) -> None:
    a, b, c = operands(5)
    got = lanewise(f"vset{count}.u32.s32.lt %d, %0, %1, %2;", a, b, c)
    total = lanewise(f"vset{count}.u32.s32.lt.add %d, %0, %1, %2;", a, b, c)
    bits = 32 // count
    for g, t, x, y, z in zip(got.tolist(), total.tolist(), a.tolist(), b.tolist(), c.tolist()):
        r = [int(p < q) for p, q in zip(parts(x, False, count), parts(y, True, count))]
        assert g == sum(v << (k * bits) for k, v in enumerate(r))
        assert t == (z + sum(r)) & 0xFFFFFFFF
