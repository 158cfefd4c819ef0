"""`tile.pipeline` by copies of the threads themselves (cp.async): copies run stages - 1 iterations ahead.

    copies of the first stages - 1 iterations, a group of copies each
    for k:  wait until the oldest group is there; barrier
            start the copies of iteration k + stages - 1
            use the slot

The barrier publishes what every thread has copied, and is also what keeps a slot until all have used it: the copies
that follow it go to the slot of the iteration before. Copies that all go through registers have no groups; with two
stages every wait is for all copies, which needs none either. With one, copies start behind a barrier and are waited for
at once.

Copies that the program started before the loop are in the first group or in earlier ones: the first wait is for them
too. `State.copies` therefore says in the loop whether the program starts copies of its own there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tesseracc.ir.types import I32, I64
from tesseracc.ir.value import Op, Value
from tesseracc.passes.target.gpu_reduce import anew

if TYPE_CHECKING:
    from tesseracc.passes.target.lower_gpu import Lowering


def lower_pipeline(low: Lowering, op: Op) -> None:
    """The loop; all copies into its rings are finished behind it. Behind it threads find their places again: those
    of a loop's accumulators alone fill their registers."""
    low.land()
    if low.roles:
        low.roles.consume(low, op)
    else:
        _by_threads(low, op)
    low.acting = anew(low, low.thread())


def _by_threads(low: Lowering, op: Op) -> None:
    stages = op.attrs["stages"]
    fill, use = op.regions
    lo, hi, step = (low.get(v) for v in op.operands[:3])
    types = low.flat_types(op.results)
    inits = low.flat_like(op.group("inits"), op.results)
    low.unused(*(low.get(ring) for ring in op.group("rings")))
    entry = low.state
    grouped = entry.copies
    starts = low.starts_copies([use])

    def copies(inner: Lowering, index: Value, slot: Value) -> None:
        """Starts the copies of an iteration, if there is one, and closes their group, if any copies have one."""
        nonlocal grouped
        slot = inner.b.op("arith.cast", slot, to="i64")

        def start(deep: Lowering) -> list[Value]:
            deep.region(fill, [index, slot], [])
            return []

        state = inner.state  # nobody looks at this slot before a wait and a barrier
        inner.state = replace(state, copies=grouped)
        inner.branch(inner.b.op("arith.cmp", index, hi, pred="lt"), start, lambda _: [], [])
        grouped = inner.state.copies
        if grouped and stages > 2:
            inner.b.emit("target.commit_copies")
        inner.state = state

    def first(inner: Lowering, args: list[Value]) -> list[Value]:
        slot, index = args
        copies(inner, index, slot)
        return [inner.b.op("arith.add", index, step)]

    # slots are counted in 32 bits: then the assembler keeps them, and addresses of operands, in uniform registers
    zero, one = (low.b.const(number, "i32") for number in (0, 1))
    region = low.nested([I32, I64], first)
    low.b.emit("scf.for", zero, low.b.const(stages - 1, "i32"), one, [lo], types=[I64], regions=[region])
    ahead = low.b.op("arith.mul", step, low.b.const(stages - 1))

    def body(inner: Lowering, args: list[Value]) -> list[Value]:
        k, slot, *carried = args
        b = inner.b
        if stages == 1:
            inner.barrier()
            copies(inner, k, slot)
        if grouped:
            b.emit("target.wait_copies", pending=max(0, stages - 2))
        inner.state = replace(entry.wrote(), copies=starts)
        if inner.stored(inner.layouts.placed):
            inner.show()
        inner.barrier()
        zero, one, last = (b.const(number, "i32") for number in (0, 1, stages - 1))
        first = b.op("arith.cmp", slot, zero, pred="eq")
        before = b.op("arith.select", first, last, b.op("arith.sub", slot, one))
        if stages > 1:
            copies(inner, b.op("arith.add", k, ahead), before)
        found = inner.region(use, [k, b.op("arith.cast", slot, to="i64"), *carried], op.results)
        at_end = b.op("arith.cmp", slot, last, pred="eq")
        return [b.op("arith.select", at_end, zero, b.op("arith.add", slot, one)), *found]

    region = low.nested([I64, I32, *types], body)
    loop = low.b.emit("scf.for", lo, hi, step, [zero, *inits], types=[I32, *types], regions=[region])
    # what is not waited for are groups without copies, those of iterations that there are not. An iteration begins with
    # a barrier, so behind the loop is what the last one did; without iterations, what was before
    low.state = low.state.joined(entry)
    low.bind(op.results, loop.results[1:])
