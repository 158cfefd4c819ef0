"""Operands of products are read where they are used first, and the kernel computes what it did."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tesseracc.arch.arch import load
from tesseracc.interpret.tile import Memory, run_kernel
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.types import BufType
from tesseracc.ir.value import Module, Value
from tesseracc.ir.verify import verify
from tesseracc.passes.tile import sink_reads
from tests.passes.tile.kernels import ZERO_ONE, Sketch, full, read

PASSES = (sink_reads,)  # importing a pass registers it
Between = Callable[[Builder, Value, Value, Value], None]


def staged(between: Between, *, chosen: bool = False) -> Module:
    """y = x^T x and z = x x of 16 x 16 elements by way of two buffers of shared memory. `between` the reads and the
    products stands what it adds for (other buffer, the place 0, x); `chosen`: one of the buffers, while running."""
    dims = ("f32", "16, 16", "read")
    s = Sketch("f", {"x": dims, "y": ("f32", "16, 16", "write"), "z": ("f32", "16, 16", "write")}, ["1"])
    b, zero = s.b, s.b.const(0)
    one, two = s.shared((16, 16), "f32"), s.shared((16, 16), "f32")
    x = read(b, s["x"], [zero, zero], (16, 16))
    for room in (one, two):
        b.emit("tile.write", x, room, [zero, zero], axes=ZERO_ONE)
    other = two
    if chosen:
        same = b.op("arith.cmp", b.op("tile.group_id", axis=0), zero, pred="eq")
        pick = [Builder().region([], [room]) for room in (one, two)]
        other = b.emit("scf.if", same, types=[BufType((16, 16), "f32", "shared")], regions=pick).result
    left = b.op("tile.transpose", read(b, one, [zero, zero], (16, 16)), perm=(1, 0))
    right = read(b, one, [zero, zero], (16, 16))
    between(b, other, zero, x)
    work = b.op("arith.add", x, x)
    for name, a in (("y", left), ("z", right)):
        work = b.op("tile.mma", a, right, full(b, 0.0, (16, 16)))
        b.emit("tile.write", work, s[name], [zero, zero], axes=ZERO_ONE)
    return s.module()


def nothing(b: Builder, other: Value, zero: Value, x: Value) -> None:
    pass


def write(b: Builder, other: Value, zero: Value, x: Value) -> None:
    b.emit("tile.write", b.op("arith.mul", x, full(b, 3.0, (16, 16))), other, [zero, zero], axes=ZERO_ONE)


def write_back(b: Builder, other: Value, zero: Value, x: Value) -> None:
    write(b, next(op.result for op in b.ops if op.name == "tile.alloc"), zero, x)


def before_product(module: Module) -> tuple[list[str], list[np.ndarray]]:
    """What stands before the first product; y and z."""
    names = [op.name for op in module.funcs[0].body.ops]
    first = names.index("tile.mma")
    x = np.random.default_rng(first).standard_normal((16, 16)).astype(np.float32)
    out = [np.full((16, 16), np.nan, np.float32) for _ in range(2)]
    run_kernel(module.funcs[0], [Memory(a, None) for a in (x, *out)], {})
    np.testing.assert_allclose(out[0], x.T.astype(float) @ x, atol=1e-4)
    np.testing.assert_allclose(out[1], x.astype(float) @ x, atol=1e-4)
    return names[:first], out


@pytest.mark.parametrize("between,chosen,moves", [
    (nothing, False, True), (write, False, True),  # a write to another buffer
    (write, True, False),  # one to a buffer that may be the same
    (write_back, False, False),  # one to the same
], ids=["nothing", "another buffer", "a chosen buffer", "the same buffer"])  # fmt: skip
def test_reads_move_to_their_use_but_not_behind_a_write(between: Between, chosen: bool, moves: bool) -> None:
    plain = staged(between, chosen=chosen)
    found = verify(run_pipeline(parse_pipeline("sink-reads"), plain, Context(load("sm_80"))))
    before, expected = before_product(plain)
    after, got = before_product(found)
    np.testing.assert_array_equal(got, expected)
    work = after.index("arith.add")
    reads = [i for i, name in enumerate(after) if name == "tile.read"][1:]  # but that of x
    assert [i > work for i in reads] == [moves] * 2
    assert sorted(before) == sorted(after)


def test_a_tile_that_more_than_products_use_stays() -> None:
    """And so does a transposition of one that never was in shared memory."""
    dims = ("f32", "16, 16", "read")
    s = Sketch("f", {"x": dims, "y": ("f32", "16, 16", "write")}, ["1"])
    b, zero = s.b, s.b.const(0)
    room = s.shared((16, 16), "f32")
    x = read(b, s["x"], [zero, zero], (16, 16))
    b.emit("tile.write", x, room, [zero, zero], axes=ZERO_ONE)
    a = read(b, room, [zero, zero], (16, 16))
    turned = b.op("tile.transpose", x, perm=(1, 0))
    work = b.op("arith.add", x, a)
    product = b.op("tile.mma", turned, a, full(b, 0.0, (16, 16)))
    b.emit("tile.write", b.op("arith.add", product, work), s["y"], [zero, zero], axes=ZERO_ONE)
    plain = s.module()
    found = run_pipeline(parse_pipeline("sink-reads"), plain, Context(load("sm_80")))
    names = [[op.name for op in module.funcs[0].walk()] for module in (plain, found)]
    assert names[0] == names[1]
