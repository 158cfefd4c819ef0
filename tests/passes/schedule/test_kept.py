"""Values that several loops of a row share are computed once, and stay the same values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.interpret import schedule, tile
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.value import Module
from tesseracc.ir.verify import verify
from tesseracc.passes.schedule import to_tile as _to_tile
from tesseracc.passes.schedule.choose_strategy import SHORT_AXIS, inner_loops
from tesseracc.passes.schedule.kept import shared_row
from tesseracc.passes.schedule.tuning import Tuning, tuning_for

Array = np.ndarray[Any, Any]

# tanh(x - m) and exp(x) in both loops; tanh(x - m) under exp in the last one; exp(y) in one loop only
TEXT = """
schedule.func @f(%x: tensor<f32[N, D]>, %y: tensor<f32[N, D]>) -> (tensor<f32[N, D]>) {
  %z = schedule.group {domain = [<N>]} (%i: i64) {
    %m = schedule.reduce {kind = "max", sizes = [<D>]} (%j: i64) {
      %v = schedule.read %x, [%i, %j] : f32
      yield %v
    } : f32
    %s = schedule.reduce {kind = "add", sizes = [<D>]} (%j: i64) {
      %v = schedule.read %x, [%i, %j] : f32
      %d = arith.sub %v, %m : f32
      %t = arith.tanh %d : f32
      %e = arith.exp %v : f32
      %p = arith.mul %t, %e : f32
      %a = schedule.read %y, [%i, %j] : f32
      %q = arith.exp %a : f32
      %r = arith.add %p, %q : f32
      yield %r
    } : f32
    schedule.each {sizes = [<D>]} (%j: i64) {
      %v = schedule.read %x, [%i, %j] : f32
      %d = arith.sub %v, %m : f32
      %t = arith.tanh %d : f32
      %e = arith.exp %v : f32
      %w = arith.sub %t, %e : f32
      %q = arith.div %w, %s : f32
      schedule.write %q, [%i, %j] {result = 0}
    }
  } : tensor<f32[N, D]>
  yield %z
}
"""


def lowered(text: str, arch: str) -> Module:
    steps = parse_pipeline("choose-strategy,schedule-to-tile")
    return run_pipeline(steps, verify(parse_module(text)), Context(load(arch)))


def test_shares_the_costly_values_of_the_same_row() -> None:
    (group,) = (op for op in parse_module(TEXT).funcs[0].body.ops if op.name == "schedule.group")
    row = shared_row(inner_loops(group))
    assert row is not None and str(row.size) == "D"
    made = {result: op.name for op in group.walk() for result in op.results}
    assert [[made[value] for value, _ in kept.uses] for kept in row.values] == [["arith.tanh"] * 2, ["arith.exp"] * 2]


def test_only_the_outermost_of_nested_values_is_kept() -> None:
    nested = TEXT.replace("%e = arith.exp %v", "%e = arith.exp %t")
    nested = nested.replace("%w = arith.sub %t, %e", "%w = arith.neg %e")
    (group,) = (op for op in parse_module(nested).funcs[0].body.ops if op.name == "schedule.group")
    row = shared_row(inner_loops(group))
    made = {result: op.name for op in group.walk() for result in op.results}
    assert row is not None and [made[kept.uses[0][0]] for kept in row.values] == ["arith.exp"]


def test_loops_over_different_rows_share_nothing() -> None:
    (group,) = (op for op in parse_module(TEXT).funcs[0].body.ops if op.name == "schedule.group")
    assert shared_row(inner_loops(group)[:2]) is None
    other = parse_module(TEXT.replace("schedule.each {sizes = [<D>]}", "schedule.each {sizes = [<E>]}"))
    (group,) = (op for op in other.funcs[0].body.ops if op.name == "schedule.group")
    assert shared_row(inner_loops(group)) is None


@pytest.mark.parametrize("keep", [0, 8 * 131, 1 << 20])
@pytest.mark.parametrize("size", [1, 131, 132, 300])
@pytest.mark.parametrize("static", [False, True])
def test_equals_the_schedule_interpreter(monkeypatch: pytest.MonkeyPatch, keep: int, size: int, static: bool) -> None:
    def tuned(arch: object, dtype: str) -> Tuning:
        return replace(tuning_for(load("x86-64-v4"), dtype), keep=keep)

    monkeypatch.setattr(_to_tile, "tuning_for", tuned)
    text = TEXT.replace("<D>", str(size)).replace("D]", f"{size}]") if static else TEXT
    module = lowered(text, "x86-64-v4")
    rng = np.random.default_rng(size)
    inputs: list[Array] = [rng.standard_normal((3, size)).astype(np.float32) for _ in range(2)]
    (expected,) = schedule.run(parse_module(text), "f", inputs)
    (found,) = tile.run(module, "f", inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    functions = sum(op.name in ("arith.tanh", "arith.exp") for op in module.of_kind("tile.kernel")[0].walk())
    short = static and size < SHORT_AXIS  # one row per lane then
    assert functions == (5 if not keep or short else 8 if not static else 3 if keep >= 8 * size else 5)


def test_targets_without_such_memory_compute_again() -> None:
    assert not any(op.name == "tile.alloc" for op in lowered(TEXT, "sm_90").of_kind("tile.kernel")[0].walk())
