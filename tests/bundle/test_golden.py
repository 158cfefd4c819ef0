"""The bundles of every released version load, pass the second reader, and give the same bits as when they were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tessera_runtime
from tessera_runtime.audit import audit
from tessera_runtime.bundle import BundleFile
from tessera_runtime.cli import main
from tessera_runtime.core import safetensors
from tessera_runtime.core.manifest import CONTAINER_VERSION
from tessera_runtime.devices.cpu import machine
from tests.bundle.base import KEYS
from tests.bundle.golden.make import results
from tests.bundle.second_reader import read

VERSIONS = sorted((Path(__file__).parent / "golden").glob("v*"))


def test_there_is_one_for_each_version() -> None:
    assert [path.name for path in VERSIONS] == [f"v{number}" for number in range(1, CONTAINER_VERSION + 1)]


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_golden_bundle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "golden.tsb"
    file = BundleFile(path, verify_weights=True, require_signature=list(KEYS))
    audit(file)
    assert all(read(path.read_bytes(), key) == "ok" for key in KEYS)
    if machine() != "x86-64":  # the image is for that machine
        return
    expected = safetensors.load((folder / "expected.safetensors").read_bytes())
    for threads in (1, 3):
        found = results(tessera_runtime.load(path, threads=threads, require_signature=KEYS[1]))
        assert found.keys() == expected.keys()
        for name, array in found.items():
            assert array.dtype == expected[name].dtype and array.shape == expected[name].shape
            assert np.ascontiguousarray(array).tobytes() == expected[name].tobytes(), name
    assert main([str(path)]) == 0 and "1 of 1 embedded tests passed" in capsys.readouterr().out
