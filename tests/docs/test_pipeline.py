"""The recipe for pipelines (specs/ci.md): its scripts reach every bundle that `build --all` makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import ed25519
from tessera_runtime.signature import private_pem
from tests.bundle.base import base
from tests.docs.test_documents import ROOT, fences

SEED = bytes(range(40, 72))
BUNDLES = ("a.tsb", "deep/er/b.tsb", "with space/c.tsb")


def script(name: str) -> str:
    (text,) = fences(ROOT / "specs/ci.md", "yaml")
    (found,) = [step["run"] for step in yaml.safe_load(text)["jobs"]["build"]["steps"] if step.get("name") == name]
    assert isinstance(found, str)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with bundles, and commands that sign, and else say how they were called."""
    for name in BUNDLES:
        (tmp_path / "bundles" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundles" / name).write_bytes(base())
    (tmp_path / "bin").mkdir()
    real = f"exec {sys.executable} -m tesseracc"
    for program, body in (
        ("tessera-run", ""), ("tesseracc", f'if [ "$1" = sign ]; then {real} "$@"; fi\n'),
    ):  # fmt: skip
        path = tmp_path / "bin" / program
        path.write_text(f'#!/bin/bash\n{body}echo "{program} $@" >> called\n')
        path.chmod(0o755)
    return tmp_path


def run(text: str, folder: Path, **variables: str) -> int:
    path = os.pathsep.join([str(ROOT), str(ROOT / "runtime")])
    env = {**os.environ, "PYTHONPATH": path, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", **variables}
    return subprocess.run(["bash", "-e", "-o", "pipefail", "-c", text], cwd=folder, env=env, check=False).returncode


def test_every_bundle_is_proven(folder: Path) -> None:
    assert run(script("Prove"), folder) == 0
    called = (folder / "called").read_text().splitlines()
    for name in BUNDLES:
        module = f"models/{name.removesuffix('.tsb')}.py"
        for wanted in (
            "tessera-run {} --validate", f"tesseracc rebuild --verify {{}} --source {module}",
            "tesseracc check {} --arch sm_90",
        ):  # fmt: skip
            assert wanted.format(f"bundles/{name}") in called
    assert len(called) == 3 * len(BUNDLES)
    (folder / "bundles").rename(folder / "elsewhere")
    assert run(script("Prove"), folder) != 0, "nothing to prove is no proof"


def test_every_bundle_is_signed_and_the_key_is_in_no_file(folder: Path) -> None:
    before = {path for path in folder.rglob("*") if path.is_file()}
    assert run(script("Sign"), folder, KEY=private_pem(SEED).decode()) == 0
    assert {path for path in folder.rglob("*") if path.is_file()} == before
    for name in BUNDLES:
        BundleFile(folder / "bundles" / name, require_signature=ed25519.public_key(SEED))
