"""A GPU made of bytes: a driver that records its calls, has memory, and runs kernels that are Python functions."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tessera_runtime.core.errors import DeviceError
from tessera_runtime.devices.cuda_driver import CopyNode, KernelNode, Node

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
        self.clock = 0.0  # seconds that the device has worked
        self.events: dict[int, float] = {}  # the device's time when each event happened
        self.graphs: dict[int, list[Node]] = {}
        self.orders: list[tuple[int, int]] = []  # (stream, stream that waits for it)
        self.contexts: list[Any] = ["another library's"]
        self._recorded: dict[int, int] = {}
        self._handles = 0

    def note(self, *call: Any) -> None:
        """Every call but those for a context is made in the device's."""
        assert call[0].endswith("_context") or self.contexts[-1] == "context", call
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
                "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 232448, "MULTIPROCESSOR_COUNT": 132,
                "CLOCK_RATE": 1_980_000}[name]  # fmt: skip

    def retain_context(self, device: Any) -> str:
        self.note("retain_context", device)
        return "context"

    def push_context(self, context: Any) -> None:
        self.note("push_context", context)
        self.contexts.append(context)

    def pop_context(self) -> None:
        assert self.contexts.pop() == "context"

    def load_module(self, image: bytes) -> str:
        self.images.append(image)
        self.note("load_module", len(image))
        return "module"

    def unload_module(self, module: Any) -> None:
        self.note("unload_module", module)

    def function(self, module: Any, symbol: str) -> str:
        self.note("function", symbol)
        return symbol

    def allow_shared(self, function: Any, nbytes: int) -> None:
        self.note("allow_shared", function, nbytes)

    def allocate(self, nbytes: int) -> int:
        self.note("allocate", nbytes)
        pointer = self.next
        self.next += nbytes + 4096
        self.memory[pointer] = ctypes.create_string_buffer(b"\xaa" * nbytes, nbytes)
        return pointer

    def free(self, pointer: int) -> None:
        self.note("free", pointer)
        del self.memory[pointer]

    def host(self, pointer: int, nbytes: int) -> int:
        """The host address behind a device pointer; the range must lie in one allocation."""
        for start, data in self.memory.items():
            if start <= pointer and pointer + nbytes <= start + len(data):
                return ctypes.addressof(data) + pointer - start
        raise AssertionError(f"{pointer:#x}+{nbytes} is not allocated")

    def copy_in(self, pointer: int, address: int, nbytes: int, stream: int = 0) -> None:
        self.record_on(stream, "copy_in", pointer, nbytes)
        ctypes.memmove(self.host(pointer, nbytes), address, nbytes)

    def copy_out(self, address: int, pointer: int, nbytes: int) -> None:
        self.note("copy_out", pointer, nbytes)
        ctypes.memmove(address, self.host(pointer, nbytes), nbytes)

    def copy(self, target: int, source: int, nbytes: int, stream: int = 0) -> None:
        self.record_on(stream, "copy", target, source, nbytes)
        self._run(CopyNode(target, source, nbytes))

    def tensor_map(self, dtype: str, pointer: int, extents: Sequence[int], box: Sequence[int], span: int) -> bytes:
        self.note("tensor_map", dtype, pointer, tuple(extents), tuple(box), span)
        return struct.pack("<Q", pointer) + bytes(120)

    def launch(
        self, function: Any, grid: Sequence[int], block: Sequence[int], shared: int, slots: Sequence[int],
        stream: int = 0,
    ) -> None:  # fmt: skip
        self.record_on(stream, "launch", function, tuple(grid), tuple(block), shared, tuple(slots))
        self._run(KernelNode(function, tuple(grid), tuple(block), shared, tuple(slots)))

    def record_on(self, stream: int, *call: Any) -> None:
        """A call on a stream; the default one is not shown."""
        self.note(*call, *([f"stream {stream}"] if stream else []))

    def _run(self, node: Node) -> None:
        if isinstance(node, CopyNode):
            self.clock += node.nbytes / 1e12
            ctypes.memmove(self.host(node.target, node.nbytes), self.host(node.source, node.nbytes), node.nbytes)
        else:
            self.clock += 5e-6
            KERNELS[node.function](self, node.grid, node.slots)

    def synchronize(self, stream: int = 0) -> None:
        self.record_on(stream, "synchronize")

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

    def event(self) -> int:
        event = self._handle()
        self.events[event] = -1.0
        return event

    def record(self, event: int, stream: int) -> None:
        self.events[event] = self.clock
        self._recorded[event] = stream

    def wait(self, stream: int, event: int) -> None:
        self.orders.append((self._recorded[event], stream))

    def elapsed(self, start: int, stop: int) -> float:
        return self.events[stop] - self.events[start]

    def free_event(self, event: int) -> None:
        del self.events[event]

    def graph(self, nodes: Sequence[Node]) -> int:
        self.note("graph", len(nodes))
        graph = self._handle()
        self.graphs[graph] = list(nodes)
        return graph

    def graph_set(self, graph: int, index: int, node: Node) -> None:
        self.note("graph_set", index)
        old = self.graphs[graph][index]
        assert type(old) is type(node) and (isinstance(node, CopyNode) or old[0] == node[0]), "a node keeps its kernel"
        self.graphs[graph][index] = node

    def graph_launch(self, graph: int, stream: int) -> None:
        self.record_on(stream, "graph_launch")
        for node in self.graphs[graph]:
            self._run(node)

    def free_graph(self, graph: int) -> None:
        self.note("free_graph")
        del self.graphs[graph]

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
