"""CUDA programs (nvcc) off the beaten track, against Python integers and NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.emulator import launch
from tests.emulator.harness import same_bits
from tests.emulator.outside.support import program, run

ODD = "cuda/odd"
ALL = 2**64 - 1


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (value >> bits - 1 << bits)


def quotient(a: int, b: int) -> int:
    """Towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("n", [1, 97])
def test_integers_of_128_bits(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = (rng.integers(0, 2**63, n).astype(np.uint64) * 2 + rng.integers(0, 2, n).astype(np.uint64) for _ in range(2))
    c = rng.integers(-(2**63), 2**63, n)
    a[: n // 3] >>= np.uint64(39)  # so that the divisor is small
    c[n // 2 :] >>= 40
    got = np.zeros((n, 6), np.uint64)
    run(program(ODD), "wide", (-(-n // 32),), (32,), [a, b, c, got, n])
    for row, u, v, w in zip(got.tolist(), a.tolist(), b.tolist(), c.tolist()):
        x, y, s = u << 64 | v, v * (u >> 40) | 1, w * signed(v, 64)
        rest = s - quotient(s, 1000003) * 1000003
        want = [x // y, x % y, x * y % 2**128 >> 64, quotient(s, w | 3), rest, s >> (v & 127)]
        assert row == [value & ALL for value in want]


def test_pointers_between_memories() -> None:
    n = 70
    a = np.random.default_rng(2).integers(0, 1000, n).astype(np.int32)
    by = np.zeros(1, np.dtype([("x", "f4"), ("y", "f8"), ("z", "i2", 3)], align=True))
    by["x"], by["y"], by["z"] = 3.7, 9.2, [5, -6, 7]
    got = np.zeros(n, np.int32)
    run(program(ODD), "variables", (3,), (32,), [a, got, by.tobytes(), n])
    table = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]
    for found, v in zip(got.tolist(), a.tolist()):
        s = table[v & 15] + 7 + table[3 + (v & 3)]
        for letter in ("one", "three", "seventeen")[v % 3]:
            s = s * 31 + ord(letter)
        assert found == signed(s + 300 + 9 + (5, -6)[v & 1] * 3, 32)


def test_a_loop_entered_in_the_middle() -> None:
    a = np.random.default_rng(3).integers(0, 100, 96).astype(np.int32)
    got = np.zeros_like(a)
    run(program(ODD), "duff", (2,), (64,), [a, got, len(a)])
    for found, v in zip(got.tolist(), a.tolist()):
        count, s = v & 31, 0
        for k in range(count):  # what happens to k depends on how many come after it
            left = (count - k) % 4
            s = s + k * 3 if left == 0 else s ^ k if left == 3 else s - 2 * k if left == 2 else s + (k << 2)
        assert found == signed(s, 32)


def test_loops_that_jump_into_each_other() -> None:
    a = np.random.default_rng(4).integers(-(2**31), 2**31, 130).astype(np.int32)
    got = np.zeros_like(a)
    run(program(ODD), "irreducible", (2,), (96,), [a, got, len(a)])
    for found, v in zip(got.tolist(), a.tolist()):
        x, s, c, at = v, 0, 0, "middle" if v & 1 else "top"
        while at:
            if at == "top":
                s, x, c = s + x, x * 5 + 1, c + 1
                at = "" if c > 20 else "top" if x & 2 else "middle"
            else:
                s, x, c = s ^ x, x + 3, c + 1
                at = "" if c > 20 else "top" if x & 4 else "middle" if x & 8 else ""
        assert found == signed(s * 64 + c, 32)


def test_arrays_of_a_thread() -> None:
    a = np.random.default_rng(5).integers(0, 100, 77).astype(np.int32)
    got = np.zeros(len(a))
    run(program(ODD), "locals", (3,), (32,), [a, got, len(a)])

    def fold(values: Any, kind: Any) -> float:
        s = float(values[0])
        for v in values[1:]:  # the accumulator has the type of the elements
            if kind in (np.float32, np.float64):
                s = float(kind(kind(kind(s) * kind(3)) + v))
            else:
                s = int(s) * 3 + int(v)
                s = signed(s, 16) if kind is np.int16 else s & 255
        return s

    for found, v in zip(got.tolist(), a.tolist()):
        m = v & 7
        f, g, h, u = np.zeros(9, np.float32), np.zeros(5), np.zeros(7, np.int16), np.zeros(13, np.uint8)
        for k in range(13):
            if k < 9:
                f[(k * 4 + m) % 9] = k + m
            if k < 5:
                g[(k * 2 + m) % 5] = k * 0.5
            if k < 7:
                h[(k * 3 + m) % 7] = k - m
            u[(k * 5 + m) % 13] = k * m
        assert found == fold(f, np.float32) + fold(g, np.float64) + fold(h, np.int16) + fold(u, np.uint8)


def test_groups_by_label() -> None:
    a = np.random.default_rng(6).integers(0, 100, 192).astype(np.int32)
    got = np.zeros((len(a), 5), np.int32)
    run(program(ODD), "gathered", (3,), (64,), [a, got])
    for first in range(0, len(a), 32):
        v, o = a[first : first + 32], got[first : first + 32]
        tiles = v.reshape(4, 8)
        same_bits(o[:, 0].copy(), np.repeat(tiles.sum(axis=1), 8).astype(np.int32))
        same_bits(o[:, 1].copy(), np.bitwise_xor.accumulate(tiles, axis=1).reshape(-1))
        for label in range(4):
            mine = v & 3 == label
            assert (o[mine, 2] == v[mine].max(initial=0)).all()
            assert o[mine, 3].tolist() == [k * 100 + int(mine.sum()) for k in range(int(mine.sum()))]
        high = v & 8 != 0
        assert (o[high, 4] == v[high].sum()).all()
        assert o[~high, 4].tolist() == [int((v[~high] & 3 == x & 3).sum()) for x in v[~high]]


@pytest.mark.parametrize("seed", range(3))
def test_everyone_counts_once(seed: int) -> None:
    n = 150
    a = np.random.default_rng(seed).integers(0, 100, n).astype(np.int32)
    small, big, wrap = np.zeros(4, np.uint16), np.ones(4, np.uint64), np.zeros(8, np.uint32)
    tickets, following = np.zeros((2, n), np.int32), np.array([0, -1], np.int32)
    run(program(ODD), "contended", (3,), (64,), [a, small, big, wrap, tickets, following, n], seed=seed)
    for s in range(4):
        count, x, down = int((a & 3 == s).sum()), 1, 0
        for _ in range(count):
            x, down = (x * 3 + 1) & ALL, 6 if down == 0 else down - 1
        assert (int(small[s]), int(big[s]), int(wrap[s]), int(wrap[4 + s])) == (3 * count, x, count % 7, down)
    same_bits(np.sort(tickets[0]), np.arange(n, dtype=np.int32))
    assert sorted([*tickets[1].tolist(), int(following[1])]) == list(range(-1, n))


def test_formatted_output_and_assertions() -> None:
    a = np.random.default_rng(7).integers(0, 90, 45).astype(np.int32)
    printed = run(program(ODD), "told", (2,), (32,), [a, len(a)]).printed
    words = ("one", "three", "seventeen")
    assert printed.split("\n")[:-1] == [
        f"{i} of 32: {v * 0.25:6.2f}|{words[v % 3]:<8}|{chr(97 + i % 26)} {-5 * v << 30} "
        f"{v:#x} {signed(v * 1000, 16)} %"
        for i, v in enumerate(a.tolist())
    ]
    a[37] = 95
    report = launch(program(ODD), "told", (2,), (32,), [a, len(a)])
    assert [f.code for f in report.findings] == ["E960"]
    assert report.findings[0].message == "assertion `a[i] < 90` failed in thread 5 of CTA 1"


def test_copies_of_bytes() -> None:
    n = 50
    a = np.random.default_rng(8).integers(-128, 128, n * 8 + 64).astype(np.int8)
    got = np.zeros((n, 23), np.int8)
    run(program(ODD), "bytes", (2,), (32,), [a, got.reshape(-1), n])
    buffer = np.repeat(np.arange(n, dtype=np.int8)[:, None], 40, axis=1)
    buffer[:, 3:20] = [a[i * 8 : i * 8 + 17] for i in range(n)]
    same_bits(got, buffer[:, 1:24].copy())
