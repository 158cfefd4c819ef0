"""The CUDA device through a recording driver: which calls, in which order, with which bytes; which image is chosen."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

import tessera_runtime
from tessera_runtime.core.errors import DeviceError
from tessera_runtime.core.manifest import Capability
from tessera_runtime.devices.cuda import CudaDevice, runs_on
from tessera_runtime.devices.cuda_driver import CopyNode, CudaPython, KernelNode
from tests.runtime.fake_gpu import Call, FakeDriver
from tests.runtime.gpu_bundles import HOPPER, bundle_of, cuda_target
from tests.runtime.support import WEIGHT, cpu_target

LADDER = (
    HOPPER, cuda_target("sm_80", 8, 0, "minor", 800), cuda_target("sm_86", 8, 6, "minor", 860),
    cuda_target("sm_100", 10, 0, "exact", 1000), cuda_target("sm_100f", 10, 0, "minor", 999),
    cuda_target("ptx_75", 7, 5, "forward", 75, "ptx"), cuda_target("ptx_80", 8, 0, "forward", 80, "ptx"), cpu_target(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("capability", "chosen"),
    [
        ((9, 0), "sm_90"), ((8, 0), "sm_80"), ((8, 6), "sm_86"), ((8, 9), "sm_86"), ((7, 5), "ptx_75"),
        ((12, 0), "ptx_80"), ((8, 7), "ptx_80"), ((10, 1), "ptx_80"),
        ((10, 0), "sm_100"), ((10, 3), "sm_100f"), ((9, 1), "ptx_80"),
    ],
)  # fmt: skip
def test_selection(capability: tuple[int, int], chosen: str) -> None:
    """Exact code first, then the nearest of the same major version, then the newest PTX."""
    bundle = tessera_runtime.load(bundle_of(*LADDER), device=CudaDevice(FakeDriver(capability)))
    assert bundle.target.name == chosen


def test_no_image() -> None:
    for data in (bundle_of(HOPPER), bundle_of(cpu_target())):
        with pytest.raises(DeviceError) as caught:
            tessera_runtime.load(data, device=CudaDevice(FakeDriver((7, 0))))
        assert caught.value.code == "E904" and "Fake GPU has compute capability 7.0" in caught.value.message
        assert caught.value.help == "build it with `--arch sm_70`"


def test_capability_rules() -> None:
    assert runs_on(Capability(8, 6, "minor"), 8, 9) and not runs_on(Capability(8, 6, "minor"), 8, 0)
    assert not runs_on(Capability(8, 0, "minor"), 9, 0) and runs_on(Capability(8, 0, "forward"), 9, 0)
    assert runs_on(Capability(8, 7, "minor"), 8, 7) and not runs_on(Capability(8, 7, "minor"), 8, 9)
    assert not runs_on(Capability(9, 0, "exact"), 9, 1) and not runs_on(Capability(8, 0, "forward"), 7, 5)


def test_the_exact_calls_of_a_launch() -> None:
    driver = FakeDriver()
    bundle = tessera_runtime.load(bundle_of(HOPPER), device=CudaDevice(driver, 1))
    assert driver.calls == [
        ("retain_context", "device1"), ("push_context", "context"), ("load_module", len(b"image sm_90")),
        ("function", "saxpy"), ("function", "add_row"), ("function", "reverse"), ("function", "scalars"),
    ]  # fmt: skip
    driver.calls.clear()
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(300).astype(np.float32), rng.standard_normal(300).astype(np.float32)
    expected = y + np.float32(1.5) * x
    assert bundle["saxpy"](1.5, x, y) is y
    np.testing.assert_array_equal(y, expected)
    block = 0x7000_0000
    one_and_a_half = int(np.float32(1.5).view(np.uint32))
    first = [
        ("push_context", "context"), ("allocate", 2560), ("copy_in", block, 1200), ("copy_in", block + 1280, 1200),
        ("launch", "saxpy", (3, 1, 1), (128, 1, 1), 0, (one_and_a_half, block, block + 1280, 300)),
        ("synchronize",), ("copy_out", block + 1280, 1200),
    ]  # fmt: skip
    assert driver.calls == first
    driver.calls.clear()
    bundle["saxpy"](1.5, x, y)  # the block is used again
    assert driver.calls == [call for call in first if call[0] != "allocate"]


def test_chain_with_temporary_constant_and_copy() -> None:
    driver = FakeDriver()
    bundle = tessera_runtime.load(bundle_of(HOPPER), device=CudaDevice(driver))
    for rows in (3, 70, 1):
        x = np.random.default_rng(rows).standard_normal((rows, 5)).astype(np.float32)
        out0, out1 = bundle["chain"](x)
        np.testing.assert_array_equal(out0, x[:, ::-1] + WEIGHT)
        np.testing.assert_array_equal(out1, x[:, ::-1])
    kinds = [call[0] for call in driver.calls]
    assert (
        kinds.count("copy_in") == 4 and kinds.count("free") == 1
    )  # one input a call and the constant once; one block outgrown
    assert [call[0] for call in driver.calls if call[0] in ("launch", "copy")] == ["launch", "launch", "copy"] * 3
    driver.calls.clear()
    out0, _ = bundle["chain"](np.empty((0, 5), np.float32))
    assert out0.shape == (0, 5) and "launch" not in [call[0] for call in driver.calls]


def test_ptx_text_ends_in_a_zero_byte() -> None:
    driver = FakeDriver()
    tessera_runtime.load(bundle_of(LADDER[5]), device=CudaDevice(driver))
    assert driver.images == [b"image ptx_75\0"]


def test_dynamic_shared_memory() -> None:
    def with_shared(amount: Any) -> tuple[FakeDriver, tessera_runtime.Bundle]:
        plans = list(HOPPER.plans)
        launch = plans[3].steps[0]
        changed = type(launch)(launch.kernel, launch.grid, launch.args, amount)
        plans[3] = type(plans[3])(plans[3].function, plans[3].buffers, (changed,))
        target = type(HOPPER)(**{**HOPPER.__dict__, "plans": tuple(plans)})
        driver = FakeDriver()
        return driver, tessera_runtime.load(bundle_of(target), device=CudaDevice(driver))

    driver, bundle = with_shared(("D", 16384, "mul"))
    for d in (2, 5, 4, 6):
        bundle["reverse"](np.ones((2, d), np.float32))
    assert [call for call in driver.calls if call[0] == "allow_shared"] == [
        ("allow_shared", "reverse", 5 * 16384), ("allow_shared", "reverse", 6 * 16384),
    ]  # fmt: skip
    assert [call[4] for call in driver.calls if call[0] == "launch"] == [d * 16384 for d in (2, 5, 4, 6)]
    with pytest.raises(DeviceError) as caught:
        bundle["reverse"](np.ones((2, 20), np.float32))
    assert (
        caught.value.code == "E907" and "327680 bytes of shared memory; the device has 232448" in caught.value.message
    )
    with pytest.raises(DeviceError) as caught:
        bundle["chain"](np.ones((70_000, 5), np.float32))  # its second launch has the rows in y
    assert caught.value.code == "E907" and "add_row" in caught.value.message


def test_failures_name_the_kernel_and_leave_the_device_usable() -> None:
    driver = FakeDriver()
    bundle = tessera_runtime.load(bundle_of(HOPPER), device=CudaDevice(driver))
    x, y = np.ones(4, np.float32), np.ones(4, np.float32)
    for call, code in (("launch", "E905"), ("synchronize", "E905"), ("allocate", "E906")):
        driver.fail = {call: DeviceError(code, f"cuSomething: CUDA_ERROR_{call.upper()}")}
        with pytest.raises(DeviceError) as caught:
            bundle["saxpy"](
                1.0,
                np.ones(4 << 10, np.float32) if call == "allocate" else x,
                np.ones(4 << 10, np.float32) if call == "allocate" else y,
            )
        assert caught.value.code == code and caught.value.exit_code == 6
        if call != "allocate":
            assert "saxpy (model.py:3)" in caught.value.message
        np.testing.assert_array_equal(y, np.ones(4))
    driver.fail = {}
    np.testing.assert_array_equal(bundle["saxpy"](1.0, x, y), 2 * np.ones(4))


def test_device_numbers() -> None:
    with pytest.raises(DeviceError) as caught:
        CudaDevice(FakeDriver(), 2)
    assert caught.value.code == "E903" and "this machine has 2" in caught.value.message


def test_without_the_package_or_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(DeviceError) as caught:
        CudaPython()
    assert caught.value.code == "E903" and caught.value.help == "pip install 'tessera-runtime[cuda]'"


class _Result:
    def __init__(self, value: int) -> None:
        self.value = value

    def __int__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Result) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]


class FakeBindings:
    """Stands for cuda.bindings.driver: records every function called with its arguments."""

    class CUresult:
        CUDA_SUCCESS = _Result(0)
        CUDA_ERROR_OUT_OF_MEMORY = _Result(2)

    class CUmemorytype:
        CU_MEMORYTYPE_DEVICE = 2

    class CUDA_KERNEL_NODE_PARAMS:
        pass

    class CUDA_MEMCPY3D:
        pass

    class CUdevice_attribute:
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75

    class CUfunction_attribute:
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8

    VALUES: ClassVar[dict[str, tuple[Any, ...]]] = {
        "cuDeviceGetCount": (3,),
        "cuDeviceGet": ("dev",),
        "cuDeviceGetName": (b"GPU\0\0",),
        "cuDeviceGetAttribute": (9,),
        "cuDevicePrimaryCtxRetain": ("ctx",),
        "cuModuleLoadData": ("mod",),
        "cuModuleGetFunction": ("fun",),
        "cuMemAlloc": (4096,),
        "cuGetErrorName": (b"CUDA_ERROR_X",),
        "cuEventCreate": ("event",),
        "cuEventElapsedTime": (2.5,),
        "cuGraphCreate": ("graph",),
        "cuGraphAddKernelNode": ("kernel node",),
        "cuGraphAddMemcpyNode": ("copy node",),
        "cuGraphInstantiate": ("exec",),
        "cuCtxGetCurrent": ("ctx",),
    }

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.results: dict[str, int] = {}
        self.seen_params: list[int] = []

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        def call(*args: Any) -> tuple[Any, ...]:
            self.calls.append((name, *args))
            address = args[9] if name == "cuLaunchKernel" else getattr(args[-1] if args else None, "kernelParams", None)
            if address is not None:
                pointers = (ctypes.c_void_p * 3).from_address(address)
                self.seen_params = [ctypes.c_uint64.from_address(p or 0).value for p in pointers]
            return (_Result(self.results.get(name, 0)), *self.VALUES.get(name, ()))

        return call


def test_the_seam_over_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    fake = FakeBindings()
    package = types.ModuleType("cuda.bindings")
    package.driver = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    driver = CudaPython()
    assert driver.device_count() == 3 and driver.name("dev") == "GPU" and driver.device(0) == "dev"
    assert driver.attribute("dev", "COMPUTE_CAPABILITY_MAJOR") == 9
    driver.push_context(driver.retain_context("dev"))
    assert driver.function(driver.load_module(b"cubin"), "k") == "fun" and driver.allocate(100) == 4096
    driver.copy_in(1, 2, 3)
    driver.copy_out(1, 2, 3)
    driver.copy(1, 2, 3)
    driver.allow_shared("fun", 100_000)
    driver.launch("fun", (4, 5, 6), (128, 1, 1), 64, (1, 2**64 - 1, 7))
    driver.synchronize()
    driver.free(4096)
    assert fake.calls == [
        ("cuInit", 0),
        ("cuDeviceGetCount",),
        ("cuDeviceGetName", 256, "dev"),
        ("cuDeviceGet", 0),
        ("cuDeviceGetAttribute", 75, "dev"),
        ("cuDevicePrimaryCtxRetain", "dev"),
        ("cuCtxPushCurrent", "ctx"),
        ("cuModuleLoadData", b"cubin"),
        ("cuModuleGetFunction", "mod", b"k"),
        ("cuMemAlloc", 100),
        ("cuMemcpyHtoDAsync", 1, 2, 3, 0),
        ("cuMemcpyDtoH", 1, 2, 3),
        ("cuMemcpyDtoDAsync", 1, 2, 3, 0),
        ("cuFuncSetAttribute", "fun", 8, 100_000),
        fake.calls[-3],
        ("cuStreamSynchronize", 0),
        ("cuMemFree", 4096),
    ]
    assert fake.calls[-3][:10] == ("cuLaunchKernel", "fun", 4, 5, 6, 128, 1, 1, 64, 0) and fake.seen_params == [
        1,
        2**64 - 1,
        7,
    ]
    fake.results = {"cuMemAlloc": 2, "cuMemFree": 700}
    for action, code in ((lambda: driver.allocate(1), "E906"), (lambda: driver.free(1), "E905")):
        with pytest.raises(DeviceError) as caught:
            action()
        assert caught.value.code == code and caught.value.message.endswith(": CUDA_ERROR_X")
    fake.results = {"cuInit": 100}
    with pytest.raises(DeviceError) as caught:
        CudaPython()
    assert caught.value.code == "E903"


def test_graphs_and_events_over_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    fake = FakeBindings()
    package = types.ModuleType("cuda.bindings")
    package.driver = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    driver = CudaPython()
    fake.calls.clear()
    event = driver.event()
    driver.record(event, 7)
    driver.wait(8, event)
    assert driver.elapsed(event, event) == 0.0025
    driver.free_event(event)
    assert fake.calls == [
        ("cuEventCreate", 0), ("cuEventRecord", "event", 7), ("cuStreamWaitEvent", 8, "event", 0),
        ("cuEventElapsedTime", "event", "event"), ("cuEventDestroy", "event"),
    ]  # fmt: skip
    fake.calls.clear()
    graph = driver.graph([KernelNode("fun", (4, 5, 6), (128, 1, 1), 64, (1, 2, 3)), CopyNode(1000, 2000, 12)])
    assert fake.seen_params == [1, 2, 3]
    names = [call[0] for call in fake.calls]
    assert names == ["cuGraphCreate", "cuCtxGetCurrent", "cuGraphAddKernelNode", "cuGraphAddMemcpyNode",
                     "cuGraphInstantiate"]  # fmt: skip
    kernel, copy = fake.calls[2], fake.calls[3]
    assert kernel[1:4] == ("graph", [], 0) and copy[1:4] == ("graph", ["kernel node"], 1), "one after the other"
    params = kernel[4]
    assert (params.func, params.gridDimX, params.gridDimY, params.gridDimZ) == ("fun", 4, 5, 6)
    assert (params.blockDimX, params.blockDimY, params.blockDimZ, params.sharedMemBytes) == (128, 1, 1, 64)
    assert (copy[4].dstDevice, copy[4].srcDevice, copy[4].WidthInBytes, copy[4].Height, copy[4].Depth) == (
        1000, 2000, 12, 1, 1,
    )  # fmt: skip
    fake.calls.clear()
    driver.graph_set(graph, 0, KernelNode("fun", (4, 5, 6), (128, 1, 1), 64, (7, 8, 9)))
    driver.graph_set(graph, 1, CopyNode(1, 2, 12))
    driver.graph_launch(graph, 7)
    driver.free_graph(graph)
    assert fake.seen_params == [7, 8, 9]
    assert [call[:3] for call in fake.calls] == [
        ("cuGraphExecKernelNodeSetParams", "exec", "kernel node"),
        ("cuGraphExecMemcpyNodeSetParams", "exec", "copy node"),
        ("cuGraphLaunch", "exec", 7), ("cuGraphExecDestroy", "exec"), ("cuGraphDestroy", "graph"),
    ]  # fmt: skip
    fake.calls.clear()
    fake.results = {"cuGraphInstantiate": 700}
    with pytest.raises(DeviceError):
        driver.graph([CopyNode(1, 2, 3)])
    assert fake.calls[-1][0] == "cuGraphDestroy", "nothing is left behind"
