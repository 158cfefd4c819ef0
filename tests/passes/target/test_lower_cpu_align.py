"""Rows of large results that begin anywhere: loops are cut to store whole vectors, and every element is stored once."""

from __future__ import annotations

import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.passes.target import lower_cpu
from tests.passes.target.native import Native, levels

TEXT = """
tile.kernel @f(%x: buf<f32[N, D], global>, %y: buf<f32[N, D], global>) {
  access = ["read", "write"], grid = [<N>], group = 64, symbols = ["D", "N"]} {
  %g = tile.group_id {axis = 0} : i64
  %l = tile.local_id : lanes<i64>
  %d = tile.dim {expr = <D>} : i64
  %w = arith.constant {value = 64} : i64
  tile.for %l, %d, %w, [] (%i: lanes<i64>) {
    %v = tile.load %x, [%g, %i] : lanes<f32>
    %b = arith.add %v, %v : lanes<f32>
    tile.store %b, %y, [%g, %i]
  }
}
"""
# the lanes tell themselves apart by more than the index
LANES = TEXT.replace("  tile.for", '  %m = arith.cast %l {to = "f32"} : lanes<f32>\n  tile.for')
LANES = LANES.replace("%v, %v", "%v, %m")


def loops(text: str) -> list[str]:
    module = run_pipeline(parse_pipeline("tile-to-cpu"), parse_module(text), Context(load("x86-64-v4")))
    return [op.name for op in module.funcs[0].walk()]


def test_cuts_only_where_lanes_do_not_matter() -> None:
    assert loops(TEXT).count("target.masked_store") == 2  # the first lanes and the last
    assert loops(LANES).count("target.masked_store") == 1


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("size", [0, 1, 15, 64, 65, 131, 300])
def test_every_element_once(monkeypatch: pytest.MonkeyPatch, level: str, size: int) -> None:
    monkeypatch.setattr(lower_cpu, "BYPASS_BYTES", 1)
    rng = np.random.default_rng(size)
    for text in (TEXT, LANES):
        code = Native(text, level)
        for start in (0, 1, 7, 16, 33):
            memory = np.full(5 * size + 200, -1.0, np.float32)
            x = rng.standard_normal((5, size)).astype(np.float32)
            y = memory[start : start + 5 * size].reshape(5, size)
            code.in_place("f", [x, y], {"D": size, "N": 5})
            expected = x + (x if text is TEXT else (np.arange(size) % 64).astype(np.float32))
            np.testing.assert_array_equal(y, expected)
            assert (memory[:start] == -1).all() and (memory[start + 5 * size :] == -1).all()
