"""Warpgroup matrix instructions of sm_90a: wgmma.mma_async and its fences (PTX ISA, Asynchronous Warpgroup Matrix).

Of A wgmma.mma_async.sp takes half of the elements of a row, and metadata from registers say which.

The accumulators are computed at issue but kept aside until the group is waited for: registers read too early hold
junk. The shared memory that the operands come from stays marked as being read until then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tesseracc.emulator import access, sparsity
from tesseracc.emulator import tensor_cores as tc
from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.findings import BAD_STATE, OUT_OF_BOUNDS, UNINITIALISED
from tesseracc.emulator.operations.matrix import shape_of, whole_warps
from tesseracc.emulator.operations.metadata import Metadata
from tesseracc.emulator.ptx import Imm, Instruction, Operand, Reg, Vector
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.tensor_map import CHUNK
from tesseracc.emulator.types import Array
from tesseracc.emulator.warpgroup_order import fragments_of
from tesseracc.emulator.wave import Wave

if TYPE_CHECKING:
    from tesseracc.emulator.launch import Launch

__all__ = ["Pending", "WarpgroupState", "descriptor_offsets"]

_WRITTEN = np.uint64(0x0101010101010101)

_SECTION = "9.7.15 Asynchronous Warpgroup Level Matrix Instructions"


@dataclass(slots=True, eq=False)
class Pending:
    """Results of one instruction by warpgroups `ids` [g]: the lanes of each get `matrix` [g, 64, n] when it waits.

    `live` [g]: no later instruction has taken the accumulator over. `group` [g] is -1 before the commit.
    """

    pc: int
    slots: tuple[int, ...]
    ids: Array
    matrix: Array
    reads: list[Array]  # granules of shared memory per operand [g, granules]
    knowledge: Array | None  # what the race detector lets every warp of the groups know after the wait
    group: Array
    live: Array
    fragments: frozenset[int]  # registers with fragments of A

    def part(self, mask: Array) -> Pending:
        """Only some of the warpgroups."""
        known = None if self.knowledge is None else self.knowledge[mask]
        reads = [r[mask] for r in self.reads]
        return Pending(self.pc, self.slots, self.ids[mask], self.matrix[mask], reads, known, self.group[mask],
                       self.live[mask], self.fragments)  # fmt: skip


class WarpgroupState:
    """Pending wgmma operations of a batch, oldest first; `number` counts the committed groups of each warpgroup."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.pending: list[Pending] = []
        self.number = np.zeros(0, np.int64)

    def _numbers(self, w: Wave) -> Array:
        if not len(self.number):
            self.number = np.zeros((w.size >> 7) + 1, np.int64)
        return self.number

    def commit(self, w: Wave) -> None:
        """wgmma.commit_group."""
        ids, number = warpgroups(w), self._numbers(w)
        for p in self.pending:
            mine = (p.group < 0) & np.isin(p.ids, ids)
            p.group[mine] = number[p.ids[mine]]
        number[ids] += 1

    def wait(self, w: Wave, left: int) -> None:
        """wgmma.wait_group: land all but the last `left` groups."""
        number = self._numbers(w)
        limit = np.zeros(len(number), np.int64)
        limit[warpgroups(w)] = number[warpgroups(w)] - left
        rest: list[Pending] = []
        kept = w.sel
        for p in self.pending:
            done = (p.group >= 0) & (p.group < limit[p.ids])
            if done.all():
                self._land(w, p)
            elif done.any():
                self._land(w, p.part(done))
                rest.append(p.part(~done))
            else:
                rest.append(p)
        w.select(kept)
        self.pending = rest
        for p in rest:
            for granules in p.reads:
                self.launch.asynchronous.reading[granules] = p.pc + 1

    def _land(self, w: Wave, p: Pending) -> None:
        if p.live.any():
            w.select(lanes_of(p.ids[p.live]))
            for slot, value in zip(p.slots, to_registers(p.matrix[p.live])):
                w.store(slot, value)
        for granules in p.reads:
            self.launch.asynchronous.release_reads(granules)
            self._read_until_now(w, p, granules)
        if p.knowledge is not None:
            warps = (p.ids[:, None] * 4 + np.arange(4)).reshape(-1)
            self.launch.races.acquire(warps, np.repeat(p.knowledge, 4, axis=0))

    def _read_until_now(self, w: Wave, p: Pending, granules: Array) -> None:
        """Who writes to an operand must come behind the wait for the product, not only behind its start."""
        launch = self.launch
        if launch.detect:
            places = granules * 4 // launch.granule["shared"]
            launch.races.read(access.shadow_of(w, "shared", launch.shared), places.reshape(-1),
                              np.repeat(p.ids << 7, places.shape[1]), p.pc, False, "shared")  # fmt: skip

    def accumulators(self, w: Wave, ids: Array, slots: tuple[int, ...], bits: int) -> Array:
        """The present accumulators as matrices of patterns [g, 64, n], pending ones included."""
        same = [p for p in self.pending if p.slots == slots]
        if same and len(same[-1].ids) == len(ids) and (same[-1].ids == ids).all() and same[-1].live.all():
            return same[-1].matrix
        kept = w.sel
        w.select(lanes_of(ids))
        out = to_matrix([w.spread(w.fetch(s)) for s in slots], bits)
        w.select(kept)
        for p in same:
            at: Array = np.searchsorted(ids, p.ids)
            mine = p.live & (at < len(ids)) & (ids[np.minimum(at, len(ids) - 1)] == p.ids)
            out[at[mine]] = p.matrix[mine]
        return out

    def add(self, p: Pending) -> bool:
        """One more; of chained ones only the newest will land. False if the registers are free to take junk already."""
        chained = False
        for old in self.pending:
            if old.slots == p.slots:
                taken = old.live & np.isin(old.ids, p.ids)
                chained |= int(taken.sum()) == len(p.ids)
                old.live &= ~taken
        self.pending.append(p)
        return not chained


def warpgroups(w: Wave) -> Array:
    """Numbers of the executing warpgroups within the batch, ascending."""
    lanes = w.lanes
    return lanes[:: 128 if len(lanes) % 128 == 0 else 1] >> 7 if _whole(lanes) else np.unique(lanes >> 7)


def _whole(lanes: Array) -> bool:
    rows = lanes[: len(lanes) // 128 * 128].reshape(-1, 128)
    return len(lanes) % 128 == 0 and bool(((rows[:, -1] - rows[:, 0] == 127) & (rows[:, 0] & 127 == 0)).all())


def lanes_of(ids: Array) -> Array:
    """The lanes of warpgroups, as a selection."""
    if ids[-1] - ids[0] == len(ids) - 1:
        return slice(int(ids[0]) << 7, int(ids[-1] + 1) << 7)
    return ((ids << 7)[:, None] + np.arange(128)).reshape(-1)


# Register (j, h) or (j, h, p) of lane (warp, g, t) holds row 16 warp + 8 h + g, column 8 j + 2 t + p; 16-bit patterns
# share a register over p (PTX ISA, Register Fragments for wgmma, the D matrix).


def to_matrix(registers: list[Array], bits: int) -> Array:
    """Registers, each [g * 128], to matrices of patterns [g, 64, n]."""
    x = np.stack(registers)
    if bits == 16:
        x = x.view(np.uint16).reshape(len(x) // 2, 2, -1, 4, 8, 4, 2).transpose(2, 3, 1, 4, 0, 5, 6)
    else:
        x = x.reshape(len(x) // 4, 2, 2, -1, 4, 8, 4).transpose(3, 4, 1, 5, 0, 6, 2)
    return np.ascontiguousarray(x).reshape(x.shape[0], 64, -1)


def to_registers(matrix: Array) -> Array:
    """Matrices of patterns [g, 64, n] to registers [slots, g * 128]."""
    x = matrix.reshape(len(matrix), 4, 2, 8, -1, 4, 2)
    if matrix.dtype == np.uint16:
        return np.ascontiguousarray(x.transpose(4, 2, 0, 1, 3, 5, 6)).view(np.uint32).reshape(-1, len(matrix) * 128)
    return np.ascontiguousarray(x.transpose(4, 2, 6, 0, 1, 3, 5)).reshape(-1, len(matrix) * 128)


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


@dataclass(frozen=True, slots=True)
class Tile:
    """Where an operand lies in a CTA's shared memory: 16-byte chunks [outer, inner] in the order of its elements,
    the granules of the race detector (each once) and of 4 bytes in them, and the range of addresses."""

    chunks: Array
    places: Array
    granules: Array
    within: tuple[int, int]


@lru_cache(maxsize=1024)
def _tile(descriptor: int, rows: int, k: int, size: int, k_major: bool, unit: int) -> Tile:
    at = descriptor_offsets(descriptor, rows, k, size, k_major)
    chunks = np.ascontiguousarray((at if k_major else at.T)[:, :: 16 // size]) >> 4
    granules = (chunks[..., None] * 4 + np.arange(4)).reshape(-1)
    return Tile(chunks, np.unique(at // unit), granules, (int(at.min()), int(at.max()) + size))


def _flag(operands: tuple[Operand, ...], k: int, default: int) -> int:
    operand = operands[k] if k < len(operands) else None
    return int(operand.value) if isinstance(operand, Imm) else default


@instruction("wgmma", _SECTION, ".mma_async m64nNk of f16 bf16 tf32 e4m3 e5m2 s8 u8 b1; fence commit_group wait_group",
             control=True)  # fmt: skip
def wgmma(i: Instruction, d: Decoder) -> Step:
    """D = A * B (+ D) by a warpgroup, A from registers or shared memory, B from shared memory."""
    if "fence" in i.mods:
        return whole_warps(i, d, lambda w: None)
    if "commit_group" in i.mods:
        return whole_warps(i, d, lambda w: w.launch.warpgroups.commit(w))
    if "wait_group" in i.mods:
        left = _flag(i.operands, 0, 0)
        return whole_warps(i, d, lambda w: w.launch.warpgroups.wait(w, left))
    return _mma_async(i, d, i.operands, None)


@instruction("wgmma.sp", _SECTION + ": wgmma.mma_async.sp", "m64nNk of f16 bf16 tf32 e4m3 e5m2 s8 u8", control=True)
def wgmma_sparse(i: Instruction, d: Decoder) -> Step:
    """D = A * B (+ D) by a warpgroup, half of A given."""
    kind = [word for word in i.mods if word in tc.BITS][-2]
    metadata = Metadata(d, kind, tc.BITS[kind], shape_of(i)[2], i.operands[3], i.operands[4], ordered=False)
    return _mma_async(i, d, (*i.operands[:3], *i.operands[5:]), metadata)


_TYPES = ("f16", "bf16", "tf32", "e4m3", "e5m2", "s8", "u8", "b1")


def _mma_async(i: Instruction, d: Decoder, operands: tuple[Operand, ...], metadata: Metadata | None) -> Step:
    """`operands`: without those of the metadata."""
    m, n, k = shape_of(i)
    dk, ak, bk = [word for word in i.mods if word in tc.BITS][-3:]
    if ak not in _TYPES or bk not in _TYPES or k * tc.BITS[ak] != (512 if metadata else 256) or n % 8 or n > 256:
        raise ValueError(f"shape m{m}n{n}k{k} of .{ak} and .{bk}")
    if (ak == "b1") != ({"and", "popc"} <= set(i.mods)) or (ak == "b1" and metadata):
        raise ValueError("single bits are combined by .and.popc, dense")
    depth = k // 2 if metadata else k  # columns of A that are given
    target = operands[0]
    if not isinstance(target, Vector):
        raise ValueError("the accumulator must be a vector")
    slots = tuple(r.slot for r in target.items if isinstance(r, Reg))
    if len(slots) != (n // 4 if dk == "f16" else n // 2):
        raise ValueError(f"{len(slots)} accumulator registers for n = {n}")
    if any(d.types[slot].bits != 32 for slot in slots):
        raise ValueError("accumulator registers have 32 bits")
    from_registers, fragments = isinstance(operands[1], Vector), fragments_of(i)
    a_registers = d.sources(operands[1], "b32") if from_registers else []
    a_descriptor = None if from_registers else d.source(operands[1], "b64")
    b_descriptor = d.source(operands[2], "b64")
    scale = d.source(operands[3], "pred")
    sign_a, sign_b = _flag(operands, 4, 1), _flag(operands, 5, 1)
    transposed_a = not from_registers and bool(_flag(operands, 6, 0))
    transposed_b = bool(_flag(operands, 6 if from_registers else 7, 0))
    size, per = max(1, tc.BITS[bk] // 8), max(1, 8 // tc.BITS[bk])  # bytes of an element, elements of a byte
    pa = tc.a_places(16, depth, tc.BITS[ak])
    bits = 16 if dk == "f16" else 32
    name = f"wgmma{'.sp' if metadata else ''}.m{m}n{n}k{k}.{ak}"
    junk = np.uint32(0x7FC0DEAD)

    def from_shared(
        w: Wave, ids: Array, source: Source, rows: int, columns: int, kind: str, k_major: bool
    ) -> tuple[Array, Array]:
        """The operand that each group's descriptor names: f64 [g, rows, columns], granules read [g, granules]."""
        descriptors, unit = w.spread(source(w))[::128], w.launch.granule["shared"]
        values = np.zeros((len(ids), rows, columns))
        width = columns // per
        granules = np.zeros((len(ids), rows * width * size // 4), np.int64)
        for descriptor in np.unique(descriptors):
            mine = np.flatnonzero(descriptors == descriptor)
            if k_major and int(descriptor) >> 62 == 3 and width * size > 32:
                w.log.add(BAD_STATE, f"a swizzle of 32 bytes does not reach over the {width * size} bytes of a row",
                          w.code[w.pc])  # fmt: skip
            tile = _tile(int(descriptor), rows, width, size, k_major, unit)
            values[mine], granules[mine] = _gather(w, ids[mine], tile, kind, k_major)
        return values, granules

    def step(w: Wave) -> None:
        ids = warpgroups(w)
        g = len(ids)
        if w.n != g * 128:
            w.log.add(BAD_STATE, "wgmma is executed by part of a warpgroup", w.code[w.pc])
            return
        if w.pc in w.launch.unfenced and w.launch.detect:
            other = w.launch.unfenced[w.pc]
            w.log.add(BAD_STATE, "no wgmma.fence stands between another instruction's access to these registers and "
                      "this one" if other is not None else "no wgmma.fence stands before this instruction",
                      w.code[w.pc], None if other is None else w.code[other])  # fmt: skip
        state = w.launch.warpgroups
        reads: list[Array] = []
        if a_descriptor is None:
            raw = np.stack([w.spread(s(w)) for s in a_registers], axis=-1).reshape(g * 4, 32, -1)
            x = np.zeros((g * 4, 16, depth))
            x[:, pa[0], pa[1]] = tc.element_values(tc.unpack_registers(raw, tc.BITS[ak]), ak)
            a = x.reshape(g, 64, depth)
        else:
            a, used = from_shared(w, ids, a_descriptor, 64, depth, ak, not transposed_a)
            reads.append(used)
        b, used = from_shared(w, ids, b_descriptor, n, k, bk, not transposed_b)
        reads.append(used)
        old = state.accumulators(w, ids, slots, bits)
        a, b = a if sign_a == 1 else -a, b.swapaxes(1, 2) * sign_b
        products = a @ b if metadata is None else sparsity.dot(a, metadata.columns(w).reshape(g, 64, depth), b)
        matrix = _accumulate(products, old, w.spread(scale(w))[::128])
        known = w.launch.races.release(ids << 2) if w.launch.detect else None
        fresh = Pending(w.pc, slots, ids, matrix, reads, known, np.full(g, -1), np.ones(g, np.bool_), fragments)
        w.counters.mma[name] += g
        if state.add(fresh):
            for slot in slots:
                w.store(slot, junk)

    def _accumulate(products: Array, c: Array, use: Array) -> Array:
        """New accumulators [g, 64, n], as patterns; `use` [g]: add the old ones."""
        if dk == "f16":
            start = tc.element_values(c, "f16")
        else:
            start = c.view(np.int32 if dk == "s32" else np.float32).astype(np.float64)
        if not use.all():
            start = np.where(use[:, None, None], start, 0.0)
        if dk == "s32":
            return tc.round_integers(products, start, "satfinite" in i.mods)
        return tc.round_sums(products + start, dk)

    return whole_warps(i, d, step)


def _gather(w: Wave, ids: Array, tile: Tile, kind: str, k_major: bool) -> tuple[Array, Array]:
    """An operand at one place in the shared memory of each group's CTA, with all checks: f64 [g, rows, k], granules."""
    launch = w.launch
    base = w.cta[ids << 7] * launch.shared_stride
    granules = (base >> 2)[:, None] + tile.granules
    raw_type = {1: np.uint8, 8: np.uint8, 16: np.uint16, 32: np.uint32}[tc.BITS[kind]]
    if tile.within[1] > launch.shared_size:
        w.log.add(OUT_OF_BOUNDS, f"a matrix descriptor reaches beyond shared address {launch.shared_size:#x}, the end "
                  "of the space", w.code[w.pc], count=len(ids))  # fmt: skip
        raw = np.zeros((len(ids), *tile.chunks.shape), CHUNK)
        granules = np.full_like(granules, len(launch.asynchronous.reading) - 1)
    else:
        chunks = (base >> 4)[:, None, None] + tile.chunks
        launch.asynchronous.proxy_read(w, granules, int(ids[0]) << 7, mark=True)
        if launch.detect:
            if not launch.known.covers(tile.within):
                good = (launch.written["shared"].view(np.uint64).reshape(-1, 2)[chunks] == _WRITTEN).all(axis=(1, 2, 3))
                if good.all():
                    launch.known.explore(tile.within, chunks.size * 16)
                else:
                    w.log.add(UNINITIALISED, "wgmma reads shared memory that nobody has written", w.code[w.pc],
                              count=int((~good).sum()))  # fmt: skip
            places = (base // launch.granule["shared"])[:, None] + tile.places
            launch.races.read(access.shadow_of(w, "shared", launch.shared), places.reshape(-1),
                              np.repeat(ids << 7, places.shape[1]), w.pc, False, "shared")  # fmt: skip
        w.counters.bytes_read["shared"] += chunks.size * 16
        raw = launch.shared.view(CHUNK)[chunks]
    patterns = raw.view(raw_type)
    if kind == "b1":
        patterns = np.unpackbits(patterns, axis=-1, bitorder="little")
    values = tc.element_values(patterns, kind)
    return (values if k_major else values.swapaxes(1, 2)), granules
