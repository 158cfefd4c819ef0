"""Operands to functions: sources that fetch typed values of the active lanes, sinks that store them.

A value is an array over the active lanes, or a NumPy scalar when all lanes share it; arithmetic on scalars is as good
as free, so addresses and loop counters of a whole batch cost next to nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator.ptx import Address, Discard, Imm, Instruction, Operand, Reg, Special, SymbolRef, Vector
from tesseracc.emulator.special import special_source
from tesseracc.emulator.table import Step
from tesseracc.emulator.types import TYPES, Array, PtxType, container

if TYPE_CHECKING:
    from tesseracc.emulator.program import Program
    from tesseracc.emulator.wave import Wave

__all__ = ["Decoder", "Sink", "Source"]

Source = Callable[["Wave"], Array]
Sink = Callable[["Wave", Array], None]


class Decoder:
    """Knows the registers of a program and where its variables live: symbol -> (state space, address in that space)."""

    def __init__(self, program: Program, symbols: dict[str, tuple[str, int]]) -> None:
        self.program = program
        self.types = program.registers
        self.symbols = symbols
        # Return address -> copies (from, to, bytes) in local memory that bring a call's results to the caller.
        self.results_at: dict[int, list[tuple[int, int, int]]] = {}

    # --- sources -----------------------------------------------------------------------------------------------------

    def source(self, operand: Operand | None, type_name: str) -> Source:
        """Values of `operand` read as `type_name`. A wider register is truncated; a narrower one is zero extended."""
        kind = TYPES[type_name]
        if isinstance(operand, Reg):
            return self._register(operand, kind)
        if isinstance(operand, Imm):
            value = immediate(operand, kind)
            return lambda w: value
        if isinstance(operand, Special):
            fetch = special_source(operand.name)
            want = kind.container
            return lambda w: fetch(w).astype(want).view(kind.dtype)
        if isinstance(operand, SymbolRef):
            address = kind.container(self.symbols[operand.name][1] + operand.offset)
            return lambda w: address
        if isinstance(operand, Vector):
            return self._packed(operand, kind)
        raise ValueError(f"operand {operand} is not a value")

    def _register(self, reg: Reg, kind: PtxType) -> Source:
        slot, dtype = reg.slot, kind.dtype
        have = self._fitting(reg, kind)
        if kind.bits == 128 or have.bits == 128:
            return lambda w: w.fetch_pair(slot)

        def plain(w: Wave) -> Array:  # w.fetch(slot), without the call
            v = w.regs[slot]
            return v if w.full or v.ndim == 0 else v[w.sel]

        if kind.kind == "p":
            return (lambda w: ~plain(w)) if reg.negated else plain
        if have.bits == kind.bits:
            return plain if dtype is have.container else lambda w: plain(w).view(dtype)
        narrow = kind.container
        return lambda w: w.fetch(slot).astype(narrow).view(dtype)

    def _fitting(self, reg: Reg, kind: PtxType) -> PtxType:
        """The type of a register that holds values of `kind`: a predicate for predicates, else no narrower one."""
        have = self.types[reg.slot]
        if (have.kind == "p") != (kind.kind == "p") or have.bits < kind.bits:
            raise ValueError(f"{reg.name} is .{have.name}, .{kind.name} is wanted")
        return have

    def _packed(self, vector: Vector, kind: PtxType) -> Source:
        """`mov.b32 %r, {%h0, %h1}`: the first element is least significant."""
        width = kind.bits // len(vector.items)
        if kind.bits == 128:
            halves = [self.source(v, "b64") for v in vector.items]
            return lambda w: np.stack([w.spread(h(w)) for h in halves], axis=-1)
        parts = [self.source(v, f"b{width}") for v in vector.items]
        want = kind.container

        def get(w: Wave) -> Array:
            out = parts[0](w).astype(want)
            for k in range(1, len(parts)):
                out = out | parts[k](w).astype(want) << want(k * width)
            return out.view(kind.dtype)

        return get

    def patterns(self, operand: Operand | None, type_name: str) -> Source:
        """`source` as unsigned patterns."""
        kind = TYPES[type_name]
        if isinstance(operand, Imm) and kind.kind == "f":
            value = immediate(operand, kind).view(kind.container)
            return lambda w: value
        return self.source(operand, f"b{kind.bits}")

    def sources(self, operand: Operand | None, type_name: str) -> list[Source]:
        """The elements of a vector operand, or the single operand."""
        if isinstance(operand, Vector):
            return [self.source(item, type_name) for item in operand.items]
        return [self.source(operand, type_name)]

    # --- sinks -------------------------------------------------------------------------------------------------------

    def sink(self, operand: Operand | None, type_name: str) -> Sink:
        """Stores values of `type_name`; into a wider register by sign or zero extension. None (`_`) discards."""
        if operand is None or isinstance(operand, Discard):
            return lambda w, value: None
        if isinstance(operand, Vector):
            return self._unpacked(operand, TYPES[type_name])
        if not isinstance(operand, Reg):
            raise ValueError(f"operand {operand} is not a destination")
        kind, slot = TYPES[type_name], operand.slot
        have = self._fitting(operand, kind)
        if kind.bits == have.bits or kind.kind == "p":
            plain = have.container
            if kind.bits == 128:
                return lambda w, value: w.store(slot, value)

            def put(w: Wave, value: Array) -> None:  # w.store(slot, value), without the call
                if w.full:
                    w.regs[slot] = value.view(plain)
                else:
                    w.store(slot, value.view(plain))

            return put
        wide = have.container
        if kind.kind == "s":
            small, signed = kind.dtype, np.dtype(f"int{have.bits}").type
            return lambda w, value: w.store(slot, value.view(small).astype(signed).view(wide))
        narrow = container(kind.bits)
        return lambda w, value: w.store(slot, value.view(narrow).astype(wide))

    def _unpacked(self, vector: Vector, kind: PtxType) -> Sink:
        width = kind.bits // len(vector.items)
        sinks = [self.sink(v, f"b{width}") for v in vector.items]
        if kind.bits == 128:

            def put_halves(w: Wave, value: Array) -> None:
                for k, s in enumerate(sinks):
                    s(w, np.ascontiguousarray(value[..., k]))

            return put_halves
        want, raw = container(width), kind.container

        def put(w: Wave, value: Array) -> None:
            bits = value.view(raw)
            for k, s in enumerate(sinks):
                s(w, (bits >> raw(k * width)).astype(want))

        return put

    def sinks(self, operand: Operand | None, type_name: str) -> list[Sink]:
        """One sink per element of a vector destination."""
        if isinstance(operand, Vector):
            return [self.sink(item, type_name) for item in operand.items]
        return [self.sink(operand, type_name)]

    # --- addresses ---------------------------------------------------------------------------------------------------

    def address(self, operand: Operand | None) -> tuple[str | None, Source]:
        """`[base + offset]` as (space of a named variable or None, uint64 addresses)."""
        if not isinstance(operand, Address):
            raise ValueError("an address `[...]` is expected")
        offset = np.uint64(operand.offset & 0xFFFFFFFFFFFFFFFF)
        if isinstance(operand.base, SymbolRef):
            space, at = self.symbols[operand.base.name]
            fixed = np.uint64(at) + offset
            return space, lambda w: fixed
        if operand.base is None:
            return None, lambda w: offset
        slot = operand.base.slot
        narrow = self.types[slot].bits == 32
        if narrow:
            small = np.uint32(operand.offset & 0xFFFFFFFF)
            return None, lambda w: (w.fetch(slot) + small).astype(np.uint64)
        base = self._register(operand.base, TYPES["b64"])
        return None, base if operand.offset == 0 else lambda w: base(w) + offset

    # --- guards ------------------------------------------------------------------------------------------------------

    def predicate(self, guard: Reg) -> Source:
        """The guard's truth per active lane."""
        return self.source(guard, "pred")

    def guarded(self, guard: Reg, step: Step) -> Step:
        """`step` for the lanes where `guard` holds."""
        test = self.predicate(guard)

        def run(w: Wave) -> None:
            on = test(w)
            if on.all():
                step(w)
            elif on.any():
                kept = w.lanes
                w.narrow(on)
                step(w)
                w.select(kept)

        return run


def immediate(imm: Imm, kind: PtxType) -> Array:
    """The literal as a value of `kind`. Exact float literals keep their pattern as bits, and the other way round."""
    if kind.kind == "p":
        return np.bool_(imm.value != 0)
    raw = kind.container
    if kind.kind == "f":
        if imm.bits is not None and imm.width == kind.bits:
            return raw(imm.bits).view(kind.dtype)
        return kind.dtype(imm.value)
    if isinstance(imm.value, float):
        bits = imm.bits if imm.width == kind.bits else None
        if bits is None and kind.bits == 32:
            bits = int.from_bytes(struct.pack("<f", imm.value), "little")
        if bits is None:
            raise ValueError(f"float literal as .{kind.name}")
        return raw(bits).view(kind.dtype)
    value = raw(imm.value & ((1 << kind.bits) - 1) if kind.bits < 128 else imm.value)
    return value.view(kind.dtype)


def last_type(i: Instruction) -> str:
    """The type modifier that ends an instruction."""
    return i.mods[-1]
