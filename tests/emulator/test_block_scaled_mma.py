"""mma.sync of narrow floats: .kind::f8f6f4, and scaled by blocks (mxf8f6f4, mxf4, mxf4nvf4), dense and sparse.

Expected values are f64 products of what ml_dtypes reads in the bits, times scales that are placed lane by lane as the
tables of selectors say.
"""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tesseracc.emulator import Report
from tests.emulator import warp_products as wp
from tests.emulator.test_sparse_mma import all_threads, draw, metadata, stored_fragment

NARROW = ["e4m3", "e5m2", "e3m2", "e2m3", "e2m1"]


def narrow(kind: str, shape: tuple[int, int], rng: Any) -> Any:
    """Random values of a type as f64, subnormals among them."""
    dtype = wp.DTYPES[kind]
    bits = {"e4m3": 8, "e5m2": 8, "e2m1": 4}.get(kind, 6)
    raw = rng.integers(0, 1 << bits, shape).astype(np.uint8)
    values = raw.view(dtype).astype(np.float64)
    return np.where(np.isfinite(values), values, 1.0)


def scale_values(raw: Any, kind: str) -> Any:
    """ue8m0 and ue4m3 bytes as f64."""
    dtype = {"ue8m0": ml_dtypes.float8_e8m0fnu, "ue4m3": ml_dtypes.float8_e4m3fn}[kind]
    return raw.astype(np.uint8).view(dtype).astype(np.float64)


def scale_registers(raw: Any, byte: int, thread: int, rng: Any) -> Any:
    """[32] registers from bytes [rows, count]; lanes and bytes that nobody selects hold anything."""
    out = rng.integers(0, 256, (32, 4)).astype(np.uint8)
    rows, count = raw.shape
    for row, j in itertools.product(range(rows), range(count)):
        quad = row % 8 * 4
        lane = quad + thread if rows == 8 else quad + 2 * thread + row // 8
        out[lane, byte + j] = raw[row, j]
    return np.ascontiguousarray(out).view(np.uint32)


def close(got: Any, exact: Any, terms: Any) -> None:
    """Equal up to the rounding of f64 sums before the one of the result."""
    bound = 2.0**-24 * np.abs(exact) + 2.0**-48 * terms
    assert (np.abs(got.astype(np.float64) - exact) <= bound).all()


@pytest.mark.parametrize("acc", ["f32", "f16"])
@pytest.mark.parametrize("variant", ["", "sp::ordered_metadata"])
def test_unscaled_pairs_of_types(variant: str, acc: str) -> None:
    """.kind::f8f6f4: six-bit elements in the lower six bits of a byte, four-bit ones in the middle; padding is junk."""
    texts = []
    for number, (a, b) in enumerate(itertools.product(NARROW, NARROW)):
        rng = np.random.default_rng(number)
        k = 64 if variant else 32
        x = narrow(a, (16, k), rng)
        fields: dict[str, Any] = {}
        if variant:
            _, kept, entries = draw("e4m3", k, rng, True)
            mask = np.zeros((16, k))
            for row in range(16):
                mask[row, [column for chunk in kept[row] for column in chunk]] = 1
            fa = stored_fragment(wp.patterns(x, a, packed=False), kept, 8)
            x = x * mask
            fields["e"] = metadata(entries, k, all_threads(k, 0), rng)
        else:
            fa = wp.a_fragment(wp.patterns(x, a, packed=False), 8)
        y, c = narrow(b, (k, 8), rng), rng.integers(-8, 9, (16, 8)).astype(np.float64)
        fb = wp.b_fragment(wp.patterns(y, b, packed=False), 8)
        padding = {"e2m1": 0xC3, "e3m2": 0xC0, "e2m3": 0xC0}
        fa |= rng.integers(0, 1 << 32, fa.shape, dtype=np.uint32) & np.uint32(padding.get(a, 0) * 0x01010101)
        fb |= rng.integers(0, 1 << 32, fb.shape, dtype=np.uint32) & np.uint32(padding.get(b, 0) * 0x01010101)
        size = 2 if acc == "f16" else 4
        counts = {"a": fa.shape[1], "b": fb.shape[1], "c": size, "d": size, "e": 1}
        text = f"mma{'.' + variant if variant else ''}.sync.aligned.m16n8k{k}.row.col.kind::f8f6f4.{acc}.{a}.{b}.{acc} "
        text += "{d}, {a}, {b}, {c}" + (", {e}, 0;" if variant else ";")
        texts.append((text, counts))
        out, report = wp.run_warp(text, counts, a=fa, b=fb, c=wp.c_fragment(c, acc), **fields)
        assert not report.findings, report.findings[0].render()
        exact = x @ y + c
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(wp.d_matrix(out, acc), exact.astype(wp.DTYPES[acc]))
    wp.check_assembles(texts, "sm_120a")


#: kind, types, scales along k, type of the scales
SCALED = [
    ("mxf8f6f4", "e4m3", "e2m1", 1, "ue8m0"), ("mxf8f6f4", "e2m3", "e5m2", 1, "ue8m0"),
    ("mxf8f6f4", "e2m1", "e3m2", 1, "ue8m0"), ("mxf4", "e2m1", "e2m1", 2, "ue8m0"),
    ("mxf4nvf4", "e2m1", "e2m1", 2, "ue8m0"), ("mxf4nvf4", "e2m1", "e2m1", 4, "ue4m3"),
]  # fmt: skip
BYTES = {1: range(4), 2: (0, 2), 4: (0,)}


class Case:
    """One product with random operands and scales."""

    def __init__(self, form: tuple[str, str, str, int, str], sparse: bool, seed: int) -> None:
        self.kind, self.a, self.b, self.count, self.stype = form
        self.sparse = sparse
        self.rng = rng = np.random.default_rng(seed)
        packed = self.kind != "mxf8f6f4"
        self.k = k = (64 if packed else 32) * (2 if sparse else 1)
        self.bits = 4 if packed else 8
        self.x, self.y = narrow(self.a, (16, k), rng), narrow(self.b, (k, 8), rng)
        raw = wp.patterns(self.x, self.a, packed)
        self.given: dict[str, Any] = {}
        if sparse:
            _, kept, entries = draw("e2m1" if packed else "e4m3", k, rng, True)
            mask = np.zeros((16, k))
            for row in range(16):
                mask[row, [column for chunk in kept[row] for column in chunk]] = 1
            self.x = self.x * mask
            self.given["a"] = stored_fragment(raw, kept, self.bits)
            self.given["e"] = metadata(entries, k, all_threads(k, 0), rng)
        else:
            self.given["a"] = wp.a_fragment(raw, self.bits)
        self.given["b"] = wp.b_fragment(wp.patterns(self.y, self.b, packed), self.bits)
        self.c = rng.integers(-8, 9, (16, 8)).astype(np.float64)
        low, high = (117, 138) if self.stype == "ue8m0" else (0, 127)
        self.sa, self.sb = (rng.integers(low, high, (rows, self.count)) for rows in (16, 8))

    def run(
        self, sel_a: tuple[int, int], sel_b: tuple[int, int], registers: bool = False,
        spelled: tuple[tuple[int, int], tuple[int, int]] | None = None,
    ) -> tuple[Any, Report, tuple[str, dict[str, int]]]:  # fmt: skip
        """D, the report and the instruction; scales lie where the selectors say, which are `spelled` otherwise."""
        scales_a, scales_b = (scale_registers(s, *sel, self.rng) for s, sel in ((self.sa, sel_a), (self.sb, sel_b)))
        given = dict(self.given, c=wp.c_fragment(self.c, "f32"), x=scales_a, y=scales_b)
        counts = {"a": given["a"].shape[1], "b": given["b"].shape[1], "c": 4, "d": 4, "e": 1, "x": 1, "y": 1}
        # the number may be left out where the kind has only one
        size = f".scale_vec::{self.count}X" if self.kind == "mxf4nvf4" or self.rng.integers(2) else ""
        variant = ".sp::ordered_metadata" if self.sparse else ""
        text = f"mma{variant}.sync.aligned.m16n8k{self.k}.row.col.kind::{self.kind}.block_scale{size}.f32."
        text += f"{self.a}.{self.b}.f32.{self.stype} {{d}}, {{a}}, {{b}}, {{c}}, " + ("{e}, 0, " if self.sparse else "")
        selectors = [f"{{{{{byte}, {thread}}}}}" for byte, thread in spelled or (sel_a, sel_b)]
        text += f"{{x}}, {selectors[0]}, {{y}}, {selectors[1]};"
        if registers:
            names = [f"%h{j}" for j in range(4)]
            moves = "".join(f"mov.b16 {n}, {v}; " for n, v in zip(names, (*sel_a, *sel_b)))
            for old, pair in zip(selectors, (names[:2], names[2:])):
                text = text.replace(old, f"{{{{{pair[0]}, {pair[1]}}}}}", 1)
            text = ".reg .b16 %h<4>; " + moves + text
        out, report = wp.run_warp(text, counts, **given)
        return wp.d_matrix(out, "f32"), report, (text, counts)

    def exact(self) -> tuple[Any, Any]:
        """The product, and the sum of its terms' magnitudes."""
        block = self.k // self.count
        x = self.x * np.repeat(scale_values(self.sa, self.stype), block, axis=1)
        y = self.y * np.repeat(scale_values(self.sb, self.stype), block, axis=1).T
        return x @ y + self.c, np.abs(x) @ np.abs(y) + np.abs(self.c)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("form", SCALED, ids=lambda form: "-".join(map(str, form)))
def test_every_selector(form: Any, sparse: bool) -> None:
    texts = []
    for byte, thread_a, thread_b in itertools.product(BYTES[form[3]], range(2), range(4)):
        case = Case(form, sparse, byte * 8 + thread_a * 4 + thread_b)
        other = list(BYTES[form[3]])[(byte + thread_b) % len(BYTES[form[3]])]
        got, report, text = case.run((byte, thread_a), (other, thread_b))
        texts.append(text)
        assert not report.findings, report.findings[0].render()
        close(got, *case.exact())
        assert list(report.counters.mma) == [f"mma{'.sp' if sparse else ''}.m16n8k{case.k}.{form[1]}"]
    wp.check_assembles(texts, "sm_120a")


def test_selectors_in_registers() -> None:
    case = Case(SCALED[0], False, 1)
    got, report, text = case.run((2, 1), (1, 3), registers=True)
    assert not report.findings
    close(got, *case.exact())
    wp.check_assembles([text], "sm_120a")


def test_ends_of_the_range_of_scales() -> None:
    """2^-127 and 2^127 are exact; 255 is NaN for the whole row; sums beyond f32 become infinite."""
    case = Case(SCALED[0], False, 2)
    case.c[:] = 0
    case.sa[0], case.sb[:] = 0, 127
    case.sa[1], case.sa[2] = 254, 255
    case.sb[3] = 254
    got, report, _ = case.run((3, 0), (3, 0))
    with np.errstate(all="ignore"):
        want = case.exact()[0].astype(np.float32)
    assert not report.findings and (got[2].view(np.uint32) == 0x7FFFFFFF).all()
    keep = np.arange(16) != 2
    np.testing.assert_array_equal(got[keep], want[keep])
    assert (np.abs(got[0][got[0] != 0]) < 2.0**-100).any() and np.isinf(got[1]).any()


def test_scales_of_ue4m3_have_a_nan_and_subnormals() -> None:
    case = Case(SCALED[5], False, 3)
    case.sa[4, 1], case.sa[5, :], case.sb[6, 2] = 0x7F, 1, 0x7F
    got, report, _ = case.run((0, 1), (0, 2))
    assert not report.findings
    wrong = np.zeros((16, 8), bool)
    wrong[4], wrong[:, 6] = True, True
    assert (np.isnan(got) == wrong).all()
    exact, terms = case.exact()
    close(got[~wrong], exact[~wrong], terms[~wrong])


@pytest.mark.parametrize(
    ("form", "sel_a", "sel_b"), [(SCALED[3], (1, 0), (0, 0)), (SCALED[5], (0, 0), (2, 1)), (SCALED[0], (0, 2), (0, 0))]
)
def test_selectors_that_name_nothing_are_reported(form: Any, sel_a: tuple[int, int], sel_b: tuple[int, int]) -> None:
    _, report, _ = Case(form, False, 4).run((0, 0), (0, 0), spelled=(sel_a, sel_b))
    assert [f.code for f in report.findings] == ["E960"] and "selector" in report.findings[0].message


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("kind::mxf4nvf4.block_scale.f32.e2m1.e2m1.f32.ue4m3", "needs a .scale_vec"),
        ("kind::mxf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue8m0", "scale_vec::4X of .ue8m0"),
        ("kind::mxf4nvf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue4m3", "scale_vec::2X of .ue4m3"),
        ("kind::mxf4.f32.e2m1.e2m1.f32", "block_scale"),
        ("kind::mxf4.block_scale.f32.e4m3.e2m1.f32.ue8m0", "m16n8k64 of .e4m3"),
    ],
)
def test_combinations_that_do_not_exist_are_refused(words: str, reason: str) -> None:
    text = f"mma.sync.aligned.m16n8k64.row.col.{words} "
    text += "{d}, {a}, {b}, {c}, {x}, {{0, 0}}, {y}, {{0, 0}};"
    counts = {"a": 4, "b": 2, "c": 4, "d": 4, "x": 1, "y": 1}
    given = {name: np.zeros((32, counts[name]), np.uint32) for name in "abcxy"}
    with pytest.raises(Exception, match="E941") as raised:
        wp.run_warp(text, counts, **given)
    assert reason in str(raised.value) and "PTX line" in str(raised.value)
