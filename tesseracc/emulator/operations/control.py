"""Control flow: bra brx call ret exit trap, and the jumps that layout inserts."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.findings import BAD_STATE, StopLaunch
from tesseracc.emulator.operations.device_calls import device_call
from tesseracc.emulator.program import JUMP
from tesseracc.emulator.ptx import Instruction, SymbolRef, Vector
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.12 Control Flow"


@instruction(f"bra {JUMP}", _SECTION + ": bra", "", control=True)
def bra(i: Instruction, d: Decoder) -> Step:
    """Branch; lanes whose guard is false fall through."""
    target = d.program.targets[i.index][0]
    if i.guard is None:
        return lambda w: w.jump(target)
    test = d.predicate(i.guard)

    def run(w: Wave) -> bool | None:
        on = test(w)
        if on.all():
            return w.jump(target)
        if not on.any():
            return None
        kept = w.lanes
        w.narrow(on)
        w.jump(target)
        w.select(kept)
        w.narrow(~on)
        # What falls through may have company further down, so it queues like the rest.
        w.queue(w.pc + 1, w.sel)
        return True

    return run


@instruction("brx", _SECTION + ": brx.idx", "u32", control=True)
def brx(i: Instruction, d: Decoder) -> Step:
    """Branch to the label of a list that the index selects."""
    index = d.source(i.operands[0], "u32")
    targets = d.program.targets[i.index]
    test = d.predicate(i.guard) if i.guard is not None else None

    def run(w: Wave) -> bool:
        kept = w.lanes
        chosen = w.spread(index(w))
        if test is not None:
            on = w.spread(test(w))
            if not on.all():
                w.narrow(~on)
                w.queue(w.pc + 1, w.sel)
                kept, chosen = kept[on], chosen[on]
        for k in np.unique(chosen):
            w.select(kept[chosen == k])
            if k >= len(targets):
                w.log.add(BAD_STATE, f"branch index {k} is beyond the {len(targets)} targets", i)
                raise StopLaunch
            w.jump(targets[int(k)])
        return True

    return run


@instruction("exit", _SECTION + ": exit", "", control=True)
def exit_(i: Instruction, d: Decoder) -> Step:
    """The thread ends."""
    return _leave(i, d, lambda w: w.exit())


@instruction("ret", _SECTION + ": ret", "", control=True)
def ret(i: Instruction, d: Decoder) -> Step:
    """Back to the caller; in a kernel the thread ends."""
    kernel = d.program.kernel.name
    starts = sorted((pc, name) for name, pc in d.program.entry_of.items())
    owner = [name for pc, name in starts if pc <= i.index][-1]
    if owner == kernel:
        return _leave(i, d, lambda w: w.exit())

    def go_back(w: Wave) -> None:
        pcs = w.return_to[owner][w.sel]
        lanes = w.lanes
        for pc in np.unique(pcs):
            w.select(lanes[pcs == pc])
            results = d.results_at[int(pc)]
            _copy(w, results)
            _mark(w, results)
            w.queue(int(pc), w.sel)

    return _leave(i, d, go_back)


def _leave(i: Instruction, d: Decoder, go: Step) -> Step:
    """Send the lanes whose guard holds away; the rest continue."""
    if i.guard is None:

        def everyone(w: Wave) -> bool:
            go(w)
            return True

        return everyone
    test = d.predicate(i.guard)

    def run(w: Wave) -> bool | None:
        on = w.spread(test(w))
        if not on.any():
            return None
        kept = w.lanes
        w.narrow(on)
        go(w)
        if on.all():
            return True
        w.select(kept)
        w.narrow(~on)
        return None

    return run


@instruction("trap brkpt", _SECTION + ": trap", "")
def trap(i: Instruction, d: Decoder) -> Step:
    """Abort the launch (trap) or do nothing (brkpt)."""

    def run(w: Wave) -> None:
        if i.opcode == "trap":
            w.log.add(BAD_STATE, f"trap executed by {w.launch.who(w, int(w.lanes[0]))}", i)
            raise StopLaunch

    return run


@instruction("call", _SECTION + ": call", "direct calls of .func; vprintf, __assertfail", control=True)
def call(i: Instruction, d: Decoder) -> Step:
    """Call a function: parameters are copied between the call site's and the function's `.param` variables."""
    returns, callee, arguments = i.operands
    if not (isinstance(returns, Vector) and isinstance(arguments, Vector) and isinstance(callee, SymbolRef)):
        raise ValueError("call operands")
    function = d.program.module.functions[callee.name]
    if not function.defined:
        return device_call(i, d, callee.name)
    copies = []
    for argument, param in zip(arguments.items, function.params):
        if not isinstance(argument, SymbolRef):
            raise ValueError("call arguments must be .param variables")
        copies.append((d.symbols[argument.name][1], d.symbols[param.name][1], param.size))
    results = []
    for result, param in zip(returns.items, function.returns):
        if not isinstance(result, SymbolRef):
            raise ValueError("call results must be .param variables")
        results.append((d.symbols[param.name][1], d.symbols[result.name][1], param.size))
    target = d.program.entry_of[function.name]
    d.results_at[i.index + 1] = results

    def run(w: Wave) -> bool:
        kept = w.lanes
        if i.guard is not None:
            on = w.spread(d.predicate(i.guard)(w))
            if not on.all():
                w.narrow(~on)
                w.queue(w.pc + 1, w.sel)
                w.select(kept)
                w.narrow(on)
        if w.n:
            _copy(w, copies)
            if function.name not in w.return_to:
                w.return_to[function.name] = np.zeros(w.size, np.int64)
            w.return_to[function.name][w.sel] = w.pc + 1
            w.queue(target, w.sel)
        return True

    return run


def _copy(w: Wave, copies: list[tuple[int, int, int]]) -> None:
    launch = w.launch
    for memory in (launch.local.data, launch.written["local"]):
        rows = memory[: w.size * launch.local_stride].reshape(w.size, launch.local_stride)
        for source, target, size in copies:
            rows[w.sel, target : target + size] = rows[w.sel, source : source + size]


def _mark(w: Wave, copies: list[tuple[int, int, int]]) -> None:
    """A call's result counts as written: callers pass its padding on, which the callee left alone."""
    rows = w.launch.written["local"][: w.size * w.launch.local_stride].reshape(w.size, w.launch.local_stride)
    for _, target, size in copies:
        rows[w.sel, target : target + size] = 1
