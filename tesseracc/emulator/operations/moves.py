"""mov, cvta, isspacep, mapa and the like: moving values and addresses."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.memory import BASES, RANK_SHIFT, SHARED_BASE, WINDOW_BITS
from tesseracc.emulator.ptx import Instruction, Reg, Vector
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import TYPES, Array, where
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.9 Data Movement and Conversion"


@instruction("mov", _SECTION + ": mov", "pred b16..b128 u s f; packing and unpacking of vectors")
def mov(i: Instruction, d: Decoder) -> Step:
    """Copy a value, an address, a special register; pack or unpack a vector."""
    kind = i.mods[-1]
    target, source = i.operands
    if isinstance(target, Vector) and isinstance(source, Vector):
        pairs = [(d.sink(t, kind), d.source(s, kind)) for t, s in zip(target.items, source.items)]

        def several(w: Wave) -> None:
            values = [s(w).copy() for _, s in pairs]
            for (put_one, _), v in zip(pairs, values):
                put_one(w, v)

        return several
    put, a = d.sink(target, kind), d.source(source, kind)
    if isinstance(source, Reg):
        return lambda w: put(w, a(w).copy())
    return lambda w: put(w, a(w))


@instruction("cvta", _SECTION + ": cvta", ".to .global .shared .local .const .param, u32 u64")
def cvta(i: Instruction, d: Decoder) -> Step:
    """An address of a state space as a generic one; .to the other way."""
    space = next(m.split("::")[0] for m in i.mods if m.split("::")[0] in BASES)
    bits = TYPES[i.mods[-1]].bits
    put, a = d.sink(i.operands[0], i.mods[-1]), d.source(i.operands[1], "u64" if bits == 64 else "u32")
    if bits == 32 and space != "global":
        raise ValueError("32-bit generic addresses")
    base = TYPES[i.mods[-1]].dtype(BASES[space])
    if base == 0:
        return lambda w: put(w, a(w).copy())
    return lambda w: put(w, a(w) - base if "to" in i.mods else a(w) + base)


@instruction("isspacep", _SECTION + ": isspacep", ".global .shared .local .const .param")
def isspacep(i: Instruction, d: Decoder) -> Step:
    """Whether a generic address lies in the state space; shared::cta only within the CTA's own window."""
    space = i.mods[0].split("::")[0]
    put, a = d.sink(i.operands[0], "pred"), d.source(i.operands[1], "u64")
    windows = {name: base >> WINDOW_BITS for name, base in BASES.items() if base}

    def run(w: Wave) -> None:
        window = a(w) >> np.uint64(WINDOW_BITS)
        if space == "global":
            inside = np.ones_like(window, np.bool_)
            for number in windows.values():
                inside = inside & (window != number)
            put(w, np.asarray(inside)[()])
        elif i.mods[0] == "shared::cta" or i.mods[0] == "shared":
            offset = a(w) & np.uint64((1 << WINDOW_BITS) - 1)
            put(w, (window == windows["shared"]) & (offset >> np.uint64(RANK_SHIFT) == 0))
        else:
            put(w, window == windows[space])

    return run


@instruction("mapa", _SECTION + ": mapa", ".shared::cluster, u32 u64")
def mapa(i: Instruction, d: Decoder) -> Step:
    """The shared::cluster address of the same variable in the CTA of a given rank."""
    kind = i.mods[-1]
    t = TYPES[kind].dtype
    put, rank = d.sink(i.operands[0], kind), d.source(i.operands[2], "u32")
    a = d.source(i.operands[1], kind)
    low = t((1 << RANK_SHIFT) - 1)
    base = t(0) if "shared::cluster" in i.mods else t(SHARED_BASE)

    def run(w: Wave) -> None:
        put(w, (base | (a(w) & low)) + ((rank(w) + np.uint32(1)).astype(t) << t(RANK_SHIFT)))

    return run


@instruction("getctarank", _SECTION + ": getctarank", ".shared::cluster, u32 u64")
def getctarank(i: Instruction, d: Decoder) -> Step:
    """The rank of the CTA that owns a shared::cluster address."""
    put, a = d.sink(i.operands[0], "u32"), d.source(i.operands[1], i.mods[-1])

    def run(w: Wave) -> None:
        address = a(w).astype(np.uint64) & np.uint64((1 << WINDOW_BITS) - 1)
        rank: Array = (address >> np.uint64(RANK_SHIFT)).astype(np.int64) - 1
        own = w.cta[w.lanes] % w.launch.cluster_size
        put(w, where(rank < 0, own, rank).astype(np.uint32))

    return run
