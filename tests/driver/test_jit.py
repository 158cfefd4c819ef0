"""`ts.jit` and `inspect_ir`: compiled in memory, cached by types and compile-time values, equal to eager."""

from typing import Any

import numpy as np
import pytest

import tessera as ts
from tesseracc.arch.arch import load
from tesseracc.ir.parser import parse_module
from tesseracc.ir.verify import verify
from tesseracc.static_values import identity


@ts.kernel
def affine(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32], bias: float = 0.0, squares: bool = True):
    i = ts.tile.linear_id()
    if i < N:
        if squares:
            y[i] = x[i] * x[i] + bias
        else:
            y[i] = x[i] + bias
    return y


@ts.function
def tree(a: Any, b: Any) -> Any:
    return {"sum": ts.exp(a) + b, "pair": (a * b, [ts.sum(b)])}


@ts.function
def scores(x: ts.Tensor["N", "D", ts.f32], w: ts.Tensor["D", 4, ts.f32]):
    return ts.softmax(x @ w)


TABLE = ts.tensor(np.arange(6, dtype=np.int32).reshape(2, 3))


@ts.function
def folded(x: ts.Tensor["N", 2, ts.i32]) -> Any:
    return x + 1, ts.sum(TABLE.T * 3, axis=0), TABLE.T


def data(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def test_results_keep_their_structure() -> None:
    compiled = ts.jit(tree)
    a, b = data(33), data(33)
    found, expected = compiled(a, b), tree(a, b)
    assert sorted(found) == sorted(expected) and isinstance(found["pair"], tuple) and isinstance(found["pair"][1], list)
    np.testing.assert_allclose(found["sum"].numpy(), expected["sum"].numpy(), rtol=0, atol=2e-6)
    np.testing.assert_array_equal(found["pair"][0].numpy(), expected["pair"][0].numpy())


def test_one_compilation_serves_every_size_and_types_get_their_own() -> None:
    compiled = ts.jit(scores)
    for n in (0, 1, 70):
        x, w = data(n, 9), data(9, 4)
        np.testing.assert_allclose(compiled(x, w).numpy(), scores(x, w).numpy(), rtol=0, atol=1e-6)
    assert len(compiled._runner._compiled) == 1  # type: ignore[attr-defined]
    other = ts.jit(tree)
    other(data(3), data(3))
    other(data(3).astype(np.float64), data(3).astype(np.float64))
    assert len(other._runner._compiled) == 2  # type: ignore[attr-defined]


def test_compile_time_values_of_a_kernel() -> None:
    compiled = ts.jit(affine)
    x, y = data(300), np.zeros(300, np.float32)
    compiled(x, y)
    np.testing.assert_array_equal(y, x * x)
    compiled(x, y, 2.0)
    np.testing.assert_array_equal(y, x * x + np.float32(2))
    compiled(x, y, squares=False)
    np.testing.assert_array_equal(y, x)


class Settings:
    def __init__(self, scale: float) -> None:
        self.scale = scale


def test_python_values_are_told_apart() -> None:
    """Objects that come after each other may have one address, lists other items, numbers other types."""

    @ts.function
    def scaled(x: Any, by: Any) -> Any:
        return x * (by.scale if isinstance(by, Settings) else by[0])

    compiled, x = ts.jit(scaled), np.arange(5, dtype=np.float32)
    settings = Settings(2.0)
    np.testing.assert_array_equal(compiled(x, settings), x * np.float32(2))
    place = id(settings)
    del settings
    others = [Settings(3.0) for _ in range(1000)]
    settings = next((other for other in others if id(other) == place), others[0])
    np.testing.assert_array_equal(compiled(x, settings), x * np.float32(3))
    by = [0.5]
    for by[0] in (2.0, 3.0):
        np.testing.assert_array_equal(compiled(x, by), x * np.float32(by[0]))
    values = (0.0, -0.0, 0, False, [0], (0,), {0}, {0: 0}, "0", Settings(0.0), Settings(0.0))
    assert len(set(map(identity, values))) == len(values)
    assert identity({"a": [1, {2.0}]}) == identity({"a": [1, {2.0}]})


@pytest.mark.parametrize(
    ("level", "kind"),
    [("graph", "graph.func"), ("schedule", "schedule.group"), ("tile", "tile.kernel"), ("target", "target.func")],
)
def test_inspect_ir(level: str, kind: str) -> None:
    for entry in (scores, affine):
        text = entry.inspect_ir(level)
        verify(parse_module(text))
    assert kind in scores.inspect_ir(level)
    assert "vec<" in scores.inspect_ir("target", arch="x86-64-v4")


def test_constants_that_passes_compute_are_in_the_bundle() -> None:
    x = np.arange(4, dtype=np.int32).reshape(2, 2)
    for got, want in zip(ts.jit(folded)(x), folded(x), strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_the_device_is_chosen() -> None:
    x, w = data(9, 7), data(7, 4)
    expected = scores(x, w).numpy()
    for device in ("cpu", "cpu:x86-64-v2", "emulator:sm_90", "emulator:sm_80"):
        found = ts.jit(scores, device=device, capture_graph=True)(x, w)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
    for device, code in (("gpu", "E901"), ("emulator:sm_1", "E805")):
        with pytest.raises(ts.TesseraError) as caught:
            ts.jit(scores, device=device)(x, w)
        assert caught.value.code == code
    with pytest.raises(ts.TesseraError) as caught:
        ts.jit(scores, capture_graph="strict")(x, w)
    assert caught.value.code == "E909"
    with pytest.raises(ts.SourceError) as caught:
        ts.jit(scores, devices="cpu")
    assert caught.value.help == "did you mean `device`?"


def test_the_target_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code for the very chip where there is some, else for its major version, else PTX."""
    from tessera_runtime.devices.cuda import CudaDevice
    from tesseracc.driver import place_of
    from tests.runtime.fake_gpu import FakeDriver

    expected = {(9, 0): "sm_90", (8, 6): "sm_86", (8, 8): "sm_86", (8, 7): "ptx_80", (9, 9): "ptx_80"}
    for capability, target in expected.items():
        device = CudaDevice(FakeDriver(capability))
        monkeypatch.setattr("tessera_runtime.devices.open_device", lambda name, found=device: found)
        assert place_of("cuda:0") == (device, load(target))
