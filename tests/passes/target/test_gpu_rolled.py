"""Loops over registers: every element once, and the vectors of shared memory that straight code has."""

from __future__ import annotations

import itertools

from tesseracc.layout.access import offsets, shared_access
from tesseracc.layout.build import coalesced, transpose, unique_registers
from tesseracc.layout.exchange import room
from tesseracc.layout.linear import LinearLayout
from tesseracc.layout.text import parse_layout
from tesseracc.passes.target.gpu_rolled import KEPT, iteration

Shape = tuple[int, int]


def accumulators(shape: Shape) -> LinearLayout:
    """Sums of mma.sync by four warps along the rows, then repeated."""
    one = parse_layout("#mma.m16n8k16.c").with_ins(("register", "lane")).transpose_outs(("dim0", "dim1"))
    high, wide = shape[0] // 64, shape[1] // 8
    vectors = {name: list(one.vectors(name)) for name in ("register", "lane")}
    vectors["register"] += [(0, 8 << i) for i in range(wide.bit_length() - 1)]
    vectors["register"] += [(64 << i, 0) for i in range(high.bit_length() - 1)]
    return LinearLayout.make({**vectors, "warp": [(16, 0), (32, 0)]}, shape)


def test_an_iteration_keeps_the_vectors_of_shared_memory() -> None:
    shorter = 0
    for shape, bits, turned, axis, vector in itertools.product(
        ((64, 64), (128, 64)), (16, 32), (False, True), (0, 1), (32, 64, 128)
    ):
        layout = transpose(accumulators(shape[::-1]), [1, 0]) if turned else accumulators(shape)
        order = (axis, 1 - axis)
        wide, narrow = coalesced(shape, bits, 4, order, vector), coalesced(shape, bits, 4, order, bits)
        memory, _, _ = room(layout, wide, bits, True, True)
        whole = shared_access(unique_registers(narrow)[0], memory, bits).vectors
        part, times = iteration(narrow, whole.bits)
        assert part.in_size("register") == 1 << KEPT and times << KEPT == narrow.in_size("register")
        assert sorted(part.table().flat) == sorted(narrow.table().flat) == list(range(shape[0] * shape[1]))
        assert shared_access(part, memory, bits).vectors.width == whole.width
        shorter += shared_access(iteration(narrow)[0], memory, bits).vectors.width < whole.width
    assert shorter, "the lowest bits would do"


def test_bits_of_vectors_are_those_that_make_them() -> None:
    """Registers 1 and 4 are two elements side by side; 2 is a row, and 8 one with an element added."""
    layout = LinearLayout.make({"register": [(0, 1), (1, 0), (0, 2), (2, 1)], "lane": [(0, 4)], "warp": []}, (4, 8))
    memory = parse_layout("#layout<offset=[[0,1],[0,2],[0,4],[1,0],[2,0]]>")
    found = shared_access(layout, memory, 32).vectors
    assert (found.width, found.bits) == (4, 0b1101)
    assert offsets(layout, memory).at(register=8) == (17,)


def test_few_registers_need_no_loop() -> None:
    layout = LinearLayout.make({"register": [(0, 1), (0, 2)], "lane": [(0, 4)], "warp": [(0, 8)]}, (1, 16))
    assert iteration(layout) == (layout, 1)
