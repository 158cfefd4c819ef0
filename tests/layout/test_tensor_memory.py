"""tcgen05 on the emulator: every row of the tables, operands by descriptors, accumulators read by their layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.arch import MmaRow, load
from tesseracc.layout import fragments as fr
from tesseracc.layout import shared as sh
from tesseracc.layout.descriptor import instruction_descriptor, matrix_descriptor
from tesseracc.layout.select import choose_mma
from tesseracc.layout.tiling import tile_product
from tests.emulator.harness import run_text
from tests.layout.lanes import DTYPES, gather, random_matrix

ROWS = [row for row in load("sm_100").mma if row.op == "tcgen05"]
REGISTERS = {"32x32b": 1, "16x64b": 1, "16x128b": 2, "16x256b": 4}  # of one repetition
COLUMNS = {"32x32b": 1, "16x64b": 2, "16x128b": 4, "16x256b": 8}


def tile(matrix: Any, bits: int, major: str) -> tuple[Any, Any]:
    """(the matrix in shared memory, in its widest swizzle; that layout). Rows are filled up to a power of two."""
    rows = 1 << (len(matrix) - 1).bit_length()
    padded = np.zeros((rows, matrix.shape[1]), matrix.dtype)
    padded[: len(matrix)] = matrix
    order = (1, 0) if major == "k" else (0, 1)
    span = next(s for s in (128, 64, 32) if padded.shape[order[0]] * bits >= 8 * s)
    memory = sh.swizzled(padded.shape, bits, span, order)
    return np.ascontiguousarray(padded.reshape(-1)[memory.table()]), memory


def loads(shape: str, n: int, address: str, first: int) -> tuple[str, int]:
    """tcgen05.ld of n columns into %d{first}.., in pieces of powers of two; and the registers that they fill."""
    text, column = "", 0
    while column < n:
        left = (n - column) // COLUMNS[shape]
        repeat = min(1 << left.bit_length() - 1, 128 // REGISTERS[shape])
        count = repeat * REGISTERS[shape]
        regs = "{" + ", ".join(f"%d{first + r}" for r in range(count)) + "}"
        text += f"add.u32 %x, {address}, {column}; tcgen05.ld.sync.aligned.{shape}.x{repeat}.b32 {regs}, [%x];\n"
        column += repeat * COLUMNS[shape]
        first += count
    return text, first


def run(row: MmaRow, n: int, a_major: str, b_major: str, shape: str, steps: int = 2) -> None:
    """A product over `steps` blocks of k."""
    bits = 32 if row.a == "tf32" else 8 * np.dtype(DTYPES[row.a]).itemsize
    depth = row.k * steps
    a, b = random_matrix(row.a, (row.m, depth), n), random_matrix(row.b, (n, depth), n + 1)
    choice = choose_mma(load("sm_100"), row.a, row.b, row.acc, (row.m, n, depth))
    assert choice is not None and choice.row.m == row.m and choice.n == n
    kind, word = instruction_descriptor(choice, a_major, b_major)  # type: ignore[arg-type]
    (image_a, memory_a), (image_b, memory_b) = tile(a, bits, a_major), tile(b, bits, b_major)
    da = matrix_descriptor(memory_a, bits, row.m, row.k)
    db = matrix_descriptor(memory_b, bits, n, row.k)
    assert da is not None and db is not None and (da.major, db.major) == (a_major, b_major)
    start = -(-image_a.nbytes // 1024) * 1024
    image = np.zeros(start + -(-image_b.nbytes // 1024) * 1024, np.uint8)
    image[: image_a.nbytes], image[start : start + image_b.nbytes] = image_a.view(np.uint8), image_b.view(np.uint8)
    products = ""
    for step in range(steps):
        at = [d.start.at(k=step)[0] >> 4 for d in (da, db)]
        products += f"""add.u64 %da, %base, {at[0]}; add.u64 %db, %base, {(start >> 4) + at[1]};
or.b64 %da, %da, {da.tcgen05()}; or.b64 %db, %db, {db.tcgen05()}; setp.ne.u32 %use, {step}, 0;
tcgen05.mma.cta_group::1.kind::{kind} [%t], %da, %db, {word}, %use;
"""
    allocated = max(32, 1 << (n - 1).bit_length())
    layout = fr.tmem_fragment(row.m, n, shape)
    halves = 2 if row.m == 128 and shape != "32x32b" else 1
    text, count = "", 0
    for half in range(halves):
        if half:  # its registers follow those of the whole power of two
            count = layout.in_size("register") // 2
        part, count = loads(shape, n, "%lane0", count)
        text += f"mad.lo.u32 %lane0, %w, {32 << 16}, %t; add.u32 %lane0, %lane0, {half * 16 << 16};\n{part}"
    body = f"""
.reg .b32 %i, %s, %v, %j, %w, %t, %x, %lane0, %bar, %slot, %d<{count}>; .reg .b64 %g, %q, %da, %db, %base;
.reg .pred %c, %first, %use;
mov.u32 %i, %tid.x; shr.u32 %w, %i, 5; setp.eq.u32 %first, %i, 0; mov.u32 %bar, bar; mov.u32 %slot, slot;
ld.param.u64 %g, [p0]; mov.u32 %s, s; mad.wide.u32 %g, %i, 4, %g; mad.lo.u32 %s, %i, 4, %s; mov.u32 %j, %i;
LOOP: ld.global.u32 %v, [%g]; st.shared.u32 [%s], %v; add.u64 %g, %g, 512; add.u32 %s, %s, 512; add.u32 %j, %j, 128;
setp.lt.u32 %c, %j, {len(image) // 4}; @%c bra LOOP;
@%first mbarrier.init.shared::cta.b64 [%bar], 1; fence.proxy.async.shared::cta;
setp.ne.u32 %c, %w, 0; @%c bra READY;
tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%slot], {allocated};
READY: bar.sync 0; ld.shared.u32 %t, [%slot]; mov.u32 %s, s; shr.u32 %s, %s, 4; cvt.u64.u32 %base, %s;
@!%first bra WAIT;
{products}tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%bar];
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %c, [%bar], 0; @!%c bra WAIT;
tcgen05.fence::after_thread_sync;
{"".join(f"mov.b32 %d{r}, 0;" for r in range(count))}
{text}tcgen05.wait::ld.sync.aligned;
ld.param.u64 %q, [p1]; mad.wide.u32 %q, %i, {4 * count}, %q;
{"".join(f"st.global.b32 [%q+{4 * r}], %d{r};" for r in range(count))}
bar.sync 0; setp.ne.u32 %c, %w, 0; @%c bra END;
tcgen05.dealloc.cta_group::1.sync.aligned.b32 %t, {allocated};
END: ret;"""
    out = np.zeros((128, count), np.uint32)
    module = f".shared .align 1024 .b8 s[{len(image)}]; .shared .align 8 .b8 bar[8]; .shared .align 4 .b8 slot[4];"
    report = run_text(body, [image.view(np.uint32), out], block=(128,), module=module)
    assert not report.findings, report.findings[0].render()
    if row.acc == "f16":  # one element a column
        held = np.ascontiguousarray(out.astype(np.uint16))
    else:
        held = out
    used = [r for r in range(count) if layout.at(register=r)[1] < n]
    got = gather_registers(held.view(DTYPES[row.acc]), used, layout, (row.m, n))
    assert np.array_equal(got, (a.astype(np.float64) @ b.astype(np.float64).T).astype(DTYPES[row.acc]))


def gather_registers(values: Any, used: list[int], layout: Any, shape: tuple[int, int]) -> Any:
    """Like `gather`, of registers that do not lie one after the other."""
    if used == list(range(len(used))):
        return gather(np.ascontiguousarray(values[:, used]), values.dtype, layout, shape)
    thread, register = np.meshgrid(np.arange(128), used, indexing="ij")
    at = layout.apply({"register": register, "lane": thread % 32, "warp": thread // 32})
    out = np.zeros(shape, values.dtype)
    out[at["dim0"], at["dim1"]] = values[:, used]
    assert len(np.unique(at["dim0"] * shape[1] + at["dim1"])) == shape[0] * shape[1]
    return out


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"m{r.m}k{r.k}-{r.a}-{r.b}-{r.acc}")
def test_every_row(row: MmaRow) -> None:
    for n in sorted({row.n[0], 48, 128, row.n[-1]}):
        run(row, n, "k", "k", "32x32b" if row.m == 128 else "16x256b")


@pytest.mark.parametrize("m", [64, 128])
@pytest.mark.parametrize("shape", ["16x64b", "16x128b", "16x256b"])
def test_every_way_to_load(m: int, shape: str) -> None:
    row = next(r for r in ROWS if r.m == m and r.a == "bf16")
    run(row, 64, "k", "k", shape)


@pytest.mark.parametrize(("a", "b"), [("mn", "k"), ("k", "mn"), ("mn", "mn")])
@pytest.mark.parametrize("m", [64, 128])
def test_operands_of_either_major(m: int, a: str, b: str) -> None:
    row = next(r for r in ROWS if r.m == m and r.a == "f16" and r.acc == "f32")
    run(row, 64, a, b, "32x32b" if m == 128 else "16x256b", steps=4)


def test_a_tile_of_several_products_has_columns_of_its_own() -> None:
    choice = choose_mma(load("sm_100"), "bf16", "bf16", "f32", (256, 256, 64))
    assert choice is not None
    place = tile_product(choice, (256, 256, 64), (1, 1)).c
    assert place is not None and place.is_injective() and place.shape == (128, 512)
