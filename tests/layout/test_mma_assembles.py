"""The assembler knows every row of every target's table: the fact tables promise nothing that a chip does not have."""

from __future__ import annotations

import pytest

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch import Arch, MmaRow, load, names
from tesseracc.codegen.assemble import assemble
from tesseracc.layout.select import candidates
from tests.layout.lanes import group, ptx

GPUS = [name for name in names() if load(name).kind == "cuda" and load(name).toolchain.image == "cubin"]
BITS = {"f64": 64, "f32": 32, "tf32": 32, "i32": 32, "f16": 16, "bf16": 16}


def words(rows: int, columns: int, kind: str, threads: int) -> int:
    bits = BITS.get(kind, 8)
    return rows * columns // threads * bits // max(32, bits)


def register(kind: str) -> str:
    return {"f64": "f64", "f32": "f32"}.get(kind, "b32")


def instruction(row: MmaRow, n: int) -> str:
    """The row as PTX with registers of its own."""
    shape = row.shape.format(n=n)
    if row.op == "tcgen05":
        kind = {"f16": "f16", "bf16": "f16", "tf32": "tf32", "i8": "i8", "u8": "i8"}.get(row.a, "f8f6f4")
        return f"tcgen05.mma.cta_group::1.kind::{kind} [%t], %l, %l, %i, %p;"
    threads = 32 * row.warps
    acc = words(row.m, n, row.acc, threads)
    lines = [f".reg .{register(row.acc)} %d<{acc}>;"]
    operand = register(row.a) if row.a == "f64" else "b32"
    if row.op == "wgmma":
        signs = "" if row.acc == "i32" else ", 1, 1"
        tail = signs + (", 0, 0" if BITS.get(row.a, 8) == 16 else "")
        return " ".join([*lines, f"wgmma.mma_async.sync.aligned.{shape}.{ptx(row.acc)}.{ptx(row.a)}.{ptx(row.b)} "
                                 f"{group('d', acc)}, %l, %l, %p{tail};"])  # fmt: skip
    if row.op == "wmma":
        na = 8 if row.a == "f16" else 2
        kinds = f"{ptx(row.acc)}.{ptx(row.acc)}" if row.a == "f16" else f"s32.{ptx(row.a)}.{ptx(row.b)}.s32"
        lines += [f".reg .b32 %a<{na}>, %b<{na}>;"]
        lines += [f"mov.b32 %{x}{r}, %i;" for x in "ab" for r in range(na)]
        lines += [f"mov.b32 %d{r}, %i;" for r in range(acc)]
        lists = ", ".join((group("d", acc), group("a", na), group("b", na), group("d", acc)))
        return " ".join([*lines, f"wmma.mma.sync.aligned.row.col.{shape}.{kinds} {lists};"])
    a, b = words(row.m, row.k, row.a, 32), words(row.k, n, row.b, 32)
    if row.shape == "m8n8k4" and row.a == "f16":  # quad pairs hold equal parts of operands
        a, b = 2, 2
    lines += [f".reg .{operand} %a<{a}>, %b<{b}>;"]
    zero = "0d0000000000000000" if operand == "f64" else "%i"
    move = "mov.f64" if operand == "f64" else "mov.b32"
    lines += [f"{move} %{x}{r}, {zero};" for x, count in (("a", a), ("b", b)) for r in range(count)]
    start = {"f64": "mov.f64 {}, 0d0000000000000000;", "f32": "mov.f32 {}, 0f00000000;"}.get(row.acc, "mov.b32 {}, %i;")
    lines += [start.format(f"%d{r}") for r in range(acc)]
    types = f"{ptx(row.acc)}.{ptx(row.a)}.{ptx(row.b)}.{ptx(row.acc)}"
    lists = ", ".join((group("d", acc), group("a", a), group("b", b), group("d", acc)))
    return " ".join([*lines, f"mma.sync.aligned.{shape}.row.col.{types} {lists};"])


def module(arch: Arch, rows: list[tuple[MmaRow, int]]) -> str:
    # Each instruction in a block of its own, behind a branch that the assembler cannot decide.
    blocks = "\n".join(f"{{ {instruction(row, n)} }}" for row, n in rows)
    return f""".version 8.8
.target {arch.toolchain.cpu}
.address_size 64
.visible .entry k(.param .u32 x) .maxntid 128
{{
.reg .b32 %i, %t; .reg .b64 %l; .reg .pred %p;
ld.param.u32 %i, [x]; mov.b32 %t, %i; cvt.u64.u32 %l, %i; setp.ne.u32 %p, %i, 0;
{blocks}
ret;
}}
"""


@pytest.mark.parametrize("name", GPUS)
def test_every_row_assembles(name: str) -> None:
    arch = load(name)
    rows = [(row, n) for row in arch.mma for n in sorted({row.n[0], row.n[len(row.n) // 2], row.n[-1]})]
    assert rows
    assert assemble(module(arch, rows), arch).cubin


def test_a_row_that_a_chip_has_not_is_refused() -> None:
    fp8 = candidates(load("sm_89"), "fp8_e4m3", "fp8_e4m3", "f32", (16, 8, 32))[0].row
    with pytest.raises(TesseraError) as caught:
        assemble(module(load("sm_86"), [(fp8, 8)]), load("sm_86"))
    assert caught.value.exit_code == 4
    hopper = load("sm_90")
    wide = next(row for row in hopper.mma if row.op == "wgmma")
    with pytest.raises(TesseraError):
        assemble(module(hopper, [(wide, 12)]), hopper)
