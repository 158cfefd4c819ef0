"""Whatever is wrong with a bundle, the message and the JSON name its file: with several, which one it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tessera_runtime.api import load
from tessera_runtime.audit import audit
from tessera_runtime.bundle import BundleFile
from tessera_runtime.cli import main as run_bundle
from tessera_runtime.core.errors import TesseraError
from tesseracc.bundle import write
from tesseracc.bundle.detach import write_detached
from tests.bundle import base
from tests.cli.run import Runner
from tests.runtime.support import contents

HEAD = 'import tessera as ts\n\n@ts.function\ndef f(a: ts.Tensor["N", ts.f32]):\n'


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def damaged() -> dict[str, bytes]:
    """By code: in the header, beyond it, in the manifest, in an entry, in an image with right digests, in a test."""
    data = base.base()
    file = BundleFile(data)
    image = {**base.parts()[1], "images/cpu.elf": flipped(base.image(), 4)}
    tests = {**base.parts()[1], **{e.name: b"nothing" for e in file.manifest.entries if e.kind == "tests"}}
    return {
        "E601": b"PK" * 2000, "E602": data[:-1], "E605": flipped(data, file._places["manifest.json"].data + 9),
        "E611": flipped(data, file._places["images/cpu.elf"].data + 70),
        "E630": base.build(base.document(), image), "E640": base.build(base.document(), tests),
    }  # fmt: skip


@pytest.mark.parametrize(("code", "data"), damaged().items())
def test_every_command_names_the_damaged_file(
    tesseracc: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, data: bytes
) -> None:
    good, bad, key = tmp_path / "good.tsb", tmp_path / "bad.tsb", tmp_path / "k.pem"
    good.write_bytes(base.base())
    bad.write_bytes(data)
    assert tesseracc("keygen", key).code == 0
    commands: list[tuple[object, ...]] = [("verify", bad)]
    if code not in ("E630", "E640"):  # in what only `verify` and running look at
        out = tmp_path / "out.tsb"
        commands += [
            ("diff", good, bad), ("diff", bad, good), ("merge", good, bad, "-o", out), ("inspect", bad),
            ("strip", bad, "--tests", "-o", out), ("sign", "--key", key, bad), ("rebuild", "--verify", bad),
        ]  # fmt: skip
    if code in ("E601", "E602"):
        commands.append(("check", bad))
    for command in commands:
        said = tesseracc(*command)
        assert said.code == 5 and said.err.startswith(f"error[{code}]: {bad}: "), (command, said)
        (error,) = json.loads(tesseracc(*command, "--json").out)["errors"]
        assert (error["code"], error["file"]) == (code, str(bad))
    if code != "E640":
        assert run_bundle([str(bad), "--list"]) == 5
        assert capsys.readouterr().err.startswith(f"error[{code}]: {bad}: ")
        assert run_bundle([str(bad), "--list", "--json"]) == 5
        assert json.loads(capsys.readouterr().out)["errors"][0]["file"] == str(bad)
    for source in (data, bad):  # bytes have no name
        with pytest.raises(TesseraError) as caught:
            audit(load(source).file)
        assert caught.value.message.startswith(f"{bad}: ") == (source is bad)


def test_weights_that_are_apart_are_named_themselves(tesseracc: Runner, tmp_path: Path) -> None:
    path = tmp_path / "m.tsb"
    (name,) = write_detached(path, BundleFile(write(None, contents())))
    good = (tmp_path / name).read_bytes()
    for bad in (b"", good[:-1], flipped(good, len(good) - 3)):
        (tmp_path / name).write_bytes(bad)
        said = tesseracc("verify", path)
        assert said.code == 5 and f"E611]: {path}: '{tmp_path / name}' was altered" in said.err


def test_what_a_command_cannot_do_with_a_bundle_names_it(tesseracc: Runner, tmp_path: Path) -> None:
    """E660, E661 and E805: the recipe, the programs, the targets."""
    first, other, out = tmp_path / "first.tsb", tmp_path / "other.tsb", tmp_path / "out.tsb"
    for path, text in ((first, "a * 2"), (other, "a * 3")):
        source = path.with_suffix(".py")
        source.write_text(HEAD + f"    return {text}\n")
        assert tesseracc("build", source, "--arch", "x86-64-v3", "-o", path).code == 0
    for command, code, name, text in (
        (("merge", first, other, "-o", out), "E661", other, "bundle 2 differs in its"),
        (("rebuild", "--verify", first), "E660", first, "does not carry its source, first.py"),
        (("rebuild", "--verify", first, "--source", other.with_suffix(".py")), "E660", first,
         "was built from first.py, not other.py"),
        (("inspect", first, "--html", out, "--source", other.with_suffix(".py")), "E660", first,
         "was built from first.py, not other.py"),
        (("strip", first, "--keep", "sm_75", "-o", out), "E805", first, "has no target 'sm_75'"),
    ):  # fmt: skip
        said = tesseracc(*command)
        assert said.err.startswith(f"error[{code}]: {name}: ") and text in said.err, (command, said)
        (error,) = json.loads(tesseracc(*command, "--json").out)["errors"]
        assert (error["code"], error["file"]) == (code, str(name))
        assert not out.exists()
    first.with_suffix(".py").write_text(other.with_suffix(".py").read_text())
    said = tesseracc("inspect", first, "--html", out, "--source", first.with_suffix(".py"))
    assert said.code == 5 and "its digest differs" in said.err and not out.exists()
