"""Products of one warp for the tests: a kernel that feeds every register of an instruction, and fragments as the PTX
documentation gives them, written out as loops over lanes."""

from __future__ import annotations

import subprocess
from typing import Any

import ml_dtypes
import numpy as np

from tesseracc.codegen.assemble import assembler_path
from tesseracc.emulator import Report
from tests.emulator.harness import run_text

DTYPES: dict[str, Any] = {
    "f16": np.float16, "bf16": ml_dtypes.bfloat16, "tf32": np.float32, "f32": np.float32, "s32": np.int32,
    "s8": np.int8, "u8": np.uint8, "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
    "e2m3": ml_dtypes.float6_e2m3fn, "e3m2": ml_dtypes.float6_e3m2fn, "e2m1": ml_dtypes.float4_e2m1fn,
}  # fmt: skip
BITS = {"f16": 16, "bf16": 16, "tf32": 32, "s4": 4, "u4": 4}


def operands(counts: dict[str, int]) -> dict[str, str]:
    """How registers are written: matrices a to d as vectors, the others alone."""
    return {name: "{" + ", ".join(f"%{name}{r}" for r in range(n)) + "}" if name in "abcd" else f"%{name}0"
            for name, n in counts.items()}  # fmt: skip


def run_warp(instruction: str, counts: dict[str, int], **given: Any) -> tuple[Any, Report]:
    """Executes `instruction` in one warp. `{a}` in it stands for the registers a, `counts["a"]` of them, which hold
    row `lane` of `given["a"]`; `d` is the result. Returns its registers [32, counts["d"]]."""
    text = ".reg .b32 %i; mov.u32 %i, %tid.x;\n"
    names = list(given)
    for p, name in enumerate([*names, "d"]):
        text += f".reg .b32 %{name}<{counts[name]}>; .reg .b64 %p{name};\n"
        text += f"ld.param.u64 %p{name}, [p{p}]; mad.wide.u32 %p{name}, %i, {4 * counts[name]}, %p{name};\n"
        if name != "d":
            text += "".join(f"ld.global.b32 %{name}{r}, [%p{name}+{4 * r}];\n" for r in range(counts[name]))
    text += instruction.format(**operands(counts)) + "\n"
    text += "".join(f"st.global.b32 [%pd+{4 * r}], %d{r};\n" for r in range(counts["d"])) + "ret;"
    out = np.zeros((32, counts["d"]), np.uint32)
    words = [np.ascontiguousarray(given[name]).view(np.uint32).reshape(32, counts[name]) for name in names]
    return out, run_text(text, [*words, out])


def check_assembles(instructions: list[tuple[str, dict[str, int]]], target: str) -> None:
    """The assembler accepts every one of `instructions`, spelled with their `counts` as for `run_warp`."""
    lines = [line.format(**operands(counts)) for line, counts in instructions]
    declared = " ".join(f".reg .b32 %{n}<8>;" for n in ("a", "b", "c", "d", "e", "x", "y"))
    check_text(declared + "\n" + "\n".join(lines), target)


def check_text(body: str, target: str) -> None:
    """The assembler accepts `body` as that of a kernel."""
    head = f".version 8.8\n.target {target}\n.address_size 64\n.visible .entry k()\n"
    check_module(head + f"{{\n{body}\nret;\n}}\n", target)


def check_module(text: str, target: str) -> None:
    """The assembler accepts a module."""
    done = subprocess.run([assembler_path(), "-arch", target, "-o", "/dev/null", "-"], input=text, text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


# -- elements ------------------------------------------------------------------------------------------------------


def patterns(values: Any, kind: str, packed: bool = True) -> Any:
    """Bit patterns of elements; e2m1 that is not packed lies in bits 2 to 5 of a byte."""
    if kind in ("s4", "u4"):
        return (values.astype(np.int64) & 15).astype(np.uint32)
    raw = values.astype(DTYPES[kind])
    bits = raw.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[raw.itemsize]).astype(np.uint32)
    return bits << 2 if kind == "e2m1" and not packed else bits


def element_bits(kind: str, packed: bool = True) -> int:
    return 4 if kind == "e2m1" and packed else BITS.get(kind, 8)


def word(elements: list[int], bits: int) -> int:
    """The first element lowest."""
    return sum(int(e) << k * bits for k, e in enumerate(elements))


def b_fragment(raw: Any, bits: int) -> Any:
    """B [k, 8] of patterns: register r of a lane holds column lane / 4, rows from (lane mod 4) and r on."""
    per = 32 // bits
    out = np.zeros((32, len(raw) // (4 * per)), np.uint32)
    for lane in range(32):
        for r in range(out.shape[1]):
            first = r * 4 * per + lane % 4 * per
            out[lane, r] = word(list(raw[first : first + per, lane // 4]), bits)
    return out


def a_fragment(raw: Any, bits: int) -> Any:
    """A [16, k]: registers alternate between rows lane / 4 and lane / 4 + 8; the second pair has the other columns."""
    per = 32 // bits
    out = np.zeros((32, raw.shape[1] // (2 * per)), np.uint32)
    for lane in range(32):
        for r in range(out.shape[1]):
            row, first = lane // 4 + (8 if r in (1, 3) else 0), lane % 4 * per + (4 * per if r >= 2 else 0)
            out[lane, r] = word(list(raw[row, first : first + per]), bits)
    return out


def c_fragment(values: Any, kind: str) -> Any:
    """C [16, 8]: rows lane / 4 and lane / 4 + 8, two columns of each."""
    rows = []
    for lane in range(32):
        g, t = lane // 4, lane % 4 * 2
        rows.append([values[g, t], values[g, t + 1], values[g + 8, t], values[g + 8, t + 1]])
    return np.array(rows).astype(DTYPES[kind]).view(np.uint32)


def d_matrix(out: Any, kind: str) -> Any:
    """The inverse of `c_fragment`."""
    matrix = np.zeros((16, 8), DTYPES[kind])
    for lane in range(32):
        g, t = lane // 4, lane % 4 * 2
        values = np.ascontiguousarray(out[lane]).view(DTYPES[kind])
        matrix[g, t : t + 2], matrix[g + 8, t : t + 2] = values[:2], values[2:]
    return matrix
