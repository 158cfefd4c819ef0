"""maps-to-tiles: what it rewrites, what it leaves alone, and that the interpreter sees no difference."""

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front
from tesseracc.interpret import tile
from tesseracc.interpret.tile_memory import Memory
from tesseracc.ir.builder import Builder
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.types import LanesType, TileType
from tesseracc.ir.value import Module, Value
from tesseracc.passes import pipelines  # noqa: F401 - registers the passes
from tests.passes.tile.kernels import Sketch

BF16, F32 = ts.bf16, ts.f32


@ts.function
def product(a: ts.Tensor["M", "K", BF16], b: ts.Tensor["K", "N", BF16]) -> ts.Tensor["M", "N", BF16]:
    return ts.matmul(a, b)


@ts.function
def layer(
    a: ts.Tensor["M", "K", F32], b: ts.Tensor["K", "N", F32], bias: ts.Tensor["N", F32], scale: ts.Tensor["M", 1, F32]
) -> ts.Tensor["M", "N", F32]:
    return ts.exp((a @ b + bias) * scale)


@ts.function
def transposed(a: ts.Tensor["K", "M", F32], b: ts.Tensor["N", "K", F32]) -> ts.Tensor["M", "N", F32]:
    return a.T @ b.T


@ts.function
def batched(a: ts.Tensor["B", "M", "K", F32], b: ts.Tensor["B", "K", "N", F32]) -> ts.Tensor["B", "M", "N", F32]:
    return a @ b


CASES = [product, layer, transposed, batched]


def both(entry: Any) -> tuple[Module, Module]:
    arch = load("sm_90")
    before = Build(front({entry.name: entry}), (arch,)).tile(arch)
    return before, run_pipeline(parse_pipeline("maps-to-tiles"), before, Context(arch), verify_each=True)


def count(module: Module, name: str) -> int:
    return sum(op.name == name for func in module.of_kind("tile.kernel") for op in func.walk())


@pytest.mark.parametrize("entry", CASES, ids=lambda e: e.name)
@pytest.mark.parametrize("sizes", [(70, 33, 50, 2), (1, 1, 1, 1), (64, 64, 64, 1), (3, 100, 0, 1)], ids=str)
def test_the_interpreter_sees_no_difference(entry: Any, sizes: tuple[int, int, int, int]) -> None:
    before, after = both(entry)
    assert count(before, "tile.map") == 3 and count(after, "tile.map") == 0
    assert count(after, "tile.read") >= 2 and count(after, "tile.write") == 1
    env = dict(zip("MKNB", sizes, strict=True))
    rng = np.random.default_rng(sizes)
    args = []
    for parameter in entry.parameters:
        shape = tuple(d if isinstance(d, int) else env[str(d)] for d in parameter.spec.dims)
        x = ts.tensor(rng.standard_normal(shape, np.float32))
        args.append(np.asarray(ts.cast(x, parameter.spec.dtype).numpy()))
    for a, b in zip(tile.run(before, entry.name, args), tile.run(after, entry.name, args), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_not_0_outside_of_the_extents_is_masked() -> None:
    """exp(x) of a map is 0 behind its extents, not exp(0)."""
    s = Sketch("f", {"x": ("f32", "R, C", "read"), "y": ("f32", "G, 16", "write")}, ["1"])
    b, zero = s.b, s.b.const(0)
    lanes = LanesType("i64")

    def body(inner: Builder, at: list[Value]) -> list[Value]:
        return [inner.op("arith.exp", inner.op("tile.load", s["x"], at))]

    region = b.nested([lanes, lanes], body)
    extents = [s.dim("R"), s.dim("C")]
    tile_ = b.emit("tile.map", extents, [], types=[TileType((16, 16), "f32")], regions=[region], shape=(16, 16)).results
    sums = b.op("tile.fold", tile_[0], axis=0, kind="add")
    sums = b.op("tile.broadcast", sums, types=TileType((1, 16), "f32"), axes=(1,))
    b.emit("tile.write", sums, s["y"], [zero, zero], axes=(0, 1))
    before = s.module()
    after = run_pipeline(parse_pipeline("maps-to-tiles"), before, Context(None), verify_each=True)
    assert count(before, "tile.map") == 1 and count(after, "tile.map") == 0 and count(after, "arith.select") == 1
    x = np.random.default_rng(0).standard_normal((9, 11), np.float32)
    results = []
    for module in (before, after):
        y = np.zeros((1, 16), np.float32)
        tile.run_kernel(module.funcs[0], [Memory(x, None), Memory(y, None)], {"R": 9, "C": 11, "G": 1})
        results.append(y)
    np.testing.assert_array_equal(*results)
    np.testing.assert_allclose(results[0][0, :11], np.exp(x.astype(np.float64)).sum(axis=0), rtol=1e-6)
    assert (results[0][0, 11:] == 0).all()


def test_an_index_that_is_no_block_keeps_its_map() -> None:
    @ts.function
    def reversed_product(a: ts.Tensor["M", "K", F32], b: ts.Tensor["K", "N", F32]) -> ts.Tensor["M", "N", F32]:
        return ts.flip(a, 1) @ b

    after = both(reversed_product)[1]
    assert count(after, "tile.map") == 1 and count(after, "tile.read") == 1
