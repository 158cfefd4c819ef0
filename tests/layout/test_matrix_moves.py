"""ldmatrix and stmatrix by the plans of the algebra: on the emulator, and on random layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesseracc.layout import LinearLayout
from tesseracc.layout import build as b
from tesseracc.layout import fragments as fr
from tesseracc.layout import shared as sh
from tesseracc.layout.matrix_load import matrix_move
from tests.emulator.harness import run_text
from tests.layout.shared_memory import RAW, accesses, fill
from tests.layout.strategies import invertible


def matrix_kernel(move: Any, store: bool, size: int) -> tuple[str, str]:
    """Moves by ldmatrix or stmatrix; registers to or from parameter 0, addresses from parameter 1."""
    regs = "{" + ", ".join(f"%v{i}" for i in range(move.count)) + "}"
    trans = ".trans" if move.trans else ""
    text = f""".reg .b32 %i, %s, %o, %v<{move.count}>; .reg .b64 %p, %q; mov.u32 %i, %tid.x; mov.u32 %s, s;
ld.param.u64 %p, [p0]; ld.param.u64 %q, [p1];
mad.wide.u32 %p, %i, {4 * move.count * move.steps}, %p; mad.wide.u32 %q, %i, {4 * move.steps}, %q;
"""
    for step in range(move.steps):
        text += f"ld.global.u32 %o, [%q+{4 * step}]; add.u32 %o, %o, %s;\n"
        words = [(f"%v{q}", f"[%p+{4 * (step * move.count + q)}]") for q in range(move.count)]
        if store:
            text += "".join(f"ld.global.u32 {value}, {at};\n" for value, at in words)
            text += f"stmatrix.sync.aligned.m8n8.x{move.count}{trans}.shared.b16 [%o], {regs};\n"
        else:
            text += f"ldmatrix.sync.aligned.m8n8.x{move.count}{trans}.shared.b16 {regs}, [%o];\n"
            text += "".join(f"st.global.u32 {at}, {value};\n" for value, at in words)
    return text, f".shared .align 128 .b8 s[{size}];"


CASES = [
    ("A", 16, False, 4), ("A", 8, False, 4), ("A", 32, False, 4), ("B", 16, True, 4), ("B", 16, False, 2),
    ("A", 16, True, 1), ("C", 16, False, 4), ("C", 16, True, 4),
]  # fmt: skip


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize(("operand", "bits", "turned", "count"), CASES)
def test_matrix_moves(operand: str, bits: int, turned: bool, count: int, store: bool, dense: bool) -> None:
    """`turned`: memory is contiguous along the other axis, which takes .trans. Dense tiles have bank conflicts."""
    k = 256 // bits
    fragment = {"A": fr.mma_a(16, k, bits), "B": fr.mma_b(k, bits), "C": fr.mma_c(16)}[operand]
    shape = (32, 64)
    registers = b.fit(fragment, shape)
    fastest = (0 if turned else 1) if operand != "B" else (1 if turned else 0)
    order = (fastest, 1 - fastest)
    memory = sh.swizzled(shape, bits, 32 * bits // 8 if shape[fastest] == 32 else min(128, 64 * bits // 8), order)
    memory = sh.linear(shape, order) if dense else memory
    move = matrix_move(registers, memory, bits, count)
    assert move is not None and move.trans == turned and move.count == count
    assert dense or move.wavefronts == move.ideal
    assert sorted(e for step in move.registers for word in step for e in word) == list(range(64))
    tile = np.random.default_rng(5).integers(0, 1 << bits, 2048).astype(RAW[bits])
    lane, step = np.meshgrid(np.arange(32), np.arange(move.steps), indexing="ij")
    starts = (move.address.apply({"lane": lane, "step": step})["offset"] * bits // 8).astype(np.uint32)
    order_of = np.array(move.registers).reshape(-1)
    lane, register = np.meshgrid(np.arange(32), order_of, indexing="ij")
    at = registers.apply({"lane": lane, "register": register})
    elements = np.ascontiguousarray(tile.reshape(shape)[at["dim0"], at["dim1"]])
    text, module = matrix_kernel(move, store, tile.nbytes)
    image = tile[memory.table()]
    if store:
        out = np.zeros_like(image)
        text += f""".reg .b64 %r; ld.param.u64 %r, [p2]; mad.wide.u32 %r, %i, 4, %r; mad.lo.u32 %s, %i, 4, %s;
bar.warp.sync -1;
{"".join(f"ld.shared.u32 %o, [%s+{128 * j}]; st.global.u32 [%r+{128 * j}], %o;" for j in range(tile.nbytes // 128))}"""
        report = run_text(text + "ret;", [elements.view(np.uint32), starts, out.view(np.uint32)], module=module)
        assert np.array_equal(out, image)
    else:
        held = np.zeros_like(elements)
        args = [held.view(np.uint32), starts, image.view(np.uint32)]
        report = run_text(fill(tile.nbytes // 4) + text + "ret;", args, module=module)
        assert np.array_equal(held, elements)
    assert not report.findings, report.findings[0].render()
    extra = report.counters.bank_conflicts
    assert extra == (move.wavefronts - move.ideal) * move.steps and (extra > 0) == dense


def delivered(move: Any, image: Any, bits: int, lanes: int = 32) -> dict[tuple[int, int], Any]:
    """What ldmatrix puts into (lane, register), by the documentation: rows of 16 bytes, words or transposed halves."""
    per = 32 // bits
    found = {}
    for step, words in enumerate(move.registers):
        for q, elements in enumerate(words):
            starts = [move.address.at(lane=8 * q + r, step=step)[0] for r in range(8)]
            assert all(start * bits % 128 == 0 for start in starts)
            rows = np.array([image[start : start + 128 // bits] for start in starts])
            for lane in range(lanes):
                for e, register in enumerate(elements):
                    if move.trans:
                        found[lane, register] = rows[2 * (lane % 4) + e, lane // 4]
                    else:
                        found[lane, register] = rows[lane // 4, lane % 4 * per + e]
    return found


@settings(max_examples=60)
@given(st.data(), st.sampled_from([8, 16, 32]), st.booleans(), st.integers(0, 3))
def test_matrix_moves_deliver(data: Any, bits: int, trans: bool, further: int) -> None:
    """Layouts made to fit, their registers mixed: the plan is found and delivers each element to its register."""
    trans = trans and bits == 16
    chunk = (128 // bits).bit_length() - 1
    word = (32 // bits).bit_length() - 1
    total = chunk + 3 + further
    memory = LinearLayout((("offset", total),), (("dim0", 3), ("dim1", total - 3)), invertible(data.draw, total))
    high = data.draw(st.permutations([1 << bit for bit in range(chunk, total)]))
    if trans:
        lanes, columns = [*high[1:3], 1, 2, 4], [high[0], *high[3:]]
    else:
        lanes = [1 << word, 2 << word, *high[:3]]
        columns = data.draw(st.permutations([*(1 << bit for bit in range(word)), *high[3:]]))
        for bit in range(1, len(columns)):  # any basis of what the registers span
            columns[bit] ^= columns[bit - 1] if data.draw(st.booleans()) else 0
    places = LinearLayout((("register", len(columns)), ("lane", 5)), (("offset", total),), [*columns, *lanes])
    registers = places.then(memory)
    move = matrix_move(registers, memory, bits)
    assert move is not None and move.trans == trans and move.count == min(4, 1 << further)
    tile = np.arange(1 << total)
    found = delivered(move, tile[memory.table()], bits)
    assert len(found) == 32 << len(columns)
    for (lane, register), value in found.items():
        assert value == registers.flat(register | lane << len(columns))


@settings(max_examples=60)
@given(accesses())
def test_matrix_moves_of_any_layouts(case: tuple[LinearLayout, LinearLayout, int]) -> None:
    """Where a plan is found for layouts that were not made for it, it delivers as well."""
    registers, memory, bits = case
    move = matrix_move(registers, memory, bits)
    if move is not None:
        found = delivered(move, np.arange(256)[memory.table()], bits)
        assert all(value == registers.at(lane=lane, register=r)[0] * 32 + registers.at(lane=lane, register=r)[1]
                   for (lane, r), value in found.items())  # fmt: skip


def test_matrix_moves_that_do_not_fit() -> None:
    a16 = b.fit(fr.mma_a(16, 16, 16), (64, 64))
    assert matrix_move(a16, sh.xor_swizzle((64, 64), 4, 1, 8), 16) is None  # chunks of 8 bytes are torn apart
    assert matrix_move(fr.mma_a(16, 8, 32), sh.linear((16, 8), (0, 1)), 32) is None  # no .trans for 32 bits
    assert matrix_move(fr.mma_a(16, 4, 64), sh.linear((16, 4)), 64) is None
    assert matrix_move(b.coalesced((64, 64), 16, 4), sh.linear((64, 64)), 16) is None
    assert matrix_move(fr.mma_c(16), sh.linear((16, 8)), 32) is None  # two f32 are 8 bytes
    one = matrix_move(fr.ldmatrix(1), sh.linear((8, 8)), 16)
    assert one is not None and one.count == 1 and one.registers == (((0, 1),),)
