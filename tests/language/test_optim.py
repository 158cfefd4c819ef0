"""Optimisers against float64 formulas, schedules, clipping; the plan of a compiled training step."""

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tessera.errors import SourceError
from tessera.pytree import tree_map
from tessera_runtime import load
from tessera_runtime.core.manifest import Launch
from tesseracc.arch.arch import load as arch
from tesseracc.driver import Build, front, host_level
from tesseracc.emulator_device import EmulatorDevice

RNG = np.random.default_rng(29)


def run(optimiser: Any, params: Any, gradients: list[Any]) -> Any:
    state = optimiser.init(params)
    for grads in gradients:
        params, state = optimiser.update(params, grads, state)
    return params, state


def arrays() -> tuple[Any, list[Any]]:
    params = {"w": RNG.standard_normal((4, 3)), "b": [RNG.standard_normal(3)]}
    return params, [tree_map(lambda p: RNG.standard_normal(p.shape), params) for _ in range(5)]


def tensors(tree: Any, dtype: Any = None) -> Any:
    return tree_map(lambda a: ts.tensor(a, dtype), tree)


@pytest.mark.parametrize(("momentum", "nesterov", "decay"), [(0, False, 0), (0.9, False, 0.1), (0.8, True, 0)])
def test_sgd(momentum: float, nesterov: bool, decay: float) -> None:
    params, gradients = arrays()
    found, state = run(ts.optim.sgd(0.1, momentum, nesterov, decay), tensors(params), [tensors(g) for g in gradients])
    p, v = params["w"], np.zeros((4, 3))
    for g in gradients:
        d = g["w"] + decay * p
        v = momentum * v + d
        p = p - np.float32(0.1) * (d + momentum * v if nesterov else v)
    np.testing.assert_allclose(found["w"].numpy(), p, rtol=1e-7)
    assert int(state["step"]) == 5


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_adamw(decay: float) -> None:
    params, gradients = arrays()
    optimiser = ts.optim.adamw(0.01, (0.8, 0.95), 1e-6, decay)
    found, state = run(optimiser, tensors(params), [tensors(g) for g in gradients])
    p, m, v = params["b"][0], np.zeros(3), np.zeros(3)
    for t, g in enumerate(gradients, start=1):
        d = g["b"][0]
        m, v = 0.8 * m + 0.2 * d, 0.95 * v + 0.05 * d * d
        p = p - 0.01 * (m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6) + decay * p)
    np.testing.assert_allclose(found["b"][0].numpy(), p, rtol=1e-6)
    np.testing.assert_allclose(state["m"]["b"][0].numpy(), m, rtol=1e-6)


def test_narrow_parameters_keep_a_wide_state() -> None:
    params = {"w": ts.ones(3, dtype=ts.bf16), "n": ts.tensor([1, 2])}
    grads = {"w": ts.full((3,), 1.0, ts.bf16), "n": None}
    found, state = run(ts.optim.adam(2.0**-6), params, [grads] * 3)
    assert found["w"].dtype == ts.bf16 and state["m"]["w"].dtype == ts.f32
    assert found["n"].tolist() == [1, 2]
    # Adam moves by the rate where the gradient is constant: 1 - 3 / 64, which bf16 holds
    assert found["w"].tolist() == [0.953125] * 3


def test_clipping_by_the_global_norm() -> None:
    grads = {"a": ts.tensor([3.0, 0.0]), "b": [ts.tensor([[4.0]]).astype(ts.bf16)]}
    assert float(ts.optim.global_norm(grads)) == 5.0
    clipped = ts.optim.clip_by_global_norm(grads, 2.5)
    assert clipped["a"].tolist() == [1.5, 0.0] and clipped["b"][0].tolist() == [[2.0]]
    same = ts.optim.clip_by_global_norm(grads, 6.0)
    assert same["a"].tolist() == [3.0, 0.0]
    zero = ts.optim.clip_by_global_norm({"a": ts.zeros(2)}, 1.0)
    assert zero["a"].tolist() == [0.0, 0.0]


def test_schedules() -> None:
    def values(schedule: Any, steps: list[int]) -> list[float]:
        return [float(schedule(ts.tensor(np.int32(s)))) for s in steps]

    assert values(ts.optim.constant(0.5), [0, 9]) == [0.5, 0.5]
    assert values(ts.optim.linear(1.0, 0.0, 4), [0, 1, 4, 9]) == [1.0, 0.75, 0.0, 0.0]
    np.testing.assert_allclose(values(ts.optim.exponential(2.0, 0.5, 10), [0, 10, 25]), [2, 1, 2 * 0.5**2.5], rtol=1e-6)
    want = [0.25, 0.5, 1.0, 0.1 + 0.45 * (1 + np.cos(np.pi * 3 / 6)), 0.1, 0.1]
    np.testing.assert_allclose(values(ts.optim.cosine(1.0, 10, 4, 0.1), [0, 1, 3, 7, 10, 99]), want, atol=1e-6)


def test_other_structures_are_told() -> None:
    optimiser = ts.optim.adam(0.1)
    state = optimiser.init({"w": ts.ones(2)})
    for params, grads in (({"w": ts.ones(2)}, {"v": ts.ones(2)}), ({"w": [ts.ones(2)]}, {"w": ts.ones(2)})):
        with pytest.raises(SourceError) as caught:
            optimiser.update(params, grads, state)
        assert caught.value.code == "E313"


OPTIMISER = ts.optim.adamw(ts.optim.cosine(0.05, 100, warmup=5), decay=0.01)
PARAMS = {"w1": ts.zeros(8, 16), "b1": ts.zeros(16), "w2": ts.zeros(16, 3), "b2": ts.zeros(3)}


@ts.function
def train(params: ts.State[PARAMS], state: ts.State[OPTIMISER.init(PARAMS)], x: ts.Tensor["B", 8, ts.f32],
          target: ts.Tensor["B", ts.i32]):  # fmt: skip
    def loss(p: Any) -> ts.Tensor:
        return ts.cross_entropy(ts.linear(ts.tanh(ts.linear(x, p["w1"], p["b1"])), p["w2"], p["b2"]), target)

    value, grads = ts.value_and_grad(loss)(params)
    grads = ts.optim.clip_by_global_norm(grads, 1.0)
    params, state = OPTIMISER.update(params, grads, state)
    return {"loss": value, "params": params, "state": state}


def test_a_compiled_training_step() -> None:
    emulated = load(Build(front({"train": train}), (arch("sm_90"),)).bundle(), device=EmulatorDevice())["train"]
    bundle = load(Build(front({"train": train}), (host_level(),)).bundle(), threads=2)
    (plan,) = bundle.target.plans
    assert all(isinstance(step, Launch) for step in plan.steps), "an update copies"
    x = RNG.standard_normal((50, 8)).astype(np.float32)
    target = (x[:, 0] > x[:, 1]).astype(np.int32) + (x[:, 2] > 0.5)
    params = {k: (0.3 * RNG.standard_normal(v.shape)).astype(np.float32) for k, v in PARAMS.items()}
    eager_params, eager_state = tensors(params), OPTIMISER.init(tensors(params))
    step = bundle["train"]
    kept = {f"params_{k}": v.copy() for k, v in params.items()}
    for i in step.function.inputs:
        if i.name.startswith("state"):
            kept[i.name] = np.zeros(i.shape, np.int32 if i.dtype == "i32" else np.float32)
    losses = []
    first = {k: v.copy() for k, v in kept.items()}
    on_gpu = emulated(**first, x=x, target=target.astype(np.int32))[0]
    for _ in range(25):
        found = train(eager_params, eager_state, x, target.astype(np.int32))
        eager_params, eager_state = found["params"], found["state"]
        losses.append(float(step(**kept, x=x, target=target.astype(np.int32))[0]))
        np.testing.assert_allclose(losses[-1], float(found["loss"]), rtol=2e-4)
        if len(losses) == 1:  # as PTX: equal up to the order of sums
            np.testing.assert_allclose(on_gpu, losses[0], rtol=1e-5)
            for name, array in first.items():
                np.testing.assert_allclose(array, kept[name], rtol=1e-4, atol=1e-6)
    assert losses[-1] < 0.6 * losses[0]
    np.testing.assert_allclose(kept["params_w2"], eager_params["w2"].numpy(), atol=2e-3)
