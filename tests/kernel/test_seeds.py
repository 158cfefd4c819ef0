"""The seeds' scalar kernels, as they stand in samples/seeds, against float64 references."""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.kernel import evaluate
from tesseracc.frontend.kernel import lower, notes
from tesseracc.interpret.tile import run
from tests.kernel.compiled import compiled

SEEDS = Path(__file__).parents[2] / "samples" / "seeds"
SIZES = (0, 1, 127, 128, 129, 100_003)
INTERPRETED = 1000  # the Tile interpreter goes group by group: small sizes are enough for it


@cache
def load(name: str) -> Any:
    return runpy.run_path(str(SEEDS / f"{name}.py"))[name]


def data(n: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(n)
    return rng.standard_normal(n).astype(np.float32), rng.standard_normal(n).astype(np.float32)


def both_ways(kernel: Any, args: list[Any]) -> Any:
    """The evaluator's result; native code, emulated PTX and the Tile interpreter must give the same bits."""
    other = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    machine = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    emulated = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    result = evaluate(kernel.definition, args)
    for function, given in zip(compiled(kernel), (machine, emulated), strict=True):
        found = function(*given)
        for a, b in zip(args, given, strict=True):
            np.testing.assert_array_equal(a, b)
        if result is not None:
            np.testing.assert_array_equal(np.asarray(result), np.asarray(found))
    if all(a.size < INTERPRETED for a in args if isinstance(a, np.ndarray)):
        outs = run(lower(kernel.definition), kernel.name, other)
        for a, b in zip(args, other, strict=True):
            np.testing.assert_array_equal(a, b)
        if result is not None:
            np.testing.assert_array_equal(np.asarray(result), outs[0])
    return result


@pytest.mark.parametrize("n", SIZES)
def test_saxpy(n: int) -> None:
    x, y = data(n)
    want = 0.37 * x.astype(np.float64) + y
    bound = 2.0**-23 * (np.abs(0.37 * x) + np.abs(y)) + 1e-45
    result = both_ways(load("saxpy"), [x, y, 0.37])
    assert result is y
    assert np.all(np.abs(y - want) <= bound + 0.37 * 2.0**-24 * np.abs(x))


@pytest.mark.parametrize("n", SIZES)
def test_tile_example(n: int) -> None:
    x, _ = data(n)
    want = 2.0 * x.astype(np.float64)
    assert both_ways(load("tile_example"), [x]) is None
    np.testing.assert_array_equal(x, want)


@pytest.mark.parametrize("n", SIZES)
def test_process_chunks(n: int) -> None:
    x, y = data(n)
    wide = x.astype(np.float64)
    both_ways(load("process_chunks"), [x, y])
    np.testing.assert_allclose(y, np.where(wide < 0, 0.5 * wide, wide * wide + 1), rtol=2.0**-23)


@pytest.mark.parametrize("n", SIZES)
def test_cooperative_reduction(n: int) -> None:
    x, _ = data(n)
    result = both_ways(load("cooperative_reduction"), [x])
    # a lane adds ceil(n/128) elements in order, then a tree of depth 7
    depth = -(-n // 128) + 7
    assert abs(float(result) - x.astype(np.float64).sum()) <= depth * 2.0**-24 * np.abs(x).sum(dtype=np.float64) + 1e-30
    lanes = [x[at::128] for at in range(128)]
    tree = np.array([np.add.accumulate(v, dtype=np.float32)[-1] if len(v) else np.float32(0) for v in lanes])
    while len(tree) > 1:
        tree = tree[: len(tree) // 2] + tree[len(tree) // 2 :]
    np.testing.assert_array_equal(result, tree[0])


def test_eager_call() -> None:
    x, y = data(500)
    want = np.float32(2) * x + y
    result = load("saxpy")(x, y, 2.0)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(np.asarray(result), want)


def test_notes_name_the_rules() -> None:
    found = {name: [n.message for n in notes(load(name).definition)] for name in ("saxpy", "process_chunks")}
    assert any(m.startswith("R1: `n`") for m in found["saxpy"])
    assert "the kernel runs n lanes, for axis 0 of `y`" in found["saxpy"]
    assert any(m.startswith("R3: ") and "ceildiv(N, 128) groups" in m for m in found["process_chunks"])
    assert any(m.startswith("A69: ") for m in found["process_chunks"])
    assert "R9: a kernel that returns a scalar runs as one group" in [
        n.message for n in notes(load("cooperative_reduction").definition)
    ]


def test_program_marks_what_is_changed() -> None:
    program = lower(load("saxpy").definition).func("saxpy")
    assert program.attrs == {"inout": ("y",), "outputs": ("y",), "doc": "Simple SAXPY: y = alpha * x + y"}
    assert program.body.yields == (program.params[1],)
    kernel = lower(load("saxpy").definition).func("saxpy__0")
    assert kernel.attrs["access"] == ("read", "readwrite", "value")
    assert kernel.loc is not None and kernel.loc.file == "saxpy.py"
