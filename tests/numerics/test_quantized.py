"""Elements with scales: against NumPy written from the formats' definitions; types at the boundaries of functions; and
dequantisation in the load path of products, read off the plan."""

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tessera as ts
from tessera_runtime import load as load_bundle
from tessera_runtime.bundle import BundleFile
from tesseracc.arch.arch import load
from tesseracc.driver import Build, front, host_level
from tesseracc.emulator_device import EmulatorDevice

Array = np.ndarray[Any, Any]
STORAGE = {
    "fp8_e4m3": (ml_dtypes.float8_e4m3fn, 448.0), "fp8_e5m2": (ml_dtypes.float8_e5m2, 57344.0),
    "fp6_e2m3": (ml_dtypes.float6_e2m3fn, 7.5), "fp6_e3m2": (ml_dtypes.float6_e3m2fn, 28.0),
    "fp4_e2m1": (ml_dtypes.float4_e2m1fn, 6.0), "i8": (np.int8, 127.0), "i4": (ml_dtypes.int4, 7.0),
}


def as_values(array: Array) -> Array:
    return array.astype(np.float32)


def stored(x: Array, name: str) -> Array:
    """x (f32) in a storage type: saturated, then to nearest."""
    made, largest = STORAGE[name]
    inside = np.clip(x, -largest, largest)
    return (np.rint(inside) if name in ("i8", "i4") else inside).astype(made)


@pytest.mark.parametrize("name", STORAGE)
def test_scales_per_tensor_and_axis(name: str) -> None:
    x = np.random.default_rng(1).standard_normal((5, 7, 3)).astype(np.float32) * 10
    largest = np.float32(STORAGE[name][1])
    for axis in (None, 0, 1, 2, -1):
        elements, scale = ts.quantize(x, ts.dtype(name) @ ts.scale(axis=axis))
        shared = tuple(i for i in range(3) if axis is None or i != axis % 3)
        want = np.abs(x).max(shared, keepdims=True) / largest
        np.testing.assert_array_equal(scale.numpy().reshape(want.shape), want)
        assert scale.ndim == (0 if axis is None else 3)
        np.testing.assert_array_equal(as_values(elements.numpy()), as_values(stored(x / want, name)))
        back = ts.dequantize(elements, scale).numpy()
        np.testing.assert_array_equal(back, as_values(elements.numpy()) * want)
    assert np.all(ts.dequantize(*ts.quantize(np.zeros((2, 3), np.float32), f"{name} @scale(axis=0)")).numpy() == 0)


@pytest.mark.parametrize(("dtype", "name", "power"), [
    (ts.mxfp8_e4m3, "fp8_e4m3", 8), (ts.mxfp8_e5m2, "fp8_e5m2", 15), (ts.mxfp6_e2m3, "fp6_e2m3", 2),
    (ts.mxfp6_e3m2, "fp6_e3m2", 4), (ts.mxfp4, "fp4_e2m1", 2), (ts.mxint8, "i8", 6),
])  # fmt: skip
def test_microscaling_formats(dtype: Any, name: str, power: int) -> None:
    """OCP: the shared scale is 2^(floor(log2 amax) - emax) of 32 elements."""
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((3, 96)) * np.exp2(rng.integers(-40, 40, (3, 1)))).astype(np.float32)
    x[1, :32] = 0
    elements, scale = ts.quantize(x, dtype)
    assert scale.dtype == ts.fp8_e8m0 and scale.shape == (3, 3)
    amax = np.abs(x.reshape(3, 3, 32)).max(-1)
    with np.errstate(divide="ignore"):
        exponent = np.where(amax > 0, np.floor(np.log2(amax)) - power, -127)
    np.testing.assert_array_equal(as_values(scale.numpy()), np.exp2(exponent).astype(np.float32))
    divided = x.reshape(3, 3, 32) / np.exp2(exponent).astype(np.float32)[..., None]
    np.testing.assert_array_equal(as_values(elements.numpy()), as_values(stored(divided, name)).reshape(3, 96))
    back = ts.dequantize(elements, scale, dtype).numpy()
    unit = {"fp8_e4m3": 2.0**-3, "fp8_e5m2": 2.0**-2, "fp6_e2m3": 2.0**-2, "fp6_e3m2": 2.0**-2, "fp4_e2m1": 0.5,
            "i8": 2.0**-6}[name]  # fmt: skip
    assert np.all(np.abs(back - x) <= unit * np.repeat(amax, 32, 1))


def test_blocks_along_other_axes_and_other_scales() -> None:
    x = np.random.default_rng(3).standard_normal((64, 5)).astype(np.float32)
    elements, scale = ts.quantize(x, "fp4_e2m1 @scale(axis=0, block=16, dtype=fp8_e4m3)")
    assert scale.shape == (4, 5) and scale.dtype == ts.fp8_e4m3
    amax = np.abs(x.reshape(4, 16, 5)).max(1)
    want = np.maximum(amax / np.float32(6), np.float32(2.0**-9)).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(as_values(scale.numpy()), as_values(want))
    divided = x.reshape(4, 16, 5) / as_values(want)[:, None]
    np.testing.assert_array_equal(as_values(elements.numpy()), as_values(stored(divided, "fp4_e2m1")).reshape(64, 5))


def test_stochastic_elements() -> None:
    x = np.full((1, 4096), 0.3, np.float32)
    x[0, 0] = 127.0
    elements, scale = ts.quantize(x, "i8 @scale()", rounding="stochastic", key=ts.random.key(1))
    assert scale.item() == 1.0 and set(np.unique(elements.numpy())) == {0, 1, 127}
    assert abs(elements.numpy()[0, 1:].mean() - 0.3) < 0.04


# Types ----------------------------------------------------------------------------------------------------------------


@ts.precision_policy
class QuantizedPolicy:
    storage = ts.int8
    scale = ts.f32
    compute = ts.f32
    accumulate = ts.f32

    def quantize(self, x: ts.f32) -> ts.int8:
        scale = ts.max(ts.abs(x)) / 127.0
        return ts.round(x / scale).astype(ts.int8), scale

    def dequantize(self, x: ts.int8, scale: ts.f32) -> ts.f32:
        return x.astype(ts.f32) * scale


@ts.precision_policy
class HalfInDouble:
    storage = ts.bf16
    compute = ts.f32
    accumulate = ts.f64


@ts.function
def by_policy(x: ts.Tensor["M", "D", ts.f32], w: ts.Tensor["D", "N", QuantizedPolicy]):
    return x @ w


@ts.function
def stores(w: ts.Tensor["D", "N", ts.f32]) -> ts.Tensor["D", "N", QuantizedPolicy]:
    return w * 2.0


@ts.function
def half_in_double(x: ts.Tensor["M", "K", HalfInDouble]) -> ts.Tensor["M", ts.f32]:
    return ts.sum(x, 1)


@ts.function
def by_axis(x: ts.Tensor["M", "K", ts.f32], w: ts.Tensor["K", "N", ts.fp8_e4m3 @ ts.scale(axis=1)]):
    return x @ w


@ts.function
def by_block(x: ts.Tensor["M", "K", ts.f32], w: ts.Tensor["N", "K", ts.mxfp8_e4m3]):
    return x @ w.T


PARAMS = {"w": ts.Tensor["K", "N", "i8 @scale()"], "b": ts.Tensor["N", ts.f32]}


@ts.function
def of_a_tree(x: ts.Tensor["M", "K", ts.f32], params: PARAMS):
    return x @ params["w"] + params["b"]


@ts.function
def of_nibbles(
    x: ts.Tensor["M", "K", ts.f32], w: ts.Tensor["N", "K//2", ts.u8], s: ts.Tensor["N", "K//32", ts.fp8_e8m0],
):
    return x @ ts.dequantize(ts.unpack(w, ts.fp4_e2m1, x.shape[1]), s, ts.mxfp4).T


def arguments(name: str, m: int, k: int, n: int, seed: int) -> tuple[tuple[Any, ...], Array]:
    """(arguments of the function, the product in f64)."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)

    def pair(value: Array, dtype: Any) -> tuple[tuple[Array, Array], Array]:
        elements, scale = ts.quantize(value, dtype)
        exact = ts.dequantize(elements, scale, None if dtype is QuantizedPolicy else dtype).numpy().astype(np.float64)
        return (elements.numpy(), scale.numpy()), exact

    if name == "of_tree":
        held, exact = pair(w, "i8 @scale()")
        b = rng.standard_normal(n).astype(np.float32)
        return (x, {"w": held, "b": b}), x @ exact + b
    if name == "by_block":
        held, exact = pair(w.T, ts.mxfp8_e4m3)
        return (x, held), x @ exact.T
    if name == "of_nibbles":
        (elements, scale), exact = pair(w.T, ts.mxfp4)
        return (x, ts.pack(elements).numpy(), scale), x @ exact.T
    held, exact = pair(w, QuantizedPolicy if name == "by_policy" else "fp8_e4m3 @scale(axis=1)")
    return (x, held), x @ exact


PRODUCTS = {"by_policy": by_policy, "by_axis": by_axis, "by_block": by_block, "of_tree": of_a_tree,
            "of_nibbles": of_nibbles}  # fmt: skip


@cache
def build(target: str) -> bytes:
    arch = host_level() if target == "cpu" else load(target)
    return bytes(Build(front(PRODUCTS), [arch]).bundle())


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_stored_weights_eagerly_and_compiled(name: str) -> None:
    for seed, (m, k, n) in enumerate([(1, 96, 33), (40, 64, 17), (3, 32, 70)]):
        given, want = arguments(name, m, k, n, seed)
        for run in (PRODUCTS[name], ts.jit(PRODUCTS[name])):
            found = run(*given).numpy()
            assert np.max(np.abs(found - want)) <= 1e-5 * np.max(np.abs(want))


@pytest.mark.parametrize("target", ["cpu", "sm_80"])
def test_no_dequantised_copy_of_the_weights_is_planned(target: str) -> None:
    """Every product is one launch in the plan, and no function has a buffer of its own."""
    (record,) = BundleFile(build(target)).manifest.targets
    for name in PRODUCTS:
        (plan,) = (p for p in record.plans if p.function == name)
        assert {buffer.kind for buffer in plan.buffers} == {"input", "output"}, name
        assert len(plan.steps) == 1, name


def test_emulated_gpus_dequantise_in_the_load() -> None:
    bundle = load_bundle(build("sm_80"), device=EmulatorDevice())
    for name in ("by_axis", "by_block", "of_nibbles"):
        given, want = arguments(name, 5, 64, 9, 7)
        flat = [part for value in given for part in (value if isinstance(value, tuple) else (value,))]
        found = bundle[name](*flat)
        assert np.max(np.abs(found - want)) <= 1e-5 * np.max(np.abs(want))


def test_a_declared_result_is_stored() -> None:
    w = np.random.default_rng(5).standard_normal((4, 3)).astype(np.float32)
    for run in (stores, ts.jit(stores)):
        elements, scale = run(w)
        want = np.abs(2 * w).max() / np.float32(127)
        np.testing.assert_allclose(scale.item(), want, rtol=1e-6)
        np.testing.assert_array_equal(elements.numpy(), np.rint(2 * w / np.float32(scale.item())))


def test_a_policy_without_scales() -> None:
    x = np.array([[3e7, 1.0, -3e7, 0.5]], ml_dtypes.bfloat16)
    for run in (half_in_double, ts.jit(half_in_double)):
        assert run(x).numpy().tolist() == [1.5]


def test_nothing_is_stored_silently() -> None:
    x, w = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
    with pytest.raises(ts.SourceError) as caught:
        by_axis(x, w)
    assert caught.value.code == "E307"
    elements, scale = ts.quantize(w, "fp8_e4m3 @scale(axis=0)")
    with pytest.raises(ts.SourceError) as caught:
        by_axis(x, (elements, scale))
    assert caught.value.code == "E307"


@pytest.mark.parametrize(("call", "code", "part"), [
    (lambda: ts.dtype("fp8_e4m3 @scale(axle=0)"), "E301", "axle"),
    (lambda: ts.dtype("fp8_e4m3 @scale(dtype=i8)"), "E301", "scale"),
    (lambda: ts.scale(block=1), "E301", "block=1"),
    (lambda: ts.scale(tensor=True), "E301", "scale of the tensor"),
    (lambda: ts.scale(block=16, tensor=True), "E301", "scale of the tensor"),
    (lambda: ts.dequantize(*ts.quantize(ts.ones(1, 16), ts.nvfp4)[:2], ts.nvfp4), "E311", "scale of the tensor"),
    (lambda: ts.quantize(ts.ones(3, 4), ts.fp8_e4m3), "E303", "no scale"),
    (lambda: ts.quantize(ts.ones(3, 4), ts.u8 @ ts.scale()), "E303", "not scaled"),
    (lambda: ts.quantize(ts.ones(3, 33), ts.mxfp4), "E302", "blocks of 32"),
    (lambda: ts.quantize(ts.ones(3), "i8 @scale(axis=1)"), "E304", "no axis 1"),
    (lambda: ts.cast(ts.ones(3), "i8 @scale()"), "E303", "no value"),
    (lambda: ts.tensor([1.0], "i8 @scale()"), "E303", "no value"),
    (lambda: ts.precision_policy(type("P", (), {"scale": ts.f32})), "E301", "storage"),
    (lambda: ts.precision_policy(type("P", (), {"storage": ts.i8, "acumulate": ts.f32})), "E301", "acumulate"),
    (lambda: ts.precision_policy(type("P", (), {"storage": ts.i8, "quantize": lambda self, x: x})), "E301", "only one"),
    (lambda: ts.Tile["N", ts.mxfp4], "E301", "tile"),
])  # fmt: skip
def test_mistakes(call: Any, code: str, part: str) -> None:
    with pytest.raises(ts.SourceError) as caught:
        call()
    assert caught.value.code == code and part in caught.value.message


def test_text_of_types() -> None:
    for text in ("fp8_e4m3 @scale()", "i8 @scale(axis=-1)", "fp4_e2m1 @scale(axis=0, block=32, dtype=fp8_e8m0)"):
        assert str(ts.dtype(text)) == text
    assert str(ts.nvfp4) == "fp4_e2m1 @scale(block=16, dtype=fp8_e4m3, tensor)"
    assert ts.dtype(str(ts.nvfp4)) == ts.nvfp4


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_nvfp4_has_a_scale_of_the_tensor(size: float) -> None:
    """The largest block takes the largest scale, whatever the tensor's size is; against the format's definition."""
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((3, 48)) * np.exp2(rng.integers(-6, 6, (3, 1))) * size).astype(np.float32)
    elements, scales, whole = ts.quantize(x, ts.nvfp4)
    want = np.abs(x).max() / np.float32(6 * 448)
    assert whole.numpy() == want
    runs = (x / want).reshape(3, 3, 16)
    factors = (np.abs(runs).max(-1) / np.float32(6)).astype(ml_dtypes.float8_e4m3fn)
    assert as_values(factors).max() == 448
    np.testing.assert_array_equal(as_values(scales.numpy()), as_values(factors))
    values = stored(runs / as_values(factors)[..., None], "fp4_e2m1")
    np.testing.assert_array_equal(as_values(elements.numpy()), as_values(values).reshape(x.shape))
    back = ts.dequantize(elements, scales, ts.nvfp4, whole=whole).numpy()
    np.testing.assert_array_equal(back, (as_values(values) * as_values(factors)[..., None] * want).reshape(x.shape))
    assert np.abs(back - x).max() <= np.abs(x).max() / 4
    assert all(not part.numpy().astype(np.float32).any() for part in ts.quantize(np.zeros((1, 16)), ts.nvfp4)[:1])


@ts.function
def nvfp4_layer(x: ts.Tensor["B", "K", ts.f32], w: ts.Tensor["N", "K", ts.nvfp4]):
    return x @ w.T


def test_nvfp4_weights_of_a_product() -> None:
    rng = np.random.default_rng(5)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 64), (9, 64)))
    parts = ts.quantize(w, ts.nvfp4)
    wide = np.float64(as_values(parts[0].numpy())) * np.repeat(as_values(parts[1].numpy()), 16, 1) * parts[2].numpy()
    np.testing.assert_allclose(nvfp4_layer(x, parts).numpy(), x @ wide.T, rtol=1e-5, atol=1e-4)
    build = Build(front({"nvfp4_layer": nvfp4_layer}), [host_level(), load("sm_90")])
    for device in ("cpu", EmulatorDevice()):
        got = load_bundle(build.bundle(), device=device)["nvfp4_layer"](x, *(p.numpy() for p in parts))
        np.testing.assert_allclose(got, x @ wide.T, rtol=1e-5, atol=1e-4)
