"""Everything together for tensor copies and warp groups, on the emulator.

A and B come by bulk tensor copies (`tensor_boxes`) into shared layouts of `hardware_swizzle`, wgmma reads them through
`matrix_descriptor`, the accumulators of `tile_product` are narrowed, go by stmatrix (`matrix_move`) into a swizzled
tile and leave by tensor copies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.arch import load
from tesseracc.emulator import GlobalMemory, TensorMap, launch, parse_ptx
from tesseracc.layout import LinearLayout
from tesseracc.layout.descriptor import TensorBoxes, matrix_descriptor, tensor_boxes
from tesseracc.layout.matrix_load import matrix_move
from tesseracc.layout.select import choose_mma
from tesseracc.layout.shared import swizzled
from tesseracc.layout.swizzle import hardware_swizzle, pattern_of
from tesseracc.layout.tiling import tile_product, warp_grid
from tests.layout.lanes import DTYPES, group, ptx, random_matrix


def tensor_map(memory: GlobalMemory, matrix: Any, kind: str, boxes: TensorBoxes) -> tuple[bytes, int]:
    """(the map, the address of the matrix)."""
    rows, columns = matrix.shape
    address = memory.alloc(matrix.nbytes)
    memory.write(address, matrix.view(np.uint8))
    size = matrix.itemsize
    stored = {"fp8_e4m3": "u8", "i8": "u8", "tf32": "tf32"}.get(kind, kind)
    box = (boxes.box[1], boxes.box[0])
    return TensorMap(stored, address, (columns, rows), (columns * size,), box, swizzle=boxes.swizzle).encode(), address


def copies(boxes: TensorBoxes, start: int, name: str, turned: bool) -> str:
    """Loads of all boxes; `turned`: the tile's dim0 is contiguous in global memory."""
    text = ""
    for (row, column), offset in boxes.copies:
        x, y = (row, column) if turned else (column, row)
        text += (f"add.u32 %dst, %s, {start + offset}; mov.u32 %cx, {x}; mov.u32 %cy, {y};\n"
                 "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 f"[%dst], [%{name}, {{%cx, %cy}}], [%bar];\n")  # fmt: skip
    return text


CASES = [
    ("bf16", (128, 64, 64), "k", "k", 8), ("bf16", (128, 128, 64), "k", "mn", 8), ("f16", (64, 64, 32), "mn", "k", 4),
    ("f16", (64, 128, 64), "mn", "mn", 4), ("bf16", (64, 96, 64), "k", "k", 4),
    ("fp8_e4m3", (64, 64, 128), "k", "k", 4), ("tf32", (128, 32, 32), "k", "k", 8),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "shape", "a_major", "b_major", "warps"), CASES)
def test_product(kind: str, shape: tuple[int, int, int], a_major: str, b_major: str, warps: int) -> None:
    m, n, k = shape
    bits = np.dtype(DTYPES[kind]).itemsize * 8
    choice = choose_mma(load("sm_90"), kind, kind, "f32", shape, warps=warps)
    assert choice is not None and choice.row.op == "wgmma"
    tiling = tile_product(choice, shape, warp_grid(choice, shape, warps))
    assert tiling.c is not None and tiling.grid[1] == tiling.steps[0] == tiling.steps[1] == 1
    a, b = random_matrix(kind, (m, k), 1), random_matrix(kind, (n, k), 2)  # rows x k
    device, maps, image, text = GlobalMemory(), [], 0, ""
    starts, descriptors = [], []
    padded = tiling.c.shape[1]
    for name, matrix, major, rows in (("ma", a, a_major, choice.row.m), ("mb", b, b_major, choice.n)):
        order = (1, 0) if major == "k" else (0, 1)
        height = m if name == "ma" else padded
        memory = hardware_swizzle((height, k), [], bits, [order])
        boxes = tensor_boxes(memory, bits, order[0])
        descriptor = matrix_descriptor(memory, bits, rows, choice.row.k)
        assert boxes is not None and descriptor is not None and descriptor.major == major
        stored = np.zeros((height, k), matrix.dtype)
        stored[: len(matrix)] = matrix
        stored = stored if major == "k" else np.ascontiguousarray(stored.T)
        turned = TensorBoxes((boxes.box[1], boxes.box[0]), boxes.swizzle, 1, ()) if major == "mn" else boxes
        maps.append(tensor_map(device, stored, kind, turned)[0])
        text += copies(boxes, image, name, major == "mn")
        starts.append(image)
        descriptors.append(descriptor)
        image += stored.nbytes
    da, db = descriptors
    # The result, narrowed to 16 bits, in a layout for tensor copies.
    out_layout = swizzled((m, padded), 16, min(128, padded * 2))
    out_boxes = tensor_boxes(out_layout, 16)
    move = matrix_move(tiling.c, out_layout, 16)
    assert move is not None and move.count == 4 and move.wavefronts == move.ideal and out_boxes is not None
    out = np.zeros((m, n), DTYPES["bf16"])
    out_map, address = tensor_map(device, out, "bf16", out_boxes)
    count = choice.registers
    code = f"""mov.b64 %ma, p0; cvta.param.u64 %ma, %ma; mov.b64 %mb, p1; cvta.param.u64 %mb, %mb; mov.b64 %mo, p2;
cvta.param.u64 %mo, %mo; mov.u32 %s, s; mov.u32 %bar, bar; mov.u32 %tid, %tid.x; setp.eq.u32 %first, %tid, 0;
@%first mbarrier.init.shared::cta.b64 [%bar], 1; fence.mbarrier_init.release.cluster; bar.sync 0; @!%first bra GO;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], {image};
{text}GO: mbarrier.try_wait.parity.shared::cta.b64 %done, [%bar], 0; @!%done bra GO;
and.b32 %lane, %tid, 31; shr.u32 %warp, %tid, 5; shr.u32 %cx, %tid, 7;
shr.u32 %dst, %s, 4; cvt.u64.u32 %base, %dst; mul.lo.u32 %cx, %cx, {da.start.at(rows=1)[0] >> 4 if warps > 4 else 0};
cvt.u64.u32 %step, %cx; wgmma.fence.sync.aligned;
"""
    types = f"f32.{ptx(kind)}.{ptx(kind)}"
    flags = f", {int(a_major == 'mn')}, {int(b_major == 'mn')}" if bits == 16 else ""
    for kk in range(tiling.steps[2]):
        at_a, at_b = (start + d.start.at(k=kk)[0] >> 4 for start, d in zip(starts, descriptors))
        code += f"""add.u64 %da, %base, {at_a}; add.u64 %da, %da, %step; add.u64 %db, %base, {at_b};
or.b64 %da, %da, {da.wgmma()}; or.b64 %db, %db, {db.wgmma()};
wgmma.mma_async.sync.aligned.{choice.spelling}.{types} {group("d", count)}, %da, %db, {min(kk, 1)}, 1, 1{flags};
"""
    code += "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; bar.sync 0; mov.u32 %cx, 0;\n"
    for name in ("lane", "warp"):
        for bit, column in enumerate(move.address.bases(name)):
            code += f"bfe.u32 %cy, %{name}, {bit}, 1; mul.lo.u32 %cy, %cy, {column * 2}; xor.b32 %cx, %cx, %cy;\n"
    for step, words in enumerate(move.registers):
        if any(element >= count for word in words for element in word):
            continue  # columns that only pad the layout
        for q, (low, high) in enumerate(words):
            code += f"cvt.rn.bf16x2.f32 %w{q}, %d{high}, %d{low};\n"
        code += f"""xor.b32 %cy, %cx, {move.address.at(step=step)[0] * 2}; add.u32 %dst, %s, %cy;
stmatrix.sync.aligned.m8n8.x4.shared.b16 [%dst], {group("w", 4)};
"""
    code += "fence.proxy.async.shared::cta; bar.sync 0; @!%first bra END;\n"
    for (row, column), offset in out_boxes.copies:
        if column < n:
            code += f"""add.u32 %dst, %s, {offset}; mov.u32 %cx, {column}; mov.u32 %cy, {row};
cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%mo, {{%cx, %cy}}], [%dst];
"""
    code += "cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;\nEND: ret;"
    size = max(image, m * padded * 2)
    module = f""".version 8.8
.target sm_90a
.address_size 64
.shared .align 1024 .b8 s[{size}]; .shared .align 8 .b8 bar[8];
.visible .entry k(.param .align 64 .b8 p0[128], .param .align 64 .b8 p1[128], .param .align 64 .b8 p2[128])
{{
.reg .b64 %ma, %mb, %mo, %base, %step, %da, %db; .reg .b32 %s, %bar, %tid, %lane, %warp, %dst, %cx, %cy, %w<4>;
.reg .f32 %d<{count}>; .reg .pred %first, %done;
{code}
}}
"""
    report = launch(parse_ptx(module), "k", (1,), (32 * warps,), [*maps, out_map], memory=device)
    assert not report.findings, report.findings[0].render()
    segment = device.find(address)
    assert segment is not None
    raw = segment.data[address - segment.base : address - segment.base + out.nbytes]
    want = (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float32).astype(out.dtype)
    assert np.array_equal(raw.view(out.dtype).reshape(m, n), want)
    assert report.counters.bank_conflicts == 0


def test_accumulators_are_operands_of_the_next_product() -> None:
    """Attention: P of 16 bits, in the registers in which S was summed, is A of the second product: nothing moves."""
    first = choose_mma(load("sm_90"), "bf16", "bf16", "f32", (64, 128, 64))
    second = choose_mma(load("sm_90"), "bf16", "bf16", "f32", (64, 64, 128))
    assert first is not None and second is not None
    s = tile_product(first, (64, 128, 64), (1, 1))
    p = tile_product(second, (64, 64, 128), (1, 1))
    assert s.c == p.a
    same = LinearLayout.identity(2, "warp", "dim0")
    assert (s.c or same).in_size("warp") == 4


def test_swizzle_without_patterns_is_the_widest() -> None:
    assert hardware_swizzle((64, 64), [], 16, [(1, 0)]) == swizzled((64, 64), 16, 128)
    narrow = hardware_swizzle((64, 8), [pattern_of(swizzled((64, 8), 16, 0).rename(ins={"offset": "register"}))], 16)
    assert narrow.is_bijective()
