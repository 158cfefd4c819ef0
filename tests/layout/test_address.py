"""Addresses computed by masks, shifts and immediates are those of the layout."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tesseracc.layout import build as b
from tesseracc.layout import fragments as fr
from tesseracc.layout import shared as sh
from tesseracc.layout.access import offsets
from tesseracc.layout.address import addressing, diagonals
from tesseracc.layout.gf2 import combine
from tesseracc.layout.matrix_load import matrix_move
from tests.layout.shared_memory import accesses


@settings(max_examples=40)
@given(st.lists(st.integers(0, 255), max_size=7), st.integers(0, 127))
def test_diagonals(columns: list[int], x: int) -> None:
    x &= (1 << len(columns)) - 1
    found = diagonals(columns)
    total = 0
    for mask, shift in found:
        total ^= (x & mask) << shift if shift >= 0 else (x & mask) >> -shift
    assert total == combine(columns, x)
    assert len({shift for _, shift in found}) == len(found) and all(mask for mask, _ in found)


@settings(max_examples=40)
@given(accesses())
def test_addresses(case) -> None:  # type: ignore[no-untyped-def]
    registers, memory, bits = case
    places = offsets(registers, memory)
    plan = addressing(places, bits)
    for lane in range(0, 32, 5):
        for register in range(8):
            assert plan.at(lane, register) == places.at(lane=lane, register=register)[0] * bits // 8
    assert set(plan.bases) == {base for base, _ in plan.registers}


def test_few_bases() -> None:
    """Rows of a swizzled tile 1 KiB apart differ by immediates: only chunks in a row need a base."""
    tile = (64, 64)
    memory = sh.swizzled(tile, 16, 128)
    copied = addressing(offsets(b.coalesced(tile, 16, 4), memory), 16)
    assert len(copied.bases) == 1 or all(base < 16 for base in copied.bases)  # inside of a chunk
    move = matrix_move(b.fit(fr.mma_a(16, 16, 16), tile), memory, 16)
    assert move is not None
    plan = addressing(move.address, 16, "step")
    assert len(plan.bases) == 4 and move.steps == 16  # four k steps; four blocks of 16 rows are immediates
    assert sorted({immediate for _, immediate in plan.registers}) == [0, 2048, 4096, 6144]
    for lane in range(32):
        for step in range(move.steps):
            assert plan.at(lane, step) == move.address.at(lane=lane, step=step)[0] * 2
    assert len(plan.terms) <= 4
