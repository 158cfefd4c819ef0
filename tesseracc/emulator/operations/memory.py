"""ld, st, prefetch and friends: data movement between registers and memory."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.flags import order
from tesseracc.emulator.memory import SHARED_BASE
from tesseracc.emulator.operations.mbarriers import barrier_index
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import TYPES, Array
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.9 Data Movement and Conversion"
_SPACES = ("global", "shared", "local", "const", "param")
_STRONG = {"volatile", "relaxed", "acquire", "release", "mmio"}


def space_of(i: Instruction, named: str | None) -> str:
    """The state space: from the modifiers, from a variable named in the address, else generic."""
    if named is not None and named != "function":
        return named  # a .func parameter is written `.param` and lives in local memory
    for m in i.mods:
        if m.split("::")[0] in _SPACES:
            return m.split("::")[0]
    return "generic"


def vector_width(i: Instruction) -> int:
    """Elements per lane."""
    return next((int(m[1]) for m in i.mods if m in ("v2", "v4", "v8")), 1)


@instruction(
    "ld ldu", _SECTION + ": ld, ld.global.nc, ldu", "b8..b128 u s f16 f32 f64; .v2 .v4 .v8; cache, order, scope"
)
def ld(i: Instruction, d: Decoder) -> Step:
    """Load. Cache hints do nothing; volatile, relaxed and acquire loads are strong; acquire orders."""
    kind = i.mods[-1]
    named, address = d.address(i.operands[1])
    space, count = space_of(i, named), vector_width(i)
    strong = bool(_STRONG & set(i.mods))
    acquire, wide = "acquire" in i.mods, "cta" not in i.mods and space != "shared"
    if kind == "b128":
        return _ld128(i, d, space, strong)
    size = TYPES[kind].bytes
    sinks = d.sinks(i.operands[0], kind if TYPES[kind].kind in "su" else f"b{TYPES[kind].bits}")
    if len(sinks) != count:
        raise ValueError(f"{len(sinks)} destinations for {count} elements")
    waits = strong and space != "param"

    def run(w: Wave) -> None:
        values = access.load(w, space, address(w), size, count, strong)
        if acquire:
            order(w, wide)
        if waits:
            w.poll(np.bool_(True))
        for put, v in zip(sinks, values):
            put(w, v)

    return run


def _ld128(i: Instruction, d: Decoder, space: str, strong: bool) -> Step:
    put = d.sink(i.operands[0], "b128")
    _, address = d.address(i.operands[1])

    def run(w: Wave) -> None:
        low, high = access.load(w, space, address(w), 8, 2, strong)
        put(w, np.stack([w.spread(low), w.spread(high)], axis=-1))

    return run


@instruction("st", _SECTION + ": st", "b8..b128 u s f; .v2 .v4 .v8; cache, order, scope")
def st(i: Instruction, d: Decoder) -> Step:
    """Store. Volatile, relaxed and release stores are strong; release orders."""
    if "async" in i.mods:
        return _st_async(i, d)
    kind = i.mods[-1]
    named, address = d.address(i.operands[0])
    space = space_of(i, named)
    strong = bool(_STRONG & set(i.mods))
    if kind == "b128":
        value = d.source(i.operands[1], "b128")

        def both_halves(w: Wave) -> None:
            v = np.broadcast_to(value(w), (w.n, 2))
            access.store(w, space, address(w), 8, [v[:, 0], v[:, 1]], strong)

        return both_halves
    size = TYPES[kind].bytes
    literal = kind if TYPES[kind].kind == "f" else f"b{TYPES[kind].bits}"
    raw = TYPES[kind].container
    sources = d.sources(i.operands[1], literal)
    if len(sources) != vector_width(i):
        raise ValueError(f"{len(sources)} sources for {vector_width(i)} elements")
    release, wide = "release" in i.mods, "cta" not in i.mods and space != "shared"

    def run(w: Wave) -> None:
        if release:
            order(w, wide)
        values: list[Array] = [s(w).view(raw) for s in sources]
        access.store(w, space, address(w), size, values, strong)

    return run


def _st_async(i: Instruction, d: Decoder) -> Step:
    """st.async [a], b, [mbar]: a store into the cluster's shared memory that completes on an mbarrier there."""
    kind = i.mods[-1]
    size = TYPES[kind].bytes
    _, address = d.address(i.operands[0])
    _, barrier = d.address(i.operands[2])
    sources = d.sources(i.operands[1], f"b{TYPES[kind].bits}")

    def run(w: Wave) -> None:
        where = w.spread(address(w))
        where = np.where(where >= np.uint64(SHARED_BASE), where - np.uint64(SHARED_BASE), where)
        index = barrier_index(w, barrier(w), "read")
        launch, width = w.launch, size * len(sources)
        launch.asynchronous.mbarriers.check(w, index)
        for place in access.places_of(w, "shared", where, width):
            at = np.arange(w.n) if place.at is None else place.at
            if launch.detect:
                shadow, step = access.shadow_of(w, "shared", place.segment), launch.granule["shared"]
                for k in range(0, width, step):
                    launch.races.write(shadow, (place.offset + k) // step, place.lanes, w.pc, False, "shared", None)
            values = [w.spread(s(w))[at] for s in sources]
            launch.asynchronous.store_async(w, place.offset, place.lanes, values, size, index[at])

    return run


@instruction("prefetch prefetchu discard applypriority createpolicy", _SECTION + ": cache control", "")
def cache_hint(i: Instruction, d: Decoder) -> Step:
    """Cache control: no effect on values. createpolicy yields an opaque zero."""
    if i.opcode == "createpolicy":
        put = d.sink(i.operands[0], "b64")
        return lambda w: put(w, np.uint64(0))
    return lambda w: None
