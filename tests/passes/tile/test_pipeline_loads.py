"""Pipelines of products: the kernel computes what the plain loop does, and only what may be copied ahead is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.interpret.tile import Memory, run_kernel
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.printer import module_text
from tesseracc.ir.value import Module
from tesseracc.passes.tile import forward_shared, pipeline_loads
from tests.passes.tile import kernels

PASSES = (forward_shared, pipeline_loads)  # importing a pass registers it
STEPS = "forward-shared,pipeline-loads"


def rewritten(module: Module, arch: str = "sm_80", steps: str = STEPS) -> Module:
    return run_pipeline(parse_pipeline(steps), module, Context(load(arch)))


def names(module: Module) -> list[str]:
    return [op.name for op in module.funcs[0].walk()]


def results(module: Module, args: list[Any], symbols: dict[str, int]) -> list[Any]:
    mine = [a.copy() for a in args]
    run_kernel(module.funcs[0], [Memory(a, None) for a in mine], symbols)
    return mine


@pytest.mark.parametrize("staged", ["none", "async", "write"])
@pytest.mark.parametrize("trans", [(False, False), (True, False), (False, True)])
def test_product(staged: str, trans: tuple[bool, bool]) -> None:
    plain = kernels.gemm(16, 32, 16, "f16", staged=staged, trans_a=trans[0], trans_b=trans[1])
    piped = rewritten(plain)
    found = names(piped)
    assert found.count("tile.pipeline") == 1 and found.count("tile.copy_async") == 2 and "tile.barrier" not in found
    assert module_text(parse_module(module_text(piped))) == module_text(piped)
    rng = np.random.default_rng(3)
    for m, n, k in ((16, 32, 16), (21, 40, 71), (3, 5, 0)):
        a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
        a, b = (x.T.copy() if t else x for x, t in zip((a, b), trans, strict=True))
        args = [a.astype(np.float16), b.astype(np.float16), np.full((m, n), np.nan, np.float32)]
        symbols = {"M": m, "N": n, "K": k}
        want, got = results(plain, args, symbols)[2], results(piped, args, symbols)[2]
        assert np.isfinite(want).all()
        np.testing.assert_array_equal(got, want)


def test_no_rings_without_asynchronous_copies() -> None:
    plain = kernels.gemm(dtype="f16", staged="async")
    assert module_text(rewritten(plain, "sm_75")) == module_text(plain)


def test_as_many_slots_as_fit() -> None:
    big = rewritten(kernels.gemm(128, 128, 64, "f16"), "sm_86")  # 32 KiB a slot, of 99 KiB
    (op,) = (op for op in big.funcs[0].walk() if op.name == "tile.pipeline")
    assert op.attrs["stages"] == 2
    assert "tile.pipeline" not in names(rewritten(kernels.gemm(256, 128, 128, "f16"), "sm_86"))


TEXT = """
tile.kernel @k(%a: buf<f16[M, K], global>, %b: buf<f16[K, N], global>, %c: buf<f32[M, N], global>) \
{{access = ["readwrite", "read", "write"], grid = [1], group = 32, symbols = ["K", "M", "N"]}} {{
  %zero = arith.constant {{value = 0}} : i64
  %end = tile.dim {{expr = <K>}} : i64
  %step = arith.constant {{value = 16}} : i64
  %start = tile.zeros : tile<f32[16, 16]>
  %sum = scf.for %zero, %end, %step, [%start] (%k: i64, %acc: tile<f32[16, 16]>) {{
    {before}
    %x = tile.read %a, [%zero, {place}] {{axes = [0, 1]}} : tile<f16[16, 16]>
    %y = tile.read %b, [%k, %zero] {{axes = [0, 1]}} : tile<f16[16, 16]>
    %next = tile.mma %x, %y, %acc, [] : tile<f32[16, 16]>
    {after}
    yield %next
  }} : tile<f32[16, 16]>
  tile.write %sum, %c, [%zero, %zero], [] {{axes = [0, 1]}}
}}
"""


@pytest.mark.parametrize(
    "before,place,after,copies",
    [
        ("", "%k", "", 2),
        ("%two = arith.constant {value = 2} : i64\n%p = arith.mul %k, %two : i64", "%p", "", 2),
        # the place comes from memory: b alone is copied ahead
        ("%e = tile.load %c, [%zero, %zero] : f32\n%p = arith.cast %e {to = \"i64\"} : i64", "%p", "", 1),
        # the loop writes to a
        ("", "%k", "tile.write %x, %a, [%zero, %k], [] {axes = [0, 1]}", 1),
    ],
)
def test_what_is_copied_ahead(before: str, place: str, after: str, copies: int) -> None:
    module = parse_module(TEXT.format(before=before, place=place, after=after))
    assert names(rewritten(module)).count("tile.copy_async") == copies


def test_a_buffer_that_is_read_before_it_is_filled_stays() -> None:
    before = """%room = tile.alloc : buf<f16[16, 16], shared>
    %old = tile.read %room, [%zero, %zero] {axes = [0, 1]} : tile<f16[16, 16]>
    tile.copy_async %a, %room, [%zero, %k], [%zero, %zero] {dst_axes = [0, 1], shape = [16, 16], src_axes = [0, 1]}"""
    module = parse_module(TEXT.format(before=before, place="%k", after=""))
    assert "tile.alloc" in names(rewritten(module, steps="forward-shared"))
