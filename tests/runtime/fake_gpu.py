"""A GPU made of bytes: a driver that records its calls, has memory, and runs kernels that are Python functions."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tessera_runtime.core.errors import DeviceError

__all__ = ["Call", "FakeDriver"]

Call = tuple[Any, ...]


class FakeDriver:
    """A driver that records its calls and runs kernels given as Python functions of their slots."""

    def __init__(self, capability: tuple[int, int] = (9, 0), fail: dict[str, DeviceError] | None = None) -> None:
        self.calls: list[Call] = []
        self.capability = capability
        self.fail = fail or {}
        self.memory: dict[int, Any] = {}
        self.next = 0x7000_0000
        self.images: list[bytes] = []

    def record(self, *call: Any) -> None:
        self.calls.append(call)
        if call[0] in self.fail:
            raise self.fail[call[0]]

    def device_count(self) -> int:
        return 2

    def device(self, ordinal: int) -> str:
        return f"device{ordinal}"

    def name(self, device: Any) -> str:
        return "Fake GPU"

    def attribute(self, device: Any, name: str) -> int:
        return {"COMPUTE_CAPABILITY_MAJOR": self.capability[0], "COMPUTE_CAPABILITY_MINOR": self.capability[1],
                "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 232448}[name]  # fmt: skip

    def retain_context(self, device: Any) -> str:
        self.record("retain_context", device)
        return "context"

    def set_context(self, context: Any) -> None:
        self.record("set_context", context)

    def load_module(self, image: bytes) -> str:
        self.images.append(image)
        self.record("load_module", len(image))
        return "module"

    def function(self, module: Any, symbol: str) -> str:
        self.record("function", symbol)
        return symbol

    def allow_shared(self, function: Any, nbytes: int) -> None:
        self.record("allow_shared", function, nbytes)

    def allocate(self, nbytes: int) -> int:
        self.record("allocate", nbytes)
        pointer = self.next
        self.next += nbytes + 4096
        self.memory[pointer] = ctypes.create_string_buffer(b"\xaa" * nbytes, nbytes)
        return pointer

    def free(self, pointer: int) -> None:
        self.record("free", pointer)
        del self.memory[pointer]

    def host(self, pointer: int, nbytes: int) -> int:
        """The host address behind a device pointer; the range must lie in one allocation."""
        for start, data in self.memory.items():
            if start <= pointer and pointer + nbytes <= start + len(data):
                return ctypes.addressof(data) + pointer - start
        raise AssertionError(f"{pointer:#x}+{nbytes} is not allocated")

    def copy_in(self, pointer: int, address: int, nbytes: int) -> None:
        self.record("copy_in", pointer, nbytes)
        ctypes.memmove(self.host(pointer, nbytes), address, nbytes)

    def copy_out(self, address: int, pointer: int, nbytes: int) -> None:
        self.record("copy_out", pointer, nbytes)
        ctypes.memmove(address, self.host(pointer, nbytes), nbytes)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self.record("copy", target, source, nbytes)
        ctypes.memmove(self.host(target, nbytes), self.host(source, nbytes), nbytes)

    def launch(
        self, function: Any, grid: Sequence[int], block: Sequence[int], shared: int, slots: Sequence[int]
    ) -> None:
        self.record("launch", function, tuple(grid), tuple(block), shared, tuple(slots))
        KERNELS[function](self, grid, slots)

    def synchronize(self) -> None:
        self.record("synchronize")

    def floats(self, pointer: int, count: int) -> np.ndarray:
        address = self.host(pointer, 4 * count)
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


def fake_saxpy(driver: FakeDriver, grid: Sequence[int], slots: Sequence[int]) -> None:
    (a,) = struct.unpack("<f", slots[0].to_bytes(8, "little")[:4])
    n = slots[3]
    driver.floats(slots[2], n)[:] += np.float32(a) * driver.floats(slots[1], n)


def fake_add_row(driver: FakeDriver, grid: Sequence[int], slots: Sequence[int]) -> None:
    rows, d = grid[0] * grid[1], slots[3]
    x = driver.floats(slots[0], rows * d).reshape(rows, d)
    driver.floats(slots[2], rows * d)[:] = (x + driver.floats(slots[1], d)).reshape(-1)


def fake_reverse(driver: FakeDriver, grid: Sequence[int], slots: Sequence[int]) -> None:
    rows, d = grid[0], slots[2]
    driver.floats(slots[1], rows * d)[:] = driver.floats(slots[0], rows * d).reshape(rows, d)[:, ::-1].reshape(-1)


KERNELS: dict[str, Callable[[FakeDriver, Sequence[int], Sequence[int]], None]] = {
    "saxpy": fake_saxpy, "add_row": fake_add_row, "reverse": fake_reverse,
}  # fmt: skip
