"""Bundles without their weights: the same digest, signatures and results, and weights verified wherever they lie."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

import tessera_runtime
from tessera_runtime.bundle import BundleFile, weights_file
from tessera_runtime.cli import main as run_bundle
from tessera_runtime.core.errors import TesseraError
from tesseracc.bundle import write
from tesseracc.bundle.combine import merge, strip
from tesseracc.bundle.detach import detached, write_detached
from tests.bundle.base import KEYS, base, signed_base
from tests.bundle.second_reader import read
from tests.cli.run import Runner
from tests.cli.samples import build, write_model
from tests.runtime.support import contents

CHUNK = 4 << 20


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


def code_of(*args: object, **kwargs: object) -> str:
    try:
        BundleFile(*args, **kwargs)  # type: ignore[arg-type]
    except TesseraError as error:
        assert error.exit_code == 5
        return error.code
    return "ok"


def test_the_content_is_the_same(tmp_path: Path) -> None:
    """Content digest and signatures stay; putting the weights back gives the bytes from before."""
    path = tmp_path / "m.tsb"
    for data in (base(), signed_base()):
        whole = BundleFile(data)
        (name,) = write_detached(path, whole)
        thin = BundleFile(path, require_signature=KEYS[0] if data != base() else ())
        assert thin.digest == whole.digest and thin.signatures == whole.signatures
        assert path.stat().st_size < len(data) and os.listdir(tmp_path).count(name) == 1
        for constant in whole.manifest.constants:
            assert bytes(thin.constant(constant)) == bytes(whole.constant(constant))
        assert read(path.read_bytes(), beside={name: (tmp_path / name).read_bytes()}) == "ok"
        targets = [target.name for target in whole.manifest.targets]
        assert strip(thin, targets) == strip(whole, targets)
        assert merge([thin, whole]) == merge([whole])
        assert detached(thin)[0] == path.read_bytes()
    assert len(os.listdir(tmp_path)) == 2


def test_the_file_is_named_by_its_content_and_shared(tmp_path: Path) -> None:
    """The name is the SHA-256 of the chunks' digests; two bundles with one set of weights have one file."""
    whole = BundleFile(base())
    names = set()
    for target in whole.manifest.targets:
        part = BundleFile(strip(whole, [target.name], tests=False))
        names |= set(write_detached(tmp_path / f"{target.name}.tsb", part))
        assert BundleFile(tmp_path / f"{target.name}.tsb", verify_weights=True).digest == part.digest
    (name,) = names
    data = (tmp_path / name).read_bytes()
    chunks = b"".join(hashlib.sha256(data[i : i + CHUNK]).digest() for i in range(0, len(data), CHUNK))
    assert name == hashlib.sha256(chunks).hexdigest() + ".safetensors" and len(os.listdir(tmp_path)) == 3


def test_where_the_weights_are_looked_for(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "m.tsb", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (name,) = write_detached(path, BundleFile(base()))
    assert code_of(path) == "ok" and code_of(path.read_bytes()) == "E614"
    assert code_of(path.read_bytes(), weights=tmp_path) == "ok"
    (tmp_path / "link.tsb").symlink_to(path)
    os.rename(tmp_path / name, elsewhere / name)
    assert code_of(path) == "E614" and code_of(path, weights=elsewhere) == "ok"
    descriptor = os.open(path, os.O_RDONLY)
    assert code_of(descriptor) == "E614" and code_of(descriptor, weights=str(elsewhere)) == "ok"
    os.close(descriptor)
    os.rename(path, elsewhere / "m.tsb")
    (tmp_path / "link.tsb").unlink()
    (tmp_path / "link.tsb").symlink_to(elsewhere / "m.tsb")
    assert code_of(tmp_path / "link.tsb") == "ok"  # beside the file, not beside the link


def test_damaged_weights(tmp_path: Path) -> None:
    """Wrong sizes at once; wrong bytes when their chunk is used, or at once when that is asked for."""
    rng = np.random.default_rng(1)
    arrays = {"w": np.ones(5, np.float32), "big": rng.integers(0, 255, 9 << 20, np.uint8)}
    path = tmp_path / "m.tsb"
    (name,) = write_detached(path, BundleFile(write(None, contents(constants=arrays))))
    weights = tmp_path / name
    good = weights.read_bytes()
    for bad in (good[:-1], good + b"\0", b"", good[: len(good) // 2]):
        weights.write_bytes(bad)
        assert code_of(path) == "E611"
    damaged = bytearray(good)
    damaged[CHUNK + 77] ^= 2
    weights.write_bytes(damaged)
    assert code_of(path, verify_weights=True) == "E611"
    file = BundleFile(path)
    constants = {c.name: c for c in file.manifest.constants}
    assert np.frombuffer(file.constant(constants["w"]), np.float32).tolist() == [1.0] * 5
    with pytest.raises(TesseraError) as caught:
        file.constant(constants["big"])
    assert caught.value.code == "E611"
    damaged = bytearray(good)
    damaged[0] ^= 1  # the length of its own header
    weights.write_bytes(damaged)
    assert code_of(path) == "E611"
    weights.unlink()
    weights.mkdir()
    with pytest.raises(TesseraError) as caught:
        BundleFile(path)
    assert caught.value.code == "E802"


def test_from_the_command_line(tesseracc: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_model(tmp_path / "src")
    options = ("--arch", "x86-64-v2", "--embed-tests")
    whole = build(tesseracc, source, tmp_path / "whole.tsb", *options)
    (tmp_path / "thin").mkdir()
    thin = build(tesseracc, source, tmp_path / "thin" / "m.tsb", *options, "--external-weights")
    (weights,) = {weights_file(e) for e in BundleFile(whole).manifest.entries if e.kind == "weights"}
    assert sorted(os.listdir(thin.parent)) == sorted(["m.tsb", weights])
    assert tesseracc("diff", whole, thin).code == 0 and tesseracc("verify", thin).code == 0
    assert tesseracc("rebuild", "--verify", thin, "--source", source).code == 0
    about = json.loads(tesseracc("inspect", thin, "--json").out)
    assert sum(about["sections"].values()) == about["bytes"] == thin.stat().st_size
    assert about["sections"]["weights"] == 0 and weights in tesseracc("inspect", thin).out
    assert run_bundle([str(thin), "--validate", "--verify"]) == 0
    moved = tmp_path / "moved.tsb"
    os.rename(thin, moved)
    capsys.readouterr()
    assert run_bundle([str(moved), "--validate"]) == 5 and "--weights FOLDER" in capsys.readouterr().err
    assert run_bundle([str(moved), "--validate", "--weights", str(thin.parent)]) == 0
    key, out = tmp_path / "k.pem", tmp_path / "out.tsb"
    there = ("--weights", thin.parent)
    for command in (("verify", moved), ("diff", moved, whole), ("inspect", moved), ("merge", moved, "-o", out),
                    ("strip", moved, "-o", out), ("rebuild", "--verify", moved, "--source", source)):  # fmt: skip
        assert tesseracc(*command).code == 5 and tesseracc(*command, *there).code == 0, command
    os.rename(moved, thin)
    assert tesseracc("keygen", key).code == 0
    assert tesseracc("sign", "--key", key, thin).code == 0
    assert tesseracc("verify", thin, "--key", f"{key}.pub").code == 0
    assert tesseracc("strip", thin, "-o", tmp_path / "again.tsb").code == 0
    assert (tmp_path / "again.tsb").read_bytes() == whole.read_bytes()
    assert tesseracc("strip", whole, "-o", tmp_path / "x.tsb").code == 2
    said = tesseracc("strip", whole, "--external-weights", "-o", tmp_path / "thin" / "n.tsb", "--json")
    assert json.loads(said.out)["bytes"] == (tmp_path / "thin" / "n.tsb").stat().st_size < whole.stat().st_size
    assert sorted(os.listdir(thin.parent)) == sorted(["m.tsb", "n.tsb", weights])
    x = np.random.default_rng(3).standard_normal((7, 24)).astype(np.float32)
    ours, theirs = (tessera_runtime.load(path)["model"](x) for path in (whole, thin))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
