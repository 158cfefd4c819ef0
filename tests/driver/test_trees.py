"""Trees of tensors as arguments, and state: eagerly, by ts.jit, and in bundles."""

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError
from tessera_runtime import load
from tessera_runtime.core.manifest import Launch
from tessera_runtime.plan import instantiate
from tesseracc.driver import Build, front, host_level

RNG = np.random.default_rng(17)
SHAPES = {"w": ts.Tensor["D", 3, ts.f32], "rest": [ts.Tensor[3, ts.f32], {"n": ts.Tensor[ts.i32]}]}


def tree(d: int) -> dict[str, Any]:
    return {"w": RNG.standard_normal((d, 3)).astype(np.float32),
            "rest": [RNG.standard_normal(3).astype(np.float32), {"n": np.int32(7)}]}  # fmt: skip


@ts.function
def apply_tree(params: SHAPES, x: ts.Tensor["B", "D", ts.f32]):
    return {"y": x @ params["w"] + params["rest"][0], "n": params["rest"][1]["n"] + 1}


@ts.function
def step(params: ts.State[SHAPES], count: ts.State[ts.i32], x: ts.Tensor["B", "D", ts.f32]):
    grads = ts.grad(lambda w: ts.sum(x @ w))(params["w"])
    new = {"w": params["w"] - 0.5 * grads, "rest": [params["rest"][0] * 2.0, {"n": params["rest"][1]["n"]}]}
    return {"total": ts.sum(new["w"]), "params": new, "count": count + 1}


def bundle(*entries: Any) -> Any:
    return load(Build(front({e.name: e for e in entries}), (host_level(),)).bundle(), threads=1)


def test_trees_as_arguments() -> None:
    params, x = tree(5), RNG.standard_normal((4, 5)).astype(np.float32)
    want = x.astype(np.float64) @ params["w"] + params["rest"][0]
    for f in (apply_tree, ts.jit(apply_tree), ts.jit(lambda params, x: apply_tree(params, x))):
        found = f(params, x)
        np.testing.assert_allclose(found["y"].numpy(), want, atol=1e-5)
        assert int(found["n"]) == 8
    flat = bundle(apply_tree)["apply_tree"]
    assert [i.name for i in flat.function.inputs] == ["params_rest_0", "params_rest_1_n", "params_w", "x"]
    n, y = flat(params_w=params["w"], params_rest_0=params["rest"][0], params_rest_1_n=np.array(7, np.int32), x=x)
    assert n == 8
    np.testing.assert_allclose(y, want, atol=1e-5)


def test_state_is_a_value_in_the_language_and_memory_in_a_bundle() -> None:
    params, x = tree(5), RNG.standard_normal((4, 5)).astype(np.float32)
    moved = params["w"] - 0.5 * np.repeat(x.sum(0)[:, None], 3, 1)
    for f in (step, ts.jit(step)):
        before = params["w"].copy()
        found = f(params, np.int32(3), x)
        np.testing.assert_allclose(found["params"]["w"].numpy(), moved, atol=1e-5)
        assert int(found["count"]) == 4
        np.testing.assert_array_equal(params["w"], before)
    run = bundle(step)["step"]
    kept = {"params_w": params["w"].copy(), "params_rest_0": params["rest"][0].copy(),
            "params_rest_1_n": np.array(7, np.int32), "count": np.array(3, np.int32)}  # fmt: skip
    assert {i.name for i in run.function.inputs if i.inout} == set(kept)
    results = dict(zip(run.outputs, run(**kept, x=x), strict=True))
    for name, array in kept.items():
        assert results[name] is array
    np.testing.assert_allclose(kept["params_w"], moved, atol=1e-5)
    assert kept["count"] == 4 and kept["params_rest_1_n"] == 7


@ts.function
def exchange(a: ts.State["N", ts.f32], b: ts.State["N", ts.f32], c: ts.State["N", ts.f32]):
    """Every new value needs an old one that another update overwrites."""
    return {"a": b + 1.0, "b": c * 2.0, "c": a - b, "old": a + b + c}


@ts.function
def shifted(a: ts.State["N", ts.f32]):
    """An update that reads other elements than it writes."""
    n = a.shape[0]
    return {"a": ts.flip(a) + ts.sum(a) / n}


@pytest.mark.parametrize("function", [exchange, shifted])
def test_updates_that_need_old_values(function: Any) -> None:
    names = [p.name for p in function.parameters]
    run = bundle(function)[function.name]
    for n in (1, 2, 37, 1000):
        arrays = {name: RNG.standard_normal(n).astype(np.float32) for name in names}
        want = {k: v.numpy() for k, v in function(**arrays).items()}
        found = run(**arrays)
        results = dict(zip(run.outputs, found if isinstance(found, tuple) else (found,), strict=True))
        for name, array in want.items():
            np.testing.assert_allclose(results[name], array, atol=1e-5 * n)


def test_updates_stay_in_place_without_copies() -> None:
    @ts.function
    def adam(w: ts.State["N", ts.f32], m: ts.State["N", ts.f32], v: ts.State["N", ts.f32], g: ts.Tensor["N", ts.f32]):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        return {"w": w - 0.1 * m / (ts.sqrt(v) + 1e-8), "m": m, "v": v}

    loaded = bundle(adam)
    (plan,) = loaded.target.plans
    assert len(plan.steps) == 1 and isinstance(plan.steps[0], Launch)
    assert not [b for b in plan.buffers if b.kind == "temp"]
    w, m, v, g = (RNG.standard_normal(1001).astype(np.float32) for _ in range(4))
    v = np.abs(v)
    m2, v2 = 0.9 * m.astype(np.float64) + 0.1 * g, 0.999 * v.astype(np.float64) + 0.001 * g.astype(np.float64) ** 2
    want = w - 0.1 * m2 / (np.sqrt(v2) + 1e-8)
    loaded["adam"](w, m, v, g)
    np.testing.assert_allclose(w, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(v, v2, rtol=1e-5)


def test_an_update_waits_for_those_that_read_the_old_value() -> None:
    """The caches of a decoder: what is computed from the new value reads the old one, fused; the update goes last."""
    @ts.function
    def decode(cache: ts.State[8, 4, ts.f32], place: ts.State[ts.i32], x: ts.Tensor[4, ts.f32]):
        cache = ts.where(ts.expand_dims(ts.arange(8, dtype=ts.i32) == place, 1), x, cache)
        return {"cache": cache, "place": place + 1, "y": ts.softmax(cache @ x) @ cache}

    loaded = bundle(decode)
    assert all(isinstance(step, Launch) for step in loaded.target.plans[0].steps)
    kept = {"cache": np.zeros((8, 4), np.float32), "place": np.array(0, np.int32)}
    rows = RNG.standard_normal((8, 4)).astype(np.float32)
    cache = np.zeros((8, 4))
    for place, x in enumerate(rows):
        cache[place] = x
        scores = np.exp(cache @ x - (cache @ x).max())
        results = dict(zip(loaded["decode"].outputs, loaded["decode"](**kept, x=x), strict=True))
        np.testing.assert_allclose(results["y"], scores @ cache / scores.sum(), rtol=2e-5, atol=1e-5)
        np.testing.assert_array_equal(kept["cache"], cache)
    assert kept["place"] == 8


def test_checkpoints_lower_the_peak_of_memory() -> None:
    def peak(wrap: Any) -> tuple[int, np.ndarray]:
        @ts.function
        def f(w: ts.Tensor[16, 16, ts.f32], x: ts.Tensor["B", 16, ts.f32]):
            def block(h: ts.Tensor, w: ts.Tensor) -> ts.Tensor:
                return h + ts.sigmoid(ts.tanh(h) @ w)

            def loss(w: ts.Tensor) -> ts.Tensor:
                h = x
                for _ in range(5):
                    h = wrap(block)(h, w)
                return ts.sum(h * h)

            return ts.grad(loss)(w)

        loaded = bundle(f)
        (plan,) = loaded.target.plans
        x = np.random.default_rng(5).standard_normal((500, 16)).astype(np.float32)
        found = loaded["f"](0.1 * x[:16], x)
        return instantiate(plan, loaded.target.kernels, {"B": 500}).arena, found

    plain, again = peak(lambda f: f), peak(ts.checkpoint)
    np.testing.assert_array_equal(plain[1], again[1])
    assert again[0] < 0.7 * plain[0]


X = ts.ones(3)


@pytest.mark.parametrize("body", [
    lambda s, x: x, lambda s, x: {"y": x}, lambda s, x: {"s": {"a": s["a"]}},
    lambda s, x: {"s": {"a": s["a"], "b": s["b"].astype(ts.f64)}}, lambda s, x: {"s": {"a": s["a"][:1], "b": s["b"]}},
])
def test_state_that_does_not_come_back(body: Any) -> None:
    @ts.function
    def f(s: ts.State[{"a": ts.Tensor["N", ts.f32], "b": ts.Tensor["N", ts.f32]}], x: ts.Tensor["N", ts.f32]):
        return body(s, x)

    with pytest.raises(SourceError) as caught:
        f({"a": X, "b": X}, X)
    assert caught.value.code == "E317"
    with pytest.raises(SourceError) as caught:
        front({"f": f})
    assert caught.value.code == "E317"


@pytest.mark.parametrize("given", [{"a": X}, [X, X], X, {"a": X, "b": ts.ones(4)}, {"a": X, "b": 3}])
def test_trees_that_do_not_fit(given: Any) -> None:
    @ts.function
    def f(s: {"a": ts.Tensor["N", ts.f32], "b": ts.Tensor["N", ts.f32]}):
        return s["a"]

    with pytest.raises(SourceError) as caught:
        f(given)
    assert caught.value.code in ("E307", "E311")


@pytest.mark.parametrize("made", [8, pytest.param(5000, marks=pytest.mark.slow)])
def test_thousands_of_results(made: int) -> None:
    """A bundle has as many as the tree has leaves, however many of them are computed."""

    @ts.function
    def many(x: ts.Tensor["N", ts.f32]):
        return [x * float(i % made) for i in range(5000)]

    x = RNG.standard_normal(3).astype(np.float32)
    results = load(Build(front({"many": many}), (host_level(),)).bundle())["many"](x)
    np.testing.assert_array_equal(results, [x * np.float32(i % made) for i in range(5000)])


def test_more_results_than_a_bundle_has() -> None:
    @ts.function
    def many(x: ts.Tensor["N", ts.f32]):
        return [x] * 65537

    with pytest.raises(SourceError, match="`many` has 65,537 results; at most 65,536 are possible") as caught:
        front({"many": many})
    assert caught.value.code == "E305"
