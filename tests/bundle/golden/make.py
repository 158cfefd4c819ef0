"""Writes the golden bundle of the present format version. `python -m tests.bundle.golden.make`

A version that was released is never written again: later runtimes must go on reading it and give the same bits.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

import tessera_runtime
from tessera_runtime.bundle import BundleFile
from tessera_runtime.core import safetensors
from tessera_runtime.core.manifest import CONTAINER_VERSION
from tesseracc.arch.arch import resolve
from tesseracc.driver import Build, front
from tesseracc.frontend import source
from tests.bundle.base import build, signatures, spell

HERE = Path(__file__).parent
Calls = dict[str, dict[str, Any]]


def calls() -> Calls:
    """The fixed arguments of each function."""
    rng = np.random.default_rng(20)
    f32 = np.float32
    return {
        "layer": {"x": rng.standard_normal((13, 8)).astype(f32)},
        "embed": {"i": np.array([3, 0, 19, -1, 20, 7], np.int32), "s": 2.5},
        "saxpy": {"a": 1.5, "x": rng.standard_normal(301).astype(f32), "y": rng.standard_normal(301).astype(f32)},
    }


def results(bundle: tessera_runtime.Bundle) -> dict[str, Any]:
    """What each function gives for its arguments, by `function/result`."""
    found = {}
    for name, arguments in calls().items():
        function = bundle[name]
        values = function(**copy.deepcopy(arguments))
        values = values if isinstance(values, tuple) else (values,)
        found |= {f"{name}/{output}": np.asarray(value) for output, value in zip(function.outputs, values, strict=True)}
    return found


def make() -> tuple[bytes, bytes]:
    """The bundle, signed and with an embedded test, and its results as a safetensors file."""
    plain = Build(front(source.load(str(HERE / "model.py")).entries), resolve(("x86-64-v2",))).bundle()
    file = BundleFile(plain)
    expected = results(tessera_runtime.load(plain, threads=1))
    given = calls()["saxpy"]
    tensors = {"in/a": np.array(given["a"], np.float32), "in/x": given["x"], "in/y": given["y"]}
    name = "tests/0000.safetensors"
    files = {entry.name: bytes(file.raw(entry.name)) for entry in file.manifest.entries}
    files[name] = safetensors.save({**tensors, "out/y": expected["saxpy/y"]})
    value = file.manifest.encode()
    digest = hashlib.sha256(files[name]).hexdigest()
    value["entries"].append({"name": name, "kind": "tests", "size": len(files[name]), "sha256": [digest]})
    value["entries"].sort(key=lambda entry: str(entry["name"]))
    value["tests"] = [{"name": "saxpy", "function": "saxpy", "entry": name, "atol": "0", "rtol": "0"}]
    text = spell(value)
    return build(text, files, signed=signatures(text), targets=("x86-64-v2",)), safetensors.save(expected)


def main() -> None:
    """Write the files of this version."""
    folder = HERE / f"v{CONTAINER_VERSION}"
    folder.mkdir(exist_ok=True)
    bundle, expected = make()
    (folder / "golden.tsb").write_bytes(bundle)
    (folder / "expected.safetensors").write_bytes(expected)


if __name__ == "__main__":
    main()
