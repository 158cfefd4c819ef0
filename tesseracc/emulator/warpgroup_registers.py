"""Registers that wgmma.mma_async still uses, touched by other instructions before their wait_group.

PTX ISA, wgmma.mma_async: access to the accumulator, or to registers with fragments of A, is undefined until a
wgmma.wait_group has covered the instruction. Reads of fragments of A are let pass: nobody writes them meanwhile. Only
instructions that name such registers are looked at, and only while something is under way.
"""

from __future__ import annotations

import numpy as np

from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.findings import ASYNC_HAZARD
from tesseracc.emulator.program import Program
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step
from tesseracc.emulator.warpgroup_order import fragments_of, is_product, slots_of
from tesseracc.emulator.wave import Wave

__all__ = ["watched"]


def watched(program: Program, decoder: Decoder, steps: list[Step]) -> list[Step]:
    """`steps` of the program's instructions, which report what they touch too early."""
    products = [i for i in program.code if is_product(i)]
    accumulators = frozenset(slot for i in products for slot in slots_of(i.operands[0]))
    fragments = frozenset(slot for i in products for slot in fragments_of(i))
    out = list(steps)
    for pc, i in enumerate(program.code if products else ()):
        touched = frozenset(slot for operand in i.operands for slot in slots_of(operand)) & accumulators
        written = frozenset(slots_of(i.operands[0])) & fragments if i.operands else frozenset()
        if touched or written:
            guard = decoder.predicate(i.guard) if i.guard is not None else None
            out[pc] = _watch(i, guard, steps[pc], touched, written)
    return out


def _watch(i: Instruction, guard: Source | None, step: Step, touched: frozenset[int], written: frozenset[int]) -> Step:
    own = tuple(slots_of(i.operands[0])) if is_product(i) else ()  # a product may chain to its accumulator

    def run(w: Wave) -> bool | None:
        for p in w.launch.warpgroups.pending if w.launch.detect else ():
            early = p.slots != own and not touched.isdisjoint(p.slots)
            if not early and written.isdisjoint(p.fragments):
                continue
            lanes = w.lanes if guard is None else w.lanes[w.spread(guard(w))]
            if np.isin(lanes >> 7, p.ids[p.live] if early else p.ids).any():
                what = "an accumulator is accessed" if early else "a register with a fragment of A is written"
                w.log.add(ASYNC_HAZARD, f"{what} before wgmma.wait_group has covered the product that uses it",
                          w.code[w.pc], w.code[p.pc])  # fmt: skip
                break
        return step(w)

    return run
