"""Work on a tile in a loop over the registers of a thread, where code for all of them at once is not worth its size.

To a layout, registers are what more warps would be: some bits of a register become the highest bits of the thread, and
in iteration i thread t of T does what thread t + i T would do. These are the upper ones, but no bits of vectors.
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


def iteration(layout: LinearLayout, together: int = 0) -> tuple[LinearLayout, int]:
    """The elements of an iteration, as of more warps, and how many iterations there are.

    An iteration keeps the bits of the register in the mask `together` first, which vectors are made of.
    """
    vectors = {name: list(layout.vectors(name)) for name, _ in layout.ins}
    registers = vectors["register"]
    order = sorted(range(len(registers)), key=lambda bit: not together >> bit & 1)
    kept, later = sorted(order[:KEPT]), sorted(order[KEPT:])
    vectors["register"] = [registers[bit] for bit in kept]
    vectors["warp"] = vectors["warp"] + [registers[bit] for bit in later]
    return LinearLayout.make(vectors, layout.shape), 1 << len(later)


def over_registers(
    low: Lowering, layout: LinearLayout, work: Callable[[Lowering, LinearLayout], None], together: int = 0
) -> None:
    """Does `work`, which may not meet other threads, for a layout that has the elements of an `iteration`."""
    part, times = iteration(layout, together)
    if times == 1:
        work(low, layout)
        return
    threads = layout.in_size("lane") * layout.in_size("warp")

    def step(inner: Lowering, args: list[Value]) -> list[Value]:
        b, own = inner.b, inner.thread()
        with inner.working_as(b.op("arith.add", own, b.op("arith.mul", args[0], b.const(threads)))):
            work(inner, part)
        return []

    region = low.nested([I64], step)
    zero, count, one = (low.b.const(number) for number in (0, times, 1))
    low.b.emit("scf.for", zero, count, one, [], types=[], regions=[region])
