"""`ts.aot.compile`: the bytes of the command line, types from examples, files and folders, errors."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tessera as ts
import tessera_runtime
from tessera_runtime.bundle import BundleFile
from tesseracc.frontend.source import load as load_module
from tesseracc.static_values import spelled
from tests.cli.run import Runner

MODEL = """
import tessera as ts

@ts.function
def model(x: ts.Tensor["N", 24, ts.f32], w):
    "A layer."
    return ts.gelu(x @ w)

@ts.kernel
def scale(x: ts.Tensor["N", ts.f32], factor: ts.f32):
    i = ts.tile.linear_id()
    if i < N:
        x[i] = factor * x[i]

model_jit = ts.jit(model)
"""


@pytest.fixture
def module(tmp_path: Path) -> Any:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return load_module(path).namespace


def data(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def test_the_bytes_of_the_command_line(
    module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    path = tmp_path / "m.tsb"
    archs = ["sm_80", "sm_86", "sm_90", "x86-64-v2"]
    assert ts.aot.compile(module["model_jit"], [data(7, 24), data(24, 5)], path, archs) == str(path)
    built = tmp_path / "b.tsb"
    options = [part for arch in archs for part in ("--arch", arch)]
    said = Runner(capsys)("build", tmp_path / "model.py", *options, "--entry", "model",
                          "--input-spec", "w=f32[24, 5]", "-o", built, "--no-cache")  # fmt: skip
    assert said.code == 0 and path.read_bytes() == built.read_bytes()
    assert [target.name for target in BundleFile(path).manifest.targets] == archs
    said = Runner(capsys)("rebuild", "--verify", path, "--source", tmp_path / "model.py")
    assert said.code == 0, said.err
    alone = ts.aot.compile(module["model_jit"], [data(7, 24), data(24, 5)], tmp_path / "one.tsb", "x86-64-v2")
    assert [target.name for target in BundleFile(alone).manifest.targets] == ["x86-64-v2"]
    # Annotated dims are symbolic, those of the example are not.
    bundle = tessera_runtime.load(path, device="cpu:x86-64-v2")
    for rows in (0, 1, 33):
        x, w = data(rows, 24), data(24, 5)
        np.testing.assert_allclose(bundle["model"](x, w), module["model"](x, w).numpy(), rtol=0, atol=2e-5)
    with pytest.raises(tessera_runtime.InputError):
        bundle["model"](data(3, 24), data(24, 6))


def test_folders_kernels_and_defaults(module: Any, tmp_path: Path) -> None:
    folder = f"{tmp_path}/model_deployment/"
    found = ts.aot.compile(module["scale"], {"x": data(9), "factor": 2.0}, folder, ["x86-64-v2"], embed_tests=True)
    assert found == f"{folder}scale.tsb"
    bundle = tessera_runtime.load(found)
    assert bundle.manifest.tests and list(bundle) == ["scale"]
    x = data(1000)
    np.testing.assert_array_equal(bundle["scale"](x.copy(), 3.0), 3 * x)
    names = [target.name for target in BundleFile(ts.aot.compile(module["scale"], [x, 1.0], folder)).manifest.targets]
    assert "sm_90" in names and "x86-64-v3" in names


def test_python_values_and_functions_without_decorator(tmp_path: Path) -> None:
    def powers(x, count):
        return sum((x**k for k in range(2, count)), x)

    x = data(4, 3)
    path = ts.aot.compile(powers, [x, 5], tmp_path / "p.tsb", ["x86-64-v2"])
    manifest = BundleFile(path).manifest
    assert "--static=count=5" in manifest.provenance.options
    result = tessera_runtime.load(path)["powers"](x)
    np.testing.assert_allclose(result, x + x**2 + x**3 + x**4, rtol=1e-5)


class Settings:
    """An object as users have them: without equality or spelling of its own."""

    def __init__(self, scale: float) -> None:
        self.scale = scale


@dataclasses.dataclass
class Record:
    scale: float
    names: set[str] = dataclasses.field(default_factory=lambda: {"b", "a"})


def test_python_values_are_spelled_the_same_in_every_process(tmp_path: Path) -> None:
    """No addresses and no order of a hash get into a bundle."""
    x = data(4, 3)

    def scaled(x, settings):
        return x * settings.scale

    kept, digests = [], set()
    for i in range(2):
        kept.append(Settings(2.0))  # another address each time
        path = ts.aot.compile(scaled, [x, kept[-1]], tmp_path / f"{i}.tsb", ["x86-64-v2"])
        digests.add(BundleFile(path).digest)
    options = BundleFile(path).manifest.provenance.options
    assert len(digests) == 1 and "--static=settings=<Settings>" in options
    for value, text in (
        (Record(0.5), "Record(scale=0.5, names={'a', 'b'})"), ([1, (2.0,), None, True], "[1, (2.0,), None, True]"),
        ({"k": b"x", "f": data}, "{'k': b'x', 'f': <data>}"), (Settings, "<Settings>"),
    ):  # fmt: skip
        assert spelled(value) == text


def test_errors_leave_nothing(module: Any, tmp_path: Path) -> None:
    good = [data(7, 24), data(24, 5)]
    for examples, archs, code in (
        ([good[0]], None, "E314"), ([data(7, 23), good[1]], None, "E307"), (["x", good[1]], None, "E311"),
        (good, ["sm_1"], "E805"), ([data(7, 24), data(25, 5)], None, "E3"),
    ):  # fmt: skip
        with pytest.raises(ts.TesseraError) as caught:
            ts.aot.compile(module["model"], examples, tmp_path / "out" / "m.tsb", archs)
        assert caught.value.code.startswith(code)
    (tmp_path / "file").write_text("")
    for path in ("", f"{tmp_path}/file/m.tsb"):
        with pytest.raises(ts.TesseraError) as caught:
            ts.aot.compile(module["model"], good, path, ["x86-64-v2"])
        assert caught.value.code == "E803"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "model.py"]
