"""SIMD video instructions: two halfwords or four bytes of a word at once (vadd2 .. vmax4, vset2, vset4)."""

from __future__ import annotations

import numpy as np

from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.operations.compare import compare_integers
from tesseracc.emulator.ptx import Instruction
from tesseracc.emulator.table import Step, instruction
from tesseracc.emulator.types import Array
from tesseracc.emulator.wave import Wave

_SECTION = "9.7.19 Video"
_NAMES = ("vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax", "vset")


def _elements(x: Array, signed: bool, count: int) -> list[Array]:
    """The parts of a 32-bit word as int64, least significant first."""
    bits = 32 // count
    sign = np.int64(1 << (bits - 1)) if signed else np.int64(0)
    parts = [(x >> np.uint32(k * bits)).astype(np.int64) & ((1 << bits) - 1) for k in range(count)]
    return [(p ^ sign) - sign for p in parts]


def _combine(name: str, a: Array, b: Array) -> Array:
    if name == "vavrg":  # rounds half away from zero
        return (a + b + (a + b >= 0)) >> 1
    table = {"vadd": np.add, "vsub": np.subtract, "vmin": np.minimum, "vmax": np.maximum}
    return np.abs(a - b) if name == "vabsdiff" else table[name](a, b)


@instruction(" ".join(f"{n}{c}" for n in _NAMES for c in (2, 4)), _SECTION, "u32 s32; .sat .add, comparisons")
def video(i: Instruction, d: Decoder) -> Step:
    """Element by element; .sat clamps to the result type; .add gives c plus the sum of all results."""
    name, count = i.opcode[:-1], int(i.opcode[-1])
    types = [m for m in i.mods if m in ("u32", "s32")]
    flags = [m for m in i.mods if m not in ("u32", "s32")]
    compare = flags.pop(0) if name == "vset" else ""
    if set(flags) - {"sat", "add"} or len(types) != (2 if name == "vset" else 3):
        raise ValueError("modifiers")
    signed = types[0] == "s32" and name != "vset"
    operands = [m == "s32" for m in types[-2:]]
    put = d.sink(i.operands[0], "u32")
    a, b, c = (d.source(o, "u32") for o in i.operands[1:4])
    bits = 32 // count
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)

    def run(w: Wave) -> None:
        total: Array = c(w).astype(np.int64) if "add" in flags else np.int64(0)
        for k, (x, y) in enumerate(zip(_elements(a(w), operands[0], count), _elements(b(w), operands[1], count))):
            r = compare_integers(compare)(x, y).astype(np.int64) if compare else _combine(name, x, y)
            if "sat" in flags:
                r = np.clip(r, low, high)
            total = total + r if "add" in flags else total | (r & ((1 << bits) - 1)) << (k * bits)
        put(w, (total & 0xFFFFFFFF).astype(np.uint32))

    return run
