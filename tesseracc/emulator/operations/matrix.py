"""Warp-level matrix instructions: ldmatrix stmatrix movmatrix wmma."""

from __future__ import annotations

import re

import numpy as np

from tesseracc.emulator import access
from tesseracc.emulator import tensor_cores as tc
from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.memory import SHARED_BASE
from tesseracc.emulator.operations.memory import space_of
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.14 Warp Level Matrix Instructions"


def whole_warps(i: Instruction, d: Decoder, step: Step) -> Step:
    """`step` for complete warps; lanes whose warp is not here as a whole wait for the rest."""
    if i.guard is not None:
        raise ValueError("guarded matrix instructions")

    def run(w: Wave) -> bool | None:
        before = w.n
        if not w.gather_warps():
            return True
        if w.n % 32:  # forced by a deadlock that has been reported: nothing sensible to compute
            return None
        step(w)
        if w.n != before:
            w.queue(w.pc + 1, w.sel)
            return True
        return None

    return run


def shared_address(w: Wave, address: Array) -> Array:
    """Shared addresses from shared or generic ones."""
    address = w.spread(address)
    generic = address >= np.uint64(SHARED_BASE)
    return np.where(generic, address - np.uint64(SHARED_BASE), address) if generic.any() else address


def _count_of(i: Instruction) -> int:
    return next(int(m[1]) for m in i.mods if m in ("x1", "x2", "x4"))


@instruction("ldmatrix", _SECTION + ": ldmatrix", ".m8n8 .x1 .x2 .x4 .trans .b16", control=True)
def ldmatrix(i: Instruction, d: Decoder) -> Step:
    """Load 8x8 matrices of 16-bit elements: lane 8q + r gives the address of row r of matrix q."""
    if "m8n8" not in i.mods:
        raise ValueError("only .m8n8.b16")
    count, transposed = _count_of(i), "trans" in i.mods
    sinks = d.sinks(i.operands[0], "b32")
    _, address = d.address(i.operands[1])
    if len(sinks) != count:
        raise ValueError(f"{len(sinks)} destinations for {count} matrices")

    def step(w: Wave) -> None:
        at = shared_address(w, address(w)).reshape(-1, 32)
        warps = len(at)
        lanes = w.lanes.reshape(-1, 32)
        kept = w.sel
        if count < 4:
            w.select(lanes[:, : 8 * count].reshape(-1))
        rows = access.load_chunks(w, "shared", at[:, : 8 * count].reshape(-1))
        w.select(kept)
        raw = rows.view(np.uint16).reshape(warps, count, 8, 8)
        if transposed:
            raw = raw.swapaxes(2, 3)
        pairs = np.ascontiguousarray(raw).view(np.uint32).reshape(warps, count, 32)
        for q, put in enumerate(sinks):
            put(w, pairs[:, q].reshape(-1) if count > 1 else pairs.reshape(-1))

    return whole_warps(i, d, step)


@instruction("stmatrix", _SECTION + ": stmatrix", ".m8n8 .x1 .x2 .x4 .trans .b16", control=True)
def stmatrix(i: Instruction, d: Decoder) -> Step:
    """Store 8x8 matrices, the inverse of ldmatrix."""
    if "m8n8" not in i.mods:
        raise ValueError("only .m8n8.b16")
    count, transposed = _count_of(i), "trans" in i.mods
    _, address = d.address(i.operands[0])
    sources = d.sources(i.operands[1], "b32")

    def step(w: Wave) -> None:
        at = shared_address(w, address(w)).reshape(-1, 32)
        warps = len(at)
        values = np.stack([w.spread(s(w)).reshape(warps, 32) for s in sources], axis=1)
        raw = np.ascontiguousarray(values).view(np.uint16).reshape(warps, count, 8, 8)
        if transposed:
            raw = raw.swapaxes(2, 3)
        words = np.ascontiguousarray(raw).view(np.uint64).reshape(-1, 2)
        kept = w.sel
        w.select(w.lanes.reshape(-1, 32)[:, : 8 * count].reshape(-1))
        rows = np.ascontiguousarray(at[:, : 8 * count]).reshape(-1)
        access.store(w, "shared", rows, 8, [words[:, 0].copy(), words[:, 1].copy()])
        w.select(kept)

    return whole_warps(i, d, step)


@instruction("movmatrix", _SECTION + ": movmatrix", ".m8n8.trans.b16", control=True)
def movmatrix(i: Instruction, d: Decoder) -> Step:
    """Transpose an 8x8 matrix held in one register per lane."""
    put, a = d.sink(i.operands[0], "b32"), d.source(i.operands[1], "b32")

    def step(w: Wave) -> None:
        raw = np.ascontiguousarray(w.spread(a(w))).view(np.uint16).reshape(-1, 8, 8).swapaxes(1, 2)
        put(w, np.ascontiguousarray(raw).view(np.uint32).reshape(-1))

    return whole_warps(i, d, step)


_SHAPE = re.compile(r"m(\d+)n(\d+)k(\d+)$")


def shape_of(i: Instruction) -> tuple[int, int, int]:
    """(m, n, k)."""
    match = next(m for m in (_SHAPE.match(word) for word in i.mods) if m)
    return int(match[1]), int(match[2]), int(match[3])


def registers(w: Wave, sources: list[Source]) -> Array:
    """[warps, 32, registers]."""
    values = [s(w) for s in sources]
    out = np.empty((w.n, len(values)), values[0].dtype)
    for k, value in enumerate(values):
        out[:, k] = value
    return out.reshape(-1, 32, len(values))


# --- wmma ------------------------------------------------------------------------------------------------------------

# The fragment layout of wmma is not specified. Here lane l holds elements l * e .. l * e + e - 1 of the row-major
# matrix, repeated to fill the registers where the fragment has more room than the matrix has elements.


def _wmma_extent(which: str, m: int, n: int, k: int) -> tuple[int, int]:
    return {"a": (m, k), "b": (k, n), "c": (m, n), "d": (m, n)}[which]


def _fragment_bits(values: Array, kind: str, count: int) -> Array:
    """Patterns [warps, rows, columns] to registers [warps, 32, count]."""
    bits = tc.BITS[kind]
    flat = np.ascontiguousarray(values).reshape(len(values), 32, -1)
    per = max(1, 32 // bits)
    if bits < 32:
        packed = np.zeros((*flat.shape[:2], flat.shape[2] // per), np.uint32)
        for e in range(per):
            packed |= flat[..., e::per].astype(np.uint32) << np.uint32(e * bits)
        flat = packed
    return flat[..., np.arange(count) % flat.shape[2]]


def _fragment_values(raw: Array, kind: str, shape: tuple[int, int]) -> Array:
    """Registers to patterns [warps, rows, columns]."""
    need = shape[0] * shape[1] // 32
    patterns = tc.unpack_registers(raw, tc.BITS[kind]).reshape(len(raw), 32, -1)[..., :need]
    return np.ascontiguousarray(patterns).reshape(len(raw), *shape)


@instruction("wmma", _SECTION + ": wmma", "m16n16k16 m32n8k16 m8n32k16 of f16 bf16 s8 u8, m16n16k8 tf32", control=True)
def wmma(i: Instruction, d: Decoder) -> Step:
    """Load a fragment, multiply fragments, store a fragment."""
    if i.mods[0] == "mma":
        return _wmma_mma(i, d)
    m, n, k = shape_of(i)
    load = i.mods[0] == "load"
    which, kind = i.mods[1], i.mods[-1]
    shape = _wmma_extent(which, m, n, k)
    by_row = "row" in i.mods
    place = 1 if load else 0
    named, address = d.address(i.operands[place])
    space = space_of(i, named)
    pitch = shape[1] if by_row else shape[0]
    stride = d.source(i.operands[2], "u32") if len(i.operands) > 2 else None
    size = {"s32": 4, "f32": 4, "tf32": 4, "f64": 8}.get(kind, tc.BITS[kind] // 8)
    fragment = d.sinks(i.operands[0], "b32") if load else []
    sources = [] if load else d.sources(i.operands[1], "b32")
    e = np.arange(shape[0] * shape[1]).reshape(32, -1)
    row, column = e // shape[1], e % shape[1]

    def step(w: Wave) -> None:
        base = w.spread(address(w)).reshape(-1, 32, 1)
        ld = (w.spread(stride(w)).astype(np.int64) if stride is not None else np.full(w.n, pitch)).reshape(-1, 32, 1)
        where = (row * ld + column if by_row else column * ld + row) * size
        at = base + where.astype(np.uint64)
        if load:
            parts = [access.load(w, space, np.ascontiguousarray(at[..., q]).reshape(-1), size, 1)[0]
                     for q in range(at.shape[2])]  # fmt: skip
            values = np.stack([p.reshape(-1, 32) for p in parts], axis=-1).reshape(-1, *shape)
            raw = _fragment_bits(values, kind, len(fragment))
            for q, put in enumerate(fragment):
                put(w, np.ascontiguousarray(raw[..., q]).reshape(-1))
            return
        values = _fragment_values(registers(w, sources), kind, shape).reshape(-1, 32, at.shape[2])
        for q in range(at.shape[2]):
            one = np.ascontiguousarray(values[..., q]).reshape(-1)
            access.store(w, space, np.ascontiguousarray(at[..., q]).reshape(-1), size, [one])

    return whole_warps(i, d, step)


def _wmma_mma(i: Instruction, d: Decoder) -> Step:
    m, n, k = shape_of(i)
    kinds = [word for word in i.mods if word in tc.BITS]
    if len(kinds) == 2:  # f16 operands are not spelled out
        dk, ck = kinds
        ak = bk = "f16"
    else:
        dk, ak, bk, ck = kinds
    sinks = d.sinks(i.operands[0], "b32")
    a, b, c = (d.sources(o, "b32") for o in i.operands[1:4])
    name = f"wmma.m{m}n{n}k{k}.{ak}"

    def step(w: Wave) -> None:
        x = tc.element_values(_fragment_values(registers(w, a), ak, (m, k)), ak)
        y = tc.element_values(_fragment_values(registers(w, b), bk, (k, n)), bk)
        z = _fragment_values(registers(w, c), ck, (m, n))
        w.counters.mma[name] += len(x)
        if dk == "s32":
            bits = tc.integer_matmul(x, y, np.ascontiguousarray(z).view(np.int32), "satfinite" in i.mods)
        else:
            bits = tc.matmul(x, y, tc.element_values(z, ck), dk)
        raw = _fragment_bits(bits, dk, len(sinks))
        for q, put in enumerate(sinks):
            put(w, np.ascontiguousarray(raw[..., q]).reshape(-1))

    return whole_warps(i, d, step)
