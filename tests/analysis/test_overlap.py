"""Cutting loops with dependent products in two stages."""

from __future__ import annotations

from tesseracc.analysis.overlap import Stages, stages
from tesseracc.arch.arch import load
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.types import TileType
from tesseracc.ir.value import Module, Op
from tesseracc.passes.tile import pipeline_loads, share_tiles
from tests.passes.tile import kernels

PASSES = (share_tiles, pipeline_loads)  # importing a pass registers it


def is_product(op: Op) -> bool:
    return op.name == "tile.mma"


def loop(module: Module) -> Op:
    module = run_pipeline(parse_pipeline("share-tiles,pipeline-loads"), module, Context(load("sm_90")))
    (found,) = (op for op in module.funcs[0].walk() if op.name == "tile.pipeline")
    return found


def cut(op: Op) -> Stages | None:
    return stages(op.regions[1], len(op.results), is_product)


def test_attention_is_cut_behind_the_weights() -> None:
    op = loop(kernels.attention(64, 32, 128, "bf16"))
    found = cut(op)
    assert found is not None
    first, second = ([o.name for o in ops] for ops in (found.first, found.second))
    assert first.count("tile.mma") == second.count("tile.mma") == 1
    assert "arith.exp" in first and "tile.fold" in first and "arith.exp" not in second
    # the accumulator is scaled where it is added to; it is the only carried value that the second stage makes
    (late,) = found.late
    assert op.results[late].type == TileType((64, 128), "f32") and "arith.mul" in second
    # weights cross before they are rounded, the scale before it is spread
    shapes = sorted(str(v.type) for v in found.crossing if isinstance(v.type, TileType))
    assert shapes == ["tile<f32[64, 32]>", "tile<f32[64]>"] and {"arith.cast", "tile.broadcast"} <= set(second)
    # together they do what the region does: every operation but numbers and constants once
    whole = [o for o in op.regions[1].ops if o.defn.effect != "pure" or o in found.first or o in found.second]
    twice = set(found.first) & set(found.second)
    assert {o.name for o in twice} <= {"arith.constant", "tile.full", "tile.coordinate", "tile.zeros"}
    assert set(whole) == set(found.first) | set(found.second)


def test_stages_follow_the_order_of_the_loop() -> None:
    op = loop(kernels.attention(64, 32, 128, "bf16"))
    found = cut(op)
    assert found is not None
    known = {*op.regions[1].args, *found.crossing}
    inside = {r for o in op.regions[1].ops for r in o.results}
    for ops, seen in ((found.first, set(op.regions[1].args)), (found.second, known)):
        for o in ops:
            assert all(v in seen or v not in inside for v in o.operands), o.name
            seen.update(o.results)


def test_a_sum_of_products_stays_whole() -> None:
    assert cut(loop(kernels.gemm(64, 64, 32, "bf16"))) is None


def test_without_products_beside_other_work_nothing_is_cut() -> None:
    op = loop(kernels.attention(64, 32, 128, "bf16"))
    assert stages(op.regions[1], len(op.results), lambda _: False) is None
