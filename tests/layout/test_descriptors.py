"""Descriptors derived from layouts, by wgmma on the emulator; boxes of tensor copies against their bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.arch import load
from tesseracc.emulator.operations.wgmma import descriptor_offsets
from tesseracc.layout import LinearLayout, parse_layout
from tesseracc.layout import shared as sh
from tesseracc.layout.descriptor import instruction_descriptor, matrix_descriptor, tensor_boxes
from tesseracc.layout.select import choose_mma
from tests.emulator.harness import run_text
from tests.layout.lanes import DTYPES, gather, group, ptx, random_matrix, register_code

N = 64
LAYOUTS = {
    "128": lambda shape, bits, order: sh.swizzled(shape, bits, 128, order),
    "64": lambda shape, bits, order: sh.swizzled(shape, bits, 64, order),
    "32": lambda shape, bits, order: sh.swizzled(shape, bits, 32, order),
    "none": sh.core_matrices,
}


def load_code(images: list[Any]) -> tuple[str, str, list[int]]:
    """(code that copies parameter 1 to shared memory, module, offsets of the images in it)."""
    starts, size = [], 0
    for image in images:
        starts.append(size)
        size += -(-image.nbytes // 1024) * 1024
    text = f""".reg .b32 %s, %w, %j; .reg .b64 %g, %da, %db; .reg .pred %t;
ld.param.u64 %g, [p1]; mov.u32 %s, s; mad.wide.u32 %g, %i, 4, %g; mad.lo.u32 %s, %i, 4, %s; mov.u32 %j, %i;
LOOP: ld.global.u32 %w, [%g]; st.shared.u32 [%s], %w; add.u64 %g, %g, 512; add.u32 %s, %s, 512; add.u32 %j, %j, 128;
setp.lt.u32 %t, %j, {size // 4}; @%t bra LOOP;
fence.proxy.async.shared::cta; bar.sync 0; mov.u32 %s, s; shr.u32 %s, %s, 4;
"""
    return text, f".shared .align 1024 .b8 s[{size}];", starts


FORMS = [
    ("bf16", "128", "k", "128", "k"), ("bf16", "64", "k", "none", "k"), ("bf16", "32", "k", "128", "mn"),
    ("bf16", "none", "k", "64", "mn"), ("f16", "none", "mn", "32", "mn"), ("f16", "128", "mn", "none", "mn"),
    ("f16", "64", "mn", "64", "k"), ("f16", "32", "mn", "32", "k"), ("i8", "128", "k", "64", "k"),
    ("tf32", "128", "k", "128", "k"), ("fp8_e4m3", "none", "k", "32", "k"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "a_form", "a_major", "b_form", "b_major"), FORMS)
def test_blocks_of_operands(kind: str, a_form: str, a_major: str, b_form: str, b_major: str) -> None:
    """All blocks of a 128 x 64-byte A and a 128-column B, each by its start in the descriptor."""
    bits = np.dtype(DTYPES[kind]).itemsize * 8
    k = 256 // bits
    depth = 4 * k
    order = {"k": (1, 0), "mn": (0, 1)}
    a, b = random_matrix(kind, (128, depth), 1), random_matrix(kind, (128, depth), 2)
    memories = [LAYOUTS[form](x.shape, bits, order[major])
                for form, major, x in ((a_form, a_major, a), (b_form, b_major, b))]  # fmt: skip
    found = [matrix_descriptor(memory, bits, rows, k) for memory, rows in zip(memories, (64, N))]
    for descriptor, form, major in zip(found, (a_form, b_form), (a_major, b_major)):
        assert descriptor is not None and descriptor.major == major
        assert descriptor.swizzle == (0 if form == "none" else int(form))
    da, db = found
    assert da is not None and db is not None
    images = [np.ascontiguousarray(x.reshape(-1)[memory.table()]) for x, memory in zip((a, b), memories)]
    text, module, starts = load_code(images)
    image = np.zeros(sum(-(-x.nbytes // 1024) * 1024 for x in images), np.uint8)
    for start, x in zip(starts, images):
        image[start : start + x.nbytes] = x.view(np.uint8)
    acc = "s32" if kind == "i8" else "f32"
    flags = "" if acc == "s32" else ", 1, 1"
    flags += f", {int(a_major == 'mn')}, {int(b_major == 'mn')}" if bits == 16 else ""
    types = f"{acc}.{ptx(kind)}.{ptx(kind)}"
    layout = parse_layout(f"#wgmma.m64n{N}.c")
    for row, column in ((0, 1), (1, 0)):
        code = ""
        for step in range(4):
            code += f"""cvt.u64.u32 %da, %s; add.u64 %db, %da, {starts[1] + db.start.at(rows=column, k=step)[0] >> 4};
add.u64 %da, %da, {da.start.at(rows=row, k=step)[0] >> 4}; or.b64 %da, %da, {da.wgmma()}; or.b64 %db, %db, {db.wgmma()};
wgmma.mma_async.sync.aligned.m64n{N}k{k}.{types} {group("d", N // 2)}, %da, %db, {min(step, 1)}{flags};
"""
        out = np.zeros((128, N // 2), np.uint32)
        prologue, store = register_code({"d": N // 2}, {"d": False})
        code = f"wgmma.fence.sync.aligned;\n{code}wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n"
        report = run_text(prologue + text + code + store + "ret;", [out, image], block=(128,), module=module)
        assert not report.findings, report.findings[0].render()
        got = gather(out, np.int32 if acc == "s32" else np.float32, layout, (64, N))
        left = a[64 * row : 64 * row + 64].astype(np.float64)
        right = b[N * column : N * column + N].astype(np.float64)
        assert np.array_equal(got.astype(np.float64), left @ right.T)


# Rows and blocks of k, where the contiguous axis is as long as the swizzle (or 16 bytes).
TILES = [
    (bits, form, major, rows, blocks)
    for bits in (8, 16, 32)
    for form in LAYOUTS
    for major in ("k", "mn")
    for rows, blocks in ((64, 4), (128, 1), (8, 2), (256, 2), (16, 8))
    if (32 * blocks if major == "k" else rows * bits // 8) >= (16 if form == "none" else int(form))
]


@pytest.mark.parametrize(("bits", "form", "major", "height", "blocks"), TILES)
def test_every_element_of_every_block(bits: int, form: str, major: str, height: int, blocks: int) -> None:
    """The addresses that the emulator reads by a descriptor are those of the layout."""
    k, rows = 256 // bits, min(64, height)
    memory = LAYOUTS[form]((height, blocks * k), bits, (1, 0) if major == "k" else (0, 1))
    found = matrix_descriptor(memory, bits, rows, k)
    assert found is not None and found.major == major
    table = memory.inverse()
    for row_block in range(height // rows):
        for k_block in range(blocks):
            start = found.start.at(rows=row_block, k=k_block)[0]
            at = descriptor_offsets(found.wgmma() | start >> 4, rows, k, bits // 8, major == "k")
            r, c = np.meshgrid(np.arange(rows) + row_block * rows, np.arange(k) + k_block * k, indexing="ij")
            assert np.array_equal(at, table.apply({"dim0": r, "dim1": c})["offset"] * (bits // 8))


def test_descriptors_of_other_layouts() -> None:
    assert matrix_descriptor(sh.linear((64, 64)), 16, 64, 16) is None  # dense rows of 128 bytes
    dense = matrix_descriptor(sh.linear((64, 8)), 16, 64, 8)
    assert dense is not None and dense.swizzle == 0 and dense.stride == 128
    same = matrix_descriptor(sh.xor_swizzle((64, 64), 8, 1, 8), 16, 64, 16)
    assert same is not None and same.swizzle == 128 and same.stride == 1024 and same.alignment == 1024
    assert same.start.at(k=1) == (32,) and same.start.at(k=3) == (96,)
    assert matrix_descriptor(sh.xor_swizzle((64, 64), 8, 2, 4), 16, 64, 16) is None
    assert matrix_descriptor(sh.swizzled((8, 64), 16, 128), 16, 64, 16) is None  # too few rows
    b = matrix_descriptor(sh.swizzled((16, 128), 16, 128), 16, 128, 16, row_axis=1)
    assert b is not None and b.major == "mn" and b.leading == 16 * 128 and b.stride == 1024
    assert matrix_descriptor(LinearLayout.make({"offset": [[0, 1], [0, 0]]}, (1, 2)), 16, 8, 16) is None
    assert same.wgmma() == 1 << 16 | 64 << 32 | 1 << 62
    assert same.tcgen05() == 1 << 16 | 64 << 32 | 1 << 46 | 2 << 61


def test_instruction_descriptors() -> None:
    blackwell = load("sm_100")

    def word(kind: str, acc: str, m: int, n: int, a: Any = "k", b: Any = "k") -> tuple[str, int]:
        choice = choose_mma(blackwell, kind, kind, acc, (m, n, 64))
        assert choice is not None and choice.row.op == "tcgen05"
        return instruction_descriptor(choice, a, b)

    assert word("f16", "f16", 128, 256) == ("f16", 32 << 17 | 8 << 24)
    assert word("bf16", "f32", 64, 64, "mn", "mn") == ("f16", 1 << 4 | 1 << 7 | 1 << 10 | 3 << 15 | 8 << 17 | 4 << 24)
    assert word("tf32", "f32", 128, 128) == ("tf32", 1 << 4 | 2 << 7 | 2 << 10 | 16 << 17 | 8 << 24)
    assert word("fp8_e5m2", "f32", 128, 16) == ("f8f6f4", 1 << 4 | 1 << 7 | 1 << 10 | 2 << 17 | 8 << 24)
    assert word("i8", "i32", 128, 32) == ("i8", 2 << 4 | 1 << 7 | 1 << 10 | 4 << 17 | 8 << 24)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("span", [0, 32, 64, 128])
@pytest.mark.parametrize("fast", [0, 1])
def test_boxes(bits: int, span: int, fast: int) -> None:
    """The bytes that the copies of all boxes write, by the documentation's formula, are the layout's."""
    size = bits // 8
    width = span // size if span else 64
    shape = (512, 2 * width if span else width) if fast == 1 else (2 * width if span else width, 512)
    memory = sh.swizzled(shape, bits, span, (fast, 1 - fast))
    boxes = tensor_boxes(memory, bits, fast)
    assert boxes is not None and boxes.swizzle == span and max(boxes.box) <= 256
    wide, high = boxes.box[fast], boxes.box[1 - fast]
    table = memory.inverse()
    seen = 0
    for corner, start in boxes.copies:
        for y in range(0, high, 37):
            for x in range(wide):
                address = start + (y * wide + x) * size
                address ^= (address >> 7) % (span // 16) << 4 if span else 0
                place = [0, 0]
                place[fast], place[1 - fast] = corner[fast] + x, corner[1 - fast] + y
                assert table.apply({"dim0": place[0], "dim1": place[1]})["offset"] * size == address
        seen += wide * high
    assert seen == shape[0] * shape[1]


def test_layouts_without_boxes() -> None:
    assert tensor_boxes(sh.xor_swizzle((64, 64), 8, 2, 4), 16) is None
    assert tensor_boxes(sh.linear((64, 512)), 16) is None
    assert tensor_boxes(sh.linear((64, 4)), 16) is None  # 8 bytes a row
    assert tensor_boxes(sh.swizzled((64, 64), 16, 128), 16, fast=0) is None
    assert tensor_boxes(LinearLayout.identity(64, "offset", "dim0"), 16) is None
