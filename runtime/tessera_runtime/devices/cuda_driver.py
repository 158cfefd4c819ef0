"""The few driver calls that running a bundle on an NVIDIA GPU needs: a protocol, and its implementation by cuda-python.

Handles are opaque; device pointers, host addresses and streams are integers, 0 being the default stream. Every call
raises DeviceError: E906 when memory ran out, else E905 with the call and the driver's name for the error.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from tessera_runtime.control import row_strides
from tessera_runtime.core.dtypes import DTYPES
from tessera_runtime.core.errors import DeviceError

__all__ = ["CopyNode", "CudaPython", "Driver", "Handle", "KernelNode", "Node"]

Handle = Any


class KernelNode(NamedTuple):
    """A launch. `slots` are the parameters' bits, each in the low bytes of 64; tensor maps are their 128 bytes."""

    function: Handle
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    slots: tuple[int | bytes, ...]


class CopyNode(NamedTuple):
    """A copy within device memory."""

    target: int
    source: int
    nbytes: int


Node = KernelNode | CopyNode


class Driver(Protocol):
    """The seam: whatever offers these calls can run bundles."""

    def device_count(self) -> int:
        """How many devices there are."""

    def device(self, ordinal: int) -> Handle:
        """A device by its number."""

    def name(self, device: Handle) -> str:
        """What the device calls itself."""

    def attribute(self, device: Handle, name: str) -> int:
        """A device attribute by the driver's name without its prefix, such as COMPUTE_CAPABILITY_MAJOR."""

    def retain_context(self, device: Handle) -> Handle:
        """The device's primary context."""

    def push_context(self, context: Handle) -> None:
        """Make a context the calling thread's, above the one that is."""

    def pop_context(self) -> None:
        """Make the one below the calling thread's again."""

    def load_module(self, image: bytes) -> Handle:
        """Load a cubin, or PTX text that ends in a zero byte, which the driver compiles."""

    def unload_module(self, module: Handle) -> None:
        """Give a module back, none of whose kernels runs any more."""

    def function(self, module: Handle, symbol: str) -> Handle:
        """A kernel of a module."""

    def allow_shared(self, function: Handle, nbytes: int) -> None:
        """Let a kernel use so much dynamic shared memory; needed beyond 48 KiB."""

    def allocate(self, nbytes: int) -> int:
        """Device memory, aligned to 256 bytes at least."""

    def free(self, pointer: int) -> None:
        """Give device memory back."""

    def copy_in(self, pointer: int, address: int, nbytes: int, stream: int = 0) -> None:
        """Host to device, in order with the stream; the host's memory may change when this returns."""

    def copy_out(self, address: int, pointer: int, nbytes: int) -> None:
        """Device to host; what writes there must have been waited for."""

    def copy(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        """Device to device, in order with the stream."""

    def tensor_map(self, dtype: str, pointer: int, extents: Sequence[int], box: Sequence[int], span: int) -> bytes:
        """The 128 bytes of a row-major tensor for copies of boxes, whose rows of `span` bytes are swizzled."""

    def launch(
        self, function: Handle, grid: Sequence[int], block: Sequence[int], shared: int, slots: Sequence[int | bytes],
        stream: int = 0,
    ) -> None:  # fmt: skip
        """Queue a launch; `slots` as in `KernelNode`."""

    def synchronize(self, stream: int = 0) -> None:
        """Wait for everything queued."""

    def event(self) -> Handle:
        """A new event, which can be timed."""

    def record(self, event: Handle, stream: int) -> None:
        """The event happens when what is queued so far is done."""

    def wait(self, stream: int, event: Handle) -> None:
        """What is queued from now on happens after the event."""

    def elapsed(self, start: Handle, stop: Handle) -> float:
        """Seconds between two events that have happened."""

    def free_event(self, event: Handle) -> None:
        """Give an event back; one that is waited for still happens."""

    def graph(self, nodes: Sequence[Node]) -> Handle:
        """These nodes, one after the other, ready to be launched at once."""

    def graph_set(self, graph: Handle, index: int, node: Node) -> None:
        """Change the operands of one node for launches from now on; kind, kernel and sizes stay."""

    def graph_launch(self, graph: Handle, stream: int) -> None:
        """Queue a whole graph."""

    def free_graph(self, graph: Handle) -> None:
        """Give a graph back; launches that are queued still happen."""


class CudaPython:
    """The driver through NVIDIA's cuda-python package."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise DeviceError(
                "E903", "the package cuda-python is not installed", help="pip install 'tessera-runtime[cuda]'"
            ) from error
        self._driver = driver
        try:
            (result,) = driver.cuInit(0)
        except Exception as error:  # the package reports a missing libcuda by an exception of its own
            raise DeviceError("E903", "the NVIDIA driver is not installed on this machine") from error
        if result != driver.CUresult.CUDA_SUCCESS:
            raise DeviceError("E903", f"the NVIDIA driver does not start: {self._error_name(result)}")

    def _error_name(self, result: Any) -> str:
        status, name = self._driver.cuGetErrorName(result)
        return name.decode() if int(status) == 0 and name else f"error {int(result)}"

    def _call(self, name: str, *args: Any) -> Any:
        """Call a driver function; its value, or a tuple of values, or None."""
        result, *values = getattr(self._driver, name)(*args)
        if result != self._driver.CUresult.CUDA_SUCCESS:
            code = "E906" if result == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY else "E905"
            raise DeviceError(code, f"{name}: {self._error_name(result)}")
        return values[0] if len(values) == 1 else tuple(values) if values else None

    def device_count(self) -> int:
        return int(self._call("cuDeviceGetCount"))

    def device(self, ordinal: int) -> Handle:
        return self._call("cuDeviceGet", ordinal)

    def name(self, device: Handle) -> str:
        raw: bytes = self._call("cuDeviceGetName", 256, device)
        return raw.split(b"\0")[0].decode(errors="replace")

    def attribute(self, device: Handle, name: str) -> int:
        attribute = getattr(self._driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call("cuDeviceGetAttribute", attribute, device))

    def retain_context(self, device: Handle) -> Handle:
        return self._call("cuDevicePrimaryCtxRetain", device)

    def push_context(self, context: Handle) -> None:
        self._call("cuCtxPushCurrent", context)

    def pop_context(self) -> None:
        self._call("cuCtxPopCurrent")

    def load_module(self, image: bytes) -> Handle:
        return self._call("cuModuleLoadData", image)

    def unload_module(self, module: Handle) -> None:
        self._call("cuModuleUnload", module)

    def function(self, module: Handle, symbol: str) -> Handle:
        return self._call("cuModuleGetFunction", module, symbol.encode())

    def allow_shared(self, function: Handle, nbytes: int) -> None:
        attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._call("cuFuncSetAttribute", function, attribute, nbytes)

    def allocate(self, nbytes: int) -> int:
        return int(self._call("cuMemAlloc", nbytes))

    def free(self, pointer: int) -> None:
        self._call("cuMemFree", pointer)

    def copy_in(self, pointer: int, address: int, nbytes: int, stream: int = 0) -> None:
        # From pageable memory, which NumPy's is, this returns when the bytes have been taken.
        self._call("cuMemcpyHtoDAsync", pointer, address, nbytes, stream)

    def copy_out(self, address: int, pointer: int, nbytes: int) -> None:
        self._call("cuMemcpyDtoH", address, pointer, nbytes)

    def copy(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    def tensor_map(self, dtype: str, pointer: int, extents: Sequence[int], box: Sequence[int], span: int) -> bytes:
        d = self._driver
        size = DTYPES[dtype].itemsize
        names = {"f16": "FLOAT16", "bf16": "BFLOAT16", "f32": "FLOAT32", "f64": "FLOAT64"}
        name = names.get(dtype, f"UINT{8 * size}")  # what copies move are bits
        found = self._call(
            "cuTensorMapEncodeTiled",
            getattr(d.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{name}"), len(extents), pointer,
            [d.cuuint64_t(n) for n in reversed(extents)], [d.cuuint64_t(n) for n in row_strides(extents, size)],
            [d.cuuint32_t(n) for n in reversed(box)], [d.cuuint32_t(1)] * len(box),
            d.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            getattr(d.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{span}B"),
            d.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            d.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )  # fmt: skip
        return ctypes.string_at(int(found.getPtr()), 128)

    def launch(
        self, function: Handle, grid: Sequence[int], block: Sequence[int], shared: int, slots: Sequence[int | bytes],
        stream: int = 0,
    ) -> None:  # fmt: skip
        packed = _Parameters(slots)
        self._call("cuLaunchKernel", function, *grid, *block, shared, stream, packed.address, 0)

    def synchronize(self, stream: int = 0) -> None:
        self._call("cuStreamSynchronize", stream)

    def event(self) -> Handle:
        return self._call("cuEventCreate", 0)

    def record(self, event: Handle, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: Handle) -> None:
        self._call("cuStreamWaitEvent", stream, event, 0)

    def elapsed(self, start: Handle, stop: Handle) -> float:
        return float(self._call("cuEventElapsedTime", start, stop)) * 1e-3

    def free_event(self, event: Handle) -> None:
        self._call("cuEventDestroy", event)

    def graph(self, nodes: Sequence[Node]) -> Handle:
        graph = self._call("cuGraphCreate", 0)
        try:
            handles: list[Handle] = []
            context = self._call("cuCtxGetCurrent")
            for node in nodes:
                before = handles[-1:]
                if isinstance(node, KernelNode):
                    packed = _Parameters(node.slots)  # copied by the call
                    made = self._call("cuGraphAddKernelNode", graph, before, len(before), self._kernel(node, packed))
                else:
                    made = self._call("cuGraphAddMemcpyNode", graph, before, len(before), self._copy(node), context)
                handles.append(made)
            # Nodes name operands to change only as long as the graph that they are of exists.
            return self._call("cuGraphInstantiate", graph, 0), handles, context, graph
        except DeviceError:
            self._call("cuGraphDestroy", graph)
            raise

    def graph_set(self, graph: Handle, index: int, node: Node) -> None:
        executable, handles, context, _ = graph
        if isinstance(node, KernelNode):
            packed = _Parameters(node.slots)
            self._call("cuGraphExecKernelNodeSetParams", executable, handles[index], self._kernel(node, packed))
        else:
            self._call("cuGraphExecMemcpyNodeSetParams", executable, handles[index], self._copy(node), context)

    def graph_launch(self, graph: Handle, stream: int) -> None:
        self._call("cuGraphLaunch", graph[0], stream)

    def free_graph(self, graph: Handle) -> None:
        self._call("cuGraphExecDestroy", graph[0])
        self._call("cuGraphDestroy", graph[3])

    def _kernel(self, node: KernelNode, packed: _Parameters) -> Any:
        params = self._driver.CUDA_KERNEL_NODE_PARAMS()
        params.func = node.function
        params.gridDimX, params.gridDimY, params.gridDimZ = node.grid
        params.blockDimX, params.blockDimY, params.blockDimZ = node.block
        params.sharedMemBytes, params.kernelParams = node.shared, packed.address
        return params

    def _copy(self, node: CopyNode) -> Any:
        params = self._driver.CUDA_MEMCPY3D()
        params.srcMemoryType = params.dstMemoryType = self._driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        params.srcDevice, params.dstDevice = node.source, node.target
        params.WidthInBytes, params.Height, params.Depth = node.nbytes, 1, 1
        return params


class _Parameters:
    """A kernel's parameters in memory: the driver reads each at its own size, the low bytes, from where it is told."""

    def __init__(self, slots: Sequence[int | bytes]) -> None:
        count = max(len(slots), 1)
        self._values = [_slot(slot) for slot in slots]
        self._pointers = (ctypes.c_void_p * count)(*map(ctypes.addressof, self._values))
        self.address = ctypes.addressof(self._pointers)


def _slot(slot: int | bytes) -> ctypes.c_uint64 | ctypes.Array[ctypes.c_char]:
    return ctypes.c_uint64(slot) if isinstance(slot, int) else (ctypes.c_char * len(slot)).from_buffer_copy(slot)
