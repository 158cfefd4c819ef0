"""Launches that are one: the program computes what it did, and is one launch where nothing depends on another."""

from typing import Any

import numpy as np
import pytest

import tessera as ts
import tessera_runtime
from tesseracc.arch.arch import Arch, load
from tesseracc.driver import Build, front, host_level
from tesseracc.interpret import tile
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.value import Module

CPU, GPU = load("x86-64-v3"), load("sm_90")


def lowered(function: Any, arch: Arch = CPU) -> tuple[Module, Module]:
    """The module at the tile level without and with joined launches."""
    schedule = Build(front({function.name: function}), (arch,)).schedule
    steps = "stream-weights,split-products,choose-strategy,schedule-to-tile,update-in-place"
    before = run_pipeline(parse_pipeline(steps), schedule, Context(arch))
    return before, run_pipeline(parse_pipeline("join-launches"), before, Context(arch))


def launches(module: Module) -> list[str]:
    found = [op.attrs["kernel"] for f in module.of_kind("tile.program") for op in f.walk() if op.name == "tile.launch"]
    assert sorted(set(found)) == sorted(f.name for f in module.of_kind("tile.kernel"))
    return found


def same(modules: tuple[Module, Module], name: str, arrays: list[np.ndarray]) -> None:
    before, after = (tile.run(m, name, [a.copy() for a in arrays]) for m in modules)
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(a, b)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@ts.function
def projections(x: ts.Tensor["S", "D", ts.f32], q: ts.Tensor["D", "E", ts.f32], k: ts.Tensor["D", "F", ts.f32],
                v: ts.Tensor["D", "F", ts.f32]):
    h = ts.layer_norm(x)
    return h @ q, h @ k, h @ v


PARAMS = {"a": ts.Tensor["N", "M", ts.f32], "b": ts.Tensor["M", ts.f32], "c": ts.Tensor[7, ts.f32]}


@ts.function
def update(params: ts.State[PARAMS], speed: ts.State[PARAMS], grads: PARAMS):
    speed = {k: 0.9 * speed[k] + grads[k] for k in grads}
    return {"params": {k: params[k] - 0.1 * speed[k] for k in grads}, "speed": speed}


@ts.function
def sums(x: ts.Tensor["N", "M", ts.f32]):
    return ts.sum(x, 0), ts.max(x, 1), ts.sum(x * x)


def test_products_of_one_input() -> None:
    modules = lowered(projections)
    assert [len(launches(m)) for m in modules] == [4, 2]
    rng = np.random.default_rng(1)
    for s, d, e, f in ((3, 5, 4, 2), (9, 33, 70, 17), (1, 1, 1, 1)):
        same(modules, "projections", [normal(rng, s, d), normal(rng, d, e), normal(rng, d, f), normal(rng, d, f)])


@pytest.mark.parametrize("arch", [CPU, GPU], ids=["cpu", "gpu"])
def test_updates_of_all_parameters_are_one_launch_in_place(arch: Arch) -> None:
    modules = lowered(update, arch)
    assert [len(launches(m)) for m in modules] == [3, 1]
    (program,) = modules[1].of_kind("tile.program")
    assert [op.name for op in program.body.ops if op.name != "tile.view"] == ["tile.launch"]
    rng = np.random.default_rng(2)
    for n, m in ((3, 4), (1, 300), (67, 31)):
        sizes = 3 * [(n, m), (m,), (7,)]
        same(modules, "update", [normal(rng, *size) for size in sizes])


@pytest.mark.parametrize("arch", [CPU, GPU], ids=["cpu", "gpu"])
def test_sums_along_several_axes(arch: Arch) -> None:
    modules = lowered(sums, arch)
    assert len(launches(modules[1])) < len(launches(modules[0]))
    rng = np.random.default_rng(3)
    for n, m in ((5, 3), (1, 1), (70, 300)):
        same(modules, "sums", [normal(rng, n, m)])


def test_what_depends_stays_behind() -> None:
    @ts.function
    def chain(x: ts.Tensor["N", "N", ts.f32], y: ts.Tensor["N", "N", ts.f32]):
        z = x @ y
        return z @ x, y @ z, z

    modules = lowered(chain)
    assert [len(launches(m)) for m in modules] == [3, 2]
    rng = np.random.default_rng(4)
    same(modules, "chain", [normal(rng, 19, 19), normal(rng, 19, 19)])


def test_the_arena_does_not_grow() -> None:
    """The second product may lie where the first one did, which is not wanted any more."""

    @ts.function
    def f(x: ts.Tensor["N", "N", ts.f32], y: ts.Tensor["N", "N", ts.f32]):
        a = ts.sum(ts.softmax(x @ y), 0)
        return a, ts.tanh(y @ x) @ x

    before, after = (launches(m) for m in lowered(f))
    assert before == after and len(after) >= 4


def test_products_stay_apart_where_groups_share_memory() -> None:
    before, after = (launches(m) for m in lowered(projections, GPU))
    assert before == after


def test_compiled() -> None:
    """Joined kernels of this CPU, whose parts take turns in the same scratch memory, by one thread and by two."""
    rng = np.random.default_rng(5)
    args = [normal(rng, *shape) for shape in ((130, 70), (70, 530), (70, 33), (70, 33))]
    bundle = Build(front({"projections": projections}), (host_level(),)).bundle()
    one, two = (tessera_runtime.load(bundle, threads=n)["projections"](*args) for n in (1, 2))
    x = args[0].astype(np.float64)
    h = x - x.mean(1, keepdims=True)
    h /= np.sqrt((h * h).mean(1, keepdims=True) + 1e-5)
    for a, b, w in zip(one, two, args[1:], strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, h @ w, atol=2e-5 * 70**0.5)
