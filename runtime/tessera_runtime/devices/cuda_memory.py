"""Device memory: blocks that are kept for later calls, in the order of one stream, and arrays that lie in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tessera_runtime import dlpack
from tessera_runtime.core import usage
from tessera_runtime.core.dtypes import DTYPES, np_dtype
from tessera_runtime.core.errors import DeviceError, InputError, TesseraError
from tessera_runtime.core.locks import rlock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tessera_runtime.devices.cuda import CudaDevice

__all__ = ["ALIGN", "Block", "BlockPool", "DeviceArray", "import_array"]

ALIGN = 256


class BlockPool:
    """Blocks of a device that no call uses. A block may be taken again while earlier work on it is still queued: all
    work is queued on one stream, so the new comes after the old."""

    def __init__(self, device: CudaDevice) -> None:
        self.device = device
        self._idle: list[tuple[int, int]] = []  # bytes, pointer
        self._lock = rlock()  # a collection while it is held may give a block back
        self._closed = False

    def take(self, nbytes: int) -> Block:
        """A block of at least `nbytes`. When none is large enough, those that are idle are given back first."""
        with self._lock:
            fits = [block for block in self._idle if block[0] >= nbytes]
            if fits:
                best = min(fits)
                self._idle.remove(best)
                return Block(self, *best)
            small, self._idle = self._idle, []
        self._free(small)
        size = max(-(-nbytes // ALIGN) * ALIGN, ALIGN)
        pointer = self.device.driver.allocate(size)
        usage.add("device", size)
        return Block(self, size, pointer)

    def give(self, size: int, pointer: int) -> None:
        """Take a block back."""
        with self._lock:
            if not self._closed:
                self._idle.append((size, pointer))
                return
        with suppress(TesseraError), self.device.active():
            self._free([(size, pointer)])

    def _free(self, blocks: Sequence[tuple[int, int]]) -> None:
        for size, pointer in blocks:
            self.device.driver.free(pointer)
            usage.add("device", -size)

    def __del__(self) -> None:
        self._closed = True  # blocks of the same garbage may come later
        with suppress(TesseraError):  # at the end of a process the driver may be gone
            if self._idle:
                with self.device.active():
                    self._free(self._idle)


class Block:
    """Device memory that goes back to its pool when nobody uses it."""

    def __init__(self, pool: BlockPool, size: int, pointer: int) -> None:
        self.size, self.pointer = size, pointer
        self._pool = pool
        self._readers: set[int] = set()  # streams of others that were handed the memory

    def shared_with(self, stream: int) -> None:
        """Somebody queues work on the block on another stream, before giving it back."""
        self._readers.add(stream)

    def __del__(self) -> None:
        device = self._pool.device
        with suppress(TesseraError):  # at the end of a process the driver may be gone
            for stream in self._readers:
                device.follow(stream)
        self._pool.give(self.size, self.pointer)


class DeviceArray:
    """A dense array in device memory: an argument that is not copied, or a result that stays on the device.

    Its values are there in the order of the device's stream. `numpy()` and `np.asarray` wait and copy to the host;
    `torch.from_dlpack`, `cupy.from_dlpack` and `__cuda_array_interface__` share the memory. `origin` tells, for errors,
    what computes it.
    """

    def __init__(
        self, device: CudaDevice, pointer: int, dtype: str, shape: tuple[int, ...], owner: object,
        readonly: bool = False, origin: str = "",
    ) -> None:  # fmt: skip
        self.device, self.pointer, self.dtype, self.shape = device, pointer, dtype, shape
        self.owner, self.readonly, self.origin = owner, readonly, origin

    @property
    def ndim(self) -> int:
        """The rank."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def numpy(self) -> NDArray[Any]:
        """A copy on the host. Waits; E905 for a fault in what computes it."""
        import numpy as np

        result = np.empty(self.shape, np_dtype(self.dtype))
        with self.device.active():
            self.device.wait(self.origin)
            if result.nbytes:
                self.device.driver.copy_out(result.ctypes.data, self.pointer, result.nbytes)
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the array lies on a device; only a copy can be an array of NumPy")
        data = self.numpy()
        return data if dtype is None else data.astype(dtype)

    def copy(self) -> DeviceArray:
        """The same values in memory of its own."""
        result = empty(self.device, self.dtype, self.shape, self.origin)
        if self.nbytes:
            with self.device.active():
                self.device.driver.copy(result.pointer, self.pointer, self.nbytes, self.device.stream)
        return result

    def overlaps(self, other: object) -> bool:
        """Whether both use a byte in common."""
        if not isinstance(other, DeviceArray) or other.device is not self.device:
            return False
        return self.pointer < other.pointer + other.nbytes and other.pointer < self.pointer + self.nbytes

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device.ordinal

    def __dlpack__(
        self, *, stream: Any = None, max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None, copy: bool | None = None,
    ) -> Any:  # fmt: skip
        """A capsule. The consumer's `stream` (DLPack's numbering; -1: none) waits for what computes the values."""
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError("the array stays on its device; copy it to the host with numpy()")
        if stream == 0:
            raise BufferError("stream 0 is ambiguous in DLPack: 1 is the default stream, 2 the one of the thread")
        source = self.copy() if copy else self
        if stream != -1:
            handle = 0 if stream in (None, 1) else int(stream)
            self.device.lead(handle)
            if handle != self.device.stream and isinstance(source.owner, Block):
                source.owner.shared_with(handle)
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(self.ndim)]
        return dlpack.capsule(
            source.pointer, self.__dlpack_device__(), self.dtype, self.shape, strides, source.readonly,
            source.owner, max_version, bool(copy),
        )  # fmt: skip

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3: the memory, and the stream on which its values are there. For types that NumPy has."""
        entry = DTYPES[self.dtype]
        if entry.numpy != entry.raw:
            raise AttributeError(f"the CUDA array interface has no type {self.dtype}; use DLPack")
        import numpy as np

        return {
            "version": 3, "shape": self.shape, "typestr": np.dtype(entry.numpy).str, "strides": None,
            "data": (self.pointer, self.readonly), "stream": self.device.stream or 1,
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<{self.dtype}{list(self.shape)} on {self.device.name}>"


def empty(device: CudaDevice, dtype: str, shape: Sequence[int], origin: str = "") -> DeviceArray:
    """A new array of undefined contents. E906 when there is no memory."""
    with device.active():
        block = device.pool.take(math.prod(shape) * DTYPES[dtype].itemsize)
    return DeviceArray(device, block.pointer, dtype, tuple(shape), block, origin=origin)


def import_array(device: CudaDevice, value: Any, what: str) -> DeviceArray | None:
    """An argument that lies on this device, as it lies; None for one that does not. E708 if it cannot be used.

    The producer makes this device's stream wait for its own work (DLPack's `stream`).
    """
    if isinstance(value, DeviceArray) and value.device is device:
        return value
    if not hasattr(value, "__dlpack_device__") or not hasattr(value, "__dlpack__"):
        return None
    kind, number = dlpack.device_of(value, what)
    if kind != dlpack.CUDA:
        return None
    if number != device.ordinal:
        raise InputError("E708", f"{what} lies on cuda:{number}, and the bundle runs on {device.name}")
    with device.active():
        taken = dlpack.take(value, what, (kind, number), device.stream or 1)
    dense = [math.prod(taken.shape[axis + 1 :]) for axis in range(len(taken.shape))]
    strided = any(s != d for s, d, n in zip(taken.strides, dense, taken.shape, strict=True) if n > 1)
    if strided and 0 not in taken.shape:
        raise InputError("E708", f"{what} is not contiguous", help="copy it to dense, row-major memory on its device")
    return DeviceArray(device, taken.pointer, taken.dtype, taken.shape, taken.owner, taken.readonly)


def failed(error: DeviceError, origin: str) -> DeviceError:
    """The error of a wait, with what ran."""
    return DeviceError(error.code, f"{error.message}, in {origin}", help=error.help) if origin else error
