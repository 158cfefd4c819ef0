"""tcgen05.mma of narrow floats, with scales by blocks and with sparse A, against f64 NumPy.

Elements, scales and metadata are put into shared and tensor memory one after the other, as the figures of the PTX
documentation on packing, scale factors and sparsity metadata show them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.emulator import warp_products as wp
from tests.emulator.test_block_scaled_mma import NARROW, narrow, scale_values
from tests.emulator.test_sparse_mma import draw, random_values
from tests.emulator.test_tcgen05 import WAIT, core_image, descriptor, registers, run, save

CODES = {"f16": 0, "bf16": 1, "tf32": 2, "u8": 0, "s8": 1, "e4m3": 0, "e5m2": 1, "e2m3": 3, "e3m2": 4, "e2m1": 5}
WIDTH = {"e4m3": 8, "e5m2": 8, "e2m3": 6, "e3m2": 6, "e2m1": 4}
PACKED = ("mxf4", "mxf4nvf4")


def shared_rows(values: Any, element: str, kind: str, rng: Any) -> Any:
    """Rows of bytes in shared memory. f8f6f4: sixteen elements of 4 or 6 bits, then junk up to 16 bytes."""
    if element not in WIDTH or WIDTH[element] == 8:
        raw = values.astype(wp.DTYPES[element])
        return np.ascontiguousarray(raw).view(np.uint8).reshape(len(values), -1)
    bits, codes = WIDTH[element], wp.patterns(values, element)
    out = []
    for row in codes:
        line = b""
        for first in range(0, len(row), 16):
            number = wp.word(list(row[first : first + 16]), bits)
            used = number.to_bytes(2 * bits, "little")
            line += used if kind in PACKED else used + rng.bytes(16 - 2 * bits)
        out.append(list(line))
    return np.array(out, np.uint8)


def tensor_rows(values: Any, element: str, kind: str, rng: Any) -> Any:
    """Rows of bytes in tensor memory: a byte an element for f8f6f4, e2m1 in the middle of it."""
    if element not in WIDTH or WIDTH[element] == 8 or kind in PACKED:
        return shared_rows(values, element, kind, rng)
    padding = {"e2m1": 0xC3, "e3m2": 0xC0, "e2m3": 0xC0}[element]
    codes = wp.patterns(values, element, packed=False)
    return (codes | rng.integers(0, 256, codes.shape) & padding).astype(np.uint8)


def scale_image(raw: Any, place: int, rng: Any) -> Any:
    """Scales [rows, count] for copies of 32x128b: row r in line r mod 32, word r / 32; scale j in byte place + j."""
    rows, count = raw.shape
    words = -(-rows // 128) * 4
    image = rng.integers(0, 256, (words // 4, 32, 4, 4)).astype(np.uint8)
    for r in range(rows):
        for j in range(count):
            image[r // 128, r % 32, r // 32 % 4, place + j] = raw[r, j]
    return image.reshape(-1)


def metadata_words(entries: Any, element: str, selector: int, m: int, rng: Any) -> Any:
    """Two columns [128 lanes, 2]. Elements of 16 and 32 bits: of every sixteen rows, the first half of the columns in
    eight lanes, the other in the next eight; rows r and r + 8 share a word. Else one row a lane."""
    out = rng.integers(0, 1 << 32, (128, 2), dtype=np.uint32)
    wide = element in ("f16", "bf16", "tf32")
    if wide:
        out[:, selector] = 0
    else:
        out[:] = 0
    for row in range(m):
        base = row // 16 * (16 if m == 128 else 32)
        for c in range(entries.shape[1]):
            if wide:
                lane, column, bit = base + row % 8 + (8 if c >= 4 else 0), selector, row % 16 // 8 * 16 + c % 4 * 4
            else:
                lane, column, bit = base + row % 16, c // 8, c % 8 * 4
            out[lane, column] |= np.uint32(int(entries[row, c]) << bit)
    return out


class Case:
    """One product. Columns of tensor memory: D from 0, A from 192, scales from 128 and 136, metadata from 160."""

    def __init__(self, kind: str, a: str, b: str, n: int = 32, m: int = 128, scaling: tuple[int, str] | None = None,
                 sparse: bool = False, seed: int = 0) -> None:  # fmt: skip
        self.kind, self.a, self.b, self.n, self.m = kind, a, b, n, m
        self.scaling, self.sparse = scaling, sparse
        self.rng = rng = np.random.default_rng([seed, n, m])
        depth = {"f16": 16, "tf32": 8, "mxf4": 64, "mxf4nvf4": 64}.get(kind, 32)
        self.k = depth * (2 if sparse else 1)
        draws = narrow if a in WIDTH else random_values
        self.x, self.y = draws(a, (m, self.k), rng), (narrow if b in WIDTH else random_values)(b, (n, self.k), rng)
        self.given = self.x
        self.entries = np.zeros((m, 1), int)
        if sparse:
            like = "e2m1" if kind in PACKED else "tf32" if a == "tf32" else "f16"
            drawn = [draw(like, self.k, rng, True) for _ in range(m // 16)]
            self.entries = np.concatenate([d[2] for d in drawn])
            columns = [[c for chunk in row for c in chunk] for d in drawn for row in d[1]]
            self.given = np.array([self.x[row, found] for row, found in enumerate(columns)])
            dense = np.zeros_like(self.x)
            for row, found in enumerate(columns):
                dense[row, found] = self.x[row, found]
            self.x = dense
        if scaling:
            low, high = (117, 138) if scaling[1] == "ue8m0" else (0, 127)
            self.sa, self.sb = (rng.integers(low, high, (rows, scaling[0])) for rows in (m, n))

    def run(self, places: tuple[int, int] = (0, 0), selector: int = 0, in_tensor_memory: bool = False, extra: int = 0,
            suffix: str = "", seed: int = 0, copies: str = "32x128b.warpx4") -> tuple[Any, Any]:  # fmt: skip
        """D [m, n] as f32, and the report."""
        rows_a = (tensor_rows if in_tensor_memory else shared_rows)(self.given, self.a, self.kind, self.rng)
        rows_b = shared_rows(self.y, self.b, self.kind, self.rng)
        lanes = np.arange(self.m) if self.m == 128 else np.arange(64) % 16 + np.arange(64) // 16 * 32
        held = np.zeros((128, rows_a.shape[1] if in_tensor_memory else 4), np.uint8)
        if in_tensor_memory:
            held[lanes] = rows_a
        parts = [core_image(rows_a), core_image(rows_b), held.reshape(-1)]
        metadata = metadata_words(self.entries, self.a, selector, self.m, self.rng)
        parts.append(metadata.view(np.uint8).reshape(-1))
        bits = 1 << 7 | 1 << 10 if self.kind in PACKED else CODES[self.a] << 7 | CODES[self.b] << 10
        bits |= (self.n >> 3) << 17 | (self.m >> 4) << 24 | (4 if self.sparse else 0) | selector
        if self.scaling:
            parts += [scale_image(self.sa, places[0], self.rng), scale_image(self.sb, places[1], self.rng)]
            bits |= places[1] << 4 | places[0] << 29 | (self.scaling[1] == "ue8m0") << 23
        else:
            bits |= (2 if self.kind == "i8" else 1) << 4
        starts = np.cumsum([0] + [-(-len(p) // 128) * 128 for p in parts])
        image = np.zeros(starts[-1], np.uint8)
        for start, part in zip(starts, parts):
            image[start : start + len(part)] = part
        body = f"mov.u32 %idesc, {bits ^ extra}; setp.ne.u32 %add, 0, 0;\n"
        for name, column in (("200", 128), ("201", 136), ("202", 160), ("203", 192)):
            body += f"add.u32 %r{name}, %d, {column};\n"
        words = held.shape[1] // 4
        if in_tensor_memory:
            body += f"mov.u32 %a, s+{starts[2]}; mad.lo.u32 %a, %t, {4 * words}, %a;\n"
            body += "\n".join(f"ld.shared.u32 %r{j}, [%a+{4 * j}];" for j in range(words))
            body += "\nadd.u32 %r204, %addr, 192;\n"
            body += f"tcgen05.st.sync.aligned.32x32b.x{words}.b32 [%r204], {registers(words)};\n"
        if self.sparse:
            body += f"mov.u32 %a, s+{starts[3]}; mad.lo.u32 %a, %t, 8, %a; ld.shared.v2.u32 {registers(2)}, [%a];\n"
            body += f"add.u32 %r204, %addr, 160; tcgen05.st.sync.aligned.32x32b.x2.b32 [%r204], {registers(2)};\n"
        body += "tcgen05.wait::st.sync.aligned; tcgen05.fence::before_thread_sync; bar.sync 0;\n"
        if self.scaling:
            for start, column, size in ((starts[4], 128, len(parts[4])), (starts[5], 136, len(parts[5]))):
                for block in range(size // 512):
                    body += descriptor(f"s+{start + 512 * block}", 128, 128, 0)
                    body += f"add.u32 %r204, %d, {column + 4 * block};\n"
                    body += f"@%one tcgen05.cp.cta_group::1.{copies} [%r204], %tmp;\n"
        for register, start, rows in (("%da", starts[0], rows_a), ("%db", starts[1], rows_b)):
            body += descriptor(f"s+{start}", 128, rows.shape[1] // 16 * 128, 0) + f"mov.b64 {register}, %tmp;\n"
        left = "[%r203]" if in_tensor_memory else "%da"
        words_ = f"mma{'.sp' if self.sparse else ''}.cta_group::1.kind::{self.kind}"
        words_ += ".block_scale" + suffix if self.scaling else ""
        self.product = f"tcgen05.{words_} [%d], {left}, %db, " + ("[%r202], " if self.sparse else "") + "%idesc, "
        self.product += ("[%r200], [%r201], " if self.scaling else "") + "%add;"
        body += f"@%one {self.product}\n{WAIT}"
        body += f"tcgen05.ld.sync.aligned.32x32b.x{self.n}.b32 {registers(self.n)}, [%addr];\n"
        out, report, _ = run(body + f"tcgen05.wait::ld.sync.aligned;\n{save(self.n, self.n)}", image, self.n, seed)
        return out[lanes], report

    def check(self, out: Any) -> None:
        x, y = self.x, self.y
        if self.scaling:
            block = self.k // self.scaling[0]
            x = x * np.repeat(scale_values(self.sa, self.scaling[1]), block, axis=1)
            y = y * np.repeat(scale_values(self.sb, self.scaling[1]), block, axis=1)
        if self.kind == "i8":
            np.testing.assert_array_equal(out.view(np.int32), x @ y.T)
            return
        exact, terms = x @ y.T, np.abs(x) @ np.abs(y).T
        assert (np.abs(out.view(np.float32) - exact) <= 2.0**-24 * np.abs(exact) + 2.0**-48 * terms).all()


SCALED = [
    ("mxf8f6f4", "e4m3", "e5m2", (1, "ue8m0"), ""), ("mxf8f6f4", "e3m2", "e2m1", (1, "ue8m0"), ".block32"),
    ("mxf8f6f4", "e2m1", "e2m3", (1, "ue8m0"), ".scale_vec::1X"), ("mxf4", "e2m1", "e2m1", (2, "ue8m0"), ""),
    ("mxf4nvf4", "e2m1", "e2m1", (2, "ue8m0"), ".scale_vec::2X"),
    ("mxf4nvf4", "e2m1", "e2m1", (4, "ue4m3"), ".block16"),
    ("mxf4nvf4", "e2m1", "e2m1", (4, "ue4m3"), ".scale_vec::4X"),
]  # fmt: skip
PLACES = {1: [(0, 3), (1, 2), (2, 1), (3, 0)], 2: [(0, 2), (2, 0)], 4: [(0, 0)]}


@pytest.mark.parametrize("in_tensor_memory", [False, True])
@pytest.mark.parametrize(("a", "b"), [(a, b) for a, b in zip(NARROW, NARROW[2:] + NARROW[:2])] + [("e2m1", "e2m1")])
def test_mixed_types(a: str, b: str, in_tensor_memory: bool) -> None:
    """kind::f8f6f4 with padding in both memories."""
    case = Case("f8f6f4", a, b, 16 if in_tensor_memory else 32)
    out, report = case.run(in_tensor_memory=in_tensor_memory)
    assert not report.findings, report.findings[0].render()
    case.check(out)
    assert report.counters.mma == {f"tcgen05.m128n{case.n}k32.{a}": 1}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("form", SCALED, ids=lambda form: "-".join(map(str, form)))
def test_scaled_products(form: Any, sparse: bool) -> None:
    kind, a, b, scaling, suffix = form
    for number, places in enumerate(PLACES[scaling[0]]):
        case = Case(kind, a, b, (8, 64, 128, 32)[number], 128, scaling, sparse, number)
        out, report = case.run(places, suffix=suffix, in_tensor_memory=number == 1, seed=number)
        assert not report.findings, report.findings[0].render()
        case.check(out)
        assert report.counters.mma == {f"tcgen05{'.sp' if sparse else ''}.m128n{case.n}k{case.k}.{a}": 1}
        check_assembles(case.product)


@pytest.mark.parametrize("m", [128, 64])
@pytest.mark.parametrize("in_tensor_memory", [False, True])
@pytest.mark.parametrize(
    ("kind", "a", "b"),
    [("f16", "f16", "f16"), ("f16", "bf16", "bf16"), ("tf32", "tf32", "tf32"), ("i8", "s8", "u8"),
     ("f8f6f4", "e4m3", "e5m2"), ("f8f6f4", "e2m1", "e3m2")],
)  # fmt: skip
def test_sparse_products(kind: str, a: str, b: str, in_tensor_memory: bool, m: int) -> None:
    for selector in range(2 if kind in ("f16", "tf32") else 1):
        case = Case(kind, a, b, 16, m, None, True, selector)
        out, report = case.run(selector=selector, in_tensor_memory=in_tensor_memory)
        assert not report.findings, report.findings[0].render()
        case.check(out)
        check_assembles(case.product)


def check_assembles(product: str) -> None:
    registers_ = ".reg .b32 %d, %idesc, %r<204>; .reg .b64 %da, %db; .reg .pred %add;\n"
    wp.check_text(registers_ + product, "sm_100a")


@pytest.mark.parametrize(("element", "form"), [("e2m1", "b4x16_p64"), ("e2m3", "b6x16_p32"), ("e3m2", "b6x16_p32")])
def test_copies_that_widen(element: str, form: str) -> None:
    """Into the bytes that a product takes A from: e2m1 in the middle, elements of six bits at the bottom."""
    rng = np.random.default_rng(3)
    values = narrow(element, (128, 32), rng)
    rows = shared_rows(values, element, "f8f6f4", rng)
    copy = f"tcgen05.cp.cta_group::1.128x256b.b8x16.{form} [%d], %tmp;"
    body = descriptor("s", 128, 256, 0) + f"@%one {copy}\n{WAIT}"
    body += f"tcgen05.ld.sync.aligned.32x32b.x8.b32 {registers(8)}, [%addr];\ntcgen05.wait::ld.sync.aligned;\n"
    out, report, _ = run(body + save(8, 8), core_image(rows), 8)
    assert not report.findings, report.findings[0].render()
    np.testing.assert_array_equal(out.view(np.uint8).reshape(128, 32), wp.patterns(values, element, packed=False))
    wp.check_text(f".reg .b32 %d; .reg .b64 %tmp;\n{copy}", "sm_100a")


def test_scales_belong_into_every_window() -> None:
    """Copied to two windows only, the rows of the others are scaled by what their window holds."""
    case = Case("mxf8f6f4", "e4m3", "e4m3", 32, 128, (1, "ue8m0"))
    good = case.run()[0]
    case.check(good)
    # lines 32 to 63, which go to windows 1 and 3, are from what follows in shared memory
    other = case.run(copies="64x128b.warpx2::02_13")[0]
    for window, same in enumerate((True, False, True, False)):
        part = slice(32 * window, 32 * window + 32)
        assert np.array_equal(other[part], good[part]) == same


def test_nan_scales_and_infinite_sums() -> None:
    case = Case("mxf8f6f4", "e4m3", "e4m3", 32, 128, (1, "ue8m0"), seed=5)
    case.sa[7], case.sb[3], case.sa[9] = 255, 255, 254
    out, report = case.run((3, 1))
    got = out.view(np.float32)
    wrong = np.zeros((128, 32), bool)
    wrong[7], wrong[:, 3] = True, True
    assert not report.findings and (np.isnan(got) == wrong).all() and np.isinf(got[9]).any()


@pytest.mark.parametrize(
    ("kind", "a", "scaling", "suffix", "extra", "words"),
    [
        ("mxf8f6f4", "e4m3", (1, "ue8m0"), "", 1 << 23, "scale_vec::1X of .ue4m3"),
        ("mxf8f6f4", "e4m3", (1, "ue8m0"), "", 2 << 7, "names no format"),
        ("mxf8f6f4", "e4m3", (1, "ue8m0"), "", 1 << 2, "says that A is sparse"),
        ("mxf8f6f4", "e4m3", (1, "ue8m0"), "", 12 << 24, "64 x 16"),
        ("mxf4", "e2m1", (2, "ue8m0"), "", 1 << 29, "no place of 2 scales"),
        ("mxf4nvf4", "e2m1", (4, "ue4m3"), ".block16", 1 << 5, "no place of 4 scales"),
        ("mxf4", "e2m1", (2, "ue8m0"), "", 1 << 31, "k = 96"),
        ("mxf4", "e2m1", (2, "ue8m0"), "", 1 << 15, "4 bits cannot be transposed"),
    ],
)
def test_descriptors_that_name_nothing(
    kind: str, a: str, scaling: tuple[int, str], suffix: str, extra: int, words: str
) -> None:
    _, report = Case(kind, a, a, 16, 128, scaling).run(suffix=suffix, extra=extra)
    found = [f.message for f in report.findings if f.code == "E960"]
    assert found and words in found[0], [f.render() for f in report.findings]


def test_metadata_without_meaning() -> None:
    case = Case("f8f6f4", "e4m3", "e4m3", 16, 128, None, True)
    case.entries[77, 9] = 0b0101
    _, report = case.run()
    found = [(f.code, f.message) for f in report.findings]
    assert found == [("E960", "sparsity metadata 0b0101 of row 77, from column 36 on, has no meaning")]
    case = Case("f8f6f4", "e4m3", "e4m3", 16, 128, None, True)
    _, report = case.run(selector=1)
    assert "sparsity selector 1" in report.findings[0].message


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ("mma.ws.cta_group::1.kind::f16 [%r0], %x, %x, %r1, %q;", ".ws"),
        ("mma.cta_group::1.kind::f16.ashift.collector::a::fill [%r0], [%r1], %x, %r1, %q;", ".ashift"),
        ("mma.cta_group::1.kind::mxf4nvf4.block_scale [%r0], %x, %x, %r1, [%r2], [%r3], %q;", "needs a .scale_vec"),
        ("mma.cta_group::1.kind::mxf4.block_scale.block16 [%r0], %x, %x, %r1, [%r2], [%r3], %q;", "scale_vec::4X"),
        ("cp.cta_group::1.128x128b.b4x16_p64 [%r0], %x;", "without that of the other side"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(spelling: str, words: str) -> None:
    body = f"{{.reg .b64 %x;\n@%one tcgen05.{spelling}\n}}\n"
    with pytest.raises(Exception, match="E941") as raised:
        run(body, np.zeros(1, np.uint32), 1)
    assert words in str(raised.value) and "PTX line" in str(raised.value)
