"""Registers that asynchronous instructions still use, touched by other instructions before the wait.

PTX ISA, wgmma.mma_async: access to the accumulator, or to registers with fragments of A, is undefined until a
wgmma.wait_group has covered the instruction; tcgen05.ld: access to what it loads, until tcgen05.wait::ld. Reads of
fragments of A are let pass: nobody writes them meanwhile. Only instructions that name such registers are looked at,
and only while something is under way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.findings import ASYNC_HAZARD
from tesseracc.emulator.program import Program
from tesseracc.emulator.table import Step
from tesseracc.emulator.types import Array
from tesseracc.emulator.warpgroup_order import fragments_of, is_product, slots_of
from tesseracc.emulator.wave import Wave

__all__ = ["watched"]

_Slots = frozenset[int]


def watched(program: Program, decoder: Decoder, steps: list[Step]) -> list[Step]:
    """`steps` of the program's instructions, which report what they touch too early."""
    products = [i for i in program.code if is_product(i)]
    loads = [i for i in program.code if i.opcode == "tcgen05" and i.mods[:1] == ("ld",)]
    results = frozenset(slot for i in (*products, *loads) for slot in slots_of(i.operands[0]))
    fragments = frozenset(slot for i in products for slot in fragments_of(i))
    out = list(steps)
    for pc, i in enumerate(program.code if results else ()):
        touched = frozenset(slot for operand in i.operands for slot in slots_of(operand)) & results
        written = frozenset(slots_of(i.operands[0])) & fragments if i.operands else frozenset()
        if touched or written:
            guard = decoder.predicate(i.guard) if i.guard is not None else None
            own = tuple(slots_of(i.operands[0])) if is_product(i) else ()
            out[pc] = _Watch(steps[pc], guard, touched, written, own)
    return out


@dataclass(frozen=True, slots=True)
class _Watch:
    """A step that first looks at the registers that it touches. A product may chain to its `own` accumulator."""

    step: Step
    guard: Source | None
    touched: _Slots
    written: _Slots
    own: tuple[int, ...]

    def __call__(self, w: Wave) -> bool | None:
        if w.launch.detect and (w.launch.warpgroups.pending or w.launch.tensor_memory.loads):
            lanes = w.lanes if self.guard is None else w.lanes[w.spread(self.guard(w))]
            self._products(w, lanes)
            self._loads(w, lanes)
        return self.step(w)

    def _products(self, w: Wave, lanes: Array) -> None:
        for p in w.launch.warpgroups.pending:
            early = p.slots != self.own and not self.touched.isdisjoint(p.slots)
            if (early or not self.written.isdisjoint(p.fragments)) and np.isin(
                lanes >> 7, p.ids[p.live] if early else p.ids
            ).any():
                what = "an accumulator is accessed" if early else "a register with a fragment of A is written"
                w.log.add(ASYNC_HAZARD, f"{what} before wgmma.wait_group has covered the product that uses it",
                          w.code[w.pc], w.code[p.pc])  # fmt: skip
                return

    def _loads(self, w: Wave, lanes: Array) -> None:
        loads = w.launch.tensor_memory.loads
        for warp in np.unique(lanes >> 5).tolist() if loads else ():
            for load in loads.get(warp, ()):
                if not self.touched.isdisjoint(load.slots):
                    w.log.add(ASYNC_HAZARD, "a register is accessed before tcgen05.wait::ld of what is loaded into it",
                              w.code[w.pc], w.code[load.pc])  # fmt: skip
                    return
