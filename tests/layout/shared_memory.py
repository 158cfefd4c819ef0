"""Random accesses to shared memory, and code that fills it."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tesseracc.layout import LinearLayout
from tesseracc.layout import shared as sh
from tests.layout.strategies import invertible, register_layouts

RAW = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def fill(words: int) -> str:
    """Code that copies parameter 2 into shared memory."""
    return f""".reg .b32 %f, %fs, %fw; .reg .b64 %fp; .reg .pred %ft; mov.u32 %f, %tid.x; ld.param.u64 %fp, [p2];
mad.wide.u32 %fp, %f, 4, %fp; mov.u32 %fs, s; mad.lo.u32 %fs, %f, 4, %fs;
FILL: ld.global.u32 %fw, [%fp]; st.shared.u32 [%fs], %fw; add.u64 %fp, %fp, 128; add.u32 %fs, %fs, 128;
add.u32 %f, %f, 32; setp.lt.u32 %ft, %f, {words}; @%ft bra FILL; bar.warp.sync -1;
"""


@st.composite
def accesses(draw: Any) -> tuple[LinearLayout, LinearLayout, int]:
    """A register layout of one warp, a shared layout of the same tile, bits of an element."""
    registers = draw(register_layouts((8, 32), 3, warps=0))
    columns = draw(st.sampled_from([None, "random", "swizzled"]))
    bits = draw(st.sampled_from([8, 16, 32, 64]))
    memory = sh.linear((8, 32))
    if columns == "random":
        memory = LinearLayout(memory.ins, memory.outs, invertible(draw, 8))
    elif columns == "swizzled":
        memory = sh.xor_swizzle((8, 32), draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 2])), 4)
    if draw(st.booleans()):  # registers that are vectors in memory
        kept = [c for c in memory.columns if c not in memory.columns[:3]]
        registers = LinearLayout(registers.ins, registers.outs, [*memory.columns[:3], *draw(st.permutations(kept))])
    return registers, memory, bits
