"""Seeded bugs, each reported at its line, and their correct twins without a report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.emulator import EmulatorError, GlobalMemory, launch, parse_ptx
from tests.emulator.harness import run_text

LOAD = """.reg .b32 %i, %x, %y, %z, %n; .reg .b64 %a, %b; .reg .pred %p, %q;
mov.u32 %i, %tid.x; ld.param.u64 %a, [p0]; mad.wide.u32 %b, %i, 4, %a; shl.b32 %n, %i, 2;
"""
SHARED = ".shared .align 16 .b8 s[1024];"


def findings(
    body: str, *, threads: int = 64, grid: int = 1, words: int = 64, module: str = SHARED, **options: Any
) -> Any:
    """(code, text of the PTX line) of every finding; `body` may mark its lines with comments."""
    buffer = np.arange(words, dtype=np.uint32)
    report = run_text(LOAD + body + "\nret;", [buffer], grid=(grid,), block=(threads,), module=module, **options)
    text = f".version\n.target\n.address_size\n{module}\n.visible\n{{\n{LOAD}{body}".split("\n")
    return [(f.code, text[f.ptx_line - 1]) for f in report.findings]


STORE = "mov.u32 %z, s; add.u32 %z, %z, %n; st.shared.u32 [%z], %i;\n"
CASES = {
    "missing barrier": (
        STORE + "xor.b32 %z, %z, 128;\nld.shared.u32 %x, [%z]; // BUG\n",
        STORE + "xor.b32 %z, %z, 128; bar.sync 0;\nld.shared.u32 %x, [%z];\n",
        "E955",
    ),
    "missing barrier between warp mates": (
        STORE + "xor.b32 %z, %z, 4;\nld.shared.u32 %x, [%z]; // BUG\n",
        STORE + "xor.b32 %z, %z, 4; bar.warp.sync -1;\nld.shared.u32 %x, [%z];\n",
        "E955",
    ),
    "write after read": (
        STORE + "bar.sync 0; xor.b32 %y, %z, 128; ld.shared.u32 %x, [%y];\nst.shared.u32 [%z], %x; // BUG\n",
        STORE + "bar.sync 0; xor.b32 %y, %z, 128; ld.shared.u32 %x, [%y]; bar.sync 0;\nst.shared.u32 [%z], %x;\n",
        "E955",
    ),
    "two threads write different values": (
        "st.shared.u32 [s+4], %i; // BUG\n",
        "st.shared.u32 [s+4], 7;\n",
        "E955",
    ),
    "named barrier that leaves a warp out": (
        STORE + """xor.b32 %y, %z, 128; setp.lt.u32 %p, %i, 64; @!%p bra OUT; bar.sync 1, 64; OUT:
ld.shared.u32 %x, [%y]; // BUG
""",
        STORE + """xor.b32 %y, %z, 128; setp.lt.u32 %p, %i, 64; @!%p bra OUT; bar.sync 1, 64; bra JOIN;
OUT: bar.sync 2, 64;
JOIN: ld.shared.u32 %x, [%y];
""",
        "E955",
    ),
    "off by one": (
        "ld.global.u32 %x, [%b+4]; // BUG\n",
        "ld.global.u32 %x, [%b+0];\n",
        "E951",
    ),
    "shared out of bounds": (
        "mov.u32 %z, s; add.u32 %z, %z, %n;\nst.shared.u32 [%z+1024], %i; // BUG\n",
        "mov.u32 %z, s; add.u32 %z, %z, %n;\nst.shared.u32 [%z+512], %i;\n",
        "E951",
    ),
    "misaligned vector": (
        "mad.wide.u32 %b, %i, 8, %a; setp.lt.u32 %p, %i, 8;\n@%p ld.global.v2.u32 {%x, %y}, [%b+4]; // BUG\n",
        "mad.wide.u32 %b, %i, 8, %a; setp.lt.u32 %p, %i, 8;\n@%p ld.global.v2.u32 {%x, %y}, [%b+8];\n",
        "E952",
    ),
    "uninitialised shared memory": (
        "mov.u32 %z, s; add.u32 %z, %z, %n; setp.lt.u32 %p, %i, 32; @%p st.shared.u32 [%z], %i; bar.sync 0;\n"
        "ld.shared.u32 %x, [%z]; // BUG\n",
        STORE + "bar.sync 0;\nld.shared.u32 %x, [%z];\n",
        "E953",
    ),
    "uninitialised bytes of a word": (
        "mov.u32 %z, s; add.u32 %z, %z, %n; cvt.u16.u32 %h, %i; st.shared.u16 [%z], %h;\n"
            "ld.shared.u32 %x, [%z]; // BUG\n",
        "mov.u32 %z, s; add.u32 %z, %z, %n; cvt.u16.u32 %h, %i; st.shared.u16 [%z], %h; st.shared.u16 [%z+2], %h;\n"
        "ld.shared.u32 %x, [%z];\n",
        "E953",
    ),
    "divergent barrier inside a warp": (
        "setp.lt.u32 %p, %i, 16; @%p bra LOW;\nbar.sync 0; // BUG\nbra JOIN;\nLOW: bar.sync 0;\nJOIN:\n",
        "setp.lt.u32 %p, %i, 32; @%p bra LOW;\nbar.sync 0;\nbra JOIN;\nLOW: bar.sync 0;\nJOIN:\n",
        "E954",
    ),
    "barrier after an early exit": (
        "setp.ge.u32 %p, %i, 40; @%p exit;\nbar.sync 0; // BUG\n",
        "setp.ge.u32 %p, %i, 40; bar.sync 0;\n@%p exit;\n",
        "E954",
    ),
    "barrier that is never complete": (
        "setp.lt.u32 %p, %i, 32; @!%p bra OUT;\nbar.sync 1, 64; // BUG\nOUT:\n",
        "setp.lt.u32 %p, %i, 32; @!%p bra OTHER; bar.sync 1, 64;\nbra OUT;\nOTHER: bar.arrive 1, 64;\nOUT:\n",
        "E957",
    ),
    "endless wait for a flag": (
        "setp.eq.u32 %p, %i, 0;\n"
            "LOOP: ld.volatile.global.u32 %x, [%a+12]; setp.eq.u32 %q, %x, 3; // BUG\n@%q bra LOOP;\n",
        "setp.ne.u32 %p, %i, 0; @%p bra LOOP; st.volatile.global.u32 [%a+12], %i;\n"
        "LOOP: ld.volatile.global.u32 %x, [%a+12]; setp.eq.u32 %q, %x, 3;\n@%q bra LOOP;\n",
        "E957",
    ),
    "shuffle from a lane that is not there": (
        "setp.lt.u32 %p, %i, 16; @!%p bra OUT;\nshfl.sync.down.b32 %x, %i, 8, 31, 0xFFFF; // BUG\nOUT:\n",
        "setp.lt.u32 %p, %i, 16; @!%p bra OUT;\nshfl.sync.bfly.b32 %x, %i, 8, 31, 0xFFFF;\nOUT:\n",
        "E953",
    ),
}  # fmt: skip
EXTRA = {"named barrier that leaves a warp out": 128}


@pytest.mark.parametrize("name", list(CASES))
def test_seeded_bug(name: str) -> None:
    bug, twin, code = CASES[name]
    threads = EXTRA.get(name, 64)
    head = ".reg .b16 %h; "
    found = findings(head + bug, threads=threads)
    assert found, "not reported"
    assert found[0][0] == code, found
    assert "BUG" in found[0][1], found
    assert not findings(head + twin, threads=threads)


def test_global_race_between_ctas() -> None:
    body = "mov.u32 %y, %ctaid.x;\nst.global.u32 [%b], %y; // BUG\n"
    found = findings(body, grid=3)
    assert [code for code, _ in found] == ["E956"]
    assert "BUG" in found[0][1]
    assert not findings("mov.u32 %y, %ctaid.x;\nst.global.u32 [%b], 5;\n", grid=3)
    read = (
        "mov.u32 %y, %ctaid.x; setp.eq.u32 %p, %y, 0; @%p st.global.u32 [%b], %i;\n"
        "@!%p ld.global.u32 %x, [%b]; // BUG\n"
    )
    assert findings(read, grid=2)[0][0] == "E956"


def test_endless_loop_stops_at_the_budget() -> None:
    found = findings("LOOP: add.u32 %x, %i, 1;\nbra LOOP; // BUG\n", max_steps=1000)
    assert found[0][0] == "E958"


def test_a_finding_names_both_accesses_and_the_source_line() -> None:
    body = """.loc 1 10 0
mov.u32 %z, s; add.u32 %z, %z, %n; st.shared.u32 [%z], %i;
.loc 1 11 0
xor.b32 %z, %z, 128; ld.shared.u32 %x, [%z];
"""
    buffer = np.zeros(64, np.uint32)
    report = run_text(LOAD + body + "ret;", [buffer], block=(64,), module='.file 1 "dir/kernel.py"\n' + SHARED)
    (finding,) = report.findings
    assert (finding.source, finding.other_source) == ("kernel.py:11", "kernel.py:10")
    assert finding.other_line is not None and finding.ptx_line == finding.other_line + 2
    assert "thread" in finding.message and "kernel.py:11" in finding.render()
    assert finding.to_json()["code"] == "E955"


def test_atomics_and_plain_accesses_race_but_atomics_alone_do_not() -> None:
    assert not findings("red.shared.add.u32 [s+8], 1;\n", module=".shared .align 4 .b8 s[64];")[1:]
    clean = "setp.eq.u32 %p, %i, 0; @%p st.shared.u32 [s+8], 0; bar.sync 0; red.shared.add.u32 [s+8], 1;\n"
    assert not findings(clean)
    found = findings(clean + "ld.shared.u32 %x, [s+8]; // BUG\n")
    assert found[0][0] == "E955" and "BUG" in found[0][1]


def test_detection_can_be_turned_off() -> None:
    assert not findings(CASES["missing barrier"][0], detect=False)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("frobnicate.b32 %x, %i;", "E941", "unknown instruction `frobnicate.b32`"),
        ("add.u33 %x, %i, %i;", "E941", "PTX line 9"),
        ("mov.u32 %undeclared, 1;", "E940", "register `%undeclared` is not declared"),
        ("bra NOWHERE;", "E940", "no label `NOWHERE`"),
        ("mov.u32 %x, ;", "E940", "operand expected"),
        ("ld.global.u32 %x, [%a;", "E940", "`]` expected"),
        ("mov.u32 %x, \"text\";", "E940", "operand expected"),
        ("`", "E940", "unexpected character"),
    ],
)  # fmt: skip
def test_errors_name_the_line(text: str, code: str, words: str) -> None:
    with pytest.raises(EmulatorError) as caught:
        findings(text, module="")
    assert caught.value.code == code
    assert words in caught.value.message
    assert caught.value.exit_code == 6


def test_launch_errors() -> None:
    module = parse_ptx(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u32 n) .reqntid 32 { ret; }"
    )
    for kernel, block, args in (("nope", (32,), [1]), ("k", (64,), [1]), ("k", (32,), []), ("k", (32,), ["text"]),
                                ("k", (2048,), [1]), ("k", (0,), [1]), ("k", (32,), [b"toolong"])):  # fmt: skip
        with pytest.raises(EmulatorError) as caught:
            launch(module, kernel, (1,), block, args)
        assert caught.value.code == "E942"


def test_a_launch_may_end_with_its_first_finding() -> None:
    body = "ld.global.u32 %x, [%b+4];\nld.global.u32 %y, [%b+8];"
    assert [code for code, _ in findings(body)] == ["E951", "E951"]
    assert [code for code, _ in findings(body, halt=True)] == ["E951"]


def test_device_memory_lives_between_launches() -> None:
    memory = GlobalMemory()
    a = memory.alloc(256)
    b = memory.alloc(100)
    assert a % 256 == 0 and b % 256 == 0 and b - a >= 256 + 1024
    memory.write(a, np.arange(64, dtype=np.uint32))
    text = LOAD + "ld.global.u32 %x, [%b]; add.u32 %x, %x, 1; st.global.u32 [%b], %x; ret;"
    for _ in range(3):
        assert not run_text(text, [np.uint64(a)], params=".param .u64 p0", block=(64,), memory=memory).findings
    assert np.array_equal(np.frombuffer(memory.read(a, 256), np.uint32), np.arange(64) + 3)
    report = run_text(text, [np.uint64(b)], params=".param .u64 p0", block=(64,), memory=memory)
    assert [f.code for f in report.findings] == ["E951", "E951"]
    assert report.findings[0].count == 39
    memory.free(a)
    report = run_text(text, [np.uint64(a)], params=".param .u64 p0", block=(64,), memory=memory)
    assert report.findings[0].code == "E951"
    with pytest.raises(EmulatorError, match="no allocation"):
        memory.free(a)
    with pytest.raises(EmulatorError, match="inside one allocation"):
        memory.read(b + 90, 20)
