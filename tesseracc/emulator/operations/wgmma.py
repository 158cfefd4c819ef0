"""Warpgroup matrix instructions of sm_90a: wgmma.mma_async and its fences (PTX ISA, Asynchronous Warpgroup Matrix).

The accumulators are computed at issue but kept aside until the group is waited for: registers read too early hold
junk. The shared memory that the operands come from stays marked as being read until then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator import tensor_cores as tc
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.findings import BAD_STATE, OUT_OF_BOUNDS, UNINITIALISED
from tesseracc.emulator.operations.matrix import shape_of, whole_warps
from tesseracc.emulator.ptx import Imm, Instruction, Reg, Vector
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

if TYPE_CHECKING:
    from tesseracc.emulator.launch import Launch

__all__ = ["Pending", "WarpgroupState", "descriptor_offsets"]

_SECTION = "9.7.15 Asynchronous Warpgroup Level Matrix Instructions"


@dataclass(slots=True, eq=False)
class Pending:
    """Results of one warpgroup: registers `slots` of its 128 lanes get `values` [128, slots] when it waits."""

    slots: tuple[int, ...]
    values: Array
    reads: Array
    knowledge: Array | None = None  # what the race detector lets every warp of the group know after the wait
    group: int | None = None


class WarpgroupState:
    """Pending wgmma operations by first lane of the warpgroup."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.pending: dict[int, list[Pending]] = {}
        self.group: dict[int, int] = {}

    def commit(self, w: Wave) -> None:
        """wgmma.commit_group."""
        for first in warpgroups(w):
            number = self.group.get(first, 0)
            for p in self.pending.get(first, []):
                if p.group is None:
                    p.group = number
            self.group[first] = number + 1

    def wait(self, w: Wave, left: int) -> None:
        """wgmma.wait_group: land all but the last `left` groups."""
        kept = w.sel
        for first in warpgroups(w):
            limit = self.group.get(first, 0) - left
            rest: list[Pending] = []
            for p in self.pending.get(first, []):
                if p.group is not None and p.group < limit:
                    w.select(slice(first, first + 128))
                    for k, slot in enumerate(p.slots):
                        w.store(slot, np.ascontiguousarray(p.values[:, k]))
                    self.launch.asynchronous.release_reads(p.reads)
                    if p.knowledge is not None:
                        self.launch.races.acquire(np.arange(4) + (first >> 5), p.knowledge)
                else:
                    rest.append(p)
            self.pending[first] = rest
            for p in rest:
                if len(p.reads):
                    self.launch.asynchronous.reading[p.reads] = w.pc + 1
        w.select(kept)

    def accumulators(self, w: Wave, first: int, slots: tuple[int, ...]) -> Array:
        """The present accumulator values [128, registers], pending ones included."""
        for p in reversed(self.pending.get(first, [])):
            if p.slots == slots:
                return p.values
        kept = w.sel
        w.select(slice(first, first + 128))
        out = np.stack([w.spread(w.fetch(s)) for s in slots], axis=-1)
        w.select(kept)
        return out


def warpgroups(w: Wave) -> list[int]:
    """First lanes of the executing warpgroups."""
    return [int(x) for x in np.unique(w.lanes >> 7) << 7]


def descriptor_offsets(descriptor: int, rows: int, k: int, size: int, k_major: bool) -> Array:
    """Shared byte addresses [rows, k] of an operand's elements (PTX ISA, Matrix Descriptor and canonical layouts).

    rows: M of A or N of B. In 16-byte units T: K-major without swizzle ((8,m),(T,2)):((T,SBO),(1,LBO)); with swizzle
    of s bytes rows have pitch s and 8-row groups pitch SBO. MN-major with swizzle ((s,m),(8,k)):((1,LBO),(s,SBO)),
    without ((T,m),(8,k)):((1,SBO),(T,LBO)).
    """
    start = (descriptor & 0x3FFF) << 4
    lead = (descriptor >> 16 & 0x3FFF) << 4
    stride = (descriptor >> 32 & 0x3FFF) << 4
    offset = descriptor >> 49 & 7
    swizzle = {0: 0, 1: 128, 2: 64, 3: 32}[descriptor >> 62 & 3]
    r, c = np.arange(rows)[:, None], np.arange(k)[None, :]
    if k_major:
        if swizzle:
            at = r % 8 * swizzle + r // 8 * stride + c * size
        else:
            at = r % 8 * 16 + r // 8 * stride + c * size % 16 + c * size // 16 * lead
    elif swizzle:
        per = swizzle // size
        at = r % per * size + r // per * lead + c % 8 * swizzle + c // 8 * stride
    else:
        per = 16 // size
        at = r % per * size + r // per * stride + c % 8 * 16 + c // 8 * lead
    address = start + at
    if swizzle:
        bits = {32: 1, 64: 2, 128: 3}[swizzle]
        address = address ^ ((address >> 7) + offset & ((1 << bits) - 1)) << 4
    return address


def _flag(i: Instruction, k: int, default: int) -> int:
    operand = i.operands[k] if k < len(i.operands) else None
    return int(operand.value) if isinstance(operand, Imm) else default


@instruction(
    "wgmma", _SECTION, ".mma_async m64nNk of f16 bf16 tf32 e4m3 e5m2 s8 u8; fence commit_group wait_group", control=True
)
def wgmma(i: Instruction, d: Decoder) -> Step:
    """D = A * B (+ D) by a warpgroup, A from registers or shared memory, B from shared memory."""
    if "fence" in i.mods:
        return whole_warps(i, d, lambda w: None)
    if "commit_group" in i.mods:
        return whole_warps(i, d, lambda w: w.launch.warpgroups.commit(w))
    if "wait_group" in i.mods:
        left = _flag(i, 0, 0)
        return whole_warps(i, d, lambda w: w.launch.warpgroups.wait(w, left))
    if "sp" in i.mods:
        raise ValueError("sparse wgmma")
    return _mma_async(i, d)


def _mma_async(i: Instruction, d: Decoder) -> Step:
    m, n, k = shape_of(i)
    dk, ak, bk = [word for word in i.mods if word in tc.BITS][-3:]
    target = i.operands[0]
    if not isinstance(target, Vector):
        raise ValueError("the accumulator must be a vector")
    slots = tuple(r.slot for r in target.items if isinstance(r, Reg))
    if len(slots) != (n // 4 if dk == "f16" else n // 2):
        raise ValueError(f"{len(slots)} accumulator registers for n = {n}")
    from_registers = isinstance(i.operands[1], Vector)
    a_registers = d.sources(i.operands[1], "b32") if from_registers else []
    a_descriptor = None if from_registers else d.source(i.operands[1], "b64")
    b_descriptor = d.source(i.operands[2], "b64")
    scale_operand = i.operands[3]
    scale = d.source(scale_operand, "pred")
    sign_a, sign_b = _flag(i, 4, 1), _flag(i, 5, 1)
    transposed_a = not from_registers and bool(_flag(i, 6, 0))
    transposed_b = bool(_flag(i, 6 if from_registers else 7, 0))
    size = tc.BITS[bk] // 8
    pa = tc.a_places(16, k, tc.BITS[ak])
    row, column = tc.c_places(16, n)
    name = f"wgmma.m{m}n{n}k{k}.{ak}"
    junk = np.uint32(0x7FC0DEAD)

    def from_shared(w: Wave, first: int, descriptor: int, rows: int, kind: str, k_major: bool) -> tuple[Array, Array]:
        """(f64 matrix [rows, k], granules read)."""
        launch = w.launch
        at = descriptor_offsets(descriptor, rows, k, size, k_major)
        if at.max() + size > launch.shared_size:
            w.log.add(OUT_OF_BOUNDS, f"a matrix descriptor reaches shared address {int(at.max()):#x}; the space has "
                      f"{launch.shared_size} bytes", w.code[w.pc])  # fmt: skip
            return np.zeros((rows, k)), np.zeros(0, np.int64)
        at = at + int(w.cta[first]) * launch.shared_stride
        granules = np.unique(at // 4)
        if launch.detect:
            if not launch.written["shared"][at].all():
                w.log.add(UNINITIALISED, "wgmma reads shared memory that nobody has written", w.code[w.pc])
            shadow = access.shadow_of(w, "shared", launch.shared)
            places = np.unique(at // launch.granule["shared"])
            launch.races.read(shadow, places, np.full(len(places), first), w.pc, False, "shared")
        launch.asynchronous.proxy_read(w, granules, first, mark=True)
        w.counters.bytes_read["shared"] += at.size * size
        raw = launch.shared.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[size])[at // size]
        return tc.element_values(raw, kind), granules

    def step(w: Wave) -> None:
        if w.n % 128:
            w.log.add(BAD_STATE, "wgmma is executed by part of a warpgroup", w.code[w.pc])
            return
        state = w.launch.warpgroups
        firsts = warpgroups(w)
        bd = w.spread(b_descriptor(w)).reshape(-1, 128)
        ad = None if a_descriptor is None else w.spread(a_descriptor(w)).reshape(-1, 128)
        use = w.spread(scale(w)).reshape(-1, 128)
        held = [w.spread(s(w)).reshape(-1, 128) for s in a_registers]
        for g, first in enumerate(firsts):
            reads: list[Array] = []
            if ad is None:
                raw = np.stack([h[g] for h in held], axis=-1).reshape(4, 32, len(held))
                x = np.zeros((4, 16, k))
                x[:, pa[0], pa[1]] = tc.element_values(tc.unpack_registers(raw, tc.BITS[ak]), ak)
                a = x.reshape(64, k)
            else:
                a, used = from_shared(w, first, int(ad[g, 0]), 64, ak, not transposed_a)
                reads.append(used)
            b, used = from_shared(w, first, int(bd[g, 0]), n, bk, not transposed_b)
            reads.append(used)
            values = _multiply(a * sign_a, b.T * sign_b, state.accumulators(w, first, slots), bool(use[g, 0]))
            old = state.pending.setdefault(first, [])
            for p in old:  # a chained accumulator: only the newest result will land
                if p.slots == slots:
                    p.slots, p.values = (), p.values[:, :0]
            known = w.launch.races.release(np.array([first >> 5])) if w.launch.detect else None
            old.append(Pending(slots, values, np.concatenate(reads), known))
            w.counters.mma[name] += 1
        kept = w.sel
        for slot in slots:
            w.store(slot, np.full(w.n, junk, np.uint32))
        w.select(kept)

    def _multiply(a: Array, b: Array, c: Array, use: bool) -> Array:
        """New accumulator registers [128, slots]."""
        raw = c.reshape(4, 32, -1)
        z = np.zeros((4, 16, n))
        if use:
            if dk == "f16":
                values = tc.element_values(tc.unpack_registers(raw, 16), "f16").reshape(4, 32, -1)
            elif dk == "s32":
                values = np.ascontiguousarray(raw).view(np.int32).astype(np.float64)
            else:
                values = np.ascontiguousarray(raw).view(np.float32).astype(np.float64)
            z[:, row, column] = values
        start = z.reshape(64, n)
        bits = tc.integer_matmul(a, b, start, "satfinite" in i.mods) if dk == "s32" else tc.matmul(a, b, start, dk)
        out = bits.reshape(4, 16, n)[:, row, column]
        if dk == "f16":
            out = np.ascontiguousarray(out.astype(np.uint16)).view(np.uint32)
        return out.reshape(128, -1)

    return whole_warps(i, d, step)
