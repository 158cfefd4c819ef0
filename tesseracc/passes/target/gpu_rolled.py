"""Work on a tile in a loop over the registers of a thread, where code for all of them at once is not worth its size.

To a layout, registers are what more warps would be: the upper bits of a register become the highest bits of the thread,
and in iteration i thread t of T does what thread t + i T would do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tesseracc.ir.types import I64
from tesseracc.ir.value import Value
from tesseracc.layout.linear import LinearLayout

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering

#: log2 of the registers of an iteration: as many accesses of memory are under way at once
KEPT = 4


def over_registers(low: Lowering, layout: LinearLayout, work: Callable[[Lowering, LinearLayout], None]) -> None:
    """Does `work`, which may not meet other threads, for a layout that has the elements of an iteration."""
    vectors = {name: list(layout.vectors(name)) for name, _ in layout.ins}
    later = vectors["register"][KEPT:]
    if len(later) < 1:
        work(low, layout)
        return
    vectors["register"] = vectors["register"][:KEPT]
    vectors["warp"] = vectors["warp"] + later
    part = LinearLayout.make(vectors, layout.shape)
    threads = layout.in_size("lane") * layout.in_size("warp")

    def step(inner: Lowering, args: list[Value]) -> list[Value]:
        b, own = inner.b, inner.thread()
        with inner.working_as(b.op("arith.add", own, b.op("arith.mul", args[0], b.const(threads)))):
            work(inner, part)
        return []

    region = low.nested([I64], step)
    zero, count, one = (low.b.const(number) for number in (0, 1 << len(later), 1))
    low.b.emit("scf.for", zero, count, one, [], types=[], regions=[region])
