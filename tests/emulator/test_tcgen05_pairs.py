"""Products of pairs of CTAs (.cta_group::2), against f64 NumPy.

Each CTA holds half of the rows of A and D and half of those of B. D lies as the documentation's data paths show it: 128
rows a CTA in as many lanes; 64 rows in 64 lanes, with the second half of the columns in the other 64; 64 rows of a
sparse product in sixteen lanes of every window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.emulator import Report, launch, parse_ptx
from tests.emulator import warp_products as wp
from tests.emulator.test_block_scaled_mma import narrow, scale_values
from tests.emulator.test_sparse_mma import draw, random_values
from tests.emulator.test_tcgen05 import core_image, descriptor, registers
from tests.emulator.test_tcgen05_narrow import (
    CODES,
    PACKED,
    WIDTH,
    metadata_words,
    scale_image,
    shared_rows,
    tensor_rows,
)

HEAD = """.version 8.8
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 image, .param .u64 out, .param .u32 bytes)
.reqntid 128
.reqnctapercluster 2
{
.shared .align 1024 .b8 s[40960];
.shared .align 16 .b8 place[16];
.shared .align 8 .b8 bar[8];
.reg .b32 %t, %n, %i, %a, %d, %w, %addr, %idesc, %rank, %r<256>; .reg .b64 %img, %o, %p, %da, %db, %tmp;
.reg .b16 %both; .reg .pred %q, %first, %add, %one;
mov.u32 %t, %tid.x; ld.param.u64 %img, [image]; ld.param.u64 %o, [out]; ld.param.u32 %n, [bytes];
mov.u32 %rank, %cluster_ctarank; mad.wide.u32 %img, %rank, %n, %img; mov.b16 %both, 3;
shl.b32 %i, %t, 2;
COPY: setp.ge.u32 %q, %i, %n; @%q bra COPIED;
cvt.u64.u32 %p, %i; add.u64 %p, %p, %img; ld.global.u32 %r0, [%p];
mov.u32 %a, s; add.u32 %a, %a, %i; st.shared.u32 [%a], %r0;
add.u32 %i, %i, 512; bra COPY;
COPIED: setp.eq.u32 %one, %t, 0; setp.lt.u32 %first, %t, 32;
@%one mbarrier.init.shared::cta.b64 [bar], 1;
fence.mbarrier_init.release.cluster;
fence.proxy.async.shared::cta;
@%first tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [place], 256;
bar.sync 0;
ld.shared.u32 %d, [place];
shr.u32 %w, %t, 5; shl.b32 %w, %w, 21; add.u32 %addr, %d, %w;
"""
TOGETHER = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n"
LEADER = "setp.eq.and.u32 %one, %rank, 0, %one;\n"
COMMIT = """@%one tcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [bar], %both;
WAITING: mbarrier.try_wait.parity.shared::cta.b64 %q, [bar], 0; @!%q bra WAITING;
tcgen05.fence::after_thread_sync;
"""
TAIL = """
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
@%first tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;
@%first tcgen05.dealloc.cta_group::2.sync.aligned.b32 %d, 256;
ret;
}
"""


def run(body: str, images: list[Any], words: int, seed: int = 0) -> tuple[Any, Report, list[str]]:
    """The output [2, 128, words] of a pair whose CTAs start with these images in shared memory."""
    text = HEAD + body + f"mad.lo.u32 %t, %rank, 128, %t; mad.wide.u32 %p, %t, {4 * words}, %o;\n"
    text += "".join(f"st.global.u32 [%p+{4 * j}], %r{j};\n" for j in range(words)) + TAIL
    size = -(-max(len(image) for image in images) // 128) * 128
    raw = np.zeros((2, size), np.uint8)
    for k, image in enumerate(images):
        raw[k, : len(image)] = image
    out = np.zeros((2, 128, words), np.uint32)
    report = launch(parse_ptx(text), "k", (2,), (128,), [raw.view(np.uint32), out, size], seed=seed, max_steps=100_000)
    return out, report, text.split("\n")


class Case:
    """Columns of tensor memory: D from 0, scales from 128 and 136, metadata from 160, A from 192."""

    def __init__(self, kind: str, element: str, m: int, n: int, scaling: tuple[int, str] | None = None,
                 sparse: bool = False, seed: int = 0) -> None:  # fmt: skip
        self.kind, self.element, self.m, self.n, self.scaling, self.sparse = kind, element, m, n, scaling, sparse
        self.rng = rng = np.random.default_rng([seed, m, n])
        self.k = {"f16": 16, "tf32": 8, "mxf4": 64, "mxf4nvf4": 64}.get(kind, 32) * (2 if sparse else 1)
        values = narrow if element in WIDTH else random_values
        self.x, self.y = values(element, (m, self.k), rng), values(element, (n, self.k), rng)
        self.given, self.entries = self.x, np.zeros((m, 1), int)
        if sparse:
            drawn = [draw("tf32" if element == "tf32" else "f16", self.k, rng, True) for _ in range(m // 16)]
            self.entries = np.concatenate([d[2] for d in drawn])
            columns = [[c for chunk in row for c in chunk] for d in drawn for row in d[1]]
            self.given = np.array([self.x[row, found] for row, found in enumerate(columns)])
            dense = np.zeros_like(self.x)
            for row, found in enumerate(columns):
                dense[row, found] = self.x[row, found]
            self.x = dense
        if scaling:
            self.sa, self.sb = (rng.integers(117, 138, (rows, scaling[0])) for rows in (m, n))
        self.split = m == 128 and not sparse

    def body(self, in_tensor_memory: bool) -> tuple[str, list[Any]]:
        """The text up to the commit, and the image of each CTA."""
        half, columns = self.m // 2, self.n // 2
        code = 1 if self.kind in PACKED else CODES[self.element]
        bits = code << 7 | code << 10 | (self.n >> 3) << 17 | (self.m >> 4) << 24 | self.sparse << 2
        bits |= 1 << 23 if self.scaling else (2 if self.kind == "i8" else 1) << 4
        images, starts = [], np.zeros(0, int)
        for rank in range(2):
            rows = slice(rank * half, rank * half + half)
            a = shared_rows(self.given[rows], self.element, self.kind, self.rng)
            b = shared_rows(self.y[rank * columns :][:columns], self.element, self.kind, self.rng)
            lines = tensor_rows(self.given[rows], self.element, self.kind, self.rng)
            held = np.zeros((128, lines.shape[1]), np.uint8)
            if half == 128:
                held[:] = lines
            elif self.sparse:
                held[np.arange(64) % 16 + np.arange(64) // 16 * 32] = lines
            else:  # one copy for each half of the columns
                held[:64], held[64:] = lines, lines
            parts = [core_image(a), core_image(b), held.reshape(-1)]
            words = metadata_words(self.entries[rows], self.element, 0, half, self.rng) if self.sparse else np.zeros(2)
            parts.append(np.ascontiguousarray(words).view(np.uint8).reshape(-1))
            if self.scaling:
                parts.append(scale_image(self.sa[rows], 0, self.rng))
                # windows 0 and 1 have the scales of the first half of the columns, 2 and 3 those of the second
                per = [self.sb[:columns], self.sb[columns:]] if self.split else [self.sb, self.sb]
                first, second = (scale_image(s, 0, self.rng).reshape(-1, 32, 16)[0] for s in per)
                parts.append(np.concatenate([first, first, second, second]).reshape(-1))
            starts = np.cumsum([0] + [-(-len(p) // 128) * 128 for p in parts])
            image = np.zeros(starts[-1], np.uint8)
            for start, part in zip(starts, parts):
                image[start : start + len(part)] = part
            images.append(image)
        text = f"mov.u32 %idesc, {bits}; setp.ne.u32 %add, 0, 0;\n"
        for name, column in (("200", 128), ("201", 136), ("202", 160), ("203", 192)):
            text += f"add.u32 %r{name}, %d, {column};\n"
        if in_tensor_memory:
            count = held.shape[1] // 4
            text += f"mov.u32 %a, s+{starts[2]}; mad.lo.u32 %a, %t, {4 * count}, %a; add.u32 %r204, %addr, 192;\n"
            text += "\n".join(f"ld.shared.u32 %r{j}, [%a+{4 * j}];" for j in range(count))
            text += f"\ntcgen05.st.sync.aligned.32x32b.x{count}.b32 [%r204], {registers(count)};\n"
        if self.sparse:
            text += f"mov.u32 %a, s+{starts[3]}; mad.lo.u32 %a, %t, 8, %a; ld.shared.v2.u32 {registers(2)}, [%a];\n"
            text += f"add.u32 %r204, %addr, 160; tcgen05.st.sync.aligned.32x32b.x2.b32 [%r204], {registers(2)};\n"
        text += "tcgen05.wait::st.sync.aligned; tcgen05.fence::before_thread_sync;\n" + TOGETHER
        text += "tcgen05.fence::after_thread_sync;\n" + LEADER
        if self.scaling:
            text += descriptor(f"s+{starts[4]}", 128, 128, 0)
            text += "@%one tcgen05.cp.cta_group::2.32x128b.warpx4 [%r200], %tmp;\n"
            text += descriptor(f"s+{starts[5]}", 128, 128, 0)
            text += "@%one tcgen05.cp.cta_group::2.128x128b [%r201], %tmp;\n"
        for register, start, rows_ in (("%da", starts[0], a), ("%db", starts[1], b)):
            text += descriptor(f"s+{start}", 128, rows_.shape[1] // 16 * 128, 0) + f"mov.b64 {register}, %tmp;\n"
        name = f"tcgen05.mma{'.sp' if self.sparse else ''}.cta_group::2.kind::{self.kind}"
        name += ".block_scale" if self.scaling else ""
        left, metadata = "[%r203]" if in_tensor_memory else "%da", "[%r202], " if self.sparse else ""
        scales = "[%r200], [%r201], " if self.scaling else ""
        return text + f"@%one {name} [%d], {left}, %db, {metadata}%idesc, {scales}%add;\n", images

    def run(self, in_tensor_memory: bool = False, seed: int = 0) -> tuple[Any, Report]:
        """D [m, n] as f32, and the report."""
        text, images = self.body(in_tensor_memory)
        width = self.n // 2 if self.split else self.n
        text += COMMIT + f"tcgen05.ld.sync.aligned.32x32b.x{width}.b32 {registers(width)}, [%addr];\n"
        out, report, lines = run(text + "tcgen05.wait::ld.sync.aligned;\n", images, width, seed)
        self.module = "\n".join(lines)
        if self.split:
            d = np.concatenate([np.concatenate([out[:, :64], out[:, 64:]], axis=2)[rank] for rank in range(2)])
        elif self.m == 256:
            d = out.reshape(256, width)
        else:
            d = out.reshape(2, 4, 32, width)[:, :, :16].reshape(128, width)
        return d, report

    def check(self, d: Any) -> None:
        x, y = self.x, self.y
        if self.scaling:
            block = self.k // self.scaling[0]
            x = x * np.repeat(scale_values(self.sa, self.scaling[1]), block, axis=1)
            y = y * np.repeat(scale_values(self.sb, self.scaling[1]), block, axis=1)
        exact, terms = x @ y.T, np.abs(x) @ np.abs(y).T
        got = d.view(np.int32 if self.kind == "i8" else np.float32)
        assert (np.abs(got - exact) <= 2.0**-24 * np.abs(exact) + 2.0**-48 * terms).all()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("in_tensor_memory", [False, True])
@pytest.mark.parametrize("m", [128, 256])
@pytest.mark.parametrize(("kind", "element"), [("f16", "bf16"), ("tf32", "tf32"), ("f8f6f4", "e3m2"), ("i8", "s8")])
def test_products(kind: str, element: str, m: int, in_tensor_memory: bool, sparse: bool) -> None:
    case = Case(kind, element, m, 64, None, sparse)
    d, report = case.run(in_tensor_memory, seed=m % 3)
    assert not report.findings, report.findings[0].render()
    case.check(d)
    assert report.counters.mma == {f"tcgen05{'.sp' if sparse else ''}.m{m}n64k{case.k}.{element}": 1}
    wp.check_module(case.module, "sm_100a")


@pytest.mark.parametrize("m", [128, 256])
@pytest.mark.parametrize(
    ("kind", "element", "scaling"), [("mxf8f6f4", "e4m3", (1, "ue8m0")), ("mxf4", "e2m1", (2, "ue8m0"))]
)
def test_scaled_products(kind: str, element: str, scaling: tuple[int, str], m: int) -> None:
    for seed in range(2):
        case = Case(kind, element, m, 64, scaling, False, seed)
        d, report = case.run(seed=seed)
        assert not report.findings, report.findings[0].render()
        case.check(d)
        wp.check_module(case.module, "sm_100a")


def test_lanes_that_stay() -> None:
    """The mask has a bit for every lane of both CTAs."""
    case = Case("f16", "f16", 256, 32)
    text, images = case.body(False)
    masks = "{" + ", ".join(f"%r{210 + j}" for j in range(8)) + "}"
    kept = [0, 0, 0x10, 0, 1, 0, 0, 0xFFFFFFFF]
    moves = "".join(f"mov.b32 %r{210 + j}, {value};\n" for j, value in enumerate(kept))
    first = text.rindex("@%one tcgen05.mma")
    again = text[first:].replace("%idesc, %add", f"%idesc, {masks}, %add")
    text += moves + "setp.eq.u32 %add, 0, 0;\n" + again + COMMIT
    text += f"tcgen05.ld.sync.aligned.32x32b.x32.b32 {registers(32)}, [%addr];\ntcgen05.wait::ld.sync.aligned;\n"
    out, report, _ = run(text, images, 32)
    assert not report.findings, report.findings[0].render()
    stays = np.array([bool(kept[lane // 32] >> lane % 32 & 1) for lane in range(256)])
    want = np.where(stays, 1.0, 2.0)[:, None] * (case.x @ case.y.T)
    np.testing.assert_allclose(out.reshape(256, 32).view(np.float32), want, rtol=1e-6, atol=1e-5)


def faults(change: Any) -> list[tuple[str, str]]:
    case = Case("f16", "f16", 256, 32)
    text, images = case.body(False)
    text += COMMIT + f"tcgen05.ld.sync.aligned.32x32b.x32.b32 {registers(32)}, [%addr];\n"
    _, report, lines = run(change(text + "tcgen05.wait::ld.sync.aligned;\n"), images, 32)
    return [(f.code, lines[f.ptx_line - 1]) for f in report.findings]


def test_the_peer_must_be_ready_and_must_wait() -> None:
    found = faults(lambda text: text.replace(TOGETHER, "bar.sync 0;\n", 1))
    assert any(code in ("E951", "E953", "E955") and "tcgen05.mma" in line for code, line in found), found
    found = faults(lambda text: text.replace("multicast::cluster.b64 [bar], %both", "b64 [bar]"))
    assert any(code == "E957" and "try_wait" in line for code, line in found), found
    other = "setp.ne.u32 %q, %rank, 0; @%q bra READ;\nWAITING"
    found = faults(lambda text: text.replace("WAITING", other, 1).replace("tcgen05.ld", "READ: tcgen05.ld", 1))
    assert any(code == "E959" and "tcgen05.ld" in line for code, line in found), found


def test_a_cluster_of_one_has_no_pairs() -> None:
    text = HEAD.replace(".reqnctapercluster 2\n", "") + f"mov.u32 %idesc, {1 << 4 | 4 << 17 | 16 << 24};\n"
    text += "mov.b64 %da, 0; setp.eq.u32 %add, 0, 0;\n"
    text += "@%one tcgen05.mma.cta_group::2.kind::f16 [%d], %da, %da, %idesc, %add;\n" + TAIL
    report = launch(parse_ptx(text), "k", (1,), (128,), [np.zeros(1, np.uint32), np.zeros(1, np.uint32), 4])
    assert any(f.code == "E960" and "cluster" in f.message for f in report.findings)
