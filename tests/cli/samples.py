"""The program that the tests of the tools build, and how."""

from __future__ import annotations

from pathlib import Path

from tests.cli.run import Runner

MODEL = """
import tessera as ts
from scales import FACTOR

w = ts.randn(24, 12, seed=5)

@ts.function
def model(x: ts.Tensor["N", 24, ts.f32]):
    "A layer <with> a sum."
    return {"y": ts.softmax(ts.relu(x @ w) * FACTOR, axis=-1), "total": ts.sum(x)}

@ts.kernel
def scale(x: ts.Tensor["N", ts.f32], factor: ts.f32):
    "x *= factor,   in place."
    i = ts.tile.linear_id()
    if i < N:
        x[i] = factor * x[i]
"""
HELPER = "FACTOR = 0.5\n"


def write_model(folder: Path, model: str = MODEL, helper: str = HELPER) -> Path:
    """The module and its helper in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(model)
    (folder / "scales.py").write_text(helper)
    return folder / "model.py"


def build(tesseracc: Runner, source: Path, output: Path, *options: object) -> Path:
    """The bundle of a module for the given options."""
    said = tesseracc("build", source, *options, "-o", output)
    assert said.code == 0, said.err
    return output
