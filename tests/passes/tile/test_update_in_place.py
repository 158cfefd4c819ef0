"""State in its own memory: the program computes what it did with memory for every result, whatever the updates read."""

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front
from tesseracc.interpret import tile
from tesseracc.ir.pipeline import Context, parse_pipeline, run_pipeline
from tesseracc.ir.value import Module

ARCH = load("x86-64-v3")


def lowered(function: Any) -> tuple[Module, Module]:
    """The module at the tile level without and with updates in place."""
    schedule = Build(front({function.name: function}), (ARCH,)).schedule
    before = run_pipeline(parse_pipeline("choose-strategy,schedule-to-tile"), schedule, Context(ARCH))
    return before, run_pipeline(parse_pipeline("update-in-place"), before, Context(ARCH))


def steps(module: Module, name: str) -> list[str]:
    return [op.name for op in module.func(name).body.ops]


def check(function: Any, arrays: dict[str, np.ndarray]) -> list[str]:
    """Runs both programs; the steps of the second."""
    before, after = lowered(function)
    want = tile.run(before, function.name, [a.copy() for a in arrays.values()])
    given = {name: a.copy() for name, a in arrays.items()}
    found = tile.run(after, function.name, list(given.values()))
    program = after.func(function.name)
    outputs = program.attrs["outputs"]
    for name, a, b in zip(outputs, found, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    for name, number in program.attrs["state"]:
        np.testing.assert_array_equal(given[name], want[number], err_msg=f"{name} in place")
        assert program.body.yields[number] in program.params
    return steps(after, function.name)


def vectors(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal(n).astype(np.float32) for name in "abcx"}


#: what an expression may be made of, over the values so far
MAKERS = [
    lambda p, q: p + q, lambda p, q: p * 0.5 - q, lambda p, q: ts.flip(p) + q, lambda p, q: p + ts.sum(q),
    lambda p, q: ts.where(p > q, p, q), lambda p, q: p * ts.max(p), lambda p, q: ts.tanh(q), lambda p, q: p,
]  # fmt: skip


@pytest.mark.parametrize("seed", range(24))
def test_random_updates(seed: int) -> None:
    choices = np.random.default_rng(seed).integers(0, 1 << 30, 24).tolist()

    @ts.function
    def f(a: ts.State["N", ts.f32], b: ts.State["N", ts.f32], c: ts.State["N", ts.f32], x: ts.Tensor["N", ts.f32]):
        values, rest = [a, b, c, x], iter(choices)
        for _ in range(5):
            p, q, make = values[next(rest) % len(values)], values[next(rest) % len(values)], next(rest) % len(MAKERS)
            values.append(MAKERS[make](p, q))
        new = {name: values[next(rest) % len(values)] for name in "abc"}
        return {**new, "y": values[next(rest) % len(values)] + values[-1]}

    rng = np.random.default_rng(seed)
    for n in (1, 3, 300):
        check(f, vectors(rng, n))


def test_updates_of_optimisers_have_no_copies() -> None:
    optimiser = ts.optim.adamw(0.1)
    like = {"w": ts.zeros(3, 4), "b": ts.zeros(4)}

    @ts.function
    def f(p: ts.State[like], s: ts.State[optimiser.init(like)], x: ts.Tensor["B", 3, ts.f32]):
        grads = ts.grad(lambda p: ts.sum(ts.tanh(x @ p["w"] + p["b"])))(p)
        p, s = optimiser.update(p, ts.optim.clip_by_global_norm(grads, 1.0), s)
        return {"p": p, "s": s}

    rng = np.random.default_rng(1)
    shapes = {"p_b": (4,), "p_w": (3, 4), "s_m_b": (4,), "s_m_w": (3, 4), "s_step": (), "s_v_b": (4,), "s_v_w": (3, 4)}
    arrays = {name: np.abs(rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    arrays["s_step"] = np.array(3, np.int32)
    arrays["x"] = rng.standard_normal((7, 3)).astype(np.float32)
    assert "tile.copy" not in check(f, arrays)


def test_a_group_overwrites_only_what_it_reads_at_the_same_place() -> None:
    def marked(update: Any) -> bool:
        @ts.function
        def f(a: ts.State["N", "M", ts.f32], x: ts.Tensor["N", "M", ts.f32]):
            return {"a": update(a, x)}

        return bool(Build(front({"f": f}), (ARCH,)).schedule.func("f").attrs["updates"])

    assert marked(lambda a, x: a * 2.0 + x) and marked(lambda a, x: ts.where(x > 0, a, x) + a)
    assert marked(lambda a, x: a + ts.sum(x, 1, True))
    assert not marked(lambda a, x: ts.flip(a) + x) and not marked(lambda a, x: a - ts.max(a, 1, True))


def test_neighbours_that_read_the_old_state_elsewhere_stay_apart() -> None:
    """As one group with the update they would read what it has overwritten, and it would need a copy."""

    @ts.function
    def f(a: ts.State["N", ts.f32], x: ts.Tensor["N", ts.f32]):
        return {"a": ts.sin(a) * x, "y": ts.flip(a) + ts.exp(x) * 2.0}

    rng = np.random.default_rng(3)
    for n in (1, 5, 300):
        arrays = {name: rng.standard_normal(n).astype(np.float32) for name in "ax"}
        assert "tile.copy" not in check(f, arrays)
