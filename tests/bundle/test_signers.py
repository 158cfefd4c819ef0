"""Several processes that sign one bundle, in place or into one file, at once: no signature is lost without a word."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import DEVNULL

import pytest

from tessera_runtime import load
from tessera_runtime.bundle import BundleFile
from tests.cli.run import Runner
from tests.runtime.support import bundle_bytes

SIGN = (
    "import os, sys, time; import tesseracc.cli.sign, tessera_runtime.bundle, tesseracc.bundle.sign\n"
    "from tesseracc.cli.main import main\n"
    "open(sys.argv[1], 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.001)\n"
    "main(['sign', *sys.argv[2:]])"
)


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.fixture
def keys(tesseracc: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Four private keys, in the working directory beside the bundle m.tsb."""
    monkeypatch.chdir(tmp_path)
    Path("m.tsb").write_bytes(bundle_bytes())
    found = [f"{number}.pem" for number in range(4)]
    for key in found:
        assert tesseracc("keygen", key).code == 0
    return found


def at_once(commands: Sequence[Sequence[str]]) -> list[int]:
    """The exit codes of `tesseracc sign` in processes that begin together."""
    ready = [Path(f"{number}.ready") for number in range(len(commands))]
    running = [
        subprocess.Popen([sys.executable, "-c", SIGN, path, *command], stdout=DEVNULL, stderr=DEVNULL)
        for path, command in zip(ready, commands, strict=True)
    ]
    while not all(path.exists() for path in ready):
        assert all(process.poll() is None for process in running)
        time.sleep(0.01)
    Path("go").touch()
    codes = [process.wait(60) for process in running]
    for path in (*ready, Path("go")):
        path.unlink()
    return codes


def signers(path: str) -> set[bytes]:
    return {signature.key for signature in BundleFile(path).signatures}


def test_in_place_all_stay(keys: list[str]) -> None:
    """Four processes begin together: none writes over a signature that another has added meanwhile."""
    ways = [["m.tsb"], ["m.tsb", "-o", "m.tsb"], ["m.tsb", "-o", "link.tsb"], ["link.tsb"]]
    Path("link.tsb").symlink_to("m.tsb")
    Path("m.tsb").chmod(0o600)
    assert at_once([["--key", key, *way] for key, way in zip(keys, ways, strict=True)]) == [0] * 4
    load("m.tsb", require_signature=[f"{key}.pub" for key in keys])
    assert len(signers("m.tsb")) == 4
    assert Path("link.tsb").is_symlink() and Path("m.tsb").stat().st_mode & 0o777 == 0o600


def test_into_one_file_none_is_lost(keys: list[str]) -> None:
    """Who comes first has its signature there, the others are refused; and nobody waits for ever, whoever reads."""
    codes = at_once([["--key", key, "m.tsb", "-o", "out.tsb"] for key in keys])
    assert sorted(codes) == [0, 2, 2, 2] and len(signers("out.tsb")) == 1
    load("out.tsb", require_signature=[f"{keys[codes.index(0)]}.pub"])
    pairs = (("m.tsb", "out.tsb"), ("out.tsb", "m.tsb"), ("out.tsb", "out.tsb"), ("m.tsb", "new.tsb"))
    codes = at_once([["--key", key, source, "-o", to] for key, (source, to) in zip(keys, pairs, strict=True)])
    for key, code, (_, to) in zip(keys, codes, pairs, strict=True):
        assert code in (0, 2)
        if code == 0:
            load(to, require_signature=[f"{key}.pub"])


def test_what_a_file_holds_decides(tesseracc: Runner, keys: list[str]) -> None:
    out = Path("out.tsb")
    assert tesseracc("sign", "--key", keys[0], "m.tsb", "-o", out).code == 0
    before = out.read_bytes()
    (owner,) = signers("out.tsb")
    said = tesseracc("sign", "--key", keys[1], "m.tsb", "-o", out)
    assert said.code == 2 and "E803" in said.err and owner.hex() in said.err and out.read_bytes() == before
    assert "help: add signatures to it in place, without -o: tesseracc sign --key .. out.tsb" in said.err
    assert tesseracc("sign", "--key", keys[0], "m.tsb", "-o", out).code == 0 and out.read_bytes() == before
    assert tesseracc("sign", "--key", keys[1], "--remove", "m.tsb", "-o", out).code == 0  # as it says
    assert owner not in signers("out.tsb") and len(signers("out.tsb")) == 1
    for other in (b"no bundle", bundle_bytes()):
        out.write_bytes(other)
        assert tesseracc("sign", "--key", keys[1], "m.tsb", "-o", out).code == 0 and len(signers("out.tsb")) == 1
