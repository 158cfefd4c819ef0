"""The few driver calls that running a bundle on an NVIDIA GPU needs: a protocol, and its implementation by cuda-python.

Handles are opaque; device pointers and host addresses are integers. Every call raises DeviceError: E906 when memory
ran out, else E905 with the call and the driver's name for the error.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

from tessera_runtime.core.errors import DeviceError

__all__ = ["CudaPython", "Driver", "Handle"]

Handle = Any


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

    def set_context(self, context: Handle) -> None:
        """Make a context the calling thread's."""

    def load_module(self, image: bytes) -> Handle:
        """Load a cubin, or PTX text that ends in a zero byte, which the driver compiles."""

    def function(self, module: Handle, symbol: str) -> Handle:
        """A kernel of a module."""

    def allow_shared(self, function: Handle, nbytes: int) -> None:
        """Let a kernel use so much dynamic shared memory; needed beyond 48 KiB."""

    def allocate(self, nbytes: int) -> int:
        """Device memory, aligned to 256 bytes at least."""

    def free(self, pointer: int) -> None:
        """Give device memory back."""

    def copy_in(self, pointer: int, address: int, nbytes: int) -> None:
        """Host to device."""

    def copy_out(self, address: int, pointer: int, nbytes: int) -> None:
        """Device to host, after all earlier work."""

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Device to device, in order with launches."""

    def launch(
        self, function: Handle, grid: Sequence[int], block: Sequence[int], shared: int, slots: Sequence[int]
    ) -> None:
        """Queue a launch. `slots` are the parameters' bits, each in the low bytes of 64."""

    def synchronize(self) -> None:
        """Wait for everything queued."""


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

    def set_context(self, context: Handle) -> None:
        self._call("cuCtxSetCurrent", context)

    def load_module(self, image: bytes) -> Handle:
        return self._call("cuModuleLoadData", image)

    def function(self, module: Handle, symbol: str) -> Handle:
        return self._call("cuModuleGetFunction", module, symbol.encode())

    def allow_shared(self, function: Handle, nbytes: int) -> None:
        attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._call("cuFuncSetAttribute", function, attribute, nbytes)

    def allocate(self, nbytes: int) -> int:
        return int(self._call("cuMemAlloc", nbytes))

    def free(self, pointer: int) -> None:
        self._call("cuMemFree", pointer)

    def copy_in(self, pointer: int, address: int, nbytes: int) -> None:
        self._call("cuMemcpyHtoD", pointer, address, nbytes)

    def copy_out(self, address: int, pointer: int, nbytes: int) -> None:
        self._call("cuMemcpyDtoH", address, pointer, nbytes)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, nbytes, 0)

    def launch(
        self, function: Handle, grid: Sequence[int], block: Sequence[int], shared: int, slots: Sequence[int]
    ) -> None:
        # The driver reads each parameter at its own size from where its pointer points: the low bytes.
        values = (ctypes.c_uint64 * max(len(slots), 1))(*slots)
        base = ctypes.addressof(values)
        pointers = (ctypes.c_void_p * max(len(slots), 1))(*(base + 8 * i for i in range(len(slots))))
        self._call("cuLaunchKernel", function, *grid, *block, shared, 0, ctypes.addressof(pointers), 0)

    def synchronize(self) -> None:
        self._call("cuStreamSynchronize", 0)
