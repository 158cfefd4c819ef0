"""Where wgmma.mma_async takes registers that other instructions touched with no wgmma.fence between.

PTX ISA, wgmma.fence: it must order accesses to registers by other instructions with a wgmma.mma_async that uses them as
accumulator or as fragments of A, and stand before the first one of a kernel; among instructions that chain one
accumulator it is not needed. Found in the program's text: a walk back from each instruction along all paths, over
copies of registers and constants, which the assembler may put anywhere. Strictly what a register held before such a
copy counts too: the next product overwrites what other instructions read.
"""

from __future__ import annotations

from collections.abc import Iterator

from tesseracc.emulator.program import JUMP, Program
from tesseracc.emulator.ptx import Instruction, Operand, Pair, Reg, Vector

__all__ = ["fragments_of", "is_product", "slots_of", "unfenced"]


def slots_of(operand: Operand | None) -> Iterator[int]:
    """The registers that an operand names; those of addresses do not count."""
    if isinstance(operand, Reg):
        yield operand.slot
    elif isinstance(operand, Vector):
        for item in operand.items:
            yield from slots_of(item)
    elif isinstance(operand, Pair):
        yield from slots_of(operand.first)
        yield from slots_of(operand.second)


def is_product(i: Instruction) -> bool:
    """Whether `i` is a wgmma.mma_async."""
    return i.opcode == "wgmma" and i.mods[:1] == ("mma_async",)


def fragments_of(product: Instruction) -> frozenset[int]:
    """The registers with fragments of A; none where A lies in shared memory."""
    a = product.operands[1]
    return frozenset(slots_of(a)) if isinstance(a, Vector) else frozenset()


def _predecessors(program: Program) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in program.code]
    for pc, i in enumerate(program.code):
        following = list(program.targets.get(pc, ()))
        if i.opcode not in ("ret", "exit", "trap", JUMP) and (i.opcode not in ("bra", "brx") or i.guard is not None):
            following.append(pc + 1)
        for target in following:
            if target < len(found):
                found[target].append(pc)
    return found


def unfenced(program: Program, strict: bool = False) -> dict[int, int | None]:
    """By pc of a wgmma.mma_async the pc of an access that no fence orders before it; None: there is no fence at all."""
    before: list[list[int]] | None = None
    found: dict[int, int | None] = {}
    for pc, i in enumerate(program.code):
        if not is_product(i):
            continue
        before = before if before is not None else _predecessors(program)
        fault = _walk(program, before, pc, strict)
        if fault is not None:
            found[pc] = fault if fault >= 0 else None
    return found


def _walk(program: Program, before: list[list[int]], pc: int, strict: bool) -> int | None:
    """The pc of the first such access met; -1 for the start of the kernel, None for neither."""
    product = program.code[pc]
    accumulator = frozenset(slots_of(product.operands[0]))
    entry = program.entry_of[program.kernel.name]
    todo = [(pc, accumulator | fragments_of(product))]
    seen: set[tuple[int, frozenset[int]]] = set()
    while todo:
        at, wanted = todo.pop()
        if at == entry:
            return -1
        for q in before[at]:
            i = program.code[q]
            rest = wanted
            if i.opcode == "wgmma":
                if "fence" in i.mods:
                    continue
                if is_product(i) and frozenset(slots_of(i.operands[0])) == accumulator:
                    rest = wanted - accumulator
                    if not rest:
                        continue
            elif i.opcode == "mov" and isinstance(i.operands[0], Reg):
                if i.operands[0].slot in wanted:  # a copy, or a constant: the assembler may put it anywhere
                    rest = wanted | frozenset(slots_of(i.operands[1]))
                    rest = rest if strict else rest - {i.operands[0].slot}
            elif any(slot in wanted for operand in i.operands for slot in slots_of(operand)):
                return q
            if (q, rest) not in seen:
                seen.add((q, rest))
                todo.append((q, rest))
    return None
