"""cvt between packed formats: pairs and quadruples of f16, bf16, e4m3, e5m2, e2m3, e3m2, e2m1 and ue8m0; cvt.pack."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tesseracc.emulator import numeric as nm
from tesseracc.emulator.decode import Decoder, Source
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import TYPES, Array, container, where
from tesseracc.emulator.wave import Wave

__all__ = ["drop_negatives", "packed"]

_NARROW = {f"{kind}x2" for kind in ("e4m3", "e5m2", "e2m3", "e3m2", "e2m1")}
_HALVES = {"f16x2", "bf16x2"}
#: destination -> sources, rounding modes (PTX ISA, cvt, the syntax of packed forms)
_FORMS: dict[str, tuple[set[str], set[str]]] = {
    **{target: ({"f32", *_HALVES}, {"rn"}) for target in _NARROW},
    **{f"{target[:-1]}4": ({"f32"}, {"rs"}) for target in _NARROW},
    "f16x2": ({"f32", *_NARROW}, {"rn", "rz", "rs"}),
    "bf16x2": ({"f32", "ue8m0x2", *_NARROW}, {"rn", "rz", "rs"}),
    "ue8m0x2": ({"f32", "bf16x2"}, {"rz", "rp"}),
}


def _width(name: str) -> int:
    """Bits that an element takes in its register."""
    return {"e2m1": 4, "f16": 16, "bf16": 16}.get(name, 8)


def packed(i: Instruction, d: Decoder, target: str, source: str) -> Step:
    """Two (four) elements at once. Of f32 operands the first becomes the uppermost element; elements of a packed
    source keep their places."""
    mode = next((m for m in i.mods if m in ("rn", "rz", "rm", "rp", "rna", "rs")), "none")
    sources, modes = _FORMS.get(target, (set(), set()))
    if source not in sources or mode not in modes or (source != "f32" and mode == "rs"):
        raise ValueError(f"no conversion .{mode} from .{source} to .{target}")
    kind, count = target[:-2], int(target[-1])
    width = _width(kind)
    total = container(width * count)
    put = d.sink(i.operands[0], f"b{width * count}")
    fetch = _operands(i, d, count) if source == "f32" else _elements(i, d, source)
    random = d.source(i.operands[-1], "b32") if mode == "rs" else None
    satfinite, relu = "satfinite" in i.mods, "relu" in i.mods

    def run(w: Wave) -> None:
        parts = fetch(w)
        if relu:
            parts = [drop_negatives(x) for x in parts]
        if random is not None:
            shares = random_shares(random(w), kind, count)
            parts = [stochastic(x, kind, share, bits) for x, (share, bits) in zip(parts, shares)]
        out = total(0)
        for k, x in enumerate(parts):
            code = nm.encode(x, kind, "rn" if random is not None else mode, satfinite)
            out = out | code.astype(total) << total(k * width)
        put(w, out)

    return run


def drop_negatives(x: Array) -> Array:
    """.relu: negative values and -0 become 0; NaN stays."""
    return where(x <= 0, 0.0, x)


def _operands(i: Instruction, d: Decoder, count: int) -> Callable[[Wave], list[Array]]:
    """f32 operands, lowest element first: `a, b`, or `{a, b, e, f}` for four elements."""
    given = i.operands[1:2] if count == 4 else i.operands[1:3]
    items: list[Source] = [s for operand in given for s in d.sources(operand, "f32")]
    if len(items) != count:
        raise ValueError(f"{len(items)} values for {count} elements")
    return lambda w: [s(w).astype(np.float64) for s in reversed(items)]


def _elements(i: Instruction, d: Decoder, source: str) -> Callable[[Wave], list[Array]]:
    """The elements of a packed operand, lowest first."""
    kind, width = source[:-2], _width(source[:-2])
    raw = d.source(i.operands[1], f"b{TYPES[source].bits}")

    def fetch(w: Wave) -> list[Array]:
        x = raw(w)
        one = x.dtype.type
        pieces = (x >> one(k * width) & one((1 << width) - 1) for k in range(2))
        return [nm.decode(p.astype(container(max(8, width))), kind) for p in pieces]

    return fetch


# -- stochastic rounding ---------------------------------------------------------------------------------------------


def random_shares(random: Array, kind: str, count: int) -> list[tuple[Array, int]]:
    """(random bits, their number) of every element, lowest first (PTX ISA, cvt, random bits layout).

    A pair of bf16 takes a half of the operand each, f16 the lower 13 bits of them. Of four elements two share sixteen
    bits, of which the upper one takes the reverse: narrow formats a half of the operand; e2m1, whose result has only
    sixteen bits itself, the upper bytes of both halves, and the lower bytes.
    """
    low, high = random & np.uint32(0xFFFF), random >> np.uint32(16)
    if count == 2:
        bits = 13 if kind == "f16" else 16
        return [(part & np.uint32((1 << bits) - 1), bits) for part in (low, high)]
    if kind == "e2m1":
        byte = np.uint32(0xFF)
        low, high = (high & byte) << np.uint32(8) | low & byte, high & ~byte | low >> np.uint32(8)
    return [(part, 16) for half in (low, high) for part in (half, _reversed(half))]


def _reversed(x: Array) -> Array:
    """Sixteen bits in reverse order."""
    out = x & np.uint32(0)
    for k in range(16):
        out = out | (x >> np.uint32(k) & np.uint32(1)) << np.uint32(15 - k)
    return out


def stochastic(x: Array, kind: str, random: Array, bits: int) -> Array:
    """Random bits are added right below the last place that is kept; the sum is cut there."""
    f = nm.FORMATS[kind]
    _, exponent = np.frexp(x)
    ulp = np.maximum(exponent - 1, f.emin) - (f.digits - 1)
    kept = np.floor(np.ldexp(np.abs(x), -ulp) + np.ldexp(random.astype(np.float64), -bits))
    return where(np.isfinite(x), np.copysign(np.ldexp(kept, ulp), x), x)


# -- cvt.pack --------------------------------------------------------------------------------------------------------


@instruction("cvt.pack", "9.7.9 Data Movement and Conversion: cvt.pack", ".sat of u16 s16 u8 s8 u4 s4 u2 s2 from s32")
def pack(i: Instruction, d: Decoder) -> Step:
    """cvt.pack.sat: a and b clamped to 2, 4, 8 or 16 bits, put above the bits of c."""
    kinds = [m for m in i.mods if m in TYPES or m in ("u4", "s4", "u2", "s2")]
    target, bits = kinds[0], int(kinds[0][1:])
    low = -(1 << (bits - 1)) if target[0] == "s" else 0
    high = (1 << (bits - (1 if target[0] == "s" else 0))) - 1
    put, a, b = d.sink(i.operands[0], "b32"), d.source(i.operands[1], "s32"), d.source(i.operands[2], "s32")
    c = d.source(i.operands[3], "b32") if len(i.operands) > 3 else None
    mask = np.uint32((1 << bits) - 1)

    def run(w: Wave) -> None:
        x, y = (np.clip(s(w), low, high).astype(np.int32).view(np.uint32) & mask for s in (a, b))
        upper = np.uint32(0) if c is None else c(w) << np.uint32(2 * bits)
        put(w, x << np.uint32(bits) | y | upper)

    return run
