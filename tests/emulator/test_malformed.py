"""PTX cut short, with words lost, doubled, exchanged: an error with a code, or a program; never a Python exception."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tesseracc.emulator import EmulatorError, parse_ptx
from tesseracc.emulator.decode import Decoder
from tesseracc.emulator.layout import Layout
from tesseracc.emulator.memory import GlobalMemory
from tesseracc.emulator.program import lay_out
from tesseracc.emulator.table import build_step
from tests.emulator.harness import run_text

PROGRAMS = sorted((Path(__file__).parent / "corpus").glob("*.ptx"))
WORDS = [
    *(
        ".b32",
        "%x0",
        "%nothing",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ";",
        ",",
        "1",
        "-1",
        "0f3F800000",
        "ret",
        ".reg",
        "@%p0",
    ),
    *("bra", ".entry", "k", "|", "_", ".v4", "99999999999999999999", ".file", ".loc", ".section", "=", "::", ".pred"),
]


def understood(text: str) -> bool:
    """Whether the text parses and every instruction of its kernels has a meaning. Only EmulatorError may come out."""
    try:
        module = parse_ptx(text)
        for kernel in module.entries:
            program = lay_out(module, kernel)
            layout = Layout(program, GlobalMemory(), 0)
            decoder = Decoder(program, layout.symbols)
            for i in program.code:
                build_step(i, decoder)
    except EmulatorError as error:
        assert error.code in ("E940", "E941", "E942", "E943"), error.code
        assert error.line is not None or error.code in ("E942", "E943"), str(error)
        return False
    return True


@pytest.mark.parametrize("seed", range(4))
def test_mutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    refused = 0
    for number in range(80):
        text = PROGRAMS[(seed * 80 + number) % len(PROGRAMS)].read_text()
        words = re.split(r"(\s+|[,;\[\]{}()])", text)
        places = [k for k, word in enumerate(words) if word.strip()]
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.choice(places))
            other = int(rng.choice(places))
            words[at] = [
                "",
                words[at] + " " + words[at],
                words[other],
                str(rng.choice(WORDS)),
                words[at][: len(words[at]) // 2],
            ][int(rng.integers(5))]
        if rng.random() < 0.2:
            words = words[: int(rng.integers(len(words)))]
        refused += not understood("".join(words))
    assert refused > 30  # most of them are wrong


def test_every_program_is_understood() -> None:
    for path in PROGRAMS:
        assert understood(path.read_text()), path.name


BODY = "mov.u32 %t, %tid.x; ld.param.u64 %p, [p0];"
REGISTERS = ".reg .b32 %t, %x; .reg .b64 %p, %d; .reg .pred %q; .reg .b16 %h;"


@pytest.mark.parametrize(
    "line",
    ["add.u64 %d, %d, %x;", "add.u64 %x, %d, %d;", "setp.eq.u32 %x, %t, 1;", "@%t mov.u32 %x, 1;", "mov.u32 %x, %h;",
     "selp.b32 %x, %t, %t, %x;", "and.b32 %x, %q, %t;"],
)  # fmt: skip
def test_registers_of_another_type(line: str) -> None:
    """A predicate where a number is wanted, the other way round, a register that is too narrow."""
    with pytest.raises(EmulatorError) as caught:
        run_text(REGISTERS + BODY + "\n" + line + "\nret;", [np.zeros(1, np.uint32)])
    assert caught.value.code == "E941" and "is wanted" in str(caught.value)


def test_accumulators_of_another_width() -> None:
    product = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f0, %f1, %f2, %d}, %d, %d, 1, 1, 1, 0, 0;"
    with pytest.raises(EmulatorError, match="accumulator registers have 32 bits"):
        run_text(REGISTERS + ".reg .f32 %f<3>;\n" + product + "\nret;", [np.zeros(1, np.uint32)], block=(128,))


def test_wider_registers_are_fine() -> None:
    out = np.zeros(1, np.uint32)
    run_text(REGISTERS + BODY + "mov.u64 %d, 0x1122334455667788; st.global.u32 [%p], %d; ret;", [out], block=(1,))
    assert out[0] == 0x55667788


def test_a_barrier_that_there_is_not() -> None:
    report = run_text(REGISTERS + BODY + "mov.u32 %x, 16; bar.sync %x; ret;", [np.zeros(1, np.uint32)])
    assert [(f.code, "barriers 0 to 15" in f.message) for f in report.findings] == [("E960", True)]


MORE = ".reg .f32 %f<4>; mov.u32 %t, 0; mov.u64 %d, 0; mov.f32 %f0, 0f3F800000; mov.b16 %h, 0;"


@pytest.mark.parametrize(
    "line",
    ["copysign.f32 %f0, %f1;", "rcp.rn.f32 %x, %t, {%x};", "shr.f32 %f0, %t, %t;",
     "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%f0, %f1, %f2, %f3, %f0, %f1, %f2, %f3}, {%f0}, "
     "{%f0, %f1, %f2, %f3, %f0, %f1, %f2, %f3}, {%f0, %f1, %f2, %f3, %f0, %f1, %f2, %f3};",
     "ex2.approx.tf32.f32.s16 %x, %t;", "stmatrix.sync.aligned.m8n8.x4.shared [%t], %f0;"],
)  # fmt: skip
def test_operands_that_no_step_can_take(line: str) -> None:
    """Forms that show only when the instruction is executed that they have no meaning."""
    with pytest.raises(EmulatorError) as caught:
        run_text(REGISTERS + MORE + "\n" + line + "\nret;", [np.zeros(1, np.uint32)])
    assert caught.value.code == "E941" and caught.value.line == 8


@pytest.mark.parametrize("line", ["st.global.u32 [%d], %x;", "ld.global.u32 %x, [%d];", "ld.u32 %x, [%d];",
                                  "atom.global.add.u32 %x, [%d], %x;", "st.local.u32 [%d], %x;",
                                  "ld.param.u32 %x, [%d];"])  # fmt: skip
@pytest.mark.parametrize("address", [(1 << 64) - 4, (1 << 64) - 1, (1 << 63) - 4, 1 << 63])
def test_addresses_whose_ends_wrap(line: str, address: int) -> None:
    body = f"mov.u32 %x, 1; mov.b64 %d, {address};\n{line}\nret;"
    report = run_text(REGISTERS + ".local .align 4 .b8 mine[16];\n" + body, [np.zeros(4, np.uint32)])
    assert report.findings and report.findings[0].code in ("E951", "E952")
