"""The function behind `tesseracc emulate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_runtime.core.errors import TesseraError, UsageError
from tesseracc.emulator import EmulatorError
from tesseracc.emulator.arguments import parse_argument
from tesseracc.emulator.tool import emulate, parse_dims

PTX = Path(__file__).parent / "outside/cuda/basic.ptx"


def test_a_launch_from_files_to_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=201).astype(np.float32) for _ in range(2))
    for name, x in (("a", a), ("b", b), ("c", np.zeros_like(a))):
        np.save(tmp_path / f"{name}.npy", x)
    arguments = [f"@{tmp_path}/{n}.npy" for n in "abc"] + ["i32=201"]
    code, text = emulate(PTX, "vector_add", "2,1,1", "128,1,1", arguments, [f"2=@{tmp_path}/out.npy"], counters=True)
    assert code == 0
    assert text.startswith("no findings\n") and "global_sectors: 78" in text  # 26 sectors for each of three arrays
    assert np.array_equal(np.load(tmp_path / "out.npy"), a + b)
    code, text = emulate(PTX, "vector_add", "2", "128", [*arguments[:3], "i32=202"], as_json=True)
    assert code == 1
    findings = json.loads(text)["findings"]
    assert findings[0]["code"] == "E951" and findings[0]["source"] == "basic.cu:4"


@pytest.mark.parametrize("text", ["", "0", "1,2,3,4", "x", "1,-1"])
def test_bad_dims(text: str) -> None:
    with pytest.raises(EmulatorError):
        parse_dims(text)


BAD = ["", "i32", "i32=x", "i33=1", "f32=", "i8=300", "hex=0", "hex=zz", "u32=-1", "i32=1.5"]


@pytest.mark.parametrize("text", BAD)
def test_bad_arguments(text: str) -> None:
    with pytest.raises(EmulatorError) as caught:
        parse_argument(text)
    assert caught.value.code == "E942"


def test_arguments() -> None:
    assert parse_argument("i32=0x10") == 16 and parse_argument("f32=1.5").dtype == np.float32
    assert parse_argument("hex=00ff") == b"\x00\xff"


def test_arguments_that_are_no_arrays(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no numbers")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.savez(tmp_path / "several.npz", a=np.zeros(2), b=np.zeros(2))
    for name in ("text.npy", "empty.npy", "words.npy", "several.npz"):
        with pytest.raises(EmulatorError, match=r"not a (well-formed array|\.npy) file"):
            parse_argument(f"@{tmp_path / name}")
    with pytest.raises(UsageError) as caught:
        parse_argument("@missing.npy")
    assert caught.value.code == "E802"


def failure(*command: Any, **options: Any) -> TesseraError:
    with pytest.raises(TesseraError) as caught:
        emulate(*command, **options)
    return caught.value


def test_bad_files_and_outputs(tmp_path: Path) -> None:
    """Each one error with its exit code; nothing is written."""
    np.save(tmp_path / "x.npy", np.zeros(8, np.float32))
    x = f"@{tmp_path}/x.npy"
    good = [x, x, x, "i32=8"]
    none = tmp_path / "none.ptx"
    binary = tmp_path / "binary.ptx"
    binary.write_bytes(b"\x7fELF\xff\xfe")
    cases: list[tuple[tuple[Any, ...], str, str]] = [
        ((none, "k", "1", "1"), "E802", "cannot read"),
        ((tmp_path, "k", "1", "1"), "E802", "cannot read"),
        ((binary, "k", "1", "1"), "E802", "is not UTF-8 text"),
        ((PTX, "none", "1", "1"), "E942", "has no kernel `none`"),
        ((PTX, "vector_add", "1", "1", good[:3]), "E942", "takes 4 arguments, got 3"),
        ((PTX, "vector_add", "1", "1", [*good, x]), "E942", "takes 4 arguments, got 5"),
        ((PTX, "vector_add", "1", "1", ["i32=1"] * 4, ["0=@y.npy"]), "E942", "argument 0 is not a buffer"),
        ((PTX, "vector_add", "1", "1", good, ["3=@y.npy"]), "E942", "argument 3 is not a buffer"),
        ((PTX, "vector_add", "1", "1", good, ["7=@y.npy"]), "E942", "with the number of an argument"),
        ((PTX, "vector_add", "1", "1", good, ["c=@y.npy"]), "E942", "with the number of an argument"),
        ((PTX, "vector_add", "1", "1", good, ["2=y.npy"]), "E942", "is not N=@file.npy"),
        ((PTX, "vector_add", "1", "1", good, [f"2=@{tmp_path}/no/y.npy"]), "E803", "cannot write"),
        ((PTX, "vector_add", "0", "1", good), "E942", "`0` is not one to three positive integers"),
        ((PTX, "vector_add", "1,0,1", "1", good), "E942", "positive"),
        ((PTX, "vector_add", "1", "1025", good), "E942", "at most (1024, 1024, 64)"),
        ((PTX, "vector_add", "1", "64,32", good), "E942", "2048 threads: at most 1024"),
        ((PTX, "vector_add", "1", "1,1,65", good), "E942", "at most (1024, 1024, 64)"),
        ((PTX, "vector_add", "1,65536", "1", good), "E942", "grid (1, 65536, 1): at most"),
        ((PTX, "vector_add", "1", "1", [x, x, x, "f32=8"]), "E942", "is .u32, the argument float32"),
        ((PTX, "vector_add", "1", "1", [x, x, x, x]), "E942", "no address of a buffer fits"),
        ((PTX, "vector_add", "1", "1", [x, x, x, "i64=99999999999"]), "E942", "does not fit"),
        ((PTX, "vector_add", "1", "1", [x, x, x, "hex=0000"]), "E942", "has 4 bytes, the argument 2"),
    ]
    for command, code, words in cases:
        error = failure(*command)
        assert (error.code, error.exit_code) == (code, 2) and words in str(error), (command, str(error))
    assert (failure(PTX, "vector_add", "1", "1").help or "").count(" .u64") == 3  # the parameters in order, with types
    memory = failure(PTX, "vector_add", "1", "1", good, dynamic_shared=228 << 10)
    assert memory.code == "E942" and f"{228 << 10} bytes of shared memory" in str(memory)
    assert failure(PTX, "vector_add", "3", "1", good, cluster="2").code == "E942"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["binary.ptx", "x.npy"]


HEAD = ".version 8.8\n.target sm_90a\n.address_size 64\n"


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("hello", "E940", 4),
        (".visible .entry k()\n{\nmov.u32 %x, 1;\nret;\n}", "E940", 6),  # the register is not declared
        (".visible .entry k()\n{\n.reg .b32 %x;\nbra NOWHERE;\nret;\n}", "E940", 7),
        (".visible .entry k()\n{\n.reg .b32 %x;\nmov.u32 %x 1;\nret;\n}", "E940", 7),
        (".visible .entry k()\n{\n.reg .b32 %x;\nret;\n", "E940", 8),
        (".visible .entry k()\n{\n.reg .b32 %x;\nmov.u32 %x, §;\nret;\n}", "E940", 7),
        (".visible .entry k()\n{\n.reg .b32 %x;\n\nfrobnicate.u32 %x, 1;\nret;\n}", "E941", 8),
        (".visible .entry k()\n{\n.reg .b32 %x;\nadd.u32.wild %x, %x, 1;\nret;\n}", "E941", 7),
        (".visible .entry k()\n{\n.reg .b32 %x;\nadd.u32 %x, %x;\nret;\n}", "E941", 7),
        (".visible .entry k()\n{\n.reg .b32 %x;\ntex.2d.v4.f32.f32 {%x,%x,%x,%x}, [%x, {%x,%x}];\nret;\n}", "E941", 7),
    ],
)
def test_ptx_that_is_not_understood(text: str, code: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "k.ptx"
    path.write_text(HEAD + text, encoding="utf-8")
    error = failure(path, "k", "1", "1")
    assert (error.code, error.exit_code) == (code, 6) and f"PTX line {line}:" in str(error), str(error)
    assert str(error).count("\n") <= 2


DEBUG = (
    HEAD
    + """.file 1 "model.py"
.visible .entry k(.param .u64 p)
{
.shared .align 4 .b8 s[256];
.reg .b32 %t, %a, %x; .reg .b64 %p;
mov.u32 %t, %tid.x; mov.u32 %a, s; mad.lo.u32 %a, %t, 4, %a;
.loc 1 12 5
st.shared.u32 [%a], %t;
.loc 1 14 9
xor.b32 %a, %a, 128; ld.shared.u32 %x, [%a];
.loc 1 15 9
ld.param.u64 %p, [p]; mad.wide.u32 %p, %t, 4, %p;
st.global.u32 [%p], %x;
ret;
}
"""
)


def test_findings_name_both_accesses(tmp_path: Path) -> None:
    """A race (line 12 of the source with line 14) and a store that goes beyond its buffer, in text and as JSON."""
    path = tmp_path / "k.ptx"
    path.write_text(DEBUG)
    np.save(tmp_path / "y.npy", np.zeros(60, np.uint32))
    code, text = emulate(path, "k", "1", "64", [f"@{tmp_path}/y.npy"])
    lines = text.split("\n")
    assert code == 1
    assert lines[0].startswith("E955: read of shared memory by thread 0 of CTA 0 races with the write by thread 32")
    assert lines[0].endswith("(PTX line 13, model.py:14)") and lines[1] == "  other access: PTX line 11, model.py:12"
    assert lines[3].startswith("E951: 4-byte access at global address")
    assert lines[3].endswith("(PTX line 16, model.py:15)")
    assert "240 bytes into an allocation of 240 bytes" in lines[3] and lines[4] == "  4 times"
    code, text = emulate(path, "k", "1", "64", [f"@{tmp_path}/y.npy"], as_json=True)
    race, stray = json.loads(text)["findings"]
    assert (race["ptx_line"], race["source"]) == (13, "model.py:14")
    assert (race["other_line"], race["other_source"]) == (11, "model.py:12")
    assert (stray["code"], stray["ptx_line"], stray["source"], stray["other_line"], stray["count"]) == (
        "E951", 16, "model.py:15", None, 4)  # fmt: skip
