"""Weights are mapped, not read: memory and verification go with what is used, by chunks of 4 MiB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tessera_runtime.bundle import BundleFile
from tessera_runtime.core.errors import TesseraError
from tesseracc.bundle import write
from tests.runtime.support import contents

ROOT = Path(__file__).parents[2]
CHUNK = 4 << 20
PROGRAM = """
import sys
import numpy as np
from tessera_runtime.bundle import BundleFile

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

before = resident()
file = BundleFile(sys.argv[1])
loaded = resident() - before
constants = {c.name: c for c in file.manifest.constants}
one = np.frombuffer(file.constant(constants["b"]), np.uint8)
used = resident() - before
assert one.nbytes == 5 << 20 and not one.flags.writeable and one.ctypes.data % 64 == 0
file.constant(constants["c"])
print(loaded >> 20, used >> 20, resident() - before >> 20)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with 53 MiB of weights: a small constant, one of 5 MiB and one of 48 MiB."""
    path = tmp_path_factory.mktemp("large") / "m.tsb"
    rng = np.random.default_rng(0)
    arrays = {
        "w": np.ones(5, np.float32),
        "b": rng.integers(0, 255, 5 << 20, np.uint8),
        "c": rng.integers(0, 255, 48 << 20, np.uint8),
    }
    write(path, contents(constants=arrays))
    return path


def test_memory_goes_with_use(large: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(large)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded, used, everything = map(int, done.stdout.split())
    assert loaded <= 16 and used <= loaded + 16 and everything >= used + 30, done.stdout


def test_each_chunk_is_verified_once_and_when_used(large: Path) -> None:
    file = BundleFile(large)
    constants = {c.name: c for c in file.manifest.constants}
    entry = constants["c"].entry
    first = constants["w"].offset // CHUNK, (constants["w"].offset + 19) // CHUNK
    assert {number for name, number in file._verified if name == entry} == {0}
    file.constant(constants["b"])
    touched = {number for name, number in file._verified if name == entry}
    assert touched == {0, 1} and first[0] in (12, 13)
    assert len(file.constant(constants["w"])) == 20
    assert {number for name, number in file._verified if name == entry} == {0, 1, *range(first[0], first[1] + 1)}


def test_damage_in_a_mapped_file(large: Path, tmp_path: Path) -> None:
    data = bytearray(large.read_bytes())
    file = BundleFile(large)
    constants = {c.name: c for c in file.manifest.constants}
    place = file._places[constants["c"].entry].data
    spot = place + constants["c"].offset + (30 << 20)
    data[spot] ^= 1
    path = tmp_path / "m.tsb"
    path.write_bytes(data)
    damaged = BundleFile(path)
    assert bytes(damaged.constant(constants["b"])) == bytes(file.constant(constants["b"]))
    for _ in range(2):
        with pytest.raises(TesseraError) as caught:
            damaged.constant(constants["c"])
        assert caught.value.code == "E611" and f"from {(spot - place) // CHUNK * CHUNK} on" in caught.value.message
    with pytest.raises(TesseraError) as caught:
        BundleFile(path, verify_weights=True)
    assert caught.value.code == "E611"
