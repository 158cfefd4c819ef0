"""Every shape and type of dense mma.sync whose elements have 8 bits or fewer, against NumPy.

Fragments are the ones of `warp_products`; with eight rows A lies like B.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.emulator import warp_products as wp

#: rows, k, type of A, type of B, accumulator, first target
SHAPES = [
    (16, 16, "s8", "u8", "s32", "sm_80"), (16, 32, "u8", "s8", "s32", "sm_80"), (16, 32, "s4", "u4", "s32", "sm_80"),
    (16, 64, "u4", "s4", "s32", "sm_80"), (8, 16, "s8", "s8", "s32", "sm_75"), (8, 32, "s4", "s4", "s32", "sm_75"),
    (16, 16, "e4m3", "e5m2", "f32", "sm_89"), (16, 32, "e5m2", "e4m3", "f32", "sm_89"),
    (16, 16, "e4m3", "e4m3", "f16", "sm_89"), (16, 32, "e5m2", "e5m2", "f16", "sm_89"),
]  # fmt: skip


def draw(kind: str, shape: tuple[int, int], rng: Any) -> Any:
    if kind[0] in "su":
        bits = int(kind[1:])
        return rng.integers(0, 1 << bits, shape) - ((1 << bits - 1) if kind[0] == "s" else 0)
    return rng.standard_normal(shape).astype(wp.DTYPES[kind]).astype(np.float64)


def eight_rows(out: Any) -> Any:
    """D [8, 8] of s32: row lane / 4, two columns."""
    return np.array([out[lane] for lane in range(32)]).view(np.int32).reshape(8, 8)


@pytest.mark.parametrize(("m", "k", "a", "b", "acc", "target"), SHAPES)
def test_products(m: int, k: int, a: str, b: str, acc: str, target: str) -> None:
    rng = np.random.default_rng([m, k, ord(a[0])])
    x, y = draw(a, (m, k), rng), draw(b, (k, 8), rng)
    bits = wp.element_bits(a)
    raw = wp.patterns(x, a)
    fa = wp.a_fragment(raw, bits) if m == 16 else wp.b_fragment(raw.T, bits)
    fb = wp.b_fragment(wp.patterns(y, b), bits)
    c = rng.integers(-8, 9, (m, 8))
    fc = wp.c_fragment(c, acc) if m == 16 else c.astype(np.int32).reshape(32, 2)
    size = 2 if m == 8 or acc == "f16" else 4
    counts = {"a": fa.shape[1], "b": fb.shape[1], "c": size, "d": size}
    text = f"mma.sync.aligned.m{m}n8k{k}.row.col.{acc}.{a}.{b}.{acc} {{d}}, {{a}}, {{b}}, {{c}};"
    out, report = wp.run_warp(text, counts, a=fa, b=fb, c=fc)
    assert not report.findings
    got = wp.d_matrix(out, acc) if m == 16 else eight_rows(out)
    np.testing.assert_array_equal(got, (x @ y + c).astype(wp.DTYPES[acc]))
    wp.check_assembles([(text, counts)], target)


@pytest.mark.parametrize("operation", ["xor", "and"])
@pytest.mark.parametrize(("m", "k"), [(8, 128), (16, 128), (16, 256)])
def test_single_bits(m: int, k: int, operation: str) -> None:
    """The number of bits that are set in a row of A combined with a column of B."""
    rng = np.random.default_rng(k + m)
    x, y = rng.integers(0, 2, (m, k)), rng.integers(0, 2, (k, 8))
    fa = wp.a_fragment(x, 1) if m == 16 else wp.b_fragment(x.T, 1)
    c = rng.integers(-99, 99, (m, 8))
    size = 4 if m == 16 else 2
    counts = {"a": fa.shape[1], "b": k // 128, "c": size, "d": size}
    text = f"mma.sync.aligned.m{m}n8k{k}.row.col.s32.b1.b1.s32.{operation}.popc {{d}}, {{a}}, {{b}}, {{c}};"
    fc = wp.c_fragment(c, "s32") if m == 16 else c.astype(np.int32).reshape(32, 2)
    out, report = wp.run_warp(text, counts, a=fa, b=wp.b_fragment(y, 1), c=fc)
    assert not report.findings
    combine = np.bitwise_xor if operation == "xor" else np.bitwise_and
    want = combine(x[:, :, None], y[None]).sum(axis=1) + c
    np.testing.assert_array_equal(wp.d_matrix(out, "s32") if m == 16 else eight_rows(out), want)
    wp.check_assembles([(text, counts)], "sm_80")
