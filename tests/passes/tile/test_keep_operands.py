"""Operands of loops in shared memory, shared tiles: the kernel computes what it did, and only what should moves."""

from __future__ import annotations

import numpy as np

from tesseracc.arch.arch import load
from tesseracc.interpret.tile import Memory, run_kernel
from tesseracc.ir.builder import Builder
from tesseracc.ir.parser import parse_module
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.printer import module_text
from tesseracc.ir.types import TileType
from tesseracc.ir.value import Module
from tesseracc.ir.verify import verify
from tesseracc.passes.tile import keep_operands, share_tiles
from tests.passes.tile import kernels
from tests.passes.tile.kernels import Sketch, full, read

PASSES = (share_tiles, keep_operands)  # importing a pass registers it


def rewritten(module: Module, steps: str, arch: str = "sm_90") -> Module:
    found = verify(run_pipeline(parse_pipeline(steps), module, Context(load(arch))))
    assert module_text(parse_module(module_text(found))) == module_text(found)
    return found


def results(module: Module, size: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(size)
    args = [rng.standard_normal((size, width)).astype(np.float16) for _ in range(3)]
    out = np.full((size, width), np.nan, np.float32)
    run_kernel(module.funcs[0], [Memory(a, None) for a in (*args, out)], {"S": size})
    return out


def test_queries_wait_in_shared_memory() -> None:
    plain = kernels.attention(64, 32, 64, "f16")
    kept = rewritten(plain, "share-tiles,keep-operands")
    names = [op.name for op in kept.funcs[0].walk()]
    assert names.count("tile.copy_async") == names.count("tile.alloc") == 1
    loop = next(op for op in kept.funcs[0].walk() if op.name == "scf.for")
    # q in place, k and v of the iteration
    assert [op.name for op in loop.regions[0].ops].count("tile.read") == 3
    for size in (1, 70):
        np.testing.assert_array_equal(results(kept, size, 64), results(plain, size, 64))


def test_registers_that_do_are_left_alone() -> None:
    """A thread's fragments of 64 columns have room beside its sums on mma.sync, those of 128 have not."""
    for width, moved in ((64, 0), (128, 1)):
        found = rewritten(kernels.attention(64, 64, width, "f16"), "share-tiles,keep-operands", "sm_80")
        assert sum(op.name == "tile.alloc" for op in found.funcs[0].walk()) == moved


def test_operands_of_the_loop_itself_stay() -> None:
    found = rewritten(kernels.gemm(64, 64, 32, "bf16"), "share-tiles,keep-operands")
    assert not any(op.name == "tile.alloc" for op in found.funcs[0].walk())


def test_masked_weights_are_one_tile() -> None:
    """Masked for the sum and cast and masked for the product: one mask, then a cast."""
    s = Sketch("f", {"x": ("f32", "S, 64", "read"), "y": ("f16", "S, 64", "write"), "t": ("f32", "S", "write")}, ["1"])
    b: Builder = s.b
    zero, shape = b.const(0), TileType((16, 64), "i64")
    x = read(b, s["x"], [zero, zero], (16, 64))
    inside = [
        b.op("arith.cmp", b.op("tile.coordinate", types=shape, axis=1), b.op("tile.full", b.const(9), types=shape),
             pred="lt")
        for _ in range(2)
    ]  # fmt: skip
    total = b.op("tile.fold", b.op("arith.select", inside[0], x, full(b, 0.0, (16, 64))), axis=1, kind="add")
    narrow = b.op("arith.select", inside[1], b.op("arith.cast", x, to="f16"), full(b, 0.0, (16, 64), "f16"))
    b.emit("tile.write", narrow, s["y"], [zero, zero], axes=(0, 1))
    b.emit("tile.write", total, s["t"], [zero], axes=(0,))
    plain = s.module()
    found = rewritten(plain, "share-tiles")
    names = [op.name for op in found.funcs[0].walk()]
    assert names.count("arith.select") == names.count("arith.cmp") == names.count("arith.cast") == 1
    x_values = np.random.default_rng(4).standard_normal((16, 64)).astype(np.float32)
    runs = []
    for module in (plain, found):
        y, t = np.zeros((16, 64), np.float16), np.zeros(16, np.float32)
        run_kernel(module.funcs[0], [Memory(a, None) for a in (x_values, y, t)], {"S": 16})
        runs.append((y, t))
    for ours, theirs in zip(*runs, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(runs[0][1], x_values[:, :9].sum(axis=1), rtol=1e-5, atol=1e-5)


def test_zeros_of_both_signs_are_two_constants() -> None:
    s = Sketch("f", {"y": ("f32", "S", "write")}, ["1"])
    b = s.b
    b.emit("tile.write", b.op("arith.div", full(b, 1.0, (8,)), full(b, -0.0, (8,))), s["y"], [b.const(0)], axes=(0,))
    b.emit("tile.write", b.op("arith.div", full(b, 1.0, (8,)), full(b, 0.0, (8,))), s["y"], [b.const(8)], axes=(0,))
    y = np.zeros(16, np.float32)
    run_kernel(rewritten(s.module(), "share-tiles").funcs[0], [Memory(y, None)], {"S": 16})
    np.testing.assert_array_equal(y, np.repeat([-np.inf, np.inf], 8))
