"""Every subcommand on good input: levels, dumps that continue, passes, explanations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tessera_runtime import load as load_bundle
from tessera_runtime.cli import main as run_main
from tesseracc.codegen.disassemble import disassembler_path
from tesseracc.textio import constants_bytes
from tests.cli.run import Runner

MODEL = """
import tessera as ts

w = ts.randn(8, 8, seed=1)

@ts.function
def f(x: ts.Tensor["N", 8, ts.f32]):
    return ts.softmax(ts.relu(x @ w))

@ts.function
def untyped(x):
    return x + 1

@ts.kernel
def k(x: ts.Tensor["N", ts.f32]):
    i = ts.tile.linear_id()
    if i < N:
        x[i] = 2.0 * x[i]
"""


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def result(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    return np.asarray(load_bundle(str(path))["f"](x))


def test_build_says_what_it_made(tesseracc: Runner, model: Path) -> None:
    said = tesseracc("build", model, "--arch", "x86-64-v3", "--arch", "sm_80", "--timing", "--notes")
    assert said.code == 0 and "f, k for x86-64-v3" in said.out and "sm_80" in said.out
    assert "`untyped` is not built" in said.err and "code" in said.err and "R1" in said.err
    assert model.with_suffix(".tsb").stat().st_size > 1000
    np.testing.assert_allclose(result(model.with_suffix(".tsb")).sum(axis=1), 1, rtol=1e-6)


def test_build_json(tesseracc: Runner, model: Path, tmp_path: Path) -> None:
    said = tesseracc("build", model, "--arch", "x86-64-v3", "--json", "-o", tmp_path / "o.tsb")
    document = json.loads(said.out)
    assert document["functions"] == ["f", "k"] and document["bytes"] == (tmp_path / "o.tsb").stat().st_size
    assert document["kernels"] == {"x86-64-v3": 3} and document["warnings"] == []


def test_entry_and_input_spec(tesseracc: Runner, model: Path) -> None:
    said = tesseracc("build", model, "--entry", "untyped", "--input-spec", "x=f32[N, 3]", "--emit", "graph")
    assert "graph.func @untyped(%x: tensor<f32[N, 3]>)" in said.out and "@f" not in said.out
    said = tesseracc("build", model, "--input-spec", "untyped.x=i32[2]", "--emit", "graph")
    assert "tensor<i32[2]>" in said.out and "@f" in said.out


@pytest.mark.parametrize(
    ("level", "text"),
    [
        ("graph", "graph.func"),
        ("schedule", "schedule.group"),
        ("tile", "tile.kernel"),
        ("target", "target.func"),
        ("llvm", "define ptx_kernel void"),
        ("ptx", ".visible .entry"),
    ],
)
def test_emit(tesseracc: Runner, model: Path, level: str, text: str) -> None:
    said = tesseracc("build", model, "--arch", "sm_90", "--emit", level)
    assert said.code == 0 and text in said.out
    assert not model.with_suffix(".tsb").exists()


def test_emit_sass_needs_a_disassembler(tesseracc: Runner, model: Path) -> None:
    said = tesseracc("build", model, "--arch", "sm_90", "--emit", "sass")
    if disassembler_path() is None:
        assert said.code == 4 and "E534" in said.err and "pip install" in said.err
    else:
        assert said.code == 0 and "EXIT" in said.out


def test_every_dumped_file_can_be_built_from(tesseracc: Runner, model: Path, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    assert tesseracc("build", model, "--arch", "x86-64-v3", "--entry", "f", "--dump-dir", dump).code == 0
    expected = result(model.with_suffix(".tsb"))
    files = sorted(dump.glob("*.tir"))
    assert len(files) > 10 and files[0].name == "00.front.tir"
    for file in files[:: max(1, len(files) // 8)]:
        said = tesseracc("build", file, "--arch", "x86-64-v3", "-o", tmp_path / "again.tsb")
        assert said.code == 0, (file.name, said.err)
        np.testing.assert_array_equal(result(tmp_path / "again.tsb"), expected)


def test_arrays_that_a_text_names(tesseracc: Runner, model: Path, tmp_path: Path) -> None:
    """A text without its arrays, or with others: passes leave them alone, a build says which."""
    text, arrays = tmp_path / "lone" / "g.tir", tmp_path / "lone" / "constants.safetensors"
    text.parent.mkdir()
    text.write_text(tesseracc("build", model, "--entry", "f", "--arch", "x86-64-v3", "--emit", "graph").out)
    assert tesseracc("opt", "-p", "fold-constants", text).out == tesseracc("opt", text).out
    said = tesseracc("build", text, "--arch", "x86-64-v3")
    assert said.code == 2 and "E802" in said.err and "names the array `w`" in said.err and "--constants" in said.err
    for wrong in (np.ones((8, 7), np.float32), np.ones((8, 8), np.int32)):
        arrays.write_bytes(constants_bytes({"w": wrong}))
        said = tesseracc("build", text, "--arch", "x86-64-v3")
        assert said.code == 2 and "the text says tensor<f32[8, 8]>" in said.err
        assert "the text says" in tesseracc("opt", "-p", "fold-constants", text, "--constants", arrays).err
    arrays.write_bytes(constants_bytes({"w": np.eye(8, dtype=np.float32)}))
    assert tesseracc("build", text, "--arch", "x86-64-v3", "-o", tmp_path / "m.tsb").code == 0
    text.write_text('graph.func @f() -> (f32) {\n  %0 = graph.constant {name = "w"} : f32\n  yield %0\n}\n')
    assert "cannot be a f32" in tesseracc("build", text, "--arch", "x86-64-v3").err


def test_opt(tesseracc: Runner, model: Path, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    tesseracc("build", model, "--arch", "x86-64-v3", "--entry", "f", "--dump-dir", dump)
    said = tesseracc("opt", dump / "00.front.tir", "-p", "decompose,graph-to-schedule", "--print-after-all")
    assert said.code == 0 and said.out.startswith("schedule.func @f") and "// after decompose" in said.err
    both = tmp_path / "two.tir"
    text = (dump / "00.front.tir").read_text()
    both.write_text(f"{text}\n// -----\n{text}")
    assert tesseracc("opt", both).out.count("graph.func @f") == 2
    listed = tesseracc("opt", both, "--list").out
    assert "expand-math" in listed and "fuse" in listed


def test_explain_and_targets(tesseracc: Runner) -> None:
    assert "matmul" in tesseracc("explain", "e302").out or tesseracc("explain", "E302").code == 0
    assert json.loads(tesseracc("explain", "E802", "--json").out)["exit_code"] == 2
    names = {row["name"] for row in json.loads(tesseracc("targets", "--json").out)}
    assert {"sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "aarch64", "x86-64-v4"} <= names
    assert "Hopper" in tesseracc("targets").out
    assert tesseracc("explain", "w203").out.startswith("W203: dim hides a name (a warning)\n")
    assert json.loads(tesseracc("explain", "W807", "--json").out)["exit_code"] == 0
    assert re.search(r"^cpu  +x86-64-v2, x86-64-v3, x86-64-v4, aarch64, ", tesseracc("targets").out, re.MULTILINE)


def test_emulate(tesseracc: Runner, model: Path, tmp_path: Path) -> None:
    ptx = tmp_path / "k.ptx"
    ptx.write_text(tesseracc("build", model, "--arch", "sm_90", "--entry", "k", "--emit", "ptx").out)
    x = np.random.default_rng(1).standard_normal(201).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    common = ("--grid", "2,1,1", "--block", "128,1,1", "--arg", f"@{tmp_path / 'x.npy'}")
    out = tmp_path / "y.npy"
    said = tesseracc("emulate", ptx, *common, "--arg", "i64=201", "--output", f"0=@{out}", "--counters", "--json")
    assert said.code == 0 and json.loads(said.out)["counters"]["bytes_read"]["global"] == 804
    np.testing.assert_array_equal(np.load(out), 2 * x)
    said = tesseracc("emulate", ptx, *common, "--arg", "i64=300")
    assert (said.code == 6 and "beyond" in said.out) or "into an allocation" in said.out
    assert "model.py:" in said.out



def test_counters_of_the_emulator(tesseracc: Runner, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kernel `k` on 300 elements: three groups of four warps; each element is read and written once."""
    assert tesseracc("build", model, "--arch", "sm_80", "--arch", "x86-64-v3", "--entry", "k").code == 0
    command = [str(model.with_suffix(".tsb")), "--input", "x=randn:300xf32", "--counters"]
    assert run_main([*command, "--device", "emulator", "--json"]) == 0
    counters = json.loads(capsys.readouterr().out)["counters"]
    (launch,) = counters["launches"]
    assert (launch["kernel"], launch["grid"]) == ("k__0", [3, 1, 1])
    assert launch["bytes_read"] == launch["bytes_written"] == counters["total"]["bytes_read"]
    assert launch["bytes_read"]["global"] == 1200
    # 300 elements are 9 full warps and one of 12 lanes: 10 loads and 10 stores of 4, the last two of 2 sectors
    assert (launch["global_requests"], launch["global_sectors"], launch["coalescing_efficiency"]) == (20, 76, 1.0)
    assert run_main([*command, "--device", "emulator"]) == 0
    said = capsys.readouterr().out
    assert "k__0 3x1x1:" in said and "  global sectors: 76" in said and "total:" in said
    assert run_main([*command, "--device", "cpu"]) == 2
    assert "E801" in capsys.readouterr().err
