"""Pipelines of products: the kernel computes what the plain loop does, and only what may be copied ahead is."""

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tesseracc.arch.arch import load
from tesseracc.frontend.kernel import lower
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


def test_depth_follows_the_kernel_then_the_latency() -> None:
    def stages(module: Module, **attrs: int) -> tuple[int, list[str]]:
        kernel = module.funcs[0].with_(attrs={**module.funcs[0].attrs, **attrs})
        context = Context(load("sm_90"))
        found = run_pipeline(parse_pipeline("pipeline-loads"), module.with_(funcs=(kernel,)), context)
        ops = [op for op in found.funcs[0].walk() if op.name == "tile.pipeline"]
        return (ops[0].attrs["stages"] if ops else 1), [note.message for note in context.notes]

    large, small = (kernels.gemm(*shape, "bf16") for shape in ((128, 256, 64), (64, 64, 32)))
    assert stages(large) == (4, []) and stages(small) == (8, [])
    assert [stages(small, stages=n)[0] for n in (1, 2, 3, 12)] == [1, 2, 3, 12]
    assert stages(large, stages=9) == (4, ["@gemm: 4 stages fit into shared memory, not 9"])


def test_a_range_says_how_deep() -> None:
    @ts.kernel
    def product(a: ts.Tensor["M", "K", ts.bf16], b: ts.Tensor["K", 64, ts.bf16], c: ts.Tensor["M", 64, ts.f32]):
        for i in ts.tile.range(0, M, 64):
            acc = ts.tile.zeros((64, 64), ts.f32)
            for k in ts.tile.range(0, K, 32, num_stages=3):
                acc += ts.tile.mma(a[i : i + 64, k : k + 32], b[k : k + 32, :])
            c[i : i + 64, :] = acc

    module = rewritten(lower(product.definition))
    assert [op.attrs["stages"] for op in module.funcs[0].walk() if op.name == "tile.pipeline"] == [3]
    with pytest.raises(ts.SourceError, match="`num_stages` is a positive number"):

        @ts.kernel
        def wrong(x: ts.Tensor["N", ts.f32]):
            for i in ts.tile.range(N, num_stages=0):
                x[i] = 0.0

        _ = wrong.definition


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
