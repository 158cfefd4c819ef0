"""ldmatrix: a block of shared memory as 8x8 matrices of 16-bit units, a word of each matrix to every lane.

It applies where the layout is made of such matrices, plain or transposed: the lowest register bit and two lane bits run
along one axis of a matrix, the other three lane bits along the other. Two more register bits choose among the matrices
of one instruction, whose rows' addresses the lanes give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tesseracc.ir.types import ScalarType, bits_of
from tesseracc.ir.value import Value
from tesseracc.layout.linear import LinearLayout
from tesseracc.passes.target.gpu_spread import Places, registers

if TYPE_CHECKING:
    from tesseracc.passes.target.gpu_buffers import Block
    from tesseracc.passes.target.lower_gpu import Lowering

UNIT = 16  # bits


def _halves(layout: LinearLayout, dtype: str) -> list[tuple[int, ...]] | None:
    """The register columns in units of 16 bits: without the bit inside a unit for types of 8 bits."""
    columns = list(layout.vectors("register"))
    if bits_of(dtype) == UNIT:
        return columns
    if bits_of(dtype) != UNIT // 2 or not columns:
        return None
    return columns[1:]


def matrix_load(low: Lowering, block: Block, layout: LinearLayout) -> list[Value] | None:
    """The words of a block of shared memory in this layout by ldmatrix; None where that does not apply."""
    memory, dtype = block.memory, block.memory.dtype
    last = len(memory.dims) - 1
    if not low.arch.has("ldmatrix") or len(block.shape) != 2 or last not in block.axes or low.lanes != 32:
        return None
    across = block.axes.index(last)  # the tile's axis along which memory is contiguous
    columns = _halves(layout, dtype)
    if columns is None or tuple(block.shape) != layout.shape:
        return None
    unit = UNIT // bits_of(dtype)
    if unit > 1 and layout.vectors("register")[0][across] != 1:
        return None

    def along(axis: int, size: int) -> tuple[int, ...]:
        return tuple(size if a == axis else 0 for a in range(2))

    def step(axis: int, size: int) -> tuple[int, ...]:
        return along(axis, size * unit if axis == across else size)

    lanes = layout.vectors("lane")
    for trans, (fast, slow) in ((False, (across, 1 - across)), (True, (1 - across, across))):
        expected = [step(fast, 2), step(fast, 4), *(step(slow, 1 << i) for i in range(3))]
        if columns[:1] == [step(fast, 1)] and list(lanes) == expected and not (trans and unit > 1):
            break
    else:
        return None
    columns_of_memory = memory.dims[last]
    start = low.known(block.at[last])
    chunk = 8 * unit
    if not isinstance(columns_of_memory, int) or columns_of_memory % chunk:
        return None
    if start is None or start % chunk:
        return None
    rest = columns[1:]  # which matrix
    count = min(2, len(rest))
    while count and any(rest[i][across] % chunk for i in range(count)):
        count -= 1
    if any(column[across] % chunk for column in (*rest, *layout.vectors("warp"))):
        return None
    down = 1 - across
    rows = [along(down, 1 << i) for i in range(3)]
    chosen = rest[:count] + [(0, 0)] * (2 - count)
    names = {"register": rest[count:], "lane": [*rows, *chosen], "warp": layout.vectors("warp")}
    addresses = LinearLayout.make(names, layout.shape)
    places = Places(low.b, low.thread(), addresses)
    found: list[Value] = []
    for register in range(registers(addresses)):
        ptr = memory.address(low, block.indices(low, places, register))
        types = [ScalarType("u32")] * (1 << count)
        found += low.b.emit("target.ldmatrix", ptr, types=types, count=1 << count, trans=trans).results
    return found
