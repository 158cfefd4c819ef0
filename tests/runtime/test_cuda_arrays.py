"""Arguments and results that stay on the GPU: no copies, streams in order, faults told with their kernels."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import tessera_runtime
from tessera_runtime import dlpack
from tessera_runtime.core import usage
from tessera_runtime.core.errors import DeviceError, InputError
from tessera_runtime.devices.cuda import CudaDevice
from tessera_runtime.devices.cuda_memory import DeviceArray
from tessera_runtime.profile import profile
from tests.runtime.fake_gpu import FakeDriver
from tests.runtime.gpu_bundles import HOPPER, bundle_of
from tests.runtime.support import WEIGHT


class Foreign:
    """An array of another library in the fake GPU's memory."""

    def __init__(self, driver: FakeDriver, array: np.ndarray, number: int = 0, readonly: bool = False) -> None:
        self.driver, self.shape, self.number, self.readonly = driver, array.shape, number, readonly
        self.strides = [s // array.itemsize for s in array.strides]
        whole = array if array.base is None else array.base
        driver.contexts.append("context")
        self.pointer = driver.allocate(max(whole.nbytes, 4))
        driver.copy_in(self.pointer, whole.ctypes.data, whole.nbytes)
        driver.contexts.pop()
        self.count, self.streams = whole.size, []  # type: ignore[var-annotated]

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.number

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None) -> Any:
        self.streams.append(stream)
        return dlpack.capsule(self.pointer, (dlpack.CUDA, self.number), "f32", self.shape, self.strides,
                              self.readonly, self, max_version)  # fmt: skip

    def values(self) -> np.ndarray:
        return self.driver.floats(self.pointer, self.count).reshape(self.shape)


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def loaded(stream: int = 0, **options: Any) -> tuple[FakeDriver, tessera_runtime.Bundle]:
    driver = FakeDriver()
    return driver, tessera_runtime.load(bundle_of(HOPPER), device=CudaDevice(driver, stream=stream, **options))


def test_results_lie_where_arguments_lie() -> None:
    driver, bundle = loaded()
    x = rand(6, 5)
    foreign = Foreign(driver, x)
    bundle["chain"](rand(2, 5))  # uploads the constant
    driver.calls.clear()
    out0, out1 = bundle["chain"](foreign)
    assert isinstance(out0, DeviceArray) and out0.shape == (6, 5) and out0.dtype == "f32" and foreign.streams == [1]
    assert not {"copy_in", "copy_out", "synchronize"} & {call[0] for call in driver.calls}, "no copies, no waiting"
    assert driver.calls[-3][5][0] == foreign.pointer, "the kernel reads the argument where it lies"
    np.testing.assert_array_equal(np.asarray(out0), x[:, ::-1] + WEIGHT)
    np.testing.assert_array_equal(out1.numpy(), x[:, ::-1])
    again, _ = bundle["chain"](out1)  # a result as an argument
    np.testing.assert_array_equal(np.asarray(again, dtype=np.float64), (x + WEIGHT).astype(np.float64))
    mixed, _ = bundle["chain"](x)
    assert isinstance(mixed, np.ndarray)


def test_arguments_are_written_in_place_unless_read_only() -> None:
    driver, bundle = loaded()
    x, y = Foreign(driver, rand(300)), Foreign(driver, rand(301)[:300].copy())
    expected = np.float32(2.0) * x.values() + y.values()
    result = bundle["saxpy"](2.0, x, y)
    assert result.pointer == y.pointer
    np.testing.assert_array_equal(y.values(), expected)
    fixed = Foreign(driver, rand(300), readonly=True)
    before = fixed.values().copy()
    result = bundle["saxpy"](2.0, x, fixed)
    np.testing.assert_array_equal(fixed.values(), before)
    np.testing.assert_array_equal(result.numpy(), np.float32(2.0) * x.values() + before)
    # One array on the host: the call waits, and both are right.
    host = rand(300)
    assert bundle["saxpy"](2.0, host, y).pointer == y.pointer
    np.testing.assert_array_equal(y.values(), np.float32(2.0) * host + expected)
    same = Foreign(driver, rand(300))
    with pytest.raises(InputError, match="share memory, and 'y' is written"):
        bundle["saxpy"](2.0, same, same)


def test_what_cannot_be_used_is_refused() -> None:
    driver, bundle = loaded()
    for array, code, text in (
        (Foreign(driver, rand(6, 5), number=1), "E708", "cuda:1"),
        (Foreign(driver, rand(5, 6).T), "E708", "contiguous"),
        (Foreign(driver, rand(30)), "E702", "rank 1"),
    ):
        with pytest.raises(InputError) as caught:
            bundle["chain"](array)
        assert caught.value.code == code and text in caught.value.message
    result, _ = bundle["chain"](Foreign(driver, rand(6, 5)))
    with pytest.raises(InputError, match="E708"):
        tessera_runtime.load(bundle_of(HOPPER), device=CudaDevice(FakeDriver(), 1))["chain"](result)
    with pytest.raises(BufferError):
        result.__dlpack__(stream=0)
    with pytest.raises(BufferError):
        result.__dlpack__(dl_device=(1, 0))


def test_streams_are_put_in_order() -> None:
    driver, bundle = loaded(stream=77)
    foreign = Foreign(driver, rand(6, 5))
    out0, _ = bundle["chain"](foreign)
    assert foreign.streams == [77], "the producer lets our stream wait for its work"
    assert [c for c in driver.calls if c[0] == "launch"][-1][-1] == "stream 77"
    assert not driver.orders
    capsule = out0.__dlpack__(stream=5, max_version=(1, 0))
    assert driver.orders == [(77, 5)], "the consumer's stream waits for ours"
    assert out0.__dlpack__(stream=-1) and out0.__dlpack__(stream=77) and driver.orders == [(77, 5)]
    assert out0.__dlpack__(stream=1) and driver.orders[-1] == (77, 0)
    assert out0.__cuda_array_interface__["stream"] == 77
    assert out0.__cuda_array_interface__["data"] == (out0.pointer, False)
    assert not driver.events, "events are given back"
    # The consumer's work comes before the memory is used again.
    driver.orders.clear()
    del capsule, out0
    gc.collect()
    assert sorted(driver.orders) == [(0, 77), (5, 77)]


def test_memory_goes_back_and_is_counted() -> None:
    gc.collect()
    before = usage.current()["device"]
    driver, bundle = loaded()
    foreign = Foreign(driver, rand(6, 5))
    results = bundle["chain"](foreign)
    held = usage.current()["device"] - before
    assert held == 4 * 256  # the constant, the temporary, two results
    del results
    gc.collect()
    allocated = sum(call[0] == "allocate" for call in driver.calls)
    for _ in range(20):
        bundle["chain"](foreign)
    assert sum(call[0] == "allocate" for call in driver.calls) == allocated


@pytest.mark.parametrize("capture_graph", [False, True])
def test_what_is_dropped_gives_everything_back(capture_graph: bool) -> None:
    """Constants, temporaries, graphs and the module go with the bundle, results with themselves, whoever is first."""
    gc.collect()
    before, driver = usage.current()["device"], FakeDriver()
    data = bundle_of(HOPPER)
    for first in ("bundle", "results"):
        foreign = Foreign(driver, rand(6, 5))
        bundle = tessera_runtime.load(data, device=CudaDevice(driver), capture_graph=capture_graph)
        results = bundle["chain"](foreign)
        bundle["chain"](rand(70, 5))
        if first == "results":
            del results
            gc.collect()
        del bundle
        gc.collect()
        if first == "bundle":
            np.testing.assert_array_equal(results[1].numpy(), foreign.values()[:, ::-1])
            del results
            gc.collect()
        assert (usage.current()["device"], driver.graphs, driver.events) == (before, {}, {})
        assert driver.memory.keys() == {foreign.pointer}
        del driver.memory[foreign.pointer]
    names = [call[0] for call in driver.calls]
    assert names.count("unload_module") == names.count("load_module") == 2
    assert all("synchronize" in names[:i] for i, name in enumerate(names) if name == "unload_module")


def test_a_constant_that_cannot_be_uploaded_is_no_leak() -> None:
    driver, bundle = loaded()
    foreign = Foreign(driver, rand(6, 5))
    driver.fail = {"copy_in": DeviceError("E905", "cuMemcpyHtoDAsync: CUDA_ERROR_X")}
    for _ in range(3):
        with pytest.raises(DeviceError):
            bundle["chain"](foreign)
    driver.fail = {}
    np.testing.assert_array_equal(bundle["chain"](foreign)[0].numpy(), foreign.values()[:, ::-1] + WEIGHT)
    del bundle
    gc.collect()
    assert driver.memory.keys() == {foreign.pointer}


def test_the_context_of_others_is_theirs_again() -> None:
    """Whatever is called, and whether it fails or not: the thread's context is what it was."""
    driver, bundle = loaded(stream=5)
    assert driver.contexts == ["another library's"]
    foreign = Foreign(driver, rand(6, 5))
    result, _ = bundle["chain"](foreign)
    result.numpy()
    result.copy()
    result.__dlpack__(stream=7)
    bundle["chain"](rand(3, 5))
    for call in ("launch", "synchronize", "copy_in", "copy_out"):
        driver.fail = {call: DeviceError("E905", "cuSomething: CUDA_ERROR_X")}
        with pytest.raises(DeviceError):
            bundle["chain"](rand(3, 5))
    driver.fail = {}
    del result, bundle
    gc.collect()
    assert driver.contexts == ["another library's"]


def test_faults_name_what_may_have_run() -> None:
    driver, bundle = loaded()
    x, y = Foreign(driver, rand(300)), Foreign(driver, rand(300))
    result = bundle["saxpy"](2.0, x, y)
    error = DeviceError("E905", "cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS")
    driver.fail = {"synchronize": error}
    with pytest.raises(DeviceError) as caught:
        result.numpy()
    # An argument that was written in place tells nothing of the call; results of its own do.
    assert caught.value.code == "E905"
    driver.fail = {}
    result, _ = bundle["chain"](Foreign(driver, rand(6, 5)))
    driver.fail = {"synchronize": error}
    with pytest.raises(DeviceError) as caught:
        result.numpy()
    assert "in chain: reverse, add_row" in caught.value.message and caught.value.exit_code == 6
    # A fault of one call may show in another, which waits or launches.
    driver.fail = {}
    bundle["saxpy"](2.0, x, y)
    other, _ = bundle["chain"](Foreign(driver, rand(6, 5)))
    driver.fail = {"synchronize": error}
    with pytest.raises(DeviceError) as caught:
        other.numpy()
    told = "in chain: reverse, add_row; or, queued before it, in saxpy: saxpy (model.py:3)"
    assert caught.value.message.endswith(told)
    driver.fail = {"launch": error}
    with pytest.raises(DeviceError) as caught:
        bundle["saxpy"](2.0, x, y)
    assert "launching kernel saxpy (model.py:3); or, queued before it, in chain: reverse" in caught.value.message
    driver.fail = {}
    other.numpy()
    driver.fail = {"synchronize": error}
    with pytest.raises(DeviceError) as caught:
        other.numpy()
    assert caught.value.message.endswith("in chain: reverse, add_row"), "what was waited for is not to blame"
    # With waits after every launch the very kernel is told.
    driver, bundle = loaded(synchronous=True)
    driver.fail = {"synchronize": error}
    with pytest.raises(DeviceError) as caught:
        bundle["saxpy"](2.0, rand(300), rand(300))
    assert caught.value.message.endswith("launching kernel saxpy (model.py:3)")
    driver.fail = {}
    y = np.ones(4, np.float32)
    np.testing.assert_array_equal(bundle["saxpy"](1.0, y, y.copy()), 2 * y)


def test_profiles_have_the_time_of_the_device() -> None:
    driver, bundle = loaded()
    x = rand(600, 5)
    with profile() as found:
        bundle["chain"](x)
        bundle["chain"](Foreign(driver, x))
    rows = {row.name: row for row in found.rows()}
    assert rows.keys() == {"reverse", "add_row", "copy"} and all(row.device == "cuda:0" for row in rows.values())
    assert rows["reverse"].p50 == pytest.approx(5e-6, abs=2e-9) and rows["reverse"].calls == 2
    assert rows["copy"].p50 == pytest.approx(12_000 / 1e12, abs=2e-9)
    # The fake device copies 1e12 bytes a second, that is moves 2e12.
    assert rows["reverse"].roofline == pytest.approx(24_000 / 2e12 / 5e-6, rel=0.01)
    assert not driver.events
