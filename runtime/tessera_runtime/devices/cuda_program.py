"""A bundle's module on a GPU, and running plans on it.

Of a call, everything that is on the host lies on the device in one block while it runs: inputs, results, temporaries,
each 256-byte aligned; arguments on the device are used where they lie. Constants are uploaded when first used.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tessera_runtime.control import BranchStep, CopyStep, LaunchStep, LoopStep, walk
from tessera_runtime.core import recording, usage
from tessera_runtime.core.errors import DeviceError, TesseraError
from tessera_runtime.core.locks import lock
from tessera_runtime.core.manifest import Kernel, Target
from tessera_runtime.core.places import place
from tessera_runtime.devices.cuda_driver import CopyNode, Handle, KernelNode, Node
from tessera_runtime.devices.cuda_graphs import Capture, Graphs
from tessera_runtime.devices.cuda_memory import ALIGN, DeviceArray, failed
from tessera_runtime.plan import Instance
from tessera_runtime.recorded import span

if TYPE_CHECKING:
    from tessera_runtime.bundle import BundleFile
    from tessera_runtime.devices.cuda import CudaDevice

__all__ = ["CudaProgram"]

_DEFAULT_SHARED = 48 << 10  # dynamic shared memory that needs no asking
_MAX_GRID = (0x7FFFFFFF, 0xFFFF, 0xFFFF)
_MASK = (1 << 64) - 1


class CudaProgram:
    """A loaded module and its kernels."""

    def __init__(self, device: CudaDevice, file: BundleFile, target: Target) -> None:
        self._device, self._driver, self._file, self._target = device, device.driver, file, target
        self._module: Handle = None
        self._constants: dict[str, tuple[int, int]] = {}  # pointer, bytes
        self._graphs: Graphs | None = None
        image = file.entry(target.image)
        with device.active():
            self._module = self._driver.load_module(image + b"\0" if target.format == "ptx" else image)
            self._functions = [self._driver.function(self._module, kernel.symbol) for kernel in target.kernels]
        self._shared = [_DEFAULT_SHARED] * len(self._functions)  # dynamic shared memory each kernel may use
        self._by_name = {constant.name: constant for constant in file.manifest.constants}
        self._lock = lock()

    def __del__(self) -> None:
        """Give graphs, constants and the module back, when what was queued has run."""
        if self._module is None:
            return
        with suppress(TesseraError), self._device.active():  # at the end of a process the driver may be gone
            with suppress(DeviceError):  # it is told to whoever waits for results
                self._driver.synchronize(self._device.stream)
            if self._graphs is not None:
                self._graphs.clear()
            for pointer, size in self._constants.values():
                self._driver.free(pointer)
                usage.add("device", -size)
            self._driver.unload_module(self._module)

    def capture_graphs(self, capture: Capture) -> None:
        """From now on run calls as CUDA graphs."""
        self._graphs = Graphs(self._driver, capture)

    @property
    def graphs(self) -> int:
        """How many graphs are held."""
        return 0 if self._graphs is None else len(self._graphs)

    def run(self, instance: Instance, arrays: Sequence[Any], scalars: Mapping[str, int]) -> None:
        """Run the plan's steps in order; see `devices.Program`. Waits for them if any array is the host's."""
        with self._device.active():
            self._run(instance, arrays, scalars)

    def _run(self, instance: Instance, arrays: Sequence[Any], scalars: Mapping[str, int]) -> None:
        driver, buffers, stream = self._driver, instance.plan.buffers, self._device.stream
        offsets, total = _layout(instance, arrays)
        block = self._device.pool.take(total)  # goes back when this call returns
        pointers = [
            array.pointer if isinstance(array, DeviceArray)
            else block.pointer + offset if offset >= 0
            else self._constant(buffer.ref)
            for array, offset, buffer in zip(arrays, offsets, buffers, strict=True)
        ]  # fmt: skip
        hosted = [(i, a) for i, a in enumerate(arrays) if a is not None and not isinstance(a, DeviceArray) and a.nbytes]
        for index, array in hosted:
            if buffers[index].kind == "input":
                driver.copy_in(pointers[index], array.ctypes.data, array.nbytes, stream)
        recorder = recording.active()
        if recorder is not None:
            self._timed(instance, pointers, scalars, recorder)
        elif self._graphs is None or not self._as_graph(self._graphs, instance, pointers, scalars):
            for _, step in walk(instance.steps, lambda buffer: self._holds(instance, pointers[buffer])):
                self._step(step, pointers, scalars)
        if hosted or not any(isinstance(array, DeviceArray) for array in arrays):
            self._device.wait(self.origin(instance))
            for index, array in hosted:
                if index in instance.written:
                    driver.copy_out(array.ctypes.data, pointers[index], array.nbytes)
        else:
            self._device.queue(self.origin(instance))

    def origin(self, instance: Instance) -> str:
        """What a fault while waiting may come from: `f: kernel (file:line), ..`."""
        kernels = dict.fromkeys(
            _shown(self._target.kernels[step.kernel]) for step in instance.steps if isinstance(step, LaunchStep)
        )
        return f"{instance.plan.function}: {', '.join(kernels)}"

    def _step(self, step: LaunchStep | CopyStep, pointers: Sequence[int], scalars: Mapping[str, int]) -> None:
        node = self._node(step, pointers, scalars)
        stream = self._device.stream
        if isinstance(node, CopyNode):
            self._driver.copy(node.target, node.source, node.nbytes, stream)
            return
        assert isinstance(step, LaunchStep)
        try:
            self._driver.launch(node.function, node.grid, node.block, node.shared, node.slots, stream)
            if self._device.synchronous:
                self._driver.synchronize(stream)
        except DeviceError as error:
            # Of an earlier call that nobody has waited for, a fault may show only here.
            earlier = self._device.suspects()
            also = f"; or, queued before it, in {earlier}" if earlier and not self._device.synchronous else ""
            shown = _shown(self._target.kernels[step.kernel])
            raise DeviceError(error.code, f"{error.message}, launching kernel {shown}{also}") from error

    def _node(self, step: LaunchStep | CopyStep, pointers: Sequence[int], scalars: Mapping[str, int]) -> Node:
        """A step with its operands. E907 for what the device cannot launch."""
        if isinstance(step, CopyStep):
            return CopyNode(pointers[step.dst] + step.dst_at, pointers[step.src] + step.src_at, step.nbytes)
        kernel = self._target.kernels[step.kernel]
        if any(extent > limit for extent, limit in zip(step.grid, _MAX_GRID, strict=True)):
            raise DeviceError("E907", f"kernel {_shown(kernel)} needs a grid of {step.grid}, beyond {_MAX_GRID}")
        shared = step.dynamic_shared + kernel.shared_bytes
        if shared > self._device.shared_limit:
            raise DeviceError(
                "E907",
                f"kernel {_shown(kernel)} needs {shared} bytes of shared memory; "
                f"the device has {self._device.shared_limit}",
            )
        slots: tuple[int | bytes, ...] = tuple(
            pointers[value] if kind == "buffer" else (value & _MASK) if kind == "dim" else scalars[value]  # type: ignore[index,operator]
            for kind, value in step.args
        )
        slots += tuple(
            self._driver.tensor_map(entry.dtype, pointers[entry.buffer], entry.extents, entry.box, entry.span)
            for entry in step.maps
        )
        function = self._functions[step.kernel]
        with self._lock:
            if step.dynamic_shared > self._shared[step.kernel]:
                self._driver.allow_shared(function, step.dynamic_shared)
                self._shared[step.kernel] = step.dynamic_shared
        return KernelNode(function, step.grid, (kernel.group, 1, 1), step.dynamic_shared, slots)

    def _as_graph(
        self, graphs: Graphs, instance: Instance, pointers: Sequence[int], scalars: Mapping[str, int]
    ) -> bool:
        """Launch the call as a graph; False if its steps depend on values, which a graph cannot."""
        name = instance.plan.function
        if any(isinstance(step, (BranchStep, LoopStep)) for step in instance.steps):
            if graphs.capture.strict:
                raise DeviceError("E909", f"{name}: which steps run depends on values, so they are no CUDA graph",
                                  help="load the bundle without capture_graph='strict'")  # fmt: skip
            return False
        nodes = [self._node(step, pointers, scalars) for _, step in walk(instance.steps, lambda _: False)]
        if nodes:
            try:
                graphs.launch((name, instance.shapes, instance.steps), nodes, self._device.stream, name)
            except DeviceError as error:
                if error.code == "E909":
                    raise
                raise failed(error, self._device.suspects(self.origin(instance))) from error
        return True

    def _timed(
        self, instance: Instance, pointers: Sequence[int], scalars: Mapping[str, int], recorder: recording.Recorder
    ) -> None:
        """The same with the device's time of every step, for a profile."""
        driver, stream = self._driver, self._device.stream
        origin, first, ran = time.perf_counter_ns(), driver.event(), []
        driver.record(first, stream)
        events = [first]
        try:
            for number, step in walk(instance.steps, lambda buffer: self._holds(instance, pointers[buffer])):
                self._step(step, pointers, scalars)
                events.append(driver.event())
                driver.record(events[-1], stream)
                ran.append((number, step))
            self._device.wait(self.origin(instance))
            marks = [origin + round(driver.elapsed(first, event) * 1e9) for event in events]
        finally:
            for event in events:
                driver.free_event(event)
        for (number, step), start, stop in zip(ran, marks[:-1], marks[1:], strict=True):
            recorder.add(span(instance, self._target.kernels, number, step, start, stop, self._device.name))

    def _holds(self, instance: Instance, pointer: int) -> bool:
        """What a bool on the device is, once all steps before have run."""
        flag = ctypes.c_uint8()
        self._device.wait(self.origin(instance))
        self._driver.copy_out(ctypes.addressof(flag), pointer, 1)
        return flag.value != 0

    def _constant(self, name: str) -> int:
        """The device pointer of a constant, uploaded and verified when first used."""
        with self._lock:
            if name not in self._constants:
                import numpy as np

                data = np.frombuffer(self._file.constant(self._by_name[name]), dtype=np.uint8)
                size = max(data.nbytes, ALIGN)
                pointer = self._driver.allocate(size)
                try:
                    if data.nbytes:
                        self._driver.copy_in(pointer, data.ctypes.data, data.nbytes, self._device.stream)
                except DeviceError:
                    self._driver.free(pointer)
                    raise
                usage.add("device", size)
                self._constants[name] = pointer, size
            return self._constants[name][0]


def _layout(instance: Instance, arrays: Sequence[Any]) -> tuple[list[int], int]:
    """Offsets in one block of temporaries and of what comes from the host (-1: not in it), and its size."""
    end = -(-instance.arena // ALIGN) * ALIGN
    offsets: list[int] = []
    for buffer, nbytes, offset, array in zip(
        instance.plan.buffers, instance.nbytes, instance.offsets, arrays, strict=True
    ):
        if isinstance(array, DeviceArray):
            offsets.append(-1)
        elif buffer.kind in ("input", "output"):
            offsets.append(end)
            end += -(-nbytes // ALIGN) * ALIGN
        else:
            offsets.append(offset)
    return offsets, end


def _shown(kernel: Kernel) -> str:
    return kernel.name if kernel.source is None else f"{kernel.name} ({place(kernel)})"
