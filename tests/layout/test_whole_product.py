"""Everything together on the emulator: a product of tiles by 4 warps, made of what the algebra plans.

A and B are copied from global to shared memory in 16-byte vectors (`coalesced`, shared layout by `swizzle_for`), read
by ldmatrix (`matrix_move`), multiplied (`choose_mma`, `tile_product`), the result staged (`convert`) and written in
vectors. The result is exact, there are no bank conflicts, and all global accesses are coalesced.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.arch import load
from tesseracc.layout import LinearLayout
from tesseracc.layout import build as b
from tesseracc.layout import fragments as fr
from tesseracc.layout.access import global_offsets, offsets, vectors
from tesseracc.layout.convert import Means, convert, locate
from tesseracc.layout.gf2 import combine
from tesseracc.layout.matrix_load import matrix_move
from tesseracc.layout.select import choose_mma
from tesseracc.layout.shuffle import plan_shuffles
from tesseracc.layout.swizzle import matrix_pattern, pattern_of, swizzle_for
from tesseracc.layout.tiling import tile_product, warp_grid
from tests.emulator.harness import run_text
from tests.layout.lanes import DTYPES, ptx, random_matrix, run_registers
from tests.layout.strategies import hold


class Kernel:
    """PTX text under construction. Addresses are computed from the columns of layouts, by shifts and xors."""

    def __init__(self) -> None:
        self.lines = [".reg .b32 %tid, %lane, %warp, %x, %y, %s; .reg .b64 %base, %at;",
                      "mov.u32 %tid, %tid.x; and.b32 %lane, %tid, 31; shr.u32 %warp, %tid, 5;"]  # fmt: skip
        self.count = 0

    def add(self, *lines: str) -> None:
        self.lines += lines

    def registers(self, count: int, kind: str = "b32") -> list[str]:
        names = [f"%r{self.count + i}" for i in range(count)]
        self.count += count
        self.add(f".reg .{kind} {', '.join(names)};")
        return names

    def offset(self, places: LinearLayout, size: int, lane: str = "lane") -> None:
        """%x = the byte offset of the thread's register 0."""
        self.add("mov.u32 %x, 0;")
        for name, source in ((lane, "%lane"), ("warp", "%warp")):
            for bit, column in enumerate(places.bases(name)):
                if column:
                    self.add(f"bfe.u32 %y, {source}, {bit}, 1; mul.lo.u32 %y, %y, {column * size}; xor.b32 %x, %x, %y;")

    def shared_at(self, constant: int, start: int) -> None:
        """%s = start + (%x xor constant)."""
        self.add(f"mov.u32 %s, s; xor.b32 %y, %x, {constant}; add.u32 %s, %s, {start}; add.u32 %s, %s, %y;")

    def text(self) -> str:
        return "\n".join(self.lines) + "\nret;"


def move_in(kernel: Kernel, layout: LinearLayout, memory: LinearLayout, bits: int, parameter: int, start: int) -> None:
    """Global to shared memory in the vectors that both sides have."""
    places, target = global_offsets(layout, 1), offsets(layout, memory)
    wide = vectors(places, bits)
    assert vectors(target, bits).groups == wide.groups and wide.width * bits == 128
    held = kernel.registers(4)
    kernel.offset(places, bits // 8)
    (mine,) = kernel.registers(1)
    kernel.add(f"mov.u32 {mine}, %x;", f"ld.param.u64 %base, [p{parameter}];")
    kernel.offset(target, bits // 8)
    for group_ in wide.groups:
        at = places.at(register=group_[0])[0] * bits // 8
        kernel.add(f"xor.b32 %y, {mine}, {at}; cvt.u64.u32 %at, %y; add.u64 %at, %at, %base;",
                   f"ld.global.v4.b32 {{{', '.join(held)}}}, [%at];")  # fmt: skip
        kernel.shared_at(target.at(register=group_[0])[0] * bits // 8, start)
        kernel.add(f"st.shared.v4.b32 [%s], {{{', '.join(held)}}};")


def matrices_in(kernel: Kernel, layout: LinearLayout, memory: LinearLayout, bits: int, start: int) -> dict[int, str]:
    """By ldmatrix: which word holds each register that is the first of its word."""
    move = matrix_move(layout, memory, bits)
    assert move is not None and move.wavefronts == move.ideal
    kernel.offset(move.address, bits // 8)
    found = {}
    for step, words in enumerate(move.registers):
        names = kernel.registers(move.count)
        kernel.shared_at(move.address.at(step=step)[0] * bits // 8, start)
        trans = ".trans" if move.trans else ""
        regs = "{" + ", ".join(names) + "}"
        kernel.add(f"ldmatrix.sync.aligned.m8n8.x{move.count}{trans}.shared.b16 {regs}, [%s];")
        for name, elements in zip(names, words):
            assert list(elements) == list(range(elements[0], elements[0] + len(elements)))
            found[elements[0]] = name
    return found


CASES = [
    ("sm_80", "bf16", (64, 64, 64), "nk"), ("sm_80", "f16", (64, 128, 32), "kn"), ("sm_80", "i8", (64, 64, 128), "nk"),
    ("sm_75", "f16", (64, 64, 32), "kn"), ("sm_89", "fp8_e4m3", (64, 64, 64), "nk"),
    ("sm_80", "tf32", (64, 64, 32), "nk"), ("sm_80", "bf16", (128, 64, 32), "kn"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "kind", "shape", "order_b"), CASES)
def test_product(target: str, kind: str, shape: tuple[int, int, int], order_b: str) -> None:
    """B is stored as k x n, or transposed as n x k."""
    m, n, k = shape
    bits = np.dtype(DTYPES[kind]).itemsize * 8
    acc = "i32" if kind == "i8" else "f32"
    choice = choose_mma(load(target), kind, kind, acc, shape)
    assert choice is not None
    tiling = tile_product(choice, shape, warp_grid(choice, shape, 4))
    assert tiling.a is not None and tiling.b is not None and tiling.c is not None
    a, weights = random_matrix(kind, (m, k), 1), random_matrix(kind, (k, n), 2)
    stored = weights if order_b == "kn" else np.ascontiguousarray(weights.T)
    kernel = Kernel()
    operands = []
    start = 0
    for parameter, matrix in enumerate((a, stored)):
        layout = b.coalesced(matrix.shape, bits, 4)
        memory = swizzle_for(matrix.shape, [pattern_of(layout), matrix_pattern(matrix.shape, bits)], bits)
        move_in(kernel, layout, memory, bits, parameter, start)
        operands.append((memory, start))
        start += matrix.nbytes
    kernel.add("bar.sync 0;")
    b_layout = tiling.b if order_b == "kn" else b.transpose(tiling.b, (1, 0))
    in_a = matrices_in(kernel, tiling.a, operands[0][0], bits, operands[0][1])
    in_b = matrices_in(kernel, b_layout, operands[1][0], bits, operands[1][1])
    per = max(1, 32 // bits)
    totals = kernel.registers(tiling.c.in_size("register"))
    kernel.add(*(f"mov.b32 {name}, 0;" for name in totals))
    types = f"{ptx(acc)}.{ptx(kind)}.{ptx(kind)}.{ptx(acc)}"
    for i in range(tiling.steps[0]):
        for j in range(tiling.steps[1]):
            for kk in range(tiling.steps[2]):
                left = [in_a[r] for r in tiling.registers("a", i, kk)[::per]]
                right = [in_b[r] for r in tiling.registers("b", kk, j)[::per]]
                sums = [totals[r] for r in tiling.registers("c", i, j)]
                lists = [f"{{{', '.join(names)}}}" for names in (sums, left, right, sums)]
                kernel.add(f"mma.sync.aligned.{choice.spelling}.row.col.{types} {', '.join(lists)};")
    moved = store(kernel, tiling.c, shape, totals)
    out = np.zeros((m, n), DTYPES[acc])
    size = max(start, out.nbytes)
    report = run_text(kernel.text(), [a.view(np.uint8), stored.view(np.uint8), out], block=(128,),
                      module=f".shared .align 1024 .b8 s[{size}];")  # fmt: skip
    assert not report.findings, report.findings[0].render()
    assert np.array_equal(out, (a.astype(np.float64) @ weights.astype(np.float64)).astype(out.dtype))
    counters = report.counters
    assert counters.bank_conflicts == 0 and counters.coalescing_efficiency == 1.0
    assert counters.bytes_read["global"] == a.nbytes + stored.nbytes and counters.bytes_written["global"] == out.nbytes
    assert moved == "shared"


def store(kernel: Kernel, accumulators: LinearLayout, shape: tuple[int, int, int], totals: list[str]) -> str:
    """The accumulators to global memory, through shared memory."""
    m, n, _ = shape
    target = b.coalesced((m, n), 32, 4)
    conversion = convert(accumulators, target, 32)
    plan = conversion.staging
    assert plan is not None and plan.store.conflicts == plan.load.conflicts == 0
    kernel.add("bar.sync 0;")
    held = totals
    found = kernel.registers(target.in_size("register"))
    for layout, access, names, opcode in (
        (accumulators, plan.store.access, held, "st.shared"), (target, plan.load.access, found, "ld.shared"),
    ):  # fmt: skip
        places = offsets(layout, plan.memory)
        kernel.offset(places, 4)
        suffix = {4: ".b32", 8: ".v2.b32", 16: ".v4.b32"}[access.bytes]
        for registers in access.vectors.groups:
            kernel.shared_at(places.at(register=registers[0])[0] * 4, 0)
            regs = ", ".join(names[r] for r in registers)
            regs = f"{{{regs}}}" if len(registers) > 1 else regs
            both = f"[%s], {regs}" if opcode == "st.shared" else f"{regs}, [%s]"
            kernel.add(f"{opcode}{suffix} {both};")
        kernel.add("bar.sync 0;")
    places = global_offsets(target, 1)
    kernel.offset(places, 4)
    kernel.add("ld.param.u64 %base, [p2];")
    for registers in vectors(places, 32).groups:
        regs = ", ".join(found[r] for r in registers)
        kernel.add(f"xor.b32 %y, %x, {places.at(register=registers[0])[0] * 4}; cvt.u64.u32 %at, %y;",
                   f"add.u64 %at, %at, %base; st.global.v4.b32 [%at], {{{regs}}};")  # fmt: skip
    return conversion.kind


def two_columns(layout: LinearLayout) -> LinearLayout:
    return layout * LinearLayout.identity(2, "register", "dim1")


SHUFFLES = [
    (fr.mma_c(16, 32), fr.mma_a(16, 32, 8), 8),
    (b.transpose(fr.mma_c(16, 32), (1, 0)), two_columns(fr.mma_b(32, 8)), 8),
    (b.coalesced((16, 32), 32, 1), b.coalesced((16, 32), 32, 1, (0, 1)), 32),
    (fr.wgmma_c(32), fr.wgmma_a(32, 8), 8),
]


@pytest.mark.parametrize(("source", "target", "bits"), SHUFFLES)
def test_shuffles(source: LinearLayout, target: LinearLayout, bits: int) -> None:
    """The rounds of a conversion as shfl.sync.idx. A warp's tile of words stands for the elements."""
    plan = plan_shuffles(source, target, locate(source, target), bits)
    warps = source.in_size("warp")
    tile = np.random.default_rng(8).permutation(1 << source.out_bits).astype(np.uint32)
    kernel = Kernel()
    count = source.in_size("register")
    held, found = kernel.registers(count), kernel.registers(count)
    kernel.add(f"ld.param.u64 %base, [p0]; mad.wide.u32 %at, %tid, {4 * count}, %base;", ".reg .pred %p;")
    kernel.add(*(f"ld.global.b32 {name}, [%at+{4 * r}];" for r, name in enumerate(held)))
    offer, from_, into, value = kernel.registers(4)

    def linear(name: str, constant: int, columns: Any, source_name: str) -> None:
        kernel.add(f"mov.u32 {name}, {constant};")
        for bit, column in enumerate(columns):
            if column:
                kernel.add(f"bfe.u32 %y, {source_name}, {bit}, 1;",
                           f"mul.lo.u32 %y, %y, {column}; xor.b32 {name}, {name}, %y;")  # fmt: skip

    for round_ in plan.rounds:
        for pack in range(1 << len(plan.packs)):
            along = combine([p[0] for p in plan.packs], pack)
            beyond = combine([p[1] for p in plan.packs], pack)
            linear(offer, round_.offer ^ along, plan.offers, "%lane")
            linear(from_, round_.lane, plan.lanes, "%tid")
            linear(into, round_.target ^ beyond, plan.targets, "%tid")
            kernel.add(f"mov.b32 {value}, 0;")
            for r, name in enumerate(held):
                kernel.add(f"setp.eq.u32 %p, {offer}, {r}; selp.b32 {value}, {name}, {value}, %p;")
            kernel.add(f"shfl.sync.idx.b32 {value}, {value}, {from_}, 31, -1;")
            for r, name in enumerate(found):
                kernel.add(f"setp.eq.u32 %p, {into}, {r}; @%p mov.b32 {name}, {value};")
    kernel.add(f"ld.param.u64 %base, [p1]; mad.wide.u32 %at, %tid, {4 * count}, %base;")
    kernel.add(*(f"st.global.b32 [%at+{4 * r}], {name};" for r, name in enumerate(found)))
    out = np.zeros((warps, 32, count), np.uint32)
    report = run_text(kernel.text(), [hold(tile, source), out], block=(32 * warps,))
    assert not report.findings, report.findings[0].render()
    assert np.array_equal(out, hold(tile, target))


def test_turns() -> None:
    """movmatrix on the words of a plan."""
    source, target = b.transpose(fr.mma_c(16, 16), (1, 0)), fr.mma_a(16, 16, 16)
    plan = convert(source, target, 16, Means(movmatrix=True)).turns
    assert plan is not None
    tile = np.random.default_rng(4).permutation(256).astype(np.uint16)
    held, want = hold(tile, source)[0], hold(tile, target)[0]
    pairs = [np.ascontiguousarray(held[:, list(pair)]).view(np.uint32) for pair, _ in plan.words]
    words = np.concatenate(pairs, axis=1)
    out = np.zeros_like(words)
    moves = "".join(f"movmatrix.sync.aligned.m8n8.trans.b16 %d{i}, %a{i};\n" for i in range(len(plan.words)))
    run_registers(moves, {"a": words}, out, 32)
    for i, (_, pair) in enumerate(plan.words):
        assert np.array_equal(np.ascontiguousarray(out[:, i : i + 1]).view(np.uint16), want[:, list(pair)])
