"""Orders of blocks: every block of the work is done once, whatever the grid; neighbours share what they read."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from tessera.polynomials import substitute
from tessera.shapes import parse_dim
from tesseracc.analysis.group_axes import traffic
from tesseracc.arch.arch import load
from tesseracc.interpret.tile import Memory, run_kernel
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.printer import module_text
from tesseracc.ir.types import BufType
from tesseracc.ir.value import Func, Module, Value
from tesseracc.passes import pipelines
from tesseracc.passes.tile.group_order import Order, choose_order, decode
from tests.passes.tile import kernels

STEPS = {name: parse_pipeline(name) for name in ("pipeline-loads", "version-copies", "place-groups")}
assert pipelines.TARGET  # importing it registers the passes


def places(grid: list[int | str], sizes: dict[str, int], order: Order) -> list[tuple[int, ...]]:
    """The indices of all blocks in the order of their numbers, as a kernel computes them."""
    rank = len(grid)
    dims = [parse_dim(d) if isinstance(d, str) else d for d in grid]
    numbers = [substitute(d, sizes) if not isinstance(d, int) else d for d in dims]
    total = int(np.prod(numbers))
    b = Builder()
    out = Value(BufType((total, rank), "i64"), "out")
    number = b.op("tile.group_id")
    found = decode(b, b.op("arith.cast", number, to="u32"), dims, order)
    for axis, index in enumerate(found):
        b.emit("tile.store", index, out, [number, b.const(axis)], None)
    attrs = {"access": ("write",), "grid": (total,), "group": 1, "symbols": tuple(sizes)}
    kernel = Func("tile.kernel", "k", b.region([out]), attrs)
    array = np.full((total, rank), -1, np.int64)
    run_kernel(kernel, [Memory(array, None)], sizes or {"none": 0})
    return [tuple(row) for row in array.tolist()]


@pytest.mark.parametrize("panel", [0, 2, 4])
@pytest.mark.parametrize("extents", [(1, 1), (5, 7), (8, 3), (3, 1, 4), (5, 6, 2)])
def test_every_block_once(extents: tuple[int, ...], panel: int) -> None:
    for axes in permutations(range(len(extents))):
        sizes = dict(zip("ABC", extents, strict=False))
        known = places(list(extents), {}, Order(axes, panel))
        assert known == places(list(sizes), sizes, Order(axes, panel))  # sizes that only the call knows
        assert sorted(known) == sorted(np.ndindex(*extents))
        # inside a panel the first axis is the fastest, then the second; panels before other axes
        p, q = axes[:2]
        width = min(panel or extents[p], extents[p])
        assert [at[p] for at in known[:width]] == list(range(width))
        if extents[q] > 1:
            assert known[width][q] == 1 and known[width][p] == 0


def test_what_neighbours_share() -> None:
    kernel = kernels.gemm(128, 256, 64, "bf16").funcs[0]  # x: blocks of columns, y: of rows
    assert [(read.bytes // 16, set(read.axes)) for read in traffic(kernel)] == [
        (128 * 64 * 2, {1}), (64 * 256 * 2, {0}),
    ]  # fmt: skip
    order = choose_order(kernel, load("sm_90"))
    assert order == Order((0, 1), 8)  # a wave of 132: 8 x 256 columns and 16 x 128 rows


def test_orders_follow_the_target_and_the_sizes() -> None:
    kernel = kernels.gemm(64, 64, 32, "bf16").funcs[0]
    assert choose_order(kernel, load("sm_75")).panel < choose_order(kernel, load("sm_120")).panel
    dims = {"M": 512, "N": 512, "K": 512}
    params = [Value(BufType(tuple(substitute(d, dims) for d in p.type.dims), p.type.dtype), p.name)  # type: ignore
              for p in kernel.params]  # fmt: skip
    small = kernel.with_(body=type(kernel.body)(tuple(params), (), ()), attrs={**kernel.attrs, "grid": (8, 8)})
    assert choose_order(small, load("sm_90")) == Order((0, 1))


@pytest.mark.parametrize("trans", [(False, False), (True, True)])
def test_persistent_blocks_do_the_same_work(trans: tuple[bool, bool]) -> None:
    plain = kernels.gemm(16, 32, 16, "f16", trans_a=trans[0], trans_b=trans[1])
    context = Context(load("sm_90"))
    module = plain
    for steps in STEPS.values():
        module = run_pipeline(steps, module, context)
    kernel = module.func("gemm__tensor")
    assert any("blocks take the tiles in turn" in note.message for note in context.notes)
    assert any("panels of" in note.message for note in context.notes)
    rng = np.random.default_rng(5)
    for m, n, k, blocks in ((16, 32, 16, 1), (53, 104, 40, 1), (53, 104, 40, 5), (64, 72, 0, 7), (0, 8, 8, 1)):
        a, b = (rng.standard_normal(s).astype(np.float16) for s in ((m, k), (k, n)))
        a, b = (x.T.copy() if t else x for x, t in zip((a, b), trans, strict=True))
        found, want = (np.full((m, n), np.nan, np.float32) for _ in range(2))
        sizes = {"M": m, "N": n, "K": k}
        fewer = kernel.with_(attrs={**kernel.attrs, "grid": (blocks if m else 0,)})
        run_kernel(plain.funcs[0], [Memory(x, None) for x in (a, b, want)], sizes)
        run_kernel(fewer, [Memory(x, None) for x in (a, b, found)], sizes)
        np.testing.assert_array_equal(found, want)
        assert np.isfinite(want).all()


def test_a_kernel_of_single_lanes_keeps_its_grid() -> None:
    s = kernels.Sketch("k", {"x": ("f32", "N, M", "write")}, ["N", "M"])
    b = s.b
    b.emit("tile.store", b.const(1.0, "f32"), s["x"], [b.op("tile.group_id", axis=0), b.op("tile.group_id", axis=1)],
           None)  # fmt: skip
    module: Module = s.module()
    placed = run_pipeline(STEPS["place-groups"], module, Context(load("sm_90")))
    assert module_text(placed) == module_text(module)
