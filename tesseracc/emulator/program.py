"""A module laid out for execution: one linear list of instructions in an order that makes diverged lanes meet again.

The machine always runs the lanes with the lowest program counter. That reconverges them at the immediate
post-dominator of a branch if the order is topological within every loop body, loops are contiguous, and what follows
a loop comes after it: whoever is ahead waits where the paths join. Callees come before callers for the same reason.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tesseracc.emulator.findings import EmulatorError
from tesseracc.emulator.ptx import Address, Function, Instruction, Label, Module, Operand, Pair, Reg, SymbolRef, Vector
from tesseracc.emulator.types import TYPES, Array, PtxType

__all__ = ["JUMP", "Program", "lay_out"]

JUMP = "%jump"  # the opcode of a jump that layout inserted; not an instruction of the program
_ENDS = {"bra", "brx", "ret", "exit", "trap"}


@dataclass(slots=True)
class Program:
    """`code[pc]`; `targets[pc]` the branch targets of pc; `entry_of[function]` the first pc of a function.

    `registers` are those that the code names: slot -> type, `junk` what they hold at first. `prepared` is what launches
    remember of the program.
    """

    module: Module
    kernel: Function
    code: list[Instruction] = field(default_factory=list)
    targets: dict[int, list[int]] = field(default_factory=dict)
    entry_of: dict[str, int] = field(default_factory=dict)
    functions: list[Function] = field(default_factory=list)
    bodies: tuple[Instruction, ...] = ()
    registers: dict[int, PtxType] = field(default_factory=dict)
    junk: dict[int, Array] = field(default_factory=dict)
    prepared: Any = None


def lay_out(module: Module, kernel: str) -> Program:
    """The program of entry `kernel`: callees first, blocks in convergence order.

    The module remembers it: many launches of one kernel share the work, as long as nobody edits a body.
    """
    known: Program | None = module.programs.get(kernel)
    if known is not None and known.bodies == tuple(i for f in known.functions for i in f.body):
        return known
    program = module.programs[kernel] = _laid_out(module, kernel)
    return program


def _laid_out(module: Module, kernel: str) -> Program:
    if kernel not in module.functions or not module.functions[kernel].is_entry:
        raise EmulatorError(
            "E942",
            f"the module has no kernel `{kernel}`",
            help=f"kernels: {', '.join(sorted(module.entries)) or 'none'}",
        )
    program = Program(module, module.functions[kernel])
    for function in _call_order(module, program.kernel):
        program.functions.append(function)
        _emit(program, function)
    program.bodies = tuple(i for f in program.functions for i in f.body)
    for i in program.code:
        for reg in _registers(i.guard, *i.operands):
            program.registers[reg.slot] = TYPES[module.registers[reg.slot]]
    program.junk = {slot: _junk(kind) for slot, kind in program.registers.items()}
    return program


def _junk(kind: PtxType) -> Array:
    """What a register holds before anything is written to it, the same for all lanes."""
    pattern = 0xA5A5A5A5A5A5A5A5
    if kind.bits == 128:
        return np.full(2, pattern, np.uint64)
    return kind.container(False if kind.kind == "p" else pattern & ((1 << kind.bits) - 1))


def _registers(*operands: Operand | None) -> Iterator[Reg]:
    """The registers that operands name."""
    for operand in operands:
        if isinstance(operand, Reg):
            yield operand
        elif isinstance(operand, Vector):
            yield from _registers(*operand.items)
        elif isinstance(operand, Pair):
            yield from _registers(operand.first, operand.second)
        elif isinstance(operand, Address):
            yield from _registers(operand.base, operand.coords)


def _call_order(module: Module, kernel: Function) -> list[Function]:
    """Reachable functions, callees before callers. Recursion is an error: registers are allocated per function."""
    out: list[Function] = []
    state: dict[str, int] = {}

    def visit(function: Function) -> None:
        state[function.name] = 1
        for instruction in function.body:
            if instruction.opcode != "call":
                continue
            callee = instruction.operands[1]
            if not isinstance(callee, SymbolRef):
                raise EmulatorError("E941", "indirect calls are not modelled", line=instruction.line)
            target = module.functions.get(callee.name)
            if target is None or not target.defined:
                continue
            if state.get(target.name) == 1:
                raise EmulatorError("E941", f"recursive call of `{target.name}` is not modelled", line=instruction.line)
            if target.name not in state:
                visit(target)
        state[function.name] = 2
        out.append(function)

    visit(kernel)
    return out


def _blocks(function: Function) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Basic blocks as ranges of the body, and the successors of each (the fall-through block first)."""
    body = function.body
    leaders = {0, *(p for p in function.labels.values() if p < len(body))}
    leaders |= {k + 1 for k, i in enumerate(body) if i.opcode in _ENDS and k + 1 < len(body)}
    starts = sorted(leaders)
    blocks = list(zip(starts, [*starts[1:], len(body)]))
    number = {start: n for n, (start, _) in enumerate(blocks)}
    successors: list[list[int]] = []
    for n, (_, stop) in enumerate(blocks):
        last = body[stop - 1]
        out: list[int] = []
        if (last.opcode not in _ENDS or last.guard is not None) and n + 1 < len(blocks):
            out.append(n + 1)
        for operand in last.operands:
            if isinstance(operand, Label) and last.opcode in ("bra", "brx"):
                target = function.labels[operand.name]
                if target < len(body):
                    out.append(number[target])
        successors.append(out)
    return blocks, successors


def _components(nodes: set[int], successors: list[list[int]]) -> list[list[int]]:
    """Strongly connected components of the subgraph (Tarjan, iterative)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    out: list[list[int]] = []
    for root in sorted(nodes):
        if root in index:
            continue
        work = [(root, 0)]
        while work:
            node, k = work.pop()
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
                on_stack.add(node)
            following = [s for s in successors[node] if s in nodes]
            while k < len(following) and following[k] in index:
                if following[k] in on_stack:
                    low[node] = min(low[node], index[following[k]])
                k += 1
            if k < len(following):
                work.append((node, k))
                work.append((following[k], 0))
                continue
            for s in following:
                if s in on_stack:
                    low[node] = min(low[node], low[s])
            if low[node] == index[node]:
                component = []
                while True:
                    member = stack.pop()
                    on_stack.discard(member)
                    component.append(member)
                    if member == node:
                        break
                out.append(sorted(component))
    return out


def convergence_order(nodes: set[int], successors: list[list[int]]) -> list[int]:
    """Blocks in topological order, loops contiguous with their header first; ties go to the original order."""
    if not nodes:
        return []
    components = _components(nodes, successors)
    home = {node: c for c, members in enumerate(components) for node in members}
    waiting = [0] * len(components)
    follow: list[set[int]] = [set() for _ in components]
    for node in nodes:
        for s in successors[node]:
            if s in nodes and home[s] != home[node] and home[s] not in follow[home[node]]:
                follow[home[node]].add(home[s])
                waiting[home[s]] += 1
    ready = [(members[0], c) for c, members in enumerate(components) if not waiting[c]]
    heapq.heapify(ready)
    out: list[int] = []
    while ready:
        _, c = heapq.heappop(ready)
        members = components[c]
        if len(members) == 1:
            out.extend(members)
        else:
            inside = set(members)
            entered = {s for n in range(len(successors)) if n not in inside for s in successors[n] if s in inside}
            header = min(entered or inside)
            out.append(header)
            out.extend(convergence_order(inside - {header}, successors))
        for s in sorted(follow[c]):
            waiting[s] -= 1
            if not waiting[s]:
                heapq.heappush(ready, (components[s][0], s))
    return out


def _emit(program: Program, function: Function) -> None:
    if not function.body:
        function.body.append(Instruction("ret", (), (), None, function.line, None))
    blocks, successors = _blocks(function)
    reachable, todo = {0}, [0]
    while todo:
        for s in successors[todo.pop()]:
            if s not in reachable:
                reachable.add(s)
                todo.append(s)
    order = convergence_order(reachable, successors)
    code = program.code
    program.entry_of[function.name] = len(code)
    start_of: dict[int, int] = {}
    pending: list[tuple[int, list[int]]] = []
    number = {start: n for n, (start, _) in enumerate(blocks)}
    for position, n in enumerate(order):
        start, stop = blocks[n]
        start_of[n] = len(code)
        for instruction in function.body[start:stop]:
            code.append(instruction if instruction.index == len(code) else replace(instruction, index=len(code)))
        last = code[-1]
        if last.opcode in ("bra", "brx"):
            labels = [o.name for o in last.operands if isinstance(o, Label)]
            pending.append((len(code) - 1, [number.get(function.labels[name], -1) for name in labels]))
        falls = last.opcode not in _ENDS or last.guard is not None
        if not falls:
            continue
        if n + 1 >= len(blocks):  # running off the end of a function returns
            code.append(Instruction("ret", (), (), None, last.line, last.loc, len(code)))
        elif position + 1 >= len(order) or order[position + 1] != n + 1:
            code.append(Instruction(JUMP, (), (), None, last.line, last.loc, len(code)))
            pending.append((len(code) - 1, [n + 1]))
    final = len(code)
    if any(-1 in targets for _, targets in pending):  # a label at the very end of the body
        code.append(Instruction("ret", (), (), None, function.line, None, final))
    for pc, targets in pending:
        program.targets[pc] = [start_of[t] if t >= 0 else final for t in targets]
