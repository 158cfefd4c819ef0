"""Each row of each target's table of matrix instructions, executed on the emulator.

Random operands are scattered into registers by the row's layouts, the instruction runs, and the accumulators gathered
by the layout equal the product in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.arch import MmaRow, load, names
from tesseracc.layout import parse_layout
from tesseracc.layout.gf2 import log2
from tesseracc.layout.shared import swizzled
from tests.emulator.harness import run_text
from tests.layout.lanes import DTYPES, gather, group, ptx, random_matrix, register_code, run_registers, scatter

ROWS: dict[tuple[Any, ...], MmaRow] = {}
for target in names():
    for row in load(target).mma:
        if load(target).kind == "cuda":
            ROWS.setdefault((row.op, row.shape, row.a, row.b, row.acc, row.n), row)


def rows(op: str) -> list[Any]:
    return [pytest.param(r, id=f"{r.shape}-{r.a}-{r.b}-{r.acc}") for r in ROWS.values() if r.op == op]


def expected(a: Any, b: Any, c: Any, acc: str) -> Any:
    return (a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64)).astype(DTYPES[acc])


def test_every_kind_of_instruction_is_executed() -> None:
    assert {row.op for row in ROWS.values()} == {"mma.sync", "wmma", "wgmma", "tcgen05"}
    assert all(row.c_layout for row in ROWS.values() if row.op != "wmma")


@pytest.mark.parametrize("row", rows("mma.sync"))
def test_mma(row: MmaRow) -> None:
    (n,) = row.n
    a, b = random_matrix(row.a, (row.m, row.k), 1), random_matrix(row.b, (row.k, n), 2)
    c = random_matrix("f16", (row.m, n), 3).astype(DTYPES[row.acc])
    layouts = [parse_layout("#" + name.format(n=n)) for name in (row.a_layout, row.b_layout, row.c_layout)]
    fa, fb, fc = (scatter(x, layout, 32) for x, layout in zip((a, b, c), layouts))
    out = np.zeros_like(fc)
    types = f"{ptx(row.acc)}.{ptx(row.a)}.{ptx(row.b)}.{ptx(row.acc)}"
    text = f"mma.sync.aligned.{row.shape.format(n=n)}.row.col.{types} {group('d', fc.shape[1])}, "
    text += f"{group('a', fa.shape[1])}, {group('b', fb.shape[1])}, {group('c', fc.shape[1])};\n"
    run_registers(text, {"a": fa, "b": fb, "c": fc}, out, 32)
    assert np.array_equal(gather(out, DTYPES[row.acc], layouts[2], (row.m, n)), expected(a, b, c, row.acc))


@pytest.mark.parametrize("row", rows("wmma"))
def test_wmma_through_memory(row: MmaRow) -> None:
    (n,) = row.n
    a, b = random_matrix(row.a, (row.m, row.k), 1), random_matrix(row.b, (row.k, n), 2)
    c = random_matrix("f16", (row.m, n), 3).astype(DTYPES[row.acc])
    out = np.zeros_like(c)
    na, nc = (8, 4 if row.acc == "f16" else 8) if row.a == "f16" else (2, 8)
    shape = f"m{row.m}n{n}k{row.k}"
    operands = "" if row.a == "f16" else f"{ptx(row.a)}.{ptx(row.b)}."
    types = f"{ptx(row.acc)}.{operands}{ptx(row.acc)}"
    text = f"""
.reg .b32 %a<{na}>, %b<{na}>, %c<{nc}>, %d<{nc}>; .reg .b64 %q<4>;
ld.param.u64 %q0, [p0]; ld.param.u64 %q1, [p1]; ld.param.u64 %q2, [p2]; ld.param.u64 %q3, [p3];
wmma.load.a.sync.aligned.row.{shape}.global.{ptx(row.a)} {group("a", na)}, [%q0];
wmma.load.b.sync.aligned.row.{shape}.global.{ptx(row.b)} {group("b", na)}, [%q1];
wmma.load.c.sync.aligned.row.{shape}.global.{ptx(row.acc)} {group("c", nc)}, [%q2];
wmma.mma.sync.aligned.row.row.{shape}.{types} {group("d", nc)}, {group("a", na)}, {group("b", na)}, {group("c", nc)};
wmma.store.d.sync.aligned.row.{shape}.global.{ptx(row.acc)} [%q3], {group("d", nc)};
ret;"""
    report = run_text(text, [x.view(np.uint8) for x in (a, b, c, out)])
    assert not report.findings, report.findings[0].render()
    assert np.array_equal(out, expected(a, b, c, row.acc))


def shared_image(matrix: Any, bits: int) -> tuple[Any, int]:
    """(words of a K-major operand [rows, k] in its widest swizzle, descriptor without its address)."""
    span = next(s for s in (128, 64, 32) if matrix.shape[1] * bits >= 8 * s)
    layout = swizzled((1 << (matrix.shape[0] - 1).bit_length(), matrix.shape[1]), bits, span)
    padded = np.zeros(layout.shape, matrix.dtype)
    padded[: matrix.shape[0]] = matrix
    image = padded.reshape(-1)[layout.table()]
    mode = {128: 1, 64: 2, 32: 3}[span]
    return image.view(np.uint32), 1 << 16 | 8 * span >> 4 << 32 | mode << 62


WIDTHS = (8, 16, 24, 64, 96, 256)


@pytest.mark.parametrize("from_registers", [False, True], ids=["shared", "registers"])
@pytest.mark.parametrize("row", rows("wgmma"))
def test_wgmma(row: MmaRow, from_registers: bool) -> None:
    bits = 32 if row.a == "tf32" else 8 * np.dtype(DTYPES[row.a]).itemsize
    for n in [w for w in WIDTHS if w in row.n]:
        a, b = random_matrix(row.a, (64, row.k), n), random_matrix(row.b, (row.k, n), n + 1)
        c = random_matrix("f16", (64, n), n + 2).astype(DTYPES[row.acc])
        layout = parse_layout("#" + row.c_layout.format(n=n))
        a_layout = parse_layout("#" + row.a_layout)
        image_a, desc_a = shared_image(a, bits)
        image_b, desc_b = shared_image(np.ascontiguousarray(b.T), bits)
        size = -(-4 * len(image_a) // 1024) * 1024
        image = np.zeros((size + 1024 * -(-len(image_b) // 256)) // 4, np.uint32)
        image[: len(image_a)], image[size // 4 : size // 4 + len(image_b)] = image_a, image_b
        count = n * 64 // 128 * np.dtype(DTYPES[row.acc]).itemsize // 4
        elements = n * 64 // 128
        fc = scatter(c, layout, 128, elements)
        fa = scatter(a, a_layout, 128)
        tail = ", 0, 0" if bits == 16 and not from_registers else ", 0" if bits == 16 else ""
        first = group("a", fa.shape[1]) if from_registers else "%da"
        signs = "" if row.acc == "i32" else ", 1, 1"
        types = f"{ptx(row.acc)}.{ptx(row.a)}.{ptx(row.b)}"
        moves = "".join(f"mov.b32 %d{r}, %c{r};\n" for r in range(count))
        text = f"""
.reg .b32 %s, %w, %j; .reg .b64 %g, %q, %da, %db; .reg .pred %t;
ld.param.u64 %g, [p3]; mov.u32 %s, s; mad.wide.u32 %g, %i, 4, %g; mad.lo.u32 %s, %i, 4, %s; mov.u32 %j, %i;
LOOP: ld.global.u32 %w, [%g]; st.shared.u32 [%s], %w; add.u64 %g, %g, 512; add.u32 %s, %s, 512; add.u32 %j, %j, 128;
setp.lt.u32 %t, %j, {len(image)}; @%t bra LOOP;
fence.proxy.async.shared::cta; bar.sync 0;
mov.u32 %s, s; shr.u32 %s, %s, 4; cvt.u64.u32 %da, %s; add.u64 %db, %da, {size >> 4};
or.b64 %da, %da, {desc_a}; or.b64 %db, %db, {desc_b};
{moves}wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.{row.shape.format(n=n)}.{types} {group("d", count)}, {first}, %db, 1{signs}{tail};
wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
"""
        out = np.zeros_like(fc)
        operands = {"a": fa, "c": fc}
        run_with_image(text, operands, out, image)
        assert np.array_equal(gather(out, DTYPES[row.acc], layout, (64, n)), expected(a, b, c, row.acc))


def run_with_image(text: str, operands: dict[str, Any], out: Any, image: Any) -> None:
    arrays = {**operands, "d": out}
    load_code, store = register_code({k: v.shape[1] for k, v in arrays.items()}, dict.fromkeys(arrays, False))
    module = f".shared .align 1024 .b8 s[{image.nbytes}];"
    report = run_text(load_code + text + store + "ret;", [*arrays.values(), image], block=(128,), module=module)
    assert not report.findings, report.findings[0].render()


@pytest.mark.parametrize("row", rows("tcgen05"))
def test_tensor_memory_accumulators(row: MmaRow) -> None:
    for n in row.n:
        layout = parse_layout("#" + row.c_layout.format(n=n))
        assert layout.is_injective() and layout.in_size("dim0") == row.m
        assert layout.out_size("column") == 1 << log2(layout.in_size("dim1"))
