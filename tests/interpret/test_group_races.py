"""Races between groups of a launch, as the Tile interpreter finds them: beside pairs of accesses and the evaluator."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.errors import SourceError
from tessera.kernel import evaluate
from tessera_runtime.core.errors import TesseraError
from tesseracc.frontend.kernel import lower
from tesseracc.frontend.source import load
from tesseracc.interpret import tile
from tesseracc.interpret.tile_owners import Owners
from tesseracc.ir.builder import Builder
from tesseracc.ir.types import ScalarType
from tests.cli.run import Runner


@pytest.fixture
def tesseracc(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


def operations(count: int) -> list[Any]:
    b = Builder()
    return [b.emit("arith.constant", types=ScalarType("i32"), value=i) for i in range(count)]


@pytest.mark.parametrize("seed", range(40))
def test_the_first_conflict_of_random_accesses(seed: int) -> None:
    """Every pair of accesses is compared here; `Owners` remembers one of each kind for an element."""
    rng = random.Random(seed)
    size, ops, owners = rng.randint(1, 12), operations(4), Owners(12)
    ways = rng.choice((["load", "store"], ["load", "add"], ["add", "max"], ["load", "store", "add", "max"]))
    made: list[tuple[int, int, str, Any]] = []
    for group in sorted(rng.randrange(5) for _ in range(12)):
        op, how = rng.choice(ops), rng.choice(ways)
        at = np.array([rng.randrange(size) for _ in range(rng.randint(0, 3))], np.int64)
        clashes = {
            (element, other, way, id(by))
            for element, other, way, by in made
            if element in at and other != group and (way != how or how == "store")
        }
        found = owners.touch(op, at, group, how)
        assert (found is None) == (not clashes)
        if found is not None:
            assert (found.at, found.group, found.how, id(found.op)) in clashes
            return
        made += [(int(element), group, how, op) for element in at]


HEAD = """import tessera as ts

@ts.kernel(group=32)
def k(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]{more}):
"""
COUNTS = ', c: ts.Tensor[32, ts.i32]'
TILES = "    for g in ts.tile.range(0, N, 16):\n        "
LANES = "    i = ts.tile.linear_id()\n    if i < N:\n        "
FIRST = "if ts.tile.group_id() == 0:\n            "
UPDATE = FIRST + "ts.tile.atomic_add(c[i % 32], 1)\n        else:\n            "
WRONG = {
    "two groups store": LANES + "y[i % 32] = x[i]",
    "the same value": LANES + "y[i % 32] = 1.0",
    "one group loads what another stores": LANES + "y[i] = x[(i + 32) % N]\n        x[i] = 0.0",
    "one group stores what another loads": LANES + "y[i] = y[i % 32]",
    "all groups store as a whole": LANES.replace("if", "y[0] = 1.0\n    if") + "x[i] = 1.0",
    "tiles overlap": TILES + "y[g : g + 32] = x[g : g + 32]",
    "a tile is loaded that others store to": TILES + "y[g : g + 16] = y[0:16]",
    "updates of two kinds": LANES + UPDATE + "ts.tile.atomic_max(c[i % 32], 3)",
    "a load of what is updated": LANES + UPDATE + "y[i] = ts.cast(c[i % 32], ts.f32)",
}  # fmt: skip
RIGHT = {
    "an element to a lane": LANES + "y[i] = x[i] + x[(i + 32) % N]",
    "in and out": LANES + "x[i] = x[i] * 2.0\n        y[i] = x[i]",
    "updates of one kind": LANES + "ts.tile.atomic_add(c[i % 3], 1)\n        y[i] = x[i]",
    "a tile to a group": TILES + "y[g : g + 16] = x[g : g + 16] + y[g : g + 16]",
    "one group alone": LANES + FIRST + "y[i % 32] = x[i]",
}


def kernel(path: Path, body: str) -> Any:
    path.write_text(HEAD.format(more=COUNTS if "c[" in body else "") + body + "\n")
    return load(path).namespace["k"].definition  # type: ignore[attr-defined]


def arguments(definition: Any, n: int = 75) -> list[Any]:
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((2, n)).astype(np.float32)
    return [x, y, np.zeros(32, np.int32)][: len(definition.params)]


@pytest.mark.parametrize("name", WRONG)
def test_races_are_found_as_the_evaluator_finds_them(name: str, tmp_path: Path) -> None:
    found = kernel(tmp_path / "k.py", WRONG[name])
    with pytest.raises(SourceError) as eager:
        evaluate(found, arguments(found))
    with pytest.raises(TesseraError, match="group 1 ") as told:
        tile.run(lower(found), "k", arguments(found))
    assert (eager.value.code, told.value.code) == ("E215", "E923")
    assert "by different groups" in eager.value.message or "groups store to" in eager.value.message
    assert "which group 0 " in told.value.message


@pytest.mark.parametrize("name", RIGHT)
def test_no_race_is_found_where_none_is(name: str, tmp_path: Path) -> None:
    found = kernel(tmp_path / "k.py", RIGHT[name])
    given, mine = arguments(found), arguments(found)
    evaluate(found, given)
    tile.run(lower(found), "k", mine)
    for a, b in zip(given, mine, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_memory_under_two_names(tmp_path: Path) -> None:
    """Arguments of a launch that share their memory are one buffer for the check."""
    found = kernel(tmp_path / "k.py", LANES + "y[i] = x[(i + 32) % N]")
    x, y = arguments(found)
    tile.run(lower(found), "k", [x, y])
    np.testing.assert_array_equal(y, np.roll(x, -32))
    with pytest.raises(TesseraError, match="E923"):
        tile.run(lower(found), "k", [x, x])


@pytest.mark.parametrize("name", ["two groups store", "tiles overlap", "the same value"])
def test_a_build_with_tests_names_the_line(name: str, tmp_path: Path, tesseracc: Runner) -> None:
    """At sizes at which the kernel has several groups, which those of the vectors are too small for."""
    path = tmp_path / "k.py"
    kernel(path, WRONG[name])
    line = path.read_text().split("\n").index(next(row for row in path.read_text().split("\n") if "y[" in row)) + 1
    options = (path, "--arch", "x86-64-v2", "--no-cache", "-o", tmp_path / "k.tsb")
    said = tesseracc("build", *options, "--embed-tests", "--json")
    (error,) = json.loads(said.out)["errors"]
    assert said.code == 3 and (error["code"], error["line"], error["file"]) == ("E215", line, str(path)), error
    assert "group 1 stores to `y`[" in error["message"] and "atomically" in error["help"]
    assert not (tmp_path / "k.tsb").exists() and tesseracc("build", *options).code == 0
