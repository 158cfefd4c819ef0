"""atom and red: read-modify-write on global and shared memory. Colliding lanes of one step go in lane order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator import numeric as nm
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.flags import order
from tesseracc.emulator.operations.memory import space_of, vector_width
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import TYPES, Array, where
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.13 Parallel Synchronization and Communication: atom, red"
_FLOATS = ("f16", "bf16", "f32", "f64")

# new = fn(old, b, c) on unsigned patterns
Update = Callable[[Array, Array, Array], Array]


def _float_update(op: str, fmt: str, ftz: bool) -> Update:
    def run(old: Array, b: Array, c: Array) -> Array:
        x, y = nm.decode(old, fmt), nm.decode(b, fmt)
        if op == "add":
            if fmt == "f64":
                return (x + y).view(np.uint64)
            if ftz:
                x, y = (where(np.abs(v) < 2.0**-126, np.copysign(0.0, v), v) for v in (x, y))
            out = nm.narrow(nm.sum_odd(x, y), fmt)
            return nm.flush(out.view(np.float32)).view(np.uint32) if ftz else out
        first = (x < y) | np.isnan(y) if op == "min" else (x > y) | np.isnan(y)
        return where(first, old, b)

    return run


def _update(op: str, kind: str, space: str) -> Update:
    """The operation on patterns of one element."""
    t = TYPES[kind]
    if kind in _FLOATS:
        # Global f32 atomics flush subnormals, shared ones do not (PTX ISA, atom).
        return _float_update(op, kind, kind == "f32" and op == "add" and space == "global")
    if kind in ("f16x2", "bf16x2"):
        half = _float_update(op, kind[:-2], False)
        s = np.uint32(16)

        def both(old: Array, b: Array, c: Array) -> Array:
            low = half(old.astype(np.uint16), b.astype(np.uint16), c)
            high = half((old >> s).astype(np.uint16), (b >> s).astype(np.uint16), c)
            return low.astype(np.uint32) | high.astype(np.uint32) << s

        return both
    table: dict[str, Callable[[Array, Array, Array], Array]] = {
        "add": lambda x, b, c: x + b,
        "and": lambda x, b, c: x & b,
        "or": lambda x, b, c: x | b,
        "xor": lambda x, b, c: x ^ b,
        "exch": lambda x, b, c: b,
        "cas": lambda x, b, c: where(x == b, c, x),
        "inc": lambda x, b, c: where(x >= b, x.dtype.type(0), x + x.dtype.type(1)),
        "dec": lambda x, b, c: where((x == 0) | (x > b), b, x - x.dtype.type(1)),
        "min": lambda x, b, c: np.minimum(x.view(t.dtype), b.view(t.dtype)).view(t.container),
        "max": lambda x, b, c: np.maximum(x.view(t.dtype), b.view(t.dtype)).view(t.container),
    }
    return table[op]


_TOGETHER = {"add": np.add, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "min": np.minimum,
             "max": np.maximum}  # fmt: skip


@instruction("atom red", _SECTION, "b16 b32 b64 b128 u32 s32 u64 s64 f16 bf16 f16x2 bf16x2 f32 f64, .v2 .v4 .v8")
def atom(i: Instruction, d: Decoder) -> Step:
    """d = [a]; [a] = op(d, b): add and or xor exch cas inc dec min max. red has no d."""
    if "async" in i.mods:
        raise ValueError("red.async")
    words = {"add", "and", "or", "xor", "exch", "cas", "inc", "dec", "min", "max"}
    op = next(m for m in i.mods if m in words)
    kind = i.mods[-1]
    returns = i.opcode == "atom"
    place = 1 if returns else 0
    named, address = d.address(i.operands[place])
    space, count = space_of(i, named), vector_width(i)
    if kind == "b128":
        return _atom128(i, d, op, space)
    t = TYPES[kind]
    literal = kind if t.kind in "fsu" else f"b{t.bits}"
    bs = d.sources(i.operands[place + 1], literal)
    cs = d.sources(i.operands[place + 2], literal) if op == "cas" else bs
    sinks = d.sinks(i.operands[0], f"b{t.bits}") if returns else [d.sink(None, f"b{t.bits}")] * count
    update = _update(op, kind, space)
    releases, acquires = ({"acq_rel", m} & set(i.mods) for m in ("release", "acquire"))
    wide = "cta" not in i.mods and space != "shared"
    spins = op in ("cas", "exch")
    simple = op in _TOGETHER and (t.kind in "usb" or kind == "f64")

    def run(w: Wave) -> None:
        base = address(w)
        if releases:
            order(w, wide)
        for k, (b, c, put) in enumerate(zip(bs, cs, sinks)):
            x, y = w.spread(b(w).view(t.container)), w.spread(c(w).view(t.container))

            def combine(view: Array, index: Array, at: Array, x: Array = x) -> None:
                _TOGETHER[op].at(view.view(t.dtype), index, x[at].view(t.dtype))

            def one(before: Array, at: Array, x: Array = x, y: Array = y) -> Array:
                return update(before, x[at], y[at])

            at = base + np.uint64(k * t.bytes)
            old = access.atomic(w, space, at, t.bytes, one, returns, combine if simple else None)
            put(w, old)
        if acquires:
            order(w, wide)
        if spins:
            w.poll(np.bool_(True))

    return run


def _atom128(i: Instruction, d: Decoder, op: str, space: str) -> Step:
    """exch and cas of 128 bits, lane by lane."""
    _, address = d.address(i.operands[1])
    put, b = d.sink(i.operands[0], "b128"), d.source(i.operands[2], "b128")
    c = d.source(i.operands[3], "b128") if op == "cas" else b

    def run(w: Wave) -> None:
        x, y = np.broadcast_to(b(w), (w.n, 2)), np.broadcast_to(c(w), (w.n, 2))
        where = w.spread(address(w))
        old = np.zeros((w.n, 2), np.uint64)
        kept, lanes = w.sel, w.lanes
        for k in range(w.n):
            w.select(lanes[k : k + 1])
            low, high = access.load(w, space, where[k : k + 1], 8, 2, True)
            old[k] = low[0], high[0]
            if op == "exch" or (old[k] == x[k]).all():
                access.store(w, space, where[k : k + 1], 8, [y[k : k + 1, 0], y[k : k + 1, 1]], True)
        w.select(kept)
        put(w, old)

    return run
