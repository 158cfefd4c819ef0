"""mma.sp against products of the matrix that its halves and metadata stand for, in f64 NumPy.

A is drawn dense with zeros where the granularity demands; its stored half is collected window by window as the
fragments of the PTX documentation give first and last column of a register, its metadata by the segments that the
figures show: (thread of four, lowest bit, row, first column).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.emulator import warp_products as wp
from tests.emulator.harness import run_text

Segment = tuple[int, int, int, int]


def one_thread(columns: int, f: int) -> list[Segment]:
    return [(f, 0, 0, 0), (f, 16, 8, 0)]


def halves_of_a_pair(columns: int, f: int) -> list[Segment]:
    """Elements of 16 and 32 bits: each of two threads has half of the columns of both rows."""
    return [(2 * f, 0, 0, 0), (2 * f, 16, 8, 0), (2 * f + 1, 0, 0, columns // 2), (2 * f + 1, 16, 8, columns // 2)]


def rows_of_a_pair(columns: int, f: int) -> list[Segment]:
    """Elements of 8 and 4 bits: each of two threads has all columns of one row."""
    return [(2 * f, 0, 0, 0), (2 * f + 1, 0, 8, 0)]


def all_threads(columns: int, f: int) -> list[Segment]:
    return [(0, 0, 0, 0), (1, 0, 8, 0), (2, 0, 0, columns // 2), (3, 0, 8, columns // 2)]


#: types of A and B, k, segments of metadata, allowed selectors, first target
FORMS: list[tuple[str, str, int, Any, int, str]] = [
    ("f16", "f16", 16, one_thread, 4, "sm_80"), ("f16", "f16", 32, halves_of_a_pair, 2, "sm_80"),
    ("bf16", "bf16", 16, one_thread, 4, "sm_80"), ("bf16", "bf16", 32, halves_of_a_pair, 2, "sm_80"),
    ("tf32", "tf32", 8, one_thread, 4, "sm_80"), ("tf32", "tf32", 16, halves_of_a_pair, 2, "sm_80"),
    ("s8", "u8", 32, rows_of_a_pair, 2, "sm_80"), ("u8", "s8", 64, all_threads, 1, "sm_80"),
    ("s4", "u4", 64, rows_of_a_pair, 2, "sm_80"), ("u4", "s4", 128, all_threads, 1, "sm_80"),
    ("e4m3", "e5m2", 64, all_threads, 1, "sm_89"), ("e5m2", "e4m3", 64, all_threads, 1, "sm_90"),
]  # fmt: skip


def random_values(kind: str, shape: tuple[int, int], rng: Any) -> Any:
    """Values of a type as f64, none of them zero (integers: few)."""
    if kind[0] in "su":
        bits = int(kind[1:])
        low = -(1 << bits - 1) if kind[0] == "s" else 0
        return rng.integers(low, low + (1 << bits), shape)
    if kind == "tf32":  # ten bits of fraction
        return (rng.integers(1, 1024, shape) * rng.choice([-1, 1], shape) / 64).astype(np.float64)
    return (rng.standard_normal(shape) + 0.01).astype(wp.DTYPES[kind]).astype(np.float64)


def draw(kind: str, k: int, rng: Any, ordered: bool) -> tuple[Any, list[list[list[int]]], Any]:
    """A dense [16, k], the columns that are stored of every chunk, and the entries of metadata [16, chunks]."""
    chunk = {"tf32": 2, "s4": 8, "u4": 8, "e2m1": 8}.get(kind, 4)
    values = random_values(kind, (16, k), rng)
    dense, entries = np.zeros((16, k)), np.zeros((16, k // chunk), int)
    kept: list[list[list[int]]] = [[] for _ in range(16)]
    for row in range(16):
        for c in range(k // chunk):
            if chunk == 2:
                one = int(rng.integers(2))
                columns, entry = [one], 0b1110 if one else 0b0100
            else:
                i, j = (int(x) for x in rng.permutation(4)[:2])
                if ordered:
                    i, j = sorted((i, j))
                entry = j << 2 | i
                columns = [i, j] if chunk == 4 else [2 * i, 2 * i + 1, 2 * j, 2 * j + 1]
            columns = [c * chunk + column for column in columns]
            kept[row].append(columns)
            entries[row, c] = entry
            dense[row, columns] = values[row, columns]
    return dense, kept, entries


def stored_fragment(raw: Any, kept: list[list[list[int]]], bits: int) -> Any:
    """Register r: row lane / 4 (+ 8 for r odd); of the columns from (lane mod 4) W, plus k / 2 from the third register
    on, W in number, those that are stored."""
    k, per = raw.shape[1], 32 // bits
    window, chunk = 2 * per, k // len(kept[0])
    out = np.zeros((32, k // (4 * per)), np.uint32)
    for lane in range(32):
        for r in range(out.shape[1]):
            row, first = lane // 4 + 8 * (r % 2), lane % 4 * window + (k // 2 if r >= 2 else 0)
            chunks = kept[row][first // chunk : (first + window) // chunk]
            out[lane, r] = wp.word([raw[row, column] for columns in chunks for column in columns], bits)
    return out


def metadata(entries: Any, k: int, segments: list[Segment], rng: Any) -> Any:
    """A register of each lane; those that the selector does not name hold anything."""
    out = rng.integers(0, 1 << 32, 32, dtype=np.uint32)
    chunk = k // entries.shape[1]
    length = 16 if any(bit for _, bit, _, _ in segments) else 32
    for lane in range(32):
        for thread, bit, row, first in segments:
            if lane % 4 == thread:
                for e in range(length // 4):
                    at = bit + 4 * e
                    cleared = int(out[lane]) & ~(15 << at)
                    out[lane] = cleared | int(entries[lane // 4 + row, first // chunk + e]) << at
    return out


def spelling(a: str, b: str, k: int, acc: str, variant: str, selector: int, modifiers: str = "") -> str:
    return (f"mma.{variant}.sync.aligned.m16n8k{k}.row.col{modifiers}.{acc}.{a}.{b}.{acc} "
            f"{{d}}, {{a}}, {{b}}, {{c}}, {{e}}, {selector};")  # fmt: skip


def counts_of(a: Any, b: Any, acc: str) -> dict[str, int]:
    accumulators = 2 if acc == "f16" else 4
    return {"a": a.shape[1], "b": b.shape[1], "c": accumulators, "d": accumulators, "e": 1}


@pytest.mark.parametrize("variant", ["sp", "sp::ordered_metadata"])
@pytest.mark.parametrize(("a", "b", "k", "layout", "selectors", "target"), FORMS)
def test_products(a: str, b: str, k: int, layout: Any, selectors: int, target: str, variant: str) -> None:
    texts = []
    for selector in range(selectors):
        for acc in {"f16": ["f32", "f16"]}.get(a, ["s32"] if a[0] in "su" else ["f32"]):
            rng = np.random.default_rng([k, selector, ord(a[0]), len(acc)])
            dense, kept, entries = draw(a, k, rng, "ordered" in variant)
            y = random_values(b, (k, 8), rng)
            c = rng.integers(-8, 9, (16, 8)).astype(np.float64)
            bits = wp.element_bits(a)
            fa = stored_fragment(wp.patterns(dense, a), kept, bits)
            fb = wp.b_fragment(wp.patterns(y, b), bits)
            e = metadata(entries, k, layout(k, selector), rng)
            text, counts = spelling(a, b, k, acc, variant, selector), counts_of(fa, fb, acc)
            texts.append((text, counts))
            out, report = wp.run_warp(text, counts, a=fa, b=fb, c=wp.c_fragment(c, acc), e=e)
            assert not report.findings, report.findings[0].render()
            exact = dense @ y + c
            np.testing.assert_array_equal(wp.d_matrix(out, acc), exact.astype(wp.DTYPES[acc]))
            assert report.counters.mma == {f"mma.sp.m16n8k{k}.{a}": 1}
    wp.check_assembles(texts, target)


def integer_case(seed: int, entries: Any = None, size: int = 128) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    dense, kept, drawn = draw("s8", 64, rng, True)
    y = random_values("s8", (64, 8), rng)
    fa = stored_fragment(wp.patterns(dense, "s8"), kept, 8)
    e = metadata(drawn if entries is None else entries(drawn), 64, all_threads(64, 0), rng)
    return dense, y, fa, wp.b_fragment(wp.patterns(y, "s8"), 8), e


@pytest.mark.parametrize("saturate", ["", ".satfinite"])
def test_integer_sums_wrap_or_saturate(saturate: str) -> None:
    dense, y, fa, fb, e = integer_case(1)
    c = np.where(np.arange(128).reshape(16, 8) % 2, 2**31 - 1, -(2**31))
    text = spelling("s8", "s8", 64, "s32", "sp", 0, saturate)
    out, report = wp.run_warp(text, counts_of(fa, fb, "s32"), a=fa, b=fb, c=wp.c_fragment(c, "s32"), e=e)
    exact = (dense @ y).astype(np.int64) + c
    wrapped = (exact + 2**31) % 2**32 - 2**31
    want = np.clip(exact, -(2**31), 2**31 - 1) if saturate else wrapped
    assert (exact != wrapped).any() and not report.findings
    np.testing.assert_array_equal(wp.d_matrix(out, "s32"), want)


@pytest.mark.parametrize("kind", ["f16", "bf16", "e4m3", "tf32"])
def test_special_values(kind: str) -> None:
    """NaN and infinities stay in their rows and columns; subnormals count. What no index names has no effect."""
    k, layout = {"f16": (32, halves_of_a_pair), "bf16": (32, halves_of_a_pair), "e4m3": (64, all_threads),
                 "tf32": (16, halves_of_a_pair)}[kind]  # fmt: skip
    rng = np.random.default_rng(7)
    dense, kept, entries = draw(kind, k, rng, True)
    y = random_values(kind, (k, 8), rng)
    tiny = {"f16": 2.0**-24, "bf16": 2.0**-133, "e4m3": 2.0**-9, "tf32": 2.0**-136}[kind]
    dense[3, kept[3][0][0]] = np.nan
    dense[5, :] = 0  # only one element of this row is left, the smallest there is
    dense[5, kept[5][1][0]] = tiny
    y[kept[5][1][0], :] = 1.0
    stored = [[column for chunk in row for column in chunk] for row in kept]
    unnamed = next(column for column in range(k) if column not in stored[9])
    y[unnamed, 6] = np.nan
    bits = wp.element_bits(kind)
    fa, fb = stored_fragment(wp.patterns(dense, kind), kept, bits), wp.b_fragment(wp.patterns(y, kind), bits)
    e = metadata(entries, k, layout(k, 0), rng)
    out, report = wp.run_warp(spelling(kind, kind, k, "f32", "sp", 0), counts_of(fa, fb, "f32"), a=fa, b=fb,
                              c=np.zeros((32, 4), np.uint32), e=e)  # fmt: skip
    assert not report.findings
    got = wp.d_matrix(out, "f32")
    named = np.array([unnamed in row for row in stored])
    for row in range(16):
        for column in range(8):
            if row == 3 or (column == 6 and named[row]):
                assert got[row, column].view(np.uint32) == 0x7FFFFFFF
            else:
                exact = dense[row, stored[row]] @ y[stored[row], column]
                assert got[row, column] == np.float32(exact), (row, column)
    assert not named[9] and named.any() and (got[5, :6] == np.float32(tiny)).all()


def test_metadata_without_meaning_are_reported() -> None:
    """0b0101 names one element twice; 0b0001 is out of order, which only ::ordered_metadata forbids."""

    def changed(value: int) -> Any:
        def change(entries: Any) -> Any:
            entries[11, 6] = value
            return entries

        return change

    ordered = "sp::ordered_metadata"
    for value, variant, wrong in ((0b0101, "sp", True), (0b0001, "sp", False), (0b0001, ordered, True),
                                  (0b1111, ordered, True), (0b1001, ordered, False)):  # fmt: skip
        _, _, fa, fb, e = integer_case(2, changed(value))
        text = spelling("s8", "s8", 64, "s32", variant, 0)
        _, report = wp.run_warp(text, counts_of(fa, fb, "s32"), a=fa, b=fb, c=np.zeros((32, 4), np.uint32), e=e)
        found = [(f.code, f.message) for f in report.findings]
        words = f"sparsity metadata 0b{value:04b} of row 11, columns 24 to 27, has no meaning"
        assert found == ([("E960", words)] if wrong else [])


@pytest.mark.parametrize("value", [v for v in range(16) if v not in (0b0100, 0b1110)])
def test_only_two_entries_mean_something_for_tf32(value: int) -> None:
    rng = np.random.default_rng(value)
    dense, kept, entries = draw("tf32", 8, rng, True)
    entries[0, 3] = value
    fa = stored_fragment(wp.patterns(dense, "tf32"), kept, 32)
    fb = wp.b_fragment(wp.patterns(np.ones((8, 8)), "tf32"), 32)
    e = metadata(entries, 8, one_thread(8, 2), rng)
    _, report = wp.run_warp(spelling("tf32", "tf32", 8, "f32", "sp", 2), counts_of(fa, fb, "f32"), a=fa, b=fb,
                            c=np.zeros((32, 4), np.uint32), e=e)  # fmt: skip
    assert [f.code for f in report.findings] == ["E960"]


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ("mma.sp.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {a4}, {a2}, {a2}, {a4}, %r, 0;", "m16n8k32 of .e4m3"),
        ("mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {a4}, {a4}, {a2}, {a4}, %r, 0;", "4 and 2 registers"),
        ("mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {a4}, {a2}, {a2}, {a4}, %r, 4;", "selector 4"),
        ("mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {a4}, {a4}, {a4}, {a4}, %r, 2;", "selector 2"),
        ("mma.sp.sync.aligned.m16n8k64.row.col.kind::f8f6f4.f32.e4m3.e4m3.f32 {a4}, {a4}, {a4}, {a4}, %r, 0;",
         "ordered"),
        ("mma.sync.aligned.m16n8k64.row.col.f32.e4m3.e4m3.f32 {a4}, {a4}, {a4}, {a4};", "m16n8k64 of .e4m3"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_refused_by_name(instruction: str, words: str) -> None:
    registers = {f"a{n}": "{" + ", ".join(["%r"] * n) + "}" for n in (2, 4)}
    with pytest.raises(Exception, match="E941") as raised:
        run_text(f".reg .b32 %r; mov.b32 %r, 0;\n{instruction.format(**registers)}\nret;", [np.zeros(1, np.uint32)])
    assert words in str(raised.value) and "line 8" in str(raised.value)
