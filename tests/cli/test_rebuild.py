"""`tesseracc rebuild --verify`: the recipe in a bundle is all that is needed, and what differs is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tessera_runtime.bundle import BundleFile
from tesseracc.bundle.edit import changed, payloads
from tesseracc.bundle.write import seal
from tesseracc.recipe import Recipe, imported, load_recipe
from tests.cli.run import Runner
from tests.cli.samples import HELPER, MODEL, build, write_model

ROOT = Path(__file__).parents[2]
TARGETS = ("--arch", "x86-64-v3", "--arch", "sm_90")
OPTIONS = ("--entry", "model", "--entry", "scale", "--embed-tests")


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


def test_from_the_source(tesseracc: Runner, tmp_path: Path) -> None:
    source = write_model(tmp_path / "src")
    bundle = build(tesseracc, source, tmp_path / "m.tsb", *TARGETS, *OPTIONS)
    elsewhere = write_model(tmp_path / "other" / "place")
    said = tesseracc("rebuild", "--verify", bundle, "--source", elsewhere, "--json")
    assert said.code == 0 and json.loads(said.out)["same"] and json.loads(said.out)["differences"] == []
    assert tesseracc("rebuild", bundle, "--source", elsewhere, "-o", tmp_path / "again.tsb").code == 0
    assert (tmp_path / "again.tsb").read_bytes() == bundle.read_bytes()
    said = tesseracc("rebuild", "--verify", bundle)
    assert said.code == 5 and "does not carry its source, model.py" in said.err


def test_from_the_bundle_alone(tesseracc: Runner, tmp_path: Path) -> None:
    """In another process with another hash seed, home and folder; a signature changes nothing."""
    bundle = build(tesseracc, write_model(tmp_path / "src"), tmp_path / "m.tsb", *TARGETS, "--embed-source")
    (tmp_path / "src" / "scales.py").unlink()
    tesseracc("keygen", tmp_path / "key.pem")
    assert tesseracc("sign", "--key", tmp_path / "key.pem", bundle).code == 0
    env = {**os.environ, "PYTHONHASHSEED": "77", "HOME": str(tmp_path), "TZ": "Asia/Tokyo",
           "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}  # fmt: skip
    command = [sys.executable, "-m", "tesseracc", "rebuild", "--verify", str(bundle)]
    found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "reproduced" in found.stdout


def test_ir_text(tesseracc: Runner, tmp_path: Path) -> None:
    source = write_model(tmp_path / "src")
    build(tesseracc, source, tmp_path / "m.tsb", "--arch", "x86-64-v3", "--dump-dir", tmp_path / "dump")
    bundle = build(tesseracc, tmp_path / "dump" / "00.front.tir", tmp_path / "t.tsb", *TARGETS, "--embed-source")
    assert tesseracc("rebuild", "--verify", bundle).code == 0
    assert tesseracc("rebuild", "--verify", bundle, "--source", tmp_path / "dump" / "00.front.tir").code == 0
    (tmp_path / "dump" / "constants.safetensors").unlink()
    assert "constants.safetensors as well" in tesseracc(
        "rebuild", "--verify", bundle, "--source", tmp_path / "dump" / "00.front.tir"
    ).err  # fmt: skip


@pytest.mark.parametrize(
    ("model", "helper", "message"),
    [
        (MODEL + "\n# later\n", HELPER, "model.py is not the file"),
        (MODEL, HELPER + "# later\n", "scales.py is not the file"),
        (MODEL, HELPER + "import more\n", "scales.py is not the file"),
        (MODEL.replace("from scales import FACTOR", "FACTOR = 0.5"), HELPER, "model.py is not the file"),
    ],
)
def test_another_source_is_refused_and_not_run(
    tesseracc: Runner, tmp_path: Path, model: str, helper: str, message: str
) -> None:
    bundle = build(tesseracc, write_model(tmp_path / "src"), tmp_path / "m.tsb", "--arch", "x86-64-v3")
    traitor = f"\nimport pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    other = write_model(tmp_path / "other", model + (traitor if model != MODEL else ""), helper)
    said = tesseracc("rebuild", "--verify", bundle, "--source", other)
    assert said.code == 5 and "E660" in said.err and message in said.err
    assert not (tmp_path / "ran").exists()


def altered(bundle: Path, **fields: object) -> bytes:
    """The bundle with other fields in its provenance, and right digests."""
    file = BundleFile(bundle)
    provenance = changed(file.manifest.provenance, **fields)
    return seal(changed(file.manifest, provenance=provenance), payloads(file))


def test_what_was_changed_after_the_build_is_found(tesseracc: Runner, tmp_path: Path) -> None:
    """Somebody swaps a kernel's code and makes all digests right: only repeating the build tells."""
    source = write_model(tmp_path / "src")
    bundle = build(tesseracc, source, tmp_path / "m.tsb", "--arch", "x86-64-v3")
    file = BundleFile(bundle)
    contents = payloads(file)
    kind, image = contents["images/x86-64-v3.elf"]
    at = image.index(b"\xc3", 4096)  # a return, or a byte of an instruction: another program in any case
    contents["images/x86-64-v3.elf"] = (kind, image[:at] + b"\xcc" + image[at + 1 :])
    forged = tmp_path / "forged.tsb"
    forged.write_bytes(seal(file.manifest, contents))
    assert tesseracc("verify", forged).code == 0
    said = tesseracc("rebuild", "--verify", forged, "--source", source, "--json")
    found = json.loads(said.out)
    assert said.code == 1 and not found["same"]
    assert any("x86-64-v3" in " ".join(change["path"]) for change in found["differences"])
    assert "not reproduced" in tesseracc("rebuild", "--verify", forged, "--source", source).out


def test_other_versions_and_options(tesseracc: Runner, tmp_path: Path) -> None:
    source = write_model(tmp_path / "src")
    bundle = build(tesseracc, source, tmp_path / "m.tsb", "--arch", "x86-64-v3")
    options = BundleFile(bundle).manifest.provenance.options
    other = tmp_path / "o.tsb"
    for fields, message in (
        ({"compiler": "9.9.9"}, "compiler was 9.9.9"),
        ({"llvm": "llvmlite 9"}, "LLVM was llvmlite 9"),
        ({"assembler": "ptxas 1"}, "assembler was ptxas 1, here it is none"),
        ({"options": (*options, "--magic")}, "--magic"),
        ({"options": ()}, "does not record"),
        ({"options": options[:-1]}, "was not built from scales.py"),
    ):
        other.write_bytes(altered(bundle, **fields))
        said = tesseracc("rebuild", "--verify", other, "--source", source)
        assert said.code == 5 and "E660" in said.err and message in said.err, said.err


def test_bad_input(tesseracc: Runner, tmp_path: Path) -> None:
    bundle = build(tesseracc, write_model(tmp_path / "src"), tmp_path / "m.tsb", "--arch", "x86-64-v3")
    assert "E801" in tesseracc("rebuild", bundle).err
    assert "E802" in tesseracc("rebuild", "--verify", bundle, "--source", tmp_path / "none.py").err


def test_recipe_round_trip() -> None:
    recipe = Recipe(("sm_90", "x86-64-v3"), ("f", "g"), ("x=f32[N, 3]",), ("D=64", "B=2"), True, True)
    inputs = {"m.py": "0" * 64, "pkg/sub.py": "1" * 64}
    again, found = Recipe.parse(recipe.options(inputs))
    assert found == inputs and again.options(found) == recipe.options(inputs)
    assert again.embed_tests and again.embed_source and again.fixed == ("B=2", "D=64")


def test_imports_that_count(tmp_path: Path) -> None:
    """Relative and absolute imports of files beside the module, packages, and nothing else."""
    files = {
        "m.py": "import os, a.b\nfrom c import *\nfrom p import q\ndef f():\n    import late\n",
        "a/__init__.py": "", "a/b.py": "from . import x\nfrom .y import z\nfrom .. import m\n", "a/x.py": "",
        "a/y.py": "", "c.py": "import numpy", "p/__init__.py": "", "p/q.py": "from .r import s", "p/r.py": "s = 1",
        "late.py": "", "unused.py": "", "p/unused.py": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = imported(tmp_path / "m.py")
    assert next(iter(found)) == "m.py" and list(found)[1:] == sorted(list(found)[1:])
    assert set(files) - set(found) == {"unused.py", "p/unused.py"}
    assert all(found[name] == files[name].encode() for name in found)


def test_targets_of_a_program(tmp_path: Path) -> None:
    """`cpu` means one level more for a program with bf16; the recipe that is recorded names it."""
    for dtype, more in (("bf16", {"x86-64-v4-bf16"}), ("f32", set())):
        source = tmp_path / f"{dtype}.py"
        source.write_text(
            f'import tessera as ts\n\n@ts.function\ndef f(x: ts.Tensor["N", ts.{dtype}]):\n    return x + x\n'
        )
        recipe = Recipe(("cpu", "sm_90"))
        found = recipe.for_program(load_recipe(str(source), recipe).module)
        assert set(found.archs) - {arch.name for arch in recipe.targets} == more
        assert Recipe.parse(found.options({}))[0] == found


def test_data_that_is_not_carried(tesseracc: Runner, tmp_path: Path) -> None:
    """Beside the source it is found; a source that is carried alone says what it lacks, and so does its page."""
    source = write_model(tmp_path / "src", MODEL.replace("ts.randn(24, 12, seed=5)", 'ts.load("w.npy")'))
    np.save(source.with_name("w.npy"), np.random.default_rng(2).standard_normal((24, 12)).astype(np.float32))
    bundle = build(tesseracc, source, tmp_path / "m.tsb", *TARGETS[:2], "--embed-source")
    assert tesseracc("rebuild", "--verify", bundle, "--source", source).code == 0
    said = tesseracc("rebuild", "--verify", bundle)
    assert said.code == 2 and "cannot read w.npy" in said.err and said.err.rstrip().endswith("give it with --source")
    page = tesseracc("inspect", bundle, "--html", tmp_path / "m.html", "--trust-source")
    assert page.code == 0 and "m.tsb has no IR: its source does not build here: cannot read w.npy" in page.err
    page = tesseracc("inspect", bundle, "--html", tmp_path / "m.html", "--source", source)
    assert page.code == 0 and page.err == ""
