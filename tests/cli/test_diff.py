"""`tesseracc diff`, `merge` and `strip`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tessera_runtime import load as load_bundle
from tessera_runtime.bundle import BundleFile
from tesseracc.bundle.code import Code
from tests.cli.run import Runner
from tests.cli.samples import HELPER, MODEL, build, write_model

CPU, GPU = ("--arch", "x86-64-v3"), ("--arch", "sm_90")
EMBED = ("--embed-tests", "--embed-source")


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


def paths(said: str) -> set[str]:
    return {" / ".join(change["path"]) for change in json.loads(said)["differences"]}


def test_equal(tesseracc: Runner, tmp_path: Path) -> None:
    source = write_model(tmp_path / "src")
    a = build(tesseracc, source, tmp_path / "a.tsb", *CPU)
    b = tmp_path / "b.tsb"
    assert tesseracc("keygen", tmp_path / "key.pem").code == 0
    assert tesseracc("sign", "--key", tmp_path / "key.pem", a, "-o", b).code == 0
    assert a.read_bytes() != b.read_bytes()
    said = tesseracc("diff", a, b)
    assert said.code == 0 and said.out.startswith("equal")
    assert json.loads(tesseracc("diff", a, b, "--json").out)["equal"]


def test_another_order_of_targets_is_named(tesseracc: Runner, tmp_path: Path) -> None:
    source = write_model(tmp_path / "src")
    a = build(tesseracc, source, tmp_path / "a.tsb", *CPU, "--arch", "x86-64-v2")
    b = build(tesseracc, source, tmp_path / "b.tsb", "--arch", "x86-64-v2", *CPU)
    said = tesseracc("diff", a, b)
    assert said.code == 1 and said.out == "~ targets / order: x86-64-v3, x86-64-v2 -> x86-64-v2, x86-64-v3\n"


@pytest.mark.parametrize(
    ("old", "new", "found", "spared"),
    [
        ("seed=5", "seed=6", ["constants / w / sha256"], ["functions", "targets"]),
        ("ts.relu", "ts.abs", ["targets / sm_90 / kernels / model__0 / code"], ["functions", "constants"]),
        ("factor * x[i]", "factor + x[i]", ["targets / x86-64-v3 / kernels / scale__0 / code",
                                            "targets / sm_90 / kernels / scale__0 / code"],
         ["functions", "constants", "targets / sm_90 / kernels / model__", "targets / x86-64-v3 / kernels / model__"]),
        ('["N", 24, ts.f32]', '["M", 24, ts.f32]', ["functions / model / signature", "functions / model / symbols / M"],
         ["constants", "functions / scale"]),
        ('"A layer', '"Some layer', ["functions / model / doc"], ["constants", "targets"]),
        ("if i < N:", "if  i < N :", ["provenance / source_sha256"], ["functions", "targets", "constants"]),
    ],
)  # fmt: skip
def test_differences(
    tesseracc: Runner, tmp_path: Path, old: str, new: str, found: list[str], spared: list[str]
) -> None:
    assert old in MODEL
    a = build(tesseracc, write_model(tmp_path / "a"), tmp_path / "a.tsb", *CPU, *GPU)
    b = build(tesseracc, write_model(tmp_path / "b", MODEL.replace(old, new)), tmp_path / "b.tsb", *CPU, *GPU)
    said = tesseracc("diff", a, b, "--json")
    changes = paths(said.out)
    assert said.code == 1 and "provenance / options / model.py" in changes
    assert set(found) <= changes, changes
    assert not [c for c in changes for s in spared if c.startswith(s)]
    text = tesseracc("diff", a, b)
    assert text.code == 1 and all(line[0] in "~+-" for line in text.out.splitlines())
    assert paths(tesseracc("diff", b, a, "--json").out) >= {c for c in changes if "symbols" not in c}


def test_targets_tests_and_sources(tesseracc: Runner, tmp_path: Path) -> None:
    source = write_model(tmp_path / "src")
    a = build(tesseracc, source, tmp_path / "a.tsb", *CPU)
    b = build(tesseracc, source, tmp_path / "b.tsb", *CPU, *GPU, *EMBED)
    said = tesseracc("diff", a, b, "--json")
    changes = {(" / ".join(c["path"]), c["kind"]) for c in json.loads(said.out)["differences"]}
    assert ("targets / sm_90", "added") in changes and ("tests / model/0", "added") in changes
    assert ("sources / model.py", "added") in changes and ("sources / scales.py", "added") in changes
    assert "- targets / sm_90" in tesseracc("diff", b, a).out


def test_code_that_moved_is_equal() -> None:
    """Distances to data may change by how far the data moved, in whole fields, and nothing else may."""
    text = bytes.fromhex("c5fc100d 00100000 0f58c1 488d35 34120000 c3".replace(" ", ""))
    moved = bytes.fromhex("c5fc100d 00110000 0f58c1 488d35 34130000 c3".replace(" ", ""))
    assert Code(text, 0x1000) == Code(moved, 0x1100) and Code(moved, 0x1100) == Code(text, 0x1000)
    assert Code(text, 0x1000) != Code(moved, 0x1101) and Code(text) != Code(moved)
    assert Code(text, 0x1000) != Code(moved[:-1] + b"\x90", 0x1100)
    assert Code(text, 0x1000) != Code(moved + b"\x90", 0x1100)
    assert Code(bytes(4), 0) == Code(b"\xff\xff\xff\xff", -1)


def test_merge_and_strip_are_direct_builds(tesseracc: Runner, tmp_path: Path) -> None:
    source = write_model(tmp_path / "src")
    for options in ((), EMBED):
        cpu = build(tesseracc, source, tmp_path / "cpu.tsb", *CPU, *options)
        gpu = build(tesseracc, source, tmp_path / "gpu.tsb", *GPU, *options)
        both = build(tesseracc, source, tmp_path / "both.tsb", *CPU, *GPU, *options).read_bytes()
        out = tmp_path / "out.tsb"
        said = tesseracc("merge", cpu, gpu, "-o", out, "--json")
        assert said.code == 0 and json.loads(said.out)["targets"] == ["x86-64-v3", "sm_90"]
        assert out.read_bytes() == both
        assert tesseracc("merge", out, gpu, "-o", out).code == 0 and out.read_bytes() == both
        for keep, direct in (("x86-64-v3", cpu), ("sm_90", gpu), ("cpu", cpu), ("hopper", gpu)):
            said = tesseracc("strip", tmp_path / "both.tsb", "--keep", keep, "-o", out, "--json")
            target = "x86-64-v3" if direct is cpu else "sm_90"
            assert json.loads(said.out)["targets"] == [target] and out.read_bytes() == direct.read_bytes()
    plain = build(tesseracc, source, tmp_path / "plain.tsb", *CPU)
    assert tesseracc("strip", tmp_path / "cpu.tsb", "--tests", "--sources", "-o", out).code == 0
    assert out.read_bytes() == plain.read_bytes()
    x = np.random.default_rng(0).standard_normal((7, 24)).astype(np.float32)
    a, b = (load_bundle(path)["model"](x) for path in (out, tmp_path / "both.tsb"))
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)


def test_strip_keeps_signatures_out_and_originals_whole(tesseracc: Runner, tmp_path: Path) -> None:
    bundle = build(tesseracc, write_model(tmp_path / "src"), tmp_path / "m.tsb", *CPU, *GPU)
    tesseracc("keygen", tmp_path / "key.pem")
    tesseracc("sign", "--key", tmp_path / "key.pem", bundle)
    before = bundle.read_bytes()
    assert tesseracc("strip", bundle, "--keep", "sm_90", "-o", tmp_path / "s.tsb").code == 0
    assert BundleFile(tmp_path / "s.tsb").signatures == () and bundle.read_bytes() == before


@pytest.mark.parametrize(
    ("model", "helper", "options", "what"),
    [
        (MODEL.replace("seed=5", "seed=6"), HELPER, (), "source_sha256"),
        (MODEL, "FACTOR = 0.25\n", (), "options"),
        (MODEL, HELPER, ("--entry", "model"), "functions"),
        (MODEL, HELPER, ("--embed-tests",), "embedded tests"),
        (MODEL, HELPER, ("--embed-source",), "options"),
    ],
)
def test_conflicts(
    tesseracc: Runner, tmp_path: Path, model: str, helper: str, options: tuple[str, ...], what: str
) -> None:
    a = build(tesseracc, write_model(tmp_path / "a"), tmp_path / "a.tsb", *CPU)
    b = build(tesseracc, write_model(tmp_path / "b", model, helper), tmp_path / "b.tsb", *GPU, *options)
    said = tesseracc("merge", a, b, "-o", tmp_path / "c.tsb")
    assert said.code == 5 and "E661" in said.err and "bundle 2 differs in its" in said.err and what in said.err
    assert not (tmp_path / "c.tsb").exists()


def test_bad_input(tesseracc: Runner, tmp_path: Path) -> None:
    bundle = build(tesseracc, write_model(tmp_path / "src"), tmp_path / "m.tsb", *CPU)
    out = tmp_path / "o.tsb"
    assert "E805" in tesseracc("strip", bundle, "--keep", "sm_90", "-o", out).err
    assert "E801" in tesseracc("strip", bundle, "-o", out).err
    gpu = build(tesseracc, tmp_path / "src" / "model.py", tmp_path / "g.tsb", *GPU)
    assert "no target 'cpu'" in tesseracc("strip", gpu, "--keep", "cpu", "-o", out).err
    assert tesseracc("merge", bundle, tmp_path / "none.tsb", "-o", out).code == 2
    assert tesseracc("diff", bundle, tmp_path / "src" / "model.py").code == 5
    assert tesseracc("merge", "-o", out).code == 2 and not out.exists()
