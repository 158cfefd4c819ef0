"""ldmatrix and stmatrix of bytes, and loads that widen elements of 4 and 6 bits, element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.emulator import warp_products as wp
from tests.emulator.harness import run_text

FORMATS = {"b8": 8, "b8x16.b6x16_p32": 6, "b8x16.b4x16_p64": 4}
PITCH = 48  # bytes from row to row


def load_form(shape: str, count: int, form: str) -> tuple[str, int]:
    registers = count * (2 if shape == "m16n16" else 1)
    named = ", ".join(f"%r{j}" for j in range(registers))
    trans = ".trans" if shape == "m16n16" else ""
    return f"ldmatrix.sync.aligned.{shape}.x{count}{trans}.shared.{form} {{{named}}}, [%s];", registers


def load(shape: str, count: int, form: str, elements: Any, junk: bool) -> tuple[Any, Any]:
    """Registers [32, n]. Row r of the matrices lies at r * PITCH; padding is written only if `junk`."""
    text, registers = load_form(shape, count, form)
    rows, bits = len(elements), FORMATS[form]
    lines = np.random.default_rng(1).integers(0, 256, (32, 16)).astype(np.uint8)
    for r, row in enumerate(elements):
        used = wp.word(list(row), bits).to_bytes(2 * bits, "little")
        lines[r, : 2 * bits] = list(used)
    words = 4 if junk else bits // 2
    body = f"""
.reg .b32 %t, %s, %w, %r<{registers}>; .reg .b64 %p; .reg .pred %q;
mov.u32 %t, %tid.x; ld.param.u64 %p, [p0]; mad.wide.u32 %p, %t, 16, %p; mov.u32 %s, s; mad.lo.u32 %s, %t, {PITCH}, %s;
setp.lt.u32 %q, %t, {rows};
{"".join(f"ld.global.u32 %w, [%p+{4 * j}]; @%q st.shared.u32 [%s+{4 * j}], %w;" for j in range(words))}
bar.warp.sync -1;
{text}
ld.param.u64 %p, [p1]; mad.wide.u32 %p, %t, {4 * registers}, %p;
{"".join(f"st.global.u32 [%p+{4 * j}], %r{j};" for j in range(registers))}
ret;"""
    out = np.zeros((32, registers), np.uint32)
    report = run_text(body, [lines.reshape(-1).view(np.uint32), out], module=".shared .align 16 .b8 s[2048];")
    return out.view(np.uint8).reshape(32, -1), report


@pytest.mark.parametrize("junk", [False, True])
@pytest.mark.parametrize("form", ["b8x16.b6x16_p32", "b8x16.b4x16_p64"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_rows_of_narrow_elements(count: int, form: str, junk: bool) -> None:
    elements = np.random.default_rng(count).integers(0, 1 << FORMATS[form], (8 * count, 16))
    got, report = load("m8n16", count, form, elements, junk)
    assert not report.findings, report.findings[0].render()
    for lane in range(32):
        for q in range(count):
            assert list(got[lane, 4 * q : 4 * q + 4]) == list(elements[8 * q + lane // 4, lane % 4 * 4 :][:4])
    wp.check_text(f".reg .b32 %r<4>, %s;\n{load_form('m8n16', count, form)[0]}", "sm_100a")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("count", [1, 2])
def test_transposed_bytes(count: int, form: str) -> None:
    elements = np.random.default_rng(count).integers(0, 1 << FORMATS[form], (16 * count, 16))
    got, report = load("m16n16", count, form, elements, False)
    assert not report.findings, report.findings[0].render()
    for q in range(count):
        # CUTLASS describes source and destination by strides into one logical order of the matrix, in bits
        logical = np.zeros(16 * 128, int)
        for i in range(16):  # the row at the address of thread i
            start = i % 2 * 128 + i // 2 % 2 * 1024 + i // 4 * 256
            logical[start : start + 128 : 8] = elements[16 * q + i]
        for lane in range(32):
            for r in range(2):
                for e in range(4):
                    bit = lane % 4 * 256 + lane // 4 * 8 + e % 2 * 128 + e // 2 * 64 + r * 1024
                    assert got[lane, 8 * q + 4 * r + e] == logical[bit]
    wp.check_text(f".reg .b32 %r<4>, %s;\n{load_form('m16n16', count, form)[0]}", "sm_120a")


@pytest.mark.parametrize("count", [1, 2, 4])
def test_bytes_stored_by_columns(count: int) -> None:
    """The fragments of 16 x 8 products, two columns of two rows a lane, as lines of sixteen bytes, one a column."""
    matrices = np.random.default_rng(count).integers(0, 256, (count, 16, 8))
    given = np.zeros((32, 4), np.uint32)
    for lane in range(32):
        g, t = lane // 4, lane % 4 * 2
        for q, m in enumerate(matrices):
            given[lane, q] = wp.word([m[g, t], m[g, t + 1], m[g + 8, t], m[g + 8, t + 1]], 8)
    named = ", ".join(f"%r{j}" for j in range(count))
    text = f"stmatrix.sync.aligned.m16n8.x{count}.trans.shared.b8 [%s], {{{named}}};"
    body = f"""
.reg .b32 %t, %s, %w, %r<4>; .reg .b64 %p; .reg .pred %q;
mov.u32 %t, %tid.x; ld.param.u64 %p, [p0]; mad.wide.u32 %p, %t, 16, %p; mov.u32 %s, s; mad.lo.u32 %s, %t, {PITCH}, %s;
{"".join(f"ld.global.u32 %r{j}, [%p+{4 * j}];" for j in range(4))}
{text}
bar.warp.sync -1; setp.lt.u32 %q, %t, {8 * count}; ld.param.u64 %p, [p1]; mad.wide.u32 %p, %t, 16, %p;
{"".join(f"@%q ld.shared.u32 %w, [%s+{4 * j}]; @%q st.global.u32 [%p+{4 * j}], %w;" for j in range(4))}
ret;"""
    out = np.zeros((32, 4), np.uint32)
    report = run_text(body, [given, out], module=".shared .align 16 .b8 s[2048];")
    assert not report.findings, report.findings[0].render()
    lines = out.view(np.uint8).reshape(32, 16)
    for q, m in enumerate(matrices):
        np.testing.assert_array_equal(lines[8 * q :][:8], m.T)
    wp.check_text(f".reg .b32 %r<4>, %s;\n{text}", "sm_100a")


@pytest.mark.parametrize(
    "text",
    ["ldmatrix.sync.aligned.m16n16.x1.shared.b8 {%r, %r}, [%r];",
     "ldmatrix.sync.aligned.m8n16.x1.shared.b8 {%r}, [%r];",
     "ldmatrix.sync.aligned.m16n16.x4.trans.shared.b8 {%r, %r, %r, %r}, [%r];",
     "stmatrix.sync.aligned.m16n8.x1.shared.b8 [%r], {%r};"],
)  # fmt: skip
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(Exception, match=r"E941.*PTX line 8"):
        run_text(f".reg .b32 %r;\n{text}\nret;", [np.zeros(1, np.uint32)])
